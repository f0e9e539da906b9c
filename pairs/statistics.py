"""What can be counted on a finished video file that says nothing of how things move in it.

Each number has a group (how a difference would have come about), words to report it in, and a
tolerance: the difference between two sides that is too small to teach a model anything.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Feature:
    """more, less: how a report says that a side has more or less of it. unit: to read it in."""

    group: str
    more: str
    less: str
    unit: str
    tolerance: float


_LEVELS = "levels"
_ENCODING = "encoding"
# Tolerances: 2 of 255 code values is what 8-bit video at crf 12 may lose by itself; 5 % of a
# ratio (0.05 in natural logarithm) is the spread of sharpness between encodes of one take.
_PICTURE = {
    "red": Feature(_LEVELS, "redder", "less red", "of 255", 2.0),
    "green": Feature(_LEVELS, "greener", "less green", "of 255", 2.0),
    "blue": Feature(_LEVELS, "bluer", "less blue", "of 255", 2.0),
    "contrast": Feature(_LEVELS, "of higher contrast", "of lower contrast", "of 255", 2.0),
    "saturation": Feature(_LEVELS, "more colourful", "less colourful", "of 255", 2.0),
    "dark": Feature(_LEVELS, "brighter in the shadows", "darker in the shadows", "of 255", 3.0),
    "bright": Feature(_LEVELS, "brighter in the lights", "darker in the lights", "of 255", 3.0),
    "noise": Feature("detail", "noisier", "less noisy", "of 255", 0.5),
    "blocks": Feature("detail", "blockier", "less blocky", "of 255", 0.5),
    "sharpness": Feature("detail", "sharper", "softer", "log", 0.05),
}

FILE = {
    "key_frames": Feature(_ENCODING, "cut into more key frames", "of fewer key frames", "", 0.5),
    "b_frames": Feature(_ENCODING, "richer in B-frames", "poorer in B-frames", "share", 0.02),
    "frozen_tail": Feature(
        "time", "frozen longer at the end", "less frozen at the end", "frames", 1.0
    ),
}
"""Of the file as a whole; with the pairs' own encoder these are the same for every video."""

FIRST = {
    f"first_{name}": Feature(
        f.group, f"{f.more} in the first frame", f"{f.less} in the first frame", f.unit, f.tolerance
    )
    for name, f in _PICTURE.items()
} | {
    "first_size": Feature(
        _ENCODING,
        "larger in the first frame's bytes",
        "smaller in the first frame's bytes",
        "log",
        0.05,
    )
}
"""Of the first frame, which in image-to-video is the same picture on both sides, whatever the
model did afterwards: here a difference can only have come from how the sides were prepared."""

WHOLE = _PICTURE | {
    "size": Feature(
        _ENCODING,
        "larger files for what they show",
        "smaller files for what they show",
        "log",
        0.15,
    )
}
"""Of all frames: prepared differently, or drawn differently by the model."""

FEATURES = FILE | FIRST | WHOLE

MOTION = {"motion": Feature("motion", "moving more", "moving less", "log", 0.0)}
"""In which the sides are meant to differ."""

GRID = tuple(f"grid_{k}" for k in range(16))
"""Mean brightness of the first frame in 4 by 4 fields: how far two first frames lie apart."""

FROZEN = 0.25  # mean difference of two frames, of 255, below which nothing has moved


def measure(data: bytes) -> dict[str, float]:
    """The numbers of one video file, by name. Raises MediaError when it cannot be decoded."""
    import numpy as np

    from realdpo.media.decode import read_clip

    video, _ = read_clip(data)
    frames, height, width = video.shape[:3]
    keys, b_share, first = structure(data)
    found = {
        **pixels(video),
        "key_frames": keys,
        "b_frames": b_share,
        "first_size": np.log(first * 8 / (height * width)),
        "size": np.log(len(data) * 8 / (frames * height * width)),
        "file_bytes": len(data),
    }
    return {name: float(value) for name, value in found.items()}


