from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from ls_backend.errors import PoolInvalid, StrategyError
from ls_backend.strategies.test_set import choose

SITES = np.repeat(["north", "south", "east", "west"], [50, 27, 20, 3])


def drawn(n, k, n_seeds, **fields):
    """How often each task was drawn, (n,)."""
    counts = np.zeros(n)
    for seed in range(n_seeds):
        counts[choose(n, k, np.random.default_rng(seed), **fields)] += 1
    return counts


def test_without_strata_every_pair_of_tasks_is_drawn_equally_often():
    pairs = np.zeros((6, 6))
    for seed in range(3000):
        one, other = sorted(choose(6, 2, np.random.default_rng(seed)))
        pairs[one, other] += 1
    assert scipy.stats.chisquare(pairs[np.triu_indices(6, 1)]).pvalue > 1e-3


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    part=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_each_stratum_gets_its_quota_rounded_up_or_down(sizes, part, seed):
    strata = np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)), sizes))
    n, k = len(strata), int(part * len(strata))
    rows = choose(n, k, np.random.default_rng(seed), strata=strata)
    assert len(set(rows.tolist())) == len(rows) == k
    counts = np.bincount(strata[rows], minlength=len(sizes))
    exact = np.array(sizes) * k / n
    assert (np.abs(counts - exact) < 1).all()


def test_quotas_that_are_whole_numbers_are_kept_exactly():
    for seed in range(20):
        strata = np.repeat([0, 1, 2], [50, 30, 20])
        rows = choose(100, 20, np.random.default_rng(seed), strata=strata)
        assert np.bincount(strata[rows]).tolist() == [10, 6, 4]


@pytest.mark.parametrize("strata", [None, SITES, np.arange(100) * 0.1])
def test_every_task_has_the_same_chance_whatever_the_size_of_its_stratum(strata):
    counts = drawn(100, 13, 2000, strata=strata)
    assert counts.mean() == 260
    assert abs(counts - 260).max() < 5 * np.sqrt(2000 * 0.13 * 0.87)


def test_the_mean_over_a_stratified_test_set_is_that_of_all_tasks_and_less_noisy_than_by_chance():
    hard = {"north": 0.02, "south": 0.8, "east": 0.1, "west": 1.0}
    errors = np.random.default_rng(5).random(100) < np.array([hard[site] for site in SITES])
    means = {}
    for name, strata in (("plain", None), ("stratified", SITES)):
        rows = (choose(100, 24, np.random.default_rng(seed), strata=strata) for seed in range(2000))
        means[name] = np.array([errors[row].mean() for row in rows])
        assert scipy.stats.ttest_1samp(means[name], errors.mean()).pvalue > 1e-3
    assert means["stratified"].std() < 0.8 * means["plain"].std()


def test_values_of_a_number_are_spread_over_its_whole_range():
    luminance = np.random.default_rng(0).permutation(200)
    rows = choose(200, 20, np.random.default_rng(1), strata=luminance)
    assert np.bincount(luminance[rows] // 10, minlength=20).tolist() == [1] * 20


def test_a_target_sets_the_shares_and_makes_its_own_mean_unbiased():
    target = {"north": 1, "south": 1, "east": 2}
    rows = choose(100, 20, np.random.default_rng(0), strata=SITES, target=target)
    assert [int((SITES[rows] == site).sum()) for site in ("north", "south", "east", "west")] == [5, 5, 10, 0]
    worth = np.random.default_rng(2).random(100)
    means = [worth[choose(100, 10, np.random.default_rng(s), strata=SITES, target=target)].mean() for s in range(2000)]
    wanted = sum(target[site] / 4 * worth[site == SITES].mean() for site in target)
    assert scipy.stats.ttest_1samp(means, wanted).pvalue > 1e-3


def test_a_stratum_that_is_too_small_is_taken_whole_and_the_others_make_up_for_it_in_proportion():
    target = {"west": 5, "east": 1, "north": 3, "south": 1}
    rows = choose(100, 28, np.random.default_rng(0), strata=SITES, target=target)
    assert [int((SITES[rows] == site).sum()) for site in ("west", "east", "north", "south")] == [3, 5, 15, 5]


def test_tasks_that_lack_the_field_are_a_stratum_of_their_own():
    weather = np.array(["sun", None, "", "rain", float("nan"), "sun"], dtype=object)
    rows = choose(6, 3, np.random.default_rng(0), strata=weather, target={"": 1})
    assert sorted(rows.tolist()) == [1, 2, 4]
    numbers = np.array([np.nan, 1, np.nan, 2])
    assert sorted(choose(4, 2, np.random.default_rng(0), strata=numbers, target={"": 3}).tolist()) == [0, 2]


def test_those_labelled_first_are_a_sample_too():
    firsts = [SITES[choose(100, 30, np.random.default_rng(seed), strata=SITES)[0]] for seed in range(1500)]
    observed = [firsts.count(site) for site in ("north", "south", "east", "west")]
    assert scipy.stats.chisquare(observed, np.array([50, 27, 20, 3]) * 15).pvalue > 1e-3


def test_the_same_seed_draws_the_same_tasks():
    first, again = (choose(100, 30, np.random.default_rng(4), strata=SITES) for _ in range(2))
    assert first.tolist() == again.tolist()


@pytest.mark.parametrize("strata", [None, SITES])
@pytest.mark.parametrize("k", [0, 100])
def test_nothing_and_everything_can_be_drawn(strata, k):
    assert sorted(choose(100, k, np.random.default_rng(0), strata=strata).tolist()) == list(range(k))
    assert choose(0, 0, np.random.default_rng(0), strata=np.zeros(0)).tolist() == []


@pytest.mark.parametrize(
    ("n", "k", "fields", "error", "expected"),
    [
        (5, 6, {}, PoolInvalid, "test set of 6 tasks .* there are 5; expected 0 to 5. Ask for fewer"),
        (5, -1, {}, PoolInvalid, "test set of -1 tasks"),
        (5, 2, {"strata": ["a", "b"]}, PoolInvalid, r"shape \(2,\); expected \(5,\).*None where"),
        (2, 1, {"target": {"a": 1}}, StrategyError, "no field it speaks of.*Name the field"),
        (2, 1, {"strata": ["a", "b"], "target": {"c": 1}}, StrategyError, r"\['c'\], which no task has.*\['a', 'b'\]"),
        (2, 1, {"strata": ["a", "b"], "target": {"a": -1, "b": 2}}, StrategyError, "'a': -1.*shares of 0 or more"),
        (2, 1, {"strata": ["a", "b"], "target": {"a": float("nan")}}, StrategyError, "nan.*shares of 0 or more"),
        (2, 1, {"strata": ["a", "b"], "target": {"a": 0}}, StrategyError, "at least one above 0"),
        (2, 2, {"strata": ["a", "b"], "target": {"a": 1}}, PoolInvalid, "1 have a value the target wants.*at least 2"),
    ],
)
def test_what_cannot_be_drawn_is_named_with_value_expectation_and_remedy(n, k, fields, error, expected):
    with pytest.raises(error, match=expected):
        choose(n, k, np.random.default_rng(0), **fields)
