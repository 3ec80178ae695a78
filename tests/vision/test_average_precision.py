from __future__ import annotations

import numpy as np
import pytest

from ls_backend.vision.average_precision import (
    Found,
    Truth,
    average_precisions,
    best_threshold,
    overlaps,
    summary,
)


def truth(boxes, classes) -> Truth:
    return Truth(np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64))


def found(boxes, classes, scores) -> Found:
    return Found(np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64), np.array(scores, np.float32))


SQUARE = [0, 0, 10, 10]
HALF = [0, 0, 10, 5]  # overlaps the square by exactly a half
AWAY = [50, 50, 60, 60]


def test_overlaps_of_boxes_beside_inside_and_across_each_other():
    first = np.array([SQUARE, AWAY], np.float32)
    second = np.array([SQUARE, HALF, [5, 5, 15, 15], [10, 0, 20, 10], [3, 3, 3, 9]], np.float32)
    np.testing.assert_allclose(overlaps(first, second), [[1, 0.5, 25 / 175, 0, 0], [0, 0, 0, 0, 0]])
    assert overlaps(np.zeros((0, 4), np.float32), second).shape == (0, 5)


def test_the_same_boxes_are_perfect_and_no_boxes_are_worth_nothing():
    truths = [truth([SQUARE, AWAY], [0, 1])]
    np.testing.assert_allclose(average_precisions(truths, [found([SQUARE, AWAY], [0, 1], [0.9, 0.2])], 2), 1.0)
    np.testing.assert_allclose(average_precisions(truths, [found([], [], [])], 2), 0.0)


def test_a_box_counts_from_its_overlap_on():
    precisions = average_precisions([truth([SQUARE], [0])], [found([HALF], [0], [0.9])], 1)
    np.testing.assert_allclose(precisions, [[1] + [0] * 9])
    assert summary(precisions) == {"map50": 1.0, "map50_95": pytest.approx(0.1), "ap50_0": 1.0}


def test_precision_and_recall_by_hand():
    # Three labelled boxes; in the order of scores: right, wrong, right, wrong; one is never found.
    # Precision 1, 1/2, 2/3, 1/2 at recall 1/3, 1/3, 2/3, 2/3. Monotone: 1 up to recall 1/3, 2/3 up to 2/3, then 0.
    # Of the 101 recalls 0.00 to 1.00, 34 are at most 1/3 and another 33 at most 2/3.
    truths = [truth([SQUARE, AWAY], [0, 0]), truth([SQUARE], [0])]
    guesses = [
        found([SQUARE, [20, 20, 30, 30], AWAY], [0, 0, 0], [0.9, 0.8, 0.7]),
        found([AWAY], [0], [0.6]),
    ]
    expected = (34 * 1.0 + 33 * 2 / 3) / 101
    assert average_precisions(truths, guesses, 1)[0, 0] == pytest.approx(expected)


def test_a_second_box_on_the_same_thing_is_wrong():
    # The better score comes second in the list: right first, then a double; nothing lost before full recall.
    assert average_precisions([truth([SQUARE], [0])], [found([SQUARE, SQUARE], [0, 0], [0.5, 0.9])], 1)[0, 0] == 1.0
    # Two labelled, one of them found twice: precision 1 up to recall 1/2, of which there are 51 of 101 recalls.
    guesses = [found([SQUARE, SQUARE], [0, 0], [0.5, 0.9])]
    assert average_precisions([truth([SQUARE, AWAY], [0, 0])], guesses, 1)[0, 0] == pytest.approx(51 / 101)


def test_a_box_takes_the_free_thing_that_it_overlaps_most():
    left, right = [0, 0, 10, 10], [4, 0, 14, 10]
    guesses = [found([[3, 0, 13, 10], [1, 0, 11, 10]], [0, 0], [0.9, 0.8])]
    assert average_precisions([truth([left, right], [0, 0])], guesses, 1)[0, 0] == 1.0


def test_a_class_is_judged_on_its_own_and_one_without_labels_is_left_out():
    truths = [truth([SQUARE, AWAY], [0, 1])]
    guesses = [found([SQUARE, AWAY, AWAY], [0, 0, 2], [0.9, 0.95, 0.99])]
    precisions = average_precisions(truths, guesses, 3)
    assert precisions[0, 0] == pytest.approx(0.5)  # found, after one wrong box of the same class
    assert precisions[1, 0] == 0.0
    assert np.isnan(precisions[2]).all()
    assert summary(precisions) == {
        "map50": pytest.approx(0.25),
        "map50_95": pytest.approx(0.25),
        "ap50_0": pytest.approx(0.5),
        "ap50_1": 0.0,
    }


def test_without_labelled_boxes_there_is_nothing_to_measure():
    assert summary(average_precisions([truth([], [])], [found([SQUARE], [0], [0.9])], 2)) == {}


def test_the_figures_are_those_of_pycocotools():
    # Three hundred boxes of three classes, half of them moved and some invented; the numbers are pycocotools 2.0.11's.
    truths, guesses = _scrambled()
    precisions = average_precisions(truths, guesses, 3)
    figures = summary(precisions)
    assert figures["map50"] == pytest.approx(PYCOCOTOOLS["map50"], abs=1e-6)
    assert figures["map50_95"] == pytest.approx(PYCOCOTOOLS["map50_95"], abs=1e-6)
    np.testing.assert_allclose(precisions.mean(axis=1), PYCOCOTOOLS["by_class"], atol=1e-6)


PYCOCOTOOLS = {"map50": 0.3775417174, "map50_95": 0.2290300892, "by_class": [0.2047681375, 0.2723925583, 0.2099295716]}


def _scrambled() -> tuple[list[Truth], list[Found]]:
    rng = np.random.default_rng(0)
    truths, guesses = [], []
    for _ in range(40):
        n = int(rng.integers(0, 16))
        corners = rng.integers(0, 60, (n, 2))
        boxes = np.hstack([corners, corners + rng.integers(5, 40, (n, 2))])
        classes = rng.integers(0, 3, n)
        moved = boxes + rng.integers(-4, 5, boxes.shape) * rng.integers(0, 2, (n, 1))
        kept = rng.random(n) < 0.8
        corners = rng.integers(0, 60, (3, 2))
        invented = np.hstack([corners, corners + rng.integers(5, 40, (3, 2))])
        guessed = np.where(rng.random(n) < 0.85, classes, rng.integers(0, 3, n))
        truths.append(truth(boxes, classes))
        guesses.append(
            found(
                np.vstack([moved[kept], moved[kept][:2], invented]),
                np.concatenate([guessed[kept], guessed[kept][:2], rng.integers(0, 3, 3)]),
                rng.permutation(1000)[: int(kept.sum()) + min(2, int(kept.sum())) + 3] / 1000,
            )
        )
    return truths, guesses


def test_the_threshold_keeps_the_boxes_with_the_best_balance_of_found_and_right():
    truths = [truth([SQUARE, AWAY], [0, 1])]
    guesses = [found([SQUARE, AWAY, [20, 20, 30, 30]], [0, 1, 0], [0.9, 0.6, 0.2])]
    assert best_threshold(truths, guesses, otherwise=0.3) == pytest.approx(0.4)
    wrong_class = [found([SQUARE], [1], [0.9])]
    assert best_threshold(truths, wrong_class, otherwise=0.3) == 0.3
    assert best_threshold([], [], otherwise=0.3) == 0.3
