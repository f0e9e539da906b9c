"""Time `decide` on a made-up table of 100,000 clips.

    python benchmarks/decide.py [--clips 100000]

Compared with judging row by row in plain Python, as scripts over JSON do, in the same process.
Near-duplicates have a benchmark of their own, `dedup.py`; `curate decide` reads its stored result.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from typing import Any

import numpy as np

from realdpo import tables
from realdpo.curate import decide


def made_up(count: int) -> list[dict[str, Any]]:
    """Rows with random scores of every name that has a threshold."""
    names = sorted({key[:-4] for key in decide.defaults()})
    numbers = np.random.default_rng(0).gamma(2, 0.2, (count, len(names)))
    return [
        {
            "clip_id": f"{i:032x}", "source_id": f"{i // 20}", "start_s": 0.0, "end_s": 5.0,
            "status": "ok", "reasons": [], **dict(zip(names, values, strict=True)),
        }
        for i, values in enumerate(numbers.tolist())
    ]  # fmt: skip


def row_by_row(rows: list[dict[str, Any]], limits: dict[str, float]) -> list[list[str]]:
    """The baseline of `decide`: one clip after another, out of JSON."""
    result = []
    for line in [json.dumps(row) for row in rows]:
        row, why = json.loads(line), []
        for key, limit in limits.items():
            value = row.get(key[:-4])
            if value is not None and (value < limit if key.endswith("_min") else value > limit):
                why.append(f"{key[:-4]}={value:.3g}{'<' if key.endswith('_min') else '>'}{limit:g}")
        result.append(why)
    return result


def timed(work: Any, *arguments: Any) -> tuple[Any, float, float]:
    """Result, wall seconds, processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work(*arguments)
    return result, time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--clips", type=int, default=100_000)
    count = options.parse_args().clips
    print(f"{count} clips, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    rows = made_up(count)
    table = tables.from_rows(tables.CLIPS, rows)

    ours, wall, processor = timed(decide.apply, table, None, [])
    print(f"decide                 {wall:8.2f} s wall {processor:8.2f} s processor")
    theirs, slow, processor = timed(row_by_row, rows, decide.thresholds())
    print(
        f"  row by row           {slow:8.2f} s wall {processor:8.2f} s processor, {slow / wall:.1f} times"
    )
    agree = sum(
        keep == (not why) for keep, why in zip(ours["keep"].to_pylist(), theirs, strict=True)
    )
    print(f"  same verdict on {agree} of {count} (float32 against float64 at the limits)")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
