"""Workspaces that were made apart become one: their clips, sources, captions, scores and caches.

What the same clip or source is told about differently is settled by rules, counted and said; then
duplicates are found across all of them, and every clip is judged and given its split anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realdpo import licences, tables
from realdpo.curate import against, decide, dedup_blocks
from realdpo.curate.caption import edits
from realdpo.curate.caption.config import EDIT, FILE_NAME, KEYWORDS, SIDECAR
from realdpo.curate.dedup_blocks import Where
from realdpo.errors import UserError
from realdpo.files import atomic_path, write_text
from realdpo.progress import progress_bar
from realdpo.reasons import count_reasons
from realdpo.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

    from realdpo.curate.config import IngestConfig

MARK = "curate-merge"
# Caches named by content: whichever workspace made them, they are right in every other.
_STEPS = ("analyse", "clips", "caption", "embed", "cut", "sampled", "sources", "verify")
_CAPTION = ("prompt", "captioner", "caption_status", "caption_raw")
_ON_CAPTION = ("caption.", "verify.", "semantic.caption")
_TOLD = ("author", "source_url", "title")
Row = dict[str, Any]


def merge_workspaces(
    given: Sequence[Workspace], into: Workspace, where: Where | None = None
) -> dict[str, Any]:
    """Make `into` what the workspaces are together; returns the counts and the conflicts.

    Files are linked where the disk allows it, else copied. The order of `given` decides what no
    rule does. A run that was stopped goes on; run again after `given` grew, it takes in what is
    new. Raises UserError for workspaces whose clips have different forms, and for a place with
    clips of its own.
    """
    check_mergeable(given, into)
    config = ingest_settings(given[0])
    conflicts: Counter[str] = Counter()
    with into.lock("curate merge"):
        into.save_config("curate merge", _mark(given))
        sources = _sources(given, conflicts)
        _take_files(given, into)
        _take_edits(given, into, conflicts)
        _take_config(given, into, conflicts)
        count = _write_clips(given, into, sources, conflicts)
        tables.write_table(into.sources, tables.from_rows(tables.SOURCES, sources), tables.SOURCES)
        result = _judge(into, config, where or Where())
        _count_moved(given, into, conflicts)
        result = {
            "workspaces": [str(work.root) for work in given],
            "sources": len(sources),
            "clips": count,
            **result,
            "conflicts": dict(conflicts.most_common()),
        }
        write_text(into.reports / "merge.json", json.dumps(result, indent=1, sort_keys=True))
    return result


def check_mergeable(given: Sequence[Workspace], into: Workspace) -> None:
    """Raise UserError for what would fail, or would make a set of clips that do not go together."""
    if len(given) < 2:
        raise UserError("a merge takes two workspaces or more", "name them before -w")
    roots = [work.root.resolve() for work in given]
    for number, work in enumerate(given):
        for path in (work.clips, work.sources):
            work.require(path, "curate ingest FOOTAGE")
        tables.check_table(work.clips, tables.CLIPS)
        tables.check_table(work.sources, tables.SOURCES)
        if roots[number] in roots[:number]:
            raise UserError(f"{work.root} is named twice")
    if into.root.resolve() in roots:
        raise UserError(
            f"{into.root} is one of the workspaces to merge", "name a new folder with -w"
        )
    if into.clips.exists() and not (into.root / "config" / f"{MARK}.toml").exists():
        raise UserError(
            f"{into.root} holds clips of its own",
            "name it among the workspaces, and a new folder with -w",
        )
    first = ingest_settings(given[0])
    for work in given[1:]:
        other = ingest_settings(work)
        for name in ("target", "encode"):
            one, two = getattr(first, name), getattr(other, name)
            if one != two:
                raise UserError(
                    f"{given[0].root} was made with {name} {one}, {work.root} with {two}",
                    "ingest one of them again with the other's settings; the rest is kept",
                )


def ingest_settings(work: Workspace) -> IngestConfig:
    """The settings that `curate ingest` ran with; the defaults where they were not saved."""
    from realdpo.config import resolve_settings
    from realdpo.curate.config import IngestConfig

    path = work.root / "config" / "curate-ingest.toml"
    return resolve_settings(IngestConfig, section="ingest", file=path if path.exists() else None)


def describe_merge(result: Mapping[str, Any]) -> str:
    """The counts and conflicts as lines for a terminal."""
    dropped = ", ".join(f"{n} {name}" for name, n in [*result["dropped"].items()][:6])
    splits = ", ".join(f"{n} {name}" for name, n in result["splits"].items())
    lines = [
        f"merged    {len(result['workspaces'])} workspaces: {result['sources']} sources, "
        f"{result['clips']} clips",
        f"dropped   {dropped or 'none'}",
        f"kept      {result['kept']}   {splits}",
    ]
    if result["not_cut_yet"]:
        lines.append(
            f"{result['not_cut_yet']} kept clips are not cut and not in the shards: "
            "ingest their footage into this workspace"
        )
    lines += [f"conflict: {n} {what}" for what, n in result["conflicts"].items()]
    return "\n".join(lines)


# --- sources ------------------------------------------------------------------------------------


def _sources(given: Sequence[Workspace], conflicts: Counter[str]) -> list[Row]:
    """A row for each source; what is told about one differently is settled."""
    rows: dict[str, Row] = {}
    paths: dict[str, str] = {}
    for work in given:
        for row in tables.read_table(work.sources, tables.SOURCES).to_pylist():
            key = row["source_id"] or f"path:{row['path']}"
            if row["source_id"] and row["path"] and paths.setdefault(row["path"], key) != key:
                conflicts["paths that name different files; both are kept"] += 1
            if key not in rows:
                rows[key] = row
                continue
            kept = rows[key]
            if kept["status"] != "ok" and row["status"] == "ok":
                kept, row = row, kept
            kept = {name: row.get(name) if value is None else value for name, value in kept.items()}
            if not os.path.exists(kept["path"] or "") and os.path.exists(row["path"] or ""):
                kept["path"] = row["path"]
            _settle_rights(kept, row, conflicts, "sources")
            rows[key] = kept
    # A file that could not be read under a path where it could be elsewhere is no failure.
    read = {row["path"] for row in rows.values() if row["source_id"]}
    return sorted(
        (row for row in rows.values() if row["source_id"] or row["path"] not in read),
        key=lambda row: (row["path"] or "", row["source_id"] or ""),
    )


def _settle_rights(kept: Row, other: Row, conflicts: Counter[str], what: str) -> None:
    """The stricter licence counts; of other words the first, if any, and the difference is said."""
    one, two = kept["license"], other.get("license")
    if one and two and licences.read_licence(one) != licences.read_licence(two):
        conflicts[f"{what} under two licences; the stricter counts"] += 1
    kept["license"] = licences.strictest_licence((one, two))
    for name in _TOLD:
        if other.get(name) and kept[name] != other[name]:
            conflicts[f"{what} with another {name}; the first counts"] += 1


# --- files --------------------------------------------------------------------------------------


def _take_files(given: Sequence[Workspace], into: Workspace) -> None:
    """Clips, caches and fingerprints of other sets, linked or copied, each once."""
    folders = [
        (work.root / folder, into.root / folder)
        for work in given
        for folder in ("clips", "against", *(f"steps/{name}" for name in _STEPS))
    ]
    files = [(path, new / path.relative_to(old)) for old, new in folders for path in _files(old)]
    todo = [(path, target) for path, target in files if not target.exists()]
    with progress_bar("take in", len(files), "files", done=len(files) - len(todo)) as advance:
        for path, target in todo:
            if not target.exists():  # nor taken from an earlier workspace meanwhile
                _link(path, target)
            advance()


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(".") and path.suffix != ".lock":
            yield path


def _link(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".jsonl":  # a ledger may still grow
        with contextlib.suppress(OSError):  # another disk, or one without links
            os.link(path, target)
            return
    with atomic_path(target) as temporary:
        shutil.copyfile(path, temporary)


def _take_edits(given: Sequence[Workspace], into: Workspace, conflicts: Counter[str]) -> None:
    rows: dict[str, dict[str, str]] = {}
    for work in (into, *given):
        if not edits.edits_path(work).is_file():
            continue
        for row in edits.read_rows(edits.edits_path(work)):
            kept = rows.setdefault(row["clip_id"], row)
            if kept["prompt"] != row["prompt"]:
                conflicts["clips with two edited captions; the first counts"] += 1
    if rows:
        edits.write_rows(edits.edits_path(into), rows.values())


def _take_config(given: Sequence[Workspace], into: Workspace, conflicts: Counter[str]) -> None:
    """The first workspace's settings; thresholds that differ in the others are said."""
    for name in ("curate-ingest", "curate-decide"):
        path = given[0].root / "config" / f"{name}.toml"
        if path.exists():
            write_text(into.root / "config" / f"{name}.toml", path.read_text(encoding="utf-8"))
    first = merged_thresholds(given[0])
    for work in given[1:]:
        other = merged_thresholds(work)
        differ = [key for key in {*first, *other} if first.get(key) != other.get(key)]
        if differ:
            conflicts["thresholds that differ; the first workspace's count"] += len(differ)


