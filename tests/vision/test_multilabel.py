from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss

from ls_backend.errors import Diverged, TooFewLabels
from ls_backend.vision import heads
from ls_backend.vision.multilabel import SigmoidHead, bootstrap_heads, evaluate, fit_head, out_of_fold_logits, train


def scenes(n: int, seed: int = 0, d: int = 24, c: int = 3, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings in which every label that holds adds its own axis."""
    rng = np.random.default_rng(seed)
    answers = rng.random((n, c)) < np.array([0.5, 0.3, 0.15])[:c]
    rows = answers @ np.eye(c, d) + noise * rng.normal(size=(n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), answers


@pytest.mark.parametrize("n", [15, 200])
def test_each_label_has_the_head_that_sklearn_would_fit_alone(n):
    features, answers = scenes(n)
    head = fit_head(features, answers)
    for label in range(3):
        alone = LogisticRegression(C=1 / (n * heads.L2), tol=1e-10, max_iter=5000)
        alone.fit(heads.SCALE * features, answers[:, label])
        np.testing.assert_allclose(
            head.probabilities(features)[:, label], alone.predict_proba(heads.SCALE * features)[:, 1], atol=2e-3
        )


def test_a_label_never_or_always_given_has_laplaces_probability():
    features, answers = scenes(8)
    answers[:, 0], answers[:, 1] = False, True
    answers[:, 2] = np.arange(8) % 2 == 0
    probabilities = fit_head(features, answers).probabilities(features)
    np.testing.assert_allclose(probabilities[:, 0], 0.1)
    np.testing.assert_allclose(probabilities[:, 1], 0.9)


def test_tasks_with_the_same_answers_are_too_few():
    features, _ = scenes(5)
    with pytest.raises(TooFewLabels, match="none of 3 labels"):
        fit_head(features, np.zeros((5, 3), bool))


def test_embeddings_that_are_not_finite_are_refused():
    features, answers = scenes(20)
    features[3, 3] = np.nan
    with pytest.raises(Diverged):
        fit_head(features, answers)


def test_a_head_survives_its_arrays():
    features, answers = scenes(30)
    head = fit_head(features, answers)
    np.testing.assert_array_equal(
        SigmoidHead.from_arrays(head.arrays()).probabilities(features), head.probabilities(features)
    )


def test_the_metrics_are_those_of_sklearn():
    rng = np.random.default_rng(0)
    p, answers = rng.random((50, 3)), rng.random((50, 3)) < 0.4
    metrics = evaluate(p, answers)
    assert metrics.accuracy == pytest.approx(accuracy_score(answers, p >= 0.5))
    expected = np.mean([balanced_accuracy_score(answers[:, i], p[:, i] >= 0.5) for i in range(3)])
    assert metrics.balanced_accuracy == pytest.approx(expected)
    assert metrics.log_loss == pytest.approx(np.mean([log_loss(answers[:, i], p[:, i]) for i in range(3)]))
    sure = [(max(value, 1 - value), (value >= 0.5) == truth) for value, truth in zip(p.flat, answers.flat, strict=True)]
    for one in metrics.reliability:
        tenth = np.ceil(10 * one.confidence)
        mine = [(value, right) for value, right in sure if np.ceil(10 * value) == tenth]
        assert (one.n, one.accuracy) == (len(mine), pytest.approx(np.mean([right for _, right in mine])))
        assert one.confidence == pytest.approx(np.mean([value for value, _ in mine]))
    assert sum(one.n for one in metrics.reliability) == answers.size
    assert evaluate(p[:0], answers[:0]).accuracy is None


def test_the_measured_head_never_saw_the_holdout():
    features, answers = scenes(60)
    holdout = np.arange(60) % 4 == 0
    wrong = answers.copy()
    wrong[holdout] = ~answers[holdout]
    honest, fooled = (train(features, given, holdout, 0) for given in (answers, wrong))
    np.testing.assert_array_equal(honest.evaluation_head.weights, fooled.evaluation_head.weights)
    assert honest.metrics.n_holdout == 15
    assert honest.metrics.accuracy > fooled.metrics.accuracy
    assert honest.head.n_tasks == 60


def test_nothing_is_learnt_from_a_locked_test_set():
    features, answers = scenes(60)
    holdout = np.arange(60) % 4 == 0
    trained = train(features, answers, holdout, 0, locked=True)
    assert trained.head is trained.evaluation_head
    assert trained.head.n_tasks == 45
    assert trained.metrics.test_set


def test_the_temperature_makes_noisy_labels_better_calibrated():
    features, answers = scenes(300, noise=0.8)
    new, truth = scenes(3000, seed=1, noise=0.8)
    head = train(features, answers, np.zeros(300, bool), 0).head
    assert head.temperature > 1.1
    raw = fit_head(features, answers)
    assert evaluate(head.probabilities(new), truth).log_loss < evaluate(raw.probabilities(new), truth).log_loss


def test_out_of_fold_logits_are_those_of_heads_that_did_not_see_the_task():
    features, answers = scenes(40, d=200, noise=1.5)
    seen = fit_head(features, answers).logits(features) > 0
    unseen = out_of_fold_logits(features, answers, seed=0)
    assert (seen == answers).mean() > 0.95, "so many dimensions are learnt by heart"
    assert ((unseen > 0) == answers)[np.isfinite(unseen)].mean() < 0.9
    rare = np.zeros((40, 1), bool)
    rare[7] = True
    assert np.isnan(out_of_fold_logits(features, rare, seed=0)[7])


def test_committees_disagree_and_follow_the_seed():
    features, answers = scenes(30)
    first, again, other = (bootstrap_heads(features, answers, seed=s, temperature=2.0, members=4) for s in (1, 1, 2))
    assert {head.temperature for head in first} == {2.0}
    np.testing.assert_array_equal(first[0].weights, again[0].weights)
    assert not np.allclose(first[0].weights, other[0].weights)
    assert not np.allclose(first[0].weights, first[1].weights)
