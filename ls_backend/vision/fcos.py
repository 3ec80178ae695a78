"""FCOS: every place of a feature map says what it lies on and how far away the sides of that thing's box are.

Source: Tian et al. 2019, "FCOS: fully convolutional one-stage object detection"; centre sampling and GIoU as in the
authors' later version (arXiv:2006.09214).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork, batched_nms, generalized_box_iou_loss, sigmoid_focal_loss

from ls_backend.vision.average_precision import Found

CHANNELS = 96
LEAST_SCORE = 0.05
"""Of a candidate: below, a box is noise."""

_TOWER = 2  # convolutions before each answer; the four as published take twice the time
_GROUPS = 32
_REACH = 8.0  # strides: the longest distance to a side that a level answers for
_TYPICAL = 4.0  # strides: where the answers start
_CENTRE = 1.5  # strides around the centre of a box within which places learn it
_PRIOR = 0.01  # probability of each class that an untrained network states
_OVERLAP = 0.5  # of two boxes of a class, above which the lower score is dropped
_MOST_BEFORE, _MOST = 1000, 300


@dataclass(frozen=True, eq=False)
class Answers:
    """What the network says at the l places of n images, all levels in a row.

    Attributes:
        logits: (n, l, c) of each class, apart from the others.
        boxes: (n, l, 4) left, top, right, bottom in pixels.
        centre: (n, l) logit of how central the place is in its box.
        features: (n, l, d) what the logits are made of.
    """

    logits: torch.Tensor
    boxes: torch.Tensor
    centre: torch.Tensor
    features: torch.Tensor


@dataclass(frozen=True, eq=False)
class Candidates:
    """The boxes of one image after removing doubles, best first; at least one.

    Attributes:
        boxes: (b, 4) in pixels, inside the image.
        classes: (b,) int64.
        scores: (b,) geometric mean of the probability of the class and of the centre.
        probabilities: (b, c) of each class, apart from the others.
        features: (b, d).
    """

    boxes: torch.Tensor
    classes: torch.Tensor
    scores: torch.Tensor
    probabilities: torch.Tensor
    features: torch.Tensor

    def measurable(self) -> Found:
        """Hand over what average precision is made of."""
        return Found(self.boxes.cpu().numpy(), self.classes.cpu().numpy(), self.scores.cpu().numpy())


class Fcos(nn.Module):
    """The pyramid that mixes the maps of a backbone, and the towers that answer."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int], n_classes: int) -> None:
        """Draw initial weights.

        Args:
            channels: Of the maps.
            strides: Of the maps.
            n_classes: Answers at each place.
        """
        super().__init__()
        self.strides = tuple(strides)
        self.mix = FeaturePyramidNetwork(list(channels), CHANNELS, norm_layer=_normalisation)
        self.classify, self.locate = _tower(), _tower()
        self.logits = _answer(n_classes, -math.log((1.0 - _PRIOR) / _PRIOR))
        self.sides, self.centre = _answer(4, 0.0), _answer(1, 0.0)

    def forward(self, maps: Sequence[torch.Tensor]) -> Answers:
        """Answer at every place.

        Args:
            maps: Of n images, for each stride (n, channels, h, w).

        Returns:
            Answers of all levels.
        """
        mixed = self.mix(OrderedDict((str(k), level) for k, level in enumerate(maps)))
        logits, boxes, centre, features = [], [], [], []
        for stride, level in zip(self.strides, mixed.values(), strict=True):
            classified, located = self.classify(level), self.locate(level)
            distances = stride * _TYPICAL * self.sides(located).clamp(max=4.0).exp()
            places = _places(level.shape[2], level.shape[3], stride, level.device)
            logits.append(_flat(self.logits(classified)))
            boxes.append(torch.cat([places, places], dim=1) + _flat(distances) * places.new_tensor([-1, -1, 1, 1]))
            centre.append(_flat(self.centre(located))[..., 0])
            features.append(_flat(classified))
        return Answers(*(torch.cat(parts, dim=1) for parts in (logits, boxes, centre, features)))


