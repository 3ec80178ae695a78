from __future__ import annotations

import numpy as np
import pytest
import scipy.cluster.hierarchy
import scipy.stats
from sklearn.metrics import adjusted_rand_score, pairwise_distances
from sklearn.neighbors import NearestNeighbors

from ls_backend.strategies import Pool, clustering, unit_rows
from ls_backend.strategies.clustering import clue, cluster_margin, drop_query, linked, typicality, typiclust


def crowds(sizes, d=6, spread=0.05, seed=0):
    """Tight groups of points around the axes."""
    rng = np.random.default_rng(seed)
    z = [np.eye(d)[index] + rng.normal(size=(size, d)) * spread for index, size in enumerate(sizes)]
    return unit_rows(np.concatenate(z)), np.repeat(np.arange(len(sizes)), sizes)


def distributions(n, c=3, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(c, 0.7), size=n)


def test_clue_takes_the_task_nearest_to_the_mean_of_each_group_weighted_by_entropy():
    z, group = crowds([30, 20, 10, 25])
    p = distributions(85)
    rows, values, _ = clue(Pool(z, p), np.ones(85), 4, np.random.default_rng(0))
    doubt = scipy.stats.entropy(p, axis=1)
    expected = []
    for index in np.argsort([-doubt[group == index].sum() for index in range(4)]):
        own = np.flatnonzero(group == index)
        mean = np.average(z[own], axis=0, weights=doubt[own])
        expected.append(own[np.argmin(np.linalg.norm(z[own] - mean, axis=1))])
    assert rows.tolist() == expected
    totals = np.array([doubt[group == group[row]].sum() for row in rows])
    assert values == pytest.approx(totals / totals.max(), abs=1e-4)


def test_a_batch_of_more_tasks_than_groups_takes_each_group_in_turns(monkeypatch):
    monkeypatch.setattr(clustering, "MAX_GROUPS", 3)
    z, group = crowds([12, 12, 12])
    rows, values, _ = clue(Pool(z, distributions(36)), np.ones(36), 9, np.random.default_rng(0))
    for turn in range(3):
        assert set(group[rows[3 * turn : 3 * turn + 3]]) == {0, 1, 2}
    assert values[0] == 1
    assert (np.diff(values) <= 0).all()


def test_drop_query_takes_the_middle_of_each_group_among_the_tasks_whose_answer_changes():
    z, group = crowds([200, 200, 200])
    certain = np.tile([0.9, 0.1], (600, 1))
    masked = np.repeat(certain[None], 3, axis=0)
    rng = np.random.default_rng(0)
    often = np.sort(rng.choice(600, 120, replace=False))
    masked[:2, often] = [0.1, 0.9]
    masked[2, rng.choice(600, 300, replace=False)] = [0.1, 0.9]  # once is not enough
    rows, _, _ = drop_query(Pool(z, certain, dropout_probabilities=masked), np.ones(600), 3, rng)
    expected = set()
    for index in range(3):
        own = often[group[often] == index]
        expected.add(int(own[np.argmin(np.linalg.norm(z[own] - z[own].mean(axis=0), axis=1))]))
    assert set(rows.tolist()) == expected


def test_where_no_answer_changes_drop_query_looks_at_all_tasks():
    z, group = crowds([50, 50, 50])
    p = np.tile([0.9, 0.1], (150, 1))
    pool = Pool(z, p, dropout_probabilities=np.repeat(p[None], 3, axis=0))
    rows, _, _ = drop_query(pool, np.ones(150), 3, np.random.default_rng(0))
    assert set(group[rows]) == {0, 1, 2}


@pytest.mark.parametrize("size", [2, 9, 70])
def test_typicality_is_one_over_the_mean_distance_to_the_neighbours(size):
    z = unit_rows(np.random.default_rng(0).normal(size=(size, 5)))
    n_near = max(1, min(20, size // 2))
    distances, _ = NearestNeighbors(n_neighbors=n_near + 1).fit(z).kneighbors(z)
    assert np.allclose(typicality(z), 1 / distances[:, 1:].mean(axis=1), rtol=1e-3)


def test_typiclust_takes_the_most_typical_task_of_each_group_without_labels_the_largest_first():
    z, group = crowds([40, 60, 30, 50, 20, 3])
    labelled, _ = crowds([2, 1], seed=5)  # in the groups 0 and 1
    rows, values, typical = typiclust(Pool(z, labelled_embeddings=labelled), np.ones(203), 3, np.random.default_rng(1))
    assert group[rows].tolist() == [3, 2, 4]
    for row in rows:
        own = np.flatnonzero(group == group[row])
        near = np.sort(pairwise_distances(z[own]), axis=1)[:, 1 : min(20, len(own) // 2) + 1].mean(axis=1)
        assert row == own[np.argmin(near)]
    assert values.tolist() == [1, 1, 1]
    assert typical == 1  # of 103 of the 203 tasks


def test_typiclust_returns_to_a_group_after_all_others_and_to_small_ones_last():
    z, _ = crowds([8, 3, 12])
    rows, values, _ = typiclust(Pool(z), np.ones(23), 23, np.random.default_rng(0))
    assert sorted(rows.tolist()) == list(range(23))
    assert np.isfinite(values).all()


def test_a_large_group_is_compared_with_a_sample(monkeypatch):
    z = unit_rows(np.random.default_rng(0).normal(size=(900, 4)) + 1)
    whole = typicality(z)
    monkeypatch.setattr(clustering, "N_REFERENCES", 300)
    assert scipy.stats.spearmanr(whole, typicality(z)).statistic > 0.9


@pytest.mark.parametrize("n_groups", [1, 4, 17, 60])
def test_merging_by_mean_distance_agrees_with_scipy(n_groups):
    z = unit_rows(np.random.default_rng(0).normal(size=(60, 5)))
    tree = scipy.cluster.hierarchy.linkage(z.astype(float), "average")
    expected = scipy.cluster.hierarchy.fcluster(tree, n_groups, "maxclust")
    ours = linked(z, n_groups, np.random.default_rng(0))
    assert len(np.unique(ours)) == n_groups
    assert adjusted_rand_score(expected, ours) == 1


def test_a_large_pool_is_merged_from_small_groups(monkeypatch):
    monkeypatch.setattr(clustering, "MAX_CLUSTERS", 30)
    z, group = crowds([100, 50, 20, 80])
    assert adjusted_rand_score(group, linked(z, 4, np.random.default_rng(0))) == 1


def test_cluster_margin_takes_the_closest_calls_of_the_groups_in_turns_the_smallest_first():
    z, group = crowds([60, 90, 70])
    p = distributions(220)
    rows, values, _ = cluster_margin(Pool(z, p), np.ones(220), 3, np.random.default_rng(0))
    top = np.sort(p, axis=1)
    gap = top[:, -1] - top[:, -2]
    candidates = np.argsort(gap)[:30]
    sizes = np.bincount(group[candidates], minlength=3)
    expected = [candidates[group[candidates] == index][0] for index in np.lexsort((np.arange(3), sizes))]
    assert set(rows.tolist()) == set(expected)
    assert sizes[group[rows]].tolist() == sorted(sizes)
    assert values == pytest.approx(1 - gap[rows], abs=1e-6)
