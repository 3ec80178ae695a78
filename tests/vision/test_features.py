from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from ls_backend.errors import Diverged
from ls_backend.vision.features import Standardiser


def pool(n: int = 300, d: int = 20) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(n, d)) * rng.uniform(0.5, 3, d) + rng.normal(size=d) * 5).astype(np.float32)


def test_standardised_unit_rows_agree_with_sklearn():
    raw = pool()
    expected = make_pipeline(StandardScaler(), Normalizer()).fit_transform(raw.astype(np.float64))
    seen = Standardiser.fit(raw).apply(raw)
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen, expected, atol=1e-5)


def test_many_rows_are_measured_in_blocks_without_losing_precision():
    raw = np.random.default_rng(1).normal(1e3, 1.0, (20_000, 3)).astype(np.float32)
    fitted = Standardiser.fit(raw)
    np.testing.assert_allclose(fitted.std, raw.astype(np.float64).std(axis=0), rtol=1e-4)


def test_a_constant_feature_carries_nothing_and_the_rest_is_as_without_it():
    raw = pool()
    with_constant = np.column_stack([raw, np.full(len(raw), 7.0, np.float32)])
    fitted = Standardiser.fit(with_constant)
    seen = fitted.apply(with_constant)
    np.testing.assert_allclose(seen[:, :-1], Standardiser.fit(raw).apply(raw), atol=1e-6)
    assert not seen[:, -1].any()


def test_a_nearly_constant_feature_is_not_blown_up_when_a_new_image_moves_it():
    raw = pool()
    raw[:, 0] = 1e-9 * np.arange(len(raw))
    moved = raw[:1].copy()
    moved[0, 0] += 1e-3
    fitted = Standardiser.fit(raw)
    assert float((fitted.apply(moved) @ fitted.apply(raw[:1]).T)[0, 0]) > 0.999


def test_one_that_was_saved_and_loaded_gives_the_same_rows_and_one_of_another_pool_does_not():
    fitted = Standardiser.fit(pool())
    assert fitted.equals(Standardiser.from_arrays(fitted.arrays()))
    assert not fitted.equals(Standardiser.fit(pool()[1:]))
    assert not fitted.equals(Standardiser.fit(pool(d=7)))


def test_rows_without_direction_stay_zero():
    for raw in (np.zeros((5, 4), np.float32), np.full((5, 4), 3.0, np.float32), pool(1)):
        assert not Standardiser.fit(raw).apply(raw).any()


def test_the_raw_features_are_not_changed():
    raw = pool()
    kept = raw.copy()
    Standardiser.fit(raw).apply(raw)
    np.testing.assert_array_equal(raw, kept)


def test_features_that_are_not_finite_are_named():
    raw = pool()
    fitted = Standardiser.fit(raw)
    raw[7, 3] = np.nan
    with pytest.raises(Diverged, match="Feature 3 of 20"):
        Standardiser.fit(raw)
    with pytest.raises(Diverged, match="Row 7 of 300"):
        fitted.apply(raw)


def test_a_standardiser_survives_its_arrays():
    fitted = Standardiser.fit(pool())
    again = Standardiser.from_arrays({**fitted.arrays(), "weights": np.zeros(1)})
    np.testing.assert_array_equal(again.apply(pool()), fitted.apply(pool()))


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(1, 6)), elements=st.floats(-1e6, 1e6, width=32))
)
@example(np.array([[1e-45], [0]], np.float32))
def test_every_row_has_length_one_or_zero(raw):
    lengths = np.linalg.norm(Standardiser.fit(raw).apply(raw), axis=1)
    assert np.all((np.abs(lengths - 1) < 1e-3) | (lengths == 0))
