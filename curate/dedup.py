"""Near-duplicates: the same footage re-encoded, resized, cropped a little or cut elsewhere.

A clip's fingerprint is its picture reduced to 8 x 8 luma cells, four times a second. Two clips
are compared first by their mean picture (every pair, exactly, by blocked matrix products), and
where these agree by how the cells change over time, at every offset. The second test is what
tells two takes of one scene apart: their backgrounds agree, their movements do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

RATE = 4
CELLS = 8
WORDS = CELLS * CELLS // 8


@dataclass(frozen=True)
class DedupSettings:
    """When two clips are the same footage; set on drawn scenes and a few real frames.

    picture: least correlation of the mean pictures: 0.74 was the lowest of frames cropped by 5 %
    on every side, and unrelated frames lie at 0 with a deviation of 0.18. motion: least
    correlation of how the cells change over the time that both show. still: levels of change
    under which a clip has no motion to compare, and the picture must reach `still_picture`.
    shift_s: largest offset. overlap: least share of the shorter clip that both must show.
    """

    picture: float = 0.74
    motion: float = 0.60
    still: float = 1.0
    still_picture: float = 0.92
    shift_s: float = 2.0
    overlap: float = 0.6


def pack(times: npt.NDArray[Any], thumbs: npt.NDArray[np.uint8]) -> list[int]:
    """Fingerprint of a clip: 8 words of 64 bits for every quarter of a second.

    times: seconds from the clip's start [N]; thumbs: uint8 [N, 64]. Empty for under two samples.
    """
    if len(times) < 2:
        return []
    grid = np.arange(0, times[-1] + 1e-6, 1 / RATE)
    right = np.clip(np.searchsorted(times, grid), 1, len(times) - 1)
    low, high = times[right - 1], times[right]
    part = np.clip((grid - low) / np.maximum(high - low, 1e-9), 0, 1)[:, None]
    cells = thumbs[right - 1] * (1 - part) + thumbs[right] * part
    return np.round(cells).astype(np.uint8).reshape(-1).view(np.uint64).tolist()


def unpack(words: Sequence[int] | npt.NDArray[np.uint64]) -> Floats:
    """Cells over time, float32 [T, 64], of a fingerprint."""
    return np.asarray(words, np.uint64).view(np.uint8).reshape(-1, CELLS**2).astype(np.float32)


def pairs(
    fingerprints: Sequence[npt.NDArray[np.uint64] | None],
    settings: DedupSettings | None = None,
) -> list[tuple[int, int]]:
    """All pairs (i, j), i < j, of the same footage; null and empty fingerprints match nothing."""
    settings = settings or DedupSettings()
    known = [i for i, words in enumerate(fingerprints) if words is not None and len(words)]
    if len(known) < 2:
        return []
    prints = [np.asarray(fingerprints[i], np.uint64) for i in known]
    means = picture(np.stack([unpack(words).mean(axis=0) for words in prints]))
    return sorted(
        (known[i], known[j])
        for i, j in _candidates(means, settings.picture)
        if same(unpack(prints[i]), unpack(prints[j]), settings)
    )


def same(a: Floats, b: Floats, settings: DedupSettings | None = None) -> bool:
    """Whether two series of cells [T, 64] show the same footage at some offset."""
    settings = settings or DedupSettings()
    if _hopeless(a, b, settings):
        return False
    return any(
        likeness >= (settings.picture if moves else settings.still_picture)
        and (not moves or motion >= settings.motion)
        for likeness, motion, moves in compare(a, b, settings)
    )


def compare(a: Floats, b: Floats, settings: DedupSettings) -> Iterator[tuple[float, float, bool]]:
    """For every offset: correlation of the mean pictures, of their changes, and if both move."""
    # Half steps between samples: the two clips were not sampled at the same instants.
    fine = _doubled(b)
    least = max(2, int(settings.overlap * min(len(a), len(b))))
    reach = round(settings.shift_s * RATE * 2)
    for offset in sorted(range(-reach, reach + 1), key=abs):
        whole, half = divmod(offset, 2)
        other = fine[half::2]
        start, stop = max(0, -whole), min(len(a), len(other) - whole)
        if stop - start < least:
            continue
        one, two = a[start:stop], other[start + whole : stop + whole]
        mean_one, mean_two = one.mean(axis=0), two.mean(axis=0)
        change_one, change_two = one - mean_one, two - mean_two
        power_one, power_two = float((change_one**2).mean()), float((change_two**2).mean())
        motion = float((change_one * change_two).mean()) / max((power_one * power_two) ** 0.5, 1e-6)
        likeness = float(picture(mean_one) @ picture(mean_two))
        yield likeness, motion, min(power_one, power_two) > settings.still**2


def picture(cells: Floats) -> Floats:
    """Mean pictures [..., 64] as unit vectors whose product is their correlation.

    Photographs have power at all scales falling as 1 / frequency; weighting by frequency undoes
    it, so that the few largest shapes do not make all pictures alike. Brightness and contrast
    drop out.
    """
    waves = (cells @ _COSINES.T) * _WEIGHTS
    return waves / np.maximum(np.linalg.norm(waves, axis=-1, keepdims=True), 1e-6)


def _hopeless(a: Floats, b: Floats, settings: DedupSettings) -> bool:
    """Whether no offset comes near the wanted correlation of changes: one product for all."""
    one, two = a - a.mean(axis=0), b - b.mean(axis=0)
    power_one, power_two = (one**2).sum(axis=1), (two**2).sum(axis=1)
    if min(power_one.mean(), power_two.mean()) <= 4 * CELLS**2 * settings.still**2:
        return False
    product = one @ two.T
    total_one, total_two = (np.concatenate([[0], np.cumsum(p)]) for p in (power_one, power_two))
    least = max(2, int(settings.overlap * min(len(a), len(b))))
    reach = round(settings.shift_s * RATE)
    for offset in range(-reach, reach + 1):
        start, stop = max(0, -offset), min(len(a), len(b) - offset)
        if stop - start >= least:
            power = (total_one[stop] - total_one[start]) * (
                total_two[stop + offset] - total_two[start + offset]
            )
            if np.trace(product, offset) >= (settings.motion - 0.3) * max(power, 1e-6) ** 0.5:
                return False
    return True


def _candidates(means: Floats, least: float, block: int = 2048) -> Iterator[tuple[int, int]]:
    """Pairs of unit vectors whose product is at least `least`: every pair is looked at."""
    for top in range(0, len(means), block):
        rows = means[top : top + block]
        for left in range(top, len(means), 4 * block):
            product = rows @ means[left : left + 4 * block].T
            for i, j in np.argwhere(product >= least):
                if top + i < left + j:
                    yield int(top + i), int(left + j)


def _doubled(cells: Floats) -> Floats:
    result = np.empty((2 * len(cells) - 1, cells.shape[1]), np.float32)
    result[::2] = cells
    result[1::2] = (cells[1:] + cells[:-1]) / 2
    return result


def _waves() -> tuple[Floats, Floats]:
    """The 64 cosines of an 8 x 8 picture [64, 64] (DCT-II), and the frequency of each."""
    index = np.arange(CELLS)
    rows = np.cos(np.pi * index[:, None] * (index + 0.5) / CELLS)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    frequency = np.hypot(*np.mgrid[:CELLS, :CELLS]).ravel()
    return np.kron(rows, rows).astype(np.float32), frequency.astype(np.float32)


_COSINES, _WEIGHTS = _waves()
