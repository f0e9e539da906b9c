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

from realdpo import engine, ids, licences, tables
from realdpo.curate import (
    against,
    analyse,
    cut,
    decide,
    dedup_blocks,
    downloads,
    earlier,
    framing,
    shards,
    sources,
)
from realdpo.curate.caption.config import SIDECAR
from realdpo.curate.config import SLOWEST, TARGETS, IngestConfig
from realdpo.curate.shots import divide_given, divide_shots, make_finder
from realdpo.curate.sources import Candidate
from realdpo.errors import UserError
from realdpo.files import write_bytes, write_text
from realdpo.ledger import Ledger
from realdpo.progress import progress_bar, say
from realdpo.reasons import Reason, count_reasons
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


def ingest_footage(
    workspace: Workspace,
    footage: Sequence[str],
    config: IngestConfig,
    *,
    prune: Callable[[Sequence[str]], bool] | None = None,
) -> dict[str, Any]:
    """Bring the workspace's tables, clips and shards to what `footage` and `config` ask for.

    What earlier runs made stays, also when its footage cannot be read now or is not named (see
    `earlier`). prune: removes that, when it returns True for the lines that say what would go.

    Returns the funnel (see `count_funnel`, and `nothing_read`). Raises UserError for footage that is
    not there, a workspace that is in use, a full disk.
    """
    footage = [footage] if isinstance(footage, str) else footage
    notes = sources.Notes()
    candidates = sources.find_footage(footage, workspace.root, notes)
    with workspace.lock("curate ingest"):
        before = earlier.read_earlier(workspace)
        chosen = {**decide.stored_thresholds(workspace), **_given(config)}
        limits = {**_of_target(config), **chosen}
        order = _order(candidates, before, limits, config)
        done = _finished(workspace, order) if prune is None else None
        if done is not None and _still_fail(workspace, candidates, done["failed"], config):
            return _told({**done["funnel"], "unchanged": True})
        check_settings(config)
        found = identify_sources(workspace, candidates, config)
        facts = measure_sources(workspace, found, config)
        known = earlier.keep_known(facts, before, footage)
        if again := _read_again(found, facts, before):
            shown = ", ".join(again[:3]) + (f" and {len(again) - 3} more" if again[3:] else "")
            notes.add(f"could not be read before, and can now: {shown}")
        removed: list[str] = []
        if prune is not None and (text := earlier.removed_text(known, before)):
            if not prune(text):
                raise UserError("nothing was removed")
            removed = _clip_names(before, known)
            known = earlier.prune_sources(known, facts)
        owners = earlier.owning_rows(known.rows, notes)
        clips = score_clips(workspace, found, owners, config)
        clips = with_carried(clips, earlier.carried_clips(before, known), owners)
        clips = remember_scores(workspace, clips)
        clips = choose_clips(workspace, clips, owners, limits, config)
        clips = describe_clips(workspace, clips, owners, config)
        clips, sizes = write_clips(workspace, clips, owners, known.carried, config)
        clips = split_clips(clips, config)
        table = tables.from_rows(tables.SOURCES, known.rows)
        tables.write_table(workspace.sources, table, tables.SOURCES)
        tables.write_table(workspace.clips, clips, tables.CLIPS)
        write_dataset(workspace, clips, sizes, config)
        for name in set(removed) - set(clips["clip_id"].to_pylist()):
            workspace.clip_file(name).unlink(missing_ok=True)
        unused = sum(bool(row.get("captions")) for row in owners.values())
        if unused and config.caption != SIDECAR:
            notes.add(
                f"captions came with {unused} sources and are not used: --caption sidecar takes them"
            )
        if strange := licences.not_understood(row["license"] for row in known.rows):
            texts = ", ".join(f"{text!r} ({count})" for text, count in strange.items())
            notes.add(f"licences that are not understood, of sources: {texts}")
        result = {
            **count_funnel(known.rows, clips),
            "prompts": prompts_from(clips, owners),
            "missing": [str(row["path"] or row["source_id"]) for row in known.missing],
            "notes": [*notes.lines(), *earlier.unseen_warnings(known)],
            "pruned": len(removed),
        }
        workspace.save_config("curate decide", decide.saved_toml(chosen))
        _mark_finished(workspace, order, result, candidates, known.rows)
        return _told(result)


def _read_again(
    found: Sequence[Source], facts: Sequence[Mapping[str, Any]], before: earlier.Earlier
) -> list[str]:
    """Addresses and paths of sources that failed in the run before and are well now."""
    failed = {row["path"] for row in before.sources if row["status"] != "ok"}
    pairs = zip(found, facts, strict=True)
    well = (source.candidate.path for source, row in pairs if row["status"] == "ok")
    return [path.replace("\n", "\\n") for path in well if path in failed]


