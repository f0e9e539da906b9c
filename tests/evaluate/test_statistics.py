"""Statistics of evaluations: closed forms, scipy, published worked examples, simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from realdpo.train.evaluate import statistics as st


def test_seeds_are_averaged_within_prompts_and_gaps_are_left_out():
    values = np.array([[1.0, 3.0], [np.nan, 4.0], [np.nan, np.nan]])
    np.testing.assert_array_equal(st.over_seeds(values), [2.0, 4.0, np.nan])
    # Only the second seed of the first prompt was measured for both.
    system = np.array([[np.nan, 5.0], [1.0, 1.0]])
    base = np.array([[9.0, 2.0], [0.0, 2.0]])
    np.testing.assert_allclose(st.paired_differences(system, base), [3.0, 0.0])


def test_interval_equals_scipys_bca_when_prompts_are_many():
    values = np.random.default_rng(1).gamma(2.0, size=300)
    ours = st.bootstrap_interval(values, draws=20_000)
    scipys = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(2)
    ).confidence_interval
    width = scipys.high - scipys.low
    assert ours.estimate == pytest.approx(values.mean())
    assert ours.low == pytest.approx(scipys.low, abs=0.05 * width)
    assert ours.high == pytest.approx(scipys.high, abs=0.05 * width)


def test_interval_equals_scipys_bca_when_prompts_are_few_and_skewed(monkeypatch):
    """Bias and acceleration both count here; only our widening is put aside."""
    monkeypatch.setattr(st, "_widened_tail", lambda n, level: (1 - level) / 2)
    values = np.random.default_rng(8).exponential(size=12) ** 2
    ours = st.bootstrap_interval(values, draws=200_000)
    scipys = stats.bootstrap(
        (values,), np.mean, n_resamples=200_000, method="BCa", rng=np.random.default_rng(2)
    ).confidence_interval
    width = scipys.high - scipys.low
    assert ours.low == pytest.approx(scipys.low, abs=0.03 * width)
    assert ours.high == pytest.approx(scipys.high, abs=0.03 * width)


def test_interval_of_symmetric_few_prompts_is_students():
    values = np.array([-3.0, -2, -1, -0.5, 0.5, 1, 2, 3])
    ours = st.bootstrap_interval(values, draws=20_000)
    half = stats.t.ppf(0.975, 7) * values.std(ddof=1) / math.sqrt(8)
    assert ours.high == pytest.approx(half, rel=0.1)
    assert ours.low == pytest.approx(-half, rel=0.1)


def test_interval_degenerates_honestly():
    assert st.bootstrap_interval(np.full(5, 0.25)) == st.Interval(0.25, 0.25, 0.25)
    two = st.bootstrap_interval(np.array([1.0, 2.0]))
    assert (two.low, two.high) == (-math.inf, math.inf)
    assert math.isnan(st.bootstrap_interval(np.array([])).estimate)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["normal", "skewed"])
def test_intervals_cover_at_their_nominal_rate_with_18_prompts_and_3_seeds(shape):
    """Under no effect a 95 % interval holds zero 95 times in 100; independent videos would not."""
    rng = np.random.default_rng(0)
    trials, prompts, seeds = 800, 18, 3
    ours = naive = 0
    for trial in range(trials):
        if shape == "normal":
            effect = rng.normal(size=(prompts, 1))
        else:
            effect = rng.exponential(size=(prompts, 1)) - 1
        values = effect + 0.5 * rng.normal(size=(prompts, seeds))
        zero = np.zeros_like(values)
        interval = st.bootstrap_interval(
            st.paired_differences(values, zero), draws=1000, seed=trial
        )
        ours += interval.low <= 0 <= interval.high
        flat = st.bootstrap_interval(values.ravel(), draws=1000, seed=trial)
        naive += flat.low <= 0 <= flat.high
    low, high = {"normal": (0.93, 0.975), "skewed": (0.90, 0.97)}[shape]
    assert low <= ours / trials <= high
    assert naive / trials < 0.86  # the mistake that nesting avoids


def test_sign_test_is_scipys_binomial_test():
    for wins, losses, ties in [(14, 4, 0), (9, 9, 0), (3, 1, 5), (0, 6, 2)]:
        values = np.array([1.0] * wins + [-1.0] * losses + [0.0] * ties)
        expected = stats.binomtest(wins, wins + losses).pvalue
        assert st.sign_test(values) == pytest.approx(expected, rel=1e-12)
    assert st.sign_test(np.zeros(4)) == 1.0


def test_flip_test_is_scipys_permutation_test():
    rng = np.random.default_rng(3)
    values = rng.normal(0.4, 1.0, size=11)
    expected = stats.permutation_test(
        (values,), lambda x: x.mean(), permutation_type="samples", n_resamples=np.inf
    )
    # scipy permutes signs only for two samples: hand it the pairs.
    expected = stats.permutation_test(
        (values, np.zeros(11)),
        lambda x, y: np.mean(x - y),
        permutation_type="samples",
        n_resamples=np.inf,
    )
    assert st.flip_test(values) == pytest.approx(expected.pvalue, abs=1e-9)
    # n equal differences: only the two unanimous patterns are as extreme.
    assert st.flip_test(np.full(6, 2.0)) == pytest.approx(2 / 64)


def test_sampled_flip_test_agrees_with_the_t_test_for_many_prompts():
    values = np.random.default_rng(4).normal(0.25, 1.0, size=60)
    assert st.flip_test(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.02)
    assert st.flip_test(np.full(60, 1.0), draws=999) == pytest.approx(1 / 1000)


def test_holm_by_hand_and_its_order():
    # 4 x 0.005; 3 x 0.011 = 0.033; max(0.033, 2 x 0.02); max(0.04, 0.04)
    assert st.holm_adjusted([0.011, 0.02, 0.005, 0.04]) == pytest.approx([0.033, 0.04, 0.02, 0.04])
    assert st.holm_adjusted([0.9, 0.8]) == [1.0, 1.0]
    assert st.holm_adjusted([]) == []


@pytest.mark.slow
def test_verdicts_of_twelve_metrics_are_rarely_wrong_when_nothing_changed():
    """Family-wise error at most 5 % under no effect, though the metrics are correlated."""
    rng = np.random.default_rng(5)
    false_alarms = uncorrected = 0
    for trial in range(150):
        shared = rng.normal(size=(14, 1))
        values = 0.5 * shared + rng.normal(size=(14, 12))
        family = [(str(k), values[:, k], 1) for k in range(12)]
        results = st.compare_systems(family, draws=100, seed=trial)
        false_alarms += any(r.verdict != "no evidence" for r in results)
        uncorrected += any(r.p_flip <= 0.05 for r in results)
    assert false_alarms / 150 <= 0.10  # 0.05 and three standard errors
    assert uncorrected / 150 > 0.25


def test_wilson_is_scipys():
    for wins, n in [(14, 18), (0, 5), (5, 5), (50, 100)]:
        expected = stats.binomtest(wins, n).proportion_ci(method="wilson")
        ours = st.wilson_interval(wins, n)
        assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_prompts_needed_reaches_the_wanted_power():
    values = np.random.default_rng(6).normal(0.5, 1.0, size=40)
    n = st.prompts_needed(values)
    effect = values.mean() / values.std(ddof=1)

    def power(n):
        critical = stats.t.ppf(0.975, n - 1)
        tails = stats.nct(n - 1, effect * math.sqrt(n))
        return 1 - tails.cdf(critical) + tails.cdf(-critical)

    assert power(n) >= 0.795
    assert power(n - 2) < 0.80
    assert st.prompts_needed(np.array([1.0, -1.0])) is None


def test_verdict_respects_the_direction_of_the_metric():
    up = np.linspace(0.5, 1.5, 12)
    family = [("more_is_better", up, 1), ("less_is_better", up, -1), ("amount", up, 0)]
    better, worse, more = st.compare_systems(family)
    assert [c.verdict for c in (better, worse, more)] == ["better", "worse", "more"]
    assert (better.wins, worse.wins) == (12, 0)
    assert worse.win_rate.estimate == 0.0
    assert (
        st.compare_systems([("nothing", np.array([1.0, -1, 1, -1]), 1)])[0].verdict == "no evidence"
    )


def test_ties_are_half_wins_and_a_family_needs_more_prompts():
    values = np.array([2.0, 1, 1, 0, 0, -1, 3, 2, 1, -1])
    (alone,) = st.compare_systems([("a", values, 1)])
    assert (alone.wins, alone.ties, alone.losses) == (6, 2, 2)
    assert alone.win_rate == st.wilson_interval(7, 10)
    assert alone.prompts_needed == st.prompts_needed(values)
    one, _ = st.compare_systems([("a", values, 1), ("b", -values, 1)])
    assert one.prompts_needed == st.prompts_needed(values, alpha=0.025) > alone.prompts_needed
