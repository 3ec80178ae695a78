from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import pairwise_distances

from ls_backend.strategies import Pool, balls, kmeans, unit_rows
from ls_backend.strategies.balls import n_classes, prob_cover, radius


def points(n, d=3, seed=0):
    return unit_rows(np.random.default_rng(seed).normal(size=(n, d)))


def test_prob_cover_takes_what_covers_most_open_points_as_counted_anew_for_each_pick(monkeypatch):
    monkeypatch.setattr(balls, "radius", lambda pool, rng: 0.4)
    z, labelled, weights = points(150), points(4, seed=3), np.random.default_rng(2).random(150) + 0.5
    rows, values, _ = prob_cover(Pool(z, labelled_embeddings=labelled), weights, 12, np.random.default_rng(0))
    close = pairwise_distances(z) <= 0.4
    covered = (pairwise_distances(z, labelled) <= 0.4).any(axis=1)
    most = close[:, ~covered].sum(axis=1).max()
    for row, value in zip(rows, values, strict=True):
        counts = close[:, ~covered].sum(axis=1)
        assert weights[row] * counts[row] == pytest.approx((weights * counts).max())
        assert value == pytest.approx(counts[row] / most)
        covered |= close[row]


def test_the_radius_is_the_largest_at_which_nearly_all_balls_are_pure():
    z = points(300)
    pool = Pool(z, labelled_counts=[0, 0, 0, 0])
    delta = radius(pool, np.random.default_rng(4))
    groups = kmeans.k_means(z, 4, np.random.default_rng(5)).labels  # other draws: groups need not be the same
    distances = pairwise_distances(z)

    def purity(size, groups):
        return np.mean([len(set(groups[distances[row] <= size])) == 1 for row in range(300)])

    rng = np.random.default_rng(4)
    rng.permutation(300)
    groups = kmeans.k_means(z, 4, rng).labels
    assert purity(delta, groups) >= 0.95
    assert purity(delta * 1.05 + 0.003, groups) < 0.95


def test_the_number_of_classes_comes_from_whatever_the_pool_knows():
    z = points(4)
    assert n_classes(Pool(z, class_names=("a", "b", "c"))) == 3
    assert n_classes(Pool(z, labelled_counts=[1, 2])) == 2
    assert n_classes(Pool(z, np.full((4, 5), 0.2))) == 5
    assert n_classes(Pool(z)) == balls.USUAL_CLASSES


def test_twins_are_covered_by_one_pick():
    z = np.repeat(points(4), 20, axis=0)
    rows, values, _ = prob_cover(Pool(z, class_names=tuple("abcd")), np.ones(80), 80, np.random.default_rng(0))
    assert len({row // 20 for row in rows[:4]}) == 4
    assert values[4:].tolist() == [0] * 76
    assert sorted(rows.tolist()) == list(range(80))


def test_one_point_many_times_has_no_radius():
    z = np.repeat(points(1), 9, axis=0)
    assert radius(Pool(z), np.random.default_rng(0)) == 0
    rows, _, _ = prob_cover(Pool(z), np.ones(9), 3, np.random.default_rng(0))
    assert len(set(rows.tolist())) == 3


def test_where_all_is_labelled_already_the_other_factors_decide():
    z = points(30)
    weights = np.arange(1.0, 31)
    rows, values, typical = prob_cover(Pool(z, labelled_embeddings=z), weights, 3, np.random.default_rng(0))
    assert rows.tolist() == [29, 28, 27]
    assert values.tolist() == [0, 0, 0]
    assert typical == 0
