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
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Places = npt.NDArray[np.intp]

RATE = 4
CELLS = 8
WORDS = CELLS * CELLS // 8
# Pairs that are collected before they are compared; and compared together, so that they stay
# in the processor's cache.
BATCH, AT_ONCE = 1 << 18, 256


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


def pack_fingerprint(times: npt.NDArray[Any], thumbs: npt.NDArray[np.uint8]) -> list[int]:
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
    found: list[int] = np.round(cells).astype(np.uint8).reshape(-1).view(np.uint64).tolist()
    return found


def unpack_fingerprint(words: Sequence[int] | npt.NDArray[np.uint64]) -> Floats:
    """Cells over time, float32 [T, 64], of a fingerprint."""
    return np.asarray(words, np.uint64).view(np.uint8).reshape(-1, CELLS**2).astype(np.float32)


@dataclass(frozen=True)
class Prints:
    """Fingerprints of N clips, ready to be compared.

    cells: uint8 [R, 64], all clips' samples one after another; lengths: samples of each [N];
    means: float32 [N, 64], unit vectors of the mean pictures (see `mean_pictures`); owners: a number
    for the source of each [N]; places: where each stands in the caller's order [N].
    """

    cells: npt.NDArray[np.uint8]
    lengths: npt.NDArray[np.int64]
    means: Floats
    owners: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]

    def series(self, clips: npt.NDArray[np.intp]) -> Floats:
        """Cells over time [P, T, 64] of clips of one length."""
        firsts = self._firsts[clips][:, None] + np.arange(self.lengths[clips[0]])
        return self.cells[firsts].astype(np.float32)

    @cached_property
    def _firsts(self) -> npt.NDArray[np.int64]:
        return np.cumsum(self.lengths) - self.lengths


def gather_prints(
    words: npt.NDArray[np.uint64],
    counts: npt.NDArray[np.integer[Any]],
    owners: npt.NDArray[np.integer[Any]],
    first: int = 0,
) -> Prints:
    """Prints of clips whose words stand one after another, `counts` of them each.

    Clips without words match nothing and are left out. first: place of the first clip.
    """
    known = np.flatnonzero(counts)
    lengths = counts[known].astype(np.int64) // WORDS
    cells = np.ascontiguousarray(words, np.uint64).view(np.uint8).reshape(-1, CELLS**2)
    if not len(known):
        means = np.empty((0, CELLS**2), np.float32)
    else:
        sums = np.add.reduceat(cells, np.cumsum(lengths) - lengths, axis=0, dtype=np.uint32)
        means = mean_pictures((sums / lengths[:, None]).astype(np.float32))
    return Prints(cells, lengths, means, owners[known].astype(np.int64), known + first)


def compare_prints(
    one: Prints, other: Prints | None = None, settings: DedupSettings | None = None
) -> npt.NDArray[np.int64]:
    """Places (i, j) of the pairs of the same footage [P, 2], sorted; within one set i < j.

    other: the set to compare with; None compares `one` with itself. Every pair is looked at.
    """
    settings = settings or DedupSettings()
    two = one if other is None else other
    found: list[npt.NDArray[np.int64]] = [np.empty((0, 2), np.int64)]
    for i, j in _candidates(one.means, two.means, settings.candidate, within=other is None):
        for some in _of_equal_lengths(one.lengths[i], two.lengths[j]):
            left, right = i[some], j[some]
            agree = _same(
                one.series(left), two.series(right), one.owners[left] == two.owners[right], settings
            )
            found.append(np.stack([one.places[left[agree]], two.places[right[agree]]], axis=1))
    result = np.concatenate(found)
    return result[np.lexsort((result[:, 1], result[:, 0]))]


def duplicate_pairs(
    fingerprints: Sequence[npt.NDArray[np.uint64] | None],
    sources: Sequence[str] | None = None,
    settings: DedupSettings | None = None,
) -> list[tuple[int, int]]:
    """All pairs (i, j), i < j, of the same footage; null and empty fingerprints match nothing.

    sources: what each clip was cut from. Clips of one source show other moments of it, so they
    must agree as frames that are shown again do. None: each clip has a source of its own.
    For sets that do not fit into memory see `curate.dedup_blocks`.
    """
    if not fingerprints:
        return []
    prints = [np.asarray([] if w is None else w, np.uint64) for w in fingerprints]
    owners = np.arange(len(prints))
    if sources is not None:
        owners = np.unique(np.asarray(sources), return_inverse=True)[1]
    counts = np.array([len(words) for words in prints])
    found = compare_prints(gather_prints(np.concatenate(prints), counts, owners), settings=settings)
    return [(i, j) for i, j in found.tolist()]


