"""Decide: stored scores and thresholds in, keep or drop with every reason out.

Nothing is decoded and nothing is measured again, so a threshold costs a second to change. What a
score that is not known (null) means stands beside each threshold: it drops nothing, except where a
clip that cannot be judged must not pass (`UNKNOWN_DROPS`), and then the reason says so.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from realdpo.curate.config import LEAST_RATE, SHORT_SIDE
from realdpo.errors import UserError
from realdpo.reasons import Reason, Side, are_judged_anew, count_reasons, reason_names

if TYPE_CHECKING:
    import pyarrow as pa

    from realdpo.workspace import Workspace

VERSION = 2  # raise when the same numbers and thresholds give another verdict


@dataclass(frozen=True)
class Limit:
    """A score's default bounds, and where they come from. None leaves that side open."""

    score: str
    least: float | None
    most: float | None
    source: str


# "measured" names footage on both sides of the bound; a "choice" is only known to let a handful of
# everyday films pass (street, indoor, sport, phone, vertical). Both are a start: `curate calibrate`
# shows what they do to yours.
# Scores of models and captions, whose names these steps choose.
OPEN_GROUPS = ("semantic", "caption", "verify")

LIMITS: tuple[Limit, ...] = (
    Limit("time.fps", LEAST_RATE, None, "other pipelines ask 15 frames a second; 0.5 for rounding"),
    Limit("time.gap", None, 0.5, "choice: half a second without a frame is a hole"),
    Limit("source.short_side", SHORT_SIDE, None, "choice: below, no large target can be filled"),
    Limit("luma.mean", 20, 235, "20 is in use elsewhere; its usual 140 drops bright rooms"),
    Limit("luma.contrast", 10, None, "choice: fog and plain titles are meant to lie below"),
    Limit("luma.highlights", None, 0.4, "choice: windows and snow are meant to stay below"),
    Limit("luma.shadows", None, 0.6, "choice: night streets are meant to stay below"),
    Limit("black.share", None, 0.05, "choice: one frame in twenty, by FFmpeg's blackdetect"),
    Limit("flash.rate", None, 3, "WCAG 2.3.1: more than three flashes a second"),
    Limit("flash.flicker", None, 12, "choice: strobes and broken exposure are meant to lie above"),
    Limit("frozen.share", None, 0.3, "measured: a held pose stays below, a still does not"),
    Limit("box.share", None, 0.6, "choice: bars are cut away; two fifths must be left"),
    Limit("detail.sharpness", 0.35, None, "choice: takes out of focus are meant to lie below"),
    Limit("detail.noise", None, 12, "choice: grain that hides texture is meant to lie above"),
    Limit("detail.blocking", None, 1.0, "choice: starved H.264 is meant to lie above"),
    Limit("detail.combing", None, 0.01, "choice: fields woven in motion lie above"),
    Limit("motion.camera_confidence", 0.25, None, "choice: four pairs of a clip of two seconds"),
    Limit("motion.subject", 0.04, None, "measured: breathing and leaves lie below, gestures above"),
    Limit("motion.subject_share", 0.003, None, "measured: a hand at arm's length is a hundredth"),
    Limit("motion.camera", None, 1.5, "choice: whip pans are meant to lie above"),
    Limit("motion.shake", None, 0.6, "choice: a walking phone is meant to stay below"),
    Limit("motion.unexplained", None, 0.5, "choice: cuts and time-lapse are meant to lie above"),
    Limit("people.share", 0.3, None, "measured: the detector misses every other frame of cyclists"),
    Limit("people.height", 0.15, None, "choice: smaller, an action cannot be read"),
    Limit("text.area", None, 0.05, "choice for fine-tuning sets; pretraining allows 0.3"),
    Limit("nsfw.worst", None, 0.5, "the usual cut of classifiers, on the worst frame"),
)

# Without a camera to measure against, all motion may be the camera's: not known is not moving.
UNKNOWN_DROPS = frozenset({"motion.camera_confidence", "motion.subject"})

