"""Dissolves and fades: how many are found, what they leave in clips, what is lost for nothing.

    python benchmarks/transitions.py [--films DIR] [--half tuning|test] [--joins 300] [--encode] [--fit]

Single shots are run forth and back, some panned over, zoomed into or shaken, and joined at known
places by dissolves (even and eased) and fades through black, white and grey of 0.3 to 2.5 s. A
transition is found when a span lies over it; it leaves a foreign frame when a clip of the default
settings shows less than nine tenths of one and the same shot somewhere. A continuous shot is lost
when a span is found in it: every shot is looked at as it is, and panned and tilted over, zoomed
into, swept along by a whip of the camera, shaken, lit by flashes, by light that swells, dims or
changes its colour, and passed by somebody close to the camera.

DIR holds the films that films.csv beside this file lists, under any names: they are known by
their content. Films are of the tuning half or of the test half by the repository they come from.
Without DIR the demo's footage is taken, all of which is of the tuning half. --encode sends every
join through H.264 and the whole analysis. --fit fits the models to the tuning half and prints
their weights for curate/transitions.py: logistic regressions (scikit-learn), for which the
windows that are hardest among the continuous ones and easiest among the others are taken anew
in every round.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from realdpo.curate import analyse, transitions
from realdpo.curate.config import ClipSettings, ShotSettings, Target
from realdpo.curate.shots import divide_shots
from realdpo.demo import footage
from realdpo.media import MediaError
from realdpo.media.decode import decode_frames
from realdpo.media.encode import EncodeSettings, encode_video
from realdpo.media.probe import probe_video

Film = npt.NDArray[np.uint8]  # [N, H, W, 3]

SIDE, LONGEST = 128, 700  # pixels of the longer side, frames of a film that are used
SECONDS = (0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 2.5)
KINDS = ("dissolve",) * 9 + ("eased",) * 3 + ("black",) * 3 + ("white",) * 2 + ("grey",) + ("cut",)
WAYS = ("pan", "tilt", "zoom", "shake")
MOVES = ("as it is", *WAYS, "whip", "flashes", "lights", "dimmed", "colour", "passer")
BESIDE = 5  # seconds of each shot beside a transition
ROUNDS, HARDEST, EASIEST = 6, 15, 3


@dataclass(frozen=True)
class Shot:
    """A single shot. source: shots of one source are never joined. times: seconds from 0 [N]."""

    name: str
    source: str
    times: npt.NDArray[np.float64]
    pictures: Film


# --- films ----------------------------------------------------------------------------------------


def listed(folder: Path, half: str) -> Iterator[tuple[Path, dict[str, str]]]:
    """The listed films of a half that are in the folder, with their rows."""
    with open(Path(__file__).with_name("films.csv"), newline="") as handle:
        rows = {row["blob"]: row for row in csv.DictReader(handle) if row["half"] == half}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # as git names it
        if blob in rows:
            yield path, rows.pop(blob)
    if rows:
        print(f"{len(rows)} of the listed films are not in {folder}")


def shots_of(path: Path, source: str, spans: str) -> Iterator[Shot]:
    """The film's single shots, small. spans: such as `1.3-5.3 5.6-7.3`, empty for all of it."""
    facts = probe_video(path)
    scale = min(1.0, SIDE / max(facts.width, facts.height))
    size = max(1, round(facts.width * scale)), max(1, round(facts.height * scale))
    kept: list[tuple[float, Film]] = []
    for frame in decode_frames(path, size=size, threads=1):
        if not kept or float(frame.time) - kept[-1][0] >= float(transitions.STEP):
            kept.append((float(frame.time), frame.rgb))
        if len(kept) == LONGEST:
            break
    for span in spans.split() or ["0-1e9"]:
        start, end = map(float, span.split("-"))
        part = [(time, rgb) for time, rgb in kept if start <= time <= end]
        if len(part) >= 12:
            times = np.array([time for time, _ in part])
            yield Shot(path.name, source, times - times[0], np.stack([rgb for _, rgb in part]))


