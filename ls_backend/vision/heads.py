"""The small trained classifier on frozen embeddings, and how good it is.

Multinomial logistic regression: convex, so the same labels give the same head, and fast enough to refit after every
single label. A class that nobody has labelled yet cannot be learnt; it gets the fixed probability 1 / (n + c) of
Laplace's rule (n labels, c classes), which is low, defined and shrinks as labels come in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from threadpoolctl import ThreadpoolController

from ls_backend.domain import Metrics, Reliability
from ls_backend.errors import Diverged, TooFewLabels

L2 = 1e-3
SCALE = 8.0
MIN_TEMPERATURE = 0.25
MAX_TEMPERATURE = 20.0
FOLDS = 5
_FEWEST_FOR_TEMPERATURE = 10
_ECE_BINS = 15
_RELIABILITY_BINS = 10
_BLAS = ThreadpoolController()
"""A fit is thousands of small products: beside another busy process, threads that wait for each other take ten times
as long as one."""

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Head:
    """A linear classifier on embeddings.

    Attributes:
        weights: (c, d) float32; rows of classes without labels are zero.
        bias: (c,) float32.
        counts: (c,) int64, labels of each class it was fitted on.
        temperature: Logits are divided by it; above 1 means the raw logits were too sure.
    """

    weights: Floats
    bias: Floats
    counts: Labels
    temperature: float = 1.0

    def logits(self, features: Floats) -> Floats:
        """Compute logits before temperature.  O(n c d).

        Args:
            features: (n, d) float32, as fitted.

        Returns:
            (n, c) float32; -inf in the columns of classes without labels.
        """
        logits: Floats = features @ self.weights.T + self.bias
        logits[:, self.counts == 0] = -np.inf
        return logits

    def probabilities(self, features: Floats) -> Floats:
        """Compute temperature-scaled class probabilities.  O(n c d).

        Args:
            features: (n, d) float32, as fitted.

        Returns:
            (n, c) float32, rows sum to 1; 1 / (n_labels + c) in the columns of classes without labels.
        """
        unseen = self.counts == 0
        rare = 1.0 / (int(self.counts.sum()) + len(self.counts))
        probabilities = _softmax(self.logits(features) / self.temperature) * (1.0 - rare * unseen.sum())
        probabilities[:, unseen] = rare
        narrow: Floats = probabilities.astype(np.float32)
        return narrow

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return "weights" (c, d), "bias" (c,), "counts" (c,) and "temperature" () for a checkpoint."""
        temperature = np.asarray(self.temperature, np.float64)
        return {"weights": self.weights, "bias": self.bias, "counts": self.counts, "temperature": temperature}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Head:
        """Read back what `arrays` returned, in the same shapes; other keys are left alone."""
        return cls(arrays["weights"], arrays["bias"], arrays["counts"], float(arrays["temperature"]))


@dataclass(frozen=True, eq=False)
class Trained:
    """What a retrain makes.

    Attributes:
        head: The one to serve, fitted on all labels.
        evaluation_head: Fitted without the hold-out; `head` itself when nothing could be held out, and when the
            hold-out is a locked test set.
        metrics: Of `evaluation_head` on the hold-out, which it never saw in any way.
    """

    head: Head
    evaluation_head: Head
    metrics: Metrics


