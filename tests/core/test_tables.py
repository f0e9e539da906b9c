"""Tables keep their schema, their version and their bytes."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from realdpo import tables
from realdpo.errors import UserError

ROWS = [
    {"clip_id": "a", "source_id": "s", "shot": 0, "keep": True, "motion.subject": 1.5},
    {"clip_id": "b", "source_id": "s", "reasons": ["black.share=0.4>0.1"], "luma.mean": 0.5},
]


def test_rows_come_back_with_scores_as_columns(tmp_path: Path) -> None:
    path = tmp_path / "clips.parquet"
    tables.write_table(path, tables.from_rows(tables.CLIPS, ROWS), tables.CLIPS)
    table = tables.read_table(path, tables.CLIPS)
    assert table.num_rows == 2
    assert tables.score_columns(table) == ["luma.mean", "motion.subject"]
    assert table["motion.subject"].to_pylist() == [1.5, None]
    assert table["reasons"].to_pylist() == [None, ["black.share=0.4>0.1"]]
    assert tables.read_table(path, tables.CLIPS, ["clip_id", "nothing"]).schema.names == ["clip_id"]


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tables.write_table(tmp_path / name, tables.from_rows(tables.CLIPS, ROWS), tables.CLIPS)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_unknown_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="colour"):
        tables.from_rows(tables.CLIPS, [{"colour": 1}])


def test_missing_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="source_id"):
        tables.write_table(tmp_path / "x", pa.table({"clip_id": ["a"]}), tables.CLIPS)


def test_what_is_not_our_table_is_told_apart(tmp_path: Path) -> None:
    tables.write_table(tmp_path / "clips", tables.from_rows(tables.CLIPS, ROWS), tables.CLIPS)
    with pytest.raises(UserError, match="holds the table 'clips', not 'pairs'"):
        tables.read_table(tmp_path / "clips", tables.PAIRS)

    pq.write_table(pa.table({"a": [1]}), tmp_path / "other")
    with pytest.raises(UserError, match="holds the table '\\?'"):
        tables.read_table(tmp_path / "other", tables.CLIPS)

    newer = tables.from_rows(tables.CLIPS, ROWS)
    newer = newer.replace_schema_metadata({**newer.schema.metadata, tables.VERSION_KEY: b"999"})
    pq.write_table(newer, tmp_path / "newer")
    with pytest.raises(UserError, match="version 999"):
        tables.read_table(tmp_path / "newer", tables.CLIPS)

    with pytest.raises(UserError, match="is not there"):
        tables.read_table(tmp_path / "none", tables.CLIPS)

    whole = (tmp_path / "clips").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cut"):
        tables.read_table(tmp_path / "cut", tables.CLIPS)


@pytest.mark.parametrize("kind", [tables.PAIRS, tables.PAIR_SHARD])
def test_pairs_of_the_first_version_are_still_read(tmp_path: Path, kind: tables.TableKind) -> None:
    later = {"dtype", "quantization", "negative_prompt", "call", "scheduler_settings", "strength"}
    later |= {"regions"}
    row = {"pair_id": "p", "model": "tiny", "round": 1, "audit.sharpness": 0.5}
    new = tables.from_rows(kind, [row])
    old = new.drop_columns(sorted(later)).replace_schema_metadata(
        {tables.NAME_KEY: kind.name.encode(), tables.VERSION_KEY: b"1"}
    )
    pq.write_table(old, tmp_path / "old.parquet")
    read = tables.read_table(tmp_path / "old.parquet", kind)
    assert read.schema.names == [*old.schema.names, *[n for n in kind.schema.names if n in later]]
    assert set(read.to_pylist()[0].items()) >= {("model", "tiny"), ("dtype", None)}
    some = tables.read_table(tmp_path / "old.parquet", kind, ["pair_id", "dtype"])
    assert some.to_pylist() == [{"pair_id": "p", "dtype": None}]
    tables.write_table(tmp_path / "new.parquet", read, kind)  # and can be written as what it is now
    assert tables.read_table(tmp_path / "new.parquet", kind).schema.names == new.schema.names
    future = old.replace_schema_metadata(
        {tables.NAME_KEY: kind.name.encode(), tables.VERSION_KEY: b"3"}
    )
    pq.write_table(future, tmp_path / "future.parquet")
    with pytest.raises(UserError, match="version 3"):
        tables.read_table(tmp_path / "future.parquet", kind)


def test_shards_say_video_where_the_hub_looks_for_it(tmp_path: Path) -> None:
    import datasets

    row = {
        "pair_id": "p",
        "win": {"bytes": b"w", "path": "w.mp4"},
        "lose": [{"bytes": b"l", "path": "l.mp4"}],
        "first_frame": {"bytes": None, "path": None},
        "fps": 8.0,
        "audit.sharpness": 0.5,
    }
    tables.write_table(
        tmp_path / "p.parquet", tables.from_rows(tables.PAIR_SHARD, [row]), tables.PAIR_SHARD
    )
    loaded = datasets.Dataset.from_parquet(
        str(tmp_path / "p.parquet"), cache_dir=str(tmp_path / "cache")
    )
    assert isinstance(loaded.features["win"], datasets.Video)
    assert isinstance(loaded.features["lose"].feature, datasets.Video)
    assert isinstance(loaded.features["first_frame"], datasets.Image)
    plain = loaded.cast_column("win", datasets.Video(decode=False))
    assert plain.select_columns(["win"])[0]["win"]["bytes"] == b"w"
    assert plain.features["fps"].dtype == "float64"
    assert plain.features["seeds"].feature.dtype == "int64"
