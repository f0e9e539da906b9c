"""Scores of a stream: fed frame by frame from the one decode, summarised for any span."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from realdpo.curate.scores import borders, detail, light, motion, repeats
from realdpo.curate.scores.types import Bytes, Columns

ANALYSIS_SIDE = 256
LUMA_SECONDS = 0.5
THUMB = 8

NAMES = (*light.NAMES, *repeats.NAMES, *borders.NAMES, *detail.NAMES, *motion.NAMES)

_EVERY_FRAME = ("time", "luma", "contrast", "highlights", "shadows", "dark", "change")
_NOW_AND_THEN = ("top", "bottom", "left", "right", *detail.FIELDS, "pair_s", *motion.FIELDS)
_COLUMNS = (*_EVERY_FRAME, *_NOW_AND_THEN)


class StreamScores:
    """Per-frame numbers of one source, a few tenths of a millisecond a frame."""

    def __init__(self, height: int, width: int) -> None:
        """height, width: of the pictures that will be fed, in pixels."""
        self._shape = (height, width)
        scale = min(1.0, motion.LINES / min(height, width))
        self._motion_size = (max(1, round(width * scale)), max(1, round(height * scale)))
        self._rows: list[tuple[float, ...]] = []
        self._thumbs: list[Bytes] = []
        self._before: Bytes | None = None
        self._sample: Bytes | None = None
        self._sample_time = -np.inf
        self._luma_time = -np.inf

    def wants_luma(self, time_s: float) -> bool:
        """Whether the frame at this time should be fed with its full-size luma."""
        return time_s - self._luma_time >= LUMA_SECONDS - 1e-6

    def feed(self, time_s: float, rgb: Bytes, luma: Bytes | None = None) -> None:
        """Add one frame; times must increase. rgb: uint8 [h, w, 3]; luma: uint8 [H, W]."""
        if rgb.shape != (*self._shape, 3):
            raise ValueError(f"a frame of shape {rgb.shape}, not {(*self._shape, 3)}")
        gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        row: dict[str, float] = {"time": time_s, **light.of_frame(gray)}
        gap = time_s - self._rows[-1][0] if self._rows else 0.0
        if self._before is not None:
            row["change"] = repeats.of_pair(self._before, gray)
        if self.wants_luma(time_s):
            row |= detail.of_frame(gray if luma is None else luma)
            self._luma_time = time_s
        thumb: Bytes = np.zeros(0, np.uint8)
        # The frame nearest to an eighth of a second after the last sample.
        if time_s - self._sample_time >= motion.PAIR_SECONDS - gap / 2:
            small = cv2.resize(gray, self._motion_size, interpolation=cv2.INTER_AREA)
            if self._sample is not None:
                row["pair_s"] = time_s - self._sample_time
                row |= motion.of_pair(self._sample, small, row["pair_s"])
            row |= borders.of_frame(gray)
            thumb = cv2.resize(small, (THUMB, THUMB), interpolation=cv2.INTER_AREA).ravel()
            self._sample, self._sample_time = small, time_s
        self._thumbs.append(thumb)
        self._rows.append(tuple(row.get(name, np.nan) for name in _COLUMNS))
        self._before = gray

    def table(self) -> dict[str, Any]:
        """The numbers so far: float64 [N] each, NaN where a frame was not sampled.

        `thumb` is uint8 [N, 64], and all zero where `top` and `pair_s` were not sampled;
        `sampled` is bool [N].
        """
        values = np.asarray(self._rows, np.float64).reshape(-1, len(_COLUMNS))
        table: dict[str, Any] = {
            name: np.ascontiguousarray(values[:, i]) for i, name in enumerate(_COLUMNS)
        }
        empty = np.zeros(THUMB * THUMB, np.uint8)
        table["sampled"] = np.array([len(thumb) > 0 for thumb in self._thumbs], bool)
        table["thumb"] = np.array(
            [thumb if len(thumb) else empty for thumb in self._thumbs], np.uint8
        ).reshape(-1, THUMB * THUMB)
        return table


def summarise(per_frame: Columns, start_s: float, end_s: float) -> dict[str, float]:
    """Scores of the frames with start_s <= time < end_s; every name of NAMES, NaN if unknown."""
    rows = _span(per_frame, start_s, end_s)
    if not len(rows["time"]):
        return dict.fromkeys(NAMES, np.nan)
    parts = (light, repeats, borders, detail, motion)
    return {name: value for part in parts for name, value in part.summary(rows).items()}


def fingerprint(per_frame: Columns, start_s: float, end_s: float) -> list[int]:
    """The span's perceptual hash over time, as `curate.dedup` reads it; empty if too short."""
    from realdpo.curate.dedup import pack

    rows = _span(per_frame, start_s, end_s)
    sampled = rows["sampled"]
    return pack(rows["time"][sampled] - start_s, rows["thumb"][sampled])


def measure(frames: Bytes, fps: float) -> dict[str, float]:
    """Scores of a clip in memory. frames: uint8 [F, H, W, 3] RGB; fps: frames per second.

    Raises ValueError when the array is not video or fps is not above 0.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames) or fps <= 0:
        raise ValueError(f"not a clip: shape {frames.shape}, {fps} frames per second")
    height, width = frames.shape[1:3]
    scale = min(1.0, ANALYSIS_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    stream = StreamScores(size[1], size[0])
    for index, frame in enumerate(frames):
        time = index / float(fps)
        luma = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) if stream.wants_luma(time) else None
        small = frame if scale == 1 else cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        stream.feed(time, small, luma)
    return summarise(stream.table(), 0.0, len(frames) / float(fps))


def _span(per_frame: Columns, start_s: float, end_s: float) -> Columns:
    low, high = np.searchsorted(per_frame["time"], [start_s - 1e-6, end_s - 1e-6])
    return {name: values[low:high] for name, values in per_frame.items()}
