"""What earlier runs know and this one does not see: it stays, until the user prunes it.

A source that cannot be read any more is a state of its row, `missing`, with all that is known of
it; its clips, captions and scores go on as they are. So does a source that this command does not
name.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realdpo import ids, licences, tables
from realdpo.curate import downloads, sources
from realdpo.errors import UserError
from realdpo.files import write_bytes
from realdpo.progress import say
from realdpo.reasons import parse_reasons
from realdpo.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

Row = Mapping[str, Any]
MISSING = "missing"
USABLE = ("ok", MISSING)
PROVENANCE = ("license", "author", "source_url", "title", "keywords", "retrieved_at", "split")
_PROMPTS = ("captions", "captions_from", "spans")


@dataclass(frozen=True)
class Earlier:
    """The tables of the run before, empty when there was none."""

    sources: Sequence[Row] = ()
    clips: pa.Table | None = None


@dataclass(frozen=True)
class KnownSources:
    """The sources table that is to be written, and what of it this run has not seen.

    rows: of the footage that was named, in its order, then of what was known besides. carried:
    ids of sources whose clips are those of the run before. missing: rows that the command names
    and that cannot be read; gone: rows it does not name whose files are away; unnamed: rows it
    does not name whose files are there; replaced: rows whose file holds other footage now.
    unsaid: rows of which something was said before, a caption or a licence, and is not now.
    """

    rows: list[dict[str, Any]]
    carried: frozenset[str] = frozenset()
    missing: list[dict[str, Any]] = field(default_factory=list)
    gone: list[dict[str, Any]] = field(default_factory=list)
    unnamed: list[dict[str, Any]] = field(default_factory=list)
    replaced: list[dict[str, Any]] = field(default_factory=list)
    unsaid: list[dict[str, Any]] = field(default_factory=list)


def read_earlier(workspace: Workspace) -> Earlier:
    """The workspace's tables of sources and clips as they are."""
    if not (workspace.sources.is_file() and workspace.clips.is_file()):
        return Earlier()
    rows = tables.read_table(workspace.sources, tables.SOURCES).to_pylist()
    return Earlier(rows, tables.read_table(workspace.clips, tables.CLIPS))


def keep_known(facts: Sequence[Row], earlier: Earlier, footage: Sequence[str]) -> KnownSources:
    """Add what earlier runs know to the rows of this one; see `KnownSources`.

    facts: a row for every candidate, ok or failed. footage: the command's arguments.
    """
    rows = [dict(row) for row in facts]
    place = {_key(row["path"]): k for k, row in enumerate(rows)}
    now = {row["source_id"] for row in rows if row["status"] == "ok"}
    with_clips = set() if earlier.clips is None else set(earlier.clips["source_id"].to_pylist())
    known = KnownSources(rows)
    carried: set[str] = set()
    for old in earlier.sources:
        source_id = old["source_id"]
        if old["status"] not in USABLE or source_id is None:
            continue
        k = place.get(_key(old["path"] or source_id))
        row = None if k is None else rows[k]
        if row is not None and row["status"] == "ok" and row["source_id"] == source_id:
            if _remind(row, old):
                known.unsaid.append(row)
        elif row is not None and row["status"] == "failed":
            row |= _filled(old, row) | {"status": MISSING, "error": row["error"]}
            known.missing.append(row)
        elif row is not None and row["status"] == MISSING and row["source_id"] == source_id:
            continue
        elif source_id in now:
            continue  # the same bytes under another name
        elif row is not None:
            extra = {**old, "status": MISSING, "error": "its file holds other footage now"}
            known.replaced.append(extra)
        elif old["path"] and not _is_there(old["path"]):
            extra = {**old, "status": MISSING, "error": f"{old['path']}: No such file or directory"}
            (known.missing if sources.names_path(footage, old["path"]) else known.gone).append(
                extra
            )
        else:
            known.unnamed.append(dict(old))
        if source_id not in now:
            carried.add(source_id)
    extras = [*known.replaced, *known.gone, *known.unnamed]
    extras += [row for row in known.missing if not any(row is other for other in rows)]
    rows += sorted(extras, key=lambda row: (row["path"] or "", row["source_id"]))
    return dataclasses.replace(known, carried=frozenset(carried & with_clips))


def _remind(row: dict[str, Any], old: Row) -> list[str]:
    """Fill in what was said of a source before and is not now; the names of what that was."""
    names = [name for name in PROVENANCE if old.get(name) and not row[name]]
    if old.get("captions") and not row["captions"]:
        names += _PROMPTS
    row |= {name: old.get(name) for name in names}
    return names


def prune_sources(known: KnownSources, facts: Sequence[Row]) -> KnownSources:
    """`known` without what this run has not seen: rows that cannot be read fail, the rest goes."""
    return KnownSources([dict(row) for row in facts])


def removed_text(known: KnownSources, earlier: Earlier) -> list[str]:
    """What pruning would remove, in lines; none when nothing would go."""
    away = [*known.missing, *known.replaced, *known.gone, *known.unnamed]
    unsaid = len(known.unsaid)
    forgotten = [f"to be forgotten: captions and licences of {unsaid} sources that nobody says now"]
    if not away:
        return forgotten if unsaid else []
    clips = _clips_of(earlier, known.carried)
    kept = 0 if clips is None else sum(bool(keep) for keep in clips["keep"].to_pylist())
    lines = [
        f"to be removed: {len(away)} sources and their {0 if clips is None else clips.num_rows} "
        f"clips, of which {kept} are in the dataset, with their captions, scores and files"
    ]
    lines += [f"  {_shown(row)} ({_why(row, known)})" for row in away[:20]]
    lines += [f"  and {len(away) - 20} more"] if len(away) > 20 else []
    return lines + (forgotten if unsaid else [])


