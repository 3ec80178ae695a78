from __future__ import annotations

import numpy as np
import pytest

from ls_backend.errors import TooFewLabels
from ls_backend.vision import heads, multilabel
from ls_backend.vision.classifier import Classifier, one_hot, out_of_fold_losses, out_of_fold_wrong, train

SHAPE = [(3, False), (2, True)]


def situation(n: int = 80, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A single choice among three, and two yes/no labels; some tasks answer only one of the two controls."""
    rng = np.random.default_rng(seed)
    classes, several = rng.integers(0, 3, n), rng.random((n, 2)) < 0.4
    rows = np.concatenate([np.eye(3)[classes], several], axis=1) @ np.eye(5, 20) + 0.2 * rng.normal(size=(n, 20))
    targets = np.concatenate([one_hot(classes, 3), several.astype(np.int8)], axis=1)
    targets[:5, :3] = -1
    targets[5:9, 3:] = -1
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), targets


def test_one_control_gives_what_its_head_gives():
    features, targets = situation()
    features, targets = features[5:], targets[5:, :3]
    holdout = np.arange(len(features)) % 5 == 0
    alone = heads.train(features, targets.argmax(axis=1), holdout, 3, 0)
    trained = train(features, targets, holdout, [(3, False)], seed=0)
    np.testing.assert_array_equal(trained.classifier.probabilities(features), alone.head.probabilities(features))
    assert trained.metrics == alone.metrics


def test_controls_learn_side_by_side_from_the_tasks_that_answer_them():
    features, targets = situation()
    holdout = np.arange(80) % 4 == 0
    trained = train(features, targets, holdout, SHAPE, seed=0)
    first, second = trained.classifier.heads
    assert first.counts.sum() == 75
    assert second.n_tasks == 76
    p = trained.classifier.probabilities(features)
    assert p.shape == (80, 5)
    np.testing.assert_allclose(p[:, :3].sum(axis=1), 1, rtol=1e-5)
    one = heads.train(features[5:], targets[5:, :3].argmax(axis=1), holdout[5:], 3, 0).metrics
    rows = np.r_[0:5, 9:80]
    other = multilabel.train(features[rows], targets[rows, 3:] == 1, holdout[rows], 0).metrics
    assert trained.metrics.accuracy == pytest.approx((one.accuracy + other.accuracy) / 2)
    answers = [sum(part.n for part in metrics.reliability) for metrics in (one, other, trained.metrics)]
    assert answers == [holdout[5:].sum(), 2 * holdout[rows].sum(), answers[0] + answers[1]]
    right = sum(part.n * part.accuracy for metrics in (one, other) for part in metrics.reliability)
    assert sum(part.n * part.accuracy for part in trained.metrics.reliability) == pytest.approx(right)
    tenths = [np.ceil(10 * part.confidence) for part in trained.metrics.reliability]
    assert tenths == sorted(set(tenths)), "one bin for each tenth"


def test_a_control_without_labels_waits_and_the_other_goes_on():
    features, targets = situation()
    targets[:, 3:] = 0
    p = train(features, targets, np.zeros(80, bool), SHAPE, seed=0).classifier.probabilities(features)
    np.testing.assert_allclose(p[:, 3:], 0.5)
    assert (p[5:, :3].argmax(axis=1) == targets[5:, :3].argmax(axis=1)).mean() > 0.9
    targets[:, :3] = -1
    with pytest.raises(TooFewLabels):
        train(features, targets, np.zeros(80, bool), SHAPE, seed=0)


def test_a_classifier_survives_its_arrays_and_reads_a_lone_head():
    features, targets = situation()
    made = train(features, targets, np.zeros(80, bool), SHAPE, seed=0).classifier
    again = Classifier.from_arrays(made.arrays())
    np.testing.assert_array_equal(again.probabilities(features), made.probabilities(features))
    lone = Classifier.from_arrays(made.heads[0].arrays())
    np.testing.assert_array_equal(lone.probabilities(features), made.probabilities(features)[:, :3])


def test_the_loss_of_a_task_is_the_mean_over_what_it_answers():
    features, targets = situation()
    made = train(features, targets, np.zeros(80, bool), SHAPE, seed=0).classifier
    p = made.probabilities(features).astype(float)
    for row in (0, 6, 50):
        own = []
        if targets[row, 0] >= 0:
            own.append(-np.log(p[row, :3][targets[row, :3] == 1][0]))
        if targets[row, 3] >= 0:
            own += [-np.log(v if t else 1 - v) for v, t in zip(p[row, 3:], targets[row, 3:], strict=True)]
        assert made.losses(features, targets)[row] == pytest.approx(np.mean(own), rel=1e-5, abs=1e-6)
    assert np.isnan(made.losses(features[:1], np.full((1, 5), -1, np.int8))[0])


def test_a_task_is_wrong_when_any_answer_is():
    features, targets = situation()
    made = train(features, targets, np.zeros(80, bool), SHAPE, seed=0).classifier
    right = made.wrong(features, targets)
    assert right.mean() < 0.2
    targets[50, 4] = 1 - targets[50, 4]
    assert made.wrong(features, targets)[50] != right[50] or right[50]


def test_committees_and_masks_span_all_controls():
    features, targets = situation()
    made = train(features, targets, np.zeros(80, bool), SHAPE, seed=0).classifier
    for members in (made.members(features, targets, seed=0), made.thinned(20, seed=0)):
        assert len({member.probabilities(features).tobytes() for member in members}) == len(members)
        assert all(member.probabilities(features).shape == (80, 5) for member in members)


def test_unseen_tasks_lose_more_than_seen_ones():
    features, targets = situation()
    made = train(features, targets, np.zeros(80, bool), SHAPE, seed=0).classifier
    unseen = out_of_fold_losses(made, features, targets, seed=0)
    assert unseen.mean() > made.losses(features, targets).mean()
    judged, wrong = out_of_fold_wrong(made, features, targets, seed=0)
    assert judged.all()
    assert wrong.sum() == 0
    targets[20, 4] = 1 - targets[20, 4]
    wrong = out_of_fold_wrong(made, features, targets, seed=0)[1]
    assert wrong[20], "whoever did not see the mistake contradicts it"
    assert wrong.sum() <= 4
