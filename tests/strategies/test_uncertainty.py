from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from ls_backend.strategies import Pool, unit_rows
from ls_backend.strategies.uncertainty import entropy, expected_cost, learning_loss, least_confidence, margin


def pool_of(probabilities):
    return Pool(unit_rows(np.ones((len(probabilities), 2))), probabilities)


@pytest.fixture
def probabilities():
    return np.random.default_rng(0).dirichlet(np.full(6, 0.3), size=200)


def test_margin_is_the_gap_between_the_two_likeliest_classes(probabilities):
    expected = [1 - (row[-1] - row[-2]) for row in np.sort(probabilities, axis=1)]
    assert np.allclose(margin(pool_of(probabilities)), expected, atol=1e-6)


def test_entropy_agrees_with_scipy(probabilities):
    expected = scipy.stats.entropy(probabilities, axis=1, base=6)
    assert np.allclose(entropy(pool_of(probabilities)), expected, atol=1e-6)


def test_least_confidence_is_the_chance_of_error_next_to_that_of_guessing(probabilities):
    expected = [(1 - max(row)) / (1 - 1 / 6) for row in probabilities.tolist()]
    assert np.allclose(least_confidence(pool_of(probabilities)), expected, atol=1e-6)


@pytest.mark.parametrize("measure", [margin, entropy, least_confidence])
@pytest.mark.parametrize("n_classes", [2, 3, 50])
def test_certainty_is_0_and_ignorance_is_1(measure, n_classes):
    certain, ignorant = np.eye(n_classes)[0], np.full(n_classes, 1 / n_classes)
    assert measure(pool_of([certain, ignorant])) == pytest.approx([0, 1], abs=1e-5)


@pytest.mark.parametrize("measure", [margin, entropy, least_confidence])
def test_with_two_classes_all_measures_agree_on_the_order(measure):
    first = np.linspace(0.01, 0.99, 50)
    doubts = measure(pool_of(np.stack([first, 1 - first], axis=1)))
    assert (np.diff(doubts[:25]) > 0).all()
    assert (np.diff(doubts[25:]) < 0).all()


def test_expected_cost_is_what_the_cheapest_answer_is_expected_to_cost(probabilities):
    costs = np.random.default_rng(1).random((6, 6)) * 7
    pool = Pool(unit_rows(np.ones((200, 2))), probabilities, cost_matrix=costs)
    for row, cost in zip(probabilities[:40], expected_cost(pool), strict=False):
        answers = [sum(row[truth] * costs[truth, answer] for truth in range(6)) for answer in range(6)]
        assert cost == pytest.approx(min(answers) / costs.max(), abs=1e-6)


def test_with_equal_costs_of_all_mistakes_expected_cost_orders_as_least_confidence_does(probabilities):
    pool = Pool(unit_rows(np.ones((200, 2))), probabilities, cost_matrix=1 - np.eye(6))
    assert np.allclose(expected_cost(pool), least_confidence(pool) * 5 / 6, atol=1e-6)


def test_a_mistake_that_costs_much_is_asked_about_before_one_that_costs_little():
    costs = [[0, 1], [100, 0]]  # to overlook class 1 is what hurts
    pool = Pool(unit_rows(np.ones((2, 2))), [[0.3, 0.7], [0.97, 0.03]], cost_matrix=costs)
    assert np.argmax(expected_cost(pool)) == 1


def test_learning_loss_is_the_rank_of_the_predicted_loss():
    losses = np.random.default_rng(2).normal(size=30)
    pool = Pool(unit_rows(np.ones((30, 2))), np.full((30, 2), 0.5), predicted_loss=losses)
    assert learning_loss(pool) == pytest.approx(scipy.stats.rankdata(losses) / 30)
