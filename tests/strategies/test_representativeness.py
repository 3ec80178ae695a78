from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from ls_backend.strategies import Pool, unit_rows
from ls_backend.strategies.representativeness import density


def test_density_orders_by_the_mean_distance_to_the_20_nearest():
    z = unit_rows(np.random.default_rng(0).normal(size=(300, 4)))
    distances, _ = NearestNeighbors(n_neighbors=21).fit(z).kneighbors(z)
    expected = np.argsort(distances.sum(axis=1))
    found = np.argsort(-density(Pool(z)))
    assert np.mean(found == expected) > 0.97  # float32 against float64 may swap neighbours


@pytest.mark.parametrize("n", [0, 1, 2, 21])
def test_small_pools_are_judged_too(n):
    values = density(Pool(unit_rows(np.random.default_rng(0).normal(size=(n, 3)))))
    assert ((values > 0) & (values <= 1)).all()
