"""Evidence from paired measurements: intervals, tests, corrections, sample sizes.

The unit of inference is the prompt. Seeds are nested in prompts, so the seeds of one prompt are
averaged first. A model that is lucky with one prompt is lucky with all its seeds. If videos were
treated as independent, every interval would be too narrow.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.special import stdtrit  # quantile of Student's t

_NORMAL = NormalDist()
_EXACT_FLIPS = 14  # up to 2**14 sign patterns are enumerated; more are sampled


@dataclass(frozen=True)
class Interval:
    """An estimate with the two ends of its confidence interval."""

    estimate: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Comparison:
    """One metric of one system against the base, over `prompts` prompts."""

    difference: Interval
    win_rate: Interval
    wins: int
    ties: int
    losses: int
    p_sign: float
    p_flip: float
    p_adjusted: float
    prompts: int
    prompts_needed: int | None
    verdict: str


def over_seeds(values: np.ndarray) -> np.ndarray:
    """Mean over seeds of an array [prompts, seeds]. NaN (not measured) is left out.

    A prompt without any measured seed gives NaN.
    """
    values = np.atleast_2d(np.asarray(values, dtype=np.float64))
    counts = (~np.isnan(values)).sum(axis=1)
    return np.where(counts > 0, np.nansum(values, axis=1) / np.maximum(counts, 1), np.nan)


def paired_differences(system: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Per-prompt differences [prompts] of two arrays [prompts, seeds], paired by seed.

    A seed counts only if both systems were measured. Prompts without such a seed are left out.
    """
    difference = over_seeds(np.asarray(system, np.float64) - np.asarray(base, np.float64))
    values: np.ndarray = difference[~np.isnan(difference)]
    return values


