"""Numbers of a finished video file that say nothing about the motion in it.

Each number has a group (the cause of a difference), words for the report, and a tolerance: a
difference between two sides that is too small to teach a model anything. If a video is too small or
too short for a number, it is NaN.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Feature:
    """more, less: a report's words for a side that has more or less of it. unit: its unit."""

    group: str
    more: str
    less: str
    unit: str
    tolerance: float


LEVELS, DETAIL, TEXTURE, ENCODING = "levels", "detail", "texture", "encoding"
TIME, RATE = "time", "rate"
REMEDIES = {
    LEVELS: (
        "read both sides in one range and colour space; if the model itself draws other colours, "
        "use its authors' steps and guidance, or --strategies renoise or local, whose losers keep "
        "the clip's colours"
    ),
    DETAIL: (
        "match sharpness and noise: pass winners through the model's VAE (--roundtrip-win), use "
        "the steps of the model's authors, or use --strategies renoise or local"
    ),
    TEXTURE: "a decoder left its trace on one side only: pass winners through the model's VAE "
    "(--roundtrip-win)",
    ENCODING: (
        "make both sides from the originals: a second encoding or another encoder leaves marks"
    ),
    TIME: "cut both sides where the first of them stops moving",
    RATE: (
        "play both sides at the model's frame rate: --set fps=N, and resample losers from elsewhere"
    ),
}
"""The remedy for a difference, by the group of the number that shows it."""

# Tolerances: 2 of 255 code values is what 8-bit video at crf 12 may lose by itself; 5 % of a
# ratio (0.05 in natural logarithm) is the spread of sharpness between encodes of one take.
_PICTURE = {
    "red": Feature(LEVELS, "redder", "less red", "of 255", 2.0),
    "green": Feature(LEVELS, "greener", "less green", "of 255", 2.0),
    "blue": Feature(LEVELS, "bluer", "less blue", "of 255", 2.0),
    "contrast": Feature(LEVELS, "of higher contrast", "of lower contrast", "of 255", 2.0),
    "saturation": Feature(LEVELS, "more colourful", "less colourful", "of 255", 2.0),
    "dark": Feature(LEVELS, "brighter in the shadows", "darker in the shadows", "of 255", 3.0),
    "bright": Feature(LEVELS, "brighter in the lights", "darker in the lights", "of 255", 3.0),
    "noise": Feature(DETAIL, "noisier", "less noisy", "of 255", 0.5),
    "chroma_noise": Feature(DETAIL, "noisier in colour", "less noisy in colour", "of 255", 0.3),
    "blocks": Feature(DETAIL, "blockier", "less blocky", "of 255", 0.5),
    "sharpness": Feature(DETAIL, "sharper", "softer", "log", 0.05),
    "texture": Feature(
        TEXTURE, "finer in their finest detail", "coarser in their finest detail", "log", 0.05
    ),
}

# The sides of a latent's cell: 8 pixels in most models, 16 and 32 in others. Below a third of a
# code value a pattern is less than rounding makes.
LATTICES = (8, 16, 32)
_LATTICE = {
    f"lattice_{side}": Feature(
        TEXTURE,
        f"patterned every {side} pixels",
        f"less patterned every {side} pixels",
        "of 255",
        0.3,
    )
    for side in LATTICES
}

PULSES = (4, 8)
_IN_TIME = {
    f"pulse_{step}": Feature(
        TEXTURE,
        f"changing more in texture every {step} frames",
        f"changing less in texture every {step} frames",
        "log",
        0.1,
    )
    for step in PULSES
}
"""Numbers of changes in texture, relative to other changes in texture, so that motion cancels."""

LOOK = {
    "start_sharpness": Feature(
        TEXTURE, "sharper at their first frame", "softer at their first frame", "log", 0.1
    ),
    "flicker": Feature(
        DETAIL, "with noise that flickers more", "with noise that flickers less", "log", 0.1
    ),
    "flicker_slope": Feature(
        DETAIL, "with noise that drifts", "with noise that is new in every frame", "log", 0.05
    ),
}
"""Numbers that compare the first frame with later ones, and the temporal spectrum of noise in still
areas. Faster motion is softer, and a model must also learn how a camera's noise flickers. So none
of
these counts as a difference in preparation."""

