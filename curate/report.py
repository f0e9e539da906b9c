"""Report: one page that shows what was kept, what was dropped and why, with clips to play."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from realdpo import report
from realdpo.curate import decide
from realdpo.media import MediaError
from realdpo.progress import progress_bar
from realdpo.reasons import count_reasons, parse_reasons
from realdpo.rows import ClipRow, SourceRow

if TYPE_CHECKING:
    from realdpo.workspace import Workspace

# A page that opens at once: small, short previews, a handful under each heading.
PREVIEW_SIDE, PREVIEW_FPS, PREVIEW_SECONDS = 200, 12, 4.0
PREVIEW_CRF = 30
PER_REASON, PLAYABLE_PER_REASON = 12, 3
KEPT_SHOWN, KEPT_PLAYABLE = 24, 9
SOURCES_SHOWN = 500

_COLUMNS = [
    "clip_id",
    "source_id",
    "start_s",
    "end_s",
    "keep",
    "reasons",
    "prompt",
    "action",
    "split",
    "path",
    "duplicate_of",
    "license",
    "author",
    "source_url",
    "title",
]


@dataclass(frozen=True)
class Preview:
    """A few frames of a clip: uint8 [F, H, W, 3] at `fps`."""

    frames: np.ndarray
    fps: Fraction


def write_curate_report(workspace: Workspace, path: Path | None = None) -> Path:
    """Write the report of a workspace and return its path. Raises UserError without clips."""
    path = path or workspace.reports / "curate.html"
    return report.write_page(path, curate_report_html(workspace))


def curate_report_html(workspace: Workspace) -> str:
    """The page. Footage that has gone since is shown without pictures."""
    from realdpo import tables

    table = tables.read_table(
        workspace.require(workspace.clips, "curate ingest FOOTAGE"), tables.CLIPS
    )
    sources = tables.read_table(workspace.sources, tables.SOURCES).to_pylist()
    clips = table.select(_COLUMNS).to_pylist()
    scores = decide.score_arrays(table)
    limits = thresholds_in_force(workspace)
    dropped = count_reasons(table["reasons"])
    chosen = _chosen(clips, dropped)
    previews = _previews(workspace, chosen, sources)
    kept = [clip for clip in clips if clip["keep"]]
    seconds = sum(clip["end_s"] - clip["start_s"] for clip in kept)
    return report.render_page(
        "Curation report",
        [
            report.Section("Funnel", _funnel(clips, sources, dropped)),
            report.Section("Kept", _clips(chosen["kept"], previews, KEPT_PLAYABLE, "kept")),
            *(
                report.Section(
                    f"Dropped: {reason}", _clips(rows, previews, PLAYABLE_PER_REASON, reason)
                )
                for reason, rows in chosen.items()
                if reason != "kept"
            ),
            report.Section("Scores and thresholds", _histograms(scores, limits)),
            report.Section("Actions", _actions(kept)),
            report.Section("Provenance", _provenance(sources, clips)),
        ],
        subtitle=f"{len(sources)} sources, {len(clips)} clips, {len(kept)} kept, {_long(seconds)}",
    )


def _long(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"


def thresholds_in_force(workspace: Workspace) -> dict[str, float]:
    """The thresholds that judged the clips: of `curate decide`, and of `curate ingest` if later."""
    from realdpo.config import load_toml

    decided, ingested = (
        workspace.root / "config" / f"curate-{name}.toml" for name in ("decide", "ingest")
    )
    own: Mapping[str, Any] = {}
    if ingested.exists():
        own = load_toml(ingested).get("ingest", {}).get("decide", {})
    if (
        decided.exists()
        and ingested.exists()
        and decided.stat().st_mtime > ingested.stat().st_mtime
    ):
        own = {}
    return decide.merge_thresholds({**decide.stored_thresholds(workspace), **own})


def _funnel(
    clips: Sequence[ClipRow],
    sources: Sequence[SourceRow],
    dropped: Mapping[str, int],
) -> Markup:
    failed = [s for s in sources if s["status"] != "ok"]
    kept = sum(bool(clip["keep"]) for clip in clips)
    steps = [
        {"step": "sources", "count": len(sources), "of": ""},
        {"step": "sources that could not be read", "count": len(failed), "of": ""},
        {"step": "clips", "count": len(clips), "of": ""},
        *(
            {"step": f"dropped: {name}", "count": count, "of": f"{count / len(clips):.1%}"}
            for name, count in dropped.items()
        ),
        {"step": "kept", "count": kept, "of": f"{kept / max(1, len(clips)):.1%}"},
    ]
    note = Markup("<p>A clip that has several reasons counts under each of them.</p>")
    errors = (
        report.render_table([{"file": s["path"], "why": s["error"]} for s in failed])
        if failed
        else ""
    )
    return (
        report.render_table(steps, {"step": "", "count": "clips or files", "of": "of clips"})
        + note
        + errors
    )


def _chosen(clips: Sequence[ClipRow], dropped: Iterable[str]) -> dict[str, list[ClipRow]]:
    """Which clips to show under "kept" and under each reason; ids are hashes, so any order is fair."""
    ordered = sorted(clips, key=lambda clip: clip["clip_id"])
    chosen: dict[str, list[ClipRow]] = {
        "kept": [clip for clip in ordered if clip["keep"]][:KEPT_SHOWN]
    }
    for reason in dropped:
        rows = [
            clip
            for clip in ordered
            if any(other.name == reason for other in parse_reasons(clip["reasons"]))
        ]
        chosen[reason] = rows[:PER_REASON]
    return chosen


def _previews(
    workspace: Workspace,
    chosen: Mapping[str, Sequence[ClipRow]],
    sources: Sequence[SourceRow],
) -> dict[str, Preview]:
    """Pictures of the clips to be shown, from the cut clip where there is one, else the source."""
    files = {s["source_id"]: s["path"] for s in sources if s["source_id"]}
    wanted = {clip["clip_id"]: clip for rows in chosen.values() for clip in rows}
    result = {}
    with progress_bar("previews", len(wanted), "clips") as advance:
        for clip_id, clip in wanted.items():
            cut = workspace.clip_file(clip_id)
            start, end = (0.0, None) if cut.exists() else (clip["start_s"], clip["end_s"])
            source = cut if cut.exists() else Path(files.get(clip["source_id"], ""))
            if source.is_file():
                preview = _preview(source, start, end)
                if preview is not None:
                    result[clip_id] = preview
            advance()
    return result


def _preview(path: Path, start: float, end: float | None) -> Preview | None:
    from realdpo.media.decode import decode_frames

    taken, due = [], start
    last = start + PREVIEW_SECONDS if end is None else min(end, start + PREVIEW_SECONDS)
    try:
        for frame in decode_frames(path, short_side=PREVIEW_SIDE, start=start, end=last):
            while frame.time >= due - 1e-6:  # a slow source is shown at its own pace
                taken.append(frame.rgb)
                due += 1 / PREVIEW_FPS
    except MediaError:
        return None
    if not taken:
        return None
    height, width = taken[0].shape[:2]
    even = np.stack(taken)[:, : height // 2 * 2, : width // 2 * 2]
    return Preview(np.ascontiguousarray(even), Fraction(PREVIEW_FPS))


def _clips(
    rows: Sequence[ClipRow], previews: Mapping[str, Preview], playable: int, title: str
) -> Markup:
    shown = [(clip, previews[clip["clip_id"]]) for clip in rows if clip["clip_id"] in previews]
    if not shown:
        return Markup("<p>{}</p>").format("No pictures: the footage is not where it was.")
    sheet = report.contact_sheet(
        [(_label(clip, title), p.frames[len(p.frames) // 2]) for clip, p in shown], columns=4
    )
    from realdpo.media.encode import EncodeSettings, encode_video

    settings = EncodeSettings(crf=PREVIEW_CRF, preset="veryfast")
    players = Markup("").join(
        report.render_video(encode_video(preview.frames, preview.fps, settings), _caption(clip))
        for clip, preview in shown[:playable]
    )
    return report.render_image(sheet, f"{title}, {len(shown)} shown") + Markup(
        '<div class="row" style="display:flex;flex-wrap:wrap;gap:1rem">{}</div>'
    ).format(players)


def _label(clip: ClipRow, title: str) -> str:
    """What stands under a small picture: the reason's numbers, or what a kept clip shows."""
    for reason in parse_reasons(clip["reasons"]):
        if reason.name == title and reason.detail:
            return reason.detail.replace("\n", " ")
    words = clip["prompt"] or clip["title"] or f"{clip['end_s'] - clip['start_s']:.2f} s"
    return str(words).replace("\n", " ")


