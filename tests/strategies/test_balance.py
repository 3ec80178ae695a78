from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from ls_backend.errors import StrategyError, StrategyNotReady
from ls_backend.settings import Balance, Value
from ls_backend.strategies import Plan, Pool, cost_matrix, rank, unit_rows
from ls_backend.strategies.balance import cbal, class_deficit, minority, value


def pool_of(probabilities, counts=None, names=("cat", "dog", "eel")):
    return Pool(unit_rows(np.ones((len(probabilities), 2))), probabilities, labelled_counts=counts, class_names=names)


def deficits(counts, balance=Balance(), probabilities=((0.5, 0.25, 0.25),)):  # noqa: B008 - frozen
    return class_deficit(pool_of(probabilities, counts), balance, 9).of_classes()


def test_a_class_at_the_mean_count_is_worth_half_and_one_without_labels_everything():
    assert deficits([4, 8, 0]) == pytest.approx([0.5, 1 / 3, 1.0])


def test_without_labels_no_class_is_preferred():
    assert deficits(None).tolist() == [1, 1, 1]


def test_the_target_input_wants_the_shares_the_model_sees():
    matching = deficits([20, 10, 10], Balance(target="input"))
    assert matching == pytest.approx([0.5, 0.5, 0.5])


def test_given_shares_are_wanted_in_proportion_and_an_unwanted_class_not_at_all():
    wanted = deficits([30, 10, 10], Balance(target={"cat": 3, "dog": 1}))
    assert wanted[0] > wanted[1] * 0.9
    assert wanted[0] == pytest.approx(1 / (1 + 30 / (0.75 * 50)))
    assert wanted[2] < 1e-4


@pytest.mark.parametrize(
    ("target", "expected"),
    [({"cat": 1, "cow": 2}, r"\['cow'\], which are no classes"), ({"cat": 0}, "All shares .* are 0")],
)
def test_impossible_targets_are_refused(target, expected):
    with pytest.raises(StrategyError, match=expected):
        deficits([1, 1, 1], Balance(target=target))


def test_a_target_by_name_needs_class_names():
    with pytest.raises(StrategyNotReady, match="no class names"):
        class_deficit(pool_of([[0.5, 0.5]], names=None), Balance(target={"cat": 1}), 9)


@given(st.lists(st.integers(0, 50), min_size=3, max_size=3), st.integers(0, 2))
def test_a_pick_makes_its_class_less_wanted_and_leaves_the_pool_counts_alone(counts, index):
    pool = pool_of(np.eye(3), counts)
    deficit = class_deficit(pool, Balance(), 9)
    before = deficit.of_classes()
    deficit.add(np.eye(3, dtype=np.float32)[index])
    after = deficit.of_classes()
    others = [i for i in range(3) if i != index]
    assert after[index] <= before[index] + 1e-12
    assert (after[others] >= before[others] - 1e-12).all()
    assert after[index] < before[index] or not any(counts[i] for i in others)
    assert pool.labelled_counts.tolist() == counts


def test_value_is_the_expected_worth_of_a_label():
    worth = value(pool_of([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]]), Value(classes={"cat": 4.0}))
    assert worth == pytest.approx([1.0, 0.25, 0.625])


def test_value_of_a_class_that_does_not_exist_is_refused():
    with pytest.raises(StrategyError, match="'cow'"):
        value(pool_of(np.eye(3)), Value(classes={"cow": 4.0}))


def test_minority_weighs_a_class_by_how_few_labels_it_has_next_to_the_rarest():
    counts = (40, 3, 9)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), size=20)
    state = minority(np.array(counts), np.full(3, 1 / 3), 5)
    weights = [1 / (n + 1) for n in counts]
    expected = [sum(p * w for p, w in zip(row, weights, strict=True)) / max(weights) for row in probabilities]
    assert state.of_tasks(probabilities) == pytest.approx(expected)
    for _ in range(6):
        state.add(np.array([0, 1.0, 0]))
    assert np.argmax(state.of_classes()) == 1, "3 + 6 labels are no more than 9"


def test_cbal_counts_how_much_of_what_is_missing_a_task_fills():
    probabilities = np.random.default_rng(1).dirichlet(np.full(3, 0.4), size=30)
    state, missing = cbal(np.array([20, 4, 0]), np.full(3, 1 / 3), 6), np.array([-10.0, 6, 10])
    for task in range(5):
        expected = [(1 + np.abs(missing).sum() - np.abs(missing - row).sum()) / 2 for row in probabilities]
        assert state.of_tasks(probabilities) == pytest.approx(expected)
        state.add(probabilities[task])
        missing -= probabilities[task]


