"""Dataset shards: Parquet with a Video column, split by source, the same bytes every time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realdpo import ids, integrity, tables
from realdpo.curate.config import ShardSettings
from realdpo.errors import UserError
from realdpo.files import atomic_path, write_bytes
from realdpo.workspace import SPLITS, Workspace

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 1  # raise when the same rows give another split or another file


def assign_splits(
    sources: Sequence[str],
    settings: ShardSettings,
    *,
    linked: Sequence[tuple[str, str]] = (),
    wishes: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Source id to split. All clips of a source, and of sources linked by near-duplicates, go
    to one split, which depends on the ids alone.

    wishes: source id to the split its owner asked for; a group follows the wish of its least
    id. With three groups or more, a split whose share is above 0 is never left empty: it takes
    the group that is nearest to it.
    """
    wishes = wishes or {}
    groups = _groups(sources, linked)
    place = {leader: ids.unit_interval("split", leader) for leader in groups}
    split: dict[str, str] = {}
    free: list[str] = []
    for leader, members in groups.items():
        wish = next((wishes[m] for m in members if wishes.get(m)), None)
        if wish is None:
            free.append(leader)
            at = place[leader]
            if at < settings.test:
                wish = "test"
            else:
                wish = "validation" if at < settings.test + settings.validation else "train"
        split[leader] = wish
    if len(groups) >= 3:
        shares = {"test": settings.test, "validation": settings.validation, "train": 1.0}
        for name, share in shares.items():
            held = list(split.values())
            givers = [leader for leader in free if held.count(split[leader]) > 1]
            if share > 0 and name not in held and givers:
                far = name == "train"
                nearest = sorted(givers, key=lambda leader: (place[leader], leader), reverse=far)
                split[nearest[0]] = name
    return {member: split[leader] for leader, members in groups.items() for member in members}


def write_clip_shards(
    workspace: Workspace, clips: pa.Table, sizes: Mapping[str, int], settings: ShardSettings
) -> list[Path]:
    """Write the kept clips under data/ and remove files of an earlier run; returns the files.

    clips: rows of the clips table, kept and cut, in the order they shall have. sizes: bytes of
    every clip by its id. A Parquet shard that is there already with the same content is left
    alone. Formats: Parquet with a Video column; WebDataset tars of <id>.mp4 and <id>.json; or a
    folder a split with the videos and metadata.jsonl.
    """
    import pyarrow.compute as pc

    # Fingerprints are no part of a dataset, and most of a table.
    clips = clips.select([name for name in clips.schema.names if name != "phash"])
    written: list[Path] = []
    for split in SPLITS:
        rows = clips.filter(pc.equal(clips["split"], split))
        if settings.format == "folder":
            written += _write_folder(workspace.data / split, rows, workspace)
            continue
        parts = divide_rows(rows, sizes, settings)
        ending = "parquet" if settings.format == "parquet" else "tar"
        for number, (first, stop) in enumerate(parts):
            path = workspace.data / f"{split}-{number:05d}-of-{len(parts):05d}.{ending}"
            part = rows.slice(first, stop - first)
            if settings.format == "webdataset":
                _write_tar(path, part, workspace)
            else:
                key = ids.content_id(
                    rows=part.to_pylist(), row_group=settings.row_group_mb, version=VERSION
                )
                if _key_of(path) != key:
                    _write_one(path, part, sizes, settings, workspace, key)
            written.append(path)
    _remove_stale(workspace.data, set(written))
    return written


def divide_rows(
    rows: pa.Table, sizes: Mapping[str, int], settings: ShardSettings
) -> list[tuple[int, int]]:
    """(first, stop) of the rows of each shard, in order; see `write_clip_shards`."""
    return _parts([sizes[c] for c in rows["clip_id"].to_pylist()], settings.shard_mb << 20)


def require_destination(to: str) -> None:
    """Raise UserError when the kind of fsspec address is unknown or its package is missing."""
    import fsspec

    try:
        fsspec.core.url_to_fs(to)
    except (ValueError, ImportError) as error:
        raise UserError(f"{to} cannot be written: {error}", "check --to") from error


def copy_to(path: Path, base: Path, to: str) -> None:
    """Copy one file of the dataset to an fsspec address, keeping its place under `base`.

    Raises UserError when the address cannot be written.
    """
    import shutil

    import fsspec

    address = f"{to.rstrip('/')}/{path.relative_to(base).as_posix()}"
    try:
        with fsspec.open(address, "wb", auto_mkdir=True) as out, open(path, "rb") as source:
            shutil.copyfileobj(source, out, 1 << 22)
    except Exception as error:  # file systems raise whatever their libraries do
        raise UserError(f"{address} cannot be written: {error}", "check --to") from error


