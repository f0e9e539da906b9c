"""Random short clips out of a few films: places, scales, moments, speeds and mirror images."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from realdpo.demo.tiny.architecture import FPS, FRAMES, SIDE
from realdpo.errors import UserError

Pixels = npt.NDArray[np.uint8]
# Films are kept at this many pixels on the short side: three times the model's, for close-ups.
SHORT_SIDE = 240
# Mean difference of two 32x32 grey thumbnails (0..255) that a cut exceeds in this footage,
# where the fastest motion stays under 20.
CUT = 30.0
# Mean change between frames (0..255) below which a clip counts as standing still.
STILL = 2.0


@dataclass(frozen=True)
class DecodedFilm:
    """A decoded source. pixels: [F, H, W, 3]; times: seconds [F]; shots: [start, end) in frames."""

    name: str
    title: str
    keywords: tuple[str, ...]
    pixels: Pixels
    times: npt.NDArray[np.float64]
    shots: tuple[tuple[int, int], ...]


def load_films(manifest: Path, splits: Sequence[str]) -> list[DecodedFilm]:
    """Decode the films of `splits` that a manifest with a `split` column names.

    Raises UserError when there is none.
    """
    with open(manifest, newline="", encoding="utf-8") as handle:
        rows = [row for row in csv.DictReader(handle) if row["split"] in splits]
    if not rows:
        raise UserError(f"{manifest} has no film of the split {' or '.join(splits)}")
    return [_film(manifest.parent / row["path"], row) for row in rows]


def draw_clip(
    films: Sequence[DecodedFilm],
    rng: np.random.Generator,
    *,
    fps: Sequence[float] = (FPS,),
    least: float = 0.6,
    within_shot: bool = True,
) -> tuple[DecodedFilm, Pixels]:
    """A film and a random clip [FRAMES, SIDE, SIDE, 3] of it.

    fps: speeds to choose from. least: smallest square, as a share of the short side. Films are
    equally likely, however long they are.
    """
    film = films[int(rng.integers(len(films)))]
    speed = float(rng.choice(fps))
    first, last = film.times[0], film.times[-1]
    if within_shot:
        fitting = [
            (film.times[a], film.times[b - 1])
            for a, b in film.shots
            if film.times[b - 1] - film.times[a] >= (FRAMES - 1) / speed
        ]
        if not fitting:
            return draw_clip(films, rng, fps=fps, least=least, within_shot=within_shot)
        lengths = np.array([b - a for a, b in fitting])
        first, last = fitting[rng.choice(len(fitting), p=lengths / lengths.sum())]
    start = rng.uniform(first, max(first, last - (FRAMES - 1) / speed))
    height, width = film.pixels.shape[1:3]
    side = round(rng.uniform(least, 1.0) * min(height, width))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    clip = sample_clip(film, start, speed, (int(top), int(left), side))
    return film, clip[:, :, ::-1] if rng.random() < 0.5 else clip


def cut_centre(film: DecodedFilm, start: float) -> Pixels:
    """The clip that the demo would cut from `start` seconds: centre square, FPS frames a second."""
    height, width = film.pixels.shape[1:3]
    side = min(height, width)
    return sample_clip(film, start, FPS, ((height - side) // 2, (width - side) // 2, side))


def clip_starts(film: DecodedFilm) -> list[float]:
    """Where the clips of a film begin when every shot is cut end to end."""
    step = FRAMES / FPS
    found = []
    for a, b in film.shots:
        begin, end = film.times[a], film.times[b - 1]
        count = int((end - begin - (FRAMES - 1) / FPS) // step + 1)
        found += [float(begin + i * step) for i in range(max(0, count))]
    return found


def sample_clip(
    film: DecodedFilm, start: float, fps: float, square: tuple[int, int, int]
) -> Pixels:
    """FRAMES pictures from `start` seconds, cut to square (top, left, side), SIDE pixels wide."""
    import cv2

    wanted = start + np.arange(FRAMES) / fps
    picks = np.abs(film.times[None, :] - wanted[:, None]).argmin(axis=1)
    top, left, side = square
    cut = film.pixels[picks, top : top + side, left : left + side]
    return np.stack([cv2.resize(f, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for f in cut])


def mean_change(clip: Pixels) -> float:
    """Mean absolute change between neighbouring frames, 0..255."""
    return float(np.abs(np.diff(clip.astype(np.int16), axis=0)).mean())


def _film(path: Path, row: dict[str, Any]) -> DecodedFilm:
    import cv2

    from realdpo.media import decode

    pixels, times, cuts = [], [], [0]
    before = None
    for frame in decode.decode_frames(path, short_side=SHORT_SIDE):
        small = cv2.resize(frame.rgb, (32, 32), interpolation=cv2.INTER_AREA).mean(axis=2)
        if before is not None and np.abs(small - before).mean() > CUT:
            cuts.append(len(pixels))
        before = small
        pixels.append(frame.rgb)
        times.append(Fraction(frame.time))
    cuts.append(len(pixels))
    return DecodedFilm(
        path.name,
        row["title"],
        tuple(word.strip() for word in row["keywords"].split(",") if word.strip()),
        np.stack(pixels),
        np.array([float(time) for time in times]),
        tuple(itertools.pairwise(cuts)),
    )
