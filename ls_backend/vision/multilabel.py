"""Heads for labels that may hold together: a yes/no question for each label, fitted side by side on frozen embeddings.

A label that so far was always given, or never, cannot be learnt; its probability is that of Laplace's rule,
(yes + 1) / (n + 2), which is defined from the first task on and sure of nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ls_backend.domain import Metrics
from ls_backend.errors import TooFewLabels
from ls_backend.vision.heads import (
    FOLDS,
    Floats,
    best_temperature,
    calibration_error,
    enough_for_temperature,
    reliability,
    solve,
    stratified_parts,
)

Answers = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class SigmoidHead:
    """A linear yes/no classifier for each of several labels.

    Attributes:
        weights: (c, d) float32; rows of labels that cannot be learnt are zero.
        bias: (c,) float32.
        yes: (c,) int64, tasks of each label it was fitted on.
        n_tasks: Tasks it was fitted on.
        temperature: Logits are divided by it; above 1 means the raw logits were too sure.
    """

    weights: Floats
    bias: Floats
    yes: NDArray[np.int64]
    n_tasks: int
    temperature: float = 1.0

    @property
    def learnt(self) -> NDArray[np.bool_]:
        """Labels (c,) that were given sometimes and sometimes not."""
        return (self.yes > 0) & (self.yes < self.n_tasks)

    def logits(self, features: Floats) -> Floats:
        """Compute logits (n, c) float32 before temperature; 0 in the columns of labels that were not learnt."""
        logits: Floats = features @ self.weights.T + self.bias
        return logits

    def probabilities(self, features: Floats) -> Floats:
        """Compute the probability that each label holds.  O(n c d).

        Args:
            features: (n, d) float32, as fitted.

        Returns:
            (n, c) float32; (yes + 1) / (n_tasks + 2) in the columns of labels that were not learnt.
        """
        probabilities = expit(self.logits(features).astype(np.float64) / self.temperature)
        unlearnt = ~self.learnt
        probabilities[:, unlearnt] = (self.yes[unlearnt] + 1.0) / (self.n_tasks + 2.0)
        narrow: Floats = probabilities.astype(np.float32)
        return narrow

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return "weights" (c, d), "bias" (c,), "yes" (c,), "n_tasks" () and "temperature" () for a checkpoint."""
        return {
            "weights": self.weights,
            "bias": self.bias,
            "yes": self.yes,
            "n_tasks": np.asarray(self.n_tasks, np.int64),
            "temperature": np.asarray(self.temperature, np.float64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> SigmoidHead:
        """Read back what `arrays` returned, in the same shapes; other keys are left alone."""
        return cls(
            arrays["weights"],
            arrays["bias"],
            arrays["yes"],
            int(arrays["n_tasks"]),
            float(arrays["temperature"]),
        )


@dataclass(frozen=True, eq=False)
class Trained:
    """What a retrain makes, as in `heads`."""

    head: SigmoidHead
    evaluation_head: SigmoidHead
    metrics: Metrics


def fit_head(features: Floats, answers: Answers) -> SigmoidHead:
    """Fit one logistic regression for each label, all in one convex problem of independent parts.

    Args:
        features: (n, d) float32, rows of unit length.
        answers: (n, c) bool, which labels hold.

    Returns:
        A head with weights (c, d), bias (c,) and temperature 1.

    Raises:
        TooFewLabels: If no label was both given and not given.
        Diverged: If features or weights are not finite.
    """
    n, c = answers.shape
    yes = answers.sum(axis=0).astype(np.int64)
    learnt = (yes > 0) & (yes < n)
    if not learnt.any():
        raise TooFewLabels(
            f"Too few labels to train: on {n} tasks none of {c} labels is both given and not given; expected tasks "
            "with and without a label. Go on labelling."
        )
    truth = answers[:, learnt].astype(np.float64)

    def binary_cross_entropy(logits: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        value = float((np.logaddexp(0.0, logits) - truth * logits).sum() / n)
        return value, (expit(logits) - truth) / n

    weights, bias = np.zeros((c, features.shape[1]), np.float32), np.zeros(c, np.float32)
    weights[learnt], bias[learnt] = solve(features, int(learnt.sum()), binary_cross_entropy)
    return SigmoidHead(weights, bias, yes, n)


def bootstrap_heads(
    features: Floats, answers: Answers, *, seed: int, temperature: float, members: int
) -> tuple[SigmoidHead, ...]:
    """Fit heads that could as well have come out of such labels: on tasks drawn with replacement.

    Tasks without any label and those with one are drawn apart, so that no member sees only the one kind.

    Args:
        features: (m, d) float32, rows of unit length.
        answers: (m, c) bool.
        seed: Decides the draws.
        temperature: Of the served head; members are as sure as it is.
        members: t, at least 2.

    Returns:
        t heads; the counts of labels, which decide what is learnt, are those of all tasks.

    Raises:
        TooFewLabels: If a draw leaves no label to learn.
        Diverged: If features or weights are not finite.
    """
    rng = np.random.default_rng(seed)
    groups = [rows for rows in (np.flatnonzero(answers.any(axis=1)), np.flatnonzero(~answers.any(axis=1))) if len(rows)]
    heads = []
    for _ in range(members):
        drawn = np.concatenate([rng.choice(rows, size=len(rows)) for rows in groups])
        heads.append(replace(fit_head(features[drawn], answers[drawn]), temperature=temperature))
    return tuple(heads)


def out_of_fold_logits(features: Floats, answers: Answers, seed: int) -> Floats:
    """Judge every task by a head that did not see it.  Five fits.

    Returns:
        (n, c) float32 logits before temperature; NaN where the other folds could not learn the label.
    """
    fold = stratified_parts(np.asarray(answers.any(axis=1), np.int64), FOLDS, seed)
    logits = np.full(answers.shape, np.nan, np.float32)
    for k in range(FOLDS):
        inside, outside = fold != k, fold == k
        held = answers[inside]
        if outside.any() and (held.any(axis=0) & ~held.all(axis=0)).any():
            head = fit_head(features[inside], held)
            logits[np.ix_(outside, head.learnt)] = head.logits(features[outside])[:, head.learnt]
    return logits


def fit_temperature(logits: Floats, answers: Answers) -> float:
    """Find the temperature under which the answers are most likely; entries that are NaN do not count.

    Source: Guo et al. 2017, "On calibration of modern neural networks", section 4.2, for the sigmoid.
    """
    known = np.isfinite(logits)
    if not enough_for_temperature(int(known.any(axis=1).sum())):
        return 1.0
    wide, truth = logits[known].astype(np.float64), answers[known]
    return best_temperature(lambda inverse: float(np.mean((expit(wide * inverse) - truth) * wide)))


def train(
    features: Floats, answers: Answers, holdout: NDArray[np.bool_], seed: int, *, locked: bool = False
) -> Trained:
    """Fit the head to serve on all tasks, and measure on the hold-out one that never saw it, as `heads.train` does.

    Args:
        features: (n, d) float32, rows of unit length.
        answers: (n, c) bool, which labels hold.
        holdout: (n,) bool, which tasks are for measuring.
        seed: Decides the folds.
        locked: Whether the hold-out is a test set, from which nothing may be learnt.

    Raises:
        TooFewLabels: If no label was both given and not given.
        Diverged: If features or weights are not finite.
    """
    rest = ~holdout
    held = answers[rest]
    if not locked and (not holdout.any() or not (held.any(axis=0) & ~held.all(axis=0)).any()):
        rest = np.ones_like(holdout)  # nothing could be held out
    measured = fit_head(features[rest], answers[rest])
    judged = out_of_fold_logits(features[rest], answers[rest], seed)
    measured = replace(measured, temperature=fit_temperature(judged, answers[rest]))
    metrics = evaluate(measured.probabilities(features[~rest]), answers[~rest])
    if locked or rest.all():
        return Trained(measured, measured, replace(metrics, test_set=locked))
    head = fit_head(features, answers)
    unseen = np.where(measured.learnt, measured.logits(features[holdout]), np.nan).astype(np.float32)
    temperature = fit_temperature(np.vstack([judged, unseen]), np.concatenate([answers[rest], answers[holdout]]))
    return Trained(replace(head, temperature=temperature), measured, metrics)


def evaluate(probabilities: NDArray[np.floating[Any]], answers: Answers) -> Metrics:
    """Measure yes/no predictions.  O(n c).

    Args:
        probabilities: (n, c) that each label holds.
        answers: (n, c) bool, which do.

    Returns:
        Accuracy: share of tasks with every answer right, as scikit-learn's for multi-label; balanced accuracy: mean
        over the labels of the mean recall of yes and no, where both occur or the one that does; mean log loss,
        calibration error and reliability over all answers; none of them when n = 0.
    """
    n = len(answers)
    if n == 0:
        return Metrics(n_holdout=0)
    wide = np.clip(probabilities.astype(np.float64), 1e-7, 1.0 - 1e-7)
    guess = wide >= 0.5
    right = guess == answers
    recalls = []
    for column, truth in zip(right.T, answers.T, strict=True):
        present = [column[truth == value].mean() for value in (True, False) if (truth == value).any()]
        recalls.append(np.mean(present))
    sure = np.where(guess, wide, 1.0 - wide).ravel()
    return Metrics(
        n_holdout=n,
        accuracy=float(right.all(axis=1).mean()),
        balanced_accuracy=float(np.mean(recalls)),
        log_loss=float(-np.log(np.where(answers, wide, 1.0 - wide)).mean()),
        ece=calibration_error(sure, right.ravel()),
        reliability=reliability(sure, right.ravel()),
    )
