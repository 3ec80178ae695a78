"""How well a model sees one image, as one number, so that two models can be compared image by image.

Not a figure to report: mean average precision and mean IoU over a data set are. Those have no value for a single image,
and without one there is no telling whether a difference is more than chance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ls_backend.vision.average_precision import overlaps

MATCH_IOU = 0.5


def of_boxes(
    boxes: NDArray[np.float32],
    classes: NDArray[np.int64],
    scores: NDArray[np.float32],
    true_boxes: NDArray[np.float32],
    true_classes: NDArray[np.int64],
) -> float:
    """Average precision of one image over all classes together, in [0, 1].

    Boxes are gone through by falling score; one that overlaps a true box of its class that is still free by an IoU of
    at least 0.5 finds it. The precision is added up where a box is found, and divided by the number of true boxes. An
    image without true boxes has 1 minus the highest score.  O(b t).

    Args:
        boxes: (b, 4) left, top, right, bottom.
        classes: (b,) class indices.
        scores: (b,) confidences in [0, 1].
        true_boxes: (t, 4).
        true_classes: (t,).
    """
    if len(true_boxes) == 0:
        return 1.0 - float(scores.max(initial=0.0))
    free = np.ones(len(true_boxes), dtype=bool)
    shares = overlaps(boxes, true_boxes)
    found, total = 0, 0.0
    for rank, i in enumerate(np.argsort(-scores, kind="stable"), start=1):
        fits = np.where(free & (true_classes == classes[i]), shares[i], 0.0)
        best = int(fits.argmax())
        if fits[best] >= MATCH_IOU:
            free[best] = False
            found += 1
            total += found / rank
    return total / len(true_boxes)


def of_class_map(class_map: NDArray[np.uint8], true_map: NDArray[np.uint8]) -> float:
    """Mean IoU of one image over what is in it or is seen in it, the background included, in [0, 1].  O(h w).

    Args:
        class_map: (h, w), 0 = nothing, 1 + class index elsewhere.
        true_map: (h, w).
    """
    there = np.union1d(np.unique(class_map), np.unique(true_map))
    ious = [
        np.count_nonzero((class_map == value) & (true_map == value))
        / np.count_nonzero((class_map == value) | (true_map == value))
        for value in there
    ]
    return float(np.mean(ious))
