from __future__ import annotations

import math

import pytest
import torch

from ls_backend.vision import fcos
from ls_backend.vision.fcos import Answers, Fcos, candidates, losses

STRIDES = (8, 16, 32)


def places(height: int, width: int) -> list[tuple[int, float, float]]:
    """Stride, x and y of every place, level by level and row by row."""
    return [
        (stride, (column + 0.5) * stride, (row + 0.5) * stride)
        for stride in STRIDES
        for row in range(height // stride)
        for column in range(width // stride)
    ]


def owner_by_hand(boxes, stride, x, y) -> int:
    best, smallest = -1, math.inf
    for k, (left, top, right, bottom) in enumerate(boxes):
        middle = (left + right) / 2, (top + bottom) / 2
        half = max((right - left) / 2, stride / 2), max((bottom - top) / 2, stride / 2)
        sides = [x - middle[0] + half[0], middle[0] + half[0] - x, y - middle[1] + half[1], middle[1] + half[1] - y]
        low, high = {8: (0, 64), 16: (64, 128), 32: (128, math.inf)}[stride]
        near = max(abs(x - middle[0]), abs(y - middle[1])) < 1.5 * stride
        area = 4 * half[0] * half[1]
        if min(sides) >= 0 and near and low < max(sides) <= high and area < smallest:
            best, smallest = k, area
    return best


def test_places_learn_the_smallest_box_that_they_should_see():
    boxes = [[8, 8, 120, 100], [30, 30, 70, 70], [40, 35, 44, 37], [0, 0, 256, 192], [100, 20, 250, 26]]
    expected = [owner_by_hand(boxes, *place) for place in places(192, 256)]
    found = fcos._owners(192, 256, STRIDES, torch.tensor(boxes, dtype=torch.float32))
    assert found.tolist() == expected
    assert set(expected) == {-1, 0, 1, 2, 3, 4}


def test_every_box_is_seen_from_somewhere_however_small_thin_or_large():
    torch.manual_seed(0)
    corner = torch.rand(2000, 2) * torch.tensor([320.0, 256.0])
    size = torch.exp(torch.rand(2000, 2) * math.log(300.0))
    boxes = torch.cat([corner, torch.minimum(corner + size, torch.tensor([320.0, 256.0]))], dim=1)
    unseen = [box.tolist() for box in boxes if not (fcos._owners(256, 320, STRIDES, box[None]) >= 0).any()]
    assert unseen == []


def perfect(boxes, classes, n_classes=2, height=64, width=96) -> Answers:
    """Answers that say exactly what is labelled."""
    own = fcos._owners(height, width, STRIDES, torch.tensor(boxes, dtype=torch.float32))
    logits = torch.full((1, len(own), n_classes), -20.0)
    answered = torch.zeros(1, len(own), 4)
    for place, k in enumerate(own.tolist()):
        if k >= 0:
            logits[0, place, classes[k]] = 20.0
            answered[0, place] = torch.tensor(boxes[k], dtype=torch.float32)
    return Answers(logits, answered, torch.full((1, len(own)), 20.0), torch.zeros(1, len(own), 4))


BOXES, CLASSES = [[8.0, 16.0, 40.0, 48.0], [56.0, 8.0, 88.0, 40.0]], [0, 1]


def test_exact_answers_cost_only_their_centres():
    answers = perfect(BOXES, CLASSES)
    truth = (torch.tensor(BOXES), torch.tensor(CLASSES))
    total, seen = losses(answers, 64, 96, STRIDES, [truth])
    # Central means that the place is in the middle; the answer "all are" costs 20 for each place that is not at all.
    middle = [owner_by_hand(BOXES, *place) for place in places(64, 96)]
    centralities = []
    for (_, x, y), k in zip(places(64, 96), middle, strict=True):
        if k >= 0:
            left, top, right, bottom = BOXES[k]
            across, down = sorted([x - left, right - x]), sorted([y - top, bottom - y])
            centralities.append(math.sqrt(across[0] / across[1] * down[0] / down[1]))
    assert seen == len(centralities)
    assert float(total) == pytest.approx(sum(20.0 * (1 - central) for central in centralities), rel=1e-4)


def test_each_mistake_costs():
    truth = [(torch.tensor(BOXES), torch.tensor(CLASSES))]
    right = perfect(BOXES, CLASSES)
    least, _ = losses(right, 64, 96, STRIDES, truth)
    for wrong in (
        perfect(BOXES, [1, 1]),
        perfect([BOXES[0], [56.0, 8.0, 80.0, 40.0]], CLASSES),
        perfect(BOXES[:1], [0]),
    ):
        assert losses(wrong, 64, 96, STRIDES, truth)[0] > least + 0.1


def test_nothing_there_costs_only_what_is_claimed():
    nothing = [(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))]
    silent = Answers(
        torch.full((1, 126, 2), -20.0), torch.zeros(1, 126, 4), torch.zeros(1, 126), torch.zeros(1, 126, 4)
    )
    total, seen = losses(silent, 64, 96, STRIDES, nothing)
    assert (float(total), seen) == (pytest.approx(0.0, abs=1e-6), 0)
    assert losses(perfect(BOXES, CLASSES), 64, 96, STRIDES, nothing)[0] > 1


def test_doubles_are_dropped_class_by_class_and_boxes_end_at_the_border():
    answers = perfect([[8.0, 16.0, 40.0, 48.0], [56.0, 8.0, 120.0, 70.0]], [0, 1])
    found = candidates(answers, 0, 60, 90)
    assert sorted(found.boxes.tolist()) == [[8, 16, 40, 48], [56, 8, 90, 60]]
    assert sorted(found.classes.tolist()) == [0, 1]
    assert found.scores.min() > 0.99


def test_there_is_always_a_best_candidate():
    silent = Answers(torch.full((1, 126, 2), -9.0), torch.zeros(1, 126, 4), torch.zeros(1, 126), torch.zeros(1, 126, 4))
    assert len(candidates(silent, 0, 64, 96).scores) == 1


def test_an_untrained_network_answers_at_every_place_and_is_sure_of_nothing():
    torch.manual_seed(0)
    network = Fcos((4, 6, 8), STRIDES, 3)
    answers = network([torch.rand(2, c, 64 // s, 96 // s) for c, s in zip((4, 6, 8), STRIDES, strict=True)])
    assert answers.logits.shape == (2, 126, 3)
    assert (answers.boxes[..., 2:] > answers.boxes[..., :2]).all()
    assert float(answers.logits.detach().sigmoid().mean()) == pytest.approx(0.01, abs=0.005)
