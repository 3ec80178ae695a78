"""Labelled images in several views, ready for a detector to learn from.

While the backbone is frozen its maps are computed once for each view, and memory holds them as long as it lasts; an
epoch then costs no more than the small network on top. When the backbone learns as well, every epoch draws new views.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ls_backend.vision.deep import Examples, Indices
from ls_backend.vision.pyramid import Pyramid, by_shape

PLAIN = 0
"""Number of the view that changes nothing."""

_MIRRORED = 1
_NUMBERS = 2**31  # of views to draw from when none is kept
_FEWEST, _MOST = 2, 8  # views of an image that are kept
_IN_ALL = 960  # views of all images that are worth computing
_KEPT_BYTES = 2**30
_ZOOM = 1.4
_LIGHT = 0.25
_LEAST_VISIBLE = 0.4  # of a box at the border of a zoomed view: with less it is no longer shown as one
_FILLING = 127


class LabelledBoxes(Examples, Protocol):
    """Images with boxes."""

    def boxes(self, i: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Read the boxes (b, 4) of image i, left, top, right, bottom in its pixels, and their classes (b,)."""


@dataclass(frozen=True, eq=False)
class View:
    """One view of one image.

    Attributes:
        levels: Maps of the frozen backbone, each (1, channels, h, w) float16; the pixels (1, 3, h, w) uint8 while the
            backbone learns.
        height: Of the image, without what fills it up.
        width: The same.
        boxes: (b, 4) float32.
        classes: (b,) int64.
    """

    levels: list[torch.Tensor]
    height: int
    width: int
    boxes: torch.Tensor
    classes: torch.Tensor


