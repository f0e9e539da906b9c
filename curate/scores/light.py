"""Light: exposure, contrast, clipping, black frames, flashes and flicker."""

from __future__ import annotations

import math

import cv2
import numpy as np

from realdpo.curate.scores.types import Bytes, Columns, Floats

# FFmpeg's blackdetect: a pixel is black up to 0.10 of the range, a picture if 0.98 of it is.
BLACK_LUMA, BLACK_PICTURE = 25, 0.98
CLIPPED_LOW, CLIPPED_HIGH = 4, 251
# WCAG 2.3.1: a flash is a pair of opposing changes of 10 % or more of full luminance; three
# in a second are harmful, so the two changes lie within a third of a second.
FLASH_STEP, FLASH_SECONDS = 25.5, 1 / 3
FLICKER_SECONDS = 0.4
_MOMENTS = np.stack([np.arange(256.0), np.arange(256.0) ** 2])

NAMES = (
    "luma.mean",
    "luma.contrast",
    "luma.highlights",
    "luma.shadows",
    "black.share",
    "flash.rate",
    "flash.flicker",
)

FIELDS = ("luma", "contrast", "highlights", "shadows", "dark")  # of every frame


def measure_light(gray: Bytes) -> dict[str, float]:
    """Numbers of one picture. gray: uint8 [h, w]."""
    counts = cv2.calcHist([gray], [0], None, [256], [0, 256]).ravel()
    histogram = counts.astype(np.float64) / gray.size
    mean, square = _MOMENTS @ histogram
    return {
        "luma": float(mean),
        "contrast": math.sqrt(max(0.0, square - mean * mean)),
        "highlights": float(histogram[CLIPPED_HIGH:].sum()),
        "shadows": float(histogram[: CLIPPED_LOW + 1].sum()),
        "dark": float(histogram[: BLACK_LUMA + 1].sum()),
    }


def summarise_light(rows: Columns) -> dict[str, float]:
    """Scores of a span from its per-frame rows."""
    luma, time = rows["luma"], rows["time"]
    span = float(time[-1] - time[0])
    return {
        "luma.mean": float(luma.mean()),
        "luma.contrast": float(rows["contrast"].mean()),
        "luma.highlights": float(rows["highlights"].mean()),
        "luma.shadows": float(rows["shadows"].mean()),
        "black.share": float((rows["dark"] >= BLACK_PICTURE).mean()),
        "flash.rate": count_flashes(time, luma) / span if span > 0 else np.nan,
        "flash.flicker": measure_flicker(time, luma) if span > FLICKER_SECONDS else np.nan,
    }


def count_flashes(time: Floats, luma: Floats) -> int:
    """Number of rises and falls (or falls and rises) of FLASH_STEP within FLASH_SECONDS."""
    turns = np.flatnonzero(np.diff(np.sign(np.diff(luma))) != 0) + 1
    points = np.concatenate([[0], turns, [len(luma) - 1]])
    steps, times = np.diff(luma[points]), time[points]
    large = np.abs(steps) >= FLASH_STEP
    pairs = large[:-1] & large[1:] & (steps[:-1] * steps[1:] < 0)
    quick = times[2:] - times[:-2] <= 2 * FLASH_SECONDS
    count, free = 0, 0
    for index in np.flatnonzero(pairs & quick).tolist():
        if index >= free:
            count, free = count + 1, index + 2
    return count


def measure_flicker(time: Floats, luma: Floats) -> float:
    """Mean distance of mean luma from its average over FLICKER_SECONDS around, levels.

    Slow fades follow their own average and count little; cuts count once.
    """
    low = np.searchsorted(time, time - FLICKER_SECONDS / 2, "left")
    high = np.searchsorted(time, time + FLICKER_SECONDS / 2, "right")
    total = np.concatenate([[0.0], np.cumsum(luma)])
    return float(np.abs(luma - (total[high] - total[low]) / (high - low)).mean())
