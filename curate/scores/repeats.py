"""Repeats: frozen stretches, duplicated frames, and the frame rate that is really there."""

from __future__ import annotations

import cv2
import numpy as np

from realdpo.curate.scores.types import Bools, Bytes, Columns, Floats

# A block's mean change, in levels, that codecs make of an unchanged picture.
UNCHANGED = 0.7
# A repeat changes far less than its neighbours do; slow motion at 60 fps changes little always.
REPEAT_RATIO = 0.2
FREEZE_SECONDS = 0.5
BLOCKS = (16, 9)

NAMES = (
    "frozen.share",
    "frozen.longest",
    "time.fps",
    "time.nominal_fps",
    "time.repeats",
    "time.gap",
)


def measure_repeat(before: Bytes, gray: Bytes) -> float:
    """The largest change of any block between two neighbouring pictures, levels.

    The largest, because a mouth that moves in a still picture is no freeze.
    """
    change = cv2.absdiff(before, gray)
    return float(cv2.resize(change.astype(np.float32), BLOCKS, interpolation=cv2.INTER_AREA).max())


def summarise_repeats(rows: Columns) -> dict[str, float]:
    """Scores of a span from its per-frame rows."""
    time, change = rows["time"], rows["change"][1:]
    if len(time) < 2:
        return dict.fromkeys(NAMES, np.nan)
    gaps = np.diff(time)
    span = float(time[-1] - time[0])
    frozen = _stretches(change < UNCHANGED, gaps)
    moving = change[~frozen]
    usual = float(np.quantile(moving, 0.9)) if len(moving) else 0.0
    repeats = (change < min(UNCHANGED, REPEAT_RATIO * usual)) & ~frozen
    free = int((~frozen).sum())
    live = float(gaps[~frozen].sum())
    return {
        "frozen.share": float(gaps[frozen].sum() / span),
        "frozen.longest": _longest(frozen, gaps),
        "time.fps": (free - int(repeats.sum())) / live if live > 0 else 0.0,
        "time.nominal_fps": len(gaps) / span,
        "time.repeats": float(repeats.sum() / free) if free else 0.0,
        "time.gap": float(gaps.max()),
    }


def _runs(flags: Bools) -> list[tuple[int, int]]:
    """[start, end) of every run of true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _stretches(still: Bools, gaps: Floats) -> Bools:
    """Which frame intervals belong to a still stretch of at least FREEZE_SECONDS."""
    frozen = np.zeros(len(still), bool)
    for start, end in _runs(still):
        frozen[start:end] = gaps[start:end].sum() >= FREEZE_SECONDS - 1e-6
    return frozen


def _longest(frozen: Bools, gaps: Floats) -> float:
    return max((float(gaps[start:end].sum()) for start, end in _runs(frozen)), default=0.0)