def merged_thresholds(work: Workspace) -> dict[str, float]:
    """The thresholds that judged a workspace's clips."""
    return decide.merge_thresholds(
        {**decide.asked_of_ingest(work), **decide.stored_thresholds(work)}
    )


# --- clips --------------------------------------------------------------------------------------


def _write_clips(
    given: Sequence[Workspace], into: Workspace, sources: Sequence[Row], conflicts: Counter[str]
) -> int:
    """Write the clips table a batch at a time; returns its rows."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    schemas = [tables.check_table(work.clips, tables.CLIPS) for work in given]
    names = sorted({name for schema in schemas for name in tables.score_columns(schema)})
    for name in names:
        lacking = [w for w, schema in zip(given, schemas, strict=True) if name not in schema.names]
        for work in lacking:
            rows = pq.read_metadata(work.clips).num_rows
            conflicts[f"clips of {work.root} without {name}, which others have"] += rows
    full = tables.CLIPS.full_schema(names)
    settled = _settled(given, conflicts)
    twice = pa.array(list(settled), pa.string())
    rights = {row["source_id"]: row["license"] for row in sources if row["source_id"]}
    wishes = {row["source_id"]: row["split"] for row in sources if row["source_id"]}
    count = 0
    with (
        atomic_path(into.clips) as temporary,
        pq.ParquetWriter(temporary, full, compression="zstd") as out,
    ):
        for work in given:
            for batch in tables.read_batches(work.clips):
                both = pc.is_in(batch["clip_id"], twice)
                again = batch.filter(both)["clip_id"].to_pylist()
                fresh = [settled.pop(clip) for clip in again if clip in settled]
                part = pa.concat_tables(
                    [
                        _widened(batch.filter(pc.invert(both)), full),
                        tables.from_rows(tables.CLIPS, fresh).cast(
                            tables.CLIPS.full_schema(_scores_of(fresh))
                        ),
                    ],
                    promote_options="default",
                )
                part = _widened(part, full)
                owners = part["source_id"].to_pylist()
                for name, known in (("license", rights), ("split", wishes)):
                    place = full.get_field_index(name)
                    column = pa.array([known.get(owner) for owner in owners], pa.string())
                    part = part.set_column(place, full.field(name), column)
                out.write_table(part.cast(full))
                count += part.num_rows
    return count


def _scores_of(rows: Sequence[Row]) -> list[str]:
    return sorted({name for row in rows for name in row if "." in name})


def _widened(part: Any, full: pa.Schema) -> pa.Table:
    """The rows with every column of the schema, null where there was none."""
    import pyarrow as pa

    return pa.table(
        {
            field.name: part[field.name]
            if field.name in part.schema.names
            else pa.nulls(part.num_rows, field.type)
            for field in full
        },
        schema=full,
    )


def _settled(given: Sequence[Workspace], conflicts: Counter[str]) -> dict[str, Row]:
    """Clips that several workspaces have, each as one row."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    ids = [pq.read_table(work.clips, columns=["clip_id"])["clip_id"] for work in given]
    counts = pa.chunked_array(
        [c for column in ids for c in column.chunks], pa.string()
    ).value_counts()
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    found: dict[str, list[Row]] = {}
    for work in given if len(twice) else ():
        for batch in tables.read_batches(work.clips):
            for row in batch.filter(pc.is_in(batch["clip_id"], twice)).to_pylist():
                found.setdefault(row["clip_id"], []).append(row)
    return {clip: _one(rows, conflicts) for clip, rows in found.items()}


