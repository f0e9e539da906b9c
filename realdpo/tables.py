"""The tables that the parts hand to each other: schemas, their versions, atomic Parquet.

Every table carries its name and version in the Parquet metadata, so that a file written by
another version is told apart from one that is damaged. Scores are extra float32 columns named
`<group>.<name>` after the base columns; null means not measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from realdpo.errors import UserError
from realdpo.files import atomic_path

NAME_KEY = b"realdpo.table"
VERSION_KEY = b"realdpo.version"

ROW_GROUP = 16_384
"""Rows that stand together in a file, and are in memory at once where a table is streamed."""

MEDIA = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""How `datasets` stores a Video or an Image: the bytes and a file name."""


_SPAN = pa.list_(pa.float64())
REGION = pa.struct([("time", _SPAN), ("rows", _SPAN), ("columns", _SPAN)])
"""A part of a video: start and end in 0..1 of its frames, rows and columns."""


@dataclass(frozen=True)
class TableKind:
    """A table's name, version, base columns, and the `datasets` features of its media columns.

    earlier: the first version that this one only adds columns to; they are null when it is read.
    """

    name: str
    version: int
    schema: pa.Schema
    features: Mapping[str, Any]
    earlier: int = 0

    def reads(self, version: str) -> bool:
        """Whether a file of that version can be read: of one that only lacks columns, too."""
        return version.isdigit() and (self.earlier or self.version) <= int(version) <= self.version

    def full_schema(self, score_columns: Iterable[str] = ()) -> pa.Schema:
        """Base columns, then sorted float32 score columns, with the metadata of this kind."""
        extra = [pa.field(name, pa.float32()) for name in sorted(score_columns)]
        schema = pa.schema([*self.schema, *extra])
        metadata = {NAME_KEY: self.name.encode(), VERSION_KEY: str(self.version).encode()}
        if self.features:
            metadata[b"huggingface"] = json.dumps(
                {"info": {"features": _all_features(schema, self.features)}}, sort_keys=True
            ).encode()
        return schema.with_metadata(metadata)


def _kind(
    name: str,
    version: int,
    columns: Sequence[tuple[str, pa.DataType]],
    features: Mapping[str, Any] | None = None,
    earlier: int = 0,
) -> TableKind:
    return TableKind(name, version, pa.schema(columns), features or {}, earlier)


_PROVENANCE = [
    ("license", pa.string()),
    ("author", pa.string()),
    ("source_url", pa.string()),
    ("title", pa.string()),
    ("keywords", pa.list_(pa.string())),
    ("retrieved_at", pa.string()),
]

_SPANS = pa.list_(
    pa.struct(
        [
            ("start", pa.string()),  # num/den seconds
            ("end", pa.string()),  # null: to the end
            ("captions", pa.list_(pa.string())),
        ]
    )
)

