"""Small real workspaces: clips cut from real footage, with a made-up but complete ledger."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from realdpo import ids, tables
from realdpo.media import decode, encode
from realdpo.workspace import Workspace

SIZE, FRAMES, FPS = (64, 64), 9, 8.0
LEDGER = [
    {
        "license": "CC-BY-4.0",
        "author": "Ada <b>One</b> | Co",
        "title": "Street `at` noon [1]",
        "source_url": "https://example.org/a",
    },
    {"license": "CC0-1.0", "author": None, "title": None, "source_url": None},
    {
        "license": "CC-BY-SA-4.0",
        "author": "Grace",
        "title": "Bikes",
        "source_url": "javascript:alert(1)",
    },
]
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Made:
    """A workspace and what went into it, for comparing with what comes back."""

    workspace: Workspace
    videos: dict[str, str]  # clip_id or pair_id -> sha256 of the (winning) clip
    clips: int
    pairs: int


def make(
    root: Path, bikes: Path, clips: int = 6, ledger: list[dict[str, Any]] = LEDGER, shards: int = 2
) -> Made:
    """Write sources, clips, clip shards, pairs and pair shards under `root`."""
    workspace = Workspace(root)
    pictures = [frame.rgb for frame in decode.decode_frames(bikes, size=SIZE, end=None)]
    clip_rows, shard_rows, pair_rows, videos = [], [], [], {}
    for number in range(clips):
        place = number % len(ledger)
        start = number * (len(pictures) - FRAMES * 2) // clips
        frames = np.stack(pictures[start : start + FRAMES * 2 : 2])
        mp4 = encode.encode_video(frames, FPS)
        identity = ids.content_id(number=number, mp4=ids.bytes_hash(mp4))
        common = {
            "clip_id": identity,
            "source_id": hashlib.sha256(bytes([place])).hexdigest(),
            "prompt": f"a street, take {number}, $5 | <i>bikes</i>",
            "split": SPLITS[place],
            **ledger[place],
            "keywords": ["street"],
            "retrieved_at": "2026-01-01",
        }
        facts = {
            "width": SIZE[0],
            "height": SIZE[1],
            "frames": FRAMES,
            "start_s": start / 25,
            "end_s": start / 25 + 1,
            "action": ["riding a bicycle"] if number % 2 else ["walking", "waiting"],
            "captioner": "keywords",
            "sha256": ids.bytes_hash(mp4),
        }
        clip_rows.append(
            common
            | facts
            | {
                "status": "ok",
                "keep": True,
                "reasons": [],
                "fps": "8/1",
                "start": f"{start}/25",
                "end": f"{start + 25}/25",
                "path": f"clips/{identity}.mp4",
                "shot": number,
                "motion.subject": 2.0 + number / 4,
                "luma.mean": 100.0 + number,
            }
        )
        video = {"bytes": mp4, "path": f"{identity}.mp4"}
        shard_rows.append(
            common | facts | {"video": video, "fps": FPS, "motion.subject": 2.0 + number / 4}
        )
        path = workspace.clip_file(identity)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mp4)
        videos[identity] = ids.bytes_hash(mp4)
        pair_rows.append(_pair(common, frames, mp4))
        videos[pair_rows[-1]["pair_id"]] = ids.bytes_hash(mp4)
    for number in range(3):  # what the thresholds dropped
        clip_rows.append(
            clip_rows[0]
            | {
                "clip_id": ids.content_id(dropped=number),
                "keep": False,
                "path": None,
                "reasons": ["motion.subject=0.5<1.5"] + (["luma.mean=9.0<30.0"] if number else []),
                "motion.subject": 0.5,
                "luma.mean": 9.0 if number else 90.0,
            }
        )
    tables.write_table(workspace.clips, tables.from_rows(tables.CLIPS, clip_rows), tables.CLIPS)
    sources = {row["source_id"]: row for row in clip_rows}
    tables.write_table(
        workspace.sources,
        tables.from_rows(
            tables.SOURCES,
            [
                {key: row[key] for key in ("source_id", "license", "author", "title", "source_url")}
                | {"status": "ok", "path": "/home/somebody/footage.mp4"}
                for row in sources.values()
            ],
        ),
        tables.SOURCES,
    )
    write_shards(workspace.data, shard_rows, tables.DATASET, shards)
    write_shards(workspace.pair_data, pair_rows, tables.PAIR_SHARD, 1)
    workspace.audit.write_text(json.dumps({"verdict": "clean", "auc": {"luma": 0.52}}))
    workspace.save_config(
        "curate decide",
        '[decide.motion]\nsubject_min = 1.5\n[decide.luma]\nmean_min = 30.0\nmean_max = 240.0\nhue_max = "off"\n',
    )
    workspace.save_config("curate ingest", '[ingest]\nfootage = "/home/somebody/footage"\n')
    return Made(workspace, videos, clips, len(pair_rows))


def write_shards(
    folder: Path, rows: list[dict[str, Any]], kind: tables.TableKind, count: int
) -> None:
    """Write rows by split into `count` shards a split, replacing what was there."""
    for old in folder.glob("*.parquet"):
        old.unlink()
    for split in SPLITS:
        inside = [row for row in rows if row["split"] == split]
        parts = [inside[i::count] for i in range(min(count, len(inside)))]
        for number, part in enumerate(parts):
            path = folder / f"{split}-{number:05d}-of-{len(parts):05d}.parquet"
            tables.write_table(path, tables.from_rows(kind, part), kind)


def _pair(common: dict[str, Any], frames: npt.NDArray[np.uint8], mp4: bytes) -> dict[str, Any]:
    from PIL import Image

    from realdpo.report import encode_png

    frozen = np.repeat(frames[:1], FRAMES, axis=0)
    losers = [encode.encode_video(frozen, FPS), encode.encode_video(frames[::-1].copy(), FPS)]
    return common | {
        "pair_id": ids.content_id(pair=common["clip_id"]),
        "win": {"bytes": mp4, "path": "win.mp4"},
        "lose": [{"bytes": lose, "path": f"lose-{i}.mp4"} for i, lose in enumerate(losers)],
        "first_frame": {"bytes": encode_png(Image.fromarray(frames[0])), "path": "first.png"},
        "width": SIZE[0],
        "height": SIZE[1],
        "frames": FRAMES,
        "fps": FPS,
        "model": "tiny",
        "task": "i2v",
        "scheduler": "CogVideoXDDIMScheduler",
        "steps": 8,
        "guidance": 6.0,
        "seeds": [1, 2],
        "strategy": ["generate", "local"],
        "round": 0,
        "audit.luma": 0.5,
    }