def same_footage(
    a: Floats, b: Floats, settings: DedupSettings | None = None, *, one_source: bool = False
) -> bool:
    """Whether two series of cells [T, 64] show the same footage at some offset.

    one_source: they are different spans of one source.
    """
    owner = np.array([one_source])
    return bool(_same(a[None], b[None], owner, settings or DedupSettings())[0])


def _same(a: Floats, b: Floats, one_source: Bools, settings: DedupSettings) -> Bools:
    """`same_footage` for many pairs at once: a [P, T, 64], b [P, U, 64], one_source [P]."""
    mean_a, mean_b = a.mean(axis=1), b.mean(axis=1)
    still = np.maximum(_power(a), _power(b)) <= settings.still**2
    # Nothing moves: of two files it is the same still, of one source the same moment never.
    likeness = (mean_pictures(mean_a) * mean_pictures(mean_b)).sum(axis=-1)
    result: Bools = still & ~one_source & (likeness >= settings.picture)
    least = np.where(one_source, settings.loop, settings.motion).astype(np.float32)
    moving = np.flatnonzero(~still)
    moving = moving[_hopeful(a[moving], b[moving], least[moving], settings)]
    result[moving] = _agree(a[moving], b[moving], least[moving], settings)
    return result


def _agree(a: Floats, b: Floats, least: Floats, settings: DedupSettings) -> Bools:
    """Whether at some offset both the mean pictures and their changes agree.

    Changes do not agree where one of the two does not move over the time that both show. The
    pictures may differ by the variance of a mean that comes from taking few samples of what
    moves, as a share of the picture's own.
    """
    result = np.zeros(len(a), bool)
    centre_a, centre_b = a.mean(axis=1), b.mean(axis=1)
    # Steps between samples: the two clips were not sampled at the same instants.
    a, fine = a - centre_a[:, None], _doubled(_doubled(b - centre_b[:, None]))
    reach = round(settings.shift_s * RATE * 4)
    for offset in range(-reach, reach + 1):
        whole, part = divmod(offset, 4)
        other = fine[:, part::4]
        start, stop = max(0, -whole), min(a.shape[1], other.shape[1] - whole)
        if (count := stop - start) < _overlap(a, b, settings):
            continue
        one, two = a[:, start:stop], other[:, start + whole : stop + whole]
        mean_one, mean_two = np.add.reduce(one, 1) / count, np.add.reduce(two, 1) / count
        power_one = _covariance(one, one, mean_one, mean_one)
        power_two = _covariance(two, two, mean_two, mean_two)
        product = _covariance(one, two, mean_one, mean_two)
        # Steps between smooth rounding away: half the power of what is called still.
        moves = np.minimum(power_one, power_two) > settings.still**2 / 2
        near = moves & (product >= least * np.sqrt(np.maximum(power_one * power_two, 0)))
        if not near.any():
            continue
        mean_one, mean_two = (mean_one + centre_a)[near], (mean_two + centre_b)[near]
        likeness = (mean_pictures(mean_one) * mean_pictures(mean_two)).sum(axis=-1)
        contrast = mean_one.var(axis=1) + mean_two.var(axis=1)
        doubt = (power_one + power_two)[near] / np.maximum(contrast, 1e-6) / count
        result[near] |= likeness >= np.maximum(settings.candidate, settings.picture - doubt)
    return result


def mean_pictures(cells: Floats) -> Floats:
    """Mean pictures [..., 64] as unit vectors whose product is their correlation.

    Photographs have power at all scales falling as 1 / frequency; weighting by frequency undoes
    it, so that the few largest shapes do not make all pictures alike. Brightness and contrast
    drop out.
    """
    waves = (cells @ _COSINES.T) * _WEIGHTS
    found: Floats = waves / np.maximum(np.linalg.norm(waves, axis=-1, keepdims=True), 1e-6)
    return found


