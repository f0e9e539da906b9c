"""pull: make a workspace from a published dataset, the reverse of push-hub.

Shards that push-hub wrote are copied byte for byte. Any other dataset with the columns is read
through `datasets`, and missing columns (ids, sizes) are derived from the videos themselves.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from realdpo import ids, integrity, tables
from realdpo.errors import UserError
from realdpo.files import write_bytes, write_text
from realdpo.integrity import pair_problem
from realdpo.progress import progress_bar
from realdpo.publish.dataset_card import size_text
from realdpo.publish.hub import connect_hub, explain_hub_errors, retry_call
from realdpo.workspace import SPLITS, Workspace

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ROWS_PER_SHARD = 256
"""Rows per shard when shards are made from another dataset."""

_SPLIT_NAMES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
_KINDS = {"clips": tables.DATASET, "pairs": tables.PAIR_SHARD}
_NEEDED = {"clips": ("video", "prompt"), "pairs": ("win", "lose", "prompt")}


@dataclass(frozen=True)
class DatasetPart:
    """One configuration of a dataset: its kind, and its files by split."""

    config: str  # its name on the Hub
    kind: str  # clips | pairs
    files: Mapping[str, tuple[str, ...]]  # our split -> paths in the repository
    splits: Mapping[str, str]  # our split -> its name on the Hub
    ours: bool  # written by push-hub: copied as it is


@dataclass(frozen=True)
class Pull:
    """The plan of a pull, pinned to a commit."""

    repo: str
    commit: str
    parts: tuple[DatasetPart, ...]
    sizes: Mapping[str, int]
    hashes: Mapping[str, str | None]  # SHA-256 as the Hub states it, of large files
    audit: str | None  # path of the pairs' audit in the repository

    def summary(self) -> dict[str, Any]:
        return {
            "repo": self.repo,
            "commit": self.commit,
            "bytes": sum(self.sizes.values()),
            "parts": {
                part.kind: {s: list(f) for s, f in part.files.items()} for part in self.parts
            },
        }

    def describe(self) -> str:
        lines = [f"{self.repo} at {self.commit[:8]}, {size_text(sum(self.sizes.values()))}"]
        for part in self.parts:
            splits = ", ".join(f"{len(files)} of {split}" for split, files in part.files.items())
            how = "shards" if part.ours else "files, to be made into shards"
            lines.append(f"  {part.kind}: {splits} ({how})")
        return "\n".join(lines)


def plan_pull(repo: str, revision: str = "main", what: str = "all") -> Pull:
    """Plan a pull from the listing of a dataset on the Hub and the heads of its files.

    Raises UserError if there is no such dataset, or if no configuration has the columns of clips
    (`video`, `prompt`) or of pairs (`win`, `lose`, `prompt`).
    """
    if what not in ("clips", "pairs", "all"):
        raise UserError(f"you cannot pull {what}", "choose one of: clips, pairs, all")
    api = connect_hub()
    with explain_hub_errors(f"looking at {repo}"):
        info: Any = retry_call(
            lambda: api.dataset_info(repo, revision=revision, files_metadata=False)
        )
        entries = retry_call(
            lambda: list(
                api.list_repo_tree(repo, recursive=True, revision=info.sha, repo_type="dataset")
            )
        )
        files = {entry.path: entry for entry in entries if hasattr(entry, "blob_id")}
        parts = retry_call(lambda: _parts(api, repo, info.sha))
    chosen = tuple(part for part in parts if what in ("all", part.kind))
    if not chosen:
        raise UserError(
            f"{repo} holds no {'clips or pairs' if what == 'all' else what}",
            "clips need the columns video and prompt; pairs need win, lose and prompt",
        )
    if twice := [kind for kind, n in Counter(part.kind for part in chosen).items() if n > 1]:
        raise UserError(f"{repo} has several configurations with {twice[0]}")
    wanted = {path for part in chosen for files in part.files.values() for path in files}
    audit = "pairs/audit.json"
    return Pull(
        repo,
        info.sha,
        chosen,
        {path: file.size for path, file in files.items() if path in wanted},
        {path: file.lfs and file.lfs.sha256 for path, file in files.items() if path in wanted},
        audit if audit in files and any(part.kind == "pairs" for part in chosen) else None,
    )


def fetch_dataset(found: Pull, workspace: Workspace) -> None:
    """Fill `workspace`. Files that an interrupted pull fetched are not fetched again.

    Raises UserError if the workspace already holds something else, or a video cannot be read.
    """
    api = connect_hub()
    for part in found.parts:
        _refuse_others(found, part, workspace)
    if any(part.kind == "clips" for part in found.parts):
        _refuse_own_clips(workspace)
    before = _shard_hashes(workspace)
    for part in found.parts:
        with explain_hub_errors(f"fetching {found.repo}"):
            if part.ours:
                _copy(api, found, part, workspace)
            else:
                _conform(api, found, part, workspace)
    if found.audit:
        with explain_hub_errors(f"fetching {found.repo}"):
            path = retry_call(
                lambda: api.hf_hub_download(
                    found.repo, str(found.audit), repo_type="dataset", revision=found.commit
                )
            )
        write_bytes(workspace.audit, Path(path).read_bytes())
    if any(part.kind == "clips" for part in found.parts):
        _rebuild_clips(workspace, _shard_hashes(workspace) == before)


def _refuse_others(found: Pull, part: DatasetPart, workspace: Workspace) -> None:
    """Raise UserError if the folder holds shards that did not come from this dataset.

    A shard of the same name is replaced only if an earlier pull of the dataset wrote it and nobody
    changed it.
    """
    folder, names, before = _folder(workspace, part.kind), _names(part), _pulled(workspace)
    hashes = {PurePosixPath(path).name: found.hashes[path] for path in found.hashes}
    for path in sorted(folder.glob("*.parquet")):
        known = before.get(f"{part.kind}/{path.name}", {})
        if known.get("repo") == found.repo and known.get("sha256") == ids.file_hash(path):
            continue
        if part.ours and path.name in names and hashes[path.name] == ids.file_hash(path):
            continue
        raise UserError(
            f"{folder} already holds shards that were not pulled from {found.repo} ({path.name})",
            "pull into a new folder",
        )


def _refuse_own_clips(workspace: Workspace) -> None:
    """Raise UserError if the workspace has clips of its own, which no shard could restore."""
    if not workspace.clips.is_file():
        return
    held = set(tables.read_table(workspace.clips, tables.CLIPS, ["clip_id"])["clip_id"].to_pylist())
    for path in workspace.data.glob("*.parquet"):
        held -= set(pq.read_table(path, columns=["clip_id"])["clip_id"].to_pylist())
    if held:
        raise UserError(
            f"{workspace.clips} holds {len(held)} clips that are in no shard, which a pull would "
            "replace",
            "pull into a new folder",
        )


def _pulled(workspace: Workspace) -> dict[str, dict[str, str]]:
    """The shards that pulls have written: repository and SHA-256 by `kind/name`."""
    try:
        return dict(json.loads(_record(workspace).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _remember(workspace: Workspace, repo: str, kind: str, shards: Mapping[str, Path]) -> None:
    """Record shards, by name, as pulled from `repo`.

    This happens before they are written, so a kill leaves no unknown shards.
    """
    wrote = {
        f"{kind}/{name}": {"repo": repo, "sha256": ids.file_hash(path)}
        for name, path in shards.items()
    }
    everything = {**_pulled(workspace), **wrote}
    write_text(_record(workspace), json.dumps(everything, indent=1, sort_keys=True))


def _record(workspace: Workspace) -> Path:
    return workspace.root / "steps" / "pulled.json"


def _parts(api: HfApi, repo: str, commit: str) -> list[DatasetPart]:
    import datasets
    from huggingface_hub import HfFileSystem

    hub = HfFileSystem(endpoint=api.endpoint, token=api.token)
    parts = []
    for config in datasets.get_dataset_config_names(repo, revision=commit, token=api.token):
        builder = datasets.load_dataset_builder(repo, config, revision=commit, token=api.token)
        files, splits = {}, {}
        for split, urls in (builder.config.data_files or {}).items():
            name = _SPLIT_NAMES.get(str(split))
            if name is None:
                raise UserError(
                    f"{repo} has a split {split}, which realdpo does not know",
                    f"rename it to one of: {', '.join(SPLITS)}",
                )
            files[name] = tuple(url.split(f"@{commit}/", 1)[-1] for url in urls)
            splits[name] = str(split)
        if not files:
            continue
        first = next(iter(files.values()))[0]
        schema = None
        if first.endswith(".parquet"):
            with hub.open(f"datasets/{repo}@{commit}/{first}", "rb") as handle:
                schema = pq.read_schema(handle)
        columns = set(schema.names if schema is not None else builder.info.features or ())
        kind = next((k for k, names in _NEEDED.items() if set(names) <= columns), None)
        if kind:
            ours = schema is not None and _is_ours(schema, _KINDS[kind])
            parts.append(DatasetPart(config, kind, files, splits, ours))
    return parts


def _is_ours(schema: pa.Schema, kind: tables.TableKind) -> bool:
    metadata = schema.metadata or {}
    return (
        metadata.get(tables.NAME_KEY) == kind.name.encode()
        and metadata.get(tables.VERSION_KEY) == str(kind.version).encode()
        and set(kind.schema.names) <= set(schema.names)
    )


def _folder(workspace: Workspace, kind: str) -> Path:
    return workspace.data if kind == "clips" else workspace.pair_data


def _names(part: DatasetPart) -> set[str]:
    return {PurePosixPath(path).name for files in part.files.values() for path in files}


def _copy(api: HfApi, found: Pull, part: DatasetPart, workspace: Workspace) -> None:
    """Fetch shards byte for byte. An existing one with the right hash is kept."""
    folder, staging = _folder(workspace, part.kind), workspace.step("pull")
    paths = [path for files in part.files.values() for path in files]
    folder.mkdir(parents=True, exist_ok=True)
    with progress_bar(
        "pull", total=sum(found.sizes[path] for path in paths), unit="bytes"
    ) as advance:
        for path in paths:
            target = folder / PurePosixPath(path).name
            if not (target.exists() and ids.file_hash(target) == found.hashes[path]):
                copy = retry_call(
                    lambda path=path: api.hf_hub_download(
                        found.repo,
                        path,
                        repo_type="dataset",
                        revision=found.commit,
                        local_dir=staging,
                    )
                )
                if found.hashes[path] not in (None, ids.file_hash(copy)):
                    os.unlink(copy)
                    raise UserError(f"{path} arrived damaged", "pull it again")
                tables.check_table(copy, _KINDS[part.kind])
                _remember(workspace, found.repo, part.kind, {target.name: Path(copy)})
                os.replace(copy, target)
            advance(found.sizes[path])
    shutil.rmtree(staging, ignore_errors=True)


def _conform(api: HfApi, found: Pull, part: DatasetPart, workspace: Workspace) -> None:
    """Read any dataset that has the columns, and write it as realdpo's shards, one at a time."""
    kind, folder, staging = _KINDS[part.kind], _folder(workspace, part.kind), workspace.step("pull")
    for split, name in part.splits.items():
        given = enumerate(_rows(api, found, part, name), 1)
        rows = (_row(row, part.kind, split, f"{found.repo}, {name}, row {k}") for k, row in given)
        drafts: list[Path] = []
        while chunk := list(itertools.islice(rows, ROWS_PER_SHARD)):
            drafts.append(staging / f"{split}-{len(drafts)}.parquet")
            tables.write_table(drafts[-1], tables.from_rows(kind, chunk), kind)
        folder.mkdir(parents=True, exist_ok=True)
        made = {
            f"{split}-{number:05d}-of-{len(drafts):05d}.parquet": draft
            for number, draft in enumerate(drafts)
        }
        _remember(workspace, found.repo, part.kind, made)
        for name, draft in made.items():  # their number is known only now
            os.replace(draft, folder / name)
        # Shards of an earlier pull that had another number of them.
        for old in folder.glob(f"{split}-*.parquet"):
            if old.name not in made:
                old.unlink()
    shutil.rmtree(staging, ignore_errors=True)