KEPT_ONE_SIDE = ("_min", "_max")

_JUDGED = ("clip_id", "start_s", "end_s", "keep", "reasons", "duplicate_of", "path")

Thresholds = Mapping[str, float]


def merge_thresholds(overrides: Mapping[str, Any] | None = None) -> dict[str, float]:
    """Defaults with `overrides` over them: `<group>.<name>_min` or `_max` to a number.

    Nested mappings ({"motion": {"subject_min": 1.5}}) are read too, and `nan` or "off" removes a
    threshold. Raises UserError for a key that is no threshold and a value that is no number.
    """
    result = default_thresholds()
    for key, value in _flat(overrides or {}):
        name = next((key[: -len(s)] for s in KEPT_ONE_SIDE if key.endswith(s)), "")
        if "." not in name:
            close = difflib.get_close_matches(key, result, n=1, cutoff=0.5)
            raise UserError(
                f"{key!r} is not a threshold: it must be <group>.<name>_min or _max",
                f"did you mean {close[0]!r}?" if close else f"such as {next(iter(result))}",
            )
        if key not in result:
            _check_score(name, key)
        if value == "off":
            value = math.nan
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UserError(f"threshold {key}: {value!r} is not a number", 'or "off"')
        result[key] = float(value)
    return {key: value for key, value in result.items() if not math.isnan(value)}


def _check_score(name: str, key: str) -> None:
    """Raises UserError for a score that no step measures: it would drop nothing, without a word."""
    if name.split(".")[0] in OPEN_GROUPS:
        return
    known = _known_scores()
    if name.removesuffix("_whole") not in known:
        close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
        raise UserError(
            f"{key}: there is no score {name}",
            f"did you mean {close[0]}?" if close else "docs/scores.md lists all scores",
        )


@functools.cache
def _known_scores() -> frozenset[str]:
    """Scores of footage and of sampled frames, whether or not they were asked for."""
    from realdpo.curate import framing, scores
    from realdpo.curate.scores import nsfw, people, text

    sources = [f"source.{name}" for name in ("fps", "hdr", "short_side", "upscale")]
    limits = [limit.score for limit in LIMITS]
    sampled = (*people.NAMES, *text.NAMES, *nsfw.NAMES, *framing.NAMES)
    return frozenset((*scores.NAMES, *sampled, *sources, *limits))


def default_thresholds() -> dict[str, float]:
    """LIMITS as a flat mapping."""
    result: dict[str, float] = {}
    for limit in LIMITS:
        if limit.least is not None:
            result[f"{limit.score}_min"] = limit.least
        if limit.most is not None:
            result[f"{limit.score}_max"] = limit.most
    return result


def find_reasons(
    scores: Mapping[str, npt.NDArray[Any]], limits: Thresholds, count: int
) -> list[list[Reason]]:
    """For each of `count` clips all the limits it breaks, such as `motion.subject=0.8<2`.

    scores: columns of float [count], NaN where not known: of UNKNOWN_DROPS that breaks the limit,
    as `motion.subject=unknown`, of others none. Scores that are absent break none.
    """
    result: list[list[Reason]] = [[] for _ in range(count)]
    for rows, reasons in _broken(scores, limits):
        for row, reason in zip(rows.tolist(), reasons, strict=True):
            result[row].append(reason)
    return result


def _broken(
    scores: Mapping[str, npt.NDArray[Any]], limits: Thresholds
) -> Iterator[tuple[npt.NDArray[np.intp], list[Reason]]]:
    """For each limit in turn the rows that break it, each with its reason."""
    for key in sorted(limits):
        name, least = key[:-4], key.endswith("_min")
        if name not in scores:
            continue
        values, limit = np.asarray(scores[name], np.float32), np.float32(limits[key])
        wrong = breaks_threshold(values, key, limit)
        if not least and f"{name}_min" in limits:
            wrong &= ~np.isnan(values)  # said once
        rows = np.flatnonzero(wrong)
        side: Side = "min" if least else "max"
        yield (
            rows,
            [
                Reason(name, "unknown")
                if np.isnan(value)
                else Reason(name, _short(value, limit), side, f"{limit:.6g}")
                for value in values[rows]
            ],
        )


