"""Time `decide` and near-duplicate search on made-up tables of 100,000 clips.

    python benchmarks/decide.py [--clips 100000] [--baseline-clips 1000]

Decide is compared with judging row by row in plain Python, as scripts over JSON do. The search is
compared with the usual loop over perceptual hashes: 64-bit integers, XOR and a bit count for
every pair, on fewer clips and scaled by the number of pairs. Both baselines run in this process.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import time

import numpy as np

from realdpo import tables
from realdpo.curate import decide, dedup

COPIES = 0.02
SECONDS = 5


def made_up(count: int, seed: int = 0) -> tuple[list[dict], list[np.ndarray], set[tuple[int, int]]]:
    """Rows, fingerprints, and the pairs that are copies (noise, other brightness, cut 0.25 s off).

    Cells are smooth in space and time, as footage is: low-frequency waves that drift.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:8, :8] / 8
    waves = [
        np.cos(math.pi * (u * (x + 1 / 16))) * np.cos(math.pi * (v * (y + 1 / 16)))
        for u in range(6) for v in range(6) if u + v
    ]  # fmt: skip
    basis = np.stack([wave.ravel() for wave in waves])
    fall = np.array([1 / (u * u + v * v) ** 0.5 for u in range(6) for v in range(6) if u + v])
    prints, copies = [], set()
    length = SECONDS * dedup.RATE
    for index in range(count):
        if index and rng.random() < COPIES:
            original = int(rng.integers(index))
            cells = dedup.unpack(prints[original])[1:] * 1.05 + rng.normal(0, 1.5, 64)
            copies.add((original, index))
        else:
            start, drift = (
                rng.normal(0, 45, len(fall)) * fall,
                rng.normal(0, 2, (length, len(fall))),
            )
            cells = 120 + (start + np.cumsum(drift, axis=0) * fall) @ basis
        bytes_ = np.clip(np.round(cells), 0, 255).astype(np.uint8)
        prints.append(np.ascontiguousarray(bytes_).reshape(-1).view(np.uint64).copy())
    names = sorted({key[:-4] for key in decide.defaults()})
    numbers = rng.gamma(2, 0.2, (count, len(names)))
    rows = [
        {
            "clip_id": f"{i:032x}", "source_id": f"{i // 20}", "start_s": 0.0,
            "end_s": float(SECONDS), "status": "ok", "reasons": [],
            **dict(zip(names, values, strict=True)),
        }
        for i, values in enumerate(numbers.tolist())
    ]  # fmt: skip
    return rows, prints, copies


def row_by_row(rows: list[dict], limits: dict[str, float]) -> list[list[str]]:
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


def pair_by_pair(prints: list[np.ndarray], distance: int = 10) -> int:
    """The baseline of the search: a 64-bit mean hash a clip, all pairs in a loop."""
    hashes = []
    for words in prints:
        mean = dedup.unpack(words).mean(axis=0)
        hashes.append(int("".join("1" if c else "0" for c in mean > np.median(mean)), 2))
    return sum(
        (one ^ other).bit_count() <= distance
        for index, one in enumerate(hashes) for other in hashes[index + 1 :]
    )  # fmt: skip


def timed(work, *arguments):  # noqa: ANN
    """Result, wall seconds, processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work(*arguments)
    return result, time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--clips", type=int, default=100_000)
    options.add_argument("--baseline-clips", type=int, default=1_000)
    options = options.parse_args()
    count, few = options.clips, min(options.clips, options.baseline_clips)
    print(f"{count} clips, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    rows, prints, copies = made_up(count)
    table = tables.from_rows(tables.CLIPS, rows)
    limits = decide.thresholds()

    ours, wall, processor = timed(decide.apply, table, None, [])
    print(f"decide                 {wall:8.2f} s wall {processor:8.2f} s processor")
    theirs, wall, processor = timed(row_by_row, rows, limits)
    print(f"  row by row           {wall:8.2f} s wall {processor:8.2f} s processor")
    agree = sum(
        keep == (not why) for keep, why in zip(ours["keep"].to_pylist(), theirs, strict=True)
    )
    print(f"  same verdict on {agree} of {count} (float32 against float64 at the limits)")

    found, wall, processor = timed(dedup.pairs, prints, [row["source_id"] for row in rows])
    print(f"near-duplicates        {wall:8.2f} s wall {processor:8.2f} s processor")
    hit = len(copies & set(found))
    print(f"  {hit} of {len(copies)} copies found, {len(found) - hit} pairs besides")
    _, wall, processor = timed(pair_by_pair, prints[:few])
    scale = (count * (count - 1)) / (few * (few - 1))
    print(
        f"  pair by pair         {wall * scale:8.0f} s wall {processor * scale:8.0f} s processor"
        f" (measured on {few} clips: {wall:.2f} s)"
    )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
