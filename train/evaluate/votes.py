"""Results of votes and repeated scores: strengths of systems, and agreement of raters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from realdpo.train.evaluate.statistics import Interval


def bradley_terry(wins: np.ndarray, *, prior: float = 0.5) -> np.ndarray:
    """Bradley-Terry strengths [systems], log scale, mean zero, from wins[i, j] = times i beat j.

    A tie counts as half a win each way. `prior` virtual votes go to every pair that was compared,
    so a system that never lost has a finite strength. 0 gives the maximum likelihood. Fitted by
    Hunter's (2004) MM iteration.
    """
    wins = np.asarray(wins, np.float64).copy()
    np.fill_diagonal(wins, 0)
    games = wins + wins.T
    wins += np.where(games > 0, prior / 2, 0.0)
    games = wins + wins.T
    won = wins.sum(axis=1)
    strength = np.ones(len(wins))
    for _ in range(2000):
        rate = (games / (strength[:, None] + strength[None, :])).sum(axis=1)
        updated = np.where(rate > 0, won / np.maximum(rate, 1e-300), 1.0)
        updated = np.maximum(updated, 1e-12)
        updated /= np.exp(np.log(updated).mean())
        done = np.abs(np.log(updated / strength)).max() < 1e-10
        strength = updated
        if done:
            break
    return np.log(strength)


def bradley_terry_intervals(
    votes: Sequence[tuple[str, str, int, int, float]],
    systems: int,
    *,
    level: float = 0.95,
    draws: int = 500,
    seed: int = 0,
) -> list[Interval]:
    """Strengths with intervals from votes (rater, prompt, i, j, score of i in {0, 0.5, 1}).

    Raters and prompts are both samples from larger groups, and votes of one rater (or on one
    prompt) are alike. So both are resampled at once (Owen 2007, the pigeonhole bootstrap), which
    tends to give wide intervals.
    """
    if not votes:
        return [Interval(0.0, -math.inf, math.inf)] * systems
    raters = {name: k for k, name in enumerate(sorted({v[0] for v in votes}))}
    prompts = {name: k for k, name in enumerate(sorted({v[1] for v in votes}))}
    rater = np.array([raters[v[0]] for v in votes])
    prompt = np.array([prompts[v[1]] for v in votes])
    first, second = np.array([v[2] for v in votes]), np.array([v[3] for v in votes])
    score = np.array([v[4] for v in votes], np.float64)

    def fit(weight: np.ndarray) -> np.ndarray:
        wins = np.zeros((systems, systems))
        np.add.at(wins, (first, second), weight * score)
        np.add.at(wins, (second, first), weight * (1 - score))
        return bradley_terry(wins)

    estimate = fit(np.ones(len(votes)))
    rng = np.random.default_rng(seed)
    sampled = []
    for _ in range(draws):
        weight = np.ones(len(votes))
        for groups, index in ((len(raters), rater), (len(prompts), prompt)):
            # A single rater cannot be resampled. The interval is then about that rater only.
            if groups > 1:
                weight *= rng.multinomial(groups, [1 / groups] * groups)[index]
        if weight.sum() > 0:
            sampled.append(fit(weight))
    low, high = np.quantile(np.array(sampled), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return [Interval(*map(float, ends)) for ends in zip(estimate, low, high, strict=True)]


def krippendorff_alpha(
    ratings: np.ndarray, *, distance: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
) -> float:
    """Krippendorff's alpha of ratings[rater, item]; NaN where a rater did not rate.

    `distance` is the squared difference of two values. By default it is 1 if they differ (nominal);
    for scores, use `interval_distance`. 1 is perfect agreement, and 0 is agreement by chance. NaN
    if no item was rated twice or all ratings have the same value (agreement is then undefined).
    """
    ratings = np.asarray(ratings, np.float64)
    metric = distance or (lambda a, b: (a != b).astype(np.float64))
    columns = [column[~np.isnan(column)] for column in ratings.T]
    columns = [column for column in columns if len(column) > 1]
    if not columns:
        return math.nan
    everything = np.concatenate(columns)
    n = len(everything)
    observed = sum(
        float(metric(column[:, None], column[None, :]).sum()) / (len(column) - 1)
        for column in columns
    )
    values, counts = np.unique(everything, return_counts=True)
    expected = float(
        (counts[:, None] * counts[None, :] * metric(values[:, None], values[None, :])).sum()
    ) / (n - 1)
    return 1 - observed / expected if expected > 0 else math.nan


def interval_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared difference, for `krippendorff_alpha` on scores."""
    values: np.ndarray = (a - b) ** 2
    return values