def _rows(api: HfApi, found: Pull, part: DatasetPart, split: str) -> Iterator[dict[str, Any]]:
    import datasets

    data = datasets.load_dataset(
        found.repo, part.config, split=split, revision=found.commit, streaming=True, token=api.token
    )
    yield from data.decode(False)


def _row(row: Mapping[str, Any], kind: str, split: str, where: str) -> dict[str, Any]:
    """A row in realdpo's columns, from a row that has at least the needed ones.

    Raises UserError, which names the row by `where`, for a pair without a prompt or a difference.
    """
    from realdpo.media.decode import read_clip

    known = set(_KINDS[kind].schema.names)
    given = {key: value for key, value in row.items() if key in known and value is not None}
    main = "video" if kind == "clips" else "win"
    mp4 = _bytes(row[main])
    frames, fps = read_clip(mp4)
    given |= {
        "split": split,
        "width": frames.shape[2],
        "height": frames.shape[1],
        "frames": frames.shape[0],
        "fps": float(fps),
        "source_id": given.get("source_id") or ids.bytes_hash(mp4),
    }
    given.setdefault("clip_id", ids.content_id(pulled=ids.bytes_hash(mp4)))
    if kind == "clips":
        start = given.get("start_s", 0.0)
        given |= {
            "video": {"bytes": mp4, "path": f"{given['clip_id']}.mp4"},
            "sha256": ids.bytes_hash(mp4),
        }
        given |= {
            "start_s": start,
            "end_s": given.get("end_s", start + frames.shape[0] / float(fps)),
        }
        given.setdefault("captioner", "unknown")
    else:
        losers = row["lose"] if isinstance(row["lose"], list) else [row["lose"]]
        videos = [mp4, *(_bytes(lose) for lose in losers)]
        names = [f"{ids.bytes_hash(data)}.mp4" for data in videos]
        named = [{"bytes": data, "path": name} for data, name in zip(videos, names, strict=True)]
        if problem := pair_problem(row["prompt"], names):
            raise UserError(
                f"{where}: {problem}", "correct or remove that row in the dataset, then pull again"
            )
        given["win"], given["lose"] = named[0], named[1:]
        if first := given.get("first_frame"):
            given["first_frame"] = {"bytes": _bytes(first), "path": "first_frame.png"}
        given.setdefault("task", "i2v" if given.get("first_frame") else "t2v")
        hashes = [ids.bytes_hash(lose["bytes"]) for lose in given["lose"]]
        given.setdefault(
            "pair_id", ids.content_id(win=ids.bytes_hash(mp4), lose=hashes, prompt=row["prompt"])
        )
        given.setdefault("model", "unknown")
    return given


