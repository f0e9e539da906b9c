"""Bring both sides of a pair to one form, so that only their content differs.

The real clip and every generated video get one frame count, frame rate, size, crop, colour range
and encoder. Nothing is padded or stretched in time: tails are cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from realdpo.media.encode import EncodeSettings, encode_video

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Video = npt.NDArray[np.uint8]


class Unfit(ValueError):
    """A clip cannot be brought to the form. The message says why."""


@dataclass(frozen=True)
class Form:
    """The form of every video of a pair: pixels, frames, frames per second."""

    width: int
    height: int
    frames: int
    fps: Fraction


def pair_encoder(crf: int) -> EncodeSettings:
    """The encoder of both sides: the same frame types, and no frame coded for later ones.

    With x264's mbtree, the first frames of two videos that begin alike would decode differently.
    With its scene cuts and adaptive B-frames, a video's structure would reveal its content.
    """
    return EncodeSettings(crf=crf, x264_params="mbtree=0:scenecut=0:b-adapt=0")


def frames_at(count: int, fps: Fraction, wanted: Fraction) -> list[int]:
    """The indices, among `count` frames at `fps`, of those shown at times 0, 1/wanted, 2/wanted ...

    Takes the frame on screen at that time and never interpolates. Raises Unfit if the clip's rate
    is more than 1 % below the wanted one, because repeated frames would stutter.
    """
    if fps * 100 < wanted * 99:
        raise Unfit(
            f"the clip has {float(fps):g} frames a second, fewer than the {float(wanted):g} needed"
        )
    # 23.976 for 24: keep the frames and play them at `wanted`.
    if abs(fps - wanted) * 100 <= wanted:
        return list(range(count))
    # containers may round a frame's start, so allow half a millisecond
    last = Fraction(count) / fps
    tolerance = Fraction(1, 2000)
    indices = []
    k = 0
    while (time := k / wanted) < last:
        indices.append(min(count - 1, int((time + tolerance) * fps)))
        k += 1
    return indices


def conform_real(video: Video, fps: Fraction, form: Form) -> Video:
    """A real clip [F, H, W, 3] in the form: resampled in time, cropped around its centre, scaled.

    Raises Unfit if it is too short, or too small without scaling up.
    """
    import cv2
    import numpy as np

    indices = frames_at(len(video), fps, form.fps)
    if len(indices) < form.frames:
        raise Unfit(
            f"the clip gives {len(indices)} frames at {float(form.fps):g} a second, but "
            f"{form.frames} are needed"
        )
    height, width = video.shape[1:3]
    if width < form.width or height < form.height:
        raise Unfit(f"the clip is {width}x{height}, smaller than {form.width}x{form.height}")
    x, y, w, h = centred_crop(width, height, form.width, form.height)
    chosen = video[indices[: form.frames], y : y + h, x : x + w]
    if (w, h) == (form.width, form.height):
        return np.ascontiguousarray(chosen)
    size = (form.width, form.height)
    return np.stack([cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in chosen])


def centred_crop(
    width: int, height: int, to_width: int, to_height: int
) -> tuple[int, int, int, int]:
    """(x, y, w, h): the largest centred part of a picture with the wanted aspect."""
    if width * to_height > height * to_width:
        w = max(1, round(Fraction(height * to_width, to_height)))
        return (width - w) // 2, 0, w, height
    h = max(1, round(Fraction(width * to_height, to_width)))
    return 0, (height - h) // 2, width, h


def conform_generated(video: Video, form: Form) -> Video:
    """A generated video in the form, with its tail cut.

    Raises Unfit if its size or length is wrong.
    """
    if video.shape[1:] != (form.height, form.width, 3) or len(video) < form.frames:
        raise Unfit(f"the generated video is {video.shape} and not {form}")
    return video[: form.frames]


def with_first_frame(video: Video, image: Video | None) -> Video:
    """`video` with exactly `image` as its first frame, from which both sides of a pair start."""
    if image is None:
        return video
    video = video.copy()
    video[0] = image
    return video


def encode_side(video: Video, form: Form, crf: int) -> bytes:
    """The bytes of a side of a pair."""
    assert video.shape == (form.frames, form.height, form.width, 3), video.shape
    return encode_video(video, form.fps, pair_encoder(crf))