FILE = {
    "key_frames": Feature(ENCODING, "cut into more key frames", "of fewer key frames", "", 0.5),
    "b_frames": Feature(ENCODING, "richer in B-frames", "poorer in B-frames", "share", 0.02),
    "frozen_tail": Feature(
        TIME, "frozen longer at the end", "less frozen at the end", "frames", 1.0
    ),
}
"""Numbers of the whole file. With the pairs' own encoder, they are the same for every video."""

FIRST = {
    f"first_{name}": Feature(
        f.group, f"{f.more} in the first frame", f"{f.less} in the first frame", f.unit, f.tolerance
    )
    for name, f in _PICTURE.items()
} | {
    "first_size": Feature(
        ENCODING,
        "larger in the first frame's bytes",
        "smaller in the first frame's bytes",
        "log",
        0.05,
    )
}
"""Numbers of the first frame. In image-to-video it is the same picture on both sides, whatever the
model did afterwards, so a difference can only come from the preparation of the sides."""

WHOLE = (
    _PICTURE
    | _LATTICE
    | _IN_TIME
    | {
        "size": Feature(
            ENCODING,
            "larger files for what they show",
            "smaller files for what they show",
            "log",
            0.15,
        )
    }
)
"""Numbers of all frames. A difference comes from the preparation or from the model's drawing."""

SPEED = {
    "speed": Feature(
        RATE, "faster by one factor in all pairs", "slower by one factor in all pairs", "log", 0.02
    )
}
"""How far things move from frame to frame, in thousandths of the width. The sides should differ in
it, but not all by one factor: in that case the frame rates differ."""
ONE_SPEED = 0.22
"""Least logarithm of that factor: 1.25 times, as between 24 and 30 frames a second."""

FEATURES = FILE | FIRST | WHOLE | LOOK | SPEED

MOTION = {"motion": Feature("motion", "moving more", "moving less", "log", 0.0)}
"""Numbers in which the sides should differ."""

GRID = tuple(f"grid_{k}" for k in range(16))
"""Mean brightness of the first frame in 4 by 4 fields, to tell how far two first frames differ."""

FROZEN = 0.25  # mean difference of two frames, of 255, below which nothing counts as moved


def measure_video_file(data: bytes) -> dict[str, float]:
    """The numbers of one video file, by name. Raises MediaError if it cannot be decoded."""
    import numpy as np

    from realdpo.media.decode import read_clip

    video, _ = read_clip(data)
    frames, height, width = video.shape[:3]
    keys, b_share, first = read_structure(data)
    found = {
        **measure_pixels(video),
        "key_frames": keys,
        "b_frames": b_share,
        "first_size": np.log(first * 8 / (height * width)),
        "size": np.log(len(data) * 8 / (frames * height * width)),
        "file_bytes": len(data),
    }
    return {name: float(value) for name, value in found.items()}


