"""The test behind the audit's verdict: exact where it can be, and never wrong more than it may be."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from realdpo.pairs.permutation import ALPHA, compare_sides, pairs_needed

ONE = np.array([1.0])


def clear(pairs: int, losers: int) -> list[np.ndarray]:
    """Winners that have ten tolerances more than their losers, which are alike."""
    return [np.array([[10.0], *[[0.0]] * losers]) for _ in range(pairs)]


@pytest.mark.parametrize(
    ("pairs", "losers", "p"),
    [(3, 1, 2 / 2**3), (6, 1, 2 / 2**6), (1, 3, 1 / 4), (3, 3, 1 / 4**3), (3, 2, 1 / 3**3)],
)
def test_the_clearest_difference_there_can_be_has_the_smallest_p(pairs, losers, p) -> None:
    found = compare_sides(clear(pairs, losers), ONE)
    assert found.p[0] == pytest.approx(p)
    assert found.smallest == pytest.approx(p)
    assert found.exact
    assert found.can_tell == (p <= ALPHA)


def test_many_pairs_are_sampled_and_p_is_never_below_one_of_the_draws() -> None:
    found = compare_sides(clear(40, 3), ONE)
    assert not found.exact
    assert found.p[0] == found.smallest == 1 / 2000


def test_so_many_pairs_are_needed() -> None:
    assert [pairs_needed(losers) for losers in (1, 2, 3, 8)] == [6, 3, 3, 2]


@pytest.mark.parametrize("seed", range(4))
def test_enumeration_agrees_with_its_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    values = [random.normal(0, 5, (n, 3)) for n in (2, 3, 4, 2)]  # 48 ways
    tolerance = np.array([1.0, 2.0, 0.5])

    def gap(a: float, b: float, k: int) -> float:
        return float(np.sign(a - b) * max(0.0, abs(a - b) / tolerance[k] - 1))

    loudest = {}
    for way in itertools.product(*(range(len(v)) for v in values)):
        loud = []
        for k in range(3):
            sizes = [
                abs(gap(a, b, k)) for v in values for a, b in itertools.permutations(v[:, k], 2)
            ]
            most = 2 * np.median([s for s in sizes if s > 0])
            sums, variance = 0.0, 0.0
            for v, j in zip(values, way, strict=True):
                each = [
                    np.mean(
                        [
                            np.clip(gap(v[i, k], v[o, k], k), -most, most)
                            for o in range(len(v))
                            if o != i
                        ]
                    )
                    for i in range(len(v))
                ]
                sums += each[j]
                variance += np.mean(np.square(each))
            loud.append(abs(sums) / np.sqrt(variance))
        loudest[way] = loud
    observed = loudest[0, 0, 0, 0]
    expected = [np.mean([max(loud) >= o - 1e-9 for loud in loudest.values()]) for o in observed]
    assert compare_sides(values, tolerance).p == pytest.approx(expected)


@pytest.mark.parametrize(("pairs", "losers"), [(4, 3), (12, 1), (20, 1)])
def test_where_nothing_differs_it_finds_something_one_time_in_twenty(pairs, losers) -> None:
    random = np.random.default_rng(pairs)
    trials, wrong = 200, 0
    for _ in range(trials):
        # features that hang together, with outliers: nothing a normal distribution would do
        mixing = random.normal(0, 1, (12, 12))
        values = [random.standard_t(2, (1 + losers, 12)) @ mixing for _ in range(pairs)]
        wrong += compare_sides(values, np.full(12, 0.1)).p.min() <= ALPHA
    # 5 % of 200 and three standard deviations of that count
    assert wrong <= 10 + 3 * np.sqrt(200 * 0.05 * 0.95)


def test_an_odd_pair_does_not_drown_what_all_others_say() -> None:
    values = [*clear(11, 1), np.array([[-1e6], [0.0]])]
    assert compare_sides(values, ONE).p[0] < 0.05


def test_a_steady_factor_is_found_and_an_unsteady_one_is_not() -> None:
    random = np.random.default_rng(0)
    speed = random.normal(1, 1, (12, 1))
    steady = [np.array([s, s + 0.4 + random.normal(0, 0.03, 1)]) for s in speed]
    unsteady = [np.array([s, s + random.uniform(0.1, 1.4, 1)]) for s in speed]
    small = [np.array([s, s + 0.1]) for s in speed]
    for values, expected in ((steady, True), (unsteady, False), (small, False)):
        found = compare_sides(values, np.array([0.02]), steady=[0], level=0.22)
        assert (found.p[0] <= ALPHA) == expected


def hidden(pairs: int, losers: int, by: float, seed: int) -> list[np.ndarray]:
    """Six features of a strong common cause (what clips show), and losers that exceed it by a little."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(pairs):
        shown = random.normal(0, 8, (1 + losers, 1)) * np.array([1, 1, 1, 1, 1, 1])
        values = shown + random.normal(0, 0.6, (1 + losers, 6))
        values[1:, 0] += by
        found.append(values)
    return found


def test_features_weighed_against_each_other_see_what_none_sees_alone() -> None:
    values = hidden(20, 1, 2.0, 0)
    alone = compare_sides(values, np.full(6, 0.1))
    together = compare_sides(values, np.full(6, 0.1), groups=[range(6)])
    assert alone.p.min() > ALPHA
    assert together.together[0] <= ALPHA
    assert together.p.min() > ALPHA  # no feature is named for it


@pytest.mark.parametrize("losers", [1, 3])
def test_weighing_them_too_finds_nothing_more_often_where_nothing_is(losers) -> None:
    wrong = 0
    for trial in range(200):
        values = hidden(13, losers, 0.0, trial)
        found = compare_sides(values, np.full(6, 0.1), groups=[range(6), [0, 1]], seed=trial)
        wrong += min(found.p.min(), *found.together) <= ALPHA
    assert wrong <= 10 + 3 * np.sqrt(200 * 0.05 * 0.95)


def test_few_pairs_are_not_weighed_together() -> None:
    assert compare_sides(hidden(8, 1, 2.0, 0), np.full(6, 0.1), groups=[range(6)]).together == (1,)