def unseen_warnings(known: KnownSources) -> list[str]:
    """What of the footage this run has not seen, in lines for the user."""
    lines = []
    if known.missing:
        first = "; ".join(str(row["error"]) for row in known.missing[:3])
        more = f" and {len(known.missing) - 3} more" if len(known.missing) > 3 else ""
        lines.append(
            f"warning: {len(known.missing)} sources that were read before cannot be read now; what "
            f"is known of them, their clips and shards stay: {_one_line(first)}{more}"
        )
    for rows, what in (
        (known.replaced, "are no longer what their files hold"),
        (known.gone, "are not named by this command and their files are gone"),
        (known.unnamed, "are not named by this command"),
    ):
        if rows:
            lines.append(f"{len(rows)} sources of earlier runs {what}; they stay (see --prune)")
    if known.unsaid:
        lines.append(
            f"of {len(known.unsaid)} sources something was said before and is not now, such as a "
            "caption or a licence; it stays known (see --prune)"
        )
    return lines


def carried_clips(earlier: Earlier, known: KnownSources) -> pa.Table | None:
    """Clips of the sources that were not seen, as they were, without reasons to be judged anew."""
    import pyarrow as pa

    clips = _clips_of(earlier, known.carried)
    if clips is None or not clips.num_rows:
        return None
    reasons = [
        [str(reason) for reason in parse_reasons(row) if reason.name not in ("license", "hdr")]
        for row in clips["reasons"].to_pylist()
    ]
    where = clips.schema.get_field_index("reasons")
    return clips.set_column(
        where, clips.schema.field(where), pa.array(reasons, pa.list_(pa.string()))
    )


def owning_rows(
    rows: Iterable[Row], notes: sources.Notes | None = None
) -> dict[str, dict[str, Any]]:
    """For every source id the row that speaks for it, readable ones first.

    The same bytes may lie under several names: the strictest of their licences and splits counts,
    and what is said about the footage comes from the row with that licence.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["status"] in USABLE and row["source_id"]:
            groups.setdefault(row["source_id"], []).append(row)
    return {source_id: _owner(group, notes) for source_id, group in groups.items()}


def _owner(group: Sequence[Row], notes: sources.Notes | None) -> dict[str, Any]:
    first = next((row for row in group if row["status"] == "ok"), group[0])
    if len(group) == 1:
        return dict(first)
    texts = [row["license"] for row in group]
    licence = licences.strictest_licence(texts)
    teller = next(row for row in group if row["license"] == licence or licence is None)
    order = [teller, *group]
    words = {name: next((row[name] for row in order if row[name]), None) for name in PROVENANCE}
    words["keywords"] = words["keywords"] or []
    words["split"] = sources.strictest_split(row["split"] for row in group)
    if notes is not None:
        same = " and ".join(_shown(row) for row in group[:3]) + " hold the same bytes"
        if len({licences.read_licence(text) for text in texts if text}) > 1:
            said = ", ".join(sorted({str(text) for text in texts if text}))
            notes.add(f"{same}, with the licences {said}: {licence}, the strictest, counts")
        if len({row["split"] for row in group if row["split"]}) > 1:
            notes.add(f"{same}, for several splits: {words['split']} counts")
    captions = [c for row in group for c in row.get("captions") or ()]
    spans: list[Any] = next((row["spans"] for row in group if row.get("spans")), [])
    return {**first, **words, "captions": list(dict.fromkeys(captions)), "spans": spans}


def restore_clips(workspace: Workspace, wanted: Mapping[str, str]) -> set[str]:
    """Write files of clips that are away out of the shards; which of them could be.

    wanted: sha256 of each clip's file by the clip's id.
    """
    import pyarrow.parquet as pq

    done: set[str] = set()
    for path in sorted(workspace.data.glob("*.parquet")) if wanted else ():
        try:
            columns = ["clip_id", "video"]
            for batch in pq.ParquetFile(path).iter_batches(batch_size=8, columns=columns):
                for row in batch.to_pylist():
                    clip, data = row["clip_id"], row["video"]["bytes"]
                    if clip in wanted and clip not in done and ids.bytes_hash(data) == wanted[clip]:
                        write_bytes(workspace.clip_file(clip), data)
                        done.add(clip)
        except UserError:
            raise  # no space left
        except Exception as error:  # whatever a damaged file does to a library
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            say(f"warning: {path} cannot be read, so no more clips come out of it: {reason}")
    return done


def _clips_of(earlier: Earlier, source_ids: Iterable[str]) -> pa.Table | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    if earlier.clips is None:
        return None
    wanted = pa.array(sorted(source_ids), pa.string())
    return earlier.clips.filter(pc.is_in(earlier.clips["source_id"], value_set=wanted))


def _filled(old: Row, new: Row) -> dict[str, Any]:
    """What is known of a source, and over it what is said of it today."""
    return {**old, **{name: new[name] for name in (*PROVENANCE, *_PROMPTS) if new.get(name)}}


def _key(path: str) -> str:
    """What two rows about one file have in common: a download's name is its address's hash."""
    if path.startswith(("http://", "https://")):
        return downloads.download_stem(path)
    place = Path(path)
    return place.stem if place.parent.name == "downloads" and len(place.stem) == 32 else path


def _is_there(path: str) -> bool:
    return "://" in path or os.path.exists(path)


def _shown(row: Row) -> str:
    return _one_line(str(row["path"] or row["source_url"] or row["source_id"]))


def _why(row: Row, known: KnownSources) -> str:
    if any(row is other for other in known.unnamed):
        return "not named by this command"
    return _one_line(str(row["error"]))


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n")
