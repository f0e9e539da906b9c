"""From footage to a dataset: sources, shots, scores, decision, captions, clips, shards.

Every step keeps what it has finished under steps/, named by content and settings, so that a run
that is killed anywhere goes on where it was and ends with the same tables, byte for byte. The
steps are pure functions run by `realdpo.engine`; this process alone writes.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from realdpo import engine, ids, tables
from realdpo.curate import against, analyse, cut, dedup_blocks, shards, sources
from realdpo.curate.config import TARGETS, IngestConfig
from realdpo.curate.shots import divide, finder
from realdpo.curate.sources import Candidate
from realdpo.errors import UserError
from realdpo.files import write_bytes, write_text
from realdpo.ledger import Ledger
from realdpo.progress import bar, say
from realdpo.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

Row = TypeVar("Row")


@dataclass(frozen=True)
class Source:
    """A candidate that was looked at: its bytes' hash, or why it cannot be used."""

    candidate: Candidate
    path: str
    source_id: str | None = None
    error: str | None = None


def ingest(workspace: Workspace, footage: Sequence[str], config: IngestConfig) -> dict[str, Any]:
    """Bring the workspace's tables, clips and shards to what `footage` and `config` ask for.

    Returns the funnel (see `funnel`, and `nothing_read`). Raises UserError for footage that is
    not there, a workspace that is in use, a full disk.
    """
    candidates = sources.find(footage)
    with workspace.lock("curate ingest"):
        order = _order(candidates, config)
        done = _finished(workspace, order)
        if done is not None and _still_fail(workspace, candidates, done["failed"], config):
            return {**done["funnel"], "unchanged": True}
        check(config)
        found = identify(workspace, candidates, config)
        facts = measure(workspace, found, config)
        clips = remember(workspace, score(workspace, found, facts, config))
        clips = choose(workspace, clips, facts, config)
        clips = describe(workspace, clips, facts, config)
        clips, sizes = write_clips(workspace, clips, found, facts, config)
        clips = split(clips, config)
        tables.write(workspace.sources, tables.from_rows(tables.SOURCES, facts), tables.SOURCES)
        tables.write(workspace.clips, clips, tables.CLIPS)
        write_dataset(workspace, clips, sizes, config)
        result = funnel(facts, clips)
        _mark_finished(workspace, order, result, facts)
        return result


def check(config: IngestConfig) -> None:
    """Raise UserError for what would otherwise fail after hours of decoding, or in every file."""
    from realdpo.curate import decide
    from realdpo.curate.scores import sampled

    decide.thresholds(config.decide)
    sampled.require(config.extras)
    dataclasses.replace(config.captions, captioner=config.caption)
    finder(config.shots, Fraction(25))
    if config.shards.to:
        shards.require(config.shards.to)
    if config.engine == "ray":
        engine.require_ray(config.address)


# --- sources --------------------------------------------------------------------------------


def identify(
    workspace: Workspace, candidates: Sequence[Candidate], config: IngestConfig
) -> list[Source]:
    """Fetch what is remote over HTTP and hash every file that is new or has changed."""
    found: dict[str, Source] = {}
    fetch = functools.partial(
        _fetch,
        folder=workspace.step("downloads"),
        max_bytes=config.sources.max_download_mb << 20,
    )
    wanted = [c for c in candidates if c.path.startswith(("http://", "https://"))]
    for outcome in _run("fetch", "files", fetch, wanted, config, engine_name="local"):
        path = str(outcome.value or outcome.row.path)
        found[outcome.row.path] = Source(outcome.row, path, error=outcome.error)
    for candidate in candidates:
        found.setdefault(candidate.path, Source(candidate, candidate.path))

    with Ledger(workspace.step("sources")) as hashes:
        stamps = {s.path: f"{s.path}|{sources.stamp(s.path)}" for s in found.values()}
        todo = [s.path for s in found.values() if not s.error and not hashes.get(stamps[s.path])]
        failed: dict[str, str] = {}
        for hashed in _run("sources", "files", sources.sha256_of, todo, config):
            if hashed.error is None:
                hashes.put(stamps[hashed.row], hashed.value)
            else:
                failed[hashed.row] = hashed.error
        known = []
        for source in (found[candidate.path] for candidate in candidates):
            error = source.error or failed.get(source.path)
            source_id = None if error else hashes.get(stamps[source.path])
            promised = source.candidate.sha256
            if source_id and promised and source_id != promised.lower():
                name = source.path.replace("\n", "\\n")
                source_id, error = None, f"{name}: the manifest gives another sha256"
                say(f"sources: {error}")
            known.append(dataclasses.replace(source, source_id=source_id, error=error))
        return known