def losses(
    answers: Answers,
    height: int,
    width: int,
    strides: Sequence[int],
    truths: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> tuple[torch.Tensor, int]:
    """Add up what the answers get wrong.

    Args:
        answers: For n images.
        height: Of the filled-up images.
        width: The same.
        strides: Of the levels.
        truths: For each image its boxes (b, 4) float32 and their classes (b,) int64; no boxes: nothing is there.

    Returns:
        The sum over all images, and at how many places a box was to be seen: divide by that, over the whole batch.
    """
    owners = [_owners(height, width, strides, boxes) for boxes, _ in truths]
    seen = torch.stack(owners) >= 0  # (n, l)
    wanted = torch.zeros_like(answers.logits)
    for k, (owner, (_, classes)) in enumerate(zip(owners, truths, strict=True)):
        places = torch.nonzero(owner >= 0)[:, 0]
        wanted[k, places, classes[owner[places]]] = 1.0
    total: torch.Tensor = sigmoid_focal_loss(answers.logits, wanted, reduction="sum")
    n_seen = int(seen.sum())
    if n_seen:
        pairs = zip(owners, truths, strict=True)
        targets = torch.cat([_widened(boxes, strides[0])[owner[owner >= 0]] for owner, (boxes, _) in pairs])
        total = total + generalized_box_iou_loss(answers.boxes[seen], targets, reduction="sum")
        places, own_strides = _all_places(height, width, strides, targets.device)
        places, own_strides = (part.expand(len(truths), -1, -1)[seen] for part in (places, own_strides))
        central = _centrality(places, _widened(targets, own_strides))
        total = total + nn.functional.binary_cross_entropy_with_logits(answers.centre[seen], central, reduction="sum")
    return total, n_seen


def candidates(answers: Answers, k: int, height: int, width: int) -> Candidates:
    """Pick the boxes of image k: scores of at least `LEAST_SCORE`, or the best one; doubles of a class removed.

    Args:
        answers: For n images.
        k: Which of them.
        height: Of the image, without filling.
        width: The same.

    Returns:
        At most 300 boxes.
    """
    probabilities = answers.logits[k].sigmoid()  # (l, c)
    scores = (probabilities * answers.centre[k].sigmoid()[:, None]).sqrt().flatten()
    best, order = scores.topk(min(_MOST_BEFORE, len(scores)))
    order = order[: max(1, int((best >= LEAST_SCORE).sum()))]
    places = torch.div(order, probabilities.shape[1], rounding_mode="floor")
    classes = order % probabilities.shape[1]
    boxes = answers.boxes[k, places]
    boxes = torch.stack([boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)], dim=2).flatten(1)
    kept = batched_nms(boxes, scores[order], classes, _OVERLAP)[:_MOST]
    return Candidates(
        boxes=boxes[kept],
        classes=classes[kept],
        scores=scores[order[kept]],
        probabilities=probabilities[places[kept]],
        features=answers.features[k, places[kept]],
    )


def _normalisation(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(_GROUPS, channels)


def _tower() -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(_TOWER):
        layers += [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False), _normalisation(CHANNELS), nn.ReLU()]
    return nn.Sequential(*layers)


def _answer(n: int, bias: float) -> nn.Conv2d:
    layer = nn.Conv2d(CHANNELS, n, 3, padding=1)
    nn.init.normal_(layer.weight, std=0.01)
    assert layer.bias is not None
    nn.init.constant_(layer.bias, bias)
    return layer


def _flat(level: torch.Tensor) -> torch.Tensor:
    """(n, d, h, w) to (n, h w, d)."""
    return level.flatten(2).transpose(1, 2)


def _places(rows: int, columns: int, stride: int, device: torch.device) -> torch.Tensor:
    """Return the centres of the squares of a map, (rows columns, 2) x and y in pixels."""
    y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    return (torch.stack([x, y], dim=2).flatten(0, 1) + 0.5) * stride


def _all_places(
    height: int, width: int, strides: Sequence[int], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the places of all levels (l, 2), and the strides of their levels (l, 1)."""
    levels = [_places(height // stride, width // stride, stride, device) for stride in strides]
    own = [torch.full((len(level), 1), stride, device=device) for level, stride in zip(levels, strides, strict=True)]
    return torch.cat(levels), torch.cat(own)


def _widened(boxes: torch.Tensor, least: torch.Tensor | int) -> torch.Tensor:
    """Widen boxes around their centres: one narrower than a stride might contain no place at all."""
    half = torch.maximum((boxes[:, 2:] - boxes[:, :2]) / 2, torch.as_tensor(least, device=boxes.device) / 2)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return torch.cat([centre - half, centre + half], dim=1)


def _owners(height: int, width: int, strides: Sequence[int], boxes: torch.Tensor) -> torch.Tensor:
    """Assign every place the smallest box that it should see: (l,) row of the box, -1 for none."""
    owners = []
    for k, stride in enumerate(strides):
        places = _places(height // stride, width // stride, stride, boxes.device)
        if len(boxes) == 0:
            owners.append(torch.full((len(places),), -1, dtype=torch.int64, device=boxes.device))
            continue
        wide = _widened(boxes, stride)
        distances = torch.cat([places[:, None] - wide[:, :2], wide[:, 2:] - places[:, None]], dim=2)  # (l, b, 4)
        off = (places[:, None] - (wide[:, :2] + wide[:, 2:]) / 2).abs().amax(dim=2)
        longest = distances.amax(dim=2)
        sees = (distances.amin(dim=2) >= 0) & (off < _CENTRE * stride)
        sees &= longest > (_REACH * strides[k - 1] if k else 0.0)
        sees &= longest <= (_REACH * stride if k + 1 < len(strides) else math.inf)
        areas = (wide[:, 2:] - wide[:, :2]).prod(dim=1).expand(len(places), -1)
        smallest, owner = areas.masked_fill(~sees, math.inf).min(dim=1)
        owners.append(owner.masked_fill(smallest.isinf(), -1))
    return torch.cat(owners)


def _centrality(places: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Compute 1 in the middle of a box, 0 at its sides."""
    x = torch.stack([places[:, 0] - boxes[:, 0], boxes[:, 2] - places[:, 0]])
    y = torch.stack([places[:, 1] - boxes[:, 1], boxes[:, 3] - places[:, 1]])
    ratios = (x.amin(0) / x.amax(0)) * (y.amin(0) / y.amax(0))
    return ratios.clamp(min=0.0).sqrt()
