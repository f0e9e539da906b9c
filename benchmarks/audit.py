"""How often the audit finds what is not there, and what is: size and power on real footage.

    python benchmarks/audit.py                          films from wheels, fetched once
    python benchmarks/audit.py my/films/*.mp4 --trials 200

Null: winner and losers are clips of the same films drawn at random, so nothing tells them apart
and every verdict is a false one. For image-to-video the winner's first frame is copied to its
losers' numbers. Power: the losers of the same draw with one cue planted in all of them. Beside the
permutation test stands the rule that it replaced (cross-validated AUC with a bootstrap interval,
below 8 pairs the clearest of all features), computed on the same numbers in the same run.
Everything goes through the pairs' own conforming, encoding and measuring.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

from realdpo import ids
from realdpo.demo import footage
from realdpo.media import decode
from realdpo.media.encode import EncodeSettings, encode_video
from realdpo.pairs import audit, conform, permutation
from realdpo.pairs.audit import Pair
from realdpo.pairs.statistics import FEATURES, FILE, FIRST, GRID, WHOLE, measure_video_file

FORM = conform.Form(160, 96, 9, Fraction(8))
COUNTS = (3, 5, 8, 12, 20, 40)
FASTER = 1.5
Numbers = dict[str, float]
Video = np.ndarray


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("films", nargs="*", type=Path)
    arguments.add_argument("--trials", type=int, default=100)
    arguments.add_argument("--clips", type=int, default=40, help="at most so many of a film")
    arguments.add_argument("--cache", type=Path, default=Path("/tmp/realdpo-audit"))
    arguments.add_argument("--counts", type=int, nargs="*", default=COUNTS)
    arguments.add_argument("--only", choices=("null", "power"))
    given = arguments.parse_args()
    films = given.films or sorted(footage.fetch_films().parent.glob("*.mp4"))
    pool = read_pool(films, given.clips, given.cache)
    for film, clips in pool.items():
        print(f"{len(clips):4} clips of {film}", flush=True)
    if given.only != "power":
        null(pool, given.counts, given.trials)
    if given.only != "null":
        power(pool, given.counts, given.trials)


def null(pool: Pool, counts: list[int], trials: int) -> None:
    print(f"\nnull: verdicts where there is nothing to find, of {trials} (5 % allowed)\n")
    print("| task | losers | pairs | permutation test | too few | the rule before |")
    print("|---|---|---|---|---|---|")
    for task in ("i2v", "t2v"):
        for losers in (1, 3):
            for count in counts:
                null_row(pool, task, losers, count, trials)


def power(pool: Pool, counts: list[int], trials: int) -> None:
    print(f"\npower: planted cues found, of {trials} (1 loser a pair; before in brackets)\n")
    print("| task | cue | " + " | ".join(f"{c} pairs" for c in counts) + " |")
    print("|---|---|" + "---|" * len(counts))
    for task in ("i2v", "t2v"):
        for cue in CUES:
            power_row(pool, task, cue, counts, trials)


def null_row(pool: Pool, task: str, losers: int, count: int, trials: int) -> None:
    found = {"new": 0, "few": 0, "old": 0}
    for trial in range(trials):
        pairs = draw(pool, task, losers, count, trial)
        verdict, old = judge(pairs, task)
        found["new"] += verdict in ("suspicious", "shortcut")
        found["few"] += verdict == "too few"
        found["old"] += old
    new, few, old = (f"{found[k] / trials:.0%}" for k in ("new", "few", "old"))
    print(f"| {task} | {losers} | {count} | {new} | {few} | {old} |", flush=True)


def power_row(pool: Pool, task: str, cue: str, counts: list[int], trials: int) -> None:
    cells = []
    for count in counts:
        new = old = 0
        for trial in range(trials):
            pairs = draw(pool, task, 1, count, trial, cue)
            verdict, before = judge(pairs, task)
            new += verdict in ("suspicious", "shortcut")
            old += before
        cells.append(f"{new / trials:.0%} ({old / trials:.0%})")
    print(f"| {task} | {cue} | " + " | ".join(cells) + " |", flush=True)


Pool = dict[str, list[dict[str, Numbers]]]
"""By film: of each clip the numbers as it is, of the same frames in another order, and planted."""


def draw(
    pool: Pool, task: str, losers: int, count: int, trial: int, cue: str | None = None
) -> list[Pair]:
    """`count` pairs of clips of one film each.

    Without a cue the clips are drawn alike. With one, an image-to-video loser is its winner's
    frames in another order, a text-to-video loser another clip, and the cue is planted in it.
    """
    chance = random.Random(f"{trial} {task} {losers} {count}")
    pairs = []
    for _ in range(count):
        clips = pool[chance.choice(sorted(pool))]
        win, *others = chance.sample(range(len(clips)), 1 + losers)
        if cue and task == "i2v":
            found = [clips[win][f"moved {cue}"]]
        else:
            found = [clips[k][cue or "plain"] for k in others]
        winner = clips[win]["plain"]
        if task == "i2v" and not cue:
            found = [{**n, **{name: winner[name] for name in (*FIRST, *GRID)}} for n in found]
        pairs.append((winner, found))
    return pairs


def judge(pairs: list[Pair], task: str) -> tuple[str, bool]:
    """The audit's verdict, and whether the rule before it found anything, on the same numbers."""
    found = audit.audit_pairs(pairs, task == "i2v")
    return found["verdict"], before(pairs, task == "i2v")


