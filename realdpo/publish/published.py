"""The publishable parts of a workspace: shards of clips and pairs, and the weights of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from realdpo import tables
from realdpo.errors import UserError
from realdpo.workspace import SPLITS, Workspace

KINDS = ("clips", "pairs", "model")
_SHARD = re.compile(r"(train|validation|test)-(\d{5})-of-(\d{5})\.parquet")


@dataclass(frozen=True)
class Shards:
    """The shards of one configuration, and their folder in a repository."""

    config: str  # clips | pairs
    folder: str  # in the repository
    kind: tables.TableKind
    files: Mapping[str, tuple[Path, ...]]  # by split, in order
    rows: Mapping[str, int]
    bytes: Mapping[str, int]  # size of the rows in memory, for `dataset_info`

    @property
    def schema(self) -> pa.Schema:
        """The schema that all shards share."""
        return pq.read_schema(next(iter(self.files.values()))[0])

    def facts(self) -> pa.Table:
        """All rows of all splits without the pictures' bytes."""
        media = set(self.kind.features)
        names = [name for name in self.schema.names if name not in media]
        return pa.concat_tables(
            pq.read_table(path, columns=names) for split in self.files.values() for path in split
        )


def published_shards(workspace: Workspace, config: str) -> Shards:
    """The shards of `config` (clips or pairs).

    Raises UserError if there is none, if one is missing from a split, if a shard is damaged or
    holds another table, or if shards differ in their columns.
    """
    folder, kind, made_by = {
        "clips": (workspace.data, tables.DATASET, "curate ingest FOOTAGE"),
        "pairs": (workspace.pair_data, tables.PAIR_SHARD, "pairs build"),
    }[config]
    files: dict[str, tuple[Path, ...]] = {}
    for split in SPLITS:
        found = sorted(
            path for path in folder.glob(f"{split}-*.parquet") if _SHARD.fullmatch(path.name)
        )
        if found:
            _whole(found)
            files[split] = tuple(found)
    if not files:
        raise UserError(
            f"{folder} holds no shards", f"create them with: realdpo {made_by} -w {workspace.root}"
        )
    schemas = {path: tables.check_table(path, kind) for split in files.values() for path in split}
    first, *others = schemas.items()
    for path, schema in others:
        if not schema.equals(first[1]):
            raise UserError(
                f"{path} and {first[0]} differ in their columns",
                "write the shards again with the command that made them",
            )
    metadata = {
        split: [pq.ParquetFile(path).metadata for path in paths] for split, paths in files.items()
    }
    return Shards(
        config=config,
        folder={"clips": "data", "pairs": "pairs"}[config],
        kind=kind,
        files=files,
        rows={split: sum(item.num_rows for item in items) for split, items in metadata.items()},
        bytes={
            split: sum(
                item.row_group(i).total_byte_size
                for item in items
                for i in range(item.num_row_groups)
            )
            for split, items in metadata.items()
        },
    )


def publishable_parts(workspace: Workspace) -> tuple[str, ...]:
    """Which of clips, pairs and model this workspace can publish."""
    found = {
        "clips": any(workspace.data.glob("*.parquet")),
        "pairs": any(workspace.pair_data.glob("*.parquet")),
        "model": any(workspace.runs.glob("*/weights/**/*.safetensors")),
    }
    return tuple(kind for kind in KINDS if found[kind])


def run_folder(workspace: Workspace, name: str | None = None) -> Path:
    """The folder of the run `name`, or of the only run that has weights.

    Raises UserError if it is missing, or if there are several runs to choose from.
    """
    runs = sorted({path.parents[0] for path in workspace.runs.glob("*/weights")})
    names = [run.name for run in runs]
    if name is not None and name not in names:
        raise UserError(
            f"{workspace.runs / name} has no weights",
            f"runs that have weights: {', '.join(names) or 'none'}",
        )
    if not runs:
        raise UserError(
            f"{workspace.runs} holds no finished run",
            f"make one with: realdpo train -w {workspace.root}",
        )
    if name is None and len(runs) > 1:
        raise UserError(f"several runs have weights: {', '.join(names)}", "choose one with --run")
    return runs[0] if name is None else workspace.runs / name


def _whole(paths: list[Path]) -> None:
    """Check that no shard is missing or stale, by the count in the shards' names."""
    totals = {int(path.name[-13:-8]) for path in paths}
    if len(totals) > 1 or totals != {len(paths)}:
        raise UserError(
            f"{paths[0].parent} holds {len(paths)} shards of a split that should have "
            f"{' or '.join(str(total) for total in sorted(totals))}",
            "write the shards again with the command that made them",
        )