def pixels(video: npt.NDArray[np.uint8]) -> dict[str, float]:
    """The numbers that come from the frames [F, H, W, 3] alone."""
    import cv2
    import numpy as np

    chosen = video[:: max(1, len(video) // 12)]  # enough for means; motion needs every frame
    every = np.ascontiguousarray(video[:, ::2, ::2])
    moves = np.array([cv2.absdiff(a, b).mean() for a, b in pairwise(every)] or [0.0])
    still = moves < FROZEN
    tail = len(still) if still.all() else int(np.argmin(still[::-1]))
    return {
        **picture(chosen),
        **{f"first_{name}": value for name, value in picture(video[:1]).items()},
        **dict(zip(GRID, grid(video[0]), strict=True)),
        "frozen_tail": float(tail),
        "motion": float(np.log(moves.mean() + 0.1)),
    }


def picture(video: npt.NDArray[np.uint8]) -> dict[str, float]:
    """Colour, contrast, noise and sharpness of frames [F, H, W, 3]."""
    import cv2
    import numpy as np

    means = video.reshape(-1, 3).mean(axis=0)
    r, g, b = (video[..., k] for k in range(3))  # faster than over the last axis
    spread = np.maximum(np.maximum(r, g), b) - np.minimum(np.minimum(r, g), b)
    luma = np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in video]).astype(np.float32)
    low, high = np.quantile(luma, [0.01, 0.99])
    laplacian = float(np.mean([np.abs(cv2.Laplacian(f, cv2.CV_32F)).mean() for f in luma]))
    return {
        "red": float(means[0]),
        "green": float(means[1]),
        "blue": float(means[2]),
        "contrast": float(luma.std(axis=(1, 2)).mean()),
        "saturation": float(spread.mean()),
        "dark": float(low),
        "bright": float(high),
        "noise": float(np.mean([noise_level(f) for f in luma])),
        "blocks": blockiness(luma),
        "sharpness": float(np.log(laplacian + 0.1)),
    }


def grid(frame: npt.NDArray[np.uint8]) -> list[float]:
    """Mean brightness of 4 by 4 fields of a picture [H, W, 3], row by row, of 255."""
    import cv2
    import numpy as np

    luma = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return [float(v) for v in cv2.resize(luma, (4, 4), interpolation=cv2.INTER_AREA).ravel()]


def noise_level(luma: npt.NDArray[np.float32]) -> float:
    """Standard deviation of the noise in a picture [H, W] (mask of Immerkaer 1996), of 255."""
    import cv2
    import numpy as np

    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float32)
    response = np.abs(cv2.filter2D(luma, cv2.CV_32F, kernel))[1:-1, 1:-1]
    # the median instead of the mean: edges answer to the mask too, but not in most pixels;
    # 6 is the mask's norm, 0.6745 the median of |N(0, 1)|
    return float(np.median(response) / 6 / 0.6745)


def blockiness(luma: npt.NDArray[np.float32]) -> float:
    """Steps across the 8-pixel grid beyond those between, in pictures [F, H, W], of 255."""
    import numpy as np

    total = 0.0
    for axis, others in ((2, (0, 1)), (1, (0, 2))):
        steps = np.abs(np.diff(luma, axis=axis)).mean(axis=others)
        on = np.arange(len(steps)) % 8 == 7
        if on.any():
            total += float(np.median(steps[on]) - np.median(steps[~on])) / 2
    return total


def structure(data: bytes) -> tuple[int, float, int]:
    """(key frames, share of B-frames, bytes of the first frame) of a video file."""
    import av

    with av.open(io.BytesIO(data), "r") as container:
        packets = [(p.is_keyframe, p.size, p.pts or 0) for p in container.demux(video=0) if p.size]
    # a B-frame is shown before a frame that was coded before it
    latest = accumulate((pts for *_, pts in packets), max)
    later = sum(pts < last for (*_, pts), last in zip(packets, latest, strict=True))
    return sum(key for key, *_ in packets), later / len(packets), packets[0][1]