def measure_pixels(video: npt.NDArray[np.uint8]) -> dict[str, float]:
    """The numbers that need only the frames [F, H, W, 3]."""
    import cv2
    import numpy as np

    chosen = video[:: max(1, len(video) // 12)]  # enough for means; motion needs every frame
    every = np.ascontiguousarray(video[:, ::2, ::2])
    moves = np.array([cv2.absdiff(a, b).mean() for a, b in pairwise(every)] or [0.0])
    still = moves < FROZEN
    tail = len(still) if still.all() else int(np.argmin(still[::-1]))
    return {
        **measure_picture(chosen),
        **{f"first_{name}": value for name, value in measure_picture(video[:1]).items()},
        **dict(zip(GRID, brightness_grid(video[0]), strict=True)),
        **{f"lattice_{side}": measure_lattice(_luma(chosen), side) for side in LATTICES},
        **in_time(_luma(every)),
        "speed": measure_speed(video),
        "frozen_tail": float(tail),
        "motion": float(np.log(moves.mean() + 0.1)),
    }


def measure_picture(video: npt.NDArray[np.uint8]) -> dict[str, float]:
    """Colour, contrast, noise and sharpness of frames [F, H, W, 3]."""
    import cv2
    import numpy as np

    means = video.reshape(-1, 3).mean(axis=0)
    r, g, b = (video[..., k] for k in range(3))  # faster than over the last axis
    spread = np.maximum(np.maximum(r, g), b) - np.minimum(np.minimum(r, g), b)
    luma = _luma(video)
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
        "chroma_noise": float(np.mean([chroma_noise(f) for f in video])),
        "blocks": measure_blockiness(luma),
        "sharpness": float(np.log(laplacian + 0.1)),
        "texture": float(np.mean([measure_texture(f) for f in luma])),
    }


def _luma(video: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Brightness [F, H, W] of frames [F, H, W, 3], of 255."""
    import cv2
    import numpy as np

    return np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in video]).astype(np.float32)


def chroma_noise(frame: npt.NDArray[np.uint8]) -> float:
    """`noise_level` of both colour channels of a picture [H, W, 3], at the half size they are
    stored in."""
    import cv2
    import numpy as np

    height, width = frame.shape[:2]
    half = cv2.resize(
        frame.astype(np.float32), (width // 2, height // 2), interpolation=cv2.INTER_AREA
    )
    colours = cv2.cvtColor(half, cv2.COLOR_RGB2YCrCb)[..., 1:]
    return float(np.mean([noise_level(np.ascontiguousarray(colours[..., k])) for k in range(2)]))


def measure_texture(luma: npt.NDArray[np.float32]) -> float:
    """Log ratio, in a picture [H, W], of detail of one or two pixels to detail of four.

    These are the two finest bands of a Laplacian pyramid. A decoder that invents or loses the
    finest detail changes only one of them. A sharper lens changes both.
    """
    import cv2
    import numpy as np

    fine = cv2.GaussianBlur(luma, (0, 0), 1.0)
    coarse = cv2.GaussianBlur(luma, (0, 0), 2.0)
    return float(
        np.log((np.abs(luma - fine).mean() + 0.05) / (np.abs(fine - coarse).mean() + 0.05))
    )


def measure_lattice(luma: npt.NDArray[np.float32], side: int) -> float:
    """How far the strongest of `side` positions in a cell stands out: pictures [F, H, W], of 255.

    Steps between neighbouring pixels are averaged over all cells of the grid, along both axes. The
    number is the largest of these means minus their median. NaN if fewer than four cells fit.
    """
    import numpy as np

    found = []
    for axis, others in ((2, (0, 1)), (1, (0, 2))):
        steps = np.abs(np.diff(luma, axis=axis)).mean(axis=others)
        cells = (len(steps) + 1) // side  # the last pixel has no step
        if cells >= 4:
            padded = np.append(steps, np.nan)[: cells * side]
            folded = np.nanmedian(padded.reshape(cells, side), axis=0)
            found.append(float(folded.max() - np.median(folded)))
    return float(np.mean(found)) if found else float("nan")


def in_time(luma: npt.NDArray[np.float32]) -> dict[str, float]:
    """How fine texture changes from frame to frame, in pictures [F, H, W] at half size.

    pulse_4, pulse_8: changes at every 4th and 8th frame, where a latent frame ends, relative to
    those between. start_sharpness: the first frame relative to the following ones. flicker: the
    change in still areas, which is that of the noise. flicker_slope: its change over two frames
    relative to that over one. All are logarithms. NaN if a video is too short or nothing is still.
    """
    import cv2
    import numpy as np

    smooth = np.stack([cv2.GaussianBlur(f, (0, 0), 1.5) for f in luma])
    fine = luma - smooth
    steps = np.abs(np.diff(fine, axis=0)).mean(axis=(1, 2)) + 0.05
    found = {}
    for step in PULSES:
        at = np.arange(1, len(steps))  # the first frame is a latent frame of its own
        on = at % step == 0
        known = on.sum() >= 2 and (~on).any()
        ratio = np.log(np.mean(steps[at[on]]) / np.mean(steps[at[~on]])) if known else np.nan
        found[f"pulse_{step}"] = float(ratio)
    size = np.abs(fine).mean(axis=(1, 2)) + 0.05
    if len(luma) < 4:
        return found | dict.fromkeys(("start_sharpness", "flicker", "flicker_slope"), float("nan"))
    found["start_sharpness"] = float(np.log(size[0] / size[1:5].mean()))
    still = _still(smooth)
    if sum(int(s.sum()) for s in still) < _FEWEST_STILL:
        return found | {"flicker": float("nan"), "flicker_slope": float("nan")}
    once, twice = (
        float(np.mean([np.abs(_by_block(f)[s]).sum() for f, s in zip(frames, still, strict=True)]))
        / (np.mean([s.sum() for s in still]) * _BLOCK**2)
        + 0.1
        for frames in (fine[1:-1] - fine[:-2], fine[2:] - fine[:-2])
    )
    found["flicker"] = float(np.log(once))
    found["flicker_slope"] = float(np.log(twice / once))
    return found


_BLOCK = 8
_STILL = 1.0  # of 255: a smoothed block that changes less than this over two frames is still
_FEWEST_STILL = 32  # such blocks, over all frames of a video


def _by_block(frame: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The blocks [count, 64] of a picture [H, W]."""
    rows, columns = frame.shape[0] // _BLOCK, frame.shape[1] // _BLOCK
    whole = frame[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK)
    return whole.transpose(0, 2, 1, 3).reshape(rows * columns, _BLOCK * _BLOCK)


def _still(smooth: npt.NDArray[np.float32]) -> list[npt.NDArray[np.bool_]]:
    """The blocks of each frame that are still over the next two frames."""
    import numpy as np

    return [
        np.maximum(np.abs(_by_block(b - a)).mean(axis=1), np.abs(_by_block(c - a)).mean(axis=1))
        < _STILL
        for a, b, c in zip(smooth[:-2], smooth[1:-1], smooth[2:], strict=True)
    ]


def measure_speed(video: npt.NDArray[np.uint8]) -> float:
    """Log of the motion per frame, in thousandths of the width (DIS optical flow)."""
    import cv2
    import numpy as np

    height, width = video.shape[1:3]
    scale = min(1.0, 160 / max(height, width))
    size = (max(32, round(width * scale)), max(32, round(height * scale)))
    small = [
        cv2.resize(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
        for f in video
    ]
    fresh: Any = None  # flow to start from
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    moved = [
        float(np.linalg.norm(flow.calc(a, b, fresh), axis=2).mean()) for a, b in pairwise(small)
    ]
    return float(np.log(1000 * np.mean(moved or [0.0]) / size[0] + 0.1))


def brightness_grid(frame: npt.NDArray[np.uint8]) -> list[float]:
    """Mean brightness in 4 by 4 fields of a picture [H, W, 3], row by row, of 255."""
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
    # the median instead of the mean: edges respond to the mask too, but in few pixels;
    # 6 is the mask's norm, 0.6745 the median of |N(0, 1)|
    return float(np.median(response) / 6 / 0.6745)


def measure_blockiness(luma: npt.NDArray[np.float32]) -> float:
    """Steps across the 8-pixel grid, minus those inside it, in pictures [F, H, W], of 255."""
    import numpy as np

    total = 0.0
    for axis, others in ((2, (0, 1)), (1, (0, 2))):
        steps = np.abs(np.diff(luma, axis=axis)).mean(axis=others)
        on = np.arange(len(steps)) % 8 == 7
        if on.any():
            total += float(np.median(steps[on]) - np.median(steps[~on])) / 2
    return total


def read_structure(data: bytes) -> tuple[int, float, int]:
    """(key frames, share of B-frames, bytes of the first frame) of a video file."""
    import av

    with av.open(io.BytesIO(data), "r") as container:
        packets = [(p.is_keyframe, p.size, p.pts or 0) for p in container.demux(video=0) if p.size]
    # a B-frame is shown before a frame that was coded earlier
    latest = accumulate((pts for *_, pts in packets), max)
    later = sum(pts < last for (*_, pts), last in zip(packets, latest, strict=True))
    return sum(key for key, *_ in packets), later / len(packets), packets[0][1]