_PART = pa.struct(
    [
        ("start", pa.string()),  # num/den seconds from the source's first frame
        ("end", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("fps", pa.string()),
    ]
)

SOURCES = _kind(
    "sources",
    1,
    [
        ("source_id", pa.string()),  # SHA-256 of the bytes; null when the file cannot be read
        ("path", pa.string()),
        ("status", pa.string()),  # ok | failed | missing: read before, but not now
        ("error", pa.string()),
        ("bytes", pa.int64()),
        ("container", pa.string()),
        ("codec", pa.string()),
        ("pix_fmt", pa.string()),
        ("width", pa.int32()),  # as shown: upright, square pixels
        ("height", pa.int32()),
        ("rotation", pa.int32()),  # degrees clockwise that were undone
        ("sample_aspect", pa.string()),  # num/den
        ("fps", pa.string()),  # num/den, average
        ("duration_s", pa.float64()),
        ("start_s", pa.float64()),  # of the stream, before it is shifted to zero
        ("frames", pa.int64()),  # decoded
        ("decode_errors", pa.int64()),
        ("parts", pa.list_(_PART)),  # divided by holes in the times and changes of size
        ("transfer", pa.string()),
        ("hdr", pa.bool_()),
        ("audio", pa.bool_()),
        *_PROVENANCE,
        ("split", pa.string()),  # the user's wish, if any
        ("captions", pa.list_(pa.string())),  # that came with the footage; a clip gets one
        ("captions_from", pa.string()),  # the file that said them
        ("spans", _SPANS),  # that are to become clips, instead of shots
    ],
)

CLIPS = _kind(
    "clips",
    1,
    [
        ("clip_id", pa.string()),
        ("source_id", pa.string()),
        ("shot", pa.int32()),  # number of the shot in its source, from 0
        ("start", pa.string()),  # num/den seconds from the stream's first frame
        ("end", pa.string()),  # num/den seconds, exclusive
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("status", pa.string()),  # ok | failed
        ("error", pa.string()),
        ("keep", pa.bool_()),
        ("reasons", pa.list_(pa.string())),  # why it was dropped, all of them
        ("prompt", pa.string()),
        (
            "captioner",
            pa.string(),
        ),  # who wrote the prompt, null without one: keywords, sidecar, edit, model id ...
        ("caption_status", pa.string()),  # ok | truncated | refused | empty | error | none
        ("caption_raw", pa.string()),
        ("action", pa.list_(pa.string())),
        ("path", pa.string()),  # clips/<clip_id>.mp4, null until it is cut
        ("sha256", pa.string()),  # of the cut clip's bytes
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("frames", pa.int32()),
        ("fps", pa.string()),  # num/den
        ("phash", pa.list_(pa.uint64())),  # perceptual hashes over time
        ("duplicate_of", pa.string()),  # clip_id of the kept one
        *_PROVENANCE,
        ("split", pa.string()),  # train | validation | test
    ],
)

DATASET = _kind(
    "dataset",
    1,
    [
        ("clip_id", pa.string()),
        ("video", MEDIA),
        ("prompt", pa.string()),
        ("action", pa.list_(pa.string())),
        ("captioner", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("frames", pa.int32()),
        ("fps", pa.float64()),
        ("sha256", pa.string()),
        ("source_id", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        *_PROVENANCE,
        ("split", pa.string()),
    ],
    {"video": {"_type": "Video"}},
)

_PAIR_FACTS = [
    ("model", pa.string()),
    ("revision", pa.string()),
    ("lora", pa.string()),
    ("guide", pa.string()),  # strength of the guidance by the base, or negative; null for none
    ("task", pa.string()),  # i2v | t2v
    ("scheduler", pa.string()),
    ("steps", pa.int32()),
    ("guidance", pa.float64()),
    ("negative_prompt", pa.string()),
    ("call", pa.string()),  # further arguments of the pipeline's call, as JSON
    ("scheduler_settings", pa.string()),  # that differ from the model's own, as JSON
    ("dtype", pa.string()),  # of the weights: bfloat16 | float16 | float32
    ("quantization", pa.string()),  # as JSON, null for none
    ("seeds", pa.list_(pa.int64())),  # one per loser
    ("strategy", pa.list_(pa.string())),  # generate | renoise | local, one per loser
    # noise share that renoise and local really began at, null for generate; one per loser
    ("strength", pa.list_(pa.float64())),
    ("regions", pa.list_(REGION)),  # what a local loser was made anew in, else null; one per loser
    ("round", pa.int32()),
    ("seconds", pa.list_(pa.float64())),  # generation time, one per loser; not part of shards
]

PAIRS = _kind(
    "pairs",
    2,
    [
        ("pair_id", pa.string()),
        ("clip_id", pa.string()),
        ("prompt", pa.string()),
        ("split", pa.string()),
        ("status", pa.string()),  # ok | failed | broken | rejected
        ("error", pa.string()),
        ("win", pa.string()),  # file name under pairs/videos
        ("lose", pa.list_(pa.string())),
        ("first_frame", pa.string()),  # file name under pairs/videos, null for text-to-video
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("frames", pa.int32()),
        ("fps", pa.float64()),
        *_PAIR_FACTS,
        ("review", pa.string()),  # accept | reject | flag, from a person
        ("source_id", pa.string()),
        *_PROVENANCE,
    ],
    earlier=1,
)

PAIR_SHARD = _kind(
    "pair_shard",
    2,
    [
        ("pair_id", pa.string()),
        ("clip_id", pa.string()),
        ("prompt", pa.string()),
        ("win", MEDIA),
        ("lose", pa.list_(MEDIA)),
        ("first_frame", MEDIA),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("frames", pa.int32()),
        ("fps", pa.float64()),
        *_PAIR_FACTS,
        ("review", pa.string()),
        ("source_id", pa.string()),
        *_PROVENANCE,
        ("split", pa.string()),
    ],
    {"win": {"_type": "Video"}, "lose": [{"_type": "Video"}], "first_frame": {"_type": "Image"}},
    earlier=1,
)


def from_rows(kind: TableKind, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows (dicts) as a table of `kind`; missing base columns are null.

    Keys with a dot are score columns. Raises ValueError for any other key that `kind` lacks.
    """
    known = set(kind.schema.names)
    scores: set[str] = set()
    for row in rows:
        extra = row.keys() - known
        if strange := [key for key in extra if "." not in key]:
            raise ValueError(f"table {kind.name} has no column {sorted(strange)}")
        scores |= extra
    schema = kind.full_schema(scores)
    columns = {name: [row.get(name) for row in rows] for name in schema.names}
    return pa.table(columns, schema=schema)


def score_columns(table: pa.Table | pa.Schema) -> list[str]:
    """Names of the score columns (those with a dot)."""
    schema = table if isinstance(table, pa.Schema) else table.schema
    return [name for name in schema.names if "." in name]


def write_table(path: str | Path, table: pa.Table, kind: TableKind, **options: Any) -> None:
    """Write `table` as `kind`, atomically, the same bytes for the same rows.

    `options` go to pyarrow's writer (row groups, compression). Raises ValueError when base
    columns are missing, UserError when the disk is full.
    """
    if missing := set(kind.schema.names) - set(table.schema.names):
        raise ValueError(f"table {kind.name} lacks the columns {sorted(missing)}")
    schema = kind.full_schema(score_columns(table))
    table = table.select(schema.names).cast(schema)
    with atomic_path(path) as temporary:
        defaults = {"compression": "zstd", "row_group_size": ROW_GROUP}
        pq.write_table(table, temporary, **{**defaults, **options})


def read_batches(
    path: str | Path, size: int = ROW_GROUP, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Rows of a Parquet file, at most `size` at a time; what is in memory is one row group.

    Asked for all row groups at once, Arrow's reader fetches far ahead: of a table of fingerprints
    nearly all of it.
    """
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield from file.iter_batches(size, row_groups=[group], columns=columns)


def replace_columns(
    path: str | Path, kind: TableKind, columns: Mapping[str, pa.ChunkedArray]
) -> None:
    """Write the table at `path` again with these columns in the place of theirs.

    It goes through a row group at a time, so that a table larger than memory can be changed.
    Raises as `read_table` and `write_table` do, and ValueError for a column of another length.
    """
    schema = check_table(path, kind)
    rows = pq.read_metadata(path).num_rows
    if wrong := [name for name, column in columns.items() if len(column) != rows]:
        raise ValueError(f"{wrong[0]} has {len(columns[wrong[0]])} rows, the table {rows}")
    extra = [name for name in (*schema.names, *columns) if "." in name]
    full = kind.full_schema(dict.fromkeys(extra))
    first = 0
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, full, compression="zstd") as out,
    ):
        for batch in read_batches(path):
            part = {name: column.slice(first, batch.num_rows) for name, column in columns.items()}
            whole = pa.table(
                {name: part[name] if name in part else batch[name] for name in full.names}
            )
            out.write_table(whole.cast(full))
            first += batch.num_rows


def read_table(path: str | Path, kind: TableKind, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table of `kind`.

    Raises UserError when the file is missing, damaged, another table, or of another version.
    """
    path = Path(path)
    schema = check_table(path, kind)
    wanted = None if columns is None else [c for c in columns if c in schema.names]
    try:
        table = pq.read_table(path, columns=wanted, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path} is damaged: {_first_line(error)}", "delete it and run the command again"
        ) from None
    return _with_later_columns(table, kind, columns)


def _with_later_columns(
    table: pa.Table, kind: TableKind, columns: Sequence[str] | None
) -> pa.Table:
    """The table with null for columns that its version did not have yet."""
    for field in kind.schema:
        if field.name not in table.column_names and (columns is None or field.name in columns):
            table = table.append_column(field, pa.nulls(len(table), field.type))
    return table


def check_table(path: str | Path, kind: TableKind) -> pa.Schema:
    """The schema of the file at `path`, which must hold a table of `kind`; raises as `read_table`."""
    path = Path(path)
    try:
        schema = pq.read_schema(path)
    except FileNotFoundError:
        raise UserError(f"{path} is not there", "run the step that makes it first") from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path} is not a readable Parquet file: {_first_line(error)}",
            "delete it and run the command again",
        ) from None
    metadata = schema.metadata or {}
    name = metadata.get(NAME_KEY, b"?").decode()
    version = metadata.get(VERSION_KEY, b"?").decode()
    if name != kind.name:
        raise UserError(f"{path} holds the table {name!r}, not {kind.name!r}")
    if not kind.reads(version):
        raise UserError(
            f"{path} has version {version} of the table {kind.name!r}, this program reads "
            f"{kind.version}",
            "make it again with this version of realdpo",
        )
    return schema


def _all_features(schema: pa.Schema, media: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: media.get(field.name) or _feature(field.type) for field in schema}


def _feature(kind: pa.DataType) -> Any:
    """The `datasets` feature of a plain column."""
    if pa.types.is_list(kind):
        return [_feature(kind.value_type)]
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    names = {pa.float32(): "float32", pa.float64(): "float64", pa.bool_(): "bool"}
    return {"dtype": names.get(kind, str(kind)), "_type": "Value"}


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
