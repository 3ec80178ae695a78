"""Finding boxes: a detector that learns from few labelled images, and what it is unsure of.

An FCOS on the maps of the backbone. Its doubts follow PPAL: the entropy of each box's scores, more where its class is
still found badly.

Source: Yang et al. 2024, "Plug and play active learning for object detection", arXiv:2211.11612, section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ls_backend.errors import StoreError, TooFewLabels
from ls_backend.vision import average_precision as ap
from ls_backend.vision.album import PLAIN, Album, LabelledBoxes, maps_of
from ls_backend.vision.backbones import Backbone
from ls_backend.vision.deep import (
    Course,
    Fitted,
    Indices,
    Progress,
    Recipe,
    Report,
    Schedule,
    Watch,
    fingerprint,
    seeded,
)
from ls_backend.vision.fcos import Candidates, Fcos, candidates, losses
from ls_backend.vision.pyramid import Pyramid, by_shape

STRIDES = (8, 16, 32)
Pooling = Literal["mean", "max", "sum"]

_BATCH = 8
_STEPS = 300
_FEWEST_EPOCHS, _MOST_EPOCHS = 12, 60
_PATIENCE = 0.3  # of the planned epochs
_RATE = 1.5e-3
_BACKBONE_RATE = 0.1  # of that
_DECAY = 1e-3
_SHOWN = 0.3  # score of boxes to show, until a hold-out knows better
_ENOUGH = 100  # images to estimate difficulty on, without a hold-out
_ALPHA, _BETA, _XI = 0.3, 0.2, 0.6  # of PPAL


@dataclass(frozen=True, eq=False)
class Judged:
    """What a detector says about an image.

    Attributes:
        uncertainty: In 0 to 1, higher = label sooner.
        presence: (c,) float32 highest score of each class, also of boxes not worth showing.
        embedding: (d,) float32 of unit length: what the boxes look like to the detector, weighted by their scores.
        boxes: (b, 4) float32 left, top, right, bottom in pixels of the image given.
        classes: (b,) int64.
        scores: (b,) float32 in 0 to 1, falling.
        probabilities: (b, c) float32 of each class, apart from the others: rows need not sum to 1.
        values: (b,) float32 in 0 to 1, how unsure each box is.
    """

    uncertainty: float
    presence: NDArray[np.float32]
    embedding: NDArray[np.float32]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    scores: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    values: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Detector:
    """A trained detector on a device.

    Attributes:
        pyramid: The backbone's maps.
        head: The network on top.
        threshold: Score from which on a box is worth showing.
        difficulty: (c,) float32 in 0 to 1, how badly each class is found yet.
        device: "cpu" or "cuda:N".
    """

    pyramid: Pyramid
    head: Fcos
    threshold: float
    difficulty: NDArray[np.float32]
    device: str

    def judge(self, images: Sequence[NDArray[np.uint8]], *, pooling: Pooling = "mean") -> list[Judged]:
        """Find boxes, and say how unsure they are; each image on its own.

        An image in which no box is worth showing is as unsure as the most doubtful of those nearly found there.

        Args:
            images: n arrays (h, w, 3) uint8 RGB, scaled as those it was trained on.
            pooling: How the doubts about the boxes of an image make one: "mean"; "max"; "sum", which favours crowded
                images, as s / (1 + s).

        Returns:
            n judgements.
        """
        return [self._judged(self.find(image), pooling) for image in images]

    def find(self, image: NDArray[np.uint8]) -> Candidates:
        """Find boxes down to the lowest scores.

        Args:
            image: (h, w, 3) uint8 RGB.

        Returns:
            At least one candidate, on the device.
        """
        [(_, pixels)] = by_shape([image], self.device)
        return self.find_in(maps_of(self.pyramid, pixels), image.shape[0], image.shape[1])

    def find_in(self, maps: Sequence[torch.Tensor], height: int, width: int) -> Candidates:
        """Find boxes in an image of height x width pixels whose maps (1, channels, h, w) are known."""
        with torch.inference_mode():
            return candidates(self.head([level.float() for level in maps]), 0, height, width)

    def _judged(self, found: Candidates, pooling: Pooling) -> Judged:
        classes, scores = found.classes.cpu().numpy(), found.scores.cpu().numpy()
        probabilities = found.probabilities.cpu().numpy()
        doubts = (box_doubts(probabilities) * class_weights(self.difficulty)[classes]).astype(np.float32)
        shown = scores >= self.threshold
        presence = np.zeros(len(self.difficulty), np.float32)
        np.maximum.at(presence, classes, scores)
        telling = shown if shown.any() else np.ones_like(shown)
        embedding = np.average(found.features.cpu().numpy()[telling], axis=0, weights=scores[telling])
        return Judged(
            uncertainty=pooled(doubts[shown], pooling) if shown.any() else float(doubts.max()),
            presence=presence,
            embedding=(embedding / max(float(np.linalg.norm(embedding)), 1e-12)).astype(np.float32),
            boxes=found.boxes.cpu().numpy()[shown],
            classes=classes[shown],
            scores=scores[shown],
            probabilities=probabilities[shown],
            values=doubts[shown],
        )


def fit(
    backbone: Backbone,
    examples: LabelledBoxes,
    learn: Indices,
    holdout: Indices,
    recipe: Recipe,
    *,
    folder: Path | None = None,
    report: Report = lambda _: True,
) -> Fitted:
    """Train a detector.

    Args:
        backbone: Gives the maps; where it lies, the training runs.
        examples: Images with boxes. No boxes at all: "nothing here" is learnt.
        learn: (m,) int64, the examples to learn from.
        holdout: (k,) int64, the examples to measure on; may be empty.
        recipe: Classes, depth, time budget, seed.
        folder: For a resumable checkpoint, and where that of a killed process lies; None keeps none.
        report: Told the progress; False cancels.

    Returns:
        Arrays for `load`, and of the hold-out "map50", "map50_95" and "ap50_<class>". The epoch that was best there
        was kept, so they flatter a little.

    Raises:
        Diverged: If a loss is not finite.
        SettingsError: If the backbone makes no feature maps.
        StoreError: If the checkpoint cannot be written.
        TooFewLabels: If there is nothing to learn from.
    """
    if not len(learn):
        raise TooFewLabels("No labelled image is left to learn from; expected at least one. Go on labelling.")
    watch = Watch(recipe.seconds, report)
    with seeded(recipe.seed):
        pyramid = Pyramid(backbone, strides=STRIDES, trainable=recipe.finetune)
        head = Fcos(pyramid.channels, STRIDES, recipe.n_classes).to(backbone.device)
    detector = Detector(pyramid, head, _SHOWN, np.ones(recipe.n_classes, np.float32), backbone.device)
    album = Album(
        pyramid, examples, finetune=recipe.finetune, n_learn=len(learn), seed=recipe.seed, device=backbone.device
    )
    epochs = _schedule(len(learn), recipe).epochs
    album.prepare(learn, holdout, lambda: watch.interrupted(Progress(0, epochs, None, watch.seconds, None)))
    truths = [ap.Truth(*examples.boxes(int(i))) for i in holdout]

    def measure() -> float:
        found = _found(detector, album, holdout)
        return ap.summary(ap.average_precisions(truths, found, recipe.n_classes))["map50_95"]

    groups: list[dict[str, Any]] = [{"params": list(head.parameters()), "lr": _RATE}]
    if recipe.finetune:
        groups.append({"params": list(pyramid.parameters()), "lr": _RATE * _BACKBONE_RATE})
    facts = {"learn": learn, "holdout": holdout, "recipe": replace(recipe, seconds=0.0)}
    course = Course(
        network=_network(pyramid, head, finetuned=recipe.finetune),
        optimizer=torch.optim.AdamW(groups, weight_decay=_DECAY),
        loss_of=lambda batch, rng: _loss(head, album, batch, rng),
        measure=measure if any(len(truth.classes) for truth in truths) else None,
        learn=learn,
        schedule=_schedule(len(learn), recipe),
        seed=recipe.seed,
        watch=watch,
        identity=fingerprint(kind="detect", backbone=backbone.identity, **facts),
        folder=folder,
    )
    stopped = course.run()
    measured = holdout if len(holdout) else learn[:_ENOUGH]
    truths = [ap.Truth(*examples.boxes(int(i))) for i in measured]
    found = _found(detector, album, measured)
    arrays = {name: tensor.cpu().numpy() for name, tensor in course.network.state_dict().items()}
    threshold = ap.best_threshold(truths, found, otherwise=_SHOWN) if len(holdout) else _SHOWN
    return Fitted(
        arrays={
            **arrays,
            "threshold": np.asarray(threshold, np.float64),
            "difficulty": _difficulty(truths, found, recipe.n_classes),
        },
        metrics=ap.summary(ap.average_precisions(truths, found, recipe.n_classes)) if len(holdout) else {},
        stopped=stopped,
    )


def load(backbone: Backbone, arrays: Mapping[str, NDArray[Any]], n_classes: int, device: str) -> Detector:
    """Build a trained detector.

    Args:
        backbone: The one it was trained on, on the device.
        arrays: Of `fit`.
        n_classes: Classes of the label config.
        device: Where the backbone lies.

    Returns:
        The detector, ready to judge.

    Raises:
        StoreError: If the arrays are not those of such a detector.
    """
    pyramid = Pyramid(backbone, strides=STRIDES)
    head = Fcos(pyramid.channels, STRIDES, n_classes).to(device)
    network = _network(pyramid, head, finetuned=any(name.startswith("pyramid.") for name in arrays))
    try:
        network.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items() if "." in name})
        threshold, difficulty = float(arrays["threshold"]), arrays["difficulty"]
    except (RuntimeError, KeyError) as error:
        raise StoreError(
            f"A detector cannot be used: {' '.join(str(error).split())[:200]}. Expected one of {n_classes} classes on "
            f"{backbone.name}.",
            hint="Train it again.",
        ) from error
    return Detector(pyramid, head.eval(), threshold, difficulty, device)


def box_doubts(probabilities: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Compute how unsure each box is: the largest entropy of its answers "this class or not", in bits.

    1 where a class is as likely as not, near 0 where every class is all but certain or all but excluded. The largest
    and not the sum, because a box between two classes is one question to the annotator, not two.  O(b c).

    Args:
        probabilities: (b, c) of each class, apart from the others.

    Returns:
        (b,) float64 in 0 to 1.
    """
    p = np.clip(probabilities.astype(np.float64), 1e-12, 1.0 - 1e-12)
    entropies: NDArray[np.float64] = -(p * np.log2(p) + (1.0 - p) * np.log2(1.0 - p))
    doubts: NDArray[np.float64] = entropies.max(axis=1)
    return doubts


