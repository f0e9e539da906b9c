"""Time `decide` on a made-up table of 100,000 clips; memory of the steps over a million.

    python benchmarks/decide.py [--clips 100000]
    python benchmarks/decide.py --memory --clips 1000000

Compared with judging row by row in plain Python, as scripts over JSON do, in the same process.
Near-duplicates have a benchmark of their own, `dedup.py`; `curate decide` reads its stored result.

With --memory a workspace of that many clips with fingerprints of 6 s is written to disk, and judged
(with 2 % of copies), captioned by keywords, split, and divided into shards, each step in a process of its
own, whose peak memory is printed. The comparison of the fingerprints itself is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from realdpo import tables
from realdpo.curate import decide, dedup_blocks
from realdpo.workspace import Workspace


def made_up(count: int) -> list[dict[str, Any]]:
    """Rows with random scores of every name that has a threshold."""
    names = sorted({key[:-4] for key in decide.default_thresholds()})
    numbers = np.random.default_rng(0).gamma(2, 0.2, (count, len(names)))
    return [
        {
            "clip_id": f"{i:032x}",
            "source_id": f"{i // 20}",
            "start_s": 0.0,
            "end_s": 5.0,
            "status": "ok",
            "reasons": [],
            **dict(zip(names, values, strict=True)),
        }
        for i, values in enumerate(numbers.tolist())
    ]


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


def write_workspace(work: Workspace, count: int) -> None:
    """A clips table of which about a third is dropped by some score, and its sources."""
    rng = np.random.default_rng(0)
    limits = decide.default_thresholds()
    names = sorted({key[:-4] for key in limits})
    schema = tables.CLIPS.full_schema(names)
    work.root.mkdir(parents=True, exist_ok=True)
    titles = np.array(["A man rides a bike", "Woman cooks soup", "Two people dance", "Street"])
    with pq.ParquetWriter(work.clips, schema, compression="zstd") as out:
        for first in range(0, count, tables.ROW_GROUP):
            some = np.arange(first, min(count, first + tables.ROW_GROUP))
            start = (some % 20) * 6.0
            words = rng.integers(0, 1 << 63, len(some) * 192, dtype=np.uint64)
            columns: dict[str, Any] = {
                "clip_id": [f"{i:032x}" for i in some.tolist()],
                "source_id": [f"{i // 20:064x}" for i in some.tolist()],
                "start": [f"{int(t)}/1" for t in start],
                "end": [f"{int(t) + 6}/1" for t in start],
                "start_s": start,
                "end_s": start + 6,
                "status": ["ok"] * len(some),
                "keep": [True] * len(some),
                "reasons": [[]] * len(some),
                "phash": pa.ListArray.from_arrays(
                    pa.array(np.arange(len(some) + 1) * 192, pa.int32()), pa.array(words)
                ),
                "path": [f"clips/{i:032x}.mp4" for i in some.tolist()],
                "title": titles[some % 4].tolist(),
                "keywords": [["street", "people", "day"]] * len(some),
                "license": ["CC-BY-4.0"] * len(some),
            }
            for name in names:
                low, high = (
                    limits.get(f"{name}_{side}", other)
                    for side, other in (("min", 0.0), ("max", 1e3))
                )
                inside = rng.uniform(low, min(high, low + 10), len(some))
                broken = rng.random(len(some)) < 0.015
                outside = low - 1 if f"{name}_min" in limits else high + 1
                columns[name] = np.where(broken, outside, inside).astype(np.float32)
            arrays = [
                pa.nulls(len(some), field.type)
                if field.name not in columns
                else pa.array(columns[field.name], field.type)
                if field.name != "phash"
                else columns["phash"]
                for field in schema
            ]
            out.write_table(pa.table(arrays, schema=schema))
    sources = [
        {"source_id": f"{i:064x}", "path": f"/f/{i}.mp4", "status": "ok"}
        for i in range(-(-count // 20))
    ]
    tables.write_table(work.sources, tables.from_rows(tables.SOURCES, sources), tables.SOURCES)


def run_step(step: str, work: Workspace) -> str:
    """Run one step as its command does; returns what came of it."""
    from realdpo.curate import ingestion, shards
    from realdpo.curate.caption import run as captions
    from realdpo.curate.caption.config import CaptionConfig
    from realdpo.curate.config import IngestConfig, ShardSettings

    if step == "nothing":
        return "what the imports take"
    if step == "decide":
        count = pq.read_metadata(work.clips).num_rows
        copies = np.random.default_rng(1).integers(0, count, (count // 50, 2))
        dedup_blocks._in_blocks = lambda *_: np.sort(copies, axis=1)
        done = decide.decide_workspace(work)
        return f"kept {done['kept']}, {done['dropped'].get('duplicate', 0)} copies"
    if step == "caption":
        done = captions.caption_clips(work, CaptionConfig(captioner="keywords"))
        return f"{done['clips']} captions"
    names = [name for name in tables.check_table(work.clips, tables.CLIPS).names if name != "phash"]
    clips = tables.read_table(work.clips, tables.CLIPS, names)
    if step == "split":
        clips = ingestion.split_clips(clips, IngestConfig())
        tables.replace_columns(work.clips, tables.CLIPS, {"split": clips["split"]})
        return str({c["values"]: c["counts"] for c in clips["split"].value_counts().to_pylist()})
    ready = clips.filter(clips["keep"]).sort_by("clip_id")
    sizes = dict.fromkeys(ready["clip_id"].to_pylist(), 1_250_000)
    parts = {
        split: len(
            shards.divide_rows(
                ready.filter(pc.equal(ready["split"], split)), sizes, ShardSettings()
            )
        )
        for split in ("train", "validation", "test")
    }
    return f"shards {parts}"


def memory(count: int) -> None:
    """Every step over `count` clips in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        work = Workspace(Path(folder))
        write_workspace(work, count)
        print(f"{count} clips, a table of {work.clips.stat().st_size >> 20} MB")
        for step in ("nothing", "decide", "caption", "split", "shards"):
            command = [sys.executable, __file__, "--step", step, "--workspace", folder]
            began = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            wall = time.perf_counter() - began
            print(f"  {step:<8} {wall:7.1f} s wall  {done.stdout.strip()}", flush=True)


def speed(count: int) -> None:
    """`decide` against judging row by row."""
    print(f"{count} clips, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    rows = made_up(count)
    table = tables.from_rows(tables.CLIPS, rows)

    ours, wall, processor = timed(decide.decide_clips, table, None, [])
    print(f"decide                 {wall:8.2f} s wall {processor:8.2f} s processor")
    theirs, slow, processor = timed(row_by_row, rows, decide.merge_thresholds())
    print(
        f"  row by row           {slow:8.2f} s wall {processor:8.2f} s processor, {slow / wall:.1f} times"
    )
    agree = sum(
        keep == (not why) for keep, why in zip(ours["keep"].to_pylist(), theirs, strict=True)
    )
    print(f"  same verdict on {agree} of {count} (float32 against float64 at the limits)")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--clips", type=int, default=100_000)
    options.add_argument("--memory", action="store_true")
    options.add_argument("--step")
    options.add_argument("--workspace", type=Path)
    options = options.parse_args()
    if options.step:
        said = run_step(options.step, Workspace(options.workspace))
        # Not ru_maxrss, which a process inherits from the one that started it.
        status = Path("/proc/self/status").read_text()
        peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
        print(f"{peak:6.0f} MB at most  {said}")
    elif options.memory:
        memory(options.clips)
    else:
        speed(options.clips)


if __name__ == "__main__":
    main()