# The numbers of the rule before, and its thresholds.
_OLD = [
    *FILE,
    *(n for n in WHOLE if f"first_{n}" in FIRST and n not in ("chroma_noise", "texture")),
]
_OLD_FIRST = [n for n in FIRST if n not in ("first_chroma_noise", "first_texture")]


def before(pairs: list[Pair], same_first_frame: bool) -> bool:
    names = [*_OLD, *(_OLD_FIRST if same_first_frame else ())]
    values = audit._values(pairs, [*names, "size"])
    tolerance = np.array([FEATURES[n].tolerance for n in [*names, "size"]])
    gaps = np.concatenate([v[:1] - v[1:] for v in values]) / tolerance
    beyond = np.sign(gaps) * np.maximum(0, np.abs(gaps) - 1)
    groups = np.repeat(np.arange(len(values)), [len(v) - 1 for v in values])
    if len(pairs) >= audit.FEWEST:
        scores = audit.cross_validated(beyond, groups)
        return audit.difference_auc(scores) >= 0.7 and audit.auc_interval(scores, groups)[0] > 0.5
    mean = np.abs(beyond.mean(axis=0))
    spread = beyond.std(axis=0, ddof=1) if len(beyond) > 1 else np.zeros(len(mean))
    ratio = float((mean / np.maximum(spread, 1.0)).max())
    return 0.5 * (1 + math.erf(min(ratio, 30.0))) >= 0.7


def read_pool(films: list[Path], most: int, cache: Path) -> Pool:
    """The numbers of every clip and its variants; kept by what the films and measures are."""
    pool: Pool = {}
    for film in films:
        key = ids.content_id(
            film=ids.file_hash(film), most=most, measures=audit.MEASURES, version=2
        )
        kept = cache / f"{key}.json"
        if not kept.is_file():
            cache.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps([variants(c, f) for c, f in clips_of(film, most)]))
        found = json.loads(kept.read_text())
        if len(found) >= 4:
            pool[film.name] = found
    return pool


def clips_of(film: Path, most: int) -> list[tuple[Video, Video]]:
    """Clips in the form, one after another, each also at a slower rate (as if played faster)."""
    need = math.ceil(FORM.frames / FORM.fps * Fraction(FASTER))
    found: list[tuple[Video, Video]] = []
    start = Fraction(0)
    while len(found) < most:
        try:
            frames = list(decode.decode_frames(film, start=start, end=start + need + 1))
        except Exception as error:  # the end of a film reads differently in each container
            print(f"{film.name}: {error}")
            break
        if len(frames) < 2:
            break
        span = frames[-1].time - frames[0].time
        rate = Fraction(round((len(frames) - 1) / span))
        video = np.stack([f.rgb for f in frames])
        try:
            slow = conform.Form(FORM.width, FORM.height, FORM.frames, FORM.fps / Fraction(FASTER))
            found.append(
                (conform.conform_real(video, rate, FORM), conform.conform_real(video, rate, slow))
            )
        except conform.Unfit:
            break
        start += need
    return found


def shifted(video: Video) -> Video:
    return (video.astype(int) + np.array([6, 0, 0])).clip(0, 255).astype(np.uint8)


def sharpened(video: Video) -> Video:
    import cv2

    soft = np.stack([cv2.GaussianBlur(f, (0, 0), 1.0) for f in video]).astype(float)
    return (video + 0.3 * (video - soft)).round().clip(0, 255).astype(np.uint8)


def encoded_again(video: Video) -> Video:
    return decode.read_clip(encode_video(video, int(FORM.fps), EncodeSettings(crf=26)))[0]


def passed_through_vae(video: Video) -> Video:
    from realdpo.families import family_of
    from realdpo.families.spec import spec_of_pipeline
    from realdpo.pairs import generate

    pipe = _pipe()
    height, width = (side // 16 * 16 for side in video.shape[1:3])
    passed = video.copy()
    passed[:, :height, :width] = generate.roundtrip_video(
        pipe, family_of(spec_of_pipeline(pipe)), np.ascontiguousarray(video[:, :height, :width])
    )
    return passed


def _pipe(kept: list[object] = []) -> object:  # noqa: B006 - the default is the cache
    if not kept:
        from realdpo.families.load import load_pipeline

        kept.append(load_pipeline("tiny", device="cpu"))
    return kept[0]


CUES: dict[str, Callable[[Video], Video]] = {
    "red + 6": shifted,
    "sharpened by 0.3": sharpened,
    "one more encode (crf 26)": encoded_again,
    "VAE round trip": passed_through_vae,
    "frame rate x 1.5": lambda video: video,  # planted by `variants`
    "none": lambda video: video,
}


def variants(clip: Video, slow: Video) -> dict[str, Numbers]:
    def numbers(video: Video) -> Numbers:
        return measure_video_file(conform.encode_side(video, FORM, 12))

    def moved(video: Video) -> Video:  # there and back again: another motion, from the same frame
        half = len(video) // 2 + 1
        return np.concatenate([video[:half], video[half - 2 :: -1]])[: len(video)]

    found = {"plain": numbers(clip)}
    for name, plant in CUES.items():
        source = slow if name.startswith("frame rate") else clip
        found[name] = numbers(plant(source)) if name != "none" else found["plain"]
        found[f"moved {name}"] = numbers(plant(moved(source)))
    return found


if __name__ == "__main__":
    assert permutation.ALPHA == 0.05
    main()
