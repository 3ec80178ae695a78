from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from ls_backend.strategies import Pool, unit_rows
from ls_backend.strategies.uncertainty import entropy, least_confidence, margin


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


def test_least_confidence_orders_by_the_likeliest_class(probabilities):
    assert (np.argsort(least_confidence(pool_of(probabilities))) == np.argsort(-probabilities.max(axis=1))).all()


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