def fit_head(features: Floats, labels: Labels, n_classes: int, *, l2: float = L2, scale: float = SCALE) -> Head:
    """Fit multinomial logistic regression by L-BFGS.

    Minimises mean cross-entropy of (scale * features) W' + b, plus l2 / 2 ||W||^2, as `solve` says.

    Args:
        features: (n, d) float32, rows of unit length.
        labels: (n,) int64 in 0..n_classes-1.
        n_classes: Columns of the head, labelled or not.
        l2: Weight decay on the scaled features.
        scale: Factor on the features; unit vectors are too short for confident logits under this decay.

    Returns:
        A head with weights (n_classes, d), bias (n_classes,) and temperature 1.

    Raises:
        TooFewLabels: If fewer than two classes are labelled.
        Diverged: If features or weights are not finite.
    """
    counts = np.bincount(labels, minlength=n_classes).astype(np.int64)
    seen = np.flatnonzero(counts)
    if len(seen) < 2:
        raise TooFewLabels(
            f"Too few labels to train: {len(labels)} labels in {len(seen)} of {n_classes} classes; expected labels in "
            "at least 2 classes. Go on labelling."
        )
    own = np.arange(len(labels)), np.searchsorted(seen, labels)

    def cross_entropy(logits: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits -= logits.max(axis=1, keepdims=True)
        powers = np.exp(logits)
        sums = powers.sum(axis=1, keepdims=True)
        value = float(np.mean(np.log(sums[:, 0]) - logits[own]))
        residual = powers / sums
        residual[own] -= 1.0
        return value, residual / len(labels)

    weights, bias = np.zeros((n_classes, features.shape[1]), np.float32), np.zeros(n_classes, np.float32)
    weights[seen], bias[seen] = solve(features, len(seen), cross_entropy, l2=l2, scale=scale)
    return Head(weights=weights, bias=bias, counts=counts)


Objective = Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]]
"""Logits (n, c), which it may overwrite, to a loss and its slope (n, c)."""


def solve(
    features: Floats, n_outputs: int, objective: Objective, *, l2: float = L2, scale: float = SCALE
) -> tuple[Floats, Floats]:
    """Minimise an objective of the logits (scale * features) W' + b, plus l2 / 2 ||W||^2, by L-BFGS; the bias is free.

    With fewer rows than features the weights lie in the span of the rows, so the fit runs in that smaller space,
    exactly.  O(iterations n c min(n, d) + n^2 d).

    Args:
        features: (n, d) float32, rows of unit length.
        n_outputs: c.
        objective: Convex.
        l2: Weight decay on the scaled features.
        scale: Factor on the features; unit vectors are too short for confident logits under this decay.

    Returns:
        Weights (c, d) on the unscaled features, and bias (c,).

    Raises:
        Diverged: If features or weights are not finite.
    """
    rows = features.astype(np.float64) * scale  # (n, d)
    if not np.isfinite(rows).all():
        raise Diverged(f"Of {len(features)} labelled embeddings some are not finite; expected finite numbers.")
    n, d = rows.shape
    basis = None
    with _BLAS.limit(limits=1, user_api="blas"):
        if n < d:
            basis, upper = np.linalg.qr(rows.T)  # (d, n), (n, n)
            rows = np.ascontiguousarray(upper.T)
        theta = _minimise(rows, n_outputs, objective, l2)
        kernel = theta[:, :-1] if basis is None else theta[:, :-1] @ basis.T
    weights, bias = (kernel * scale).astype(np.float32), theta[:, -1].astype(np.float32)
    if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
        raise Diverged(f"Weights fitted on {n} labels are not finite; expected finite numbers.")
    return weights, bias


def _minimise(rows: NDArray[np.float64], n_outputs: int, objective: Objective, l2: float) -> NDArray[np.float64]:
    """Return the minimum, theta (c, d + 1), the last column being the bias."""
    d = rows.shape[1]

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        theta = flat.reshape(n_outputs, d + 1)
        weights = theta[:, :-1]
        value, residual = objective(rows @ weights.T + theta[:, -1])
        value += 0.5 * l2 * float(np.square(weights).sum())
        slope = np.column_stack([residual.T @ rows + l2 * weights, residual.sum(axis=0)])
        return value, slope.ravel()

    options = {"maxcor": 20, "maxiter": 500, "gtol": 1e-7, "ftol": 1e-15}
    found = minimize(loss, np.zeros(n_outputs * (d + 1)), jac=True, method="L-BFGS-B", options=options)
    minimum: NDArray[np.float64] = found.x.reshape(n_outputs, d + 1)
    return minimum


