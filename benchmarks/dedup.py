"""Near-duplicate search over 100,000 clips whose fingerprints come from real footage.

    python benchmarks/dedup.py [--clips 65536] [--block 32768] [--baseline-clips 400]

Every clip is a double exposure of two random cuts of the demo's films (which are fetched once): other
moments, crops, mirrorings and speeds, 2 to 10 seconds long. Four sources in ten have an unmoving
camera: one picture behind all of their clips, before which another cut moves in one part. Two clips
in a hundred are copies of another source's clip: cropped by 5 %, cut 0.3 s off, 5 % more contrast, and
noise, all at once.

Prints the time, the planted copies that were found and the pairs besides, and the ratio to comparing
every pair by `dedup.same_footage`, one after another, measured on fewer clips of the same making and scaled by the
number of pairs; those pairs must be the ones that the search finds among these clips.

The search runs in blocks, as `curate decide` does it, one after another in this process. From the time
that two blocks take, the times for 1 and 10 million clips are computed: the work is the same for every two
blocks, and there are so and so many of them.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from decide import timed

from realdpo.curate import dedup, dedup_blocks
from realdpo.demo import footage
from realdpo.media.decode import decode_frames

COPIES = 0.02
CLIPS_A_SOURCE = 25
UNMOVING = 0.4
SHIFT_S = 0.3
RATE, SIDE = 8, 40
Floats = npt.NDArray[np.float32]


def films() -> list[Floats]:
    """Every film of the demo as gray pictures [H, W, T], eight a second."""
    folder = footage.fetch_films().parent
    result = []
    for film in footage.FILMS:
        pictures, due = [], 0.0
        for frame in decode_frames(folder / film.file, short_side=72):
            if float(frame.time) >= due - 1e-6:
                pictures.append(cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2GRAY))
                due += 1 / RATE
        result.append(np.stack(pictures, -1).astype(np.float32))
    return result


def cut(films: list[Floats], rng: np.random.Generator, count: int) -> Floats:
    """`count` pictures [SIDE, SIDE, count] of a random place, moment and speed of a film."""
    film = films[rng.integers(len(films))]
    height, width, length = film.shape
    there_and_back = np.concatenate([np.arange(length), np.arange(length - 2, 0, -1)])
    moments = (rng.integers(length) + np.arange(count) * rng.uniform(0.6, 1.6)).astype(int)
    box = (np.array([height, width]) * rng.uniform(0.4, 0.9, 2)).astype(int)
    top, left = (
        rng.integers(full - part + 1) for full, part in zip((height, width), box, strict=True)
    )
    piece = film[
        top : top + box[0], left : left + box[1], there_and_back[moments % len(there_and_back)]
    ]
    piece = resized(piece)
    return piece[:, ::-1] if rng.random() < 0.5 else piece


def resized(pictures: Floats) -> Floats:
    """[SIDE, SIDE, T], from at most about twice that size."""
    return cv2.resize(np.ascontiguousarray(pictures), (SIDE, SIDE)).reshape(SIDE, SIDE, -1)


def fingerprint(pictures: Floats, start_s: float = 0.0) -> npt.NDArray[np.uint64]:
    part = SIDE // dedup.CELLS
    cells = resized(pictures).reshape(dedup.CELLS, part, dedup.CELLS, part, -1).mean((1, 3))
    cells = cells.reshape(dedup.CELLS**2, -1).T
    times = np.arange(len(cells)) / RATE - start_s
    cells = np.clip(np.round(cells), 0, 255).astype(np.uint8)
    first = int(np.searchsorted(times, 0))
    return np.array(dedup.pack_fingerprint(times[first:] - times[first], cells[first:]), np.uint64)


def made_up(count: int, seed: int) -> tuple[list[Any], list[str], set[tuple[int, int]]]:
    """Fingerprints, the source of each, and the pairs that are copies."""
    rng, reels = np.random.default_rng(seed), films()
    y, x = np.mgrid[:SIDE, :SIDE]
    prints: list[Any] = []
    owners: list[str] = []
    copies: set[tuple[int, int]] = set()
    while len(prints) < count:
        source = f"source {len(prints)}"
        back = cut(reels, rng, 1) if rng.random() < UNMOVING else None
        for _ in range(min(count - len(prints), 1 + rng.poisson(CLIPS_A_SOURCE - 1))):
            length = int(rng.uniform(2, 10) * RATE)
            if back is None:
                share = rng.uniform(0.35, 0.65)
                pictures = share * cut(reels, rng, length) + (1 - share) * cut(reels, rng, length)
            else:
                middle = rng.uniform(SIDE / 4, 3 * SIDE / 4, 2)
                spot = np.exp(-((y - middle[0]) ** 2 + (x - middle[1]) ** 2) / 2 / (SIDE / 5) ** 2)[
                    ..., None
                ]
                pictures = (1 - spot) * back + spot * cut(reels, rng, length)
            prints.append(fingerprint(pictures.astype(np.float32)))
            owners.append(source)
            if rng.random() < COPIES and len(prints) < count:
                other = pictures[1:-1, 1:-1] * 1.05  # 5 % of 40 pixels
                other += rng.normal(0, 4, other.shape)
                copies.add((len(prints) - 1, len(prints)))
                prints.append(fingerprint(other.astype(np.float32), SHIFT_S))
                owners.append(f"copy {len(prints)}")
    return prints, owners, copies


def one_by_one(prints: list[Any], owners: list[str]) -> set[tuple[int, int]]:
    """The baseline: `dedup.same_footage` of every pair whose mean pictures agree, as it is defined."""
    cells = [dedup.unpack_fingerprint(words) for words in prints]
    least = dedup.DedupSettings().candidate
    return {
        (i, j)
        for i, j in itertools.combinations(range(len(cells)), 2)
        if dedup.mean_pictures(cells[i].mean(axis=0)) @ dedup.mean_pictures(cells[j].mean(axis=0))
        >= least
        and dedup.same_footage(cells[i], cells[j], one_source=owners[i] == owners[j])
    }


class Took:
    """`dedup.compare_prints`, with the processor seconds of every two blocks written down."""

    def __init__(self) -> None:
        self.seconds: dict[bool, list[float]] = {True: [], False: []}

    def __call__(self, one: Any, other: Any, settings: Any) -> Any:
        result, _, processor = timed(dedup.compare_prints, one, other, settings)
        self.seconds[other is None].append(processor)
        return result

    def mean(self, *, same: bool) -> float:
        return float(np.mean(self.seconds[same] or [np.nan]))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--clips", type=int, default=65_536)
    options.add_argument("--block", type=int, default=dedup_blocks.BLOCK)
    options.add_argument("--baseline-clips", type=int, default=400)
    options = options.parse_args()
    count, few = options.clips, min(options.clips, options.baseline_clips)
    print(f"{count} clips, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    (prints, owners, copies), wall, _ = timed(made_up, count, 0)
    print(f"made in                {wall:8.1f} s, {len(set(owners))} sources")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clips.parquet"
        table = pa.table({"source_id": owners, "phash": pa.array(prints, pa.list_(pa.uint64()))})
        pq.write_table(table, path, row_group_size=16_384)
        del table
        serial, took = dedup_blocks.Where("serial"), Took()
        dedup_blocks.compare_prints = took
        pairs, wall, processor = timed(
            partial(
                dedup_blocks.find_duplicates, path, Path(folder), where=serial, block=options.block
            )
        )
    found = [(i, j) for i, j in pairs.tolist()]
    print(f"near-duplicates        {wall:8.1f} s wall {processor:8.1f} s processor")
    hit = len(copies & set(found))
    print(f"  {hit} of {len(copies)} copies found, {len(found) - hit} pairs besides")
    alone, across = took.mean(same=True), took.mean(same=False)
    print(f"  a block with itself {alone:.2f} s, with another {across:.2f} s processor")
    for many in (1_000_000, 10_000_000):
        blocks = -(-many // options.block)
        hours = (blocks * alone + blocks * (blocks - 1) / 2 * across) / 3600
        print(
            f"  {many:>10,} clips: {blocks * (blocks + 1) // 2:,} comparisons of blocks, "
            f"{hours:,.1f} core-hours (computed)"
        )
    naive, slow, slow_processor = timed(one_by_one, prints[:few], owners[:few])
    scale = (count * (count - 1)) / (few * (few - 1))
    print(
        f"  one by one           {slow * scale:8.0f} s wall {slow_processor * scale:8.0f} s processor"
        f" ({slow * scale / wall:.0f} times; {few} clips took {slow:.2f} s)"
    )
    same = {pair for pair in found if pair[1] < few} == naive
    print(f"  the same {len(naive)} pairs among these: {same}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
