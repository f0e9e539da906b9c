"""What can be counted on a finished video file that says nothing of how things move in it.

Each number has a group (how the difference would have come about), a unit to read it in, and a
tolerance: the difference between two sides that is too small to teach a model anything.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Feature:
    """more, less: how a report says that a side has more or less of it."""

    group: str
    more: str
    less: str
    unit: str
    tolerance: float


# Tolerances: 2 of 255 code values is below what 8-bit video at crf 12 keeps; 5 % of a ratio
# (0.05 in natural logarithm) is the spread of sharpness and size between encodes of one take.
FEATURES = {
    "red": Feature("levels", "redder", "less red", "of 255", 2.0),
    "green": Feature("levels", "greener", "less green", "of 255", 2.0),
    "blue": Feature("levels", "bluer", "less blue", "of 255", 2.0),
    "contrast": Feature("levels", "of higher contrast", "of lower contrast", "of 255", 2.0),
    "saturation": Feature("levels", "more colourful", "less colourful", "of 255", 2.0),
    "dark": Feature("levels", "brighter in the shadows", "darker in the shadows", "of 255", 3.0),
    "bright": Feature("levels", "brighter in the lights", "darker in the lights", "of 255", 3.0),
    "noise": Feature("encoding", "noisier", "less noisy", "of 255", 0.25),
    "blocks": Feature("encoding", "blockier", "less blocky", "of 255", 0.25),
    "key_frames": Feature("encoding", "cut into more key frames", "with fewer key frames", "", 1),
    "b_frames": Feature("encoding", "richer in B-frames", "poorer in B-frames", "share", 0.15),
    "size": Feature(
        "encoding",
        "larger files for what they show",
        "smaller files for what they show",
        "log",
        0.15,
    ),
    "frozen_tail": Feature(
        "time", "frozen at the end for longer", "frozen at the end for less", "frames", 1.0
    ),
    "sharpness": Feature("detail", "sharper", "softer", "log", 0.05),
}
"""The numbers by which the sides should not be told apart."""

MOTION = {
    "motion": Feature("motion", "moving more", "moving less", "log", 0.0),
}
"""The numbers in which the sides are meant to differ."""

RAW_SIZE = "file_bytes"
FROZEN = 0.25  # mean difference of two frames, of 255, below which nothing has moved


def measure(data: bytes) -> dict[str, float]:
    """The numbers of one video file, by name; `size` waits for `explain_size`.

    Raises MediaError when it cannot be decoded.
    """
    import numpy as np

    from realdpo.media.decode import read_clip

    video, _ = read_clip(data)
    keys, b_share = _structure(data)
    found = {**pixels(video), "key_frames": float(keys), "b_frames": b_share}
    frames, height, width = video.shape[:3]
    return {
        **{name: float(value) for name, value in found.items()},
        RAW_SIZE: float(len(data)),
        "size": float(np.log(len(data) * 8 / (frames * height * width))),
    }


def pixels(video: npt.NDArray[np.uint8]) -> dict[str, float]:
    """The numbers that come from the frames [F, H, W, 3] alone."""
    import cv2
    import numpy as np

    chosen = video[:: max(1, len(video) // 16)]  # enough for means; motion needs every frame
    means = chosen.reshape(-1, 3).mean(axis=0)
    luma = np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in chosen]).astype(np.float32)
    spread = chosen.max(axis=3).astype(np.float32) - chosen.min(axis=3)
    low, high = np.quantile(luma, [0.01, 0.99])
    laplacian = np.stack([np.abs(cv2.Laplacian(f, cv2.CV_32F)).mean() for f in luma])
    every = video[:, ::2, ::2].astype(np.int16)
    moves = np.abs(np.diff(every, axis=0)).mean(axis=(1, 2, 3)) if len(video) > 1 else np.zeros(1)
    still = moves < FROZEN
    tail = len(still) if still.all() else int(np.argmin(still[::-1]))
    return {
        "red": means[0],
        "green": means[1],
        "blue": means[2],
        "contrast": luma.std(axis=(1, 2)).mean(),
        "saturation": spread.mean(),
        "dark": low,
        "bright": high,
        "noise": float(np.mean([noise_level(f) for f in luma])),
        "blocks": blockiness(luma),
        "frozen_tail": float(tail),
        "sharpness": np.log(laplacian.mean() + 0.1),
        "motion": np.log(moves.mean() + 0.1),
    }


def noise_level(luma: npt.NDArray[np.float32]) -> float:
    """Standard deviation of the noise in a picture [H, W] (Immerkaer 1996), of 255."""
    import cv2
    import numpy as np

    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float32)
    response = np.abs(cv2.filter2D(luma, cv2.CV_32F, kernel))[1:-1, 1:-1]
    # the median instead of the mean: edges answer to the kernel too, but not in most pixels
    return float(np.median(response) / 6 / 0.6745)


def blockiness(luma: npt.NDArray[np.float32]) -> float:
    """Steps across the 8-pixel grid beyond those between, in pictures [F, H, W], of 255."""
    import numpy as np

    across = np.abs(np.diff(luma, axis=2)).mean(axis=(0, 1))
    down = np.abs(np.diff(luma, axis=1)).mean(axis=(0, 2))
    total = 0.0
    for steps in (across, down):
        on = np.arange(len(steps)) % 8 == 7
        total += float(steps[on].mean() - steps[~on].mean()) if on.any() else 0.0
    return total / 2


def _structure(data: bytes) -> tuple[int, float]:
    """Number of key frames, and the share of B-frames, of an MP4."""
    import av
    from av.video.frame import PictureType

    with av.open(io.BytesIO(data)) as container:
        keys = sum(p.is_keyframe for p in container.demux(video=0) if p.size)
    with av.open(io.BytesIO(data)) as container:
        kinds = [frame.pict_type for frame in container.decode(video=0)]
    return keys, sum(kind == PictureType.B for kind in kinds) / max(1, len(kinds))
