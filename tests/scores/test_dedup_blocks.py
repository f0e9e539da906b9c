"""Near-duplicates in blocks: the same pairs as all at once, on every engine, and after a kill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from realdpo import tables
from realdpo.curate import dedup, dedup_blocks
from realdpo.curate.dedup_blocks import Where
from realdpo.errors import UserError
from realdpo.ledger import Ledger

SERIAL = Where(engine="serial")


def clips(count: int, seed: int = 0) -> tuple[pa.Table, list[tuple[int, int]]]:
    """A clips table in which about a third are copies, some without a fingerprint."""
    rng = np.random.default_rng(seed)
    basis = dedup._COSINES[1:25] / np.maximum(dedup._WEIGHTS[1:25, None], 0.5)
    rows: list[dict[str, object]] = []
    while len(rows) < count:
        length = int(rng.integers(8, 20))
        walk = np.cumsum(rng.normal(0, 8, (length, len(basis))), axis=0) @ basis
        cells = 128 + rng.normal(0, 80, len(basis)) @ basis + walk
        for copy in range(1 + (rng.random() < 0.5)):
            bytes_ = np.clip(cells + rng.normal(0, copy, cells.shape), 0, 255).astype(np.uint8)
            words = bytes_.reshape(-1).view(np.uint64).tolist()
            rows.append(
                {
                    "clip_id": f"{len(rows):032x}",
                    "source_id": f"s{len(rows) // 5 if copy else len(rows)}",
                    "phash": words
                    if rng.random() > 0.05
                    else rng.choice(np.array([None, []], object)),
                }
            )
    rng.shuffle(rows)
    table = tables.from_rows(tables.CLIPS, rows[:count])
    prints = [row["phash"] for row in table.to_pylist()]
    arrays = [None if p is None else np.array(p, np.uint64) for p in prints]
    return table, dedup.duplicate_pairs(arrays, table["source_id"].to_pylist())


def as_list(found: np.ndarray) -> list[tuple[int, int]]:
    return [(i, j) for i, j in found.tolist()]


@pytest.mark.parametrize("block", [7, 33, 120, 500])
def test_blocks_find_what_all_at_once_finds(tmp_path: Path, block: int) -> None:
    table, want = clips(120)
    assert len(want) > 20
    found = dedup_blocks.find_duplicates(table, tmp_path / "d", where=SERIAL, block=block)
    assert as_list(found) == want
    tables.write_table(tmp_path / "c.parquet", table, tables.CLIPS, row_group_size=50)
    found = dedup_blocks.find_duplicates(
        tmp_path / "c.parquet", tmp_path / "e", where=SERIAL, block=block
    )
    assert as_list(found) == want


def test_processes_find_the_same(tmp_path: Path) -> None:
    table, want = clips(60)
    found = dedup_blocks.find_duplicates(table, tmp_path, where=Where("local", 2), block=20)
    assert as_list(found) == want
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]  # blocks are gone


def test_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, want = clips(60)
    real, asked = dedup_blocks._compare_files, []

    def failing(task: tuple[int, int], **rest: object) -> int:
        asked.append(task)
        if task == (1, 2):
            raise MemoryError
        return real(task, **rest)

    monkeypatch.setattr(dedup_blocks, "_compare_files", failing)
    with pytest.raises(
        UserError, match="1 of 6 blocks could not be compared: 00001-00002: not enough memory"
    ):
        dedup_blocks.find_duplicates(table, tmp_path, where=SERIAL, block=20)
    monkeypatch.setattr(dedup_blocks, "_compare_files", real)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    with Ledger(folder / "done") as done:
        assert len(done) == 5
    assert as_list(dedup_blocks.find_duplicates(table, tmp_path, where=SERIAL, block=20)) == want
    assert len(asked) == 6


def test_what_was_found_is_kept_by_what_was_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, want = clips(40)
    dedup_blocks.find_duplicates(table, tmp_path)
    monkeypatch.setattr(dedup_blocks, "compare_prints", None)
    assert as_list(dedup_blocks.find_duplicates(table, tmp_path)) == want
    with pytest.raises(TypeError):  # another fingerprint under the same id is compared anew
        dedup_blocks.find_duplicates(clips(40, seed=1)[0], tmp_path)


@pytest.mark.parametrize("block", [9, 1000])
def test_against_another_set(tmp_path: Path, block: int) -> None:
    table, want = clips(60)
    one, other = table.slice(0, 35), table.slice(35)
    found = dedup_blocks.find_duplicates(one, tmp_path, against=other, where=SERIAL, block=block)
    assert as_list(found) == [(i, j - 35) for i, j in want if i < 35 <= j]
    nothing = table.slice(0, 0)
    assert not len(
        dedup_blocks.find_duplicates(one, tmp_path, against=nothing, where=SERIAL, block=block)
    )
    assert not len(dedup_blocks.find_duplicates(nothing, tmp_path, where=SERIAL, block=block))
