from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss

from ls_backend.errors import Diverged, TooFewLabels
from ls_backend.vision.heads import Head, evaluate, fit_head, fit_temperature, train


def labelled(n: int, d: int = 64, c: int = 5, *, gap: float = 0.4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """n unit rows around c random centres; the smaller the gap, the more the classes overlap."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(c), rng.integers(0, c, n - c)]).astype(np.int64)
    centres = np.random.default_rng(99).normal(size=(c, d))
    rows = gap * centres[labels] + rng.normal(size=(n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


@pytest.mark.parametrize(("n", "d", "c"), [(40, 64, 5), (200, 64, 5), (64, 64, 2), (60, 200, 3)])
def test_the_head_is_sklearns_logistic_regression(n, d, c):
    features, labels = labelled(n, d, c)
    # sklearn adds 1 / C * ||W||^2 / 2 to the *sum* of the losses, hence C = 1 / (n l2).
    oracle = LogisticRegression(C=1 / (n * 1e-3), tol=1e-8, max_iter=5000)
    if c == 2:  # sklearn's binary form has one weight vector w = w1 - w0, which costs ||w||^2 / 2 in ours
        oracle.set_params(C=2 / (n * 1e-3))
    oracle.fit(8.0 * features.astype(np.float64), labels)
    new, _ = labelled(100, d, c, seed=1)
    np.testing.assert_allclose(
        fit_head(features, labels, c).probabilities(new), oracle.predict_proba(8.0 * new), atol=3e-4
    )


@pytest.mark.parametrize("n", [30, 300])
def test_no_small_step_away_from_the_head_lowers_the_loss(n):
    features, labels = labelled(n, 40, 4)

    def loss(weights, bias):
        rows = torch.from_numpy(features).double()
        ce = torch.nn.functional.cross_entropy(rows @ weights.T + bias, torch.from_numpy(labels))
        return float(ce + 0.5e-3 * (weights / 8.0).square().sum())

    head = fit_head(features, labels, 4)
    weights, bias = torch.from_numpy(head.weights).double(), torch.from_numpy(head.bias).double()
    best = loss(weights, bias)
    torch.manual_seed(0)
    for _ in range(20):
        assert loss(weights + 0.05 * torch.randn_like(weights), bias + 0.05 * torch.randn_like(bias)) > best


def test_the_same_labels_give_the_same_head_and_their_order_does_not_matter():
    features, labels = labelled(120)
    head, again = fit_head(features, labels, 5), fit_head(features, labels, 5)
    np.testing.assert_array_equal(head.weights, again.weights)
    order = np.random.default_rng(0).permutation(120)
    shuffled = fit_head(features[order], labels[order], 5)
    np.testing.assert_allclose(shuffled.probabilities(features), head.probabilities(features), atol=1e-4)


def test_duplicate_rows_with_contradicting_labels_are_a_draw():
    features = np.repeat(labelled(5)[0][:1], 4, axis=0)
    head = fit_head(features, np.array([0, 1, 0, 1]), 2)
    np.testing.assert_allclose(head.probabilities(features[:1]), [[0.5, 0.5]], atol=1e-4)


def test_classes_without_labels_are_unlikely_but_possible_and_the_rest_keeps_its_proportions():
    features, labels = labelled(50, c=3)
    few, many = fit_head(features, labels, 3), fit_head(features, labels, 10)
    sparse = many.probabilities(features)
    np.testing.assert_allclose(sparse.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(sparse[:, 3:], 1 / 60, rtol=1e-5)
    np.testing.assert_allclose(sparse[:, :3] / (1 - 7 / 60), few.probabilities(features), atol=1e-5)
    assert np.isneginf(many.logits(features)[:, 3:]).all()


@pytest.mark.parametrize("labels", [[], [2], [1, 1, 1]])
def test_fewer_than_two_classes_are_too_few(labels):
    features = np.eye(8, dtype=np.float32)[: len(labels)]
    with pytest.raises(TooFewLabels, match=f"{len(labels)} labels in {len(set(labels))} of 4 classes"):
        fit_head(features, np.array(labels, np.int64), 4)


def test_embeddings_that_are_not_finite_are_refused():
    features, labels = labelled(20)
    features[3, 3] = np.inf
    with pytest.raises(Diverged, match="not finite"):
        fit_head(features, labels, 5)


def test_a_head_survives_its_arrays():
    features, labels = labelled(30)
    head = Head(**{**vars(fit_head(features, labels, 6)), "temperature": 2.5})
    again = Head.from_arrays({**head.arrays(), "mean": np.zeros(3)})
    assert again.temperature == 2.5
    np.testing.assert_array_equal(again.probabilities(features), head.probabilities(features))


def test_a_higher_temperature_flattens_but_never_reorders():
    features, labels = labelled(60)
    sharp = fit_head(features, labels, 5)
    flat = Head(sharp.weights, sharp.bias, sharp.counts, temperature=10.0)
    one, ten = sharp.probabilities(features), flat.probabilities(features)
    np.testing.assert_array_equal(one.argmax(axis=1), ten.argmax(axis=1))
    assert (ten.max(axis=1) < one.max(axis=1)).all()


def test_a_hundred_labels_are_fitted_in_a_blink():
    features, labels = labelled(100, 1280, 10)
    fit_head(features, labels, 10)
    times_s = []
    for _ in range(5):
        started = time.thread_time()
        fit_head(features, labels, 10)
        times_s.append(time.thread_time() - started)
    assert min(times_s) < 0.1  # CPU seconds; about 0.015 was measured


def nll(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    return float(torch.nn.functional.cross_entropy(torch.from_numpy(logits / temperature), torch.from_numpy(labels)))


@pytest.mark.parametrize("sharpness", [0.7, 1.0, 3.0, 12.0])
def test_the_temperature_undoes_a_known_sharpening(sharpness):
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(20_000, 4)) * 2
    chances = torch.softmax(torch.from_numpy(honest), dim=1).numpy()
    labels = (chances.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1).clip(0, 3)
    assert fit_temperature(honest * sharpness, labels) == pytest.approx(sharpness, rel=0.04)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.floats(0.1, 30))
def test_no_temperature_of_a_fine_grid_is_better(seed, c, sharpness):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(30, c)) * sharpness
    labels = rng.integers(0, c, 30)
    grid = np.geomspace(0.25, 20, 200)
    found = fit_temperature(logits, labels)
    assert 0.25 <= found <= 20
    assert nll(logits, labels, found) <= min(nll(logits, labels, t) for t in grid) + 1e-9


def test_the_temperature_stays_within_its_bounds_and_is_one_without_labels():
    sure = np.array([[5.0, 0.0], [0.0, 5.0]])
    assert fit_temperature(sure, np.array([0, 1])) == pytest.approx(0.25)
    assert fit_temperature(sure, np.array([1, 0])) == pytest.approx(20)
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, np.int64)) == 1.0


def test_classes_the_head_does_not_know_do_not_disturb_the_temperature():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 3)) * 3, rng.integers(0, 3, 50)
    wider = np.column_stack([logits, np.full((50, 2), -np.inf)])
    assert fit_temperature(wider, labels) == pytest.approx(fit_temperature(logits, labels))


def test_the_metrics_are_those_of_sklearn():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4) * 0.5, 500)
    labels = rng.choice(4, 500, p=[0.7, 0.2, 0.07, 0.03])
    seen = evaluate(probabilities, labels)
    assert seen.n_holdout == 500
    assert seen.accuracy == pytest.approx(accuracy_score(labels, probabilities.argmax(axis=1)))
    assert seen.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, probabilities.argmax(axis=1)))
    assert seen.log_loss == pytest.approx(log_loss(labels, probabilities, labels=range(4)))


def test_the_calibration_error_is_the_weighted_gap_of_sklearns_calibration_curve():
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.ones(5) * 0.4, 800)
    labels = rng.integers(0, 5, 800)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    observed, claimed = calibration_curve(right, confidence, n_bins=15)
    sizes = np.histogram(confidence, bins=np.linspace(0, 1, 16))[0]
    expected = float((np.abs(observed - claimed) * sizes[sizes > 0]).sum() / 800)
    assert evaluate(probabilities, labels).ece == pytest.approx(expected, abs=1e-9)


def test_the_reliability_is_sklearns_calibration_curve_with_the_sizes_of_its_bins():
    rng = np.random.default_rng(2)
    probabilities = rng.dirichlet(np.ones(4) * 0.5, 700)
    labels = rng.integers(0, 4, 700)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    observed, claimed = calibration_curve(right, confidence, n_bins=10)
    sizes = np.histogram(confidence, bins=np.linspace(0, 1, 11))[0]
    found = evaluate(probabilities, labels).reliability
    np.testing.assert_allclose([one.confidence for one in found], claimed)
    np.testing.assert_allclose([one.accuracy for one in found], observed)
    assert [one.n for one in found] == sizes[sizes > 0].tolist()


def test_perfect_and_impossible_predictions_have_finite_metrics():
    sure = np.eye(3, dtype=np.float32)
    perfect = evaluate(sure, np.array([0, 1, 2]))
    assert (perfect.accuracy, perfect.balanced_accuracy, perfect.ece) == (1.0, 1.0, 0.0)
    assert perfect.log_loss == pytest.approx(0, abs=1e-9)
    wrong = evaluate(sure, np.array([1, 2, 0]))
    assert wrong.accuracy == 0.0
    assert wrong.ece == pytest.approx(1.0)
    assert 30 < wrong.log_loss < 40


def test_classes_missing_from_the_holdout_do_not_count_in_balanced_accuracy():
    assert evaluate(np.eye(4)[[0, 0, 2]], np.array([0, 0, 2])).balanced_accuracy == 1.0


def test_nothing_held_out_gives_no_metrics():
    empty = evaluate(np.zeros((0, 3)), np.zeros(0, np.int64))
    assert (empty.n_holdout, empty.accuracy, empty.ece, empty.reliability) == (0, None, None, ())


def split(n: int, n_holdout: int) -> np.ndarray:
    holdout = np.zeros(n, bool)
    holdout[-n_holdout:] = True
    return holdout


def test_the_measured_head_never_saw_the_holdout():
    features, labels = labelled(200, gap=0.15)
    holdout = split(200, 60)
    lies = labels.copy()
    lies[holdout] = (lies[holdout] + 1) % 5
    honest, fooled = train(features, labels, holdout, 5, 0), train(features, lies, holdout, 5, 0)
    np.testing.assert_array_equal(honest.evaluation_head.weights, fooled.evaluation_head.weights)
    assert honest.evaluation_head.temperature == fooled.evaluation_head.temperature
    assert fooled.metrics.accuracy < honest.metrics.accuracy


def test_the_served_head_learns_from_the_holdout_too():
    features, labels = labelled(100)
    trained = train(features, labels, split(100, 30), 5, 0)
    assert trained.head.counts.sum() == 100
    assert trained.evaluation_head.counts.sum() == 70
    assert trained.metrics.n_holdout == 30
    np.testing.assert_array_equal(trained.head.weights, fit_head(features, labels, 5).weights)


def test_the_metrics_are_those_of_the_measured_head_on_the_holdout():
    features, labels = labelled(150, gap=0.2)
    holdout = split(150, 50)
    trained = train(features, labels, holdout, 5, 0)
    chances = trained.evaluation_head.probabilities(features[holdout])
    assert trained.metrics.accuracy == pytest.approx(accuracy_score(labels[holdout], chances.argmax(axis=1)))
    assert trained.metrics.log_loss == pytest.approx(log_loss(labels[holdout], chances, labels=range(5)), rel=1e-5)


def test_the_temperature_makes_overlapping_classes_better_calibrated():
    features, labels = labelled(1200, 64, gap=0.15)
    rest, new = slice(0, 200), slice(200, None)
    raw = fit_head(features[rest], labels[rest], 5)
    for n_holdout in (60, 10):  # from the hold-out, and from folds
        served = train(features[rest], labels[rest], split(200, n_holdout), 5, 0).head
        scaled = evaluate(served.probabilities(features[new]), labels[new])
        unscaled = evaluate(raw.probabilities(features[new]), labels[new])
        assert served.temperature > 1
        assert scaled.log_loss < unscaled.log_loss
        assert scaled.ece < unscaled.ece


def test_training_is_decided_by_labels_and_seed_alone():
    features, labels = labelled(80, gap=0.2)
    first, again, other = (train(features, labels, split(80, 10), 5, seed).head.temperature for seed in (3, 3, 4))
    assert first == again
    assert first != other


@pytest.mark.parametrize("holdout", [np.zeros(12, bool), np.array([False] * 6 + [True] * 6)])
def test_without_a_usable_split_there_is_a_head_but_no_metrics(holdout):
    features = labelled(12, c=2)[0]
    labels = np.array([0] * 6 + [1] * 6)  # the second hold-out takes a whole class away
    trained = train(features, labels, holdout, 3, 0)
    assert trained.metrics.n_holdout == 0
    assert trained.metrics.accuracy is None
    assert trained.evaluation_head is trained.head


@pytest.mark.parametrize("n", [5, 6, 8, 12])
def test_the_first_few_labels_train_a_head_with_defined_probabilities(n):
    features, labels = labelled(n)
    holdout = split(n, 2)
    trained = train(features, labels, holdout, 5, 0)
    chances = trained.head.probabilities(features)
    assert np.isfinite(chances).all()
    assert (chances > 0).all()
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5)


def test_a_holdout_class_that_was_never_trained_on_costs_log_loss_but_stays_finite():
    features, labels = labelled(80, c=3)
    holdout = (labels == 2) | split(80, 20)
    trained = train(features, labels, holdout, 3, 0)
    assert np.isfinite(trained.metrics.log_loss)
    assert trained.metrics.balanced_accuracy < 0.7


def test_one_class_is_too_few_to_train():
    features, _ = labelled(10)
    with pytest.raises(TooFewLabels):
        train(features, np.zeros(10, np.int64), split(10, 2), 3, 0)
