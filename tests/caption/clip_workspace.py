"""A workspace with clips of real footage, written the way ingest writes it."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np

from realdpo import ids, tables
from realdpo.media import decode, encode
from realdpo.workspace import Workspace


@lru_cache(maxsize=4)
def small_clip(video: Path) -> bytes:
    """The first second of a video, 160x68, as an mp4."""
    frames = np.stack([f.rgb for f in decode.decode_frames(video, size=(160, 68), end=1.0)])
    return encode.encode_video(frames, 25, encode.EncodeSettings())


def make_workspace(root: Path, video: Path, count: int, uncut: int = 0) -> Workspace:
    """`count` clips of a second from one real source; the last `uncut` have no file of their own.

    All files hold the same second, to be quick; their rows are of different stretches.
    """
    ws = Workspace(root)
    source_id = ids.file_hash(video)
    source = {
        "source_id": source_id,
        "path": str(video),
        "status": "ok",
        "title": "bikes",
        "keywords": ["street", "city"],
        "fps": "25/1",
    }
    tables.write_table(ws.sources, tables.from_rows(tables.SOURCES, [source]), tables.SOURCES)
    ws.clip_files.mkdir(parents=True)
    rows = []
    for i in range(count):
        start = Fraction(i * 9, count)
        end = start + 1
        clip_id = ids.content_id(source=source_id, start=start, end=end)
        row = {
            "clip_id": clip_id,
            "source_id": source_id,
            "shot": i,
            "status": "ok",
            "keep": True,
            "start": f"{start.numerator}/{start.denominator}",
            "end": f"{end.numerator}/{end.denominator}",
            "start_s": float(start),
            "end_s": float(end),
            "title": "bikes",
            "keywords": ["street", "city"],
            "luma.mean": 90.0 + i % 7,
        }
        if i < count - uncut:
            ws.clip_file(clip_id).write_bytes(small_clip(video))
            row |= {"path": f"clips/{clip_id}.mp4", "frames": 25, "fps": "25/1"}
        rows.append(row)
    tables.write_table(ws.clips, tables.from_rows(tables.CLIPS, rows), tables.CLIPS)
    return ws


def rows_of(ws: Workspace) -> list[dict]:
    return tables.read_table(ws.clips, tables.CLIPS).to_pylist()
