from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from ls_backend.errors import PoolInvalid, StrategyError, StrategyNotReady
from ls_backend.strategies import Plan, Pool, presets, rank, search, unit_rows
from ls_backend.strategies import ranking as ranking_module


def make_pool(n=300, d=24, c=4, m=12, seed=0, **changes):
    rng = np.random.default_rng(seed)
    fields = {
        "embeddings": unit_rows(rng.normal(size=(n, d))),
        "probabilities": rng.dirichlet(np.full(c, 0.6), size=n),
        "labelled_embeddings": unit_rows(rng.normal(size=(m, d))),
        "labelled_counts": rng.integers(0, 6, size=c),
        "class_names": tuple("abcdefgh"[:c]),
        "member_probabilities": rng.dirichlet(np.full(c, 0.4), size=(5, n)),
        "dropout_probabilities": rng.dirichlet(np.full(c, 0.4), size=(3, n)),
        "cost_matrix": 3.0 - 2.0 * np.eye(c) - np.eye(c, k=1),
        "predicted_loss": rng.normal(size=n),
    }
    return Pool(**{**fields, **changes})


@pytest.mark.parametrize("preset", sorted(presets()))
@pytest.mark.parametrize("k", [0, 1, 7, 300])
def test_picks_are_distinct_and_as_many_as_asked_for(preset, k):
    ranking = rank(make_pool(), Plan.preset(preset), k, np.random.default_rng(3))
    assert len(ranking.indices) == len(set(ranking.indices.tolist())) == len(ranking.reasons) == k
    assert all(len(values) == k for values in [*ranking.factors.values(), *ranking.ratios.values()])
    assert np.isfinite(ranking.utilities).all()


def test_asking_for_more_than_the_pool_holds_is_an_error_with_both_numbers():
    with pytest.raises(PoolInvalid, match=r"301 .* 300"):
        rank(make_pool(), Plan.preset("auto"), 301, np.random.default_rng(0))


@pytest.mark.parametrize("preset", sorted(presets()))
@pytest.mark.parametrize("d", [24, 100])
def test_the_order_of_the_rows_does_not_matter(preset, d):
    pool = make_pool(d=d, ids=np.arange(1000, 1300))
    mixed = np.random.default_rng(8).permutation(300)
    other = replace(
        pool,
        embeddings=pool.embeddings[mixed],
        probabilities=pool.probabilities[mixed],
        ids=pool.ids[mixed],
        member_probabilities=pool.member_probabilities[:, mixed],
        dropout_probabilities=pool.dropout_probabilities[:, mixed],
        predicted_loss=pool.predicted_loss[mixed],
    )
    first = rank(pool, Plan.preset(preset), 40, np.random.default_rng(5))
    second = rank(other, Plan.preset(preset), 40, np.random.default_rng(5))
    assert pool.ids[first.indices].tolist() == other.ids[second.indices].tolist()
    assert first.reasons == second.reasons


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    n=st.integers(1, 40),
    preset=st.sampled_from(sorted(presets())),
    explore=st.sampled_from([0.0, 0.3, 1.0]),
    model=st.booleans(),
    twins=st.booleans(),
    certain=st.booleans(),
)
def test_any_pool_is_ranked_the_same_way_twice_and_left_as_it_was(seed, n, preset, explore, model, twins, certain):
    pool = make_pool(n=n, seed=seed, m=seed % 3, **({} if model else {"probabilities": None}))
    if twins:
        pool = replace(pool, embeddings=np.repeat(pool.embeddings[:1], n, axis=0))
    if certain and model:
        pool = replace(pool, probabilities=np.tile(np.eye(4)[0], (n, 1)))
    plan = replace(Plan.preset(preset), explore=explore)
    before = pool.embeddings.copy(), pool.labelled_counts.copy()
    k = seed % (n + 1)
    first, second = (rank(pool, plan, k, np.random.default_rng(seed)) for _ in range(2))
    assert first.indices.tolist() == second.indices.tolist()
    assert first.utilities.tolist() == second.utilities.tolist()
    assert len(set(first.indices.tolist())) == k
    assert np.isfinite(first.utilities).all()
    assert (pool.embeddings == before[0]).all()
    assert (pool.labelled_counts == before[1]).all()


def test_another_seed_breaks_ties_another_way():
    pool = make_pool(probabilities=np.full((300, 4), 0.25))
    orders = {tuple(rank(pool, Plan.preset("margin"), 5, np.random.default_rng(s)).indices) for s in range(4)}
    assert len(orders) == 4


def test_margin_alone_orders_by_the_gap_of_the_two_likeliest_classes():
    pool = make_pool()
    top = np.sort(pool.probabilities, axis=1)
    ranking = rank(pool, Plan.preset("margin"), 300, np.random.default_rng(0))
    gaps = (top[:, -1] - top[:, -2])[ranking.indices]
    assert (np.diff(gaps) >= 0).all()
    assert (np.diff(ranking.utilities) <= 0).all()


@pytest.mark.parametrize("preset", ["auto", "margin", "uncertainty_herding"])
def test_before_the_first_model_plans_that_ask_for_one_cover_the_pool(preset):
    pool = make_pool(probabilities=None)
    ranking = rank(pool, Plan.preset(preset), 10, np.random.default_rng(1))
    herding = rank(pool, Plan.preset("max_herding"), 10, np.random.default_rng(1))
    assert ranking.regime == "cold start"
    assert ranking.indices.tolist() == herding.indices.tolist()


def test_random_picks_are_spread_evenly_and_the_rest_keeps_its_order():
    pool, plan = make_pool(), Plan.preset("margin")
    mixed = rank(pool, replace(plan, explore=0.1), 50, np.random.default_rng(2))
    drawn = np.array([reason.startswith("picked at random") for reason in mixed.reasons])
    assert drawn.sum() == 5
    assert set(np.diff(np.flatnonzero(drawn))) == {10}
    pure = rank(pool, plan, 50, np.random.default_rng(2)).indices.tolist()
    kept = mixed.indices[~drawn].tolist()
    assert kept == [index for index in pure if index in set(kept)]


def test_random_draws_every_task_equally_often():
    pool, counts = make_pool(n=12), np.zeros(12)
    for seed in range(600):
        counts[rank(pool, Plan.preset("random"), 3, np.random.default_rng(seed)).indices] += 1
    assert scipy.stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("missing", [None, "", np.nan])
def test_a_task_that_lacks_the_field_stays_in_the_middle(missing):
    light = np.array([*range(100), missing], dtype=object)
    rules = [{"field": "light", "min": 20, "strength": 1}]
    plan = Plan.from_json({"preset": "random", "objectives": {"metadata": rules}, "explore": 0})
    ranking = rank(make_pool(n=101, metadata={"light": light}), plan, 101, np.random.default_rng(0))
    assert sorted(ranking.indices.tolist()) == list(range(20, 101))
    assert ranking.indices.tolist().index(100) == 40


def test_fewer_than_no_tasks_cannot_be_picked():
    with pytest.raises(PoolInvalid, match=r"-1 tasks .* 300; expected 0 to 300. Ask"):
        rank(make_pool(), Plan.preset("auto"), -1, np.random.default_rng(0))


def test_filtered_tasks_never_come_back():
    light = np.arange(300.0)
    plan = Plan.from_json({"objectives": {"metadata": [{"field": "light", "min": 280}]}, "explore": 0.5})
    ranking = rank(make_pool(metadata={"light": light}), plan, 100, np.random.default_rng(0))
    assert sorted(ranking.indices.tolist()) == list(range(280, 300))


def test_a_filter_may_leave_nothing():
    plan = Plan.from_json({"objectives": {"metadata": [{"field": "light", "min": 1}], "balance": {"target": "input"}}})
    ranking = rank(make_pool(metadata={"light": np.zeros(300)}), plan, 5, np.random.default_rng(0))
    assert (len(ranking.indices), ranking.reasons) == (0, ())


@pytest.mark.parametrize("preset", ["auto", "margin", "core_set", "random"])
def test_outliers_come_after_everything_else(preset):
    crowd = unit_rows(np.random.default_rng(0).normal(size=(95, 6)) * 0.2 + 1)
    strays = unit_rows(np.random.default_rng(1).normal(size=(5, 6)) - 2)
    pool = make_pool(n=100, d=6, embeddings=np.concatenate([strays, crowd]), m=2)
    plan = Plan.from_json(
        {
            "preset": preset,
            "objectives": {"representativeness": {"strength": 0, "drop_outliers": 0.05}},
            "explore": 0.2,
        }
    )
    if preset == "core_set":
        plan = replace(plan, explore=0.0)  # a random pick near the end may be the last task that is left
    ranking = rank(pool, plan, 100, np.random.default_rng(0))
    assert sorted(ranking.indices[-5:].tolist()) == [0, 1, 2, 3, 4]
    early = rank(pool, replace(plan, explore=0.5), 40, np.random.default_rng(0))
    assert early.indices.min() > 4


def test_a_preference_moves_tasks_forward_and_a_negative_one_back():
    pool = make_pool(metadata={"sharp": np.arange(300)}, probabilities=np.full((300, 4), 0.25))
    for strength, expected in ((4, 299), (-4, 0)):
        rules = {"metadata": [{"field": "sharp", "strength": strength}]}
        plan = Plan.from_json({"preset": "margin", "objectives": rules, "explore": 0})
        assert rank(pool, plan, 1, np.random.default_rng(0)).indices.tolist() == [expected]


def test_negative_diversity_looks_for_twins_of_what_is_labelled():
    pool = make_pool()
    pool = replace(pool, labelled_embeddings=pool.embeddings[[17]])
    plan = Plan.from_json({"preset": "random", "objectives": {"diversity": {"strength": -1}}, "explore": 0})
    assert rank(pool, plan, 1, np.random.default_rng(0)).indices.tolist() == [17]
    plan = Plan.from_json({"objectives": {"diversity": {"strength": -1, "method": "core_set"}}})
    with pytest.raises(StrategyError, match="cannot be inverted"):
        rank(pool, plan, 1, np.random.default_rng(0))


def test_one_batch_does_not_fill_the_same_gap_twice():
    probabilities = np.zeros((60, 3))
    probabilities[:20, 0], probabilities[20:40, 1], probabilities[40:, 2] = 1, 1, 1
    pool = make_pool(n=60, c=3, probabilities=probabilities, labelled_counts=[0, 5, 9])
    plan = Plan.from_json({"preset": "random", "objectives": {"balance": {}}, "explore": 0})
    picked = rank(pool, plan, 22, np.random.default_rng(0)).indices // 20
    assert np.bincount(picked, minlength=3).tolist() == [12, 7, 3]
    assert picked[:5].tolist() == [0] * 5


def test_reasons_name_the_numbers_an_annotator_can_check():
    probabilities = np.tile([0.9, 0.05, 0.05], (30, 1))
    probabilities[4] = [0.02, 0.47, 0.51]
    pool = make_pool(
        n=30, c=3, probabilities=probabilities, labelled_counts=[20, 9, 1], class_names=("ok", "dent", "crack")
    )
    plan = Plan.from_json({"preset": "margin", "objectives": {"balance": {}}, "explore": 0})
    ranking = rank(pool, plan, 1, np.random.default_rng(0))
    assert ranking.indices.tolist() == [4]
    assert ranking.reasons == ("margin 0.04 (usually 0.85), likely 'crack', which has 1 label",)
    assert ranking.ratios["uncertainty"] == pytest.approx([0.96 / 0.15])


def test_a_class_that_is_not_the_best_guess_is_only_perhaps_the_missing_one():
    pool = make_pool(n=30, c=3, probabilities=np.tile([0.6, 0.3, 0.1], (30, 1)), labelled_counts=[50, 50, 0])
    plan = Plan.from_json({"preset": "random", "objectives": {"balance": {}}, "explore": 0})
    assert rank(pool, plan, 1, np.random.default_rng(0)).reasons == ("perhaps 'c', which has 0 labels",)


def test_reasons_compare_with_what_is_usual_in_the_pool():
    probabilities = np.tile([0.999, 0.001], (40, 1))
    probabilities[7] = 0.5
    light = np.arange(40.0)
    pool = make_pool(n=40, c=2, probabilities=probabilities, metadata={"light": light, "site": ["A", *["B"] * 39]})
    for objectives, expected in (
        ({"metadata": [{"field": "light"}]}, (39, "light 39 is among the highest 1%")),
        ({"metadata": [{"field": "site", "weights": {"A": 2}}]}, (0, "site A is preferred (2.0x the usual)")),
        ({"uncertainty": {}}, (7, "margin 0.00 (usually 1.00)")),
        ({"value": {"classes": {"b": 500}}}, (7, "worth more than most (over 100x the usual)")),
    ):
        plan = Plan.from_json({"preset": "random", "objectives": objectives, "explore": 0})
        ranking = rank(pool, plan, 1, np.random.default_rng(0))
        assert (int(ranking.indices[0]), ranking.reasons[0]) == expected


