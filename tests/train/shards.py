"""A workspace with pair shards of small drawn clips, as `realdpo pairs build` would leave them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from realdpo import ids, tables
from realdpo.media.encode import EncodeSettings, encode_video
from realdpo.workspace import Workspace

SIZE, FRAMES = 64, 9


def clip(seed: int, speed: float, size: int = SIZE, frames: int = FRAMES) -> np.ndarray:
    """A blob that moves over a textured ground: uint8 [F, H, W, 3]. `speed` 0 stands still."""
    random = np.random.default_rng(seed)
    ground = random.integers(40, 120, (size // 8, size // 8, 3), dtype=np.uint8)
    ground = ground.repeat(8, 0).repeat(8, 1)
    colour = random.integers(130, 255, 3)
    y, x = np.mgrid[:size, :size]
    made = []
    for t in range(frames):
        cx, cy = size * 0.3 + speed * t, size * (0.3 + 0.4 * random.random() * 0) + speed * t
        blob = ((x - cx) ** 2 + (y - cy) ** 2 < (size / 7) ** 2)[..., None]
        made.append(np.where(blob, colour, ground).astype(np.uint8))
    return np.stack(made)


def workspace(
    root: Path,
    train: int = 4,
    validation: int = 3,
    losers: int = 2,
    frames: int = FRAMES,
    image: bool = True,
    made_by: str | None = None,
) -> Workspace:
    """Winners move, losers stand still or crawl. The first frame is shared, as in image-to-video."""
    made = Workspace(root)
    for split, count, first in (("train", train, 0), ("validation", validation, 100)):
        if not count:
            continue
        rows = []
        for index in range(first, first + count):
            win = clip(index, 3.0, frames=frames)
            video = lambda c: {"bytes": encode_video(c, 8, EncodeSettings()), "path": None}
            png = io.BytesIO()
            Image.fromarray(win[0]).save(png, "PNG")
            rows.append(
                {
                    "pair_id": f"{index:032x}",
                    "clip_id": f"{index + 7:032x}",
                    "source_id": f"{index:064x}",
                    "prompt": f"a person walking {index}",
                    "win": video(win),
                    "lose": [video(clip(index, 0.3 * n, frames=frames)) for n in range(losers)],
                    "first_frame": {"bytes": png.getvalue(), "path": None} if image else None,
                    "width": SIZE,
                    "height": SIZE,
                    "frames": frames,
                    "fps": 8.0,
                    "model": made_by,
                    "task": "i2v" if image else "t2v",
                    "split": split,
                }
            )
        path = made.pair_data / f"{split}-00000-of-00001.parquet"
        tables.write_table(path, tables.from_rows(tables.PAIR_SHARD, rows), tables.PAIR_SHARD)
    return made


def clip_workspace(root: Path, train: int = 4, validation: int = 2) -> Workspace:
    """A workspace with shards of clips and no pairs, as `realdpo curate ingest` leaves them."""
    made = Workspace(root)
    for split, count, first in (("train", train, 0), ("validation", validation, 100)):
        rows = []
        for index in range(first, first + count):
            data = encode_video(clip(index, 3.0), 8, EncodeSettings())
            rows.append(
                {
                    "clip_id": f"{index + 7:032x}",
                    "source_id": f"{index:064x}",
                    "prompt": f"a person walking {index}",
                    "video": {"bytes": data, "path": None},
                    "sha256": ids.bytes_hash(data),
                    "width": SIZE,
                    "height": SIZE,
                    "frames": FRAMES,
                    "fps": 8.0,
                    "split": split,
                }
            )
        path = made.data / f"{split}-00000-of-00001.parquet"
        tables.write_table(path, tables.from_rows(tables.DATASET, rows), tables.DATASET)
    return made
