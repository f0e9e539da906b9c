"""Borders: black bars above, below, left and right of the picture."""

from __future__ import annotations

import cv2
import numpy as np

from realdpo.curate.scores.types import Bytes, Columns

# FFmpeg's cropdetect takes a line for black up to a mean of 24; single pixels may ring higher.
DARK_MEAN, DARK_PEAK = 24, 48

NAMES = ("box.top", "box.bottom", "box.left", "box.right", "box.share")


def of_frame(gray: Bytes) -> dict[str, float]:
    """Bars of one picture as shares of its height and width; NaN when it is all dark."""
    top, bottom = _dark_ends(gray, axis=1)
    left, right = _dark_ends(gray, axis=0)
    if np.isnan(top + left):
        top = bottom = left = right = np.nan
    return {"top": top, "bottom": bottom, "left": left, "right": right}


def summary(rows: Columns) -> dict[str, float]:
    """The bars that every sampled picture of the span has."""
    seen = ~np.isnan(rows["top"])
    if not seen.any():
        return dict.fromkeys(NAMES, np.nan)
    top, bottom, left, right = (
        float(rows[side][seen].min()) for side in ("top", "bottom", "left", "right")
    )
    picture = (1 - top - bottom) * (1 - left - right)
    return {
        "box.top": top,
        "box.bottom": bottom,
        "box.left": left,
        "box.right": right,
        "box.share": 1 - picture,
    }


def _dark_ends(gray: Bytes, axis: int) -> tuple[float, float]:
    if all(int(gray.take(end, 1 - axis).max()) > DARK_PEAK for end in (0, -1)):
        return 0.0, 0.0  # the outermost lines are light: most films have no bars
    mean = cv2.reduce(gray, axis, cv2.REDUCE_AVG, dtype=cv2.CV_32F).ravel()
    peak = gray.max(axis=axis)
    light = (mean > DARK_MEAN) | (peak > DARK_PEAK)
    lines = np.flatnonzero(light)
    if not len(lines):
        return np.nan, np.nan
    return float(lines[0]) / len(light), float(len(light) - 1 - lines[-1]) / len(light)
