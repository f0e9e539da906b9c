"""Weight-free metrics: closed forms, known motions, and what each metric must and must not see."""

from __future__ import annotations

import math

import numpy as np
import pytest

from realdpo.train.evaluate import metrics


def moving_square(path, size=64, noise=0.0):
    """Grey frames [F, size, size] of a soft blob whose centre's x follows `path`."""
    y, x = np.mgrid[:size, :size]
    frames = [np.exp(-(((x - c) / 9) ** 2 + ((y - size / 2) / 9) ** 2)) for c in path]
    grey = np.stack(frames).astype(np.float32)
    return grey + np.random.default_rng(0).normal(0, noise, grey.shape).astype(np.float32)


def test_frame_difference_and_residual_closed_forms():
    ramp = np.linspace(0, 1, 5, dtype=np.float32)[:, None, None] * np.ones((1, 16, 16), np.float32)
    assert metrics.frame_difference(ramp) == pytest.approx(0.25)
    assert metrics.smoothness_residual(ramp) == pytest.approx(0.0, abs=1e-6)  # linear
    zigzag = np.array([0, 1, 0, 1, 0], np.float32)[:, None, None] * np.ones((1, 16, 16))
    assert metrics.smoothness_residual(zigzag) == pytest.approx(1.0)
    noise = np.random.default_rng(0).normal(size=(40, 32, 32))
    assert metrics.smoothness_residual(noise) == pytest.approx(math.sqrt(3) / 2, abs=0.01)
    assert math.isnan(metrics.smoothness_residual(np.zeros((5, 16, 16))))


def test_jitter_is_rougher_than_the_same_way_at_constant_speed():
    steady = np.linspace(16, 48, 17)
    jitter = steady + np.random.default_rng(1).normal(0, 2.0, 17)
    smooth, rough = moving_square(steady), moving_square(jitter)
    assert metrics.smoothness_residual(smooth) < 0.6 * metrics.smoothness_residual(rough)
    assert metrics.flow_jerk(smooth) < 0.5 * metrics.flow_jerk(rough)
    assert math.isnan(metrics.flow_jerk(moving_square(np.full(9, 32.0))))


def test_drift_of_sharpness_and_colour():
    rng = np.random.default_rng(2)
    sharp = rng.uniform(size=(1, 64, 64)).astype(np.float32)
    half = 0.5 + (sharp - 0.5) / 2  # half the contrast: half the Laplacian, one octave
    assert metrics.sharpness_drift(np.concatenate([sharp] * 3 + [half] * 3)) == pytest.approx(1.0)
    grey = np.full((12, 16, 16, 3), 128, np.uint8)
    assert metrics.colour_drift(grey) == 0
    changed = grey.copy()
    changed[-2:] = 255
    # Lab of grey 128 is L = 53.585, of white L = 100.
    assert metrics.colour_drift(changed) == pytest.approx(100 - 53.585, abs=0.01)


def test_psnr_and_ssim_closed_forms():
    rng = np.random.default_rng(3)
    picture = rng.integers(40, 200, (48, 64, 3), dtype=np.uint8)
    assert metrics.picture_psnr(picture, picture) == 100.0
    assert metrics.picture_psnr(picture, picture + 10) == pytest.approx(20 * math.log10(25.5))
    assert metrics.picture_ssim(picture, picture) == pytest.approx(1.0)
    # Flat pictures have no variance: only the luminance term is left.
    a, b = np.full((32, 32, 3), 100, np.uint8), np.full((32, 32, 3), 150, np.uint8)
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
    assert metrics.picture_ssim(a, b) == pytest.approx(expected, rel=1e-9)
    noisy = np.clip(picture + rng.normal(0, 25, picture.shape), 0, 255).astype(np.uint8)
    noisier = np.clip(picture + rng.normal(0, 60, picture.shape), 0, 255).astype(np.uint8)
    assert 1 > metrics.picture_ssim(picture, noisy) > metrics.picture_ssim(picture, noisier)


def test_ssim_equals_a_plain_loop_over_windows():
    rng = np.random.default_rng(4)
    a = rng.integers(0, 256, (16, 18), dtype=np.uint8)
    b = rng.integers(0, 256, (16, 18), dtype=np.uint8)
    axis = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(axis, axis) / axis.sum() ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for i in range(6):
        for j in range(8):
            x, y = (p[i : i + 11, j : j + 11].astype(float) for p in (a, b))
            mx, my = (window * x).sum(), (window * y).sum()
            vx, vy = (window * x * x).sum() - mx**2, (window * y * y).sum() - my**2
            cov = (window * x * y).sum() - mx * my
            top = (2 * mx * my + c1) * (2 * cov + c2)
            values.append(top / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    grey = [np.repeat(p[:, :, None], 3, axis=2) for p in (a, b)]
    assert metrics.picture_ssim(*grey) == pytest.approx(np.mean(values), abs=1e-9)


def test_real_footage_gives_finite_numbers_and_its_own_first_frame_back(bikes):
    from fractions import Fraction

    from realdpo.media import decode

    frames = np.stack(
        [
            f.rgb
            for f in decode.decode_frames(bikes, short_side=120, start=Fraction(0), end=Fraction(1))
        ]
    )
    numbers = metrics.video_metrics(frames, 25, first_frame=frames[0])
    assert set(numbers) <= set(metrics.BY_NAME)
    assert all(math.isfinite(v) for v in numbers.values())
    assert numbers["first.psnr"] == 100.0
    still = np.repeat(frames[:1], 25, axis=0)
    frozen = metrics.video_metrics(still, 25)
    assert frozen["motion.subject"] < 0.05 * numbers["motion.total"]
    assert frozen["frozen.share"] > 0.9 > 0.2 > numbers["frozen.share"]
    doubled = metrics.video_metrics(frames[np.arange(25) // 2], 25)
    assert doubled["time.repeats"] == pytest.approx(0.5, abs=0.05)
    assert numbers["time.repeats"] < 0.1
    with pytest.raises(ValueError, match="3 RGB frames"):
        metrics.video_metrics(frames[:2], 25)
