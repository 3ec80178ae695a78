"""The point of it all: fewer labels for the same accuracy, on real images and with rare classes."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import train_test_split

from ls_backend.strategies import Plan, Pool, rank, unit_rows


def learning_curve(preset, seed, *, rare):
    """Mean balanced accuracy over 10 to 80 labels."""
    images, digits = load_digits(return_X_y=True)
    pool, test, truth, test_truth = train_test_split(
        images / 16, digits, test_size=0.33, random_state=seed, stratify=digits
    )
    if rare:
        keep = np.concatenate([np.flatnonzero(truth == c)[: 10 if c >= 5 else None] for c in range(10)])
        pool, truth = pool[keep], truth[keep]
    embeddings, labelled, accuracies = unit_rows(pool - pool.mean(axis=0)), np.zeros(0, dtype=int), []
    head = None
    while len(labelled) < 80:
        rest = np.setdiff1d(np.arange(len(truth)), labelled)
        probabilities = None
        if head is not None:
            probabilities = np.zeros((len(rest), 10))
            probabilities[:, head.classes_] = head.predict_proba(pool[rest])
        counts = np.bincount(truth[labelled], minlength=10)
        asked = Pool(embeddings[rest], probabilities, embeddings[labelled], counts)
        ranking = rank(asked, Plan.preset(preset), 10, np.random.default_rng(seed + len(labelled)))
        labelled = np.concatenate([labelled, rest[ranking.indices]])
        head = LogisticRegression(C=10, max_iter=1000).fit(pool[labelled], truth[labelled])
        accuracies.append(balanced_accuracy_score(test_truth, head.predict(test)))
    return np.mean(accuracies)


@pytest.mark.parametrize(("rare", "lead"), [(False, 0.06), (True, 0.12)])
def test_the_default_plan_needs_fewer_labels_than_random_order(rare, lead):
    ours = np.mean([learning_curve("auto", seed, rare=rare) for seed in range(2)])
    by_chance = np.mean([learning_curve("random", seed, rare=rare) for seed in range(2)])
    assert ours > by_chance + lead
