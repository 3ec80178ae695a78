"""What can be learnt deeply, by kind of control: which module learns it, and how its labels become arrays and back.

Boxes and class maps are in pixels of the image as it was scaled down for the model; what is written for Label Studio is
in the pixels of the image itself.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ls_backend.domain import Control
from ls_backend.labelstudio import regions
from ls_backend.settings import Training

if TYPE_CHECKING:
    from ls_backend.vision.backbones import Backbone
    from ls_backend.vision.deep import Examples, Fitted, Indices, Recipe, Report

Truth = Mapping[str, NDArray[Any]]
"""What is in one image: `boxes` (b, 4) float32 in pixels and `classes` (b,) int64, or `class_map` (h, w) uint8."""


class Seen(Protocol):
    """What a model sees in one image, as far as every kind of model says it.

    Attributes:
        uncertainty: 0 to 1.
        presence: (c,) float32.
        embedding: (d,) float32 of unit length.
    """

    @property
    def uncertainty(self) -> float: ...  # noqa: D102 - see above
    @property
    def presence(self) -> NDArray[np.float32]: ...  # noqa: D102
    @property
    def embedding(self) -> NDArray[np.float32]: ...  # noqa: D102


class Judge(Protocol):
    """A loaded model."""

    def judge(self, images: Sequence[NDArray[np.uint8]], **options: Any) -> Sequence[Seen]:  # noqa: ANN401 - by kind
        """Look at images (h, w, 3) uint8 RGB."""


class DeepModule(Protocol):
    """A module of `vision` that learns one kind of control."""

    def fit(
        self,
        backbone: Backbone,
        examples: Examples,
        learn: Indices,
        holdout: Indices,
        recipe: Recipe,
        *,
        folder: Path | None,
        report: Report,
    ) -> Fitted:
        """Train, see `vision.deep`."""

    def load(self, backbone: Backbone, arrays: Mapping[str, NDArray[Any]], n_classes: int, device: str) -> Judge:
        """Make a model from what `fit` has made."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An image as a model sees it.

    Attributes:
        pixels: (h, w, 3) uint8 upright RGB, scaled down.
        width: Of the image itself, in pixels.
        height: Same.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Written:
    """What a model sees, for Label Studio.

    Attributes:
        result: Regions in Label Studio's format, whatever their confidence: `shown` knows the threshold in force.
        scores: What each of them contributes to the uncertainty, 0 to 1.
    """

    result: tuple[dict[str, Any], ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Learner:
    """How one kind of control is learnt.

    Attributes:
        module: Import path of a `DeepModule`.
        read: (control, result, width, height) -> truth in an image of that size, and what could not be used, in words.
        write: (control, what the model sees, the image) -> regions.
        quality: (what the model sees, truth) -> 0 to 1 for one image.
        options: What of the project's settings the model is to be told when it judges, as its keyword arguments.
    """

    module: str
    read: Callable[[Control, Sequence[Any], int, int], tuple[Truth, tuple[str, ...]]]
    write: Callable[[Control, Any, Picture], Written]
    quality: Callable[[Any, Truth], float]
    options: Callable[[Training], Mapping[str, Any]] = lambda _: {}

    def load_module(self) -> DeepModule:
        """Import the module; it brings PyTorch."""
        return cast("DeepModule", importlib.import_module(self.module))


def _read_boxes(control: Control, result: Sequence[Any], width: int, height: int) -> tuple[Truth, tuple[str, ...]]:
    found = regions.read_boxes(control, result, width, height)
    return {"boxes": found.boxes, "classes": found.classes}, found.problems


def _write_boxes(control: Control, seen: Any, picture: Picture) -> Written:  # noqa: ANN401 - detect.Judged
    height, width = picture.pixels.shape[:2]
    boxes = seen.boxes * np.array([picture.width / width, picture.height / height] * 2, np.float32)
    result: list[dict[str, Any]] = []
    scores: list[float] = []
    for i in range(len(boxes)):
        one = slice(i, i + 1)  # one by one, because a box that has no area is not written
        written = regions.write_boxes(
            control, boxes[one], seen.classes[one], seen.scores[one], picture.width, picture.height
        )
        result += written
        scores += [float(seen.values[i])] * len(written)
    return Written(tuple(result), tuple(scores))


def _quality_of_boxes(seen: Any, truth: Truth) -> float:  # noqa: ANN401 - detect.Judged
    from ls_backend.vision import quality  # noqa: PLC0415 - the server must not import vision

    return quality.of_boxes(seen.boxes, seen.classes, seen.scores, truth["boxes"], truth["classes"])


def _read_class_map(control: Control, result: Sequence[Any], width: int, height: int) -> tuple[Truth, tuple[str, ...]]:
    found = regions.read_class_map(control, result, width, height)
    return {"class_map": found.class_map}, found.problems


def _write_class_map(control: Control, seen: Any, picture: Picture) -> Written:  # noqa: ANN401 - segment.Judged
    result = regions.write_class_map(control, seen.class_map, seen.confidence, picture.width, picture.height)
    return Written(result, tuple(1.0 - float(region["score"]) for region in result))


def _quality_of_class_map(seen: Any, truth: Truth) -> float:  # noqa: ANN401 - segment.Judged
    from ls_backend.vision import quality  # noqa: PLC0415 - the server must not import vision

    return quality.of_class_map(seen.class_map, truth["class_map"])


_BOXES = Learner(
    "ls_backend.vision.detect",
    _read_boxes,
    _write_boxes,
    _quality_of_boxes,
    lambda training: {"pooling": training.box_uncertainty},
)
_PIXELS = Learner("ls_backend.vision.segment", _read_class_map, _write_class_map, _quality_of_class_map)

LEARNERS: dict[str, Learner] = {"rectanglelabels": _BOXES, "polygonlabels": _PIXELS, "brushlabels": _PIXELS}
"""By kind of control; a control of another kind is learnt by heads on embeddings only."""