def _fetch(candidate: Candidate, folder: Path, max_bytes: int) -> Path:
    return sources.download(
        candidate.path, folder, max_bytes=max_bytes, sha256=candidate.sha256, sha1=candidate.sha1
    )


# --- shots and scores: the one decode -----------------------------------------------------------


def measure(
    workspace: Workspace, found: Sequence[Source], config: IngestConfig
) -> list[dict[str, Any]]:
    """Decode every new source once; returns the rows of the sources table, sorted by path."""
    first: dict[str, Source] = {}
    for source in found:
        if source.source_id:
            first.setdefault(source.source_id, source)
    tasks = {i: _analysis_task(source, len(first), config) for i, source in first.items()}
    folder = workspace.step("analyse")
    todo = [task for task in tasks.values() if not task.file(folder).exists()]
    failed: dict[str, str] = {}
    for outcome in _run("analyse", "sources", analyse.analyse, todo, config, len(tasks)):
        if outcome.value is not None:
            analyse.save(outcome.row.file(folder), outcome.value)
        else:
            failed[outcome.row.source_id] = outcome.error or "unknown"
    rows = []
    for source in found:
        row: dict[str, Any] = {
            "path": source.path,
            "source_id": source.source_id,
            "bytes": _size(source.path),
            **source.candidate.provenance(),
        }
        error = source.error or failed.get(source.source_id or "")
        if error is None and source.source_id:
            row |= analyse.load_notes(tasks[source.source_id].file(folder))["facts"]
        rows.append({**row, "status": "failed" if error else "ok", "error": error})
    return rows


def _analysis_task(source: Source, count: int, config: IngestConfig) -> analyse.Task:
    threads = engine.threads_per_worker(count, config.engine, config.workers)
    return analyse.Task(str(source.source_id), source.path, config.shots, threads)


def score(
    workspace: Workspace,
    found: Sequence[Source],
    facts: Sequence[Mapping[str, Any]],
    config: IngestConfig,
) -> pa.Table:
    """Divide every source's shots into clips and give each clip its scores: the clips table."""
    import pyarrow as pa

    rows = {row["source_id"]: row for row in reversed(facts) if row["status"] == "ok"}
    parts: list[pa.Table] = []
    folder = workspace.step("clips")
    with bar("score", len(rows), "sources") as advance:
        for source_id in sorted(rows):
            task = analyse.Task(source_id, rows[source_id]["path"], config.shots)
            analysis = task.file(workspace.step("analyse"))
            plan = ids.content_id(
                analysis=task.key, clips=config.clips, target=TARGETS[config.target],
                encode=config.encode, version=_plan_version(),
            )  # fmt: skip
            stored = folder / f"{plan}.parquet"
            if not stored.exists():
                fresh = tables.from_rows(tables.CLIPS, _clip_rows(analysis, source_id, config))
                tables.write(stored, fresh, tables.CLIPS)
            parts.append(_with_provenance(tables.read(stored, tables.CLIPS), rows[source_id]))
            advance()
    empty = tables.from_rows(tables.CLIPS, [])
    return pa.concat_tables([empty, *parts], promote_options="default").combine_chunks()


def _clip_rows(analysis: Path, source_id: str, config: IngestConfig) -> list[dict[str, Any]]:
    """Rows of the clips table for one source: every span with its scores, kept or not."""
    from realdpo.curate.scores import fingerprint, summarise
    from realdpo.curate.transitions import crossed

    result = analyse.load(analysis)
    target = TARGETS[config.target]
    fps, width, height = (Fraction(result.facts["fps"]), *_shown(result.facts))
    (scaled, _), _ = cut.placement(width, height, target)
    rows = []
    for span in divide(result.times, result.cuts, result.soft, fps, config.clips, target):
        reasons = list(span.reasons)
        if crossed(result.scores, float(span.start), float(span.end)):
            reasons.append("transition")
        if target.fps and fps < target.fps * Fraction(95, 100):
            reasons.append(f"too_slow={float(fps):.3g}<{float(target.fps):.3g}")
        rows.append(
            {
                "clip_id": cut.clip_id(source_id, span.start, span.end, target, config.encode),
                "source_id": source_id,
                "shot": span.shot,
                "start": _text(span.start),
                "end": _text(span.end),
                "start_s": float(span.start),
                "end_s": float(span.end),
                "status": "ok",
                "reasons": reasons,
                "source.fps": float(fps),
                "source.short_side": float(min(width, height)),
                "source.upscale": scaled / width,
                "source.hdr": float(result.facts["hdr"]),
                "phash": fingerprint(result.scores, float(span.start), float(span.end)),
                **_known(summarise(result.scores, float(span.start), float(span.end))),
            }
        )
    return rows