class Album:
    """The views of all images."""

    def __init__(
        self, pyramid: Pyramid, examples: LabelledBoxes, *, finetune: bool, n_learn: int, seed: int, device: str
    ) -> None:
        """Open an album; nothing is read yet.

        Args:
            pyramid: Of the backbone.
            examples: Images with boxes.
            finetune: Whether the pyramid learns: no map stays true then.
            n_learn: Images to learn from; the more there are, the fewer views of each.
            seed: With the numbers of image and view it decides the view.
            device: Where the pyramid lies.
        """
        self._pyramid, self._examples, self._finetune = pyramid, examples, finetune
        self._seed, self._device = seed, device
        self.n_views = _NUMBERS if finetune else min(_MOST, max(_FEWEST, _IN_ALL // max(1, n_learn)))
        self._kept: dict[tuple[int, int], View] = {}
        self._bytes = 0

    def prepare(self, learn: Indices, holdout: Indices, interrupted: Callable[[], object]) -> None:
        """Compute the maps of all views as long as memory lasts, or until somebody interrupts.

        Does nothing while the backbone learns: its maps change with every step.
        """
        if self._finetune:
            return
        plain = [(int(i), PLAIN) for i in holdout]
        for i, number in plain + [(int(i), number) for number in range(self.n_views) for i in learn]:
            if interrupted() or self._bytes > _KEPT_BYTES:
                return
            self.view(i, number)

    def batch(self, rows: Indices, rng: np.random.Generator) -> list[tuple[list[torch.Tensor], list[View]]]:
        """Draw a view of each image, and put those of a size together.

        Args:
            rows: (b,) int64.
            rng: Decides the views.

        Returns:
            For each size the maps (n, channels, h, w) float32 of all strides, through which a pyramid that learns gets
            its gradients, and the n views.
        """
        numbers = rng.integers(self.n_views, size=len(rows))
        groups: dict[torch.Size, list[View]] = {}
        for i, number in zip(rows, numbers, strict=True):
            view = self.view(int(i), int(number))
            groups.setdefault(view.levels[0].shape, []).append(view)
        return [(self.maps(views), views) for views in groups.values()]

    def maps(self, views: Sequence[View]) -> list[torch.Tensor]:
        """Stack the maps of views of one size: for each stride (n, channels, h, w) float32."""
        stacks = [torch.cat(levels) for levels in zip(*(view.levels for view in views), strict=True)]
        return self._pyramid(stacks[0]) if self._finetune else [stack.float() for stack in stacks]

    def view(self, i: int, number: int) -> View:
        """Make a view of image i, or remember it."""
        if (i, number) in self._kept:
            return self._kept[i, number]
        image, (boxes, classes) = self._examples.image(i), self._examples.boxes(i)
        if number == _MIRRORED:
            image, boxes = mirrored(image, boxes)
        elif number != PLAIN:
            image, boxes, classes = varied(image, boxes, classes, np.random.default_rng([self._seed, i, number]))
        [(_, pixels)] = by_shape([image], self._device)
        view = View(
            levels=[pixels] if self._finetune else maps_of(self._pyramid, pixels),
            height=image.shape[0],
            width=image.shape[1],
            boxes=torch.from_numpy(np.ascontiguousarray(boxes, np.float32)).to(self._device),
            classes=torch.from_numpy(np.ascontiguousarray(classes, np.int64)).to(self._device),
        )
        if not self._finetune and self._bytes <= _KEPT_BYTES:
            self._kept[i, number] = view
            self._bytes += sum(level.nbytes for level in view.levels)
        return view


def maps_of(pyramid: Pyramid, pixels: torch.Tensor) -> list[torch.Tensor]:
    """Compute maps as they are kept: (n, channels, h, w) float16 for each stride, apart from any gradient."""
    with torch.no_grad():
        return [level.half() for level in pyramid(pixels)]


def mirrored(image: NDArray[np.uint8], boxes: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Swap left and right.

    Args:
        image: (h, w, 3) uint8.
        boxes: (b, 4) float32 left, top, right, bottom.

    Returns:
        Image and boxes of the same shapes.
    """
    width = np.float32(image.shape[1])
    swapped = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
    return np.ascontiguousarray(image[:, ::-1]), swapped


def varied(
    image: NDArray[np.uint8], boxes: NDArray[np.float32], classes: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
    """Mirror half of the time, zoom in or out up to 1.4 times, and change brightness and contrast by up to a quarter.

    Args:
        image: (h, w, 3) uint8.
        boxes: (b, 4) float32 left, top, right, bottom.
        classes: (b,) int64.
        rng: Decides.

    Returns:
        An image of the same size, and what is still to be seen of the boxes: those cut off by more than 60 % are gone.
    """
    if rng.random() < 0.5:
        image, boxes = mirrored(image, boxes)
    height, width = image.shape[:2]
    zoom = math.exp(rng.uniform(-math.log(_ZOOM), math.log(_ZOOM)))
    tall, wide = max(1, round(zoom * height)), max(1, round(zoom * width))
    top, left = (round(rng.uniform(min(0, room), max(0, room))) for room in (height - tall, width - wide))
    zoomed = np.asarray(Image.fromarray(image).resize((wide, tall), Image.Resampling.BILINEAR))
    canvas = np.full_like(image, _FILLING)
    inside = zoomed[max(0, -top) : height - top, max(0, -left) : width - left]
    canvas[max(0, top) : max(0, top) + inside.shape[0], max(0, left) : max(0, left) + inside.shape[1]] = inside
    factor, shift = [wide / width, tall / height] * 2, [left, top] * 2
    moved = boxes * np.array(factor, np.float32) + np.array(shift, np.float32)
    clipped = np.clip(moved, 0, np.array([width, height] * 2, np.float32))
    shares = (clipped[:, 2:] - clipped[:, :2]).prod(axis=1) / np.maximum(
        (moved[:, 2:] - moved[:, :2]).prod(axis=1), 1e-6
    )
    kept = shares >= _LEAST_VISIBLE
    contrast, brightness = rng.uniform(1.0 - _LIGHT, 1.0 + _LIGHT, 2)
    mean = float(canvas.mean())
    lit = (canvas.astype(np.float32) - mean) * np.float32(contrast) + np.float32(mean * brightness)
    return np.clip(lit, 0, 255).astype(np.uint8), clipped[kept], classes[kept]
