from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from ls_backend.errors import StrategyError, StrategyNotReady
from ls_backend.settings import MetadataRule
from ls_backend.strategies import Pool, unit_rows
from ls_backend.strategies.metadata import admitted, preference, rank_fractions


def pool_of(**columns):
    n = len(next(iter(columns.values())))
    return Pool(unit_rows(np.ones((n, 2))), metadata={name: np.asarray(c) for name, c in columns.items()})


def test_min_and_max_keep_the_ends_and_tasks_without_the_field():
    pool = pool_of(light=[9.9, 10, 15, 20, 20.1, np.nan])
    keep = admitted(pool, [MetadataRule(field="light", min=10, max=20)])
    assert keep.tolist() == [False, True, True, True, False, True]


def test_weight_0_keeps_a_category_out_and_values_not_listed_in():
    pool = pool_of(site=["A", "B", "C"])
    assert admitted(pool, [MetadataRule(field="site", weights={"A": 0, "B": 2})]).tolist() == [False, True, True]
    assert preference(pool, MetadataRule(field="site", weights={"A": 0, "B": 2})).tolist() == [0, 1, 0.5]


def test_weights_also_match_numbers_by_their_text():
    assert preference(pool_of(site=[1, 2]), MetadataRule(field="site", weights={"2": 4})).tolist() == [0.25, 1]


def test_numbers_written_as_words_are_read():
    pool = pool_of(blur=np.array(["3", "", None, "1"], dtype=object))
    assert preference(pool, MetadataRule(field="blur")).tolist() == [1, 0.5, 0.5, 0.5]


def test_words_where_numbers_are_expected_are_an_error_that_names_one():
    with pytest.raises(StrategyError, match="'blur' holds 'sharp'; expected numbers"):
        preference(pool_of(blur=["sharp", "3"]), MetadataRule(field="blur"))


def test_an_unknown_field_is_an_error_that_names_the_known_ones():
    with pytest.raises(StrategyNotReady, match=r"'lighting'; known fields: \['blur'\]"):
        admitted(pool_of(blur=[1, 2]), [MetadataRule(field="lighting")])


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30))
def test_rank_fractions_agree_with_scipy(numbers):
    expected = scipy.stats.rankdata(numbers) / len(numbers)
    assert np.allclose(rank_fractions(np.array(numbers, dtype=float)), expected)