def bootstrap_interval(
    values: np.ndarray, *, level: float = 0.95, draws: int = 4000, seed: int = 0
) -> Interval:
    """Bootstrap interval of the mean of per-prompt values [prompts]: BCa, widened for few prompts.

    BCa (Efron 1987) corrects the percentile interval for bias and skewness. With few prompts it is
    still too narrow, because the bootstrap's variance is (n-1)/n of the unbiased one and its tails
    are the normal's, not Student's. Hesterberg (2015, What teachers should know about the
    bootstrap, 3.4) widens the quantile levels by that factor. tests/evaluate measures the coverage
    of both. Two values or fewer that differ give an infinite interval, not one that is falsely
    tight.
    """
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if n == 0:
        return Interval(math.nan, -math.inf, math.inf)
    mean = float(values.mean())
    if n < 3:
        return Interval(mean, -math.inf, math.inf)
    if np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())):
        return Interval(mean, mean, mean)
    rng = np.random.default_rng(seed)
    means = np.sort(_resampled_means(values, draws, rng))

    tail = _widened_tail(n, level)
    below = ((means < mean).sum() + 0.5 * (means == mean).sum()) / draws
    bias = _NORMAL.inv_cdf(min(max(float(below), 0.5 / draws), 1 - 0.5 / draws))
    centred = mean - (values.sum() - values) / (n - 1)  # jackknife
    spread = float((centred**2).sum())
    acceleration = float((centred**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0

    def end(z: float) -> float:
        shifted = bias + z
        level_ = _NORMAL.cdf(bias + shifted / (1 - acceleration * shifted))
        return float(np.quantile(means, level_))

    z = _NORMAL.inv_cdf(tail)
    return Interval(mean, end(z), end(-z))


def _resampled_means(values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    n = len(values)
    rows = max(1, 2_000_000 // n)  # bounds memory for many prompts
    parts = []
    for start in range(0, draws, rows):
        index = rng.integers(0, n, size=(min(rows, draws - start), n))
        parts.append(values[index].mean(axis=1))
    return np.concatenate(parts)


def _widened_tail(n: int, level: float) -> float:
    """Tail probability whose normal quantile equals sqrt(n/(n-1)) times Student's t quantile."""
    return _NORMAL.cdf(math.sqrt(n / (n - 1)) * float(stdtrit(n - 1, (1 - level) / 2)))


def sign_test(differences: np.ndarray) -> float:
    """Two-sided exact sign test. Zeros (ties) are left out. 1.0 if nothing remains."""
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    n = wins + losses
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n
    value: float = min(1.0, 2 * tail)
    return value


def flip_test(differences: np.ndarray, *, draws: int = 20_000, seed: int = 0) -> float:
    """Two-sided randomisation test of a zero mean: without an effect, each sign is a coin toss.

    Exact (all 2**n sign patterns) up to 14 prompts. Beyond, patterns are sampled, and the observed
    one is counted in, so p is never 0. The test uses the sizes of the differences, which the sign
    test ignores, and does not assume a normal distribution.
    """
    differences = np.asarray(differences, np.float64)
    differences = differences[differences != 0]
    n = len(differences)
    if n == 0:
        return 1.0
    observed = abs(differences.sum()) * (1 - 1e-12)
    if n <= _EXACT_FLIPS:
        return float((np.abs(_all_signs(n) @ differences) >= observed).mean())
    rng = np.random.default_rng(seed)
    hits, left = 1, draws
    while left:
        rows = min(left, max(1, 4_000_000 // n))
        signs = rng.integers(0, 2, size=(rows, n), dtype=np.int8) * 2.0 - 1.0
        hits += int((np.abs(signs @ differences) >= observed).sum())
        left -= rows
    return hits / (draws + 1)


@functools.lru_cache(maxsize=4)
def _all_signs(n: int) -> np.ndarray:
    return 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values: family-wise error under any dependence between metrics."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def wilson_interval(wins: float, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share. `wins` may hold halves, because ties count one half."""
    if n == 0:
        return Interval(math.nan, 0.0, 1.0)
    z = _NORMAL.inv_cdf(0.5 + level / 2)
    share = wins / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def prompts_needed(
    differences: np.ndarray, *, alpha: float = 0.05, power: float = 0.8
) -> int | None:
    """The number of prompts that would show an effect of the observed size with the wanted power.

    n = (z_alpha/2 + z_power)^2 (sd/mean)^2 + z_alpha/2^2 / 2 (Guenther 1981, for the t test).
    None if the observed mean is zero or the spread is unknown, because no number is enough.
    """
    if len(differences) < 2:
        return None
    mean, spread = float(np.mean(differences)), float(np.std(differences, ddof=1))
    if abs(mean) < 1e-12 * max(spread, 1e-300) or mean == 0:
        return None
    z = _NORMAL.inv_cdf(1 - alpha / 2)
    n = (z + _NORMAL.inv_cdf(power)) ** 2 * (spread / mean) ** 2 + z * z / 2
    return max(2, math.ceil(n)) if n < 1e9 else None


def compare_systems(
    pairs: Sequence[tuple[str, np.ndarray, int]],
    *,
    alpha: float = 0.05,
    draws: int = 4000,
    seed: int = 0,
) -> list[Comparison]:
    """Compare one or more (name, per-prompt differences, direction) as one family of tests.

    `direction` is +1 if more is better, -1 if less is better, and 0 if the metric only describes
    (amount of motion). Verdicts follow the Holm-adjusted randomisation test: "better", "worse"
    ("more", "less" for direction 0), else "no evidence". The number of prompts needed refers to the
    level that the correction leaves in the worst case (alpha / number of tests).
    """
    flips = [flip_test(d, seed=seed) for _, d, _ in pairs]
    adjusted = holm_adjusted(flips)
    results = []
    for (_, differences, direction), p_flip, p_adjusted in zip(pairs, flips, adjusted, strict=True):
        n = len(differences)
        sign = -1 if direction < 0 else 1
        wins = int((sign * differences > 0).sum())
        losses = int((sign * differences < 0).sum())
        difference = bootstrap_interval(differences, level=1 - alpha, draws=draws, seed=seed)
        results.append(
            Comparison(
                difference=difference,
                win_rate=wilson_interval(wins + (n - wins - losses) / 2, n, 1 - alpha),
                wins=wins,
                ties=n - wins - losses,
                losses=losses,
                p_sign=sign_test(differences),
                p_flip=p_flip,
                p_adjusted=p_adjusted,
                prompts=n,
                prompts_needed=prompts_needed(differences, alpha=alpha / len(pairs)),
                verdict=_verdict(difference.estimate, p_adjusted, direction, alpha),
            )
        )
    return results


def _verdict(mean: float, p_adjusted: float, direction: int, alpha: float) -> str:
    if not p_adjusted <= alpha or mean == 0 or math.isnan(mean):
        return "no evidence"
    if direction == 0:
        return "more" if mean > 0 else "less"
    return "better" if mean * direction > 0 else "worse"