def _known(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in scores.items()}


@functools.lru_cache
def _plan_version() -> str:
    """Hash of the code that makes clips of an analysis."""
    files = [Path(__file__).with_name(name) for name in ("cut.py", "dedup.py", "ingestion.py")]
    return ids.content_id(
        measure=analyse.code_version(),
        code=[file.read_text(encoding="utf-8") for file in files if file.exists()],
    )


def _with_provenance(clips: pa.Table, source: Mapping[str, Any]) -> pa.Table:
    """What is known about the footage today, which may be more than when it was scored."""
    import pyarrow as pa

    for name in ("license", "author", "source_url", "title", "keywords", "retrieved_at", "split"):
        place = clips.schema.get_field_index(name)
        field = clips.schema.field(name)
        values = pa.array([source[name]] * clips.num_rows, field.type)
        clips = clips.set_column(place, field, values)
    return clips


def remember(workspace: Workspace, clips: pa.Table) -> pa.Table:
    """Scores of captions and meaning from the table on disk: they cost models, or money."""
    from realdpo.curate.caption.run import carried

    before = carried(workspace)
    order = clips["clip_id"].to_pylist()
    for name in sorted({key for row in before.values() for key in row if "." in key}):
        clips = _set_score(clips, name, [before.get(c, {}).get(name) for c in order])
    return clips


# --- decision ---------------------------------------------------------------------------------


def choose(
    workspace: Workspace,
    clips: pa.Table,
    facts: Sequence[Mapping[str, Any]],
    config: IngestConfig,
) -> pa.Table:
    """Set `keep` and `reasons` from the scores, the licences and near-duplicates.

    Clips that pass are then looked at by the models of `config.extras`, and judged once more.
    """
    from realdpo.curate import decide

    if not clips.num_rows:
        return clips
    fixed = [
        [*reasons, *_source_reasons(license_id, hdr, config)]
        for reasons, license_id, hdr in zip(
            clips["reasons"].to_pylist(),
            clips["license"].to_pylist(),
            clips["source.hdr"].to_pylist(),
            strict=True,
        )
    ]
    clips = _set(clips, "reasons", fixed)
    where = dedup_blocks.Where(config.engine, config.workers, config.address)
    links = dedup_blocks.find(clips, workspace.step("dedup"), where=where).tolist()
    known = against.known_rows(workspace, clips, where)
    limits = {**decide.stored(workspace), **config.decide}
    clips = decide.apply(clips, limits, links, known)
    if not config.extras:
        return clips
    return decide.apply(look(workspace, clips, facts, config), limits, links, known)


def look(
    workspace: Workspace,
    clips: pa.Table,
    facts: Sequence[Mapping[str, Any]],
    config: IngestConfig,
) -> pa.Table:
    """Add the scores of sampled frames (people, text, nsfw) to clips that are kept so far."""
    import pyarrow as pa

    from realdpo.curate.scores import sampled

    sampled.require(config.extras)
    paths = {row["source_id"]: row["path"] for row in reversed(facts) if row["status"] == "ok"}
    kept = clips.filter(clips["keep"]).select(["clip_id", "source_id", "start_s", "end_s"])
    version = ids.content_id(extras=sorted(config.extras), code=analyse.code_version())
    tasks = {
        f"{row['clip_id']}-{version}": (paths[row["source_id"]], row["start_s"], row["end_s"])
        for row in kept.to_pylist()
    }
    with Ledger(workspace.step("sampled")) as done:
        todo = [(key, *task) for key, task in tasks.items() if done.get(key) is None]
        step = functools.partial(_look_at, extras=config.extras)
        for outcome in _run("look", "clips", step, todo, config, len(tasks)):
            if outcome.value is not None:
                done.put(outcome.row[0], outcome.value)
        found = [done.get(f"{c}-{version}") or {} for c in clips["clip_id"].to_pylist()]
    for name in sorted({name for row in found for name in row}):
        values = pa.array([row.get(name) for row in found], pa.float32())
        clips = clips.append_column(name, values)
    return clips


