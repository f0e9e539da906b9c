"""Whether stored bytes are still what was written: one check, for whoever sends or uses them.

A clip's row holds the SHA-256 of its video; a pair's videos and pictures are named by theirs. Push,
pull, training, pairs and `realdpo doctor --deep` all ask here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realdpo import ids, tables
from realdpo.errors import UserError
from realdpo.progress import progress_bar
from realdpo.workspace import Workspace

_NAMED_BY_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Damage:
    """One thing that is not what was written: the file, what of it, and the way out."""

    path: Path
    what: str
    hint: str

    def error(self) -> UserError:
        return UserError(f"{self.path}: {self.what}", self.hint)


def row_damage(row: Mapping[str, Any], kind: tables.TableKind) -> str | None:
    """What of a shard's row is not what the row says of it; None when all is as written.

    row: with the columns that a check needs: id, media, and of clips the sha256.
    """
    if kind is tables.DATASET:
        if row["sha256"] and ids.bytes_hash(_bytes(row["video"])) != row["sha256"]:
            return f"the video of clip {row['clip_id']} is not what its sha256 says"
        return None
    sides = [("winner", row.get("win")), ("first frame", row.get("first_frame"))]
    sides += [(f"loser {k}", video) for k, video in enumerate(row.get("lose") or ())]
    for name, media in sides:
        if media is None:
            continue
        stem = Path(media["path"] or "").stem
        if _NAMED_BY_HASH.fullmatch(stem) and ids.bytes_hash(_bytes(media)) != stem:
            return f"the {name} of pair {row['pair_id']} is not what its name, a sha256, says"
    return None


def pair_problem(prompt: str | None, names: Sequence[str]) -> str | None:
    """Why a pair teaches nothing; None when it may.

    prompt: its text. names: of the winner and the losers, by content: the same bytes, one name.
    """
    if not (prompt or "").strip():
        return "the pair has no prompt"
    win, *losers = names
    if not losers:
        return "the pair has no loser"
    if win in losers:
        return f"loser {losers.index(win)} is the winner itself, so there is no difference"
    return None


def require_row(row: Mapping[str, Any], kind: tables.TableKind, path: Path) -> None:
    """Raise UserError when a row that was read from the shard `path` is damaged."""
    if what := row_damage(row, kind):
        raise Damage(path, what, _remake(kind)).error()


def shard_damages(path: Path, kind: tables.TableKind) -> Iterator[Damage | None]:
    """For every row of a shard its damage, or None; one for what cannot be read at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = (
        ["clip_id", "video", "sha256"]
        if kind is tables.DATASET
        else ["pair_id", "win", "lose", "first_frame"]
    )
    try:
        file = pq.ParquetFile(path)
        for batch in file.iter_batches(batch_size=4, columns=names):
            for row in batch.to_pylist():
                what = row_damage(row, kind)
                yield Damage(path, what, _remake(kind)) if what else None
    except (pa.ArrowException, OSError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        yield Damage(path, f"cannot be read: {text}", _remake(kind))


def require_shards(paths: Iterable[Path], kind: tables.TableKind) -> None:
    """Raise UserError that names the first row of these shards that is damaged."""
    import pyarrow.parquet as pq

    paths = list(paths)
    total = sum(pq.read_metadata(path).num_rows for path in paths)
    with progress_bar("check", total, "rows") as advance:
        for path in paths:
            for damage in shard_damages(path, kind):
                if damage is not None:
                    raise damage.error()
                advance()


def require_file(path: Path, sha256: str | None, what: str, hint: str) -> bytes:
    """The bytes of a file that must have this hash. Raises UserError when it has not."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", hint) from None
    if sha256 and ids.bytes_hash(data) != sha256:
        raise Damage(path, f"{what} is not what its sha256 says", hint).error()
    return data


def read_pair_file(workspace: Workspace, name: str) -> bytes:
    """A video or first frame of a pair. Raises UserError when it is gone, or other bytes than written."""
    path = workspace.pair_videos / name
    sha256 = path.stem if _NAMED_BY_HASH.fullmatch(path.stem) else None
    return require_file(path, sha256, "the file", PAIR_HINT)


def workspace_damages(workspace: Workspace) -> Iterator[Damage | None]:
    """Every file of a workspace that holds a hash, checked: its damage, or None when it is well.

    Clips against clips.parquet, shards of clips and pairs against their rows, videos of pairs
    against their names.
    """
    if workspace.clips.is_file():
        columns = ["clip_id", "path", "sha256", "status"]
        for row in tables.read_table(workspace.clips, tables.CLIPS, columns).to_pylist():
            if row["path"] and row["sha256"] and row["status"] == "ok":
                yield _file_damage(workspace.root / row["path"], row["sha256"], CLIP_HINT)
    for folder, kind in (
        (workspace.data, tables.DATASET),
        (workspace.pair_data, tables.PAIR_SHARD),
    ):
        for path in sorted(folder.glob("*.parquet")):
            yield from shard_damages(path, kind)
    for path in sorted(workspace.pair_videos.glob("*")):
        if _NAMED_BY_HASH.fullmatch(path.stem):
            yield _file_damage(path, path.stem, PAIR_HINT)


CLIP_HINT = "delete that file and run the same `realdpo curate ingest` again: it is cut anew"
PAIR_HINT = (
    "delete that file and run the same `realdpo pairs build` again: it is made anew; what was "
    "imported, import again"
)


def _file_damage(path: Path, sha256: str, hint: str) -> Damage | None:
    try:
        return (
            None
            if ids.file_hash(path) == sha256
            else Damage(path, "other bytes than its sha256 says", hint)
        )
    except OSError as error:
        return Damage(path, f"cannot be read: {error.strerror}", hint)


def _remake(kind: tables.TableKind) -> str:
    command = "curate ingest" if kind is tables.DATASET else "pairs build"
    return f"delete that file and run the same `realdpo {command}` again, or pull it again"


def _bytes(media: Mapping[str, Any] | None) -> bytes:
    return bytes((media or {}).get("bytes") or b"")
