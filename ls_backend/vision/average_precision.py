"""How good predicted boxes are: average precision as COCO measures it.

Source: Lin et al. 2014, "Microsoft COCO: common objects in context", and the evaluation of pycocotools: greedy matching
in the order of scores, precision made monotone, sampled at 101 recalls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]
Classes = NDArray[np.int64]
Scores = NDArray[np.float32]

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Overlaps from which on a box counts as found."""

_RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, eq=False)
class Truth:
    """The labelled boxes of an image.

    Attributes:
        boxes: (b, 4) float32 left, top, right, bottom.
        classes: (b,) int64.
    """

    boxes: Boxes
    classes: Classes


@dataclass(frozen=True, eq=False)
class Found:
    """The predicted boxes of an image.

    Attributes:
        boxes: (b, 4) float32 left, top, right, bottom.
        classes: (b,) int64.
        scores: (b,) float32.
    """

    boxes: Boxes
    classes: Classes
    scores: Scores


def overlaps(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """Compute intersection over union of every pair of boxes; two boxes without area overlap by 0.  O(a b).

    Args:
        first: (a, 4) left, top, right, bottom.
        second: (b, 4), the same.

    Returns:
        (a, b) float64 in 0 to 1.
    """
    one, two = first.astype(np.float64)[:, None], second.astype(np.float64)[None]
    sides = np.minimum(one[..., 2:], two[..., 2:]) - np.maximum(one[..., :2], two[..., :2])
    common = np.clip(sides, 0.0, None).prod(axis=2)
    union = _areas(one) + _areas(two) - common
    shares: NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return shares


def average_precisions(truths: Sequence[Truth], found: Sequence[Found], n_classes: int) -> NDArray[np.float64]:
    """Compute the average precision of every class at every threshold.

    Args:
        truths: The labelled boxes of n images.
        found: The predicted boxes of the same images.
        n_classes: Classes of the label config.

    Returns:
        (c, 10) float64 at the overlaps in `THRESHOLDS`; NaN in the rows of classes without labelled boxes.
    """
    precisions = np.full((n_classes, len(THRESHOLDS)), np.nan)
    for c in range(n_classes):
        n_true = sum(int((truth.classes == c).sum()) for truth in truths)
        if n_true == 0:
            continue
        scores: list[Scores] = [np.zeros(0, np.float32)]
        right: list[NDArray[np.bool_]] = [np.zeros((len(THRESHOLDS), 0), bool)]
        for truth, guess in zip(truths, found, strict=True):
            own = np.flatnonzero(guess.classes == c)
            own = own[np.argsort(-guess.scores[own], kind="stable")]
            scores.append(guess.scores[own])
            right.append(_matched(overlaps(guess.boxes[own], truth.boxes[truth.classes == c])))
        order = np.argsort(-np.concatenate(scores), kind="stable")
        precisions[c] = [_area(row, n_true) for row in np.concatenate(right, axis=1)[:, order]]
    return precisions


def summary(precisions: NDArray[np.float64]) -> dict[str, float]:
    """Average over classes and thresholds.

    Args:
        precisions: (c, 10) of `average_precisions`.

    Returns:
        "map50" at an overlap of 0.5, "map50_95" over all, and "ap50_<c>" of each class that has labelled boxes; empty
        if no class has any.
    """
    known = np.flatnonzero(np.isfinite(precisions[:, 0]))
    if len(known) == 0:
        return {}
    return {
        "map50": float(precisions[known, 0].mean()),
        "map50_95": float(precisions[known].mean()),
        **{f"ap50_{c}": float(precisions[c, 0]) for c in known},
    }


def best_threshold(truths: Sequence[Truth], found: Sequence[Found], *, otherwise: float) -> float:
    """Find the score from which on boxes are worth showing: the one with the highest F1 at an overlap of 0.5.

    Args:
        truths: The labelled boxes of n images.
        found: The predicted boxes of the same images.
        otherwise: The answer when no predicted box is right.

    Returns:
        A score in the middle between the last box to show and the first not to.
    """
    scores: list[Scores] = [np.zeros(0, np.float32)]
    right: list[NDArray[np.bool_]] = [np.zeros(0, bool)]
    for truth, guess in zip(truths, found, strict=True):
        order = np.argsort(-guess.scores, kind="stable")
        shares = overlaps(guess.boxes[order], truth.boxes)
        same = guess.classes[order][:, None] == truth.classes[None]
        scores.append(guess.scores[order])
        right.append(_matched(np.where(same, shares, 0.0))[0])
    score, hit = np.concatenate(scores), np.concatenate(right)
    if not hit.any():
        return otherwise
    order = np.argsort(-score, kind="stable")
    score, hit = score[order], hit[order]
    n_true = sum(len(truth.classes) for truth in truths)
    f1 = 2.0 * np.cumsum(hit) / (np.arange(1, len(hit) + 1) + n_true)
    last = int(f1.argmax())
    below = score[last + 1] if last + 1 < len(score) else 0.0
    return float(0.5 * (float(score[last]) + float(below)))


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    areas: NDArray[np.float64] = np.clip(boxes[..., 2:] - boxes[..., :2], 0.0, None).prod(axis=-1)
    return areas


def _matched(shares: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Match (a, b) overlaps of boxes in the order of their scores: (thresholds, a), whether each found a free truth."""
    right = np.zeros((len(THRESHOLDS), len(shares)), bool)
    for k, threshold in enumerate(THRESHOLDS):
        free = np.ones(shares.shape[1], bool)
        for i in np.flatnonzero(shares.max(axis=1, initial=0.0) >= threshold):
            left = np.where(free, shares[i], -1.0)
            j = int(left.argmax())
            if left[j] >= threshold:
                right[k, i], free[j] = True, False
    return right


def _area(right: NDArray[np.bool_], n_true: int) -> float:
    """Area under precision over recall of predictions in the order of their scores."""
    hits = np.cumsum(right)
    recall, precision = hits / n_true, hits / np.arange(1, len(hits) + 1)
    monotone = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(recall, _RECALLS, side="left")
    return float(np.append(monotone, 0.0)[reached].mean())