def breaks_threshold(
    values: npt.NDArray[Any], key: str, limit: float | np.float32
) -> npt.NDArray[np.bool_]:
    """Which of a score's values, NaN where not known, break its threshold `key`."""
    # As stored: a value on the limit must not fall to the other side by rounding.
    values, limit = np.asarray(values, np.float32), np.float32(limit)
    wrong = values < limit if key.endswith("_min") else values > limit
    return wrong | np.isnan(values) if key[:-4] in UNKNOWN_DROPS else wrong


def decide_clips(
    clips: pa.Table,
    overrides: Mapping[str, Any] | None = None,
    links: Iterable[tuple[int, int]] | None = None,
    known: Mapping[int, str] | None = None,
) -> pa.Table:
    """Set `keep`, `reasons` and `duplicate_of` of a clips table.

    Reasons that are not ours to judge (licence, `too_short`) stay. links: pairs of
    rows that show the same footage, None finds them by `phash`. Of such a pair the larger, then
    longer clip is kept. known: rows that show footage of another set, and which.
    """
    import pyarrow as pa

    limits = merge_thresholds(overrides)
    count = clips.num_rows
    scores = score_arrays(clips)
    # Reasons of all rows one after another: a million lists of texts would take gigabytes.
    said = [_kept_reasons(clips["reasons"])]
    for rows, reasons in _broken(scores, limits):
        said.append((rows, _as_texts(reasons)))
    if known:
        rows = np.array(sorted(known), np.intp)
        said.append((rows, _as_texts(Reason("known", known[row]) for row in rows.tolist())))
    passed = np.ones(count, bool)
    for rows, _ in said:
        passed[rows] = False
    if links is None:
        links = find_links(clips)
    copies = _copies(clips, scores, passed, links)
    ids = clips["clip_id"]
    originals = {copy: ids[original].as_py() for copy, original in copies.items()}
    order = np.array(sorted(originals), np.intp)
    names = [originals[row] for row in order.tolist()]
    said.append((order, _as_texts(Reason("duplicate", name) for name in names)))
    passed[order] = False
    duplicate_of = np.full(count, None, object)
    duplicate_of[order] = names
    return _with(
        clips,
        {
            "keep": pa.array(passed, pa.bool_()),
            "reasons": _as_lists(said, count),
            "duplicate_of": pa.array(duplicate_of, pa.string()),
        },
    )


def _kept_reasons(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.intp], pa.Array]:
    """Rows and texts of the reasons that are not for `decide_clips` to find anew."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if not len(column):
        return np.empty(0, np.intp), pa.array([], pa.string())
    rows, texts = pc.list_parent_indices(column), column.flatten()
    fixed = pc.invert(are_judged_anew(reason_names(texts)))
    return rows.filter(fixed).to_numpy(zero_copy_only=False).astype(np.intp), texts.filter(fixed)


def _as_texts(reasons: Iterable[Reason]) -> pa.Array:
    import pyarrow as pa

    return pa.array([str(reason) for reason in reasons], pa.string())


def _as_lists(said: Sequence[tuple[npt.NDArray[np.intp], pa.Array]], count: int) -> pa.ListArray:
    """One list a row out of (rows, texts), each row's texts in the order of `said`."""
    import pyarrow as pa

    rows = np.concatenate([rows for rows, _ in said])
    texts = pa.concat_arrays([texts.cast(pa.string()) for _, texts in said])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))])
    order = pa.array(np.argsort(rows, kind="stable"))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), texts.take(order))


