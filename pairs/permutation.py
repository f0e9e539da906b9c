"""Could the sides of pairs differ by chance alone? A test without assumptions about features.

If winners and losers were prepared and drawn alike, any of the 1 + N videos of a pair could equally
be its winner. So the test names another winner in every pair, over and over. It counts how often
the clearest feature then differs as much as it does for the real winners. With one loser, this is
the sign-flip test. The largest of all features is compared with the largest of all, so testing many
features needs no further correction (Westfall and Young 1993, single-step max-T).

If clips differ in content, several features weighed against each other can find what no feature
finds alone. So the test also takes Hotelling's T^2 with a ridge, over the same ways of naming
winners, and compares the smallest of the p-values with the smallest each time (min-p, as in the
same book).

Take a set of pairs whose sides are alike. The chance that any of its p-values is at most alpha is
at most alpha, for any number of pairs and for any distribution and dependence of the features. The
only condition is that the winner's place within a pair is as good as drawn, independently from pair
to pair. Pairs are exchanged, not clips, so clips of one film may resemble each other in any way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

ALPHA = 0.05
"""Chance of a false finding, over all features together."""

_ENUMERATED = 4096  # up to this many ways to name the winners are enumerated
_SAMPLED = (
    1999  # if there are more, this many are drawn; with the real one, p is a multiple of 1/2000
)
_BLOCK = 256  # ways at a time, to bound the memory
_LOUD = 2.0  # larger multiples of a feature's median difference count as this one
_RIDGE = 0.1  # share of a feature's variance; chosen on other films than those in docs/pairs.md
_STEADY, _STEADY_SHARE = 0.25, 0.5  # spread of a steady feature: at most this, and of its mean


@dataclass(frozen=True)
class PermutationResult:
    """p: of each feature [K], corrected for their number. smallest: the smallest possible p.

    exact: every way to name the winners was enumerated, and none drawn. together: p of each group
    of features weighed against each other, with the same correction; 1 if there are too few pairs.
    """

    p: Floats
    smallest: float
    exact: bool
    together: tuple[float, ...] = ()

    @property
    def can_tell(self) -> bool:
        """Whether there are enough pairs for a finding, if the difference is as clear as can be."""
        return self.smallest <= ALPHA


def compare_sides(
    values: Sequence[Floats],
    tolerance: Floats,
    steady: Sequence[int] = (),
    level: float = 0.0,
    seed: int = 0,
    groups: Sequence[Sequence[int]] = (),
) -> PermutationResult:
    """How surely each feature tells winners from losers.

    values: [1 + N, K] of each pair, with the winner first; N may vary. tolerance [K]: differences
    up to it count as none. steady: features that count only if all pairs differ by the same amount
    of at least `level`, give or take a quarter (their values are logarithms: one ratio for all
    pairs). Other differences in them are ignored. groups: features that are also weighed against
    each other, if there are too many ways to enumerate. With fewer ways, the p-values are too
    coarse for taking the smallest. Deterministic for a seed.
    """
    import numpy as np

    apart = [_against_others(v, tolerance) for v in values]
    sizes = np.array([len(a) for a in apart])
    bound = _bound(values, tolerance)
    rows = np.concatenate([np.clip(a, -bound, bound).mean(axis=1) for a in apart])
    raw = np.concatenate([_mean_gaps(v) for v in values])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    variance = np.add.reduceat(rows**2, starts, axis=0) / sizes[:, None]
    scale = np.sqrt(variance.sum(axis=0))
    scale[scale == 0] = 1.0
    exact = math.prod(int(n) for n in sizes) <= _ENUMERATED
    wide = np.concatenate([np.clip(a, -3 * bound, 3 * bound).mean(axis=1) for a in apart])
    turned = [] if exact else [_whitened(wide, values, tolerance, list(g)) for g in groups]
    squares: list[list[Floats]] = [[] for _ in turned]
    loudest, observed = [], None
    for chosen in _ways(sizes, starts, exact, seed):
        loud = np.abs(chosen @ rows) / scale
        for k in steady:
            loud[:, k] *= _is_steady(chosen, raw[:, k], len(sizes), level)
        if observed is None:
            observed = loud[0]  # the first way is the real one
        loudest.append(loud.max(axis=1))
        for square, directions in zip(squares, turned, strict=True):
            square.append(((chosen @ directions) ** 2).sum(axis=1))
    assert observed is not None
    most = np.concatenate(loudest)
    p = _share_as_large(most, observed)
    together = [1.0] * len(groups)
    if turned:
        shares = [_share_as_large(s, s) for s in map(np.concatenate, squares)]
        least = np.min([_share_as_large(most, most), *shares], axis=0)
        # the share of ways whose smallest p-value is as small
        p = _share_as_large(-least, -p)
        together = [float(_share_as_large(-least, -share[:1])[0]) for share in shares]
    smallest = _smallest([int(n) for n in sizes])
    return PermutationResult(p, smallest, exact, tuple(together))


def _share_as_large(values: Floats, these: Floats) -> Floats:
    """The share of `values` that is as large as each of `these`, up to rounding."""
    import numpy as np

    least = these - 1e-9 * np.abs(these) - 1e-12
    smaller = np.searchsorted(np.sort(values), least, side="left")
    return (len(values) - smaller) / len(values)


def _whitened(
    rows: Floats, values: Sequence[Floats], tolerance: Floats, group: list[int]
) -> Floats:
    """A group's features, transformed into directions of equal spread.

    A direction in which clips differ by content counts little, and one in which they are alike
    counts much. The spread is taken half within pairs and half over all videos, with a ridge. None
    of it depends on who is named the winner, so the test stays exact.
    """
    import numpy as np

    within = rows[:, group] / _size(rows[:, group])
    every = np.concatenate([v[:, group] for v in values]) / tolerance[group]
    every = every - every.mean(axis=0)
    between = np.clip(every / _size(every), -3, 3)
    spread = (within.T @ within / len(within) + between.T @ between / len(between)) / 2
    sizes, directions = np.linalg.eigh(spread + _RIDGE * np.eye(len(group)))
    turned: Floats = within @ directions / np.sqrt(sizes)
    return turned


def _size(rows: Floats) -> Floats:
    """The root mean square of each column, or 1 for a column of zeros."""
    import numpy as np

    size: Floats = np.sqrt((rows**2).mean(axis=0))
    return np.where(size > 0, size, 1.0)


def pairs_needed(losers: int) -> int:
    """The fewest pairs, with that many losers each, that can lead to a finding."""
    return next(n for n in range(1, 99) if _smallest([1 + losers] * n) <= ALPHA)


def _smallest(sizes: Sequence[int]) -> float:
    """The smallest possible p-value: one way among all, or two if the sides are mirrored."""
    ways = math.prod(sizes)
    mirrored = 2 if all(n == 2 for n in sizes) else 1
    return max(mirrored / ways, 1 / (_SAMPLED + 1) if ways > _ENUMERATED else 0.0)


def _against_others(values: Floats, tolerance: Floats) -> Floats:
    """Each video minus each other one, beyond the tolerance and in units of it: [1 + N, N, K]."""
    import numpy as np

    gaps = (values[:, None] - values[None]) / tolerance
    beyond = np.sign(gaps) * np.maximum(0.0, np.abs(gaps) - 1)
    others = ~np.eye(len(values), dtype=bool)
    found: Floats = beyond[others].reshape(len(values), len(values) - 1, -1)
    return found


def _bound(values: Sequence[Floats], tolerance: Floats) -> Floats:
    """The largest difference that counts, by feature, so that one odd pair cannot drown the others.

    It is taken from all videos of each pair, so it does not depend on who is named the winner.
    """
    import numpy as np

    every = np.abs(
        np.concatenate([_against_others(v, tolerance).reshape(-1, v.shape[1]) for v in values])
    )
    every = np.where(every > 0, every, np.nan)
    known = np.isfinite(every).any(axis=0)
    bound = np.ones(every.shape[1])
    bound[known] = _LOUD * np.nanmedian(every[:, known], axis=0)
    return bound


def _mean_gaps(values: Floats) -> Floats:
    """Each video minus the mean of the others: [1 + N, K]."""
    count = len(values)
    found: Floats = values - (values.sum(axis=0) - values) / (count - 1)
    return found


def _is_steady(chosen: Floats, gaps: Floats, pairs: int, level: float) -> npt.NDArray[np.bool_]:
    """Whether a feature's gaps are large and nearly the same for all pairs, for each way [B]."""
    import numpy as np

    mean = chosen @ gaps / pairs
    spread = np.sqrt(np.maximum(0.0, chosen @ gaps**2 / pairs - mean**2))
    size = np.abs(mean)
    return (size >= level) & (spread <= np.minimum(_STEADY, _STEADY_SHARE * size))


def _ways(
    sizes: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], exact: bool, seed: int
) -> Iterator[Floats]:
    """The ways to name the winners, the real one first, as blocks of 0/1 [B, videos]."""
    import numpy as np

    random = np.random.default_rng(seed)
    total = math.prod(sizes.tolist()) if exact else 1 + _SAMPLED
    for start in range(0, total, _BLOCK):
        numbers = np.arange(start, min(start + _BLOCK, total))
        if exact:
            ways = np.stack(np.unravel_index(numbers, tuple(sizes)), axis=1)
        else:
            ways = random.integers(0, sizes, (len(numbers), len(sizes)))
            ways[numbers == 0] = 0
        chosen = np.zeros((len(ways), int(sizes.sum())))
        np.put_along_axis(chosen, ways + starts, 1.0, axis=1)
        yield chosen
