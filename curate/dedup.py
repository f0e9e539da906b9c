"""Near-duplicates: the same footage re-encoded, resized, cropped a little or cut elsewhere.

A clip's fingerprint is its picture reduced to 8 x 8 luma cells, four times a second. Two clips
are compared first by their mean picture (every pair, exactly, by blocked matrix products), and
where these agree by how the cells change over time, at every offset. The second test is what
tells two takes of one scene apart, and two moments before one unmoving camera: their backgrounds
agree, their movements do not.
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
    """When two clips are the same footage.

    candidate: least correlation of the mean pictures over the whole clips, which need not show
    the same time. picture: the same over the time that both show; copies of real footage that
    were cropped by 5 % reach 0.915, a take into which a person was edited 0.90, unrelated
    frames lie at 0 with a deviation of 0.18. motion: least correlation of how the cells change
    over that time; other moments of a scene reach 0.50, nearly all copies 0.60. still: levels
    of change under which a clip has no movement to compare; rounding alone makes 0.3. loop:
    least correlation of changes for two spans of one source, which are the same only when the
    source repeats itself, frame for frame; exercise repeats itself nearly. shift_s: largest
    offset. overlap: least share of the shorter clip that both must show.
    """

    candidate: float = 0.74
    picture: float = 0.9
    motion: float = 0.55
    still: float = 0.5
    loop: float = 0.9
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
    sources: Sequence[str] | None = None,
    settings: DedupSettings | None = None,
) -> list[tuple[int, int]]:
    """All pairs (i, j), i < j, of the same footage; null and empty fingerprints match nothing.

    sources: what each clip was cut from. Clips of one source show other moments of it, so they
    must agree as frames that are shown again do. None: each clip has a source of its own.
    """
    settings = settings or DedupSettings()
    known = [i for i, words in enumerate(fingerprints) if words is not None and len(words)]
    if len(known) < 2:
        return []
    prints = [np.asarray(fingerprints[i], np.uint64) for i in known]
    owners = [sources[i] for i in known] if sources is not None else list(range(len(known)))
    means = picture(np.stack([unpack(words).mean(axis=0) for words in prints]))
    differ = _unlike(prints, owners, settings)
    return sorted(
        (known[i], known[j])
        for i, j in _candidates(means, settings.candidate)
        if (i, j) not in differ
        and same(unpack(prints[i]), unpack(prints[j]), settings, one_source=owners[i] == owners[j])
    )


def same(
    a: Floats, b: Floats, settings: DedupSettings | None = None, *, one_source: bool = False
) -> bool:
    """Whether two series of cells [T, 64] show the same footage at some offset.

    one_source: they are different spans of one source.
    """
    settings = settings or DedupSettings()
    if max(_power(a), _power(b)) <= settings.still**2:
        # Nothing moves: of two files it is the same still, of one source the same moment never.
        likeness = float(picture(a.mean(axis=0)) @ picture(b.mean(axis=0)))
        return not one_source and likeness >= settings.picture
    least = settings.loop if one_source else settings.motion
    if _hopeless(a, b, settings, least):
        return False
    return any(
        likeness >= max(settings.candidate, settings.picture - doubt) and motion >= least
        for likeness, motion, doubt in compare(a, b, settings)
    )


def compare(a: Floats, b: Floats, settings: DedupSettings) -> Iterator[tuple[float, float, float]]:
    """For every offset: correlation of the mean pictures, of their changes, and doubt.

    The second is 0 where one of the two does not move over the time that both show. Doubt is the
    variance of the mean picture that comes from taking few samples of what moves, as a share of
    the picture's own: so much less may the pictures agree.
    """
    # Steps between samples: the two clips were not sampled at the same instants.
    fine = _doubled(_doubled(b))
    least = _overlap(a, b, settings)
    reach = round(settings.shift_s * RATE * 4)
    for offset in sorted(range(-reach, reach + 1), key=abs):
        whole, part = divmod(offset, 4)
        other = fine[part::4]
        start, stop = max(0, -whole), min(len(a), len(other) - whole)
        if stop - start < least:
            continue
        one, two = a[start:stop], other[start + whole : stop + whole]
        mean_one, mean_two = one.mean(axis=0), two.mean(axis=0)
        change_one, change_two = one - mean_one, two - mean_two
        power_one, power_two = float((change_one**2).mean()), float((change_two**2).mean())
        motion = 0.0
        if min(power_one, power_two) > settings.still**2 / 2:  # steps between smooth rounding away
            motion = float((change_one * change_two).mean()) / (power_one * power_two) ** 0.5
        likeness = float(picture(mean_one) @ picture(mean_two))
        contrast = float(mean_one.var() + mean_two.var())
        doubt = (power_one + power_two) / max(contrast, 1e-6) / len(one)
        yield likeness, motion, doubt


def picture(cells: Floats) -> Floats:
    """Mean pictures [..., 64] as unit vectors whose product is their correlation.

    Photographs have power at all scales falling as 1 / frequency; weighting by frequency undoes
    it, so that the few largest shapes do not make all pictures alike. Brightness and contrast
    drop out.
    """
    waves = (cells @ _COSINES.T) * _WEIGHTS
    return waves / np.maximum(np.linalg.norm(waves, axis=-1, keepdims=True), 1e-6)


def _power(cells: Floats) -> float:
    """Mean square of how cells [T, 64] change over time."""
    return float(cells.var(axis=0).mean())


def _overlap(a: Floats, b: Floats, settings: DedupSettings) -> int:
    """Samples that both must show: a second tells movements apart, half of one does not."""
    shorter = min(len(a), len(b))
    return max(2, min(RATE, shorter), int(settings.overlap * shorter))


def _hopeless(a: Floats, b: Floats, settings: DedupSettings, wanted: float) -> bool:
    """Whether no offset comes near the wanted correlation of changes: one product for all."""
    one, two = a - a.mean(axis=0), b - b.mean(axis=0)
    power_one, power_two = (one**2).sum(axis=1), (two**2).sum(axis=1)
    product = one @ two.T
    total_one, total_two = (np.concatenate([[0], np.cumsum(p)]) for p in (power_one, power_two))
    least = _overlap(a, b, settings)
    reach = round(settings.shift_s * RATE)
    for offset in range(-reach, reach + 1):
        start, stop = max(0, -offset), min(len(a), len(b) - offset)
        if stop - start >= least:
            power = (total_one[stop] - total_one[start]) * (
                total_two[stop + offset] - total_two[start + offset]
            )
            if np.trace(product, offset) >= (wanted - 0.3) * max(power, 1e-6) ** 0.5:
                return False
    return True


def _unlike(
    prints: Sequence[npt.NDArray[np.uint64]], owners: Sequence[object], settings: DedupSettings
) -> set[tuple[int, int]]:
    """Pairs i < j of one source that `_hopeless` would refuse: a product for all of one length.

    One unmoving camera makes all its clips candidates, far more pairs than there are copies.
    """
    groups: dict[tuple[object, int], list[int]] = {}
    for index, (owner, words) in enumerate(zip(owners, prints, strict=True)):
        groups.setdefault((owner, len(words)), []).append(index)
    found: set[tuple[int, int]] = set()
    for rows in groups.values():
        if len(rows) < 2:
            continue
        cells = np.stack([unpack(prints[row]) for row in rows])
        change = cells - cells.mean(axis=1, keepdims=True)
        count, length = change.shape[:2]
        hope = np.zeros((count, count), bool)
        least = _overlap(cells[0], cells[0], settings)
        reach = min(round(settings.shift_s * RATE), length - least)
        for offset in range(reach + 1):
            one = change[:, : length - offset].reshape(count, -1)
            two = change[:, offset:].reshape(count, -1)
            sizes = np.linalg.norm(one, axis=1)[:, None] * np.linalg.norm(two, axis=1)
            near = one @ two.T >= (settings.loop - 0.3) * np.maximum(sizes, 1e-3)
            hope |= near | near.T
        found.update((rows[i], rows[j]) for i, j in np.argwhere(~hope) if i < j)
    return found


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