def _one(rows: Sequence[Row], conflicts: Counter[str]) -> Row:
    """One row of the same clip out of several: cut over not cut, then the first; gaps filled."""
    best = next((row for row in rows if row["status"] == "ok" and row["path"]), rows[0])
    result = dict(best)
    for row in rows:
        if row is best:
            continue
        for name, value in row.items():
            if result.get(name) is None:
                result[name] = value
        if row["sha256"] and row["sha256"] != best["sha256"]:
            conflicts["clips whose bytes differ; the first counts"] += 1
        _settle_rights(result, row, conflicts, "clips")
        if any(
            _differ(result[name], row[name])
            for name in row
            if "." in name and not name.startswith(_ON_CAPTION)
        ):
            conflicts["clips with other scores; the first count"] += 1
    told = max(rows, key=_trust)  # the first of those trusted alike
    for name in {n for row in rows for n in row if n in _CAPTION or n.startswith(_ON_CAPTION)}:
        result[name] = told.get(name)
    if any(_trust(row) == _trust(told) and row["prompt"] != told["prompt"] for row in rows):
        conflicts["clips with two captions; the first counts"] += 1
    return result


def _trust(row: Row) -> int:
    """A person's caption before a model's, a sidecar's, keywords, the file's name, and none."""
    if not row["prompt"]:
        return -1
    return {EDIT: 4, SIDECAR: 2, KEYWORDS: 1, FILE_NAME: 0}.get(row["captioner"] or KEYWORDS, 3)