def _look_at(
    row: tuple[str, str, float, float], extras: tuple[str, ...]
) -> dict[str, float | None]:
    from realdpo.curate.scores import sampled

    _, path, start, end = row
    return _known(sampled.measure(path, start, end, extras))


def _source_reasons(license_id: str | None, hdr: float, config: IngestConfig) -> list[str]:
    settings = config.sources
    reason = sources.license_reason(
        license_id, required=settings.require_license, allowed=settings.licenses
    )
    return [r for r in (reason, "hdr" if hdr and settings.hdr == "drop" else None) if r]


def describe(
    workspace: Workspace,
    clips: pa.Table,
    facts: Sequence[Mapping[str, Any]],
    config: IngestConfig,
) -> pa.Table:
    """Give every kept clip its action tags and its prompt, and balance the actions."""
    from realdpo.curate import actions
    from realdpo.curate.caption.run import caption_rows

    sources_by_id = {row["source_id"]: row for row in facts if row["source_id"]}
    rows = clips.filter(clips["keep"]).select(tables.CLIPS.schema.names).to_pylist()
    for row in rows:
        row["action"] = actions.tag([row["title"], *(row["keywords"] or ())])
    settings = dataclasses.replace(config.captions, captioner=config.caption)
    rows, _ = caption_rows(workspace, rows, sources_by_id, settings)
    for row in rows:
        row["action"] = actions.tag([row["title"], *(row["keywords"] or ()), row["prompt"]])
    written = {row["clip_id"]: row for row in rows}
    order = clips["clip_id"].to_pylist()
    for name in ("prompt", "captioner", "caption_status", "caption_raw", "action"):
        clips = _set(clips, name, [written.get(c, {}).get(name) for c in order])
    for name in sorted({key for row in rows for key in row if "." in key}):
        values = clips[name].to_pylist() if name in clips.schema.names else [None] * len(order)
        fresh = [
            written[c].get(name) if c in written else value
            for c, value in zip(order, values, strict=True)
        ]
        clips = _set_score(clips, name, fresh)
    return actions.balance(clips, config.per_action) if config.per_action else clips


# --- clips and shards -------------------------------------------------------------------------


def write_clips(
    workspace: Workspace,
    clips: pa.Table,
    found: Sequence[Source],
    facts: Sequence[Mapping[str, Any]],
    config: IngestConfig,
) -> tuple[pa.Table, dict[str, int]]:
    """Cut every kept clip that is not there yet; returns the table and the size of each clip."""
    about = {row["source_id"]: row for row in reversed(facts) if row["status"] == "ok"}
    kept = clips.filter(clips["keep"]).select(["clip_id", "source_id", "start", "end"]).to_pylist()
    with Ledger(workspace.step("cut")) as done:
        there = _names(workspace.clip_files)
        todo = [r for r in kept if not (done.get(r["clip_id"]) and f"{r['clip_id']}.mp4" in there)]
        threads = engine.threads_per_worker(len(todo), config.engine, config.workers)
        tasks = [_cut_task(row, about[row["source_id"]], config, threads) for row in todo]
        failed: dict[str, str] = {}
        for outcome in _run("cut", "clips", cut.cut, tasks, config, len(kept)):
            clip = outcome.value
            if clip is None:
                failed[outcome.row.clip_id] = outcome.error or "unknown"
                continue
            write_bytes(workspace.clip_file(outcome.row.clip_id), clip.data)
            done.put(
                outcome.row.clip_id,
                {
                    "sha256": ids.bytes_hash(clip.data),
                    "bytes": len(clip.data),
                    "width": clip.width,
                    "height": clip.height,
                    "frames": clip.frames,
                    "fps": _text(clip.fps),
                },
            )
        order = clips["clip_id"].to_pylist()
        wanted = {row["clip_id"] for row in kept}
        made = {c: done.get(c) for c in wanted if c not in failed}
    for name in ("sha256", "width", "height", "frames", "fps"):
        clips = _set(clips, name, [made[c][name] if c in made else None for c in order])
    clips = _set(clips, "path", [f"clips/{c}.mp4" if c in made else None for c in order])
    clips = _set(clips, "status", ["failed" if c in failed else "ok" for c in order])
    clips = _set(clips, "error", [failed.get(c) for c in order])
    return clips, {c: facts["bytes"] for c, facts in made.items()}


