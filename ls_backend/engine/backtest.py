"""Seeded replay of labels that are known already: what a plan would have been worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ls_backend.domain import Metrics
from ls_backend.engine.beliefs import beliefs
from ls_backend.errors import PoolInvalid
from ls_backend.strategies import Plan, Pool, fit_reduction, needs, rank
from ls_backend.strategies.reduction import DIMENSIONS

if TYPE_CHECKING:
    from ls_backend.vision.heads import Head

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


@dataclass(frozen=True, eq=False)
class Situation:
    """What is known before a batch is chosen.

    Attributes:
        features: (n, d) float32 of the pool, rows of unit length or all zero.
        picked: (m,) int64 rows labelled so far, in order.
        labels: (m,) int64 classes of those.
        n_classes: Classes there are.
        head: Fitted on those; None while fewer than two classes are labelled.
    """

    features: Floats32
    picked: Labels
    labels: Labels
    n_classes: int
    head: Head | None

    @property
    def rest(self) -> Labels:
        """Rows not labelled yet, ascending."""
        return np.setdiff1d(np.arange(len(self.features)), self.picked)

    @property
    def counts(self) -> Labels:
        """Labels of each class so far, (c,) int64."""
        return np.bincount(self.labels, minlength=self.n_classes)


Chooser = Callable[[Situation, int, np.random.Generator], Labels]
"""Picks up to k of the situation's `rest`, with a generator for everything random; none at all ends the replay."""


def backtest(
    embeddings: Floats32,
    labels: Labels,
    test_embeddings: Floats32,
    test_labels: Labels,
    plan: Plan | Chooser,
    batch: int,
    rounds: int,
    seed: int,
    *,
    n_classes: int | None = None,
    class_names: tuple[str, ...] | None = None,
    metadata: Mapping[str, NDArray[Any]] | None = None,
    cost_matrix: NDArray[np.float64] | None = None,
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
        plan: What to label first; or a function that chooses, to compare with what is not a plan.
        batch: Labels a round, at least 1.
        rounds: Rounds wanted, at least 1; fewer are played when the pool is used up, or filtered empty by the plan.
        seed: Decides everything random, 0 or more.
        n_classes: Classes there are; None takes the largest class of pool and test set, plus one.
        class_names: Labels in the order of the classes, for a plan that names some.
        metadata: Field name to (n,) values of the pool, for a plan with metadata rules.
        cost_matrix: (c, c) float64 cost of the answer in the column when the row is the truth, for expected cost.

    Returns:
        One entry a round.

    Raises:
        PoolInvalid: If shapes disagree, a value cannot be used, or batch, rounds or seed is out of range.
        StrategyNotReady: If the plan needs class names, a metadata field or costs that are not given.
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
    if isinstance(plan, Plan):
        places = fit_reduction(features).apply(features) if features.shape[1] > DIMENSIONS else features
        whole = Pool(places, metadata=metadata or {}, class_names=class_names, cost_matrix=cost_matrix)
        choose = _by_plan(plan, whole, seed)
    else:
        choose = plan

    now = Situation(features, np.empty(0, np.int64), np.empty(0, np.int64), n_classes, None)
    n_labels: list[int] = []
    metrics: list[Metrics] = []
    for _ in range(rounds):
        m = len(now.picked)
        chosen = choose(now, min(batch, len(features) - m), np.random.default_rng((seed, m)))
        if not len(chosen):
            break
        picked = np.concatenate([now.picked, chosen])
        head = _fitted(features[picked], classes[picked], n_classes, seed)
        now = replace(now, picked=picked, labels=classes[picked], head=head)
        n_labels.append(len(picked))
        metrics.append(_measured(now, test_features, truth))
    return Curve(
        n_labels=np.array(n_labels, dtype=np.int64),
        accuracy=np.array([item.accuracy for item in metrics], dtype=np.float64),
        balanced_accuracy=np.array([item.balanced_accuracy for item in metrics], dtype=np.float64),
        log_loss=np.array([item.log_loss for item in metrics], dtype=np.float64),
        picked=now.picked,
    )


def _by_plan(plan: Plan, whole: Pool, seed: int) -> Chooser:
    """Rank what is left of a whole pool as the product does, with the same beliefs."""
    wanted = needs(plan, has_model=True)

    def choose(now: Situation, k: int, rng: np.random.Generator) -> Labels:
        rest = now.rest
        pool = replace(
            whole,
            embeddings=whole.embeddings[rest],
            labelled_embeddings=whole.embeddings[now.picked],
            labelled_counts=now.counts.astype(np.float64),
            metadata={name: column[rest] for name, column in whole.metadata.items()},
            **({} if now.head is None else _beliefs(wanted, now, now.head, seed)),
        )
        return rest[rank(pool, plan, k, rng).indices]

    return choose


def _beliefs(wanted: AbstractSet[str], now: Situation, head: Head, seed: int) -> dict[str, Any]:
    """Make the fields of a pool that come from a model; only those the plan asks for cost anything."""
    from ls_backend.vision.classifier import Classifier, one_hot  # noqa: PLC0415 - slow to import

    unlabelled = now.features[now.rest]
    more = beliefs(
        wanted,
        classifier=Classifier((head,)),
        features=unlabelled,
        labelled_features=now.features[now.picked],
        targets=one_hot(now.labels, now.n_classes),
        seed=seed,
    )
    return {"probabilities": head.probabilities(unlabelled), **more}


def _fitted(features: Floats32, classes: Labels, n_classes: int, seed: int) -> Head | None:
    """Fit the head to serve as the product does; None while fewer than two classes are labelled."""
    from ls_backend.vision import heads  # noqa: PLC0415 - slow to import

    if len(np.unique(classes)) < 2:
        return None
    return heads.train(features, classes, np.zeros(len(classes), dtype=np.bool_), n_classes, seed).head


def _measured(now: Situation, test_features: Floats32, truth: Labels) -> Metrics:
    """Measure on the test set (t, d); without a head the labels so far are all there is to go by."""
    from ls_backend.vision import heads  # noqa: PLC0415 - slow to import

    if now.head is None:
        by_laplace = (now.counts + 1.0) / (len(now.labels) + now.n_classes)  # (c,)
        return heads.evaluate(np.tile(by_laplace, (len(truth), 1)), truth)
    return heads.evaluate(now.head.probabilities(test_features), truth)


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
