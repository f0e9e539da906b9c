"""Other sets that this one must not repeat: test benchmarks, earlier releases, other workspaces.

Their fingerprints are kept under `against/`, so the sets themselves need not stay. `decide` and
`ingest` drop every clip that shows footage of one of them, as `known=NAME/ID`.
"""

from __future__ import annotations

import itertools
import math
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from realdpo import engine, ids
from realdpo.curate import dedup_blocks
from realdpo.curate.dedup_blocks import Where
from realdpo.errors import UserError
from realdpo.files import atomic_path
from realdpo.ledger import Ledger
from realdpo.progress import progress_bar, say
from realdpo.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

WINDOW, STRIDE, SHORTEST = 8.0, 4.0, 0.5
"""Seconds. A video is fingerprinted shot by shot, and a long shot in windows: the mean picture of a
whole film is like that of none of its clips. A clip has most of itself in one of the windows."""

VERSION = 1
"""Raise it when the same video would get another fingerprint here."""


@dataclass(frozen=True)
class KnownSet:
    """A set that was added: its name, what it was read from, and its number of fingerprints."""

    name: str
    file: Path
    fingerprints: int


def add_set(
    workspace: Workspace, other: Path, name: str = "", where: Where | None = None
) -> KnownSet:
    """Read the fingerprints of another set and keep them in the workspace.

    other: a workspace; a Parquet file or a folder of them with a video column, such as a dataset
    of ours or from the Hub; or a video file or a folder of those. A workspace's fingerprints are
    taken as they are, videos are decoded. Raises UserError when there is nothing to compare.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = name or _name_of(other)
    file = workspace.root / "against" / f"{name}.parquet"
    theirs = Workspace(other)
    if theirs.root.resolve() == workspace.root.resolve():
        raise UserError(f"{other} is this workspace itself", "name another set")
    schema = pa.schema(
        [("clip_id", pa.string()), ("source_id", pa.string()), ("phash", pa.list_(pa.uint64()))]
    )
    count = 0
    with atomic_path(file) as temporary, pq.ParquetWriter(temporary, schema) as out:
        for batch in (
            _of_workspace(theirs) if theirs.clips.is_file() else _of_videos(workspace, other, where)
        ):
            table = batch.select(schema.names).cast(schema)
            count += table.num_rows
            out.write_table(table)
        if not count:
            raise UserError(
                f"there is nothing to compare with in {other}",
                "name a workspace, a folder of Parquet files with a video column, or videos",
            )
    return KnownSet(name, file, count)


def forget_set(workspace: Workspace, name: str) -> None:
    """Remove a set. Raises UserError when there is none of that name."""
    file = workspace.root / "against" / f"{name}.parquet"
    if not file.is_file():
        names = ", ".join(known.name for known in list_sets(workspace)) or "none"
        raise UserError(f"no set {name!r} was added to {workspace.root}", f"there are: {names}")
    file.unlink()


def list_sets(workspace: Workspace) -> list[KnownSet]:
    """The sets that were added, by name."""
    import pyarrow.parquet as pq

    files = sorted((workspace.root / "against").glob("*.parquet"))
    return [KnownSet(file.stem, file, pq.read_metadata(file).num_rows) for file in files]


def known_rows(
    workspace: Workspace, clips: pa.Table | Path, where: Where | None = None, *, keep: bool = True
) -> dict[int, str]:
    """Row of the clips table to `NAME/ID` of the first footage of another set that it shows."""
    import pyarrow.parquet as pq

    result: dict[int, str] = {}
    for known in list_sets(workspace):
        pairs = dedup_blocks.find_duplicates(
            clips, workspace.step("dedup"), against=known.file, where=where, keep=keep
        ).tolist()
        if not pairs:
            continue
        names = pq.read_table(known.file, columns=["clip_id"])["clip_id"]
        for row, other in pairs:
            result.setdefault(row, f"{known.name}/{names[other].as_py()}")
    return result


def _of_workspace(theirs: Workspace) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from realdpo import tables

    tables.check_table(theirs.clips, tables.CLIPS)
    with pq.ParquetFile(theirs.clips) as file:
        for batch in file.iter_batches(16_384, columns=["clip_id", "source_id", "phash"]):
            # Not under their ids: two spans of one source would have to agree as loops do.
            owners = pc.binary_join_element_wise("other", batch["source_id"], "/")
            yield pa.table(
                {"clip_id": batch["clip_id"], "source_id": owners, "phash": batch["phash"]}
            )


def _of_videos(workspace: Workspace, other: Path, where: Where | None) -> Iterator[pa.Table]:
    """Fingerprints of videos that are decoded, kept by what they were made of."""
    import pyarrow as pa

    where = where or Where()
    tasks = list(_tasks(other))
    with Ledger(workspace.step("against")) as done:
        keys = {
            task: ids.content_id(task=list(map(str, task)), stamp=_stamp(task[0]), version=VERSION)
            for task in tasks
        }
        todo = [task for task in tasks if done.get(keys[task]) is None]
        with progress_bar("read", len(tasks), "parts", done=len(tasks) - len(todo)) as advance:
            for outcome in engine.run_rows(
                fingerprints_of,
                todo,
                engine=where.engine,
                workers=where.workers,
                address=where.address,
            ):
                if outcome.error is not None:
                    say(f"{outcome.row[0]}: {outcome.error}")
                else:
                    done.put(keys[outcome.row], outcome.value)
                advance()
        for task in tasks:
            rows = done.get(keys[task]) or []
            if rows:
                yield pa.table(
                    {
                        "clip_id": [row[0] for row in rows],
                        # Another set's sources are not ours: no two clips share one.
                        "source_id": [f"{task[0]}#{row[0]}" for row in rows],
                        "phash": pa.array([row[1] for row in rows], pa.list_(pa.uint64())),
                    }
                )


def _tasks(other: Path) -> Iterator[tuple[str, int]]:
    """A row group of a Parquet file each, or a video file each (number -1)."""
    import pyarrow.parquet as pq

    from realdpo.curate import sources

    if not other.exists():
        raise UserError(f"{other} does not exist", "check the path")
    tables_ = [other] if other.suffix == ".parquet" else sorted(other.rglob("*.parquet"))
    for path in tables_:
        if _video_column(pq.read_schema(path)):
            for group in range(pq.read_metadata(path).num_row_groups):
                yield str(path), group
    if not tables_:
        for candidate in sources.find_footage([str(other)]):
            yield candidate.path, -1


def fingerprints_of(task: tuple[str, int]) -> list[tuple[str, list[int]]]:
    """Id and fingerprint of every clip of a row group, or of every window of a video file."""
    import pyarrow.parquet as pq

    path, group = task
    if group < 0:
        return _windows(path, Path(path).name)
    with pq.ParquetFile(path) as file:
        column = _video_column(file.schema_arrow) or ""
        has_id = next((n for n in ("clip_id", "pair_id", "id") if n in file.schema_arrow.names), "")
        rows = file.read_row_group(group, columns=[n for n in (column, has_id) if n]).to_pylist()
    found = []
    for number, row in enumerate(rows):
        name = str(row[has_id]) if has_id else f"{Path(path).stem}-{group}-{number}"
        video = row[column] or {}
        if video.get("bytes"):
            with tempfile.NamedTemporaryFile(suffix=".mp4") as out:
                out.write(video["bytes"])
                out.flush()
                found += _windows(out.name, name)
        elif video.get("path"):
            found += _windows(str(Path(path).parent / video["path"]), name)
    return found


def _windows(path: str, name: str) -> list[tuple[str, list[int]]]:
    from realdpo.curate.analyse import AnalysisTask, analyse_source
    from realdpo.curate.config import ShotSettings
    from realdpo.curate.scores import span_fingerprint

    seen = analyse_source(AnalysisTask("", path, ShotSettings()))
    end = float(seen.times[-1]) + 1 / 16
    cuts = [float(cut) for cut in seen.cuts]
    spans = [
        span
        for first, last in itertools.pairwise([0.0, *cuts, end])
        for span in _cover(first, last)
    ] or [(0.0, end)]
    return [
        (
            name if len(spans) == 1 else f"{name}@{first:.2f}s",
            span_fingerprint(seen.scores, first, last),
        )
        for first, last in spans
    ]


def _cover(first: float, last: float) -> list[tuple[float, float]]:
    """A shot as it is, or as overlapping windows; none of one too short to be told apart."""
    if last - first < SHORTEST:
        return []
    if last - first <= 1.5 * WINDOW:
        return [(first, last)]
    count = math.ceil((last - first - WINDOW) / STRIDE) + 1
    starts = [min(first + STRIDE * n, last - WINDOW) for n in range(count)]
    return [(start, start + WINDOW) for start in starts]


def _video_column(schema: pa.Schema) -> str | None:
    import pyarrow as pa

    fits = [
        field.name
        for field in schema
        if pa.types.is_struct(field.type) and {"bytes", "path"} <= {f.name for f in field.type}
    ]
    preferred = [name for name in ("video", "win") if name in fits]
    return next(iter(preferred or [name for name in fits if name != "first_frame"]), None)


def _stamp(path: str) -> str:
    from realdpo.curate import sources

    return sources.file_stamp(path)


def _name_of(other: Path) -> str:
    return re.sub(r"[^\w.-]+", "-", other.resolve().name.removesuffix(".parquet")) or "set"
