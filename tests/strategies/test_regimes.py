from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from ls_backend.strategies import Plan, Pool, rank, unit_rows
from ls_backend.strategies.regimes import imbalance


def make_pool(counts, names=("ok", "dent", "crack"), n=40):
    rng = np.random.default_rng(0)
    return Pool(
        embeddings=unit_rows(rng.normal(size=(n, 6))),
        probabilities=rng.dirichlet(np.ones(3), size=n),
        labelled_embeddings=unit_rows(rng.normal(size=(7, 6))),
        labelled_counts=counts,
        class_names=names,
    )


def phase(pool, preset="auto", **objectives):
    plan = Plan.from_json({"preset": preset, "objectives": objectives, "explore": 0})
    ranking = rank(pool, plan, 5, np.random.default_rng(0))
    return ranking.regime, ranking.regime_reason


def factors_of(pool, preset, **objectives):
    plan = Plan.from_json({"preset": preset, "objectives": objectives, "explore": 0})
    return rank(pool, plan, 5, np.random.default_rng(0)).factors


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([0, 0, 0], ("low budget", "0.0 labels a class, so each stands for a wide surrounding")),
        ([5, 5, 4], ("low budget", "4.7 labels a class, so each stands for a wide surrounding")),
        ([5, 5, 5], ("high budget", "5.0 labels a class, so coverage looks at details")),
        ([50, 20, 10], ("high budget", "26.7 labels a class, so coverage looks at details")),
        ([5, 2, 0], ("low budget", "2.3 labels a class, so each stands for a wide surrounding")),
        ([6, 2, 0], ("low budget", "2.7 labels a class, so each stands for a wide surrounding")),
        (
            [87, 7, 0],
            ("imbalance guard", "'ok' is about 8 times as frequent as 'crack', so missing classes come first"),
        ),
    ],
)
def test_labels_and_beliefs_decide_the_phase_and_are_its_reason(counts, expected):
    assert phase(make_pool(counts)) == expected


def test_without_a_model_the_phase_says_what_decides_instead():
    pool = replace(make_pool([0, 0, 0]), probabilities=None)
    stands_in = "no model yet, so coverage decides in the place of what needs one"
    assert phase(pool) == ("cold start", stands_in)
    assert phase(pool, "margin") == ("cold start", stands_in)
    assert phase(pool, "badge") == ("cold start", stands_in)
    assert phase(pool, "core_set") == ("cold start", "no model yet, so core_set decides")
    rules = [{"field": "light"}]
    pool = replace(pool, metadata={"light": np.arange(40)})
    assert phase(pool, "random", metadata=rules) == ("cold start", "no model yet, and nothing asks for one")


def test_where_nothing_is_preferred_chance_decides_whatever_is_labelled():
    assert phase(make_pool([50, 1, 1]), "random") == ("random", "nothing is preferred, so chance decides")


def test_a_single_method_stays_what_it_is_in_every_phase():
    assert phase(make_pool([2, 2, 2]), "margin") == ("low budget", "2.0 labels a class")
    assert phase(make_pool([9, 9, 9]), "margin") == ("high budget", "9.0 labels a class")
    assert phase(make_pool([87, 7, 0], names=None), "margin") == (
        "imbalance guard",
        "class 0 is about 8 times as frequent as class 2",
    )


def test_missing_classes_count_from_the_imbalance_on_that_the_plan_names():
    rare = make_pool([87, 7, 0])
    assert "balance" in factors_of(rare, "auto")
    assert "balance" not in factors_of(make_pool([6, 2, 0]), "auto")
    assert "balance" in factors_of(make_pool([6, 2, 0]), "auto", balance={"strength": 1}), "as the admin says"
    assert "balance" not in factors_of(rare, "auto", balance={"above": 20})
    assert phase(rare, balance={"above": 20})[1].endswith("as frequent as 'crack'")


def test_the_ratio_of_the_classes_counts_where_they_differ_more_than_equal_ones_would_by_chance():
    told = []
    for counts in ([3, 1, 0], [12, 6, 6], [30, 10, 0], [87, 7, 0], [90, 90, 60], [900, 800, 20]):
        pool = make_pool(counts)
        tasks = pool.probabilities.sum(axis=0) + counts
        deviance = scipy.stats.power_divergence(sum(counts) * tasks / tasks.sum(), lambda_="log-likelihood").statistic
        by_chance = scipy.stats.chi2(df=2).mean()
        uneven = imbalance(pool)
        assert (uneven.most, uneven.least) == (int(tasks.argmax()), int(tasks.argmin()))
        assert uneven.ratio == pytest.approx(tasks.max() / tasks.min() if deviance > by_chance else 1.0)
        told.append(uneven.ratio > 1)
    assert any(told)
    assert not all(told)


@pytest.mark.parametrize("n", [10, 20, 30, 40])
def test_what_chance_deals_to_equal_classes_at_the_start_is_no_imbalance(n):
    uneven = [imbalance(pool_that_a_model_sees(np.full(10, 0.1), n, seed)).ratio > 3 for seed in range(100)]
    assert np.mean(uneven) < 0.05


@pytest.mark.parametrize("rare", [1 / 10, 1 / 20])
def test_rare_classes_are_noticed_within_a_few_batches(rare):
    shares = np.repeat([1.0, rare], 5)
    shares /= shares.sum()
    uneven = [imbalance(pool_that_a_model_sees(shares, 30, seed)).ratio > 3 for seed in range(100)]
    assert np.mean(uneven) > 0.95


def pool_that_a_model_sees(shares, n, seed):
    """Labels by chance, and a model that believes half what is true and half that all is as its labels are."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n, shares)
    truth = np.eye(10)[rng.choice(10, 500, p=shares)]
    return Pool(
        embeddings=unit_rows(rng.normal(size=(500, 4))),
        probabilities=0.5 * truth + 0.5 * (counts + 1) / (n + 10),
        labelled_counts=counts,
    )


@pytest.mark.parametrize(("counts", "warned"), [([2, 2, 2], False), ([9, 9, 9], True), ([90, 1, 0], True)])
def test_typicality_counts_as_the_admin_wants_and_the_phase_says_where_it_does_harm(counts, warned):
    wanted = {"representativeness": {"strength": 1}}
    _, reason = phase(make_pool(counts), **wanted)
    assert ("; density has strength 1 and starves rare classes, 0 is better here" in reason) == warned
    plan = Plan.from_json({"objectives": wanted, "explore": 0})
    assert "representativeness" in rank(make_pool(counts), plan, 5, np.random.default_rng(0)).factors


@pytest.mark.parametrize("counts", [[0, 0, 0], [2, 2, 2], [90, 1, 0]])
def test_typicality_is_off_in_every_phase_where_nobody_asks_for_it(counts):
    assert "representativeness" not in factors_of(make_pool(counts), "auto")


def test_without_counts_the_labelled_embeddings_are_counted():
    assert phase(make_pool(None)) == ("low budget", "2.3 labels a class, so each stands for a wide surrounding")
    assert phase(replace(make_pool(None), labelled_embeddings=None))[0] == "low budget"
