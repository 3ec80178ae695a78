"""Seeded replay of labels that are known already: what a plan would have been worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ls_backend.domain import Metrics
from ls_backend.errors import PoolInvalid
from ls_backend.strategies import Plan, Pool, fit_reduction, rank
from ls_backend.strategies.reduction import DIMENSIONS

Floats32 = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Curve:
    """How good the head was after each round of labels.

    Attributes:
        n_labels: (r,) int64 labels so far.
        accuracy: (r,) float64 share of the test set that is right.
        balanced_accuracy: (r,) float64 the same, averaged over the classes of the test set.
        log_loss: (r,) float64 mean negative log-likelihood of the test labels, in nats.
        picked: (n_labels[-1],) int64 rows of the pool in the order they were labelled.
    """

    n_labels: Labels
    accuracy: NDArray[np.float64]
    balanced_accuracy: NDArray[np.float64]
    log_loss: NDArray[np.float64]
    picked: Labels


def backtest(
    embeddings: Floats32,
    labels: Labels,
    test_embeddings: Floats32,
    test_labels: Labels,
    plan: Plan,
    batch: int,
    rounds: int,
    seed: int,
    *,
    n_classes: int | None = None,
) -> Curve:
    """Label a pool again in the order of a plan, and measure the product's own head after every batch.

    The first batch is ranked without a model. From two labelled classes on, the head is fitted on everything picked,
    with the temperature of out-of-fold logits, and ranks the next batch; until then the only class labelled is
    predicted for every task, with Laplace's rule as its probabilities, and the ranking stays a cold start. Distances
    are measured in at most 64 dimensions fitted once on the pool, the head sees all of them. The same seed gives the
    same curve, and a replay of fewer rounds is the beginning of one of more.

    Args:
        embeddings: (n, d) float32, rows of unit length or all zero: the pool.
        labels: (n,) int64 from 0, the class of each.
        test_embeddings: (t, d) float32, rows of unit length that are never picked.
        test_labels: (t,) int64 classes of those.
        plan: What to label first.
        batch: Labels a round, at least 1.
        rounds: Rounds wanted, at least 1; fewer are played when the pool is used up, or filtered empty by the plan.
        seed: Decides everything random, 0 or more.
        n_classes: Classes there are; None takes the largest class of pool and test set, plus one.

    Returns:
        One entry a round.

    Raises:
        PoolInvalid: If shapes disagree, a value cannot be used, or batch, rounds or seed is out of range.
        StrategyNotReady: If the plan needs what a replay does not have, such as class names.
        Diverged: If a fit is not finite.
    Source: the protocol of Munjal et al. 2022, "Towards robust and reproducible active learning using neural
    networks": one head, one locked test set and the same start for every plan.
    """
    for name, value, least in (("batch", batch, 1), ("rounds", rounds, 1), ("seed", seed, 0)):
        if value < least:
            raise PoolInvalid(f"{name} is {value}; expected {least} or more. Correct it.")
    features, test_features = _unit_length("embeddings", embeddings), _unit_length("test_embeddings", test_embeddings)
    if features.shape[1] != test_features.shape[1] or not len(test_features):
        raise PoolInvalid(
            f"test_embeddings have shape {test_features.shape}; expected at least one row of {features.shape[1]} "
            "dimensions, as the embeddings have. Embed both with the same backbone."
        )
    classes = _classes("labels", labels, len(features), n_classes)
    truth = _classes("test_labels", test_labels, len(test_features), n_classes)
    n_classes = n_classes or 1 + max(int(classes.max(initial=0)), int(truth.max()))
    places = fit_reduction(features).apply(features) if features.shape[1] > DIMENSIONS else features

    picked = np.empty(0, dtype=np.int64)
    probabilities: Floats32 | None = None
    n_labels: list[int] = []
    metrics: list[Metrics] = []
    for _ in range(rounds):
        rest = np.setdiff1d(np.arange(len(features)), picked)
        pool = Pool(
            embeddings=places[rest],
            probabilities=None if probabilities is None else probabilities[rest],
            labelled_embeddings=places[picked],
            labelled_counts=np.bincount(classes[picked], minlength=n_classes).astype(np.float64),
        )
        ranking = rank(pool, plan, min(batch, len(rest)), np.random.default_rng((seed, len(picked))))
        if not len(ranking.indices):
            break
        picked = np.concatenate([picked, rest[ranking.indices]])
        probabilities, measured = _learn(
            features, classes, picked, test_features, truth, n_classes=n_classes, seed=seed
        )
        n_labels.append(len(picked))
        metrics.append(measured)
    return Curve(
        n_labels=np.array(n_labels, dtype=np.int64),
        accuracy=np.array([item.accuracy for item in metrics], dtype=np.float64),
        balanced_accuracy=np.array([item.balanced_accuracy for item in metrics], dtype=np.float64),
        log_loss=np.array([item.log_loss for item in metrics], dtype=np.float64),
        picked=picked,
    )


def _learn(
    features: Floats32,
    classes: Labels,
    picked: Labels,
    test_features: Floats32,
    truth: Labels,
    *,
    n_classes: int,
    seed: int,
) -> tuple[Floats32 | None, Metrics]:
    """Fit on the picks: probabilities (n, c) of the pool, None while one class is labelled, and the test's metrics."""
    from ls_backend.vision import heads  # noqa: PLC0415 - torch

    counts = np.bincount(classes[picked], minlength=n_classes)
    if np.count_nonzero(counts) < 2:
        constant = (counts + 1.0) / (counts.sum() + n_classes)  # (c,)
        return None, heads.evaluate(np.tile(constant, (len(truth), 1)), truth)
    nothing_held_out = np.zeros(len(picked), dtype=np.bool_)
    head = heads.train(features[picked], classes[picked], nothing_held_out, n_classes, seed).head
    return head.probabilities(features), heads.evaluate(head.probabilities(test_features), truth)


def _unit_length(name: str, values: Floats32) -> Floats32:
    try:
        return Pool(embeddings=values).embeddings
    except PoolInvalid as error:
        raise PoolInvalid(f"{name} cannot be used: {error}") from error


def _classes(name: str, values: Labels, n: int, n_classes: int | None) -> Labels:
    array = np.asarray(values)
    if array.shape != (n,) or (n and array.dtype.kind not in "iu"):
        raise PoolInvalid(
            f"{name} have shape {array.shape} and type {array.dtype}; expected ({n},) whole numbers, the class of each "
            "embedding. Number the classes from 0."
        )
    wrong = array < 0 if n_classes is None else (array < 0) | (array >= n_classes)
    if wrong.any():
        row = int(np.argmax(wrong))
        top = "" if n_classes is None else f" to {n_classes - 1}"
        raise PoolInvalid(
            f"Row {row} of {name} is class {array[row]} ({int(wrong.sum())} such rows); expected 0{top}. Leave out "
            "tasks without a usable label."
        )
    return array.astype(np.int64)
