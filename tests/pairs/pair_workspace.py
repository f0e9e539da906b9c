"""A workspace with clips cut from real footage, written the way ingest writes it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from realdpo import ids, tables
from realdpo.media import decode
from realdpo.media.encode import encode_video
from realdpo.pairs import conform
from realdpo.workspace import Workspace


def footage(path: Path, start: float, frames: int, size: tuple[int, int], fps: int) -> np.ndarray:
    """`frames` pictures of the file at `fps`, cropped and scaled to `size` (width, height)."""
    end = start + (frames + 1) / fps
    shown = list(
        decode.decode_frames(path, start=Fraction(start), end=Fraction(end).limit_denominator())
    )
    video = np.stack([frame.rgb for frame in shown])
    return conform.conform_real(video, Fraction(25), conform.Form(*size, frames, Fraction(fps)))


def fabricate(
    root: Path,
    bikes: Path,
    clips: int = 3,
    size: tuple[int, int] = (64, 64),
    frames: int = 9,
    fps: int = 8,
) -> Workspace:
    """A workspace of accepted clips, all in the train split but the last, which validates."""
    workspace = Workspace(root)
    rows = []
    for k in range(clips):
        video = footage(bikes, 8.0 * k / clips, frames, size, fps)
        data = encode_video(video, fps)
        clip_id = ids.content_id(test=k, size=list(size), frames=frames)
        path = workspace.clip_file(clip_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        rows.append(
            {
                "clip_id": clip_id,
                "source_id": ids.file_hash(bikes),
                "shot": k,
                "start": f"{k}/1",
                "end": f"{k + 1}/1",
                "status": "ok",
                "keep": True,
                "reasons": [],
                "prompt": f"a person walking on the street {k}",
                "path": str(path.relative_to(root)),
                "sha256": ids.bytes_hash(data),
                "width": size[0],
                "height": size[1],
                "frames": frames,
                "fps": f"{fps}/1",
                "license": "CC-BY-4.0",
                "split": "validation" if k == clips - 1 and k else "train",
            }
        )
    tables.write_table(workspace.clips, tables.from_rows(tables.CLIPS, rows), tables.CLIPS)
    return workspace