def _caption(clip: ClipRow) -> str:
    what = clip["prompt"] or clip["title"] or ""
    why = "; ".join(clip["reasons"] or ())
    place = f"{clip['clip_id'][:8]}, {clip['start_s']:.2f} to {clip['end_s']:.2f} s"
    return ". ".join(part for part in (what.rstrip("."), why, place) if part)


def _histograms(scores: Mapping[str, np.ndarray], limits: Mapping[str, float]) -> Markup:
    parts = []
    for name, values in sorted(scores.items()):
        known = values[~np.isnan(values)]
        if not len(known):
            continue
        marks = {
            side: limits[key] for side in ("min", "max") if (key := f"{name}_{side}") in limits
        }
        parts.append(report.plot_histogram(known.tolist(), name, marks))
    return Markup(
        '<div style="display:grid;grid-template-columns:repeat(auto-fill,minmax(20rem,1fr));'
        'gap:1rem">{}</div>'
    ).format(Markup("").join(parts))


def _actions(kept: Sequence[ClipRow]) -> Markup:
    counts: dict[str, int] = {}
    for clip in kept:
        for name in clip["action"] or ["(no action found)"]:
            counts[name] = counts.get(name, 0) + 1
    rows = [{"action": n, "clips": c} for n, c in sorted(counts.items(), key=lambda x: -x[1])]
    return report.render_table(rows)


def _provenance(sources: Sequence[SourceRow], clips: Iterable[ClipRow]) -> Markup:
    total: dict[str, int] = {}
    kept: dict[str, int] = {}
    for clip in clips:
        total[clip["source_id"]] = total.get(clip["source_id"], 0) + 1
        kept[clip["source_id"]] = kept.get(clip["source_id"], 0) + bool(clip["keep"])
    rows = [
        {
            "file": source["path"],
            "clips": total.get(source["source_id"] or "", 0),
            "kept": kept.get(source["source_id"] or "", 0),
            "seconds": source["duration_s"],
            "size": f"{source['width']}x{source['height']}" if source["width"] else None,
            "licence": source["license"],
            "author": source["author"],
            "from": source["source_url"],
            "SHA-256": (source["source_id"] or "")[:12],
        }
        for source in sources[:SOURCES_SHOWN]
    ]
    more = len(sources) - len(rows)
    note = Markup("<p>{}</p>").format(f"and {more} more in sources.parquet") if more > 0 else ""
    return report.render_table(rows) + note