def class_weights(difficulty: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Weigh classes by how badly they are found: PPAL's weights, divided by the largest possible.

    w = (1 + alpha beta ln(d (e^(1 / alpha) - 1) + 1)) / (1 + beta), alpha = 0.3, beta = 0.2.

    Args:
        difficulty: (c,) d in 0 to 1.

    Returns:
        (c,) float64 from 0.83 for a class that is found perfectly to 1.
    """
    logs = np.log(difficulty.astype(np.float64) * np.expm1(1.0 / _ALPHA) + 1.0)
    weights: NDArray[np.float64] = (1.0 + _ALPHA * _BETA * logs) / (1.0 + _BETA)
    return weights


def pooled(doubts: NDArray[np.floating[Any]], pooling: Pooling) -> float:
    """Make one doubt of those of an image's boxes.

    Args:
        doubts: (b,) in 0 to 1, at least one.
        pooling: "mean", "max", or "sum" as s / (1 + s), which keeps the order of the sums and stays below 1.

    Returns:
        A number in 0 to 1.
    """
    if pooling == "sum":
        total = float(doubts.sum())
        return total / (1.0 + total)
    return float(doubts.max() if pooling == "max" else doubts.mean())


def _schedule(n: int, recipe: Recipe) -> Schedule:
    """Plan as many steps for few images as for many, within limits."""
    wanted = math.ceil(_STEPS * _BATCH / n)
    epochs = recipe.epochs or min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, wanted))
    return Schedule(epochs=epochs, batch=_BATCH, patience=max(2, round(_PATIENCE * epochs)))


def _network(pyramid: Pyramid, head: Fcos, *, finetuned: bool) -> nn.ModuleDict:
    return nn.ModuleDict({"pyramid": pyramid, "head": head} if finetuned else {"head": head})


def _loss(head: Fcos, album: Album, batch: Indices, rng: np.random.Generator) -> torch.Tensor:
    parts = []
    for maps, views in album.batch(batch, rng):
        truths = [(view.boxes, view.classes) for view in views]
        parts.append(losses(head(maps), maps[0].shape[2] * STRIDES[0], maps[0].shape[3] * STRIDES[0], STRIDES, truths))
    return torch.stack([total for total, _ in parts]).sum() / max(1, sum(seen for _, seen in parts))


def _found(detector: Detector, album: Album, rows: Indices) -> list[ap.Found]:
    found = []
    for i in rows:
        view = album.view(int(i), PLAIN)
        with torch.no_grad():
            maps = album.maps([view])
        found.append(detector.find_in(maps, view.height, view.width).measurable())
    return found


def _difficulty(truths: Sequence[ap.Truth], found: Sequence[ap.Found], n_classes: int) -> NDArray[np.float32]:
    """Compute 1 - mean quality of each class; a labelled box is found as well as score^0.6 overlap^0.4 says."""
    quality, count = np.zeros(n_classes), np.zeros(n_classes)
    for truth, guess in zip(truths, found, strict=True):
        fits = guess.scores.astype(np.float64)[:, None] ** _XI * ap.overlaps(guess.boxes, truth.boxes) ** (1.0 - _XI)
        fits[guess.classes[:, None] != truth.classes[None]] = 0.0
        np.add.at(quality, truth.classes, fits.max(axis=0, initial=0.0))
        np.add.at(count, truth.classes, 1.0)
    difficulty: NDArray[np.float32] = (1.0 - quality / np.maximum(count, 1.0)).astype(np.float32)
    return difficulty
