"""Dissolves and fades: how many are found, what they leave in clips, what is lost for nothing.

    python benchmarks/transitions.py [FILE ...] [--pairs 12] [--seed 0] [--half 1|2]

Pieces of single shots, run forth and back to 5 seconds, are joined by ffmpeg's xfade, as
cross-dissolves and fades through black and white of 0.3 to 2 s, and analysed like any footage.
A transition is found when a span lies over it. It leaves a foreign frame when a clip of the
default settings that is not dropped shows less than nine tenths of one and the same shot
somewhere. False spans, and the seconds that clips lose by them, are counted in the same pieces as
they are, and in pieces that were panned over, zoomed into and lit by flashes and by light that
swells. FILE defaults to the demo's footage; the finder was tuned on half 1,
and two of its limits were tightened after false spans in half 2.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from realdpo.curate import analyse
from realdpo.curate.config import ClipSettings, ShotSettings, Target
from realdpo.curate.shots import Span, divide
from realdpo.curate.transitions import crossed
from realdpo.demo import footage
from realdpo.media.encode import ffmpeg_exe
from realdpo.media.probe import probe

LENGTH = 5  # seconds of each piece: a clip of two remains beside the slowest transition
HALF = ("bikes", "cam01", "cam02")  # what the names of the first half's films end with
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
    """Single shots, small, at 25 frames a second, of LENGTH; with their lengths."""
    found = []
    for name, file in enumerate(files):
        look = analyse.analyse(analyse.Task(str(name), str(file), ShotSettings()))
        if Fraction(look.facts["fps"]) < 10:
            continue
        wanted = ClipSettings(min_seconds=1.2, max_seconds=4)
        spans = divide(look.times, look.cuts, [], Fraction(look.facts["fps"]), wanted, Target())
        for number, span in enumerate([s for s in spans if not s.reasons][:4]):
            path = folder / f"{name}-{number}-{file.stem}.mkv"
            length = float(span.end - span.start)
            ffmpeg("-ss", str(float(span.start)), "-t", str(length), "-i", file,
                   "-vf", f"{SCALE},{forth_and_back(math.ceil(LENGTH / length))}",
                   "-an", "-c:v", "ffv1", path)  # fmt: skip
            found.append((path, float(probe(path).duration)))
    return found


def forth_and_back(times: int) -> str:
    ways = range(times)
    return (
        f"split={times}{''.join(f'[a{n}]' for n in ways)};"
        + "".join(f"[a{n}]{'reverse' if n % 2 else 'null'},setpts=N/25/TB[b{n}];" for n in ways)
        + f"{''.join(f'[b{n}]' for n in ways)}concat={times},trim=duration={LENGTH}"
    )


def clips(look: analyse.Analysis, soft: list[tuple[Fraction, Fraction]]) -> list[Span]:
    """What the default settings keep."""
    fps = Fraction(look.facts["fps"])
    spans = divide(look.times, look.cuts, soft, fps, ClipSettings(), Target())
    return [s for s in spans
            if not s.reasons and not crossed(look.scores, float(s.start), float(s.end))]  # fmt: skip


def look_at(path: Path) -> analyse.Analysis:
    return analyse.analyse(analyse.Task(path.stem, str(path), ShotSettings()))


def shares(kind: str, done: float) -> tuple[float, float]:
    """Of the shot before and of the one after, as xfade mixes them."""
    left = 1 - min(1.0, max(0.0, done))
    if kind == "fade":
        return left, 1 - left

    def smooth(low: float, high: float) -> float:
        part = min(1.0, max(0.0, (left - low) / (high - low)))
        return part * part * (3 - 2 * part)

    return left * smooth(0.8, 1), (1 - left) * (1 - smooth(0.2, 1))


def foreign(kind: str, start: float, seconds: float, look: analyse.Analysis) -> bool:
    """Whether a clip shows less than nine tenths of its shot somewhere."""
    for clip in clips(look, look.soft):
        seen = [shares(kind, (float(t) - start) / seconds)
                for t in look.times[:] if clip.start <= t < clip.end]  # fmt: skip
        if min(a for a, _ in seen) < 0.9 and min(b for _, b in seen) < 0.9:
            return True
    return False


def joined(
    shots: list[tuple[Path, float]], count: int, folder: Path, seed: int
) -> Iterator[tuple[str, float, Path, float, str]]:
    """(kind, seconds, file, start, names) of transitions between shots of different sources."""
    chance = random.Random(seed)
    for kind, seconds in itertools.product(KINDS, SECONDS):
        pairs = [
            (a, b)
            for a, b in itertools.permutations(shots, 2)
            if a[0].name.split("-")[0] != b[0].name.split("-")[0]
        ]
        for (one, length), (two, _) in chance.sample(pairs, min(count, len(pairs))):
            path, start = folder / "joined.mkv", length - seconds - 0.04
            ffmpeg("-i", one, "-i", two, "-filter_complex",
                   f"xfade=transition={kind}:duration={seconds}:offset={start:.3f}",
                   "-c:v", "libx264", "-preset", "ultrafast", "-crf", "20", path)  # fmt: skip
            yield kind, seconds, path, start, f"{one.stem} to {two.stem}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("files", nargs="*", type=Path)
    options.add_argument("--pairs", type=int, default=12)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--half", type=int, choices=(1, 2))
    options = options.parse_args()
    files = options.files
    if not files:
        manifest = footage.fetch()
        files = sorted(manifest.parent.glob("*.mp4"))
    if options.half:
        files = [file for file in files if file.stem.endswith(HALF) == (options.half == 1)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shots = pieces(files, folder)
        print(f"{len(shots)} single shots of {len(files)} files, {sum(s for _, s in shots):.0f} s")
        hits: Counter[tuple[str, float]] = Counter()
        leaks: Counter[tuple[str, float]] = Counter()
        tries: Counter[tuple[str, float]] = Counter()
        for kind, seconds, path, start, names in joined(shots, options.pairs, folder, options.seed):
            look, which = look_at(path), (kind, seconds)
            tries[which] += 1
            hits[which] += any(a < start + seconds and b > start for a, b in look.soft)
            if foreign(kind, start, seconds, look):
                leaks[which] += 1
                print(f"  foreign frame: {kind} of {seconds} s, {names}")
        for title, counts in ("found of joined", hits), ("with a foreign frame", leaks):
            print(f"{title:<20}" + "".join(f"{s:>9} s" for s in SECONDS))
            for kind in KINDS:
                row = (f"{counts[kind, s]}/{tries[kind, s]}" for s in SECONDS)
                print(f"  {kind:<18}" + "".join(f"{cell:>11}" for cell in row))
        false = 0
        for name, move in MOVES.items():
            wrong, lost, kept = 0, 0.0, 0.0
            for path, _ in shots:
                moved = folder / "moved.mkv"
                ffmpeg("-i", path, "-vf", move, "-c:v", "ffv1", moved)
                look = look_at(moved)
                wrong += sum(a < b for a, b in look.soft)
                cuts = [(a, b) for a, b in look.soft if a == b]
                whole, rest = (float(sum(s.end - s.start for s in clips(look, soft)))
                               for soft in (cuts, look.soft))  # fmt: skip
                kept, lost = kept + whole, lost + whole - rest
            false += wrong
            print(f"  none there, {name:<9}{wrong:>4} false in {len(shots)}, "
                  f"{lost:.1f} of {kept:.1f} s of clips lost")  # fmt: skip
        joins = max(1, tries.total())
        print(f"recall {hits.total() / joins:.3f}, "
              f"precision {hits.total() / max(1, hits.total() + false):.3f}, "
              f"with a foreign frame {leaks.total() / joins:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
