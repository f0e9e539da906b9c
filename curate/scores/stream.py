"""Scores of a stream: fed frame by frame from the one decode, summarised for any span."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from realdpo.curate.scores import borders, detail, light, motion, repeats
from realdpo.curate.scores.types import Bytes, Columns, Floats

ANALYSIS_SIDE = 256
LUMA_SECONDS = 0.5
THUMB = 8

NAMES = (*light.NAMES, *repeats.NAMES, *borders.NAMES, *detail.NAMES, *motion.NAMES)

_EVERY_FRAME = (*light.FIELDS, "change")
_NOW_AND_THEN = ("top", "bottom", "left", "right", *detail.FIELDS, "pair_s", *motion.FIELDS)
_COLUMNS = (*_EVERY_FRAME, *_NOW_AND_THEN)
_PLACES = {name: place for place, name in enumerate(_COLUMNS)}


class StreamScores:
    """Per-frame numbers of one source: a millisecond a frame, about 200 bytes kept of each."""

    def __init__(self, height: int, width: int) -> None:
        """height, width: of the pictures that will be fed, in pixels."""
        self._shape = (height, width)
        scale = min(1.0, motion.LINES / min(height, width))
        self._motion_size = (max(1, round(width * scale)), max(1, round(height * scale)))
        self._count = 0
        self._times = np.empty(1024, np.float64)
        self._values = np.empty((1024, len(_COLUMNS)), np.float32)
        self._thumbs = np.empty((1024, THUMB * THUMB), np.uint8)
        self._moving = np.empty((1024, motion.CELLS_KEPT**2), np.uint8)
        self._sampled = np.empty(1024, bool)
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
        row: dict[str, float] = light.measure_light(gray)
        gap = time_s - self._times[self._count - 1] if self._count else 0.0
        if self._before is not None:
            row["change"] = repeats.measure_repeat(self._before, gray)
        if self.wants_luma(time_s):
            row |= detail.measure_detail(gray if luma is None else luma)
            self._luma_time = time_s
        # The frame nearest to an eighth of a second after the last sample.
        sampled = time_s - self._sample_time >= motion.PAIR_SECONDS - gap / 2
        place = self._place(time_s, sampled)
        if sampled:
            small = cv2.resize(gray, self._motion_size, interpolation=cv2.INTER_AREA)
            if self._sample is not None:
                row["pair_s"] = time_s - self._sample_time
                found, self._moving[place] = motion.look_at(self._sample, small, row["pair_s"])
                row |= found
            row |= borders.measure_borders(gray)
            thumb = cv2.resize(small, (THUMB, THUMB), interpolation=cv2.INTER_AREA)
            self._thumbs[place] = thumb.ravel()
            self._sample, self._sample_time = small, time_s
        for name, value in row.items():
            self._values[place, _PLACES[name]] = value
        self._before = gray

    def _place(self, time_s: float, sampled: bool) -> int:
        """A new row that holds nothing but its time."""
        place = self._count
        if place == len(self._times):
            more = place + place // 2
            for kept in (self._times, self._values, self._thumbs, self._moving, self._sampled):
                # In place: realloc moves pages instead of copying what may be gigabytes.
                kept.resize((more, *kept.shape[1:]), refcheck=False)
        self._times[place], self._sampled[place] = time_s, sampled
        self._values[place], self._thumbs[place], self._moving[place] = np.nan, 0, 0
        self._count += 1
        return place

    def table(self) -> dict[str, Any]:
        """The numbers so far, a copy: `time` float64 [N], the others float32 [N].

        NaN where a frame was not sampled. `thumb` and `moving` are uint8 [N, 64], all zero where
        `sampled`, bool [N], is false.
        """
        count = self._count
        return {
            "time": self._times[:count].copy(),
            **{name: self._values[:count, place].copy() for name, place in _PLACES.items()},
            "sampled": self._sampled[:count].copy(),
            "thumb": self._thumbs[:count].copy(),
            "moving": self._moving[:count].copy(),
        }


def summarise_span(per_frame: Columns, start_s: float, end_s: float) -> dict[str, float]:
    """Scores of the frames with start_s <= time < end_s; every name of NAMES, NaN if unknown."""
    rows = _span(per_frame, start_s, end_s)
    if not len(rows["time"]):
        return dict.fromkeys(NAMES, np.nan)
    return {
        **light.summarise_light(rows),
        **repeats.summarise_repeats(rows),
        **borders.summarise_borders(rows),
        **detail.summarise_detail(rows),
        **motion.summarise_motion(rows),
    }


def span_motion_map(per_frame: Columns, start_s: float, end_s: float) -> Floats:
    """Where in the picture the span moves by itself: [8, 8], in shares of each part, 0 to 1."""
    return motion.motion_map(_span(per_frame, start_s, end_s))


def span_fingerprint(per_frame: Columns, start_s: float, end_s: float) -> list[int]:
    """The span's perceptual hash over time, as `curate.dedup` reads it; empty if too short."""
    from realdpo.curate.dedup import pack_fingerprint

    rows = _span(per_frame, start_s, end_s)
    sampled = rows["sampled"]
    return pack_fingerprint(rows["time"][sampled] - start_s, rows["thumb"][sampled])


def score_frames(frames: Bytes, fps: float) -> dict[str, float]:
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
    return summarise_span(stream.table(), 0.0, len(frames) / float(fps))


def _span(per_frame: Columns, start_s: float, end_s: float) -> Columns:
    low, high = np.searchsorted(per_frame["time"], [start_s - 1e-6, end_s - 1e-6])
    rows = {name: values[low:high] for name, values in per_frame.items()}
    # Kept in 32 bits, summed in 64.
    return {
        name: values.astype(np.float64) if values.dtype == np.float32 else values
        for name, values in rows.items()
    }
