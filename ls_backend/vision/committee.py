"""What the labels leave open: committees of heads, blanked-out embeddings, and the loss to expect.

All of it is made from labels and embeddings alone in well under a second, so nothing is stored with a model version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ls_backend.vision.heads import Floats, Head, Labels, fit_head, out_of_fold_logits
from ls_backend.vision.multilabel import SigmoidHead

AnyHead = TypeVar("AnyHead", bound=Head | SigmoidHead)

MEMBERS = 8
"""Heads of a committee: enough to tell a dispute from an accident, few enough to refit after every label."""

MASKS = 3
BLANKED = 0.75
"""Share of an embedding that a mask blanks out. A linear head on a long embedding does not notice less."""

_RIDGE = np.logspace(-3.0, 2.0, 11)


def bootstrap_heads(
    features: Floats, labels: Labels, n_classes: int, *, seed: int, temperature: float = 1.0, members: int = MEMBERS
) -> tuple[Head, ...]:
    """Fit heads that could as well have come out of such labels.

    Each member is fitted on labels drawn with replacement inside each class, so that no member forgets a class that
    has labels. A class with a single label is the same for all members.  O(t) fits.

    Args:
        features: (m, d) float32, rows of unit length.
        labels: (m,) int64 in 0..n_classes-1.
        n_classes: Columns of the heads.
        seed: Decides the draws.
        temperature: Of the served head; members are as sure as it is.
        members: t, at least 2.

    Returns:
        t heads.

    Raises:
        TooFewLabels: If fewer than two classes are labelled.
        Diverged: If features or weights are not finite.

    Source: Efron 1979, "Bootstrap methods: another look at the jackknife"; as a committee Abe & Mamitsuka 1998, "Query
    learning strategies using boosting and bagging".
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels, minlength=n_classes)[labels[order]]  # (m,) labels of the same class
    first = np.searchsorted(labels[order], labels[order])  # (m,) where that class starts
    heads = []
    for _ in range(members):
        drawn = order[first + rng.integers(sizes)]
        heads.append(replace(fit_head(features[drawn], labels[drawn], n_classes), temperature=temperature))
    return tuple(heads)


class Believer(Protocol):
    """A head, or all heads of a project."""

    def probabilities(self, features: Floats) -> Floats:
        """Compute class probabilities (n, c)."""
        ...


def member_probabilities(members: Sequence[Believer], features: Floats) -> Floats:
    """Compute what each member believes.  O(t n c d).

    Args:
        members: t of them.
        features: (n, d) float32, as fitted.

    Returns:
        (t, n, c) float32.
    """
    beliefs: Floats = np.stack([member.probabilities(features) for member in members])
    return beliefs


def thinned_heads(head: AnyHead, d: int, *, seed: int, masks: int = MASKS) -> tuple[AnyHead, ...]:
    """Blank out parts of the embeddings that a head looks at.

    The same masks are put on all rows, so a belief does not depend on the other rows or on their order; and a mask on
    the embeddings of a linear head is a mask on its weights, which costs nothing.

    Args:
        head: The served head.
        d: Length of an embedding.
        seed: Decides the masks.
        masks: t.

    Returns:
        t heads.

    Source: Gupte et al. 2024, arXiv:2401.14555, section 5 (dropout on the embedding of a frozen network); Kirsch et al.
    2019, arXiv:1906.08158, section 4.1 (masks that are shared by all inputs).
    """
    kept = np.random.default_rng(seed).random((masks, d)) >= BLANKED
    return tuple(replace(head, weights=(head.weights * (mask / (1.0 - BLANKED))).astype(np.float32)) for mask in kept)


def expected_loss(features: Floats, labelled_features: Floats, losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Predict the log loss the model would have on each task, from the losses it had on the labels.

    Ridge regression on the embedding, its penalty chosen by leave-one-out, carries them over to the pool.
    O(m^2 d + n d).

    Args:
        features: (n, d) float32 of the pool.
        labelled_features: (m, d) float32 of the labels.
        losses: (m,) float64 in nats, each under a head that did not see the label.

    Returns:
        (n,) float64 in nats; a regression may go below 0.

    Source: after Yoo & Kweon 2019, arXiv:1905.03677, with a regressor of losses in the place of their module.
    """
    from sklearn.linear_model import RidgeCV  # noqa: PLC0415 - a second that only plans with this method pay

    regression = RidgeCV(alphas=_RIDGE).fit(labelled_features.astype(np.float64), losses)
    predicted: NDArray[np.float64] = features @ regression.coef_ + regression.intercept_
    return predicted


def out_of_fold_losses(head: Head, features: Floats, labels: Labels, *, seed: int) -> NDArray[np.float64]:
    """Compute the log loss (m,) of each label under a head fitted on the other folds, at the served temperature.

    Where no fold knew the class, the label counts as one of Laplace's rule, 1 / (m + c).  Five fits.

    Args:
        head: The served head.
        features: (m, d) float32 of the labels.
        labels: (m,) int64 in 0..c-1.
        seed: Decides the folds.

    Raises:
        TooFewLabels: If fewer than two classes are labelled.
        Diverged: If features or weights are not finite.
    """
    judged = out_of_fold_logits(features, labels, len(head.bias), seed).astype(np.float64) / head.temperature
    own = judged[np.arange(len(labels)), labels]
    known = np.isfinite(own)
    losses = np.full(len(labels), np.log(len(labels) + len(head.bias)))
    losses[known] = np.logaddexp.reduce(judged[known], axis=1) - own[known]
    return losses
