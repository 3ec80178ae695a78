from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ls_backend.errors import TooFewLabels
from ls_backend.vision.committee import (
    bootstrap_heads,
    expected_loss,
    member_probabilities,
    out_of_fold_losses,
    thinned_heads,
)
from ls_backend.vision.heads import Head, fit_head


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def two_groups(n: int, seed: int = 0, d: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Class 0 around one axis, class 1 around another."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    return unit(np.eye(d)[labels] + 0.2 * rng.normal(size=(n, d))), labels.astype(np.int64)


def blanked(head, features, **how):
    return member_probabilities(thinned_heads(head, features.shape[1], **how), features)


def loss_expected(head, features, labelled, labels):
    return expected_loss(features, labelled, out_of_fold_losses(head, labelled, labels, seed=0))


def test_every_member_knows_every_labelled_class_and_no_other():
    features, _ = two_groups(30)
    labels = np.array([0] * 25 + [1] * 4 + [3], np.int64)
    heads = bootstrap_heads(features, labels, 5, seed=0)
    assert len(heads) == 8
    for head in heads:
        assert head.counts.tolist() == [25, 4, 0, 1, 0]


def test_a_member_is_the_head_of_a_sample_drawn_with_replacement():
    # The only labels of each class are one row or the other: a member is one of nine heads that can be listed.
    features = np.eye(4, dtype=np.float32)
    labels = np.array([0, 0, 1, 1], np.int64)
    draws = [(0, 0), (0, 1), (1, 1)]
    possible = [
        fit_head(features[[*first, 2 + second[0], 2 + second[1]]], labels, 2).weights
        for first in draws
        for second in draws
    ]
    seen = {
        int(np.argmin([np.abs(head.weights - weights).max() for weights in possible]))
        for head in bootstrap_heads(features, labels, 2, seed=0, members=40)
    }
    for head in bootstrap_heads(features, labels, 2, seed=0, members=40):
        assert min(np.abs(head.weights - weights).max() for weights in possible) < 1e-3
    assert len(seen) == 9


def test_members_disagree_between_the_classes_more_than_inside_one():
    features, labels = two_groups(12)
    inside = unit(np.eye(16)[[0, 1]])
    between = unit(np.eye(16)[[0]] + np.eye(16)[[1]])
    beliefs = member_probabilities(bootstrap_heads(features, labels, 2, seed=1), np.concatenate([inside, between]))
    assert beliefs.shape == (8, 3, 2)
    np.testing.assert_allclose(beliefs.sum(axis=2), 1, atol=1e-5)
    spread = beliefs[:, :, 0].std(axis=0)
    assert spread[2] > 2 * spread[:2].max()


def test_a_committee_is_as_sure_as_the_served_head():
    features, labels = two_groups(20)
    sure = member_probabilities(bootstrap_heads(features, labels, 2, seed=0), features)
    calm = member_probabilities(bootstrap_heads(features, labels, 2, seed=0, temperature=4.0), features)
    np.testing.assert_allclose(np.log(calm[..., 0] / calm[..., 1]) * 4, np.log(sure[..., 0] / sure[..., 1]), atol=1e-3)


def test_the_same_seed_gives_the_same_committee_and_masks():
    features, labels = two_groups(20)
    head = fit_head(features, labels, 2)
    first, again, other = (
        [bootstrap_heads(features, labels, 2, seed=seed)[0].weights, blanked(head, features, seed=seed)]
        for seed in (3, 3, 4)
    )
    for one, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one, same)
        assert not np.allclose(one, different)


def test_one_class_makes_no_committee():
    features, labels = two_groups(6)
    with pytest.raises(TooFewLabels, match="1 of 2 classes"):
        bootstrap_heads(features, np.zeros_like(labels), 2, seed=0)


def test_a_mask_blanks_out_the_embedding_itself():
    # A head that reads one axis: the answer is untouched (scaled up) where the mask spares it, and a draw elsewhere.
    head = Head(np.array([[1, 0], [0, 0]], np.float32), np.zeros(2, np.float32), np.array([5, 5]), temperature=2.0)
    beliefs = blanked(head, np.array([[1, 0], [0, 1]], np.float32), seed=0, masks=400)
    spared = beliefs[:, 0, 0] > 0.5
    np.testing.assert_allclose(beliefs[spared, 0, 0], 1 / (1 + np.exp(-4 / 2.0)), rtol=1e-5)
    np.testing.assert_allclose(beliefs[~spared, 0, 0], 0.5)
    np.testing.assert_allclose(beliefs[:, 1], 0.5)
    assert spared.mean() == pytest.approx(0.25, abs=0.07)


def test_masks_do_not_depend_on_the_other_rows():
    features, labels = two_groups(30)
    head = fit_head(features, labels, 2)
    order = np.random.default_rng(0).permutation(30)
    np.testing.assert_allclose(
        blanked(head, features, seed=0)[:, order],
        blanked(head, features[order], seed=0),
        atol=1e-6,
    )


def noisy_half(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two easy classes; where axis 2 is positive the labels are drawn by lot."""
    features, labels = two_groups(n, seed)
    rng = np.random.default_rng(seed + 100)
    side = rng.choice([-1.0, 1.0], n)
    features = unit(features + np.eye(16)[2] * side[:, None])
    by_lot = rng.integers(0, 2, n)
    return features, np.where(side > 0, by_lot, labels).astype(np.int64)


def test_loss_is_expected_where_labels_contradict_each_other():
    features, labels = noisy_half(300, 0)
    new, truth = noisy_half(2000, 1)
    head = fit_head(features, labels, 2)
    predicted = loss_expected(head, new, features, labels)
    oracle = LogisticRegression(C=1 / (300 * 1e-3)).fit(8.0 * features, labels).predict_proba(8.0 * new)
    actual = -np.log(oracle[np.arange(2000), truth])
    hard = new[:, 2] > 0
    assert predicted[hard].mean() > predicted[~hard].mean() + 0.2
    assert predicted.mean() == pytest.approx(actual.mean(), rel=0.2)
    assert np.corrcoef(predicted, actual)[0, 1] > 0.3


@pytest.mark.parametrize("labels", [[0, 1], [0, 0, 0, 0, 0, 2], [0, 1, 2, 3]])
def test_the_first_labels_expect_a_finite_loss(labels):
    features, _ = two_groups(len(labels))
    labels = np.array(labels, np.int64)
    predicted = loss_expected(fit_head(features, labels, 4), features, features, labels)
    assert np.isfinite(predicted).all()
