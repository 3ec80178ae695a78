from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import scipy.stats
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances

from ls_backend.strategies import kmeans, unit_rows
from ls_backend.strategies.kmeans import k_means, plus_plus


def points(n, d=4, seed=0):
    return unit_rows(np.random.default_rng(seed).normal(size=(n, d)))


def squares_of(z):
    table = pairwise_distances(z, metric="sqeuclidean").astype(np.float32)
    table[table < 1e-6] = 0.0
    return lambda rows, others: table[np.ix_(rows, others)]


@pytest.mark.parametrize("lag", [1, 4])
def test_draws_have_the_chances_of_computing_every_distance_anew(monkeypatch, lag):
    monkeypatch.setattr(kmeans, "LAG", lag)  # 1: the distances are never up to date
    z, weights = points(6), np.array([1.0, 2, 1, 0.5, 1, 3])
    squares = pairwise_distances(z, metric="sqeuclidean")
    chances = {}
    for batch in permutations(range(1, 6), 2):
        chance, taken = 1.0, [0]
        for row in batch:
            mass = weights * squares[:, taken].min(axis=1)
            chance *= mass[row] / mass.sum()
            taken.append(row)
        chances[batch] = chance
    draws = Counter(
        tuple(plus_plus(squares_of(z), weights, 0, 3, np.random.default_rng(seed))[0][1:].tolist())
        for seed in range(2500)
    )
    frequent = [batch for batch, chance in chances.items() if chance * 2500 >= 5]
    observed = [draws[batch] for batch in frequent]
    expected = np.array([chances[batch] for batch in frequent])
    assert sum(observed) > 2300
    assert scipy.stats.chisquare(observed, expected / expected.sum() * sum(observed)).pvalue > 1e-3


def test_drawn_distances_are_those_to_the_nearest_earlier_point():
    z = points(200)
    rows, drawn = plus_plus(squares_of(z), np.ones(200), 7, 60, np.random.default_rng(0))
    squares = pairwise_distances(z, metric="sqeuclidean")
    assert len(set(rows.tolist())) == 60
    for position in range(1, 60):
        assert drawn[position] == pytest.approx(squares[rows[position], rows[:position]].min(), rel=1e-4)


def test_draws_end_where_nothing_differs_any_more():
    z = np.repeat(points(3), 5, axis=0)
    rows, _ = plus_plus(squares_of(z), np.ones(15), 0, 10, np.random.default_rng(0))
    assert sorted(row // 5 for row in rows) == [0, 1, 2]


def test_groups_are_as_tight_as_those_of_scikit_learn():
    z = points(600, d=6)
    theirs = KMeans(20, n_init=1, random_state=0).fit(z).inertia_
    ours = [k_means(z, 20, np.random.default_rng(seed)).squares.sum() for seed in range(3)]
    assert min(ours) <= theirs * 1.03


def test_every_centre_is_the_weighted_mean_of_its_points_and_every_point_is_with_the_nearest_centre():
    z, weights = points(150), np.random.default_rng(3).random(150)
    groups = k_means(z, 7, np.random.default_rng(0), weights)
    assert (pairwise_distances(z, groups.centres).argmin(axis=1) == groups.labels).all()
    for index in range(7):
        own = groups.labels == index
        assert np.allclose(groups.centres[index], np.average(z[own], axis=0, weights=weights[own]), atol=1e-5)


def test_weights_count_as_repetitions_would():
    z = points(40)
    theirs = KMeans(4, init=z[:4], n_init=1).fit(z, sample_weight=np.arange(40.0))
    ours = k_means(z, 4, np.random.default_rng(0), np.arange(40.0))
    assert np.sum(ours.squares * np.arange(40)) <= theirs.inertia_ * 1.2


def test_a_large_set_is_fitted_on_a_sample_of_it(monkeypatch):
    z = points(3000)
    whole = k_means(z, 10, np.random.default_rng(0)).squares.sum()
    monkeypatch.setattr(kmeans, "FIT_ROWS", 600)
    assert k_means(z, 10, np.random.default_rng(0)).squares.sum() <= whole * 1.1


def test_there_are_no_more_groups_than_distinct_points():
    groups = k_means(np.repeat(points(3), 4, axis=0), 9, np.random.default_rng(0))
    assert len(groups.centres) == 3
    assert groups.squares.max() < 1e-6
    alone = k_means(points(1), 5, np.random.default_rng(0), np.zeros(1))
    assert alone.labels.tolist() == [0]
