from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ls_backend.errors import StrategyError, StrategyNotReady
from ls_backend.settings import Balance, Value
from ls_backend.strategies import Pool, unit_rows
from ls_backend.strategies.balance import class_deficit, value


def pool_of(probabilities, counts=None, names=("cat", "dog", "eel")):
    return Pool(unit_rows(np.ones((len(probabilities), 2))), probabilities, labelled_counts=counts, class_names=names)


def deficits(counts, balance=Balance(), probabilities=((0.5, 0.25, 0.25),)):  # noqa: B008 - frozen
    return class_deficit(pool_of(probabilities, counts), balance).of_classes()


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
        class_deficit(pool_of([[0.5, 0.5]], names=None), Balance(target={"cat": 1}))


@given(st.lists(st.integers(0, 50), min_size=3, max_size=3), st.integers(0, 2))
def test_a_pick_makes_its_class_less_wanted_and_leaves_the_pool_counts_alone(counts, index):
    pool = pool_of(np.eye(3), counts)
    deficit = class_deficit(pool, Balance())
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