def load(folder: Path | None, half: str) -> list[Shot]:
    if folder is None:
        if half == "test":
            sys.exit("the demo's footage is of the tuning half; give --films DIR for the test half")
        seen = footage.fetch_films().parent
        return [s for path in sorted(seen.glob("*.mp4")) for s in shots_from_cuts(path)]
    found = []
    for path, row in listed(folder, half):
        try:
            found += shots_of(path, row["source"], row["shots"])
        except MediaError as error:
            print(error)
    return found


def shots_from_cuts(path: Path) -> list[Shot]:
    look = analyse.analyse_source(analyse.AnalysisTask(path.stem, str(path), ShotSettings()))
    edges = [0.0, *map(float, look.cuts), float(look.times[-1]) + 1]
    spans = " ".join(f"{a + 0.1}-{b - 0.1}" for a, b in pairwise(edges))
    source = "lab" if path.stem.startswith("lab") else path.stem
    return list(shots_of(path, source, spans))


# --- what is shown ----------------------------------------------------------------------------------


def played(shot: Shot, fps: float, seconds: float, chance: random.Random) -> Film:
    """The shot forth and back from a random place."""
    length = shot.times[-1]
    place = (chance.random() * length + np.arange(int(seconds * fps)) / fps) % (2 * length)
    place = np.where(place > length, 2 * length - place, place)
    taken: Film = shot.pictures[
        np.clip(np.searchsorted(shot.times, place - 1e-3), 0, len(shot.times) - 1)
    ]
    return taken