def _write_tar(path: Path, rows: pa.Table, workspace: Workspace) -> None:
    import io
    import json
    import tarfile

    with (
        atomic_path(path) as temporary,
        tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for row in rows.to_pylist():
            words = json.dumps(row, sort_keys=True, default=str).encode()
            video = _clip_bytes(workspace, row["clip_id"], row["sha256"])
            for ending, data in (("json", words), ("mp4", video)):
                member = tarfile.TarInfo(f"{row['clip_id']}.{ending}")  # its time is 0: same bytes
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def _write_folder(folder: Path, rows: pa.Table, workspace: Workspace) -> list[Path]:
    import json

    lines, written = [], []
    for row in rows.to_pylist():
        name = f"{row['clip_id']}.mp4"
        lines.append(json.dumps({"file_name": name, **row}, sort_keys=True, default=str))
        write_bytes(folder / name, _clip_bytes(workspace, row["clip_id"], row["sha256"]))
        written.append(folder / name)
    if lines:
        write_bytes(folder / "metadata.jsonl", ("\n".join(lines) + "\n").encode())
        written.append(folder / "metadata.jsonl")
    return written


def _remove_stale(data: Path, written: set[Path]) -> None:
    """Only what earlier runs of ours wrote: shards, and the folders of splits."""
    old = [*data.glob("*-of-*.parquet"), *data.glob("*-of-*.tar")]
    for split in SPLITS:
        old += [*(data / split).glob("*.mp4"), *(data / split).glob("metadata.jsonl")]
    for path in old:
        if path not in written:
            path.unlink()


_KEY = b"realdpo.content"


def _write_one(
    path: Path,
    rows: pa.Table,
    sizes: Mapping[str, int],
    settings: ShardSettings,
    workspace: Workspace,
    key: str,
) -> None:
    import pyarrow.parquet as pq

    scores = tables.score_columns(rows)
    schema = tables.DATASET.full_schema(scores)
    schema = schema.with_metadata({**(schema.metadata or {}), _KEY: key.encode()})
    # Video is compressed already; doing it again costs time and stops readers from skipping.
    codec = {name: "zstd" for name in schema.names if name != "video"}
    codec |= {"video.bytes": "none", "video.path": "zstd"}
    plain = [name for name in schema.names if name != "video"]
    order = rows["clip_id"].to_pylist()
    groups = _parts([sizes[c] for c in order], settings.row_group_mb << 20)
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(
            temporary, schema, compression=codec, use_dictionary=plain, write_statistics=plain
        ) as out,
    ):
        for first, stop in groups:
            out.write_table(
                _with_videos(rows.slice(first, stop - first), schema, workspace),
                row_group_size=stop - first,
            )


def _with_videos(rows: pa.Table, schema: pa.Schema, workspace: Workspace) -> pa.Table:
    import pyarrow as pa

    videos = [
        {"bytes": _clip_bytes(workspace, c, sha256), "path": f"{c}.mp4"}
        for c, sha256 in zip(rows["clip_id"].to_pylist(), rows["sha256"].to_pylist(), strict=True)
    ]
    columns: dict[str, Any] = {
        name: rows[name] for name in schema.names if name in rows.schema.names
    }
    columns["video"] = pa.array(videos, tables.MEDIA)
    ratio = [text.split("/") for text in rows["fps"].to_pylist()]
    columns["fps"] = pa.array([int(n) / int(d) for n, d in ratio], pa.float64())
    return pa.table({name: columns[name] for name in schema.names}).cast(schema)


def _clip_bytes(workspace: Workspace, clip_id: str, sha256: str | None) -> bytes:
    path = workspace.clip_file(clip_id)
    return integrity.require_file(path, sha256, "the clip", integrity.CLIP_HINT)


def _parts(sizes: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """(first, stop) of runs whose sizes add up to `limit` at most, each of one item at least."""
    parts: list[tuple[int, int]] = []
    first, total = 0, 0
    for i, size in enumerate(sizes):
        if i > first and total + size > limit:
            parts.append((first, i))
            first, total = i, 0
        total += size
    if len(sizes) > first:
        parts.append((first, len(sizes)))
    return parts


def _key_of(path: Path) -> str | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException):
        return None
    found: str | None = metadata.get(_KEY, b"").decode()
    return found


def _groups(sources: Sequence[str], linked: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Least id of every connected group to its members, sorted."""
    leader = {source: source for source in sources}

    def find(source: str) -> str:
        while leader[source] != source:
            leader[source] = leader[leader[source]]
            source = leader[source]
        return source

    for a, b in linked:
        first, second = sorted((find(a), find(b)))
        leader[second] = first
    groups: dict[str, list[str]] = {}
    for source in sorted(leader):
        groups.setdefault(find(source), []).append(source)
    return groups
