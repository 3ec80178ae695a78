import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from ls_backend.engine.advice.drift import area_under_curve, find_drift
from ls_backend.strategies import unit_rows

PIXELS, DIGIT = load_digits(return_X_y=True)
FEATURES = unit_rows((PIXELS - PIXELS.mean(axis=0)).astype(np.float32))


def look(order, labelled=()):
    """Import digits in an order; the places in it that are labelled."""
    known = np.zeros(len(order), dtype=bool)
    known[list(labelled)] = True
    return find_drift(np.arange(len(order)) + 1, FEATURES[order], known, seed=0)


@pytest.mark.parametrize("seed", range(3))
def test_the_area_under_the_curve_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    scores, positive = rng.standard_normal((50, 4)).round(1), rng.random((50, 4)) < 0.3
    expected = [roc_auc_score(positive[:, i], scores[:, i]) for i in range(4)]
    np.testing.assert_allclose(area_under_curve(scores, positive), expected)


def test_shuffled_imports_raise_few_alarms():
    verdicts = [look(np.random.default_rng(seed).permutation(len(DIGIT))[:400]).verdict for seed in range(40)]
    # At a level of 1 %, three alarms in 40 have a chance of 1 in 130.
    assert sum(verdict != "none" for verdict in verdicts) <= 2


def test_another_kind_of_image_is_found_and_told():
    rng = np.random.default_rng(0)
    old, new = rng.permutation(np.flatnonzero(DIGIT < 8))[:800], rng.permutation(np.flatnonzero(DIGIT >= 8))[:100]
    drift = look(np.concatenate([old, new]), labelled=range(0, 800, 4))
    assert (drift.verdict, drift.p_value <= 0.01) == ("found", True)
    assert drift.auc > 0.9
    assert 780 < drift.first_new <= 820
    assert drift.distance_ratio > 1.2
    assert "look different" in drift.sentence


def test_the_choice_of_a_plan_is_no_drift():
    rng = np.random.default_rng(1)
    order = rng.permutation(len(DIGIT))[:900]
    chosen = np.flatnonzero(DIGIT[order] < 3)  # the plan has asked for some digits only
    assert look(order, labelled=chosen).verdict == "none"


def test_a_small_difference_that_is_certain_is_slight():
    rng = np.random.default_rng(2)
    features = FEATURES[rng.permutation(len(DIGIT))]
    features[-600:] += 0.05 * FEATURES[0]
    drift = find_drift(np.arange(len(DIGIT)), unit_rows(features), np.zeros(len(DIGIT), dtype=bool), seed=0)
    assert drift.verdict == "slight"
    assert drift.auc < 0.6
    assert "a little" in drift.sentence


def test_too_few_tasks_are_too_early():
    drift = look(np.arange(100))
    assert (drift.verdict, drift.auc) == ("too-early", None)
    assert "150 are needed" in drift.sentence


def test_without_labels_there_is_no_distance_to_them():
    assert look(np.random.default_rng(0).permutation(len(DIGIT))[:300]).distance_ratio is None


def test_tasks_that_all_look_the_same_have_not_drifted():
    same = np.tile(FEATURES[:1], (200, 1))
    assert find_drift(np.arange(200), same, np.zeros(200, dtype=bool), seed=0).verdict == "none"
