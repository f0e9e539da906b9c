"""Calibrate: what thresholds do to this footage, and thresholds for a wanted yield.

Published thresholds do not transfer between collections; the distributions of one's own do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from realdpo.curate import decide
from realdpo.errors import UserError
from realdpo.reasons import parse_reasons

if TYPE_CHECKING:
    from realdpo.workspace import Workspace

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
NEAREST = 3

Scores = Mapping[str, npt.NDArray[np.float32]]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Threshold:
    """One threshold on these clips.

    alone: share of the measured clips it keeps by itself. only: clips that it alone drops.
    kept_side, dropped_side: the clips nearest to it, as (clip_id, value), nearest first.
    """

    key: str
    value: float
    alone: float
    only: int
    kept_side: tuple[tuple[str, float], ...]
    dropped_side: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Calibration:
    """What calibrate found.

    percentiles: {score: {percentile: value}}. thresholds: those in force. wanted: clips asked
    for, None when no yield was. proposed: thresholds that keep `kept` of `clips` clips.
    """

    clips: int
    candidates: int
    percentiles: dict[str, dict[int, float]]
    thresholds: list[Threshold]
    kept: int
    wanted: int | None
    proposed: dict[str, float]


def calibrate_thresholds(
    workspace: Workspace, keep: str | None = None, overrides: Mapping[str, Any] | None = None
) -> Calibration:
    """Look at a workspace's stored scores. keep: "5000" clips or "30%" of them.

    Raises UserError when there are no clips or `keep` is neither.
    """
    from realdpo import tables

    clips = tables.read_table(
        workspace.require(workspace.clips, "curate ingest FOOTAGE"), tables.CLIPS
    )
    if not clips.num_rows:
        raise UserError(f"{workspace.clips} holds no clips", "ingest footage first")
    limits = decide.merge_thresholds(overrides)
    scores, ids = decide.score_arrays(clips), clips["clip_id"].to_pylist()
    # What no threshold can bring back stays out of the count.
    free = np.array([not _fixed(row) for row in clips["reasons"].to_pylist()])
    wanted = None if keep is None else wanted_clips(keep, clips.num_rows)
    proposed = limits if wanted is None else propose_thresholds(scores, free, limits, wanted)
    return Calibration(
        clips=clips.num_rows,
        candidates=int(free.sum()),
        percentiles=score_percentiles(scores),
        thresholds=look_at_thresholds(scores, ids, limits),
        kept=int((passes_limits(scores, proposed, clips.num_rows) & free).sum()),
        wanted=wanted,
        proposed=proposed,
    )


def score_percentiles(scores: Scores) -> dict[str, dict[int, float]]:
    """Percentiles of every score that was measured on at least one clip."""
    known = {name: values[~np.isnan(values)] for name, values in scores.items()}
    return {
        name: {p: float(v) for p, v in zip(PERCENTILES, np.percentile(x, PERCENTILES), strict=True)}
        for name, x in sorted(known.items())
        if len(x)
    }


def look_at_thresholds(
    scores: Scores, ids: list[str], limits: Mapping[str, float]
) -> list[Threshold]:
    """What every threshold keeps and drops, and the clips on both sides of it."""
    broken = {key: breaks_limit(scores, key, value) for key, value in limits.items()}
    count = sum((flags.astype(int) for flags in broken.values()), np.zeros(len(ids), int))
    result = []
    for key, value in limits.items():
        values = scores.get(key[:-4])
        if values is None or np.isnan(values).all():
            continue
        known = ~np.isnan(values)
        order = np.argsort(np.abs(values - value), kind="stable")
        sides = [
            tuple((ids[i], float(values[i])) for i in order[side[order]][:NEAREST])
            for side in (known & ~broken[key], known & broken[key])
        ]
        judged = known | broken[key]  # an unknown that drops is judged, too
        alone = 1 - float(broken[key].sum() / judged.sum())
        only = int((broken[key] & (count == 1)).sum())
        result.append(Threshold(key, value, alone, only, *sides))
    return result


def propose_thresholds(
    scores: Scores, free: Bools, limits: Mapping[str, float], wanted: int
) -> dict[str, float]:
    """Thresholds that keep `wanted` clips, or as near above it as ties allow.

    One strictness moves all thresholds at once. Too many clips: every threshold goes up the
    quantiles of those that pass. Too few: every threshold goes out to the quantiles of all,
    until enough pass. A threshold therefore never crosses its default both ways.
    """
    count = len(free)
    passing = passes_limits(scores, limits, count) & free
    tighten = int(passing.sum()) > wanted
    pool = passing if tighten else free
    known = {
        key: np.sort(values[pool & ~np.isnan(values)])
        for key in limits
        if (values := scores.get(key[:-4])) is not None
    }

    def at(strictness: float) -> dict[str, float]:
        result = dict(limits)
        for key, ordered in known.items():
            if not len(ordered):
                continue
            least = key.endswith("_min")
            rank = strictness if least else 1 - strictness
            value = float(ordered[min(len(ordered) - 1, int(rank * len(ordered)))])
            stricter = max if least == tighten else min
            result[key] = stricter(limits[key], value)
        return result

    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if int((passes_limits(scores, at(middle), count) & free).sum()) >= wanted:
            low = middle
        else:
            high = middle
    return at(low)


def passes_limits(scores: Scores, limits: Mapping[str, float], count: int) -> Bools:
    """Which of `count` clips break no limit."""
    result = np.ones(count, bool)
    for key, value in limits.items():
        result &= ~breaks_limit(scores, key, value)
    return result


def breaks_limit(scores: Scores, key: str, value: float) -> Bools:
    """Which clips break one limit; of a score that nobody took none does."""
    values = scores.get(key[:-4])
    if values is None:
        return np.zeros(len(next(iter(scores.values()))), bool)
    return decide.breaks_threshold(values, key, value)


def wanted_clips(keep: str, total: int) -> int:
    """The number that "5000" or "30%" means. Raises UserError."""
    text = keep.strip()
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = -1.0
    if text.endswith("%"):
        if 0 < number <= 100:
            return max(1, round(total * number / 100))
    elif number >= 1 and number == int(number):
        return min(total, int(number))
    raise UserError(f"--keep {keep}: neither a number of clips nor a share", "such as 5000 or 30%")


def proposal_to_toml(found: Calibration) -> str:
    """The proposal as a settings file for `realdpo curate decide --config`."""
    defaults = decide.default_thresholds()
    lines = [
        f"# Keeps {found.kept} of {found.clips} clips, before near-duplicates.",
        "# Use: realdpo curate decide -w DIR --config THIS_FILE",
        "",
        "[decide]",
    ]
    for key, value in sorted(found.proposed.items()):
        note = "not a default" if key not in defaults else f"default {defaults[key]:g}"
        # As many digits as bring back the same stored number.
        lines.append(f"{key} = {float(np.float32(value))!r}  # {note}")
    for key in sorted(defaults.keys() - found.proposed.keys()):
        lines.append(f'{key} = "off"')
    return "\n".join(lines) + "\n"


def describe_calibration(found: Calibration) -> str:
    """The findings as plain text for a terminal."""
    lines = [f"{found.clips} clips, {found.candidates} that thresholds can keep", ""]
    head = "".join(f"{f'p{p}':>10}" for p in PERCENTILES)
    lines.append(f"{'score':<24}{head}")
    for name, row in found.percentiles.items():
        lines.append(f"{name:<24}" + "".join(f"{row[p]:>10.3g}" for p in PERCENTILES))
    lines += ["", f"{'threshold':<30}{'keeps':>8}{'drops alone':>13}  nearest kept | dropped"]
    for item in found.thresholds:
        near = " | ".join(
            ", ".join(f"{clip[:8]} {value:.3g}" for clip, value in side) or "-"
            for side in (item.kept_side, item.dropped_side)
        )
        name = f"{item.key} {item.value:.4g}"
        lines.append(f"{name:<30}{item.alone:>8.1%}{item.only:>13}  {near}")
    if found.wanted is not None:
        lines += ["", f"wanted {found.wanted}, the proposed thresholds keep {found.kept}"]
    return "\n".join(lines)


def _fixed(reasons: list[str] | None) -> bool:
    # No threshold takes `known` away, although `curate decide` looks it up anew.
    return any(
        not reason.is_judged_anew or reason.name == "known" for reason in parse_reasons(reasons)
    )
