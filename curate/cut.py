"""Cutting one clip out of its source, exactly, in the form its target wants."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from realdpo.curate.box import WHOLE, Box
from realdpo.curate.config import Target
from realdpo.ids import content_id
from realdpo.media import MediaError
from realdpo.media.encode import EncodeSettings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from realdpo.media.decode import Frame

VERSION = 2  # raise when the pictures or the bytes of a clip change


@dataclass(frozen=True)
class CutTask:
    """A clip to be cut. width, height, fps: of the source as shown. start, end: seconds.

    crop: the part of the picture that is taken.
    """

    clip_id: str
    path: str
    start: Fraction
    end: Fraction
    width: int
    height: int
    fps: Fraction
    target: Target
    encode: EncodeSettings
    threads: int = 0
    crop: Box = WHOLE


@dataclass(frozen=True)
class Clip:
    """A finished clip: MP4 bytes and what is in them."""

    data: bytes
    width: int
    height: int
    frames: int
    fps: Fraction


def clip_id(
    source_id: str,
    start: Fraction,
    end: Fraction,
    target: Target,
    encode: EncodeSettings,
    crop: str,
) -> str:
    """The id of a clip: same footage, span and form, same id. crop: how its place is chosen."""
    return content_id(
        source=source_id, start=start, end=end, target=target, encode=encode, crop=crop
    )


def cut_clip(task: CutTask) -> Clip:
    """Decode the span, resample it to the target's rate, crop and scale, encode.

    Frame k of the clip is the source frame nearest in time to start + k / fps, within the span.
    Raises MediaError when the source cannot be read or gives fewer frames than the target needs.
    """
    from realdpo.media.decode import decode_frames
    from realdpo.media.encode import encode_video

    fps = task.target.fps or task.fps
    count = task.target.frames or max(1, math.floor((task.end - task.start) * fps))
    scaled, (left, top, width, height) = fit_crop(task.width, task.height, task.target, task.crop)
    decoded = decode_frames(
        task.path, size=scaled, start=task.start, end=task.end, threads=task.threads
    )
    written = 0

    def pictures() -> Iterator[npt.NDArray[np.uint8]]:
        nonlocal written
        for frame in resample_frames(decoded, task.start, fps, count):
            written += 1
            yield frame.rgb[top : top + height, left : left + width]

    data = encode_video(pictures(), fps, task.encode)
    if written < count:
        raise MediaError(f"the clip has {written} of {count} frames")
    return Clip(data, width, height, frames=written, fps=fps)


def resample_frames(
    frames: Iterable[Frame], start: Fraction, fps: Fraction, count: int
) -> Iterator[Frame]:
    """The frame nearest to start + k / fps for k = 0 .. count - 1; the earlier one of two.

    Ends early when the frames end more than half a step before a wanted time: the last frame
    is not repeated to fill up.
    """
    wanted = 0
    before: Frame | None = None
    for frame in frames:
        while wanted < count:
            time = start + wanted / fps
            if frame.time < time:
                break
            if before is not None and time - before.time <= frame.time - time:
                yield before
            else:
                yield frame
            wanted += 1
        if wanted == count:
            return
        before = frame
    while before is not None and wanted < count:
        if start + wanted / fps - before.time > 1 / (2 * fps):
            return
        yield before
        wanted += 1


def fit_crop(
    width: int, height: int, target: Target, crop: Box = WHOLE
) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """(width, height) to scale a picture to, and (left, top, width, height) to take of it then.

    crop: the part of the picture that is wanted. What of it sticks out over the target's shape is
    left out on both sides alike; without a target size only an odd last row or column goes.
    """
    across, down = crop.width * width, crop.height * height
    if target.width:
        scale = max(target.width / across, target.height / down)
        scaled = (
            max(target.width, round(width * scale)),
            max(target.height, round(height * scale)),
        )
        size = (target.width, target.height)
    else:
        scaled = (width, height)
        size = (max(2, round(across) // 2 * 2), max(2, round(down) // 2 * 2))
    left, top = (
        min(whole - part, max(0, round((start + share / 2) * whole - part / 2)))
        for whole, part, start, share in zip(
            scaled, size, (crop.left, crop.top), (crop.width, crop.height), strict=True
        )
    )
    return scaled, (left, top, *size)
