from __future__ import annotations

import numpy as np
import pytest

from ls_backend.strategies import nearest_distances, unit_rows


def brute_force(embeddings):
    likeness = embeddings.astype(np.float64) @ embeddings.T.astype(np.float64)
    np.fill_diagonal(likeness, -np.inf)
    return 1 - likeness.max(axis=1)


def clouds(n, d, n_clouds=30, seed=0):
    rng = np.random.default_rng(seed)
    return unit_rows(rng.normal(size=(n_clouds, d))[rng.integers(n_clouds, size=n)] + 0.4 * rng.normal(size=(n, d)))


def test_a_small_pool_of_few_dimensions_is_measured_exactly():
    embeddings = clouds(700, 20)
    np.testing.assert_allclose(nearest_distances(embeddings), brute_force(embeddings), atol=1e-6)


@pytest.mark.parametrize(("n", "d"), [(3000, 48), (3000, 256)])
def test_near_duplicates_are_found_in_a_large_pool_and_no_distance_is_too_small(n, d):
    embeddings = clouds(n, d)
    rng = np.random.default_rng(1)
    copies = unit_rows(embeddings[:200] + 0.02 * rng.normal(size=(200, d)) / np.sqrt(d))
    whole = np.concatenate([embeddings, copies])[rng.permutation(n + 200)]
    true, found = brute_force(whole), nearest_distances(whole)
    assert (found >= true - 1e-6).all()
    close = true < 0.01
    assert close.sum() >= 400
    np.testing.assert_allclose(found[close], true[close], atol=1e-4)
    assert np.median(found / true) < 1.1


def test_copies_are_at_no_distance_however_many_there_are():
    embeddings = np.concatenate([np.repeat(clouds(1, 8), 5000, axis=0), clouds(600, 8, seed=2)])
    found = nearest_distances(embeddings)
    assert found[:5000].max() < 1e-6
    np.testing.assert_allclose(found[5000:], brute_force(embeddings)[5000:], atol=0.2)


@pytest.mark.parametrize("embeddings", [np.zeros((0, 3)), np.zeros((4, 3)), np.eye(3)[:1]])
def test_without_another_task_there_is_no_distance(embeddings):
    assert np.isnan(nearest_distances(embeddings.astype(np.float32))).all()


def test_a_task_without_direction_is_nobodys_neighbour():
    embeddings = np.array([[0, 0], [1, 0], [0, 1]], np.float32)
    np.testing.assert_allclose(nearest_distances(embeddings), [np.nan, 1, 1])