def _differ(one: float | None, two: float | None) -> bool:
    if one is None or two is None:
        return False
    return abs(one - two) > 1e-3 * max(1.0, abs(one), abs(two))


# --- judgement, splits, shards --------------------------------------------------------------------


def _judge(into: Workspace, config: IngestConfig, where: Where) -> dict[str, Any]:
    """Find duplicates across all, judge, balance, split, and write the shards."""
    import pyarrow.compute as pc

    from realdpo.curate import actions, ingestion

    dedup_blocks.find_duplicates(into.clips, into.step("dedup"), where=where)
    against.known_rows(into, into.clips, where)
    judged = decide.decide_workspace(into, merged_thresholds(into))
    light = [name for name in tables.check_table(into.clips, tables.CLIPS).names if name != "phash"]
    clips = tables.read_table(into.clips, tables.CLIPS, light)
    if config.per_action:
        clips = actions.balance_actions(clips, config.per_action)
    clips = ingestion.split_clips(clips, config)
    changed = {name: clips[name] for name in ("keep", "reasons", "split")}
    tables.replace_columns(into.clips, tables.CLIPS, changed)
    there = pc.and_(pc.is_valid(clips["path"]), pc.equal(clips["status"], "ok"))
    ready = clips.filter(pc.and_(clips["keep"], there))
    sizes = {c: into.clip_file(c).stat().st_size for c in ready["clip_id"].to_pylist()}
    ingestion.write_dataset(into, ready, sizes, config)
    counts = ready["split"].value_counts().to_pylist()
    return {
        "kept": ready.num_rows,
        "not_cut_yet": clips.filter(clips["keep"]).num_rows - ready.num_rows,
        "dropped": count_reasons(clips["reasons"]),
        "duplicates": judged["dropped"].get("duplicate", 0),
        "splits": {
            c["values"]: c["counts"] for c in sorted(counts, key=lambda c: str(c["values"]))
        },
    }


def _count_moved(given: Sequence[Workspace], into: Workspace, conflicts: Counter[str]) -> None:
    """Say how many sources stand in another split than before: old test scores do not compare."""
    now = _splits(into)
    for work in given:
        moved = sum(
            source in now and now[source] != split for source, split in _splits(work).items()
        )
        if moved:
            conflicts[f"sources of {work.root} that are in another split now"] += moved


def _splits(work: Workspace) -> dict[str, str]:
    import pyarrow.parquet as pq

    pairs = pq.read_table(work.clips, columns=["source_id", "split", "keep"])
    pairs = pairs.filter(pairs["keep"]).group_by(["source_id", "split"]).aggregate([]).to_pylist()
    return {row["source_id"]: row["split"] for row in pairs if row["split"]}


def _mark(given: Sequence[Workspace]) -> str:
    import tomli_w

    return tomli_w.dumps({"merge": {"workspaces": [str(work.root) for work in given]}})
