"""Motion of drawn clips whose motion is known, at any frame rate and size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import camera_clip, texture

from realdpo.curate.scores import motion, score_frames


def scores(fps: float = 24, **drawn) -> dict[str, float]:
    return score_frames(camera_clip(fps=fps, seconds=1.0, **drawn), fps)


def test_a_still_picture_has_no_motion() -> None:
    found = scores()
    assert found["motion.total"] == found["motion.subject"] == found["motion.shake"] == 0
    assert found["frozen.share"] == pytest.approx(1)


@pytest.mark.parametrize("speed", [0.05, 0.3, 1.0, 2.5])
def test_a_pan_is_the_cameras_and_not_the_subjects(speed: float) -> None:
    found = scores(pan=(speed, 0))
    assert found["motion.camera"] == pytest.approx(speed, rel=0.06)
    assert found["motion.pan_x"] == pytest.approx(speed, rel=0.06)
    assert found["motion.pan_y"] == pytest.approx(0, abs=0.02)
    assert found["motion.subject"] == 0


def test_down_and_left_have_their_signs() -> None:
    found = scores(pan=(-0.2, 0.4))
    assert found["motion.pan_x"] == pytest.approx(-0.2, abs=0.02)
    assert found["motion.pan_y"] == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize("rate", [-0.3, 0.3])
def test_zoom_is_the_log_of_scale_a_second(rate: float) -> None:
    found = scores(zoom=rate)
    assert found["motion.zoom"] == pytest.approx(rate, rel=0.02)
    assert found["motion.subject"] == 0


def test_a_moving_square_is_the_subject() -> None:
    found = scores(square=(0.35, 0.4, 0))
    assert found["motion.subject"] == pytest.approx(0.4, rel=0.12)
    # Its area is 0.35 heights squared of a picture 4/3 heights wide.
    assert found["motion.subject_share"] == pytest.approx(0.35**2 * 3 / 4, rel=0.5)
    assert found["motion.camera"] < 0.02
    assert found["motion.smoothness"] > 0.9


def test_a_square_under_a_moving_camera_moves_against_the_background() -> None:
    # It goes right at 0.3 in the picture; the pan moves the background left at 0.2.
    found = scores(square=(0.35, 0.3, 0), pan=(0.2, 0))
    assert found["motion.camera"] == pytest.approx(0.2, rel=0.1)
    assert found["motion.subject"] == pytest.approx(0.5, rel=0.15)


@pytest.mark.parametrize("fps", [8, 12, 25, 60])
def test_speeds_do_not_depend_on_the_frame_rate(fps: float) -> None:
    drawn = {"square": (0.35, 0.4, 0.0), "pan": (0.1, 0.0)}
    one, other = scores(24, **drawn), scores(fps, **drawn)
    for name in ("motion.camera", "motion.subject", "motion.total"):
        assert other[name] == pytest.approx(one[name], rel=0.12, abs=0.01), name


@pytest.mark.parametrize(("height", "width"), [(144, 192), (480, 640)])
def test_speeds_do_not_depend_on_the_size(height: int, width: int) -> None:
    drawn = {"square": (0.35, 0.4, 0.0), "pan": (0.1, 0.0)}
    one, other = scores(**drawn), scores(height=height, width=width, **drawn)
    for name in ("motion.camera", "motion.subject", "motion.total"):
        assert other[name] == pytest.approx(one[name], rel=0.15, abs=0.01), name


def test_a_patch_on_a_plain_wall_may_be_either() -> None:
    """All that can be seen moves as one: a thing before a wall, or a camera that turns."""
    wall = np.full((144, 192, 3), 128, np.uint8)
    patch = texture(64)
    frames = []
    for index in range(12):
        frame = wall.copy()
        frame[40:104, 40 + 3 * index : 104 + 3 * index] = patch
        frames.append(frame)
    found = score_frames(np.stack(frames), 12)
    assert found["motion.camera_confidence"] == 0
    assert np.isnan([found[f"motion.{name}"] for name in ("camera", "subject", "pan_x")]).all()
    assert found["motion.total"] > 0
    # A skirting board and a door frame are enough to tell.
    for frame in frames:
        frame[134:138] = 90
        frame[:, 8:12] = 90
        frame[10:14, 150:] = 90
    found = score_frames(np.stack(frames), 12)
    assert found["motion.camera_confidence"] == 1
    assert found["motion.camera"] < 0.02
    assert found["motion.subject"] == pytest.approx(3 * 12 / 144, rel=0.1)


def test_a_pan_over_faint_soft_texture_is_no_subject() -> None:
    """Clouds of a contrast of 11 levels, blurred over six pixels; once read as all subject."""
    rng = np.random.default_rng(0)
    clouds = cv2.GaussianBlur(rng.normal(0, 1, (600, 1600, 3)).astype(np.float32), (0, 0), 6)
    big = np.clip(128 + 17 * clouds / clouds.std(), 0, 255).astype(np.uint8)
    moves = [np.array([[1, 0, -100 - 80 * k / 12], [0, 1, -200.0]]) for k in range(14)]
    found = score_frames(np.stack([cv2.warpAffine(big, move, (256, 144)) for move in moves]), 12)
    assert found["motion.camera"] == pytest.approx(80 / 144, rel=0.02)
    assert found["motion.subject"] == 0


def test_two_halves_that_pass_at_two_speeds_are_ambiguous() -> None:
    """Parallax: which of them the camera follows cannot be told, nor whether one is a subject."""
    near, far = (camera_clip(seconds=1.0, pan=(speed, 0), seed=3) for speed in (0.8, 0.3))
    half = near.shape[1] // 2
    found = score_frames(np.concatenate([far[:, :half], near[:, half:]], axis=1), 24)
    assert found["motion.camera_confidence"] < 0.5


def test_bars_that_stand_still_are_no_camera_at_rest() -> None:
    clip = camera_clip(seconds=1.0, pan=(0.3, 0))
    clip[:, :36] = clip[:, -36:] = 0
    found = score_frames(clip, 24)
    assert found["motion.pan_x"] == pytest.approx(0.3, rel=0.03)
    assert found["motion.subject"] == 0


def test_shake_is_what_is_not_steady() -> None:
    rng = np.random.default_rng(0)
    still = camera_clip(seconds=1 / 24)[0]
    shaken = [np.roll(still, tuple(rng.integers(-6, 7, 2)), (0, 1)) for _ in range(24)]
    assert score_frames(np.stack(shaken), 12)["motion.shake"] > 0.15
    assert scores(pan=(1.0, 0))["motion.shake"] < 0.02


def test_noise_and_brightness_are_no_motion() -> None:
    rng = np.random.default_rng(0)
    still = camera_clip(seconds=1 / 24)[0].astype(np.float32)
    frames = [
        np.clip(still * (1 + 0.05 * np.sin(i)) + rng.normal(0, 3, still.shape), 0, 255)
        for i in range(16)
    ]
    found = score_frames(np.stack(frames).astype(np.uint8), 16)
    assert found["motion.camera"] < 0.02
    assert found["motion.subject_share"] < 0.01


def test_pictures_that_do_not_follow_from_each_other_stay_unexplained() -> None:
    clip = np.stack([texture(160, seed) for seed in range(8)])
    assert score_frames(clip, 8)["motion.unexplained"] > 0.5
    assert scores(pan=(0.3, 0))["motion.unexplained"] < 0.1


def test_smoothness_by_hand() -> None:
    assert motion.motion_smoothness(np.array([2.0, 2.0, 2.0])) == 1
    assert motion.motion_smoothness(np.array([1.0, 0.0, 1.0])) == 0
    # |3 - 1| / (3 + 1) = 1/2
    assert motion.motion_smoothness(np.array([1.0, 3.0])) == pytest.approx(0.5)
    assert np.isnan(motion.motion_smoothness(np.zeros(3)))


def test_ramp_by_hand() -> None:
    seconds = np.full(40, 1 / 8)
    speeds = np.where(np.arange(40) < 20, 0.1, 0.8)  # three octaves
    assert motion.speed_ramp(speeds, seconds) == pytest.approx(3, abs=0.2)
    assert motion.speed_ramp(np.full(40, 0.5), seconds) == pytest.approx(0)


@settings(max_examples=8, deadline=None)
@given(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6))
def test_any_pan_between_two_pictures_is_found(right: float, down: float) -> None:
    two = camera_clip(seconds=2 / 8, fps=8, pan=(right, down), height=144, width=192)
    before, after = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in two)
    found = motion.measure_motion(before, after, 1 / 8)
    assert found["pan_x"] == pytest.approx(right, abs=0.04)
    assert found["pan_y"] == pytest.approx(down, abs=0.04)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 40), st.integers(2, 40))
def test_no_picture_breaks_it(seed: int, height: int, width: int) -> None:
    clip = np.random.default_rng(seed).integers(0, 256, (4, height, width, 3), np.uint8)
    found = score_frames(clip, 8)
    assert all(
        value >= 0 or np.isnan(value) or "pan" in name or "zoom" in name or "roll" in name
        for name, value in found.items()
    )
