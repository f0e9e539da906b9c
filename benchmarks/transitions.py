"""Dissolves and fades: how many are found, and how often one is seen where there is none.

    python benchmarks/transitions.py [FILE ...] [--pairs 12] [--seed 0]

Pieces of single shots are joined by ffmpeg's xfade, as cross-dissolves and fades through black
and white of 0.3 to 2 s, and decoded like any footage. A transition is found when a span lies over
it. False ones are counted in the same pieces as they are, and in pieces that were panned over,
zoomed into and lit by flashes. FILE defaults to the demo's footage.
"""

from __future__ import annotations

import argparse
import itertools
import random
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from realdpo import footage
from realdpo.curate import analyse
from realdpo.curate.config import ClipSettings, ShotSettings, Target
from realdpo.curate.shots import divide
from realdpo.curate.transitions import DissolveFinder
from realdpo.media.decode import frames
from realdpo.media.encode import ffmpeg_exe
from realdpo.media.probe import probe

SECONDS = (0.3, 0.5, 1.0, 1.5, 2.0)
KINDS = ("fade", "fadeblack", "fadewhite")
SIZE = (256, 144)
SCALE = f"fps=25,scale={SIZE[0]}:{SIZE[1]}:flags=area,setsar=1,format=yuv420p"
MOVES = {
    "as it is": "null",
    "pan": "crop=iw*0.6:ih:x='(iw-ow)*mod(t,3)/3',scale=256:144",
    "zoom": "zoompan=z='1+0.4*mod(in_time,3)':d=1:s=256x144:fps=25",
    "flashes": "eq=eval=frame:brightness='0.5*lt(mod(t,1),0.12)'",
    "lights": "eq=eval=frame:brightness='0.25*sin(2*t)'",
}


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run([ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)], check=True)


def pieces(files: list[Path], folder: Path) -> list[tuple[Path, float]]:
    """Single shots of 1.2 to 4 s, small, at 25 frames a second; with their lengths."""
    found = []
    for name, file in enumerate(files):
        look = analyse.analyse(analyse.Task(str(name), str(file), ShotSettings()))
        if Fraction(look.facts["fps"]) < 10:
            continue
        wanted = ClipSettings(min_seconds=1.2, max_seconds=4)
        spans = divide(look.times, look.cuts, [], Fraction(look.facts["fps"]), wanted, Target())
        for number, span in enumerate([s for s in spans if not s.reasons][:4]):
            path = folder / f"{name}-{number}.mkv"
            length = float(span.end - span.start)
            ffmpeg("-ss", str(float(span.start)), "-i", file, "-t", str(length), "-vf", SCALE,
                   "-an", "-c:v", "ffv1", path)  # fmt: skip
            found.append((path, float(probe(path).duration)))
    return found


def found_in(path: Path) -> list[tuple[float, float]]:
    finder = DissolveFinder()
    for frame in frames(path, size=analyse.analysis_size(*SIZE)):
        finder.feed(frame.time, frame.rgb)
    return [(float(start), float(end)) for start, end in finder.found()]


def joined(
    shots: list[tuple[Path, float]], count: int, folder: Path, seed: int
) -> Iterator[tuple[str, float, Path, float]]:
    """(kind, seconds, file, start) of transitions between shots of different sources."""
    chance = random.Random(seed)
    for kind, seconds in itertools.product(KINDS, SECONDS):
        long = [shot for shot in shots if shot[1] >= seconds + 0.6]
        pairs = [
            (a, b)
            for a, b in itertools.permutations(long, 2)
            if a[0].name.split("-")[0] != b[0].name.split("-")[0]
        ]
        for (one, length), (two, _) in chance.sample(pairs, min(count, len(pairs))):
            path, start = folder / "joined.mkv", length - seconds - 0.04
            ffmpeg("-i", one, "-i", two, "-filter_complex",
                   f"xfade=transition={kind}:duration={seconds}:offset={start:.3f}",
                   "-c:v", "libx264", "-preset", "ultrafast", "-crf", "20", path)  # fmt: skip
            yield kind, seconds, path, start


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("files", nargs="*", type=Path)
    options.add_argument("--pairs", type=int, default=12)
    options.add_argument("--seed", type=int, default=0)
    options = options.parse_args()
    files = options.files
    if not files:
        manifest = footage.fetch()
        files = sorted(manifest.parent.glob("*.mp4"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shots = pieces(files, folder)
        print(f"{len(shots)} single shots of {len(files)} files, {sum(s for _, s in shots):.0f} s")
        hits: Counter[tuple[str, float]] = Counter()
        tries: Counter[tuple[str, float]] = Counter()
        for kind, seconds, path, start in joined(shots, options.pairs, folder, options.seed):
            spans = found_in(path)
            tries[kind, seconds] += 1
            hits[kind, seconds] += any(a < start + seconds and b > start for a, b in spans)
        print("found of joined   " + "".join(f"{s:>9} s" for s in SECONDS))
        for kind in KINDS:
            row = (f"{hits[kind, s]}/{tries[kind, s]}" for s in SECONDS)
            print(f"  {kind:<16}" + "".join(f"{cell:>11}" for cell in row))
        false = 0
        for name, move in MOVES.items():
            wrong = []
            for path, _ in shots:
                moved = folder / "moved.mkv"
                ffmpeg("-i", path, "-vf", move, "-c:v", "ffv1", moved)
                wrong += [path.stem for _ in found_in(moved)]
            false += len(wrong)
            print(
                f"  none there, {name:<9}{len(wrong):>4} false in {len(shots)}  {' '.join(wrong)}"
            )
        print(f"recall {hits.total() / max(1, tries.total()):.3f}, precision "
              f"{hits.total() / max(1, hits.total() + false):.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