def _bytes(media: Any) -> bytes:
    """The bytes of a Video or Image cell, which may hold only a path or URL."""
    if media.get("bytes"):
        return bytes(media["bytes"])
    import fsspec

    with fsspec.open(media["path"], "rb") as handle:
        return bytes(handle.read())


def _shard_hashes(workspace: Workspace) -> dict[str, str]:
    return {path.name: ids.file_hash(path) for path in workspace.data.glob("*.parquet")}


def _rebuild_clips(workspace: Workspace, unchanged: bool) -> None:
    """Write clips/, clips.parquet and sources.parquet, which `pairs build` reads, from the shards.

    unchanged: the shards are those of before, so tables that are there stay: since then they may
    have got captions and scores.
    """
    rows: list[dict[str, Any]] = []
    known = set(tables.CLIPS.schema.names)
    paths = sorted(workspace.data.glob("*.parquet"))
    total = sum(pq.ParquetFile(path).metadata.num_rows for path in paths)
    with progress_bar("unpack", total=total, unit="clips") as advance:
        for path in paths:
            file = pq.ParquetFile(path)
            for group in range(file.num_row_groups):
                for row in file.read_row_group(group).to_pylist():
                    rows.append(_clip_row(row, known))
                    target = workspace.clip_file(row["clip_id"])
                    if not (target.exists() and ids.file_hash(target) == row["sha256"]):
                        integrity.require_row(row, tables.DATASET, path)
                        write_bytes(target, row["video"]["bytes"])
                    advance()
    if unchanged and workspace.clips.is_file() and workspace.sources.is_file():
        return
    tables.write_table(workspace.clips, tables.from_rows(tables.CLIPS, rows), tables.CLIPS)
    sources = {row["source_id"]: row for row in reversed(rows)}
    provenance = ("license", "author", "source_url", "title", "keywords", "retrieved_at", "split")
    table = tables.from_rows(
        tables.SOURCES,
        [
            {"source_id": name, "status": "ok"} | {key: row[key] for key in provenance}
            for name, row in sorted(sources.items())
        ],
    )
    tables.write_table(workspace.sources, table, tables.SOURCES)


def _clip_row(row: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    kept = {key: value for key, value in row.items() if key in known or "." in key}
    return kept | {
        "status": "ok",
        "keep": True,
        "reasons": [],
        "fps": _rational(row["fps"]),
        "start": _rational(row["start_s"]),
        "end": _rational(row["end_s"]),
        "path": f"clips/{row['clip_id']}.mp4",
    }


def _rational(value: float | None) -> str | None:
    if value is None:
        return None
    fraction = Fraction(value).limit_denominator(100_000)
    return f"{fraction.numerator}/{fraction.denominator}"
