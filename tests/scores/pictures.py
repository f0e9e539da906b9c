"""Clips with known answers, drawn from a band-limited texture by exact resampling."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Clip = npt.NDArray[np.uint8]


def texture(size: int = 1024, seed: int = 0) -> Clip:
    """Clouds of several sizes, as photographs have them: [size, size, 3]."""
    rng = np.random.default_rng(seed)
    total = np.zeros((size, size, 3), np.float32)
    for cells in (8, 16, 32, 64, 128):
        patch = rng.standard_normal((cells, cells, 3)).astype(np.float32)
        total += cv2.resize(patch, (size, size), interpolation=cv2.INTER_CUBIC) * cells**-0.5
    low, high = np.quantile(total, [0.01, 0.99])
    return np.clip((total - low) / (high - low) * 210 + 20, 0, 255).astype(np.uint8)


def camera_clip(
    *,
    seconds: float = 2.0,
    fps: float = 24,
    height: int = 240,
    width: int = 320,
    pan: tuple[float, float] = (0.0, 0.0),
    zoom: float = 0.0,
    square: tuple[float, float, float] | None = None,
    seed: int = 0,
) -> Clip:
    """A camera over a texture, and a square of another texture moving in the picture.

    pan: camera speed right and down, picture heights a second. zoom: log scale a second.
    square: (side in heights, speed right, speed down in heights a second).
    """
    back, front = texture(seed=seed), texture(seed=seed + 1)
    frames = []
    for index in range(round(seconds * fps)):
        time = index / fps
        scale = 480 / height * np.exp(-zoom * time)
        x = 512 + pan[0] * time * 480
        y = 512 + pan[1] * time * 480
        take = np.array(
            [[scale, 0, x - scale * (width - 1) / 2], [0, scale, y - scale * (height - 1) / 2]]
        )
        frame = _sample(back, take, width, height)
        if square is not None:
            side, right, down = square
            pixels = side * height
            left = (0.5 - side / 2 + right * (time - seconds / 2)) * height + (width - height) / 2
            top = (0.5 - side / 2 + down * (time - seconds / 2)) * height
            unit = 480 / height
            take = np.array([[unit, 0, 100 - unit * left], [0, unit, 100 - unit * top]])
            patch = _sample(front, take, width, height)
            ys, xs = np.mgrid[:height, :width]
            inside = (xs >= left) & (xs < left + pixels) & (ys >= top) & (ys < top + pixels)
            frame = np.where(inside[..., None], patch, frame)
        frames.append(frame)
    return np.stack(frames)


def _sample(picture: Clip, take: npt.NDArray[np.float64], width: int, height: int) -> Clip:
    # Drawn at three times the size and averaged: no aliasing, so no motion that is not there.
    large = take @ np.array([[1 / 3, 0, -1 / 3], [0, 1 / 3, -1 / 3], [0, 0, 1]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    drawn = cv2.warpAffine(
        picture, large, (width * 3, height * 3), flags=flags, borderMode=cv2.BORDER_REFLECT
    )
    return cv2.resize(drawn, (width, height), interpolation=cv2.INTER_AREA)