def fit_temperature(logits: NDArray[np.floating[Any]], labels: Labels) -> float:
    """Find the temperature under which the labels are most likely.

    The mean negative log-likelihood is convex in 1 / T, so bisection on its derivative finds the minimum.  O(n c).

    Args:
        logits: (n, c) of labels the head was not fitted on; -inf for classes it does not know.
        labels: (n,) int64, each of a class with finite logits.

    Returns:
        The temperature, within 0.25 to 20; 1.0 without labels.

    Source: Guo et al. 2017, "On calibration of modern neural networks", section 4.2.
    """
    if len(labels) == 0:
        return 1.0
    wide = logits.astype(np.float64)
    own = wide[np.arange(len(labels)), labels]
    known = np.where(np.isfinite(wide), wide, 0.0)
    return best_temperature(lambda inverse: float(np.mean((_softmax(wide * inverse) * known).sum(axis=1) - own)))


def best_temperature(slope: Callable[[float], float]) -> float:
    """Return the temperature T, 0.25 to 20, at which a convex loss of 1 / T is smallest.

    Args:
        slope: Derivative of the loss by 1 / T.
    """
    low, high = 1.0 / MAX_TEMPERATURE, 1.0 / MIN_TEMPERATURE
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return float(np.clip(2.0 / (low + high), MIN_TEMPERATURE, MAX_TEMPERATURE))


def train(
    features: Floats, labels: Labels, holdout: NDArray[np.bool_], n_classes: int, seed: int, *, locked: bool = False
) -> Trained:
    """Fit the head to serve on all labels, and measure on the hold-out one that never saw it.

    When the hold-out is a locked test set, one head does both: what is served must not know the test set either.

    The measured head takes its temperature from out-of-fold logits of 5 stratified folds of the rest, so its metrics
    stay honest. The served head takes it from those and the hold-out's logits together: a hold-out that happens to be
    all right would by itself make a small head absurdly sure.

    Args:
        features: (n, d) float32, rows of unit length.
        labels: (n,) int64 in 0..n_classes-1.
        holdout: (n,) bool, which labels are for measuring.
        n_classes: Classes of the label config.
        seed: Decides the folds.
        locked: Whether the hold-out is a test set, from which nothing may be learnt.

    Returns:
        The head to serve, the measured head and its metrics; no metrics when nothing could be held out.

    Raises:
        TooFewLabels: If fewer than two classes are labelled, those of a test set not counted.
        Diverged: If features or weights are not finite.
    """
    rest = ~holdout
    if not locked and (not holdout.any() or len(np.unique(labels[rest])) < 2):
        rest = np.ones_like(holdout)  # nothing could be held out
    measured = fit_head(features[rest], labels[rest], n_classes)
    judged = out_of_fold_logits(features[rest], labels[rest], n_classes, seed)
    measured = replace(measured, temperature=_usable_temperature(judged, labels[rest]))
    metrics = evaluate(measured.probabilities(features[~rest]), labels[~rest])
    if locked or rest.all():
        return Trained(head=measured, evaluation_head=measured, metrics=replace(metrics, test_set=locked))
    head = fit_head(features, labels, n_classes)
    unseen = measured.logits(features[holdout])
    served = _usable_temperature(np.vstack([judged, unseen]), np.concatenate([labels[rest], labels[holdout]]))
    return Trained(head=replace(head, temperature=served), evaluation_head=measured, metrics=metrics)


def out_of_fold_logits(features: Floats, labels: Labels, n_classes: int, seed: int) -> Floats:
    """Judge every label by a head that did not see it.  Five fits.

    Args:
        features: (n, d) float32, rows of unit length.
        labels: (n,) int64 in 0..n_classes-1.
        n_classes: Columns of the head.
        seed: Decides the five stratified folds.

    Returns:
        (n, c) float32 logits before temperature; -inf for classes that the other folds lack.
    """
    fold = stratified_parts(labels, FOLDS, seed)
    logits = np.full((len(labels), n_classes), -np.inf, np.float32)
    for k in range(FOLDS):
        inside, outside = fold != k, fold == k
        if outside.any() and len(np.unique(labels[inside])) >= 2:
            logits[outside] = fit_head(features[inside], labels[inside], n_classes).logits(features[outside])
    return logits