def _of_target(config: IngestConfig) -> dict[str, Any]:
    """The thresholds that the target brings along."""
    return dict(IngestConfig(target=config.target).decide)


def _given(config: IngestConfig) -> dict[str, Any]:
    """The thresholds that the user gave."""
    brought = _of_target(config)
    return {k: v for k, v in config.decide.items() if k not in brought or brought[k] != v}


def _told(result: dict[str, Any]) -> dict[str, Any]:
    for line in result["notes"]:
        say(line)
    return result


def _clip_names(before: earlier.Earlier, known: earlier.KnownSources) -> list[str]:
    gone = earlier.carried_clips(before, known)
    return [] if gone is None else gone["clip_id"].to_pylist()


def check_settings(config: IngestConfig) -> None:
    """Raise UserError for what would otherwise fail after hours of decoding, or in every file."""
    from realdpo.curate.scores import sampled

    decide.merge_thresholds(config.decide)
    sampled.require_extras(config.extras, config.models)
    dataclasses.replace(config.captions, captioner=config.caption)
    make_finder(config.shots, Fraction(25))
    if config.shards.to:
        shards.require_destination(config.shards.to)
    if config.engine == "ray":
        engine.require_ray(config.address)


# --- sources --------------------------------------------------------------------------------


def identify_sources(
    workspace: Workspace, candidates: Sequence[Candidate], config: IngestConfig
) -> list[Source]:
    """Fetch what is remote over HTTP and hash every file that is new or has changed."""
    found: dict[str, Source] = {}
    fetch = functools.partial(
        _fetch, folder=workspace.step("downloads"), max_bytes=config.sources.max_download_mb << 20
    )
    wanted = [c for c in candidates if _is_web(c.path) and not c.error]
    for outcome in _run("fetch", "files", fetch, wanted, config, engine_name="local"):
        path = str(outcome.value or outcome.row.path)
        found[outcome.row.path] = Source(outcome.row, path, error=outcome.error)
    for candidate in candidates:
        said = candidate.error or (candidate.prompt_error if config.caption == SIDECAR else None)
        found.setdefault(candidate.path, Source(candidate, candidate.path, error=said))
        if said:
            say(f"sources: {said}")

    with Ledger(workspace.step("sources")) as hashes:
        stamps = {s.path: f"{s.path}|{sources.file_stamp(s.path)}" for s in found.values()}
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
    return downloads.download_film(
        candidate.path, folder, max_bytes=max_bytes, sha256=candidate.sha256, sha1=candidate.sha1
    )


def _is_web(path: str) -> bool:
    return path.startswith(("http://", "https://"))


# --- shots and scores: the one decode -----------------------------------------------------------


