"""Which part of the picture a clip shows: over the people, else over what moves, without bars."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realdpo.curate import framing
from realdpo.curate.box import WHOLE, Box
from realdpo.curate.config import TARGETS, Target
from realdpo.curate.cut import fit_crop

SQUARE = Target(width=480, height=480)
WIDE = TARGETS["cogvideox"]


def test_without_a_target_size_the_clip_is_the_picture_without_bars() -> None:
    bars = {"box.top": 0.125, "box.bottom": 0.125, "box.left": 0.0, "box.right": 0.0}
    inside = framing.without_bars(bars, 1920, 1080)
    # 135 lines a bar, and the four that a line of the small picture may hide.
    assert inside.top * 1080 == pytest.approx(140)
    assert (inside.left, inside.right) == (0, 1)
    assert framing.frame_clip(inside, 1920, 1080, Target()) == inside
    assert framing.without_bars({"box.top": float("nan")}, 1920, 1080) == WHOLE


def test_without_people_and_motion_it_is_the_middle() -> None:
    crop = framing.frame_clip(WHOLE, 1920, 1080, SQUARE)
    assert (crop.left + crop.right) / 2 == pytest.approx(0.5)
    assert crop.width * 1920 == pytest.approx(1080)
    assert framing.frame_clip(WHOLE, 1920, 1080, SQUARE, moving=np.zeros((8, 8))) == crop


def test_it_goes_to_the_person_at_the_edge() -> None:
    person = Box(0.8, 0.2, 0.95, 1.0)
    crop = framing.frame_clip(WHOLE, 1920, 1080, SQUARE, [[person], [person]])
    assert crop.left <= 0.8 - 0.005
    assert crop.right >= 0.95 + 0.005
    # Also in the vertical: a person below the middle of a phone's picture.
    low = Box(0.2, 0.6, 0.8, 0.9)
    crop = framing.frame_clip(WHOLE, 1080, 1920, WIDE, [[low]])
    assert crop.top <= 0.6
    assert crop.bottom >= 0.9
    assert crop.width == 1


def test_of_two_people_who_do_not_both_fit_the_tall_one_is_whole() -> None:
    near, far = Box(0.05, 0.1, 0.25, 0.95), Box(0.85, 0.4, 0.92, 0.7)
    crop = framing.frame_clip(WHOLE, 1920, 1080, SQUARE, [[near, far]])
    assert crop.left <= 0.05
    # Both, where both fit.
    crop = framing.frame_clip(WHOLE, 1920, 1080, SQUARE, [[near, Box(0.4, 0.4, 0.5, 0.7)]])
    assert crop.left <= 0.05
    assert crop.right >= 0.5


def test_of_a_person_too_tall_for_the_crop_the_head_is_kept() -> None:
    crop = framing.frame_clip(WHOLE, 1080, 1920, WIDE, [[Box(0.3, 0.15, 0.7, 0.95)]])
    assert crop.top <= 0.15
    assert crop.bottom > 0.4


def test_without_people_it_goes_to_what_moves() -> None:
    moving = np.zeros((8, 8))
    moving[3:5, 6] = 0.4
    crop = framing.frame_clip(WHOLE, 1920, 1080, SQUARE, moving=moving)
    assert crop.left < 6 / 8
    assert crop.right > 7 / 8
    # The same motion is a larger share of a smaller picture.
    assert framing.moving_share(crop, moving, 0.0125) == pytest.approx(0.0125 / crop.area)
    away = Box(0.0, 0.0, 0.5, 1.0)
    assert framing.moving_share(away, moving, 0.0125) == 0


def test_a_place_that_shows_all_is_not_left_for_its_edge() -> None:
    """The person fits in many places; the clip is not put where one step more would cut them."""
    crop = framing.frame_clip(WHOLE, 1920, 1080, SQUARE, [[Box(0.7, 0.2, 0.8, 0.9)]])
    assert 0.7 - crop.left > 0.05
    assert crop.right - 0.8 > 0.05 or crop.right == pytest.approx(1)


shares = st.floats(0, 0.3)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(64, 4000),
    st.integers(64, 4000),
    st.sampled_from([t for t in TARGETS.values() if t.width]),
    shares,
    shares,
    st.floats(0, 0.9),
    st.floats(0, 0.9),
)
def test_a_crop_is_of_the_targets_shape_and_inside(
    width: int, height: int, target: Target, top: float, left: float, x: float, y: float
) -> None:
    picture = Box(left, top, 1.0, 1.0)
    crop = framing.frame_clip(picture, width, height, target, [[Box(x, y, x + 0.1, y + 0.1)]])
    assert crop.left >= picture.left - 1e-9
    assert crop.top >= picture.top - 1e-9
    assert max(crop.right, crop.bottom) <= 1 + 1e-9
    ratio = crop.width * width / (crop.height * height)
    assert ratio == pytest.approx(target.width / target.height)
    (wide, high), (at_x, at_y, across, down) = fit_crop(width, height, target, crop)
    assert (across, down) == (target.width, target.height)
    assert 0 <= at_x <= wide - across
    assert 0 <= at_y <= high - down
    # To the pixel where it was wanted.
    assert abs(at_x / wide - crop.left) * wide <= 1.5
    assert abs(at_y / high - crop.top) * high <= 1.5