def decide_workspace(
    workspace: Workspace, overrides: Mapping[str, Any] | None = None, *, write: bool = True
) -> dict[str, Any]:
    """Judge a workspace's clips anew and write the table; returns the counts.

    Raises UserError when there are no clips or a threshold is wrong.
    """
    import pyarrow.compute as pc

    from realdpo import tables
    from realdpo.curate import against, dedup_blocks

    path = workspace.require(workspace.clips, "curate ingest FOOTAGE")
    limits = merge_thresholds(overrides)
    names = tables.check_table(path, tables.CLIPS).names
    # Fingerprints are most of a table, and are compared in blocks, out of the file.
    light = [name for name in names if "." in name or name in _JUDGED]
    clips = tables.read_table(path, tables.CLIPS, light)
    folder = workspace.step("dedup")
    links = dedup_blocks.find_duplicates(path, folder, keep=write).tolist()
    known = against.known_rows(workspace, path, keep=write)
    after = decide_clips(clips, overrides, links, known)
    if write:
        changed = {name: after[name] for name in ("keep", "reasons", "duplicate_of")}
        tables.replace_columns(path, tables.CLIPS, changed)
    uncut = pc.and_(after["keep"], pc.is_null(after["path"]))
    return {
        "clips": clips.num_rows,
        "kept": _count(after["keep"]),
        "kept_before": _count(clips["keep"]),
        "not_cut_yet": _count(uncut),
        "dropped": count_reasons(after["reasons"]),
        "thresholds": limits,
    }


def apply_overrides(
    workspace: Workspace, chosen: Mapping[str, Any], *, write: bool = True
) -> dict[str, Any]:
    """`decide_workspace` with what `curate ingest` was asked for and `chosen`, which is saved.

    Raises UserError as `decide_workspace` does, and when another command writes the workspace.
    """
    workspace.require(workspace.clips, "curate ingest FOOTAGE")  # else the lock makes the folder
    overrides = {**asked_of_ingest(workspace), **chosen}
    if not write:
        return decide_workspace(workspace, overrides, write=False)
    with workspace.lock("curate decide", sweeps=False):
        result = decide_workspace(workspace, overrides)
        workspace.save_config("curate decide", saved_toml(overrides))
    return result


def _count(flags: pa.ChunkedArray) -> int:
    import pyarrow.compute as pc

    return int(pc.sum(flags).as_py() or 0)


def describe_decision(result: Mapping[str, Any], dry_run: bool = False) -> str:
    """The counts of `decide_workspace` as plain text for a terminal."""
    verb = "would keep" if dry_run else "kept"
    lines = [
        f"{verb} {result['kept']} of {result['clips']} clips (before: {result['kept_before']})"
    ]
    lines += [f"  {count:>8}  {name}" for name, count in result["dropped"].items()]
    if result["not_cut_yet"]:
        lines.append(
            f"{result['not_cut_yet']} of them are not cut yet: run the same curate ingest again"
        )
    return "\n".join(lines)


def thresholds_to_toml(overrides: Mapping[str, Any]) -> str:
    """All thresholds as `[decide]` of a settings file; those that were removed are "off"."""
    import tomli_w

    limits = merge_thresholds(overrides)
    off = (dict(_flat(overrides)).keys() | default_thresholds().keys()) - limits.keys()
    nested: dict[str, dict[str, Any]] = {}
    for key, value in sorted({**limits, **dict.fromkeys(off, "off")}.items()):
        group, _, name = key.partition(".")
        nested.setdefault(group, {})[name] = value
    return tomli_w.dumps({"decide": nested})


def saved_toml(chosen: Mapping[str, Any]) -> str:
    """What is kept of a decision: `[decide]` what was chosen, `[thresholds]` what that came to.

    Defaults that nobody chose are not saved as chosen: those of a new version judge anew.
    """
    import tomli_w

    own: dict[str, dict[str, Any]] = {}
    for key, value in sorted(_flat(chosen)):
        group, _, name = key.partition(".")
        own.setdefault(group, {})[name] = value
    return tomli_w.dumps({"decide": own}) + thresholds_to_toml(chosen).replace(
        "[decide", "[thresholds"
    )


