"""Near-duplicates of sets that no memory holds: the exact comparison of `dedup`, in blocks.

The clips are written to block files; every two blocks are compared by one task on the engine,
here, in processes, or on Ray (whose workers must see the folder). A task keeps its pairs in a
file when it is done, so a run that was killed goes on. What is in memory at once is two blocks a
process, whatever the number of clips.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from realdpo import engine, ids, tables
from realdpo.curate.dedup import DedupSettings, Prints, compare_prints, gather_prints
from realdpo.errors import UserError
from realdpo.files import atomic_path
from realdpo.ledger import Ledger
from realdpo.progress import progress_bar

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 32_768
"""Clips in a block: 50 MB of fingerprints of 6 seconds. Smaller blocks are slower: pairs are compared
together where their lengths are equal, and few of few are."""

VERSION = 1
"""Raise it when the same clips would give other pairs; the test of `dedup` that says so is
`test_the_search_finds_what_the_rule_says_of_every_pair`."""

Pairs = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Where:
    """On what the tasks run, as `engine.run_rows` takes it."""

    engine: str = "local"
    workers: int = 0
    address: str = ""


def find_duplicates(
    clips: pa.Table | Path,
    folder: Path,
    *,
    against: pa.Table | Path | None = None,
    settings: DedupSettings | None = None,
    where: Where | None = None,
    block: int = BLOCK,
    keep: bool = True,
) -> Pairs:
    """Rows (i, j) of the pairs of clips that show the same footage [P, 2], sorted.

    clips: a clips table, or the Parquet file of one, which is read in batches; columns
    `source_id` and `phash`. against: another such table; pairs are then of a row of `clips` and
    a row of `against`, else i < j of one. folder: where results are kept, by what was compared.
    keep: False leaves nothing there. Raises UserError when a task fails; what was found is kept.
    """
    settings, where = settings or DedupSettings(), where or Where()
    key = ids.content_id(
        clips=_digest(clips),
        against=None if against is None else _digest(against),
        settings=settings,
        version=VERSION,
    )
    kept = folder / f"{key}.npy"
    if kept.exists():
        result: Pairs = np.load(kept)
        return result
    if not keep:
        with tempfile.TemporaryDirectory() as other:
            return find_duplicates(
                clips, Path(other), against=against, settings=settings, where=where, block=block
            )
    if _rows(clips) <= block and (against is None or _rows(against) <= block):
        found = _at_once(clips, against, settings)
    else:
        found = _in_blocks(clips, against, folder / key, settings, where, block)
    with atomic_path(kept) as temporary, open(temporary, "wb") as out:
        np.save(out, found)
    shutil.rmtree(folder / key, ignore_errors=True)
    return found


def _at_once(
    clips: pa.Table | Path, against: pa.Table | Path | None, settings: DedupSettings
) -> Pairs:
    owners: dict[str, int] = {}
    one = next(_blocks(clips, owners, 1 << 62), None)
    other = None if against is None else next(_blocks(against, owners, 1 << 62), None)
    if one is None or (against is not None and other is None):
        return np.empty((0, 2), np.int64)
    return compare_prints(one, other, settings)


def _in_blocks(
    clips: pa.Table | Path,
    against: pa.Table | Path | None,
    folder: Path,
    settings: DedupSettings,
    where: Where,
    block: int,
) -> Pairs:
    owners: dict[str, int] = {}
    left = _write_blocks(clips, folder / "left", owners, block)
    right = left if against is None else _write_blocks(against, folder / "right", owners, block)
    tasks = [(i, j) for i in range(left) for j in range(i if against is None else 0, right)]
    step = functools.partial(
        _compare_files,
        left=folder / "left",
        right=folder / ("left" if against is None else "right"),
        out=folder / "pairs",
        settings=settings,
        within=against is None,
    )
    failed: dict[str, str] = {}
    (folder / "pairs").mkdir(parents=True, exist_ok=True)
    with Ledger(folder / "done") as done:
        todo = [task for task in tasks if done.get(_name(task)) is None]
        with progress_bar("compare", len(tasks), "blocks", done=len(tasks) - len(todo)) as advance:
            for outcome in engine.run_rows(
                step, todo, engine=where.engine, workers=where.workers, address=where.address
            ):
                if outcome.error is None:
                    done.put(_name(outcome.row), outcome.value)
                else:
                    failed[_name(outcome.row)] = outcome.error
                advance()
        counts = {task: done.get(_name(task)) or 0 for task in tasks}
    if failed:
        name, why = next(iter(failed.items()))
        raise UserError(
            f"{len(failed)} of {len(tasks)} blocks could not be compared: {name}: {why}",
            "run the same command again: the others are kept",
        )
    parts = [np.load(folder / "pairs" / f"{_name(task)}.npy") for task in tasks if counts[task]]
    result = np.concatenate([np.empty((0, 2), np.int64), *parts])
    return result[np.lexsort((result[:, 1], result[:, 0]))]


def _write_blocks(clips: pa.Table | Path, folder: Path, owners: dict[str, int], block: int) -> int:
    """Write the blocks that are not there yet; returns their number."""
    count = 0
    for number, prints in enumerate(_blocks(clips, owners, block)):
        path = folder / f"{number:05d}.npz"
        if not path.exists():
            with atomic_path(path) as temporary, open(temporary, "wb") as out:
                np.savez(
                    out,
                    cells=prints.cells,
                    lengths=prints.lengths,
                    means=prints.means,
                    owners=prints.owners,
                    places=prints.places,
                )
        count = number + 1
    return count


def _compare_files(
    task: tuple[int, int], left: Path, right: Path, out: Path, settings: DedupSettings, within: bool
) -> int:
    i, j = task
    same = within and i == j
    found = compare_prints(_load(left, i), None if same else _load(right, j), settings)
    if len(found):
        with atomic_path(out / f"{_name(task)}.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, found)
    return len(found)


@functools.lru_cache(maxsize=2)  # tasks of one row of blocks follow each other
def _load(folder: Path, number: int) -> Prints:
    with np.load(folder / f"{number:05d}.npz") as stored:
        return Prints(**{name: stored[name] for name in stored.files})


def _name(task: tuple[int, int]) -> str:
    return f"{task[0]:05d}-{task[1]:05d}"


def _blocks(clips: pa.Table | Path, owners: dict[str, int], block: int) -> Iterator[Prints]:
    """Blocks of `block` clips. owners: numbers of the sources met so far; grows."""
    first = 0
    for batch in _batches(clips, block):
        words, counts = _words(batch["phash"])
        numbers = np.array(
            [owners.setdefault(source, len(owners)) for source in batch["source_id"].to_pylist()],
            np.int64,
        )
        yield gather_prints(words, counts, numbers, first)
        first += len(counts)


def _batches(clips: pa.Table | Path, block: int) -> Iterator[Any]:
    """Batches of exactly `block` rows but the last, of the two columns that are needed."""
    import pyarrow as pa

    names = ["source_id", "phash"]
    if isinstance(clips, pa.Table):
        for first in range(0, clips.num_rows, block):
            part = clips.slice(first, block).select(names).combine_chunks()
            yield part.to_batches()[0]
        return
    waiting, count = [], 0
    for batch in tables.read_batches(clips, min(block, tables.ROW_GROUP), names):
        waiting.append(batch)
        count += batch.num_rows
        while count >= block:
            table = pa.Table.from_batches(waiting)
            yield table.slice(0, block).combine_chunks().to_batches()[0]
            rest = table.slice(block)
            waiting, count = rest.to_batches(), rest.num_rows
    if count:
        yield pa.Table.from_batches(waiting).combine_chunks().to_batches()[0]


def _words(column: pa.Array) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """All words of a list column one after another, and how many belong to each row."""
    import pyarrow.compute as pc

    counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    return column.flatten().to_numpy(zero_copy_only=False), counts.astype(np.int64)


def _digest(clips: pa.Table | Path) -> str:
    """Hash of everything that the comparison reads."""
    digest = hashlib.sha256()
    for batch in _batches(clips, BLOCK):
        words, counts = _words(batch["phash"])
        digest.update(counts.tobytes())
        digest.update(np.ascontiguousarray(words).tobytes())
        digest.update("\n".join(str(s) for s in batch["source_id"].to_pylist()).encode())
    return digest.hexdigest()


def _rows(clips: pa.Table | Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if isinstance(clips, pa.Table):
        count: int = clips.num_rows
    else:
        count = pq.read_metadata(clips).num_rows
    return count
