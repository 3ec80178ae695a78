"""Quality of one image, against cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ls_backend.vision.quality import of_boxes, of_class_map

A, B = [0, 0, 10, 10], [20, 0, 30, 10]
FAR = [50, 50, 60, 60]


def boxes(*found, true=((A, 0), (B, 1))):
    """Quality of (box, class, score) against (box, class)."""
    arrays = [np.array([item[k] for item in found]) for k in range(3)] if found else [np.zeros(0)] * 3
    truth = [np.array([item[k] for item in true]) for k in range(2)] if true else [np.zeros(0)] * 2
    return of_boxes(
        arrays[0].reshape(-1, 4).astype(np.float32),
        arrays[1].astype(np.int64),
        arrays[2].astype(np.float32),
        truth[0].reshape(-1, 4).astype(np.float32),
        truth[1].astype(np.int64),
    )


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([(A, 0, 0.9), (B, 1, 0.8)], 1.0),
        ([(A, 0, 0.9)], 0.5),
        ([], 0.0),
        ([(A, 1, 0.9), (B, 0, 0.8)], 0.0),
        ([(FAR, 0, 0.9), (A, 0, 0.8), (B, 1, 0.7)], (1 / 2 + 2 / 3) / 2),
        ([(A, 0, 0.9), (B, 1, 0.8), (FAR, 0, 0.7)], 1.0),
        ([(A, 0, 0.9), (A, 0, 0.8), (B, 1, 0.7)], (1 + 2 / 3) / 2),
        ([([0, 0, 10, 4.9], 0, 0.9), ([20, 0, 30, 5], 1, 0.8)], (1 / 2) / 2),
        ([([5, 5, 5, 5], 0, 0.9)], 0.0),
    ],
)
def test_the_quality_of_boxes_is_the_average_precision_of_the_image(found, expected):
    assert boxes(*found) == pytest.approx(expected)


def test_an_image_without_boxes_is_the_better_the_less_is_seen_in_it():
    assert boxes(true=()) == 1.0
    assert boxes((A, 0, 0.25), (B, 1, 0.125), true=()) == 0.75


def test_the_quality_of_a_class_map_is_the_mean_iou_of_what_is_there():
    true = np.zeros((4, 4), np.uint8)
    true[:2] = 1
    assert of_class_map(true, true) == 1.0
    seen = np.zeros((4, 4), np.uint8)
    seen[0] = 1
    assert of_class_map(seen, true) == pytest.approx((4 / 8 + 8 / 12) / 2)
    seen[3, 0] = 2
    assert of_class_map(seen, true) == pytest.approx((4 / 8 + 7 / 12 + 0) / 3)
    empty = np.zeros((4, 4), np.uint8)
    assert of_class_map(empty, empty) == 1.0
