"""Both sides come out in one form: what is cut, what is refused, and what never changes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from realdpo.media.decode import read_clip
from realdpo.pairs import conform
from realdpo.pairs.conform import Form, Unfit


def numbered(count: int, height: int = 8, width: int = 8) -> np.ndarray:
    """Frame k is all k."""
    return np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, height, width, 3)
    ).copy()


@pytest.mark.parametrize(
    ("count", "fps", "wanted", "expected"),
    [
        (6, 8, 8, [0, 1, 2, 3, 4, 5]),
        (6, 24, 8, [0, 3]),
        (10, 25, 8, [0, 3, 6, 9]),  # shown at 0, 0.125, 0.25, 0.375 s
        (5, Fraction(24000, 1001), 24, [0, 1, 2, 3, 4]),
        (5, Fraction(30000, 1001), 15, [0, 2, 4]),  # frame 2 comes 0.07 ms after 1/15 s
    ],
)
def test_frames_are_those_on_screen(count, fps, wanted, expected) -> None:
    assert conform.frames_at(count, Fraction(fps), Fraction(wanted)) == expected


def test_frames_are_never_repeated_to_fill_a_rate() -> None:
    with pytest.raises(Unfit, match="fewer than"):
        conform.frames_at(10, Fraction(8), Fraction(16))


def test_tails_are_cut_and_never_padded() -> None:
    form = Form(8, 8, 5, Fraction(8))
    assert conform.conform_real(numbered(9), Fraction(8), form)[:, 0, 0, 0].tolist() == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert len(conform.conform_generated(numbered(7), form)) == 5
    with pytest.raises(Unfit, match="4 frames"):
        conform.conform_real(numbered(4), Fraction(8), form)
    with pytest.raises(Unfit):
        conform.conform_generated(numbered(4), form)


@pytest.mark.parametrize(
    ("size", "to", "expected"),
    [
        ((640, 272), (64, 64), (184, 0, 272, 272)),
        ((100, 400), (50, 50), (0, 150, 100, 100)),
        ((720, 480), (720, 480), (0, 0, 720, 480)),
    ],
)
def test_the_crop_is_centred_and_as_large_as_it_can_be(size, to, expected) -> None:
    assert conform.centred_crop(*size, *to) == expected


def test_a_small_clip_is_not_scaled_up() -> None:
    with pytest.raises(Unfit, match="smaller"):
        conform.conform_real(numbered(9, 8, 8), Fraction(8), Form(16, 16, 9, Fraction(8)))


def test_two_videos_that_begin_alike_decode_to_the_same_first_frame(bikes) -> None:
    from pair_workspace import footage

    form = Form(64, 64, 9, Fraction(8))
    win = footage(bikes, 0, 9, (64, 64), 8)
    lose = np.random.default_rng(0).integers(0, 255, win.shape, dtype=np.uint8)
    image = win[0]
    sides = [conform.encode_side(conform.with_first_frame(v, image), form, 12) for v in (win, lose)]
    first = [read_clip(side)[0][0] for side in sides]
    assert np.array_equal(first[0], first[1])
    assert lose[0].tolist() != image.tolist()  # the caller's array is left as it was


def test_the_same_frames_give_the_same_bytes() -> None:
    form = Form(8, 8, 5, Fraction(8))
    assert conform.encode_side(numbered(5), form, 12) == conform.encode_side(numbered(5), form, 12)