def measure_sources(
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
    for outcome in _run("analyse", "sources", analyse.analyse_source, todo, config, len(tasks)):
        if outcome.value is not None:
            analyse.save_analysis(outcome.row.file(folder), outcome.value)
            for line in analyse.breaks_text(analyse.parts_of(outcome.value.facts)):
                say(f"analyse: {outcome.row.path} is divided: {line}")
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
        if error and _is_web(source.candidate.path):
            error = _of_download(source, error)
        if error is None and source.source_id:
            row |= analyse.load_notes(tasks[source.source_id].file(folder))["facts"]
        rows.append({**row, "status": "failed" if error else "ok", "error": error})
    return rows


def _of_download(source: Source, error: str) -> str:
    """The error with the address; what came from there is not kept when it is no film."""
    path = Path(source.path)
    if not source.error and downloads.not_a_film(path):
        path.unlink(missing_ok=True)
    address = source.candidate.path
    return error if address in error else f"{address}: {error.removeprefix(f'{path}: ')}"


def _analysis_task(source: Source, count: int, config: IngestConfig) -> analyse.AnalysisTask:
    threads = engine.threads_per_worker(count, config.engine, config.workers)
    return analyse.AnalysisTask(str(source.source_id), source.path, config.shots, threads)


def score_clips(
    workspace: Workspace,
    found: Sequence[Source],
    owners: Mapping[str, Mapping[str, Any]],
    config: IngestConfig,
) -> pa.Table:
    """Divide every source's shots into clips and give each clip its scores: the clips table."""
    import pyarrow as pa

    named = {source.source_id for source in found}
    rows = {k: row for k, row in owners.items() if k in named and row["status"] == "ok"}
    parts: list[pa.Table] = []
    folder = workspace.step("clips")
    with progress_bar("score", len(rows), "sources") as advance:
        for source_id in sorted(rows):
            row = rows[source_id]
            task = analyse.AnalysisTask(source_id, row["path"], config.shots)
            analysis = task.file(workspace.step("analyse"))
            times = [(span["start"], span["end"]) for span in row["spans"] or ()]
            plan = ids.content_id(
                analysis=task.key,
                clips=config.clips,
                target=TARGETS[config.target],
                encode=config.encode,
                crop=_placing(config),
                version=_plan_version(),
                spans=times,
            )
            stored = folder / f"{plan}.parquet"
            if not stored.exists():
                given = [(Fraction(a), None if b is None else Fraction(b)) for a, b in times]
                fresh = _clip_rows(analysis, source_id, given, config)
                tables.write_table(stored, tables.from_rows(tables.CLIPS, fresh), tables.CLIPS)
            parts.append(_with_provenance(tables.read_table(stored, tables.CLIPS), row))
            advance()
    empty = tables.from_rows(tables.CLIPS, [])
    return pa.concat_tables([empty, *parts], promote_options="default").combine_chunks()


def with_carried(
    clips: pa.Table, carried: pa.Table | None, owners: Mapping[str, Mapping[str, Any]]
) -> pa.Table:
    """The clips of this run and those of sources that it has not seen, by source."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if carried is None:
        return clips
    parts = []
    for source_id in carried["source_id"].unique().to_pylist():
        own = carried.filter(pc.equal(carried["source_id"], source_id))
        parts.append(_with_provenance(own, owners[source_id]))
    both = pa.concat_tables([clips, *parts], promote_options="default")
    return both.sort_by([("source_id", "ascending"), ("start_s", "ascending")]).combine_chunks()


def _clip_rows(
    analysis: Path,
    source_id: str,
    given: Sequence[tuple[Fraction, Fraction | None]],
    config: IngestConfig,
) -> list[dict[str, Any]]:
    """Rows of the clips table for one source: every span with its scores, kept or not.

    given: spans that came with the footage; where there are some, no shots are looked for.
    """
    from realdpo.curate.scores import span_fingerprint, span_motion_map, summarise_span

    result = analyse.load_analysis(analysis)
    target = TARGETS[config.target]
    parts = analyse.parts_of(result.facts)
    breaks, fps = analyse.breaks_of(parts), Fraction(result.facts["fps"])
    rows: dict[str, dict[str, Any]] = {}
    spans = (
        divide_given(result.times, given, fps, config.clips, target, breaks)
        if given
        else divide_shots(result.times, result.cuts, result.soft, fps, config.clips, target, breaks)
    )
    for span in spans:
        part = analyse.part_at(parts, span.start)
        fps, width, height = part.fps, part.width, part.height
        reasons = list(span.reasons)
        if target.fps and fps < target.fps * SLOWEST:
            rates = f"{float(fps):.3g}", f"{float(target.fps):.3g}"
            reasons.append(Reason("too_slow", rates[0], "min", rates[1]))
        scores = summarise_span(result.scores, float(span.start), float(span.end))
        where = span_motion_map(result.scores, float(span.start), float(span.end))
        picture = framing.without_bars(scores, width, height)
        subject = where if config.clips.crop == "subject" else None
        crop = framing.frame_clip(picture, width, height, target, moving=subject)
        scores |= framing.of_crop(crop, where, scores)
        name = cut.clip_id(source_id, span.start, span.end, target, config.encode, _placing(config))
        rows.setdefault(  # spans that overlap may begin with the same clip
            name,
            {
                "clip_id": name,
                "source_id": source_id,
                "shot": span.shot,
                "start": _text(span.start),
                "end": _text(span.end),
                "start_s": float(span.start),
                "end_s": float(span.end),
                "status": "ok",
                "reasons": [str(reason) for reason in reasons],
                "source.fps": float(fps),
                "source.short_side": min(picture.width * width, picture.height * height),
                "source.upscale": target.width / (crop.width * width) if target.width else 1.0,
                "source.hdr": float(result.facts["hdr"]),
                "phash": span_fingerprint(result.scores, float(span.start), float(span.end)),
                **_known(scores),
            },
        )
    return list(rows.values())


def _placing(config: IngestConfig) -> str:
    """How the crop of a clip is found; part of its id."""
    if config.clips.crop == "subject" and "people" in config.extras:
        return f"people:{config.models.detector}:{config.models.threshold:g}"
    return config.clips.crop


def _known(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in scores.items()}


def _plan_version() -> str:
    """Names the way from an analysis to the rows of its clips."""
    from realdpo.curate import scores, shots

    return f"{shots.VERSION}-{scores.VERSION}-{framing.VERSION}"


def _versions() -> dict[str, Any]:
    """All that decides what a run makes beside its footage, settings and thresholds."""
    from realdpo.curate import actions
    from realdpo.curate.scores import sampled

    return {
        "analyse": analyse.analysis_version(),
        "plan": _plan_version(),
        "look": sampled.VERSION,
        "decide": decide.VERSION,
        "duplicates": (dedup_blocks.VERSION, against.VERSION),
        "actions": actions.read_taxonomy(),
        "cut": cut.VERSION,
        "shards": shards.VERSION,
    }


def _with_provenance(clips: pa.Table, source: Mapping[str, Any]) -> pa.Table:
    """What is known about the footage today, which may be more than when it was scored."""
    import pyarrow as pa

    for name in earlier.PROVENANCE:
        place = clips.schema.get_field_index(name)
        field = clips.schema.field(name)
        values = pa.array([source[name]] * clips.num_rows, field.type)
        clips = clips.set_column(place, field, values)
    return clips


def remember_scores(workspace: Workspace, clips: pa.Table) -> pa.Table:
    """Scores of captions and meaning from the table on disk: they cost models, or money."""
    from realdpo.curate.caption.run import Before

    for name, column in sorted(Before.read(workspace).columns(clips["clip_id"]).items()):
        clips = _set_score(clips, name, column)
    return clips


# --- decision ---------------------------------------------------------------------------------


def choose_clips(
    workspace: Workspace,
    clips: pa.Table,
    owners: Mapping[str, Mapping[str, Any]],
    limits: Mapping[str, Any],
    config: IngestConfig,
) -> pa.Table:
    """Set `keep` and `reasons` from the scores, the licences and near-duplicates.

    Clips that pass are then looked at by the models of `config.extras`, and judged once more.
    """
    if not clips.num_rows:
        return clips
    fixed = [
        [*(reasons or ()), *map(str, _source_reasons(license_id, hdr, config))]
        for reasons, license_id, hdr in zip(
            clips["reasons"].to_pylist(),
            clips["license"].to_pylist(),
            clips["source.hdr"].to_pylist()
            if "source.hdr" in clips.schema.names
            else [None] * clips.num_rows,
            strict=True,
        )
    ]
    clips = _set(clips, "reasons", fixed)
    where = dedup_blocks.Where(config.engine, config.workers, config.address)
    links = dedup_blocks.find_duplicates(clips, workspace.step("dedup"), where=where).tolist()
    known = against.known_rows(workspace, clips, where)
    clips = decide.decide_clips(clips, limits, links, known)
    if not config.extras:
        return clips
    return decide.decide_clips(
        look_at_samples(workspace, clips, owners, config), limits, links, known
    )


def look_at_samples(
    workspace: Workspace,
    clips: pa.Table,
    owners: Mapping[str, Mapping[str, Any]],
    config: IngestConfig,
) -> pa.Table:
    """Add the scores of sampled frames (people, text, nsfw) to clips that are kept so far.

    Where people are found, they say which part of the picture the clip shows.
    """
    from realdpo.curate.scores import sampled

    sampled.require_extras(config.extras, config.models)
    about = {k: row for k, row in owners.items() if row["status"] == "ok" and row["path"]}
    bars = [name for name in clips.schema.names if name.startswith(("box.", "crop."))]
    kept = clips.filter(clips["keep"])
    kept = kept.select(["clip_id", "source_id", "start", "start_s", "end_s", *bars])
    rows = {row["clip_id"]: row for row in kept.to_pylist() if row["source_id"] in about}
    version = ids.content_id(
        extras=sorted(config.extras),
        models=config.models,
        crop=_placing(config),
        version=(sampled.VERSION, _plan_version()),
    )
    tasks = {f"{name}-{version}": row for name, row in rows.items()}
    with Ledger(workspace.step("sampled")) as done:
        todo = [
            (key, about[row["source_id"]], row)
            for key, row in tasks.items()
            if done.get(key) is None
        ]
        step = functools.partial(_look_at, config=config)
        for outcome in _run("look", "clips", step, todo, config, len(tasks)):
            if outcome.value is not None:
                done.put(outcome.row[0], outcome.value)
        found = {name: dict(done.get(f"{name}-{version}") or {}) for name in rows}
    # What moves within a crop that people have moved; one source's frames at a time.
    by_source: dict[str, list[str]] = {}
    for name, scores in found.items():
        if any(scores.get(key) != rows[name].get(key) for key in framing.NAMES if scores):
            by_source.setdefault(rows[name]["source_id"], []).append(name)
    for source_id, names in by_source.items():
        source = about[source_id]
        task = analyse.AnalysisTask(source_id, source["path"], config.shots)
        numbers = analyse.load_analysis(task.file(workspace.step("analyse"))).scores
        for name in names:
            found[name] |= _known(_of_crop(numbers, found[name], rows[name]))
    order = clips["clip_id"].to_pylist()
    for column in sorted({column for scores in found.values() for column in scores}):
        before = clips[column].to_pylist() if column in clips.schema.names else [None] * len(order)
        values = [
            found.get(clip, {}).get(column, old) for clip, old in zip(order, before, strict=True)
        ]
        clips = _set_score(clips, column, values)
    return clips


def _look_at(
    row: tuple[str, Mapping[str, Any], Mapping[str, Any]], config: IngestConfig
) -> dict[str, float | None]:
    from realdpo.curate.scores import sampled

    _, source, clip = row
    part = analyse.part_at(analyse.parts_of(source), Fraction(clip["start"]))
    width, height = part.width, part.height
    bars = {name: value for name, value in clip.items() if name.startswith("box.") and value}
    choose = functools.partial(
        framing.frame_clip,
        framing.without_bars(bars, width, height),
        width,
        height,
        TARGETS[config.target],
    )
    seen = sampled.score_samples(
        source["path"],
        clip["start_s"],
        clip["end_s"],
        config.extras,
        config.models,
        framing.from_scores(clip),
        choose if config.clips.crop == "subject" else None,
    )
    return {**_known(seen.scores), **framing.scores_of(seen.crop)}


def _of_crop(
    numbers: Mapping[str, Any], found: Mapping[str, Any], clip: Mapping[str, Any]
) -> dict[str, float]:
    """The scores of a clip that change with the part of the picture that it shows."""
    from realdpo.curate.scores import span_motion_map, summarise_span

    span = (clip["start_s"], clip["end_s"])
    scores = summarise_span(numbers, *span)
    crop = framing.from_scores(found)
    fresh = framing.of_crop(crop, span_motion_map(numbers, *span), scores)
    return {name: value for name, value in fresh.items() if name not in found}


def _source_reasons(
    license_id: str | None, hdr: float | None, config: IngestConfig
) -> list[Reason]:
    settings = config.sources
    license_reason = licences.licence_reason(
        license_id, required=settings.require_license, allowed=settings.licenses
    )
    hdr_reason = Reason("hdr") if hdr and settings.hdr == "drop" else None
    return [reason for reason in (license_reason, hdr_reason) if reason]


def describe_clips(
    workspace: Workspace,
    clips: pa.Table,
    owners: Mapping[str, Mapping[str, Any]],
    config: IngestConfig,
) -> pa.Table:
    """Give every kept clip its action tags and its prompt, and balance the actions."""
    import pyarrow.compute as pc

    from realdpo.curate import actions
    from realdpo.curate.caption.run import Before, caption_rows, in_batches

    settings = dataclasses.replace(config.captions, captioner=config.caption)
    before = Before.read(workspace)

    def write(rows: Sequence[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        for row in rows:
            row["action"] = actions.tag_actions([row["title"], *(row["keywords"] or ())])
        done, counted = caption_rows(workspace, rows, owners, settings, before=before)
        for row in done:
            row["action"] = actions.tag_actions(
                [row["title"], *(row["keywords"] or ()), row["prompt"]]
            )
        return done, counted

    names = [name for name in tables.CLIPS.schema.names if name != "phash"]
    written, _ = in_batches(clips.filter(clips["keep"]).select(names), settings, write)
    places = pc.index_in(clips["clip_id"], value_set=written["clip_id"].combine_chunks())
    written = written.combine_chunks()
    for name in ("prompt", "captioner", "caption_status", "caption_raw", "action"):
        clips = _set(clips, name, written[name].take(places))
    for name in tables.score_columns(written):
        fresh = written[name].take(places)
        if name in clips.schema.names:  # of clips that were dropped, what was known stays
            fresh = pc.if_else(pc.is_valid(places), fresh, clips[name])
        clips = _set_score(clips, name, fresh)
    return actions.balance_actions(clips, config.per_action) if config.per_action else clips


# --- clips and shards -------------------------------------------------------------------------


def write_clips(
    workspace: Workspace,
    clips: pa.Table,
    owners: Mapping[str, Mapping[str, Any]],
    carried: frozenset[str],
    config: IngestConfig,
) -> tuple[pa.Table, dict[str, int]]:
    """Cut every kept clip that is not there yet; returns the table and the size of each clip.

    carried: ids of sources that were not seen: their clips stay as they are, and one whose file
    is away is taken out of the shards.
    """
    columns = ["clip_id", "source_id", "start", "end", "sha256", "width", "height", "frames", "fps"]
    columns += [name for name in framing.NAMES if name in clips.schema.names]
    kept = clips.filter(clips["keep"]).select(columns).to_pylist()
    fresh = [row for row in kept if row["source_id"] not in carried]
    old = {row["clip_id"]: row for row in kept if row["source_id"] in carried}
    with Ledger(workspace.step("cut")) as done:
        there = _names(workspace.clip_files)
        todo = [row for row in fresh if not (_made(done, row) and f"{row['clip_id']}.mp4" in there)]
        threads = engine.threads_per_worker(len(todo), config.engine, config.workers)
        tasks = [_cut_task(row, owners[row["source_id"]], config, threads) for row in todo]
        failed: dict[str, str] = {}
        for outcome in _run("cut", "clips", cut.cut_clip, tasks, config, len(fresh)):
            clip = outcome.value
            if clip is None:
                failed[outcome.row.clip_id] = outcome.error or "unknown"
                continue
            write_bytes(workspace.clip_file(outcome.row.clip_id), clip.data)
            done.put(
                outcome.row.clip_id,
                {
                    "version": cut.VERSION,
                    "sha256": ids.bytes_hash(clip.data),
                    "bytes": len(clip.data),
                    "width": clip.width,
                    "height": clip.height,
                    "frames": clip.frames,
                    "fps": _text(clip.fps),
                    "crop": _crop_of(framing.scores_of(outcome.row.crop)),
                },
            )
        away = {c: r["sha256"] for c, r in old.items() if f"{c}.mp4" not in there and r["sha256"]}
        away |= {c: record["sha256"] for c in failed if (record := done.get(c))}
        back = earlier.restore_clips(workspace, away)
        made: dict[str, Any] = {}
        for row in kept:
            name = row["clip_id"]
            if name in failed and name in back:
                del failed[name]
            if name in old and (name in back or f"{name}.mp4" in there) and row["sha256"]:
                made[name] = {**row, "bytes": _size(str(workspace.clip_file(name)))}
            elif name in old:
                failed[name] = "it is not cut, and its source was not read by this run"
            elif name not in failed:
                made[name] = done.get(name)
        order = clips["clip_id"].to_pylist()
    for name in ("sha256", "width", "height", "frames", "fps"):
        clips = _set(clips, name, [made[c][name] if c in made else None for c in order])
    clips = _set(clips, "path", [f"clips/{c}.mp4" if c in made else None for c in order])
    clips = _set(clips, "status", ["failed" if c in failed else "ok" for c in order])
    clips = _set(clips, "error", [failed.get(c) for c in order])
    return clips, {c: facts["bytes"] for c, facts in made.items()}


def _made(done: Ledger, row: Mapping[str, Any]) -> bool:
    """Whether a clip was cut, by the code of today and out of the same part of the picture."""
    record = done.get(row["clip_id"]) or {}
    return record.get("version") == cut.VERSION and record.get("crop") == _crop_of(row)


def _cut_task(
    row: Mapping[str, Any], source: Mapping[str, Any], config: IngestConfig, threads: int
) -> cut.CutTask:
    part = analyse.part_at(analyse.parts_of(source), Fraction(row["start"]))
    return cut.CutTask(
        clip_id=row["clip_id"],
        path=source["path"],
        start=Fraction(row["start"]),
        end=Fraction(row["end"]),
        width=part.width,
        height=part.height,
        fps=part.fps,
        target=TARGETS[config.target],
        encode=config.encode,
        crop=framing.from_scores(row),
        threads=threads,
    )


def _crop_of(row: Mapping[str, Any]) -> list[float]:
    """A crop as it is compared: what a pixel of 8K could show, not the last bits of a float."""
    return [round(row[name], 5) for name in framing.NAMES]


def split_clips(clips: pa.Table, config: IngestConfig) -> pa.Table:
    """Give every clip of a source with kept clips its split; near-duplicates go together."""
    import pyarrow as pa
    import pyarrow.compute as pc

    copies = clips.filter(pc.is_valid(clips["duplicate_of"])).select(["source_id", "duplicate_of"])
    found = pc.index_in(copies["duplicate_of"], value_set=clips["clip_id"].combine_chunks())
    originals = clips["source_id"].take(found)
    kept = clips.filter(clips["keep"])["source_id"].unique().to_pylist()
    there = set(kept)
    links = [
        (one, other)
        for one, other in zip(copies["source_id"].to_pylist(), originals.to_pylist(), strict=True)
        if one in there and other in there
    ]
    wished = clips.filter(pc.is_valid(clips["split"])).select(["source_id", "split"])
    wishes = {
        row["source_id"]: row["split"]
        for row in wished.group_by("source_id", use_threads=False)
        .aggregate([("split", "last")])
        .rename_columns({"split_last": "split"})
        .to_pylist()
        if row["split"]
    }
    place = shards.assign_splits(kept, config.shards, linked=links, wishes=wishes)
    column = clips["source_id"].combine_chunks()
    coded = (column.chunk(0) if isinstance(column, pa.ChunkedArray) else column).dictionary_encode()
    splits = pa.array([place.get(source) for source in coded.dictionary.to_pylist()], pa.string())
    return _set(clips, "split", splits.take(coded.indices))


def write_dataset(
    workspace: Workspace, clips: pa.Table, sizes: Mapping[str, int], config: IngestConfig
) -> list[Path]:
    """The kept clips as shards, in the order of their ids, which mixes the sources."""
    import pyarrow.compute as pc

    ready = clips.filter(pc.and_(clips["keep"], pc.equal(clips["status"], "ok")))
    written = shards.write_clip_shards(workspace, ready.sort_by("clip_id"), sizes, config.shards)
    if config.shards.to:
        with progress_bar("copy", len(written), "files") as advance:
            for path in written:
                shards.copy_to(path, workspace.data, config.shards.to)
                advance()
    return written


# --- the closing table --------------------------------------------------------------------------


def count_funnel(facts: Sequence[Mapping[str, Any]], clips: pa.Table) -> dict[str, Any]:
    """What went in, what was dropped for which reason, what is kept; hours of footage.

    A clip with several reasons counts under each. Reasons are named by the score they concern.
    """
    dropped = count_reasons(clips["reasons"])
    seconds = kept_seconds = 0.0
    kept: Counter[str] = Counter()
    for keep, status, start, end, part in zip(
        *(clips[name].to_pylist() for name in ("keep", "status", "start_s", "end_s", "split")),
        strict=True,
    ):
        seconds += end - start
        if keep and status == "ok":
            kept[part] += 1
            kept_seconds += end - start
        if status == "failed":
            dropped["failed"] = dropped.get("failed", 0) + 1
    return {
        "sources": len(facts),
        "sources_failed": sum(row["status"] == "failed" for row in facts),
        "sources_missing": sum(row["status"] == earlier.MISSING for row in facts),
        "source_hours": sum(row.get("duration_s") or 0.0 for row in facts) / 3600,
        "clips": clips.num_rows,
        "clip_hours": seconds / 3600,
        "dropped": dict(sorted(dropped.items(), key=lambda item: (-item[1], item[0]))),
        "kept": sum(kept.values()),
        "kept_hours": kept_seconds / 3600,
        "splits": dict(sorted(kept.items())),
    }


# --- a finished workspace -------------------------------------------------------------------------


def _order(
    candidates: Sequence[Candidate],
    before: earlier.Earlier,
    limits: Mapping[str, Any],
    config: IngestConfig,
) -> str:
    """Names the whole request: every file as it is now, and every setting that matters.

    All thresholds are in it, so that new defaults judge anew, and the files of sources that are
    not named, which may come back or go.
    """
    settings = dataclasses.replace(config, engine="local", workers=0, address="")
    listed = [[dataclasses.asdict(c), sources.file_stamp(c.path)] for c in candidates]
    named = {c.path for c in candidates}
    paths = sorted({row["path"] for row in before.sources if row["path"]} - named)
    return ids.content_id(
        settings=settings,
        limits=decide.merge_thresholds(limits),
        footage=listed,
        others=[[path, sources.file_stamp(path)] for path in paths],
        versions=_versions(),
    )


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
    rows = (
        measure_sources(workspace, identify_sources(workspace, again, config), config)
        if again
        else []
    )
    return all(row["status"] == "failed" for row in rows)


def _mark_finished(
    workspace: Workspace,
    order: str,
    result: Mapping[str, Any],
    candidates: Sequence[Candidate],
    facts: Sequence[Mapping[str, Any]],
) -> None:
    if "failed" in result["dropped"]:
        return  # clips that could not be cut are tried again by the next run
    named = zip(candidates, facts, strict=False)  # facts of the candidates come first
    failed = [candidate.path for candidate, row in named if row["status"] != "ok"]
    mark = {"order": order, "results": _results(workspace), "failed": failed, "funnel": result}
    write_text(workspace.step("ingest") / "finished.json", json.dumps(mark))


def _results(workspace: Workspace) -> dict[str, Any]:
    """Stamps of the tables and shards, and the number of clip files."""
    files = [
        workspace.sources,
        workspace.clips,
        *sorted(p for p in workspace.data.glob("**/*") if p.is_file()),
    ]
    found = {str(f.relative_to(workspace.root)): sources.file_stamp(str(f)) for f in files}
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
) -> Iterable[engine.RowOutcome[Row, Any]]:
    """Run a step with its progress bar; rows that were done before count as done."""
    total = len(rows) if total is None else total
    if not total:
        return
    with progress_bar(title, total, unit, done=total - len(rows)) as advance:
        for outcome in engine.run_rows(
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


def _set(table: pa.Table, name: str, values: Any) -> pa.Table:
    """The table with other values in a column; a sequence, or a column."""
    import pyarrow as pa

    field = tables.CLIPS.schema.field(name)
    place = table.schema.get_field_index(name)
    return table.set_column(place, field, _column(values, field.type, pa))


def _set_score(table: pa.Table, name: str, values: Any) -> pa.Table:
    import pyarrow as pa

    if name in table.schema.names:
        table = table.drop_columns([name])
    return table.append_column(pa.field(name, pa.float32()), _column(values, pa.float32(), pa))


def _column(values: Any, kind: pa.DataType, pa: Any) -> Any:
    return values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values, kind)


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
    first = tables.read_table(workspace.sources, tables.SOURCES).slice(0, 1).to_pylist()[0]
    path, reason = (str(first[name]).replace("\n", "\\n") for name in ("path", "error"))
    return UserError(
        f"no source could be read ({result['sources_failed']} failed): "
        + (reason if path in reason else f"{path}: {reason}"),
        "mend or replace the footage and run the same command again; "
        f"every reason is listed by: realdpo curate report -w {workspace.root}",
    )


def prompts_from(clips: pa.Table, owners: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """How many kept clips have their prompt from where, most first; `none` for those without."""
    counts: Counter[str] = Counter()
    kept = clips.filter(clips["keep"]) if clips.num_rows else clips
    names = ("source_id", "prompt", "captioner")
    for source_id, prompt, captioner in zip(*(kept[n].to_pylist() for n in names), strict=True):
        if not prompt:
            counts["none"] += 1
        elif captioner == SIDECAR:
            counts[owners.get(source_id, {}).get("captions_from") or SIDECAR] += 1
        else:
            counts[captioner or "unknown"] += 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def plan_footage(footage: Sequence[str], workspace: Workspace | None = None) -> list[str]:
    """Paths of all the sources that `footage` names; nothing is read or written."""
    root = None if workspace is None else workspace.root
    return [candidate.path for candidate in sources.find_footage(footage, root)]


def funnel_table(result: Mapping[str, Any]) -> str:
    """The funnel as lines of text."""
    states = ", ".join(
        f"{result[f'sources_{state}']} {state}"
        for state in ("failed", "missing")
        if result.get(f"sources_{state}")
    )
    lines = [
        f"sources   {result['sources']:>7}   {result['source_hours']:8.3f} h"
        + (f"   {states}" if states else ""),
        f"clips     {result['clips']:>7}   {result['clip_hours']:8.3f} h",
    ]
    lines += [f"  dropped {n:>7}   {reason}" for reason, n in result["dropped"].items()]
    shares = ", ".join(f"{n} {name}" for name, n in result["splits"].items())
    lines.append(f"kept      {result['kept']:>7}   {result['kept_hours']:8.3f} h   {shares}")
    lines += _prompt_lines(result["prompts"])
    if result.get("unchanged"):
        lines.append("nothing has changed since the last run")
    return "\n".join(lines)


def _prompt_lines(prompts: Mapping[str, int]) -> list[str]:
    """Where the prompts came from, and what to do for clips that have none."""
    without = prompts.get("none", 0)
    with_one = {name: count for name, count in prompts.items() if name != "none"}
    told = ", ".join(
        f"{count} from {_SAID.get(name, f'captions of {name}')}" for name, count in with_one.items()
    )
    if not without:
        return [f"prompts   {sum(with_one.values()):>7}   {told or 'no clips'}"]
    found = told or "no caption file, caption column or title was found"
    return [
        f"prompts   {sum(with_one.values()):>7}   {found}",
        f"  without {without:>7}   left out of pairs and training: add captions, use a model "
        "(--caption), or take file names as prompts (--set captions.file_names=true)",
    ]


_SAID = {
    "keywords": "titles and keywords",
    "sidecar": "captions that came with the footage",
    "file_name": "file names",
    "edit": "edits",
}