def _cut_task(
    row: Mapping[str, Any], source: Mapping[str, Any], config: IngestConfig, threads: int
) -> cut.Task:
    return cut.Task(
        clip_id=row["clip_id"],
        path=source["path"],
        start=Fraction(row["start"]),
        end=Fraction(row["end"]),
        width=source["width"],
        height=source["height"],
        fps=Fraction(source["fps"]),
        target=TARGETS[config.target],
        encode=config.encode,
        threads=threads,
    )


def split(clips: pa.Table, config: IngestConfig) -> pa.Table:
    """Give every clip of a source with kept clips its split; near-duplicates go together."""
    owner = dict(zip(clips["clip_id"].to_pylist(), clips["source_id"].to_pylist(), strict=True))
    links = [
        (owner[clip], owner[other])
        for clip, other in zip(
            clips["clip_id"].to_pylist(), clips["duplicate_of"].to_pylist(), strict=True
        )
        if other in owner
    ]
    kept = clips.filter(clips["keep"])["source_id"].unique().to_pylist()
    wishes = {
        source: wish
        for source, wish in zip(
            clips["source_id"].to_pylist(), clips["split"].to_pylist(), strict=True
        )
        if wish
    }
    there = set(kept)
    links = [(a, b) for a, b in links if a in there and b in there]
    place = shards.assign(kept, config.shards, linked=links, wishes=wishes)
    return _set(clips, "split", [place.get(s) for s in clips["source_id"].to_pylist()])


def write_dataset(
    workspace: Workspace, clips: pa.Table, sizes: Mapping[str, int], config: IngestConfig
) -> list[Path]:
    """The kept clips as shards, in the order of their ids, which mixes the sources."""
    import pyarrow.compute as pc

    ready = clips.filter(pc.and_(clips["keep"], pc.equal(clips["status"], "ok")))
    written = shards.write(workspace, ready.sort_by("clip_id"), sizes, config.shards)
    if config.shards.to:
        with bar("copy", len(written), "files") as advance:
            for path in written:
                shards.copy(path, workspace.data, config.shards.to)
                advance()
    return written


# --- the closing table --------------------------------------------------------------------------


def funnel(facts: Sequence[Mapping[str, Any]], clips: pa.Table) -> dict[str, Any]:
    """What went in, what was dropped for which reason, what is kept; hours of footage.

    A clip with several reasons counts under each. Reasons are named by the score they concern.
    """
    reasons: Counter[str] = Counter()
    seconds = kept_seconds = 0.0
    kept: Counter[str] = Counter()
    for keep, status, why, start, end, part in zip(
        *(
            clips[name].to_pylist()
            for name in ("keep", "status", "reasons", "start_s", "end_s", "split")
        ),
        strict=True,
    ):
        seconds += end - start
        if keep and status == "ok":
            kept[part] += 1
            kept_seconds += end - start
        for reason in {text.split("=")[0] for text in why or ()}:
            reasons[reason] += 1
        if status == "failed":
            reasons["failed"] += 1
    return {
        "sources": len(facts),
        "sources_failed": sum(row["status"] == "failed" for row in facts),
        "source_hours": sum(row.get("duration_s") or 0.0 for row in facts) / 3600,
        "clips": clips.num_rows,
        "clip_hours": seconds / 3600,
        "dropped": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        "kept": sum(kept.values()),
        "kept_hours": kept_seconds / 3600,
        "splits": dict(sorted(kept.items())),
    }


# --- a finished workspace -------------------------------------------------------------------------


def _order(candidates: Sequence[Candidate], config: IngestConfig) -> str:
    """Names the whole request: every file as it is now, and every setting that matters."""
    settings = dataclasses.replace(config, engine="local", workers=0, address="")
    listed = [[dataclasses.asdict(c), sources.stamp(c.path)] for c in candidates]
    return ids.content_id(settings=settings, footage=listed, version=_plan_version())


def _finished(workspace: Workspace, order: str) -> dict[str, Any] | None:
    """The mark of an earlier run that did all of this and whose results are still there."""
    try:
        mark = json.loads((workspace.step("ingest") / "finished.json").read_text())
    except (OSError, ValueError):
        return None
    return mark if mark["order"] == order and mark["results"] == _results(workspace) else None


def _still_fail(
    workspace: Workspace,
    candidates: Sequence[Candidate],
    failed: Sequence[str],
    config: IngestConfig,
) -> bool:
    """Try the sources that failed last time once more; False when one of them now works."""
    again = [candidate for candidate in candidates if candidate.path in set(failed)]
    rows = measure(workspace, identify(workspace, again, config), config) if again else []
    return all(row["status"] == "failed" for row in rows)


