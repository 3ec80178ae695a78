from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import pairwise_distances

from ls_backend.strategies import Pool, unit_rows
from ls_backend.strategies.sampling import badge, falcun


def pool_of(n, c=3, d=4, seed=0):
    rng = np.random.default_rng(seed)
    return Pool(unit_rows(rng.normal(size=(n, d))), rng.dirichlet(np.full(c, 0.7), size=n))


def gradients(pool):
    """Every gradient in full, as the paper writes it."""
    rows = []
    for p, z in zip(pool.probabilities.astype(float), pool.embeddings.astype(float), strict=True):
        residual = p.copy()
        residual[np.argmax(p)] -= 1
        rows.append(np.outer(residual, z).ravel())
    return np.array(rows)


def test_badge_begins_with_the_longest_gradient_and_measures_distances_between_gradients():
    pool = pool_of(120)
    full = gradients(pool)
    rows, values, typical = badge(pool, np.ones(120), 30, np.random.default_rng(0))
    lengths = np.linalg.norm(full, axis=1)
    distances = pairwise_distances(full) / (2 * lengths.max())
    assert rows[0] == np.argmax(lengths)
    assert values[0] == 1
    assert typical == pytest.approx(np.median(distances[:, rows[0]]), abs=1e-4)
    for position in range(1, 30):
        assert values[position] == pytest.approx(distances[rows[position], rows[:position]].min(), abs=1e-4)


def test_badge_draws_by_squared_distance_times_weight():
    pool, weights = pool_of(8), np.array([1.0, 2, 1, 0.5, 1, 3, 1, 1])
    full = gradients(pool)
    first = np.argmax(weights * np.linalg.norm(full, axis=1) ** 2)
    mass = weights * pairwise_distances(full, metric="sqeuclidean")[first]
    seconds = Counter(int(badge(pool, weights, 2, np.random.default_rng(seed))[0][1]) for seed in range(3000))
    others = [row for row in range(8) if row != first]
    expected = mass[others] / mass.sum() * 3000
    assert scipy.stats.chisquare([seconds[row] for row in others], expected).pvalue > 1e-3


def test_badge_takes_one_of_many_twins_first():
    twins = pool_of(6)
    pool = Pool(np.repeat(twins.embeddings, 50, axis=0), np.repeat(twins.probabilities, 50, axis=0))
    rows, values, _ = badge(pool, np.ones(300), 20, np.random.default_rng(0))
    assert len({int(row) // 50 for row in rows[:6]}) == 6
    assert (values[6:] == 0).all()
    assert len(set(rows.tolist())) == 20


def test_falcun_draws_by_doubt_plus_rescaled_distance_to_the_tenth():
    pool = pool_of(7)
    p = pool.probabilities.astype(float)
    top = np.sort(p, axis=1)
    doubt = 1 - (top[:, -1] - top[:, -2])
    pairs = Counter(tuple(falcun(pool, np.ones(7), 2, np.random.default_rng(seed))[0].tolist()) for seed in range(6000))
    chances = {}
    for first in range(7):
        start = (2 * doubt) ** 10
        distance = np.minimum(doubt, np.abs(p - p[first]).sum(axis=1))
        after = (doubt + (distance - distance.min()) / (distance.max() - distance.min())) ** 10
        after[first] = 0
        for second in range(7):
            chances[first, second] = start[first] / start.sum() * after[second] / after.sum()
    frequent = [pair for pair, chance in chances.items() if chance * 6000 >= 5]
    expected = np.array([chances[pair] for pair in frequent])
    observed = [pairs[pair] for pair in frequent]
    assert sum(observed) > 5500
    assert scipy.stats.chisquare(observed, expected / expected.sum() * sum(observed)).pvalue > 1e-3


def test_falcun_does_not_ask_about_the_same_hesitation_twice():
    probabilities = np.repeat([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [1, 0, 0, 0]], [40, 40, 20], axis=0)
    pool = Pool(np.zeros((100, 1)), probabilities)
    for seed in range(10):
        rows, values, typical = falcun(pool, np.ones(100), 2, np.random.default_rng(seed))
        assert sorted(row // 40 for row in rows) == [0, 1]
    assert values.tolist() == [1, 1]
    assert typical == 1


@pytest.mark.parametrize("method", [badge, falcun])
def test_a_model_certain_of_everything_leaves_the_draw_to_chance(method):
    pool = Pool(unit_rows(np.ones((10, 2))), np.tile([1.0, 0.0], (10, 1)))
    rows, values, typical = method(pool, np.ones(10), 10, np.random.default_rng(0))
    assert sorted(rows.tolist()) == list(range(10))
    assert np.isfinite(values).all()
    assert typical == 0