def _covariance(one: Floats, two: Floats, mean_one: Floats, mean_two: Floats) -> Floats:
    """Of two series [P, T, 64] of the same length over time, averaged over cells: [P]."""
    products = np.einsum("ptc,ptc->p", one, two) / one.shape[1]
    found: Floats = (products - np.einsum("pc,pc->p", mean_one, mean_two)) / one.shape[2]
    return found


def _power(cells: Floats) -> Floats:
    """Mean square of how cells [P, T, 64] change over time."""
    found: Floats = cells.var(axis=1).mean(axis=-1)
    return found


def _overlap(a: Floats, b: Floats, settings: DedupSettings) -> int:
    """Samples that both must show: a second tells movements apart, half of one does not."""
    shorter = min(a.shape[1], b.shape[1])
    count: int = max(2, min(RATE, shorter), int(settings.overlap * shorter))
    return count


def _hopeful(a: Floats, b: Floats, least: Floats, settings: DedupSettings) -> Bools:
    """Whether some offset comes near the wanted correlation of changes: one product for all."""
    result = np.zeros(len(a), bool)
    one, two = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    product = one @ two.transpose(0, 2, 1)
    total_one, total_two = (
        np.pad(np.einsum("ptc,ptc->pt", x, x).cumsum(axis=1), ((0, 0), (1, 0))) for x in (one, two)
    )
    reach = round(settings.shift_s * RATE)
    for offset in range(-reach, reach + 1):
        start, stop = max(0, -offset), min(a.shape[1], b.shape[1] - offset)
        if stop - start >= _overlap(a, b, settings):
            power = (total_one[:, stop] - total_one[:, start]) * (
                total_two[:, stop + offset] - total_two[:, start + offset]
            )
            agreement = np.trace(product, offset, axis1=1, axis2=2)
            result |= agreement >= (least - 0.3) * np.sqrt(np.maximum(power, 1e-6))
    return result


def _candidates(
    one: Floats, two: Floats, least: float, *, within: bool, block: int = 512
) -> Iterator[tuple[Places, Places]]:
    """Batches of pairs of unit vectors whose product is at least `least`.

    Every pair is looked at; within one set, i < j only. A batch is large enough to hold many
    pairs of equal lengths.
    """
    waiting: list[tuple[Places, Places]] = []
    for top in range(0, len(one), block):
        rows = one[top : top + block]
        for left in range(top if within else 0, len(two), 4 * block):
            product = rows @ two[left : left + 4 * block].T
            i, j = np.divmod(np.flatnonzero(product >= least), product.shape[1])
            if within:
                ordered = top + i < left + j
                i, j = i[ordered], j[ordered]
            if len(i):
                waiting.append((top + i, left + j))
        if sum(len(i) for i, _ in waiting) >= BATCH:
            yield np.concatenate([i for i, _ in waiting]), np.concatenate([j for _, j in waiting])
            waiting = []
    if waiting:
        yield np.concatenate([i for i, _ in waiting]), np.concatenate([j for _, j in waiting])


def _of_equal_lengths(one: Places, two: Places) -> Iterator[Places]:
    """Which pairs have the same two lengths, at most AT_ONCE at a time."""
    order = np.lexsort((two, one))
    ends = np.flatnonzero(np.diff(one[order]) | np.diff(two[order])) + 1
    for group in np.split(order, ends):
        for first in range(0, len(group), AT_ONCE):
            yield group[first : first + AT_ONCE]


def _doubled(cells: Floats) -> Floats:
    """[P, T, 64] with the mean of each two neighbours between them."""
    result = np.empty((len(cells), 2 * cells.shape[1] - 1, cells.shape[2]), np.float32)
    result[:, ::2] = cells
    result[:, 1::2] = (cells[:, 1:] + cells[:, :-1]) / 2
    return result


def _waves() -> tuple[Floats, Floats]:
    """The 64 cosines of an 8 x 8 picture [64, 64] (DCT-II), and the frequency of each."""
    index = np.arange(CELLS)
    rows = np.cos(np.pi * index[:, None] * (index + 0.5) / CELLS)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    frequency = np.hypot(*np.mgrid[:CELLS, :CELLS]).ravel()
    return np.kron(rows, rows).astype(np.float32), frequency.astype(np.float32)


_COSINES, _WEIGHTS = _waves()
