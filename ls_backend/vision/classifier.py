"""All heads of a project on the same embeddings: one for each control of the label config, learnt side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ls_backend.domain import Metrics, Reliability
from ls_backend.errors import TooFewLabels
from ls_backend.vision import committee, heads, multilabel
from ls_backend.vision.heads import Floats, Head
from ls_backend.vision.multilabel import SigmoidHead

Targets = NDArray[np.int8]
"""(m, c): 1 the label holds, 0 it does not, -1 the question was not answered."""

AnyHead = Head | SigmoidHead


@dataclass(frozen=True, eq=False)
class Classifier:
    """One head for each control; their columns stand side by side.

    Attributes:
        heads: In the order of the controls. A `Head` answers one question with one of its classes, a `SigmoidHead` a
            yes/no question for each of its labels.
    """

    heads: tuple[AnyHead, ...]

    @property
    def spans(self) -> tuple[tuple[AnyHead, slice], ...]:
        """Each head with its columns."""
        ends = np.cumsum([len(head.bias) for head in self.heads]).tolist()
        return tuple((head, slice(end - len(head.bias), end)) for head, end in zip(self.heads, ends, strict=True))

    def probabilities(self, features: Floats) -> Floats:
        """Compute probabilities (n, c) float32 of all classes; those of a single choice sum to 1.  O(n c d)."""
        return np.concatenate([head.probabilities(features) for head in self.heads], axis=1)

    def losses(self, features: Floats, targets: Targets) -> NDArray[np.float64]:
        """Compute the log loss (m,) of each task, the mean over the questions that were answered; NaN without any."""
        total, answered = np.zeros(len(targets)), np.zeros(len(targets))
        for head, columns in self.spans:
            rows, truth = answered_rows(targets[:, columns])
            p = np.clip(head.probabilities(features[rows]).astype(np.float64), 1e-7, 1.0)
            if isinstance(head, Head):
                own = -np.log(p[truth])[:, None]
            else:
                own = -np.log(np.where(truth, p, np.clip(1.0 - p, 1e-7, 1.0)))
            total[rows] += own.sum(axis=1)
            answered[rows] += own.shape[1]
        with np.errstate(invalid="ignore"):
            mean: NDArray[np.float64] = total / answered
        return mean

    def wrong(self, features: Floats, targets: Targets) -> NDArray[np.bool_]:
        """Say for which tasks (m,) an answer is not the likeliest one."""
        missed = np.zeros(len(targets), dtype=np.bool_)
        for head, columns in self.spans:
            rows, truth = answered_rows(targets[:, columns])
            p = head.probabilities(features[rows])
            if isinstance(head, Head):
                missed[rows] |= ~truth[np.arange(len(rows)), p.argmax(axis=1)]
            else:
                missed[rows] |= ((p >= 0.5) != truth).any(axis=1)
        return missed

    def members(self, features: Floats, targets: Targets, *, seed: int) -> tuple[Classifier, ...]:
        """Fit classifiers that could as well have come out of such labels; see `committee.bootstrap_heads`.

        A control without enough labels is answered alike by all members.

        Args:
            features: (m, d) float32 of the labelled tasks.
            targets: (m, c).
            seed: Decides the draws.
        """
        n = committee.MEMBERS
        drawn: list[Sequence[AnyHead]] = []
        for head, columns in self.spans:
            rows, truth = answered_rows(targets[:, columns])
            try:
                drawn.append(_bootstrapped(head, features[rows], truth, seed, n))
            except TooFewLabels:
                drawn.append([head] * n)
        return tuple(Classifier(tuple(member)) for member in zip(*drawn, strict=True))

    def thinned(self, d: int, *, seed: int) -> tuple[Classifier, ...]:
        """Blank out parts of the embeddings, for all heads the same ones; see `committee.thinned_heads`."""
        thinned = [committee.thinned_heads(head, d, seed=seed) for head in self.heads]
        return tuple(Classifier(tuple(member)) for member in zip(*thinned, strict=True))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of every head for a checkpoint, under "<number>.<name>"."""
        return {f"{i}.{name}": array for i, head in enumerate(self.heads) for name, array in head.arrays().items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Classifier:
        """Read back what `arrays` returned; a checkpoint of one head alone has no numbers."""
        if "weights" in arrays:
            return cls((Head.from_arrays(arrays),))
        parts: dict[int, dict[str, NDArray[Any]]] = {}
        for name, array in arrays.items():
            number, _, key = name.partition(".")
            parts.setdefault(int(number), {})[key] = array
        stored = (part for _, part in sorted(parts.items()))
        return cls(tuple((SigmoidHead if "yes" in part else Head).from_arrays(part) for part in stored))


@dataclass(frozen=True, eq=False)
class Trained:
    """What a retrain makes.

    Attributes:
        classifier: The one to serve, fitted on all labels.
        evaluation: Fitted without the hold-out.
        metrics: Of `evaluation` on the hold-out: means over the controls that could be measured.
    """

    classifier: Classifier
    evaluation: Classifier
    metrics: Metrics


def train(
    features: Floats,
    targets: Targets,
    holdout: NDArray[np.bool_],
    multiple: Sequence[tuple[int, bool]],
    *,
    seed: int,
    locked: bool = False,
) -> Trained:
    """Train a head for each control on the tasks that answered it.

    A control without enough labels holds every answer for equally likely until it has them; the others go on.

    Args:
        features: (m, d) float32, rows of unit length.
        targets: (m, c).
        holdout: (m,) bool, which tasks are for measuring.
        multiple: For each control how many labels it has, and whether several may hold at once.
        seed: Decides the folds.
        locked: Whether the hold-out is a test set, from which nothing may be learnt.

    Raises:
        TooFewLabels: If no control has enough.
        Diverged: If features or weights are not finite.
    """
    trained: list[heads.Trained | multilabel.Trained | None] = []
    empty: list[AnyHead] = []
    refused: TooFewLabels | None = None
    start = 0
    for size, several in multiple:
        rows, truth = answered_rows(targets[:, start : start + size])
        start += size
        given = features[rows], holdout[rows]
        empty.append(_undecided(size, features.shape[1], several=several))
        try:
            if several:
                trained.append(multilabel.train(given[0], truth, given[1], seed, locked=locked))
            else:
                classes = truth.argmax(axis=1).astype(np.int64)
                trained.append(heads.train(given[0], classes, given[1], size, seed, locked=locked))
        except TooFewLabels as error:
            refused = error
            trained.append(None)
    if refused is not None and not any(trained):
        raise refused
    pairs = list(zip(trained, empty, strict=True))
    return Trained(
        Classifier(tuple(blank if one is None else one.head for one, blank in pairs)),
        Classifier(tuple(blank if one is None else one.evaluation_head for one, blank in pairs)),
        _joined([one.metrics for one in trained if one is not None], locked=locked),
    )


def one_hot(classes: NDArray[np.int64], n_classes: int) -> Targets:
    """Write the classes (m,) of a single choice as targets (m, c)."""
    targets = np.zeros((len(classes), n_classes), np.int8)
    targets[np.arange(len(classes)), classes] = 1
    return targets


def answered_rows(targets: Targets) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the rows (r,) in which a control was answered, and the answers (r, c) there."""
    rows = np.flatnonzero((targets >= 0).all(axis=1)) if targets.shape[1] else np.zeros(0, np.int64)
    return rows, targets[rows] == 1


def out_of_fold_losses(classifier: Classifier, features: Floats, targets: Targets, *, seed: int) -> NDArray[np.float64]:
    """Compute the log loss (m,) of each labelled task under heads that did not see it, at the served temperature.

    Where no fold knew the class, the answer counts as one of Laplace's rule.

    Raises:
        TooFewLabels: If fewer than two classes are labelled.
    """
    total, answered = np.zeros(len(targets)), np.zeros(len(targets))
    for head, columns in classifier.spans:
        rows, truth = answered_rows(targets[:, columns])
        if isinstance(head, Head):
            classes = truth.argmax(axis=1).astype(np.int64)
            own = committee.out_of_fold_losses(head, features[rows], classes, seed=seed)[:, None]
        else:
            logits = multilabel.out_of_fold_logits(features[rows], truth, seed).astype(np.float64) / head.temperature
            own = np.logaddexp(0.0, np.where(truth, -logits, logits))
            own[np.isnan(own)] = np.log(len(rows) + 2)
        total[rows] += own.sum(axis=1)
        answered[rows] += own.shape[1]
    losses: NDArray[np.float64] = total / np.maximum(answered, 1)
    return losses


def out_of_fold_wrong(
    classifier: Classifier, features: Floats, targets: Targets, *, seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Say which labelled tasks (m,) heads that did not see them can judge, and for which (m,) they are wrong."""
    judged, wrong = np.zeros((2, len(targets)), dtype=np.bool_)
    for head, columns in classifier.spans:
        rows, truth = answered_rows(targets[:, columns])
        if isinstance(head, Head):
            logits = heads.out_of_fold_logits(features[rows], truth.argmax(axis=1), len(head.bias), seed)
            known = np.isfinite(logits).any(axis=1)
            missed = ~truth[np.arange(len(rows)), logits.argmax(axis=1)]
        else:
            logits = multilabel.out_of_fold_logits(features[rows], truth, seed)
            known = np.isfinite(logits).any(axis=1)
            missed = (np.isfinite(logits) & ((logits >= 0) != truth)).any(axis=1)
        judged[rows] |= known
        wrong[rows] |= known & missed
    return judged, wrong


def _undecided(size: int, d: int, *, several: bool) -> AnyHead:
    weights, bias = np.zeros((size, d), np.float32), np.zeros(size, np.float32)
    if several:
        return SigmoidHead(weights, bias, np.zeros(size, np.int64), 0)
    return Head(weights, bias, np.ones(size, np.int64))


def _bootstrapped(
    head: AnyHead, features: Floats, truth: NDArray[np.bool_], seed: int, members: int
) -> Sequence[AnyHead]:
    if isinstance(head, SigmoidHead):
        return multilabel.bootstrap_heads(features, truth, seed=seed, temperature=head.temperature, members=members)
    classes = truth.argmax(axis=1).astype(np.int64)
    return committee.bootstrap_heads(
        features, classes, truth.shape[1], seed=seed, temperature=head.temperature, members=members
    )


def _joined(metrics: Sequence[Metrics], *, locked: bool) -> Metrics:
    measured = [one for one in metrics if one.n_holdout]
    if len(metrics) == 1 or not measured:
        return metrics[0]

    def mean(name: str) -> float:
        return float(np.mean([getattr(one, name) for one in measured]))

    return Metrics(
        n_holdout=max(one.n_holdout for one in measured),
        accuracy=mean("accuracy"),
        balanced_accuracy=mean("balanced_accuracy"),
        log_loss=mean("log_loss"),
        ece=mean("ece"),
        test_set=locked,
        reliability=_pooled([one.reliability for one in measured]),
    )


def _pooled(parts: Sequence[tuple[Reliability, ...]]) -> tuple[Reliability, ...]:
    """Put the answers of several heads into common bins."""
    confidence, accuracy, n = (
        np.array([getattr(one, name) for part in parts for one in part]) for name in ("confidence", "accuracy", "n")
    )
    return heads.reliability(confidence, accuracy, n)