def score_arrays(clips: pa.Table) -> dict[str, npt.NDArray[np.float32]]:
    """Score columns of a clips table as float32, NaN for null."""
    from realdpo import tables

    return {name: clips[name].to_numpy().astype(np.float32) for name in tables.score_columns(clips)}


def phash_fingerprints(clips: pa.Table) -> list[npt.NDArray[np.uint64] | None]:
    """The `phash` column as arrays, without a Python number for each word."""
    column = clips["phash"].combine_chunks()
    if hasattr(column, "chunks"):  # of a table without rows
        return []
    words = column.values.to_numpy(zero_copy_only=False)
    offsets = column.offsets.to_numpy()
    return [words[low:high] for low, high in itertools.pairwise(offsets)]


def load_overrides(config: Path | None, sets: Sequence[str]) -> dict[str, Any]:
    """Thresholds of `[decide]` in a TOML file and of `--set key=value`; the latter win."""
    from realdpo.config import load_toml

    result = dict(_flat(load_toml(config).get("decide", {}))) if config else {}
    for text in sets:
        key, separator, raw = text.partition("=")
        if not separator:
            raise UserError(f"--set {text}: not of the form key=value")
        result[key.strip().removeprefix("decide.")] = _number(raw.strip())
    return result


def find_links(clips: pa.Table) -> list[tuple[int, int]]:
    """Pairs of rows of a clips table that show the same footage, by `phash`."""
    from realdpo.curate import dedup

    return dedup.duplicate_pairs(phash_fingerprints(clips), clips["source_id"].to_pylist())


def asked_of_ingest(workspace: Workspace) -> dict[str, Any]:
    """The thresholds that `curate ingest` was given, or that its target brought along."""
    from realdpo.config import load_toml

    path = workspace.root / "config" / "curate-ingest.toml"
    return dict(_flat(load_toml(path)["ingest"].get("decide", {}))) if path.exists() else {}


def stored_thresholds(workspace: Workspace) -> dict[str, Any]:
    """The thresholds of the workspace's last `curate decide`; empty when there was none."""
    path = workspace.root / "config" / "curate-decide.toml"
    return load_overrides(path, ()) if path.exists() else {}


def _copies(
    clips: pa.Table,
    scores: Mapping[str, npt.NDArray[np.float32]],
    passed: npt.NDArray[np.bool_],
    links: Iterable[tuple[int, int]],
) -> dict[int, int]:
    """Which rows are copies of which better row, among those that passed everything else."""
    near: dict[int, list[int]] = {}
    for left, right in links:
        if passed[left] and passed[right]:
            near.setdefault(left, []).append(right)
            near.setdefault(right, []).append(left)
    side = scores.get("source.short_side")
    column = clips["clip_id"]
    ids = {row: column[row].as_py() for row in near}
    length = clips["end_s"].to_numpy() - clips["start_s"].to_numpy()

    def rank(row: int) -> tuple[float, float, str]:
        return (-float(side[row]) if side is not None else 0.0, -float(length[row]), ids[row])

    copies: dict[int, int] = {}
    for row in sorted(near, key=rank):
        if row not in copies:
            for other in near[row]:
                if rank(other) > rank(row):
                    copies.setdefault(other, row)
    return copies


def _short(value: np.float32, limit: np.float32) -> str:
    """The value with as many digits as tell it from the limit."""
    for digits in range(3, 9):
        text = f"{value:.{digits}g}"
        if np.float32(float(text)) != limit:
            return text
    return repr(float(value))


def _number(raw: str) -> Any:
    try:
        return float(raw)
    except ValueError:
        return raw


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _with(clips: pa.Table, new: Mapping[str, pa.Array]) -> pa.Table:
    for name, values in new.items():
        clips = clips.set_column(clips.schema.get_field_index(name), name, values)
    return clips