@pytest.mark.parametrize("seed", range(5))
def test_taken_one_by_one_a_batch_comes_most_of_the_way_from_chance_to_the_best_balance(seed):
    rng = np.random.default_rng(seed)
    probabilities, counts, k = rng.dirichlet(np.full(4, 0.4), size=40), rng.integers(0, 8, size=4), 8
    missing = (counts.sum() + k) / 4 - counts
    state, left, batch = cbal(counts, np.full(4, 0.25), k), np.ones(40, dtype=bool), np.zeros(4)
    for _ in range(k):
        best = int(np.argmax(np.where(left, state.of_tasks(probabilities), -1)))
        left[best] = False
        state.add(probabilities[best])
        batch += probabilities[best]
    # the paper's integer programme: choices z, and slacks s >= |P'z - missing| to be minimised
    above = np.hstack([probabilities.T, -np.eye(4)])
    below = np.hstack([-probabilities.T, -np.eye(4)])
    best = scipy.optimize.milp(
        np.concatenate([np.zeros(40), np.ones(4)]),
        integrality=np.concatenate([np.ones(40), np.zeros(4)]),
        bounds=scipy.optimize.Bounds(0, np.concatenate([np.ones(40), np.full(4, np.inf)])),
        constraints=[
            scipy.optimize.LinearConstraint(above, ub=missing),
            scipy.optimize.LinearConstraint(below, ub=-missing),
            scipy.optimize.LinearConstraint(np.concatenate([np.ones(40), np.zeros(4)])[None], k, k),
        ],
        options={"time_limit": 2.0},
    )
    by_chance = np.mean(
        [np.abs(probabilities[rng.permutation(40)[:k]].sum(axis=0) - missing).sum() for _ in range(300)]
    )
    assert np.abs(batch - missing).sum() - best.fun <= 0.25 * (by_chance - best.fun)


@pytest.mark.parametrize("method", ["minority", "cbal"])
def test_the_settings_choose_how_missing_classes_are_measured(method):
    pool = pool_of(np.eye(3), [9, 1, 5])
    worth = class_deficit(pool, Balance(method=method), 3).of_tasks(pool.probabilities)
    assert np.argmax(worth) == 1
    assert ((worth >= 0) & (worth <= 1)).all()


def test_costs_are_one_for_a_wrong_answer_and_nothing_for_the_right_one_unless_named():
    worth = Value(costs={"crack": {"fine": 20, "crack": 1}, "fine": {"dirt": 0.5}})
    assert cost_matrix(worth, ["fine", "crack", "dirt"]).tolist() == [[0, 1, 0.5], [20, 1, 1], [1, 1, 0]]


@pytest.mark.parametrize("costs", [{"krack": {"fine": 2}}, {"fine": {"krack": 2}}])
def test_costs_of_a_class_that_does_not_exist_name_it(costs):
    with pytest.raises(StrategyError, match=r"\['krack'\].*'crack'"):
        cost_matrix(Value(costs=costs), ["fine", "crack"])


def test_a_plan_names_the_classes_of_its_costs():
    plan = Plan.from_json({"objectives": {"value": {"costs": {"crack": {"fine": 20}}}}})
    assert plan.named_classes == {"crack", "fine"}


QUESTIONS = [0, 0, 0, 1, 2, 3]  # a choice of three and three labels


def several(probabilities, counts, questions=QUESTIONS):
    names = tuple("abcdef"[: len(questions)])
    embeddings = np.ones((len(probabilities), 1))
    return Pool(embeddings, probabilities, labelled_counts=counts, class_names=names, questions=questions)


@pytest.mark.parametrize("method", ["deficit", "minority", "cbal"])
def test_classes_are_compared_inside_a_choice_and_labels_with_each_other(method):
    probabilities = [[0.5, 0.3, 0.2, 0.9, 0.1, 0.5], [0.1, 0.3, 0.6, 0.7, 0.7, 0.1]]
    counts = np.array([8, 1, 3, 40, 2, 6])
    worth = class_deficit(several(probabilities, counts), Balance(method=method), 6).of_classes()
    choice = class_deficit(pool_of(np.full((2, 3), 1 / 3), counts[:3]), Balance(method=method), 6).of_classes()
    # 3 / 2 of the labels hold for a task, so a batch of 6 brings 9
    labels = class_deficit(pool_of(np.full((2, 3), 1 / 3), counts[3:]), Balance(method=method), 9).of_classes()
    assert worth == pytest.approx([*choice, *labels])


def test_a_task_is_worth_what_its_classes_are_beyond_those_with_most_labels():
    probabilities = np.array([[0.5, 0.3, 0.2, 0.9, 0.1, 0.5], [0.1, 0.3, 0.6, 0.7, 0.7, 0.1]])
    state = class_deficit(several(probabilities, [8, 1, 3, 40, 2, 6]), Balance(), 5)
    worth = state.of_classes()
    for row, found in zip(probabilities, state.of_tasks(probabilities), strict=True):
        choice = sum(row[i] * (worth[i] - worth[:3].min()) for i in range(3))
        labels = sum(row[i] * (worth[i] - worth[3:].min()) for i in range(3, 6))
        assert found == pytest.approx(min(1, worth.min() + choice + labels))


