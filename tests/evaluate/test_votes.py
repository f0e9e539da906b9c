"""Strengths and agreement: closed forms, published worked examples, simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

from realdpo.train.evaluate import votes


def test_bradley_terry_recovers_the_truth_and_the_two_system_closed_form():
    # Two systems without prior: the log odds of the win share.
    strengths = votes.bradley_terry(np.array([[0, 30.0], [10, 0]]), prior=0)
    assert strengths[0] - strengths[1] == pytest.approx(math.log(3), abs=1e-6)
    truth = np.array([1.0, 0.2, -0.4, -0.8])
    share = 1 / (1 + np.exp(truth[None, :] - truth[:, None]))
    np.testing.assert_allclose(votes.bradley_terry(share * 1e6, prior=0), truth, atol=1e-5)


def test_a_system_that_never_lost_has_a_finite_strength():
    strengths = votes.bradley_terry(np.array([[0, 20.0], [0, 0]]))
    assert strengths[0] - strengths[1] == pytest.approx(math.log(20.25 / 0.25), abs=1e-6)


@pytest.mark.slow
def test_bradley_terry_intervals_cover_the_truth_with_raters_who_differ():
    rng = np.random.default_rng(7)
    truth = np.array([0.4, 0.0, -0.4])
    covered = trials = 0
    for trial in range(40):
        cast = []
        taste = rng.normal(0, 0.3, size=(10, 3))
        for rater in range(10):
            for prompt in range(12):
                for i, j in ((0, 1), (0, 2), (1, 2)):
                    gap = truth[i] - truth[j] + taste[rater, i] - taste[rater, j]
                    win = rng.random() < 1 / (1 + math.exp(-gap))
                    cast.append((str(rater), str(prompt), i, j, float(win)))
        intervals = votes.bradley_terry_intervals(cast, 3, draws=80, seed=trial)
        covered += sum(i.low <= t <= i.high for i, t in zip(intervals, truth, strict=True))
        trials += 3
    assert covered / trials >= 0.90


def test_krippendorff_worked_example():
    """Four observers, twelve units, gaps (Krippendorff 2011): nominal .743, interval .849."""
    n = np.nan
    ratings = np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, n, n, n],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, n, 3],
            [n, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, n],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, n],
        ]
    )
    assert votes.krippendorff_alpha(ratings) == pytest.approx(0.743, abs=5e-4)
    interval = votes.krippendorff_alpha(ratings, distance=votes.interval_distance)
    assert interval == pytest.approx(0.849, abs=5e-4)
    assert math.isnan(votes.krippendorff_alpha(np.array([[1.0, n], [n, 2.0]])))
