from __future__ import annotations

import numpy as np
import pytest

from ls_backend.errors import PoolInvalid
from ls_backend.strategies import Plan, Pool, presets, rank, unit_rows


def make_pool(n=300, d=24, c=4, m=12, seed=0, **changes):
    rng = np.random.default_rng(seed)
    fields = {
        "embeddings": unit_rows(rng.normal(size=(n, d))),
        "probabilities": rng.dirichlet(np.full(c, 0.6), size=n),
        "labelled_embeddings": unit_rows(rng.normal(size=(m, d))),
        "labelled_counts": rng.integers(0, 6, size=c),
        "class_names": tuple("abcdefgh"[:c]),
    }
    return Pool(**{**fields, **changes})


@pytest.mark.parametrize("preset", sorted(presets()))
@pytest.mark.parametrize("k", [0, 1, 7, 300])
def test_picks_are_distinct_and_as_many_as_asked_for(preset, k):
    ranking = rank(make_pool(), Plan.preset(preset), k, np.random.default_rng(3))
    assert len(ranking.indices) == len(set(ranking.indices.tolist())) == len(ranking.reasons) == k
    assert all(len(values) == k for values in [*ranking.factors.values(), *ranking.ratios.values()])
    assert np.isfinite(ranking.utilities).all()


def test_asking_for_more_than_the_pool_holds_is_an_error_with_both_numbers():
    with pytest.raises(PoolInvalid, match=r"301 .* 300"):
        rank(make_pool(), Plan.preset("auto"), 301, np.random.default_rng(0))