def _mark_finished(
    workspace: Workspace,
    order: str,
    result: Mapping[str, Any],
    facts: Sequence[Mapping[str, Any]],
) -> None:
    if "failed" in result["dropped"]:
        return  # clips that could not be cut are tried again by the next run
    failed = [row["path"] for row in facts if row["status"] == "failed"]
    mark = {"order": order, "results": _results(workspace), "failed": failed, "funnel": result}
    write_text(workspace.step("ingest") / "finished.json", json.dumps(mark))


def _results(workspace: Workspace) -> dict[str, Any]:
    """Stamps of the tables and shards, and the number of clip files."""
    files = [
        workspace.sources,
        workspace.clips,
        *sorted(p for p in workspace.data.glob("**/*") if p.is_file()),
    ]
    found = {str(f.relative_to(workspace.root)): sources.stamp(str(f)) for f in files}
    return {**found, "clips": len(_names(workspace.clip_files))}


# --- small parts ------------------------------------------------------------------------------


def _run(
    title: str,
    unit: str,
    step: Callable[[Row], Any],
    rows: Sequence[Row],
    config: IngestConfig,
    total: int | None = None,
    engine_name: str | None = None,
) -> Iterable[engine.Outcome[Row, Any]]:
    """Run a step with its progress bar; rows that were done before count as done."""
    total = len(rows) if total is None else total
    if not total:
        return
    with bar(title, total, unit, done=total - len(rows)) as advance:
        for outcome in engine.run(
            step,
            rows,
            engine=engine_name or config.engine,
            workers=config.workers,
            address=config.address,
        ):
            if outcome.error:
                say(f"{title}: {outcome.error}")
            yield outcome
            advance()


def _set(table: pa.Table, name: str, values: Sequence[Any]) -> pa.Table:
    import pyarrow as pa

    field = tables.CLIPS.schema.field(name)
    place = table.schema.get_field_index(name)
    return table.set_column(place, field, pa.array(values, field.type))


def _set_score(table: pa.Table, name: str, values: Sequence[float | None]) -> pa.Table:
    import pyarrow as pa

    if name in table.schema.names:
        table = table.drop_columns([name])
    return table.append_column(pa.field(name, pa.float32()), pa.array(values, pa.float32()))


def _shown(facts: Mapping[str, Any]) -> tuple[int, int]:
    return facts["width"], facts["height"]


def _size(path: str) -> int | None:
    try:
        return Path(path).stat().st_size
    except OSError:
        return None


def _names(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in folder.iterdir() if entry.suffix == ".mp4"}
    except OSError:
        return set()


def _text(time: Fraction) -> str:
    return f"{time.numerator}/{time.denominator}"


def nothing_read(workspace: Workspace, result: Mapping[str, Any]) -> UserError | None:
    """The error that a run ends with when not one of its sources could be read, else None.

    The tables are written by then, and hold the reason of each.
    """
    if result["sources_failed"] < result["sources"]:
        return None
    first = tables.read(workspace.sources, tables.SOURCES).slice(0, 1).to_pylist()[0]
    path, reason = (str(first[name]).replace("\n", "\\n") for name in ("path", "error"))
    return UserError(
        f"no source could be read ({result['sources_failed']} failed): "
        + (reason if path in reason else f"{path}: {reason}"),
        "mend or replace the footage and run the same command again; "
        f"every reason is listed by: realdpo curate report -w {workspace.root}",
    )


def plan(footage: Sequence[str]) -> list[str]:
    """Paths of all the sources that `footage` names; nothing is read or written."""
    return [candidate.path for candidate in sources.find(footage)]


def closing_table(result: Mapping[str, Any]) -> str:
    """The funnel as lines of text."""
    lines = [
        f"sources   {result['sources']:>7}   {result['source_hours']:8.3f} h"
        + (f"   {result['sources_failed']} failed" if result["sources_failed"] else ""),
        f"clips     {result['clips']:>7}   {result['clip_hours']:8.3f} h",
    ]
    lines += [f"  dropped {n:>7}   {reason}" for reason, n in result["dropped"].items()]
    shares = ", ".join(f"{n} {name}" for name, n in result["splits"].items())
    lines.append(f"kept      {result['kept']:>7}   {result['kept_hours']:8.3f} h   {shares}")
    if result.get("unchanged"):
        lines.append("nothing has changed since the last run")
    return "\n".join(lines)
