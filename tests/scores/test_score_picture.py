"""Light, repeats, borders and detail on pictures made to have them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from pictures import camera_clip, texture

from realdpo.curate.scores import (
    NAMES,
    StreamScores,
    detail,
    light,
    repeats,
    score_frames,
    summarise_span,
)


def gray(value: int, frames: int = 12) -> np.ndarray:
    return np.full((frames, 72, 128, 3), value, np.uint8)


def moving(seconds: float = 1.0, fps: float = 24) -> np.ndarray:
    return camera_clip(seconds=seconds, fps=fps, height=96, width=128, pan=(0.5, 0))


def test_every_name_is_in_every_summary() -> None:
    assert set(score_frames(gray(9, 1), 8)) == set(NAMES) == set(score_frames(moving(), 24))
    assert np.isnan(score_frames(gray(9, 1), 8)["motion.total"])


def test_gray_has_its_luma_and_no_contrast() -> None:
    found = score_frames(gray(100), 12)
    assert found["luma.mean"] == pytest.approx(100, abs=0.6)
    assert found["luma.contrast"] == pytest.approx(0, abs=0.01)


def test_half_white_half_black_by_hand() -> None:
    clip = gray(0)
    clip[:, :, :64] = 255
    found = score_frames(clip, 12)
    # Mean of 0 and 255 is 127.5, and so is their distance from it.
    assert found["luma.mean"] == pytest.approx(127.5, abs=0.5)
    assert found["luma.contrast"] == pytest.approx(127.5, abs=0.5)
    assert found["luma.highlights"] == found["luma.shadows"] == 0.5


def test_black_frames_are_counted() -> None:
    clip = np.concatenate([gray(3, 6), gray(120, 18)])
    assert score_frames(clip, 24)["black.share"] == 0.25
    assert np.isnan(score_frames(gray(0), 12)["box.share"])


def test_flashes_by_hand() -> None:
    time = np.arange(30) / 30
    luma = np.full(30, 50.0)
    luma[[5, 15, 25]] = 200
    assert light.count_flashes(time, luma) == 3
    assert light.count_flashes(time, np.linspace(0, 255, 30)) == 0  # a fade is no flash
    luma = 50 + 20.0 * (np.arange(30) % 2)  # under a tenth of the range
    assert light.count_flashes(time, luma) == 0
    assert light.measure_flicker(time, luma) == pytest.approx(10, rel=0.15)


def test_a_fade_flickers_little() -> None:
    time = np.arange(60) / 30
    assert light.measure_flicker(time, np.linspace(50, 150, 60)) < 1.5


@pytest.mark.parametrize(("every", "rate"), [(2, 12.0), (3, 8.0)])
def test_repeated_frames_lower_the_true_rate(every: int, rate: float) -> None:
    clip = np.repeat(moving(seconds=2.0, fps=rate), every, axis=0)
    found = score_frames(clip, 24)
    assert found["time.nominal_fps"] == pytest.approx(24)
    assert found["time.fps"] == pytest.approx(rate, rel=0.06)
    assert found["time.repeats"] == pytest.approx(1 - 1 / every, abs=0.05)
    assert found["frozen.share"] == 0


def test_a_freeze_is_no_repeat() -> None:
    clip = moving(seconds=2.0)
    clip[12:36] = clip[12]
    found = score_frames(clip, 24)
    assert found["frozen.share"] == pytest.approx(23 / 47, abs=0.03)
    assert found["frozen.longest"] == pytest.approx(23 / 24, abs=0.05)
    assert found["time.repeats"] == 0


def test_slow_motion_at_a_high_rate_is_not_taken_for_repeats() -> None:
    clip = camera_clip(seconds=1.0, fps=60, height=96, width=128, pan=(0.1, 0))
    assert score_frames(clip, 60)["time.repeats"] == 0


def test_a_hole_in_time_is_seen() -> None:
    stream = StreamScores(72, 128)
    for time in (0.0, 0.1, 0.2, 1.2, 1.3):
        stream.feed(time, texture(128, int(time * 10))[:72])
    assert summarise_span(stream.table(), 0, 2)["time.gap"] == pytest.approx(1.0)


def test_a_span_knows_nothing_of_its_neighbours() -> None:
    one, other = moving(), np.concatenate([gray(0, 24)[:, :, :, :]])
    stream = StreamScores(96, 128)
    for index, frame in enumerate([*one, *(cv2.resize(f, (128, 96)) for f in other)]):
        stream.feed(index / 24, frame)
    alone, before_cut = score_frames(one, 24), summarise_span(stream.table(), 0.0, 1.0)
    assert before_cut["motion.total"] == pytest.approx(alone["motion.total"])
    assert before_cut["black.share"] == 0
    assert summarise_span(stream.table(), 1.0, 2.0)["black.share"] == 1
    assert np.isnan(summarise_span(stream.table(), 5.0, 6.0)["luma.mean"])


@pytest.mark.parametrize("bars", [(0.125, 0.125, 0, 0), (0, 0, 0.25, 0.25), (0.1, 0.2, 0, 0)])
def test_bars_are_measured(bars: tuple[float, float, float, float]) -> None:
    clip = camera_clip(seconds=0.5, height=160, width=200, pan=(0.3, 0))
    top, bottom, left, right = (
        round(b * n) for b, n in zip(bars, (160, 160, 200, 200), strict=True)
    )
    clip[:, :top] = clip[:, 160 - bottom :] = 0
    clip[:, :, :left] = clip[:, :, 200 - right :] = 0
    found = score_frames(clip, 24)
    for name, share in zip(("top", "bottom", "left", "right"), bars, strict=True):
        assert found[f"box.{name}"] == pytest.approx(share, abs=0.015)
    assert score_frames(camera_clip(seconds=0.5), 24)["box.share"] == 0


def test_blur_lowers_sharpness_and_contrast_does_not() -> None:
    picture = texture(360)[..., 0]
    sharp = np.clip(
        picture.astype(int) + np.random.default_rng(0).normal(0, 9, picture.shape), 0, 255
    )
    sharp = sharp.astype(np.uint8)
    values = [
        detail.measure_sharpness(cv2.GaussianBlur(sharp, (0, 0), s) if s else sharp)
        for s in (0, 1, 3, 6)
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.6 > 0.3 > values[-1]
    faint = (sharp // 2 + 60).astype(np.uint8)
    assert detail.measure_sharpness(faint) == pytest.approx(values[0], abs=0.05)
    assert detail.measure_sharpness(np.full((90, 90), 7, np.uint8)) == 0


@pytest.mark.parametrize("sigma", [1.0, 4.0, 10.0])
def test_noise_is_measured_where_the_picture_is_flat(sigma: float) -> None:
    flat = np.full((256, 256), 120.0)
    flat[:, 128:] = cv2.resize(texture(64)[..., 0], (128, 256))  # half of it textured
    noisy = flat + np.random.default_rng(0).normal(0, sigma, flat.shape)
    assert detail.measure_noise(np.clip(noisy, 0, 255).astype(np.uint8)) == pytest.approx(
        sigma, rel=0.25
    )


def test_codec_blocks_are_seen() -> None:
    picture = texture(256)[..., 0]
    blocks = cv2.resize(
        cv2.resize(picture, (32, 32), interpolation=cv2.INTER_AREA),
        (256, 256),
        interpolation=cv2.INTER_NEAREST,
    )
    assert detail.measure_blocking(blocks) > 2
    assert detail.measure_blocking(texture(300)[..., 0]) < 0.2  # no scale of it divides 8


def test_woven_fields_comb_and_frames_do_not() -> None:
    first, second = (cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in moving(fps=8)[:2])
    woven = first.copy()
    woven[1::2] = second[1::2]
    assert detail.measure_combing(woven) > 0.01
    assert detail.measure_combing(first) < 0.002


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        StreamScores(10, 20).feed(0.0, np.zeros((20, 10, 3), np.uint8))
    with pytest.raises(ValueError, match="not a clip"):
        score_frames(np.zeros((3, 4, 5), np.uint8), 8)


def test_runs_by_hand() -> None:
    assert repeats._runs(np.array([True, False, True, True])) == [(0, 1), (2, 4)]


@pytest.mark.slow
def test_real_street_footage_is_ordinary(bikes: Path) -> None:
    """The numbers of real footage lie where ordinary footage lies, and do so every time."""
    from realdpo.media.decode import decode_frames

    taken = [(float(f.time), f.rgb) for f in decode_frames(bikes, size=(256, 109), end=3)]
    results = []
    for _ in range(2):
        stream = StreamScores(109, 256)
        for time, rgb in taken:
            stream.feed(time, rgb)
        results.append(summarise_span(stream.table(), 0, 3))
    assert results[0] == results[1]
    found = results[0]
    assert 40 < found["luma.mean"] < 200
    assert found["time.fps"] == pytest.approx(25, abs=1)
    assert found["black.share"] == found["frozen.share"] == found["box.share"] == 0
    assert found["motion.subject"] > 0.04