def moved(film: Film, move: str, fps: float, chance: random.Random) -> Film:
    """The film as another camera or another light would show it; `move` of MOVES."""
    count, height, width = film.shape[:3]
    time = np.arange(count) / fps

    def back_and_forth(places: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.abs((places + 1) % 2 - 1)

    def light(change: npt.NDArray[np.float64]) -> Film:
        return np.clip(film + change[:, None, None, None], 0, 255).astype(np.uint8)

    if move in ("pan", "tilt", "shake"):
        part = 0.75 if move == "shake" else 0.6
        high = height if move == "pan" else int(height * part)
        wide = width if move == "tilt" else int(width * part)
        if move == "shake":
            walk = np.cumsum([[chance.gauss(0, 1.2) for _ in "xy"] for _ in range(count)], axis=0)
            across = back_and_forth(walk[:, 0] / max(width - wide, 1))
            down = back_and_forth(walk[:, 1] / max(height - high, 1))
        else:
            across = down = back_and_forth(chance.random() + time * chance.uniform(0.1, 1.2))
        lefts, tops = (across * (width - wide)).astype(int), (down * (height - high)).astype(int)
        return np.stack(
            [p[y : y + high, x : x + wide] for p, x, y in zip(film, lefts, tops, strict=True)]
        )
    if move == "zoom":
        scale = 1 - 0.6 * back_and_forth(chance.random() + time * chance.uniform(0.2, 1))
        pictures = []
        for picture, part in zip(film, scale, strict=True):
            high, wide = max(16, int(height * part)), max(16, int(width * part))
            top, left = (height - high) // 2, (width - wide) // 2
            cropped = picture[top : top + high, left : left + wide]
            pictures.append(cv2.resize(cropped, (96, 72), interpolation=cv2.INTER_AREA))
        return np.stack(pictures)  # type: ignore[arg-type]  # OpenCV's stubs know no uint8 view
    if move == "whip":
        still = film[chance.randrange(count)]
        strip = np.hstack([still, still[:, ::-1], still[::-1], still])
        middle, slow = chance.uniform(0.3, 0.6) * count, chance.uniform(0.15, 0.6) * fps
        place = 1 / (1 + np.exp(-(np.arange(count) - middle) / slow * 4))
        lefts = (place * (strip.shape[1] - width) * chance.uniform(0.3, 1)).astype(int)
        return np.stack([strip[:, left : left + width] for left in lefts])
    if move == "flashes":
        return light(127.0 * (time % 1 < 0.12))
    if move == "lights":
        return light(60 * np.sin(chance.uniform(0.5, 3) * time))
    if move == "dimmed":
        part = 0.65 + 0.35 * np.cos(chance.uniform(0.3, 2) * time)
        return (film * part[:, None, None, None]).astype(np.uint8)
    if move == "colour":
        tint = np.array([chance.uniform(0.4, 1) for _ in range(3)])
        part = 0.5 + 0.5 * np.sin(chance.uniform(0.5, 2) * time)
        return (film * (1 - part[:, None, None, None] * (1 - tint))).astype(np.uint8)
    if move == "passer":
        passed, body = film.copy(), np.array([chance.randrange(256) for _ in range(3)])
        speed, wide = chance.choice((-1, 1)) * chance.uniform(0.3, 2), chance.uniform(0.2, 0.9)
        middles = (time * speed + 0.3) % 2.5 - 0.75
        for picture, middle in zip(passed, middles, strict=True):
            left, right = (int(np.clip(middle + s * wide / 2, 0, 1) * width) for s in (-1, 1))
            picture[:, left:right] = picture[:, left:right] * 0.1 + body * 0.9
        return passed
    return film


@dataclass(frozen=True)
class Join:
    """Two shots joined. shares: of the first and of the second in every picture [N, 2]."""

    kind: str
    seconds: float
    start: float
    fps: int
    names: tuple[str, str]
    pictures: Film
    shares: npt.NDArray[np.float64]


def join(shots: list[Shot], chance: random.Random) -> Join:
    """Two random shots of different sources, joined in a random way."""
    quick = [s for s in shots if len(s.times) / max(s.times[-1], 0.1) >= 11.5]
    sources = sorted({s.source for s in quick})
    one, two = (
        chance.choice([s for s in quick if s.source == source])
        for source in chance.sample(sources, 2)
    )
    kind, seconds = chance.choice(KINDS), chance.choice(SECONDS)
    fps = chance.choice((24, 25, 25, 30, 15, 12) if seconds >= 0.5 else (24, 25, 30))
    films = []
    for shot in (one, two):
        move = chance.choice(WAYS) if chance.random() < 0.35 else "as it is"
        film = moved(played(shot, fps, seconds + 2 * BESIDE, chance), move, fps, chance)
        size = (SIDE, SIDE * 9 // 16)
        films.append([cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in film])
    before, after = np.array(films, np.float32)
    time = np.arange(len(before)) / fps
    start = BESIDE - 0.02
    done = np.clip((time - start) / seconds, 0, 1)
    if kind == "cut":
        done = (time >= start).astype(float)
    if kind == "eased":
        done = done * done * (3 - 2 * done)
    if kind in ("black", "white", "grey"):
        half = (1 - chance.choice((0, 0, 0.1, 0.3))) / 2  # the rest is flat
        shares = np.stack([np.clip(1 - done / half, 0, 1), np.clip((done - 1) / half + 1, 0, 1)], 1)
    else:
        shares = np.stack([1 - done, done], 1)
    level = {"black": 16, "white": 235, "grey": chance.randrange(64, 192)}.get(kind, 0)
    part = shares[:, :, None, None, None]
    flat = (1 - shares.sum(axis=1))[:, None, None, None] * level
    mixed = before * part[:, 0] + after * part[:, 1] + flat
    pictures = np.clip(np.round(mixed), 0, 255).astype(np.uint8)
    return Join(kind, seconds, start, fps, (one.name, two.name), pictures, shares)


# --- what is measured --------------------------------------------------------------------------------


def spans_in(
    pictures: Film, times: list[Fraction], fps: int, encoded: bool
) -> list[tuple[Fraction, Fraction]]:
    """Soft transitions, by the finder alone or from a file by the whole analysis."""
    if not encoded:
        finder = transitions.DissolveFinder()
        for time, picture in zip(times, pictures, strict=True):
            finder.feed(time, picture)
        return finder.found()
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        size = (2 * SIDE, SIDE * 9 // 16 * 2)
        larger = (cv2.resize(p, size, interpolation=cv2.INTER_CUBIC) for p in pictures)
        file.write(encode_video(larger, Fraction(fps), EncodeSettings(crf=23)))
        file.flush()
        return analyse.analyse_source(analyse.AnalysisTask("", file.name, ShotSettings(), 1)).soft


def judge_joins(shots: list[Shot], count: int, chance: random.Random, encoded: bool) -> None:
    hits: Counter[object] = Counter()
    tries: Counter[object] = Counter()
    clips = foreign = beside = 0
    for _ in range(count):
        made = join(shots, chance)
        if made.kind == "cut":
            continue
        times = [Fraction(n, made.fps) for n in range(len(made.pictures))]
        spans = spans_in(made.pictures, times, made.fps, encoded)
        end = made.start + made.seconds
        over = [a < end and b > made.start for a, b in spans]
        beside += over.count(False)
        for key in (made.kind, made.seconds, "all"):
            tries[key] += 1
            hits[key] += any(over)
        for clip in divide_shots(times, [], spans, Fraction(made.fps), ClipSettings(), Target()):
            inside = [clip.start <= t < clip.end for t in times]
            clips += not clip.reasons
            wrong = not clip.reasons and made.shares[inside].min(axis=0).max() < 0.9
            foreign += wrong
            if wrong and any(over):
                print(f"  foreign frame though found: {made.kind}, {made.seconds} s, {made.names}")
    for keys in (dict.fromkeys(KINDS[:-1]), SECONDS, ("all",)):
        cells = (f"{key}{' s' * (keys is SECONDS)} {hits[key]}/{tries[key]}" for key in keys)
        print("  found: " + ", ".join(cells))
    print(
        f"  found {hits['all'] / tries['all']:.3f}; with a foreign frame {foreign} of {clips} "
        f"clips, {foreign / max(clips, 1):.3f}; beside a transition {beside} false"
    )


def judge_shots(shots: list[Shot], chance: random.Random) -> None:
    lost: Counter[str] = Counter()
    for shot in shots:
        rate = len(shot.times) / max(shot.times[-1], 0.1)
        fps = round(min(30, max(rate, 8)))
        for move in MOVES:
            if move == MOVES[0]:
                pictures, seconds = shot.pictures, [Fraction(float(t)) for t in shot.times]
            else:
                film = played(shot, fps, min(8, max(3, shot.times[-1])), chance)
                pictures = moved(film, move, fps, chance)
                seconds = [Fraction(n, fps) for n in range(len(pictures))]
            lost[move] += bool(spans_in(pictures, seconds, fps, encoded=False))
    total = len(shots) * len(MOVES)
    print("  lost: " + ", ".join(f"{move} {lost[move]}/{len(shots)}" for move in MOVES))
    print(f"  lost {lost.total()} of {total} continuous shots, {lost.total() / total:.4f}")


# --- fitting -------------------------------------------------------------------------------------------


@dataclass
class Windows:
    """Windows of one film. labels: 0 of one shot, 1 a dissolve, 2 a fade, -1 neither."""

    values: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]


def windows_of(
    pictures: Film, times: npt.NDArray[np.float64], made: Join | None = None
) -> Windows | None:
    finder = transitions.DissolveFinder()
    for time, picture in zip(times, pictures, strict=True):
        finder.feed(Fraction(float(time)), picture)
    looks = transitions._Looks.of(finder._times, finder._pictures, finder._edges)
    first, last = transitions._candidates(looks, 0, len(looks.times))
    if not len(first):
        return None
    table = transitions.describe_windows(looks, first, last)
    values = np.stack([table[name] for name in transitions.WEIGHTS], axis=1)
    labels = np.zeros(len(first), int)
    if made is not None and made.kind != "cut":
        starts, ends = looks.times[first], looks.times[last]
        length = ends - starts
        own = np.array([made.shares[round(t * made.fps)] for t in starts])
        other = np.array([made.shares[round(t * made.fps)] for t in ends])
        labels[(ends > made.start) & (starts < made.start + made.seconds)] = -1
        if made.kind in ("dissolve", "eased"):
            whole = (own[:, 0] >= 0.85) & (other[:, 1] >= 0.85)
            labels[whole & (length <= 1.9 * made.seconds + 0.05)] = 1
        else:
            out = (own[:, 0] >= 0.9) & (other.max(axis=1) <= 0.12)
            back = (own.max(axis=1) <= 0.12) & (other[:, 1] >= 0.9)
            labels[(out | back) & (length <= 0.95 * made.seconds + 0.1)] = 2
    return Windows(np.clip(values, -4, 5).astype(np.float64), labels)


def fit(shots: list[Shot], count: int, chance: random.Random) -> None:
    """Print the weights of both models."""
    films = []
    for _ in range(count):
        made = join(shots, chance)
        films.append(windows_of(made.pictures, np.arange(len(made.pictures)) / made.fps, made))
    for shot in shots:
        fps = round(min(30, max(len(shot.times) / max(shot.times[-1], 0.1), 8)))
        films.append(windows_of(shot.pictures, shot.times))
        for move in MOVES[1:]:
            film = played(shot, fps, min(8, max(3, shot.times[-1])), chance)
            film = moved(film, move, fps, chance)
            films.append(windows_of(film, np.arange(len(film)) / fps))
    seen = [film for film in films if film is not None]
    models = [fit_model(seen, label) for label in (1, 2)]
    for place, name in enumerate(transitions.WEIGHTS):
        one, two = (float(f"{weights[place]:.3g}") for weights, _ in models)
        print(f'    "{name}": ({one}, {two}),')
    print("BIAS =", tuple(float(f"{bias:.3g}") for _, bias in models))


def fit_model(films: list[Windows], label: int) -> tuple[npt.NDArray[np.float64], float]:
    """Weights and bias of one model: logistic regression on windows taken anew in each round."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    numbers = np.random.default_rng(0)
    hard: list[set[int]] = [set() for _ in films]
    weights, bias = np.zeros(len(transitions.WEIGHTS)), 0.0
    for turn in range(ROUNDS):
        values, labels, counts = [], [], []
        for film, kept in zip(films, hard, strict=True):
            scores = film.values @ weights + bias if turn else numbers.random(len(film.labels))
            ours, none = (np.flatnonzero(film.labels == n) for n in (label, 0))
            ours = ours[np.argsort(-scores[ours])[:EASIEST]]
            kept |= set(none[np.argsort(-scores[none])[:HARDEST]].tolist())
            for places, kind in ((ours, 1), (np.array(sorted(kept), int), 0)):
                values.append(film.values[places])
                labels.append(np.full(len(places), kind))
                counts.append(np.full(len(places), 4 / max(len(places), 1) if kind else 1.0))
        scale = StandardScaler().fit(np.concatenate(values))
        model = LogisticRegression(max_iter=1000, C=0.3).fit(
            scale.transform(np.concatenate(values)),
            np.concatenate(labels),
            sample_weight=np.concatenate(counts),
        )
        weights = model.coef_[0] / scale.scale_
        bias = float(model.intercept_[0] - weights @ scale.mean_)
    return weights, bias - 0.25  # towards losing nothing, chosen on the tuning half


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--films", type=Path, help="a folder with the films of films.csv")
    options.add_argument("--half", choices=("tuning", "test"))
    options.add_argument("--joins", type=int, default=300)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--encode", action="store_true")
    options.add_argument("--fit", action="store_true")
    options = options.parse_args()
    halves = (options.half,) if options.half else ("tuning", "test")
    if options.fit:
        fit(load(options.films, "tuning"), options.joins, random.Random(options.seed))
        return
    for half in halves if options.films else ("tuning",):
        shots = load(options.films, half)
        sources = len({shot.source for shot in shots})
        print(f"{half}: {len(shots)} single shots of {sources} sources")
        judge_joins(shots, options.joins, random.Random(options.seed), options.encode)
        if not options.encode:
            judge_shots(shots, random.Random(options.seed))


if __name__ == "__main__":
    main()
