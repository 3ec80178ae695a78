from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from ls_backend.strategies import Pool, reduction, unit_rows


def low_rank(n=500, d=200, rank=30, seed=0):
    rng = np.random.default_rng(seed)
    scales = 1.2 ** -np.arange(rank)
    return unit_rows(
        (rng.normal(size=(n, rank)) * scales) @ rng.normal(size=(rank, d)) + 0.01 * rng.normal(size=(n, d))
    )


def test_it_keeps_as_much_variance_as_sklearn_does():
    data = low_rank()
    ours = reduction.fit_reduction(data)
    centred = data - data.mean(axis=0)
    kept = np.square(centred @ ours.components).sum()
    best = np.square(PCA(reduction.DIMENSIONS, svd_solver="full").fit_transform(data)).sum()
    assert kept == pytest.approx(best, rel=2e-3)
    assert np.allclose(ours.components.T @ ours.components, np.eye(64), atol=1e-4)


def test_distances_survive():
    data = low_rank()
    reduced = reduction.fit_reduction(data).apply(data)
    full = unit_rows(data - data.mean(axis=0))
    near, far = full @ full[0], reduced @ reduced[0]
    assert np.abs(near - far).max() < 0.02


def test_rows_are_of_unit_length_and_nothing_becomes_noise():
    data = np.repeat(unit_rows(np.ones((1, 100))), 40, axis=0)
    assert not reduction.fit_reduction(data).apply(data).any()
    data = low_rank(n=40, d=100)
    data[3] = 0
    reduced = reduction.fit_reduction(data).apply(data)
    assert np.linalg.norm(reduced, axis=1) == pytest.approx([float(i != 3) for i in range(40)], abs=1e-4)


def test_few_dimensions_are_only_centred():
    data = low_rank(d=16)
    reduced = reduction.fit_reduction(data).apply(data)
    assert np.allclose(reduced, unit_rows(data - data.mean(axis=0)), atol=1e-5)


def test_a_view_of_some_rows_keeps_what_belongs_to_them():
    pool = Pool(
        low_rank(30),
        np.tile([0.25, 0.75], (30, 1)),
        metadata={"blur": np.arange(30)},
        ids=np.arange(100, 130),
        labelled_embeddings=low_rank(4),
    )
    seen = reduction.view(pool, np.array([7, 3, 9]), embeddings="reduced")
    assert seen.ids.tolist() == [107, 103, 109]
    assert seen.metadata["blur"].tolist() == [7, 3, 9]
    assert seen.embeddings.shape == (3, 64)
    assert seen.labelled_embeddings.shape == (4, 64)
