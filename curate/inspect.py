"""Inspect: what we see in one file, without a workspace."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from realdpo.curate.config import BLAZEPOSE, PeopleSettings


def inspect_file(
    path: Path,
    overrides: Mapping[str, Any] | None = None,
    extras: tuple[str, ...] = (),
    models: PeopleSettings = BLAZEPOSE,
) -> dict[str, Any]:
    """Facts, shots, scores and verdict of a file, as plain values.

    Raises UserError when it cannot be read as video, a threshold is wrong or an extra missing.
    """
    from realdpo.curate import analyse, decide, framing
    from realdpo.curate.config import ClipSettings, ShotSettings, Target
    from realdpo.curate.scores import sampled, span_motion_map, summarise_span
    from realdpo.curate.shots import divide_shots

    limits = decide.merge_thresholds(overrides)
    sampled.require_extras(extras, models)
    seen = analyse.analyse_source(analyse.AnalysisTask("", str(path), ShotSettings()))
    parts = analyse.parts_of(seen.facts)
    shots = []
    spans = divide_shots(
        seen.times,
        seen.cuts,
        seen.soft,
        _fraction(seen.facts["fps"]),
        ClipSettings(),
        Target(),
        analyse.breaks_of(parts),
    )
    for span in spans:
        start, end = float(span.start), float(span.end)
        part = analyse.part_at(parts, span.start)
        scores = {"source.fps": float(part.fps), **summarise_span(seen.scores, start, end)}
        size = part.width, part.height
        crop = framing.without_bars(scores, *size)
        scores["source.short_side"] = min(crop.width * size[0], crop.height * size[1])
        scores |= framing.of_crop(crop, span_motion_map(seen.scores, start, end), scores)
        if extras:
            scores |= sampled.score_samples(str(path), start, end, extras, models, crop).scores
        columns = {name: np.array([value], np.float32) for name, value in scores.items()}
        why = [*span.reasons, *decide.find_reasons(columns, limits, 1)[0]]
        shots.append(
            {
                "shot": span.shot,
                "start_s": start,
                "end_s": end,
                "keep": not why,
                "reasons": [str(reason) for reason in why],
                "scores": {k: None if math.isnan(v) else v for k, v in scores.items()},
            }
        )
    return {
        "file": str(path),
        "facts": seen.facts,
        "breaks": analyse.breaks_text(parts),
        "cuts_s": [float(cut) for cut in seen.cuts],
        "clips": shots,
    }


def describe_inspection(found: Mapping[str, Any]) -> str:
    """The findings as plain text for a terminal."""
    facts = found["facts"]
    lines = [
        found["file"].replace("\n", "\\n"),
        f"  {facts['width']}x{facts['height']}, {float(_fraction(facts['fps'])):.4g} fps, "
        f"{facts['duration_s']:.2f} s, "
        f"{facts['codec']} {facts['pix_fmt']}, {facts['frames']} frames"
        + (f", {facts['decode_errors']} damaged" if facts["decode_errors"] else "")
        + (", HDR" if facts["hdr"] else ""),
        *(f"  divided: {line}" for line in found["breaks"]),
        f"  cuts at {', '.join(f'{cut:.2f}' for cut in found['cuts_s']) or 'none'}",
    ]
    for clip in found["clips"]:
        verdict = "kept" if clip["keep"] else "dropped: " + ", ".join(clip["reasons"])
        lines.append(
            f"\n  shot {clip['shot']}: {clip['start_s']:.2f} to {clip['end_s']:.2f} s, {verdict}"
        )
        groups: dict[str, list[str]] = {}
        for name, value in clip["scores"].items():
            group, short = name.split(".", 1)
            groups.setdefault(group, []).append(
                f"{short} {'-' if value is None else f'{value:.3g}'}"
            )
        lines += [f"    {group:<8}{'  '.join(parts)}" for group, parts in groups.items()]
    if not found["clips"]:
        lines.append("  no clip: too short")
    return "\n".join(lines)


def _fraction(text_: str) -> Any:
    from fractions import Fraction

    return Fraction(text_)
