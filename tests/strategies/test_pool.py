from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ls_backend.errors import PoolInvalid
from ls_backend.strategies import Pool, unit_rows

UNIT = unit_rows(np.random.default_rng(0).normal(size=(5, 3)))


def with_row(array, row, value):
    changed = np.array(array, dtype=np.float32)
    changed[row] = value
    return changed


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"embeddings": UNIT[0]}, r"shape \(3,\); expected 2 axes"),
        ({"embeddings": np.zeros((5, 0))}, r"shape \(5, 0\); expected at least one"),
        ({"embeddings": [["a", "b"]]}, "cannot be read as numbers"),
        ({"embeddings": with_row(UNIT, 2, np.nan)}, "Row 2 of embeddings has length nan .1 such"),
        ({"embeddings": with_row(UNIT, 3, np.inf)}, "Row 3 of embeddings has length inf"),
        ({"embeddings": with_row(UNIT, 1, 7.0)}, "Row 1 .* length 12.12 .*unit_rows"),
        ({"member_probabilities": np.full((1, 5, 2), 0.5)}, r"member_probabilities have shape .*expected \(t, 5, c\)"),
        ({"dropout_probabilities": np.full((3, 5, 2), 0.7)}, "Row 0 of dropout_probabilities .* sum 1.4"),
        (
            {"probabilities": np.full((5, 2), 0.5), "member_probabilities": np.full((3, 5, 4), 0.25)},
            r"expected \(t, 5, 2\)",
        ),
        ({"labelled_probabilities": np.full((2, 2), 0.5)}, r"labelled_probabilities have .* expected \(0, c\)"),
        ({"cost_matrix": np.ones((2, 3))}, r"cost matrix has shape \(2, 3\); expected \(2, 2\)"),
        ({"probabilities": np.full((5, 2), 0.5), "cost_matrix": np.ones((3, 3))}, r"expected \(2, 2\)"),
        ({"cost_matrix": -np.eye(2)}, "expected costs of 0 or more"),
        ({"cost_matrix": np.zeros((2, 2))}, "at least one of them above 0"),
        ({"predicted_loss": [1, 2, np.nan, 3, 4]}, "5 entries, 4 of them finite; expected 5"),
        ({"labelled_embeddings": np.eye(4)}, "labelled_embeddings have 4 dimensions, embeddings have 3"),
        ({"probabilities": np.full((4, 2), 0.5)}, r"shape \(4, 2\); expected \(5, c\)"),
        ({"probabilities": np.ones((5, 1))}, "at least two classes"),
        ({"probabilities": np.full((5, 2), 0.7)}, r"Row 0 .* sum 1.4 \(5 such rows\).*softmax"),
        ({"probabilities": with_row(np.full((5, 2), 0.5), 4, [1.5, -0.5])}, "Row 4"),
        ({"probabilities": with_row(np.full((5, 2), 0.5), 4, np.nan)}, "Row 4"),
        ({"probabilities": np.full((5, 2), 0.5), "labelled_counts": [1, 2, 3]}, "3 entries, the pool has 2"),
        ({"labelled_counts": [1, -2]}, r"\[1.0, -2.0\]; expected numbers of labels"),
        ({"labelled_counts": [1, np.nan]}, "expected numbers of labels"),
        ({"metadata": {"blur": [1, 2]}}, r"'blur' has shape \(2,\); expected \(5,\)"),
        ({"class_names": ("a", "a")}, "expected c distinct labels"),
        ({"class_names": ("a", "b"), "labelled_counts": [1, 2, 3]}, "expected 3 distinct labels"),
        ({"ids": [1, 2, 3, 4, 4]}, "distinct integers"),
        ({"ids": [1.0, 2.0, 3.0, 4.0, 5.0]}, "float64; expected"),
        ({"questions": [0.0, 1.0]}, r"float64; expected \(c,\) integers.*number of its own"),
        ({"questions": []}, r"shape \(0,\)"),
        ({"questions": [[0, 1]]}, r"shape \(1, 2\)"),
        ({"questions": [0, 1, 2], "probabilities": np.full((5, 2), 0.5)}, r"expected \(5, 3\) .* each entry of que"),
        ({"questions": [0, 1, 2], "labelled_counts": [1, 2]}, "2 entries, the pool has 3"),
        ({"questions": [0, 1, 2], "class_names": ("a", "b")}, "expected 3 distinct labels"),
        (
            {"questions": [3, 0, 3], "probabilities": with_row(np.full((5, 3), 0.5), 2, [0.5, 0.1, 0.7])},
            r"Row 2 of probabilities is \[0.5 0.7\] in the columns \[0, 2\] with sum 1.2 \(1 such rows\).*softmax",
        ),
        (
            {"questions": [3, 0, 3], "member_probabilities": np.tile([0.5, 1.5, 0.5], (4, 5, 1))},
            r"Row 0 of member_probabilities is \[1.5\] in column 1 \(20 such rows\).*of yes.*logistic",
        ),
        ({"questions": [0], "probabilities": np.full((5, 1), np.nan)}, "Row 0 of probabilities is .nan. in column 0"),
        ({"questions": [0, 1], "cost_matrix": 1 - np.eye(2)}, "above 0 inside a question"),
        ({"doubts": np.zeros(5)}, r"doubts have shape \(5,\); expected 2 axes"),
        ({"doubts": np.zeros((4, 1))}, r"doubts have shape \(4, 1\); expected \(5, q\).*NaN"),
        ({"doubts": with_row(np.zeros((5, 2)), 3, [0.5, 1.25])}, r"Row 3 of doubts is 1.25 in column 1 \(1 such"),
        ({"doubts": with_row(np.zeros((5, 2)), 3, [-0.5, np.inf])}, r"Row 3 of doubts is -0.5 in column 0 \(2 such"),
    ],
)
def test_unusable_arrays_are_named_with_value_expectation_and_remedy(fields, expected):
    with pytest.raises(PoolInvalid, match=expected):
        Pool(**{"embeddings": UNIT, **fields})


def test_an_empty_pool_and_an_empty_labelled_set_are_fine():
    pool = Pool(np.zeros((0, 3)), np.zeros((0, 2)), labelled_embeddings=np.zeros((0, 3)))
    assert pool.size == 0


def test_rows_of_zeros_are_accepted():
    assert Pool(with_row(UNIT, 2, 0.0)).size == 5


def test_float32_arrays_are_not_copied():
    pool = Pool(UNIT)
    assert np.shares_memory(pool.embeddings, UNIT)


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.floats(-100, 100, width=32)))
def test_unit_rows_have_length_one_or_zero_and_keep_their_direction(values):
    values = np.where(np.abs(values) < 1e-3, 0, values)
    before = values.copy()
    scaled = unit_rows(values)
    lengths = np.linalg.norm(scaled.astype(np.float64), axis=1)
    empty = ~values.any(axis=1)
    assert np.allclose(lengths, ~empty, atol=1e-5)
    assert np.allclose(scaled * np.linalg.norm(values, axis=1)[:, None], values, atol=1e-3)
    assert (values == before).all()