def test_where_labels_are_even_the_number_of_labels_of_a_task_does_not_matter():
    probabilities = [[0, 0, 0], [1, 0, 0], [1, 1, 1], [0.5, 0.2, 0]]
    worth = class_deficit(several(probabilities, [5, 5, 5], [0, 1, 2]), Balance(), 3).of_tasks(np.array(probabilities))
    assert np.ptp(worth) < 1e-9


def test_a_rare_label_counts_as_much_beside_a_frequent_one_as_alone():
    probabilities = np.array([[1, 0, 0], [1, 0, 1], [0, 0, 1], [0, 0, 0]])
    worth = class_deficit(several(probabilities, [50, 20, 1], [0, 1, 2]), Balance(), 3).of_tasks(probabilities)
    assert worth[1] == pytest.approx(worth[2])
    assert worth[0] == pytest.approx(worth[3])
    assert worth[1] > 2.9 * worth[0]


def test_picks_count_for_the_labels_they_are_expected_to_hold():
    state = class_deficit(several([[0.2, 0.3, 0.5, 1, 1, 0]], [4, 4, 4, 4, 4, 4]), Balance(), 3)
    even = state.of_classes()
    for _ in range(8):
        state.add(np.array([0.2, 0.3, 0.5, 1, 1, 0], dtype=np.float32))
    after = state.of_classes()
    assert np.allclose(even, 0.5)
    assert np.argsort(after[:3]).tolist() == [2, 1, 0]
    assert after[3] == after[4] < after[5]


def test_shares_are_those_within_a_question_and_those_not_named_are_even():
    target = {"a": 2, "b": 1, "c": 1}
    worth = class_deficit(several(np.full((1, 6), 1 / 3), [2, 1, 1, 6, 2, 4]), Balance(target=target), 3).of_classes()
    assert worth[0] == pytest.approx(worth[1]) == pytest.approx(worth[2])
    assert worth[3] < worth[5] < worth[4]


def test_a_target_of_the_input_is_the_share_of_each_label_among_the_labels():
    probabilities = [[0.2, 0.3, 0.5, 0.8, 0.2, 0.6], [0.2, 0.3, 0.5, 0.8, 0.2, 0.6]]
    pool = several(probabilities, [2, 3, 5, 8, 2, 6])
    worth = class_deficit(pool, Balance(target="input"), 3).of_classes()
    assert np.allclose(worth, 0.5)
    nothing = several(np.tile([1, 0, 0, 0, 0, 0], (2, 1)), [2, 3, 5, 8, 2, 6])
    assert np.isfinite(class_deficit(nothing, Balance(target="input"), 3).of_classes()).all()


def test_value_over_several_questions_is_what_likely_classes_are_worth_beyond_the_ordinary():
    probabilities = np.array([[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0], [0, 1, 0, 0.5, 1, 0]])
    worth = value(several(probabilities, None), Value(classes={"b": 3, "d": 4, "e": 0.5}))
    assert worth == pytest.approx(np.array([1, 3, 4, 1 + 2 + 1.5 - 0.5]) / 4)


def test_costs_lie_inside_a_question_and_those_of_a_label_are_of_any_wrong_answer():
    worth = Value(costs={"crack": {"fine": 20}, "rust": {"rust": 5}})
    found = cost_matrix(worth, ["fine", "crack", "rust", "dirt"], [0, 0, 1, 2])
    assert found.tolist() == [[0, 1, 0, 0], [20, 0, 0, 0], [0, 0, 5, 0], [0, 0, 0, 1]]
    with pytest.raises(StrategyError, match="'rust' for 'crack', which is another question"):
        cost_matrix(Value(costs={"crack": {"rust": 2}}), ["fine", "crack", "rust", "dirt"], [0, 0, 1, 2])


def test_missing_labels_matter_where_one_question_is_uneven():
    even = np.tile([1 / 3, 1 / 3, 1 / 3, 0.5, 0.5, 0.5], (20, 1))
    uneven = np.tile([1 / 3, 1 / 3, 1 / 3, 0.5, 0.1, 0.5], (20, 1))
    plan = Plan.from_json({"objectives": {"balance": {"above": 3}}})
    labels = {"low budget": [4, 4, 4, 4, 4, 4], "imbalance guard": [4, 4, 4, 12, 2, 12]}
    for beliefs, regime in ((even, "low budget"), (uneven, "imbalance guard")):
        pool = several(beliefs, labels[regime])
        ranking = rank(pool, plan, 3, np.random.default_rng(0))
        assert ranking.regime == regime
        assert ("balance" in ranking.factors) == (regime == "imbalance guard")
    assert ranking.regime_reason == "'d' is about 5 times as frequent as 'e', so missing classes come first"