def _usable_temperature(logits: Floats, labels: Labels) -> float:
    usable = np.isfinite(logits[np.arange(len(labels)), labels])
    if not enough_for_temperature(int(usable.sum())):
        return 1.0
    return fit_temperature(logits[usable], labels[usable])


def enough_for_temperature(n_labels: int) -> bool:
    """Whether so many labels can decide one number; below, it would be noise, and 1 is the honest answer."""
    return n_labels >= _FEWEST_FOR_TEMPERATURE


def stratified_parts(labels: Labels, parts: int, seed: int) -> Labels:
    """Deal the labels of each class to the parts in turn, in a seeded order: (n,) part numbers from 0."""
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    part = np.empty(len(labels), np.int64)
    part[by_class] = np.arange(len(labels)) % parts
    return part


def evaluate(probabilities: NDArray[np.floating[Any]], labels: Labels) -> Metrics:
    """Measure predictions against labels.  O(n c).

    Args:
        probabilities: (n, c), rows sum to 1.
        labels: (n,) int64 in 0..c-1.

    Returns:
        Accuracy, accuracy averaged over the classes among the labels, mean log loss, expected calibration error of
        the most likely class in 15 bins of equal width, and its reliability; none of them when n = 0.

    """
    n = len(labels)
    if n == 0:
        return Metrics(n_holdout=0)
    wide = probabilities.astype(np.float64)
    right = wide.argmax(axis=1) == labels
    size = np.bincount(labels)
    recall = np.bincount(labels, weights=right)[size > 0] / size[size > 0]
    own = wide[np.arange(n), labels] / wide.sum(axis=1)
    return Metrics(
        n_holdout=n,
        accuracy=float(right.mean()),
        balanced_accuracy=float(recall.mean()),
        log_loss=float(-np.log(np.maximum(own, np.finfo(np.float64).eps)).mean()),
        ece=calibration_error(wide.max(axis=1), right),
        reliability=reliability(wide.max(axis=1), right),
    )


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Return the expected calibration error of n answers in 15 bins of equal width.  O(n).

    Source: Guo et al. 2017, equation 3.
    """
    gap = np.bincount(_bins(confidence, _ECE_BINS), weights=right - confidence, minlength=_ECE_BINS)
    return float(np.abs(gap).sum() / len(right))


def reliability(
    confidence: NDArray[np.float64],
    right: NDArray[np.bool_] | NDArray[np.float64],
    n: NDArray[np.int64] | None = None,
) -> tuple[Reliability, ...]:
    """Compare confidence with accuracy in 10 bins of equal width, those with answers, by rising confidence.  O(m).

    Args:
        confidence: (m,) of the answers, 0 to 1.
        right: (m,) whether they were right.
        n: (m,) answers that each row stands for, to put the bins of several heads together: `confidence` and `right`
            are their means then; None for one each.

    Source: DeGroot & Fienberg 1983, The Comparison and Evaluation of Forecasters; Guo et al. 2017, figure 1.
    """
    bins = _bins(confidence, _RELIABILITY_BINS)
    weights = np.ones(len(bins)) if n is None else n
    size, sure, hits = (np.bincount(bins, weights=weights * values) for values in (1.0, confidence, right))
    return tuple(
        Reliability(float(sure[i] / size[i]), float(hits[i] / size[i]), int(size[i])) for i in np.flatnonzero(size)
    )


def _bins(confidence: NDArray[np.float64], n_bins: int) -> Labels:
    """Number (n,) of the bin of equal width, closed above, in which each confidence lies."""
    return np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)


def _softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Softmax over the columns; -inf columns get 0."""
    wide = logits.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares
