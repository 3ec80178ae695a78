"""What holds for every method of the registry, whoever wrote it."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from ls_backend.errors import PoolInvalid, StrategyError
from ls_backend.strategies import Plan, Pool, presets, rank, strategies, unit_rows

METHODS = [(method.objective, method.name) for method in strategies()]
BY_TASK = {"embeddings": 0, "probabilities": 0, "predicted_loss": 0, "ids": 0}
BY_MEMBER = {"member_probabilities": 1, "dropout_probabilities": 1}


def plan_of(objective, name):
    """The method alone, with nothing beside it that could decide."""
    chosen = {objective: {"method": name, "strength": 1}}
    return Plan.from_json({"preset": "random", "objectives": chosen, "explore": 0})


def make_pool(n=60, d=80, c=3, seed=0):
    rng = np.random.default_rng(seed)
    return Pool(
        embeddings=unit_rows(rng.normal(size=(n, d))),
        probabilities=rng.dirichlet(np.full(c, 0.6), size=n),
        labelled_embeddings=unit_rows(rng.normal(size=(5, d))),
        labelled_counts=[3, 2, 0][:c],
        class_names=tuple("abc"[:c]),
        ids=rng.permutation(1000)[:n],
        member_probabilities=rng.dirichlet(np.full(c, 0.4), size=(4, n)),
        dropout_probabilities=rng.dirichlet(np.full(c, 0.4), size=(3, n)),
        labelled_probabilities=rng.dirichlet(np.full(c, 0.4), size=5),
        cost_matrix=1 - np.eye(c),
        predicted_loss=rng.random(n),
    )


def make_several(n=60, d=80, seed=0):
    """A choice of three, a choice of two and three labels, in no order; some doubts from elsewhere."""
    rng = np.random.default_rng(seed)

    def beliefs(*shape):
        values = np.empty((*shape, 8), dtype=np.float32)
        values[..., [1, 4, 6]] = rng.dirichlet(np.full(3, 0.5), size=shape)
        values[..., [0, 7]] = rng.dirichlet(np.full(2, 0.5), size=shape)
        values[..., [2, 3, 5]] = rng.beta(0.4, 0.8, size=(*shape, 3))
        return values

    doubts = rng.random((n, 2))
    doubts[rng.random((n, 2)) < 0.2] = np.nan
    return replace(
        make_pool(n, d, seed=seed),
        probabilities=beliefs(n),
        labelled_counts=[3, 2, 0, 4, 1, 1, 2, 2],
        class_names=tuple("abcdefgh"),
        member_probabilities=beliefs(4, n),
        dropout_probabilities=beliefs(3, n),
        labelled_probabilities=beliefs(5),
        cost_matrix=rng.random((8, 8)),
        questions=[5, 3, 8, 6, 3, 7, 3, 5],
        doubts=doubts,
    )


POOLS = {"one question": make_pool, "several questions": make_several}
several_or_one = pytest.mark.parametrize("make", POOLS.values(), ids=POOLS)


def columns_of(pool, columns):
    """The same pool with its columns in another order."""
    beliefs = ("probabilities", "member_probabilities", "dropout_probabilities", "labelled_probabilities")
    return replace(
        pool,
        **{name: getattr(pool, name)[..., columns] for name in beliefs},
        labelled_counts=pool.labelled_counts[columns],
        class_names=tuple(pool.class_names[column] for column in columns),
        cost_matrix=pool.cost_matrix[np.ix_(columns, columns)],
        questions=pool.questions[columns],
    )


def rows_of(pool, rows):
    taken = {name: getattr(pool, name).take(rows, axis=axis) for name, axis in {**BY_TASK, **BY_MEMBER}.items()}
    return replace(pool, **taken, doubts=None if pool.doubts is None else pool.doubts[rows])


def alike(pool, name):
    """The pool with the same value in every task."""
    values = getattr(pool, name)
    axis = {**BY_TASK, **BY_MEMBER}[name]
    return replace(pool, **{name: values.take(np.zeros(pool.size, dtype=int), axis=axis)})


def certain(pool):
    beliefs = np.tile([1.0, 0.0, 0.0], (pool.size, 1))
    return replace(
        pool,
        probabilities=beliefs,
        member_probabilities=np.repeat(beliefs[None], 4, axis=0),
        dropout_probabilities=np.repeat(beliefs[None], 3, axis=0),
        labelled_probabilities=beliefs[:5],
        labelled_counts=[5, 0, 0],
    )


def assert_complete(ranking, k):
    assert len(ranking.indices) == len(set(ranking.indices.tolist())) == k
    assert np.isfinite(ranking.utilities).all()
    for values in ranking.factors.values():
        assert ((values >= 0) & (values <= 1)).all()


@pytest.mark.parametrize(("objective", "name"), METHODS)
@pytest.mark.parametrize("k", [0, 1, 13, 60])
@several_or_one
def test_any_number_of_tasks_is_picked_once_each_with_a_reason(make, objective, name, k):
    ranking = rank(make(), plan_of(objective, name), k, np.random.default_rng(0))
    assert_complete(ranking, k)
    assert len(ranking.reasons) == k


@pytest.mark.parametrize(("objective", "name"), METHODS)
def test_more_tasks_than_there_are_cannot_be_picked(objective, name):
    with pytest.raises(PoolInvalid, match=r"61 .* 60"):
        rank(make_pool(), plan_of(objective, name), 61, np.random.default_rng(0))


@pytest.mark.parametrize(("objective", "name"), METHODS)
@several_or_one
def test_the_same_seed_gives_the_same_order_whatever_the_order_of_the_rows(make, objective, name):
    pool, plan = make(), plan_of(objective, name)
    mixed = rows_of(pool, np.random.default_rng(7).permutation(60))
    first, again, other = (rank(each, plan, 20, np.random.default_rng(3)) for each in (pool, pool, mixed))
    assert first.indices.tolist() == again.indices.tolist()
    assert pool.ids[first.indices].tolist() == mixed.ids[other.indices].tolist()
    assert first.reasons == again.reasons == other.reasons


# Among equally likely joint answers the order of the columns decides which ones `batch_bald` keeps.
SETTLED = [method for method in METHODS if method != ("diversity", "batch_bald")]


@pytest.mark.parametrize(("objective", "name"), SETTLED)
def test_the_order_of_questions_and_of_their_classes_does_not_matter(objective, name):
    pool, plan = make_several(), plan_of(objective, name)
    other = replace(columns_of(pool, np.random.default_rng(3).permutation(8)), doubts=pool.doubts[:, ::-1])
    renumbered = replace(other, questions=20 - other.questions)
    first = rank(pool, plan, 20, np.random.default_rng(3))
    for each in (rank(other, plan, 20, np.random.default_rng(3)), rank(renumbered, plan, 20, np.random.default_rng(3))):
        assert first.indices.tolist() == each.indices.tolist()
        for factor, values in first.factors.items():
            assert values == pytest.approx(each.factors[factor], abs=1e-5)


@pytest.mark.parametrize(("objective", "name"), METHODS)
@several_or_one
def test_no_array_of_the_pool_is_changed(make, objective, name):
    pool = make()
    arrays = {item.name: getattr(pool, item.name) for item in fields(Pool)}
    before = {key: value.copy() for key, value in arrays.items() if isinstance(value, np.ndarray)}
    for key in before:
        arrays[key].setflags(write=False)
    rank(pool, plan_of(objective, name), 30, np.random.default_rng(0))
    for key, value in before.items():
        np.testing.assert_array_equal(arrays[key], value)  # NaN equals NaN


@pytest.mark.parametrize(("objective", "name"), METHODS)
@pytest.mark.parametrize("field", ["embeddings", "probabilities", "member_probabilities", "dropout_probabilities"])
def test_tasks_that_are_all_the_same_are_still_ranked(objective, name, field):
    pool = alike(make_pool(), field)
    assert_complete(rank(pool, plan_of(objective, name), 60, np.random.default_rng(0)), 60)


@pytest.mark.parametrize(("objective", "name"), METHODS)
def test_a_model_that_knows_one_class_only_and_embeddings_of_nothing_are_ranked(objective, name):
    pool = certain(make_pool())
    assert_complete(rank(pool, plan_of(objective, name), 25, np.random.default_rng(0)), 25)
    blank = replace(pool, embeddings=np.zeros((60, 80)), labelled_embeddings=None, labelled_probabilities=None)
    assert_complete(rank(blank, plan_of(objective, name), 25, np.random.default_rng(0)), 25)


@pytest.mark.parametrize(("objective", "name"), METHODS)
@several_or_one
def test_a_pool_of_one_task_or_none_is_ranked(make, objective, name):
    for n in (0, 1):
        pool = rows_of(make(), np.arange(n))
        assert_complete(rank(pool, plan_of(objective, name), n, np.random.default_rng(0)), n)


@pytest.mark.parametrize(("objective", "name"), METHODS)
def test_a_lone_label_and_labels_nobody_doubts_are_ranked(objective, name):
    pool = make_pool()
    for columns, worth in ((1, 0.3), (4, 0.0), (4, 1.0)):
        beliefs = {
            key: np.full((*getattr(pool, key).shape[:-1], columns), worth)
            for key in ("probabilities", "labelled_probabilities", *BY_MEMBER)
        }
        names, counts = tuple("abcd"[:columns]), np.zeros(columns)
        labels = replace(
            pool,
            **beliefs,
            questions=np.arange(columns),
            class_names=names,
            labelled_counts=counts,
            cost_matrix=np.eye(columns),
        )
        assert_complete(rank(labels, plan_of(objective, name), 25, np.random.default_rng(0)), 25)


@pytest.mark.parametrize(("objective", "name"), METHODS)
def test_before_the_first_model_everything_that_asks_for_one_gives_way(objective, name):
    pool = replace(make_pool(), **dict.fromkeys(["probabilities", *BY_MEMBER, "predicted_loss"]))
    ranking = rank(pool, plan_of(objective, name), 10, np.random.default_rng(0))
    assert_complete(ranking, 10)
    assert ranking.regime == "cold start"


@pytest.mark.parametrize(("objective", "name"), METHODS)
def test_a_preference_pulls_tasks_into_the_batch_the_more_the_stronger_it_is(objective, name):
    pool = replace(make_pool(), metadata={"sharp": np.arange(60)})
    means = []
    for strength in (-4, 0.001, 4):
        chosen = {objective: {"method": name, "strength": 1}, "metadata": [{"field": "sharp", "strength": strength}]}
        plan = Plan.from_json({"preset": "random", "objectives": chosen, "explore": 0})
        batches = [rank(pool, plan, 8, np.random.default_rng(seed)).indices for seed in range(12)]
        means.append(np.mean(batches))
    assert means[0] < means[1] < means[2]


@pytest.mark.parametrize(("objective", "name"), METHODS)
def test_the_stronger_a_method_is_the_less_a_preference_beside_it_decides(objective, name):
    sharp = np.random.default_rng(9).permutation(60)
    pool = replace(make_pool(), metadata={"sharp": sharp})
    means = []
    for strength in (0.25, 1, 4):
        chosen = {objective: {"method": name, "strength": strength}, "metadata": [{"field": "sharp"}]}
        plan = Plan.from_json({"preset": "random", "objectives": chosen, "explore": 0})
        batches = [rank(pool, plan, 8, np.random.default_rng(seed)).indices for seed in range(20)]
        means.append(sharp[np.concatenate(batches)].mean())
    assert means[0] >= means[1] >= means[2]
    assert means[0] > means[2]


INVERTIBLE = [(method.objective, method.name) for method in strategies() if method.kind != "picker"]


@pytest.mark.parametrize(("objective", "name"), INVERTIBLE)
def test_a_negative_strength_looks_for_the_opposite(objective, name):
    pool, means = make_pool(), []
    for strength in (-2, 2):
        chosen = {objective: {"method": name, "strength": strength}}
        plan = Plan.from_json({"preset": "random", "objectives": chosen, "explore": 0})
        means.append(rank(pool, plan, 8, np.random.default_rng(0)).factors[objective].mean())
    assert means[0] < means[1]


@pytest.mark.parametrize("name", [name for objective, name in METHODS if (objective, name) not in INVERTIBLE])
def test_a_method_that_cannot_be_inverted_says_so(name):
    plan = Plan.from_json({"objectives": {"diversity": {"method": name, "strength": -1.5}}})
    with pytest.raises(StrategyError, match=f"'{name}' has strength -1.5; expected 0 or more.*Use the method"):
        rank(make_pool(), plan, 3, np.random.default_rng(0))


@pytest.mark.parametrize("preset", sorted(presets()))
@several_or_one
def test_a_preset_ranks_the_same_way_twice_whatever_the_order_of_the_rows_and_changes_nothing(make, preset):
    pool, plan = make(), Plan.preset(preset)
    mixed = rows_of(pool, np.random.default_rng(7).permutation(60))
    before = {item.name: np.array(getattr(pool, item.name), copy=True) for item in fields(Pool)}
    first, again, other = (rank(each, plan, 20, np.random.default_rng(3)) for each in (pool, pool, mixed))
    assert_complete(first, 20)
    assert first.indices.tolist() == again.indices.tolist()
    assert pool.ids[first.indices].tolist() == mixed.ids[other.indices].tolist()
    assert first.reasons == again.reasons == other.reasons
    for name, value in before.items():
        np.testing.assert_array_equal(np.array(getattr(pool, name)), value)  # NaN equals NaN


@pytest.mark.parametrize(("objective", "name"), METHODS)
@pytest.mark.parametrize("explore", [0, 0.25])
def test_outliers_come_last_by_every_method(objective, name, explore):
    rng = np.random.default_rng(0)
    crowd, strays = rng.normal(size=(54, 80)) * 0.3 + 1, rng.normal(size=(6, 80)) * 0.3 - np.eye(80)[:6] * 40
    pool = replace(make_pool(), embeddings=unit_rows(np.concatenate([strays, crowd])))
    chosen = {"representativeness": {"strength": 0, "drop_outliers": 0.1}, objective: {"method": name, "strength": 1}}
    if objective == "representativeness":
        chosen[objective]["drop_outliers"] = 0.1
    plan = Plan.from_json({"preset": "random", "objectives": chosen, "explore": explore})
    assert rank(pool, plan, 40, np.random.default_rng(0)).indices.min() > 5
    if not explore:  # a random pick near the end may be the last task that is left
        assert set(rank(pool, plan, 60, np.random.default_rng(0)).indices[-6:].tolist()) == set(range(6))


def test_the_default_plan_asks_for_embeddings_and_one_model_only():
    chosen = Plan.preset("auto").objectives
    needs = set()
    for method in strategies():
        if getattr(chosen, method.objective).method == method.name:
            needs |= method.needs
    assert needs == {"embeddings", "probabilities"}