def test_the_picks_of_a_method_that_chooses_whole_batches_say_so_even_when_they_are_ordinary():
    ranking = rank(make_pool(), Plan.preset("badge"), 8, np.random.default_rng(0))
    assert all(reason.startswith("would change the model in its own way") for reason in ranking.reasons)


def test_utilities_are_the_product_of_the_factors():
    pool = make_pool(metadata={"sharp": np.random.default_rng(3).random(300)})
    rules = {
        "balance": {"strength": 2},
        "metadata": [{"field": "sharp", "strength": 0.5}],
        "value": {"classes": {"b": 3}},
    }
    plan = Plan.from_json({"preset": "margin", "objectives": rules})
    ranking = rank(pool, plan, 30, np.random.default_rng(0))
    factors = ranking.factors
    product = factors["uncertainty"] * factors["balance"] ** 2 * factors["metadata:sharp"] ** 0.5 * factors["value"]
    assert ranking.utilities == pytest.approx(product)


def test_a_large_pool_is_searched_among_its_most_promising_tasks():
    rng = np.random.default_rng(0)
    n = 20_000
    probabilities = np.tile([0.98, 0.01, 0.01], (n, 1))
    rare = rng.choice(n, 6, replace=False)
    probabilities[rare] = [0.4, 0.2, 0.4]
    pool = make_pool(n=n, d=8, c=3, probabilities=probabilities, labelled_counts=[30, 30, 0])
    plan = Plan.from_json({"preset": "margin", "objectives": {"balance": {}}, "explore": 0})
    ranking = rank(pool, plan, 6, np.random.default_rng(1))
    assert set(ranking.indices.tolist()) == set(rare.tolist())


def test_a_method_that_needs_what_the_pool_lacks_says_so():
    plan = Plan.from_json({"objectives": {"metadata": [{"field": "blur"}]}})
    with pytest.raises(StrategyNotReady, match="'blur'"):
        rank(make_pool(), plan, 3, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("preset", "field", "remedy"),
    [
        ("bald", "member_probabilities", "a committee of heads"),
        ("expected_cost", "cost_matrix", "the cost of every answer"),
        ("drop_query", "dropout_probabilities", "a few dropout masks"),
        ("learning_loss", "predicted_loss", "out-of-fold losses"),
    ],
)
def test_what_a_method_lacks_is_named_with_the_way_to_get_it(preset, field, remedy):
    with pytest.raises(StrategyNotReady, match=f"needs {field}, which the pool lacks. .*{remedy}.*choose another"):
        rank(make_pool(**{field: None}), Plan.preset(preset), 3, np.random.default_rng(0))


def test_far_ahead_the_order_is_by_what_was_known_last(monkeypatch):
    monkeypatch.setattr(search, "MAX_SEARCHED", 20)
    pool, plan = make_pool(), replace(Plan.preset("auto"), explore=0.1)
    ranking = rank(pool, plan, 300, np.random.default_rng(4))
    monkeypatch.undo()
    exact = rank(pool, plan, 300, np.random.default_rng(4))
    assert ranking.indices[:20].tolist() == exact.indices[:20].tolist()
    assert sorted(ranking.indices.tolist()) == list(range(300))
    drawn = np.array([reason.startswith("picked at random") for reason in ranking.reasons])
    assert drawn.sum() == 30
    assert (np.diff(ranking.utilities[20:][~drawn[20:]]) <= 0).all()


@pytest.mark.parametrize("preset", ["core_set", "badge"])
def test_far_ahead_of_a_batch_the_other_factors_order_what_is_left(monkeypatch, preset):
    monkeypatch.setattr(ranking_module, "MAX_SEARCHED", 20)
    pool = make_pool(metadata={"sharp": np.arange(300)})
    plan = Plan.from_json({"preset": preset, "objectives": {"metadata": [{"field": "sharp"}]}, "explore": 0.1})
    ranking = rank(pool, plan, 300, np.random.default_rng(4))
    assert sorted(ranking.indices.tolist()) == list(range(300))
    drawn = np.array([reason.startswith("picked at random") for reason in ranking.reasons])
    assert (np.diff(ranking.indices[~drawn][20:]) < 0).all()
