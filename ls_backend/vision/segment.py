"""Semantic segmentation: which class every pixel of an image belongs to, and where the model is in doubt.

A light head joins the feature maps of a backbone from coarse to fine and calls a class, or nothing, for every 4 x 4
pixels; its logits are enlarged to the image. With a frozen backbone the maps of the training images are computed once,
for each of four flips, and kept in memory, so that an epoch costs the head alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from ls_backend.errors import DataError, StoreError, TooFewLabels
from ls_backend.vision.backbones import Backbone
from ls_backend.vision.deep import (
    Course,
    Examples,
    Fitted,
    Indices,
    Recipe,
    Report,
    Schedule,
    Watch,
    fingerprint,
    seeded,
)
from ls_backend.vision.heads import fit_temperature
from ls_backend.vision.pyramid import STRIDES, Pyramid, by_shape

MOST_CLASSES = 254
"""A class map is uint8: 0 is nothing, and one value stays free for pixels that do not count."""

DOUBTFUL_SHARE = 0.1
"""Of the pixels of the predicted regions: the most uncertain of them make an image's uncertainty.

With 20 labelled scenes of the benchmarks its rank correlation with 1 - IoU of an image was 0.79; 0.74 to 0.78 with more
of the pixels, 0.76 with a margin of 3 px around the regions, 0.66 and less with the most doubtful region alone.
"""

_IGNORED = 255  # pixels beyond the image, that were filled up
_WIDTH = 64
_GROUPS = 8
_DROPPED = 0.1  # share of the head's channels blanked out while it learns
_FLIPS = 4
_CACHE_BYTES = 2**30  # maps kept in memory: 60 images of 256 px, four flips each, take an eighth of it
_HEAD_RATE, _BACKBONE_RATE, _DECAY = 2e-3, 1e-4, 1e-2
_BATCH = 8
_STEPS = 200  # as many for few images as for many, within limits
_FEWEST_EPOCHS, _MOST_EPOCHS = 10, 100
_PATIENCE = 0.25  # of the epochs
_MEASURINGS = 20
_CALIBRATION_PIXELS = 50_000
_SUREST = 0.5  # lowest temperature
_JUDGED_TOGETHER = 8
_SMALL = 1 / 16  # of the longer side: the small area in which a class is looked for


class SegmentExamples(Examples, Protocol):
    """Labelled images for the segmenter."""

    def class_map(self, i: int) -> NDArray[np.uint8]:
        """Read what image i shows: (h, w) uint8 of the size of `image(i)`, 0 = nothing, 1 + class elsewhere."""


@dataclass(frozen=True, eq=False)
class Judged:
    """What the model says about an image of (h, w) pixels.

    Attributes:
        class_map: (h, w) uint8, 0 = nothing, 1 + class elsewhere.
        confidence: (h, w) float16, calibrated probability of what `class_map` says.
        uncertainty: In [0, 1], higher = label sooner: mean of 1 - (p(1) - p(2)) over the most uncertain tenth of the
            pixels of the regions, borders included; where nothing was found, of the small area that is most likely to
            hold something.
        presence: (c,) float32, highest mean probability of each class over any small area.
        embedding: (d,) float32 of unit length: mean feature of the regions weighted by confidence, of the whole image
            where nothing was found.
    """

    class_map: NDArray[np.uint8]
    confidence: NDArray[np.float16]
    uncertainty: float
    presence: NDArray[np.float32]
    embedding: NDArray[np.float32]


def fit(
    backbone: Backbone,
    examples: SegmentExamples,
    learn: Indices,
    holdout: Indices,
    recipe: Recipe,
    *,
    folder: Path | None = None,
    report: Report = lambda _: True,
) -> Fitted:
    """Train a segmenter.

    The loss is cross-entropy of all pixels plus soft Dice of the classes in the batch: the one keeps probabilities
    honest, the other does not let rare and small classes drown in background. The weights kept are those with the best
    mean IoU on the hold-out.

    Args:
        backbone: Stays as it is.
        examples: Images and class maps; empty maps are examples of nothing.
        learn: (m,) int64, examples to learn from.
        holdout: (k,) int64, examples to measure on; may be empty.
        recipe: Classes, depth, time budget, seed; without epochs as many as make 200 steps, within 10 to 100.
        folder: For a checkpoint to go on from; None keeps none.
        report: Told the progress; False cancels.

    Returns:
        Arrays for `load`; "mean_iou", "mean_iou_classes" (without background), "iou_background" and "iou_0" ... of the
        hold-out; and why it stopped.

    Raises:
        DataError: If an image is not RGB, or a class map does not fit its image or holds a class the config lacks.
        Diverged: If the loss is not finite.
        SettingsError: If the backbone has no feature maps.
        StoreError: If the checkpoint cannot be written.
        TooFewLabels: If there is nothing to learn from.
    """
    assert 1 <= recipe.n_classes <= MOST_CLASSES, f"a class map holds at most {MOST_CLASSES} classes"
    if not len(learn):
        raise TooFewLabels("No labelled image is left to learn from; expected at least one. Go on labelling.")
    watch = Watch(recipe.seconds, report)
    pyramid = Pyramid(backbone, trainable=recipe.finetune)
    with seeded(recipe.seed):
        head = _head(pyramid, recipe.n_classes, backbone.device)
    material = _Material(pyramid, examples, recipe, backbone.device)
    course = Course(
        network=nn.ModuleDict({"pyramid": pyramid, "head": head} if recipe.finetune else {"head": head}),
        optimizer=_optimizer(pyramid, head),
        loss_of=lambda batch, rng: _batch_loss(head, material, batch, rng),
        measure=(lambda: ious(_confusion(head, material, holdout))["mean_iou"]) if len(holdout) else None,
        learn=learn,
        schedule=_schedule(len(learn), recipe),
        seed=recipe.seed,
        watch=watch,
        identity=material.identity(backbone.identity, learn, holdout),
        folder=folder,
    )
    stopped = course.run()
    temperature = _temperature(head, material, holdout, recipe.seed)
    arrays = {name: tensor.cpu().numpy() for name, tensor in course.network.state_dict().items()}
    return Fitted(
        arrays={**arrays, "temperature": np.asarray(temperature, np.float64)},
        metrics=ious(_confusion(head, material, holdout)) if len(holdout) else {},
        stopped=stopped,
    )


def load(backbone: Backbone, arrays: Mapping[str, NDArray[Any]], n_classes: int, device: str) -> Segmenter:
    """Make the segmenter whose arrays `fit` returned.

    Args:
        backbone: The one it was trained on, on the device.
        arrays: Of `Fitted`.
        n_classes: Classes of the label config.
        device: Where the backbone lies.

    Returns:
        A model that judges.

    Raises:
        SettingsError: If the backbone has no feature maps.
        StoreError: If the arrays are not those of a segmenter with this backbone and these classes.
    """
    pyramid = Pyramid(backbone)
    head = _head(pyramid, n_classes, device)
    finetuned = any(name.startswith("pyramid.") for name in arrays)
    network = nn.ModuleDict({"pyramid": pyramid, "head": head} if finetuned else {"head": head})
    try:
        temperature = float(arrays["temperature"])
        network.load_state_dict(
            {name: torch.from_numpy(array) for name, array in arrays.items() if name != "temperature"}
        )
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StoreError(
            f"The model is no segmenter of {n_classes} classes on {backbone.name}: {reason}.",
            hint="Train again; the label config or the backbone has changed since.",
        ) from error
    return Segmenter(pyramid, head.eval(), temperature, device)


class Segmenter:
    """A trained model that judges images."""

    def __init__(self, pyramid: Pyramid, head: _Head, temperature: float, device: str) -> None:
        """Put the parts together; `load` does it from arrays."""
        self._pyramid, self._head, self._temperature, self._device = pyramid, head, temperature, device

    def judge(self, images: Sequence[NDArray[np.uint8]]) -> list[Judged]:
        """Judge images of any size; what is said of one does not depend on the others.

        Args:
            images: n arrays (h, w, 3) uint8 RGB, scaled as the training images were.

        Returns:
            n judgements, each at the size of its image.

        Raises:
            DataError: If an image is not (h, w, 3) uint8.
        """
        for i, image in enumerate(images):
            _check_image(image, i)
        found: dict[int, Judged] = {}
        for rows, pixels in by_shape(images, self._device):
            for start in range(0, len(rows), _JUDGED_TOGETHER):
                part = slice(start, start + _JUDGED_TOGETHER)
                with torch.inference_mode():
                    maps = self._pyramid(pixels[part])
                    logits = self._head(maps) / self._temperature
                for k, i in enumerate(rows[part]):
                    height, width = images[i].shape[:2]
                    found[int(i)] = _judged(logits[k], [each[k] for each in maps], height, width)
        return [found[i] for i in range(len(images))]


def ious(confusion: NDArray[np.int64]) -> dict[str, float]:
    """Compute intersection over union from pixels counted over all images together.

    A class that neither the truth nor the predictions hold is left out, of the means as well.  O(c^2).

    Args:
        confusion: (1 + c, 1 + c) int64, pixels of true class (row) that were called so (column); 0 is background.

    Returns:
        "mean_iou" over classes and background, "mean_iou_classes" without background if there is any class at all,
        "iou_background", and "iou_0" to "iou_<c-1>".
    """
    both = np.diag(confusion)
    either = confusion.sum(axis=0) + confusion.sum(axis=1) - both
    known = {c: float(both[c] / either[c]) for c in np.flatnonzero(either)}
    named = {"iou_background" if c == 0 else f"iou_{c - 1}": value for c, value in known.items()}
    classes = [value for c, value in known.items() if c > 0]
    means = {"mean_iou": float(np.mean(list(known.values())))} if known else {}
    return means | ({"mean_iou_classes": float(np.mean(classes))} if classes else {}) | named


# ---- what learns


class _Head(nn.Module):
    """Joins maps from coarse to fine, and calls classes at the finest stride."""

    def __init__(self, channels: Sequence[int], n_outputs: int) -> None:
        super().__init__()
        self.n_outputs = n_outputs
        self.lateral = nn.ModuleList(nn.Sequential(nn.Conv2d(c, _WIDTH, 1), _norm()) for c in channels)
        self.smooth = nn.ModuleList(
            nn.Sequential(nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1), _norm(), nn.ReLU()) for _ in channels[:-1]
        )
        self.call = nn.Sequential(
            nn.Dropout2d(_DROPPED),
            nn.Conv2d(_WIDTH, n_outputs, 1),
        )

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return logits (n, outputs, h, w) at the stride of the first map."""
        joined = functional.relu(self.lateral[-1](maps[-1]))
        for level in reversed(range(len(self.smooth))):
            coarse = functional.interpolate(joined, size=maps[level].shape[2:], mode="nearest")
            joined = self.smooth[level](coarse + self.lateral[level](maps[level]))
        logits: torch.Tensor = self.call(joined)
        return logits


def _head(pyramid: Pyramid, n_classes: int, device: str) -> _Head:
    return _Head(pyramid.channels, 1 + n_classes).to(device).to(memory_format=torch.channels_last)


def _norm() -> nn.Module:
    return nn.GroupNorm(_GROUPS, _WIDTH)  # of each image by itself: a batch of different images says nothing


def _schedule(n: int, recipe: Recipe) -> Schedule:
    wanted = math.ceil(_STEPS * _BATCH / n)
    epochs = recipe.epochs or min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, wanted))
    return Schedule(
        epochs=epochs,
        batch=_BATCH,
        patience=max(3, round(_PATIENCE * epochs)),
        measure_every=max(1, epochs // _MEASURINGS),
    )


def _optimizer(pyramid: Pyramid, head: _Head) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [{"params": list(head.parameters()), "lr": _HEAD_RATE}]
    learning = [parameter for parameter in pyramid.parameters() if parameter.requires_grad]
    if learning:
        groups.append({"params": learning, "lr": _BACKBONE_RATE})
    return torch.optim.AdamW(groups, weight_decay=_DECAY)


def _batch_loss(head: _Head, material: _Material, batch: Indices, rng: np.random.Generator) -> torch.Tensor:
    flips = rng.integers(_FLIPS, size=len(batch))
    head.train()
    logits, shares = [], []
    with seeded(int(rng.integers(2**31))):
        for maps, target in material.stacks(batch, flips):
            raw = head(maps)
            logits.append(raw.movedim(1, -1).flatten(0, -2))
            shares.append(_shares(target, head.n_outputs).movedim(1, -1).flatten(0, -2))
    return _loss(torch.cat(logits), torch.cat(shares))


def _shares(target: torch.Tensor, n_outputs: int) -> torch.Tensor:
    """Count how much of each cell of 4 x 4 pixels is of each class.

    Args:
        target: (n, h, w) uint8.
        n_outputs: Classes and background.

    Returns:
        (n, outputs, h / 4, w / 4) float32 that add up to 1, or less where pixels do not count.
    """
    stride = STRIDES[0]
    index = target.clamp(max=n_outputs).long()[:, None]  # one channel more for what does not count
    n, _, height, width = index.shape
    shares = torch.zeros((n, n_outputs + 1, height // stride, width // stride), device=target.device)
    share = torch.full_like(shares[:, :1], 1.0 / stride**2)
    for y in range(stride):
        for x in range(stride):
            shares.scatter_add_(1, index[:, :, y::stride, x::stride], share)
    return shares[:, :n_outputs]


def _loss(logits: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of cells (n, c) plus soft Dice of the classes among them; both count a cell by its shares."""
    logs = logits.log_softmax(dim=1)
    loss = -(shares * logs).sum() / shares.sum()
    present = shares.sum(dim=0)
    present[0] = 0  # background is never rare
    if not present.any():
        return loss
    beliefs = logs.exp() * shares.sum(dim=1, keepdim=True)
    overlap = 2 * (beliefs * shares).sum(dim=0) / (beliefs.square() + shares.square()).sum(dim=0).clamp(min=1e-6)
    return loss + 1.0 - overlap[present > 0].mean()


def _enlarged(logits: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Turn logits (n, outputs, h / 4, w / 4) into (n, h, w, outputs)."""
    return functional.interpolate(logits, size=tuple(size), mode="bilinear").permute(0, 2, 3, 1)


@dataclass(frozen=True, eq=False)
class _Prepared:
    maps: list[torch.Tensor]  # each (channels, h, w) float16
    target: torch.Tensor  # (h, w) uint8


class _Material:
    """The training images as maps and targets; of a frozen backbone they are kept, as many as memory is set aside."""

    def __init__(self, pyramid: Pyramid, examples: SegmentExamples, recipe: Recipe, device: str) -> None:
        self._pyramid, self._examples, self._recipe, self._device = pyramid, examples, recipe, device
        self._kept: dict[tuple[int, int], _Prepared] = {}
        self._free_bytes = _CACHE_BYTES

    def identity(self, backbone: str, learn: Indices, holdout: Indices) -> str:
        """Read every class map, so that the same images with other labels are another training."""
        maps = hashlib.sha256()
        for i in np.concatenate([learn, holdout]):
            maps.update(self._examples.class_map(int(i)).tobytes())
        return fingerprint(
            kind="segment",
            backbone=backbone,
            recipe=replace(self._recipe, seconds=0.0),
            learn=learn,
            holdout=holdout,
            class_maps=maps.hexdigest(),
        )

    def stacks(self, rows: Indices, flips: Indices) -> Iterator[tuple[list[torch.Tensor], torch.Tensor]]:
        """Give maps (b, channels, h, w) and targets (b, h, w) of examples, those of one shape together."""
        if self._recipe.finetune:
            read = [self._read(int(i), int(flip)) for i, flip in zip(rows, flips, strict=True)]
            for members, pixels in by_shape([image for image, _ in read], self._device):
                yield self._pyramid(pixels), torch.stack([_filled(read[k][1], pixels) for k in members])
            return
        shapes: dict[torch.Size, list[_Prepared]] = {}
        for i, flip in zip(rows, flips, strict=True):
            prepared = self._prepared(int(i), int(flip))
            shapes.setdefault(prepared.target.shape, []).append(prepared)
        for alike in shapes.values():
            maps = [_stacked(level) for level in zip(*(each.maps for each in alike), strict=True)]
            yield maps, torch.stack([each.target for each in alike])

    def _prepared(self, i: int, flip: int) -> _Prepared:
        """Compute or remember; an image at a time, so that its maps do not depend on who came with it."""
        if (kept := self._kept.get((i, flip))) is not None:
            return kept
        image, class_map = self._read(i, flip)
        ((_, pixels),) = by_shape([image], self._device)
        with torch.no_grad():
            maps = [each[0].half() for each in self._pyramid(pixels)]
        prepared = _Prepared(maps, _filled(class_map, pixels))
        size_bytes = sum(each.nbytes for each in (*maps, prepared.target))
        if size_bytes <= self._free_bytes:
            self._free_bytes -= size_bytes
            self._kept[i, flip] = prepared
        return prepared

    def _read(self, i: int, flip: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        image, class_map = self._examples.image(i), self._examples.class_map(i)
        _check_image(image, i)
        if class_map.shape != image.shape[:2] or class_map.dtype != np.uint8:
            raise DataError(
                f"The class map of example {i} is {class_map.dtype} of shape {class_map.shape}; expected uint8 of the "
                f"shape of its image, {image.shape[:2]}.",
                example=i,
            )
        if class_map.size and class_map.max() > self._recipe.n_classes:
            raise DataError(
                f"The class map of example {i} holds the value {class_map.max()}; expected 0 for nothing to "
                f"{self._recipe.n_classes} for the last class.",
                example=i,
            )
        if flip & 1:
            image, class_map = image[:, ::-1], class_map[:, ::-1]
        if flip & 2:
            image, class_map = image[::-1], class_map[::-1]
        return image, class_map


def _stacked(level: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(level)).float().contiguous(memory_format=torch.channels_last)


def _check_image(image: NDArray[np.uint8], i: int) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise DataError(
            f"Image {i} is {image.dtype} of shape {image.shape}; expected uint8 RGB of shape (height, width, 3).",
            image=i,
        )


def _filled(class_map: NDArray[np.uint8], pixels: torch.Tensor) -> torch.Tensor:
    """Put a class map into the size its image was filled up to; the rest does not count."""
    target = torch.full(pixels.shape[2:], _IGNORED, dtype=torch.uint8)
    target[: class_map.shape[0], : class_map.shape[1]] = torch.from_numpy(class_map.copy())
    return target.to(pixels.device)


# ---- what is measured


def _calls(head: _Head, material: _Material, rows: Indices) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Logits (n, outputs) and truth (n,) of the pixels of each example."""
    head.eval()
    for i in rows:
        with torch.inference_mode():
            for maps, target in material.stacks(np.array([i]), np.array([0])):
                inside = target != _IGNORED
                yield _enlarged(head(maps), target.shape[1:])[inside], target[inside].long()


def _confusion(head: _Head, material: _Material, rows: Indices) -> NDArray[np.int64]:
    n = head.n_outputs
    total = np.zeros((n, n), np.int64)
    for logits, truth in _calls(head, material, rows):
        total += torch.bincount(truth * n + logits.argmax(dim=1), minlength=n * n).cpu().numpy().reshape(n, n)
    return total


def _temperature(head: _Head, material: _Material, holdout: Indices, seed: int) -> float:
    """Fit it on pixels of the hold-out, as many of each image.

    Without one it is 1: pixels that were learnt from are known too well. And it has a floor, because a hold-out that
    happens to be all right, such as one of empty images, would make the model absurdly sure.
    """
    if not len(holdout):
        return 1.0
    rng = np.random.default_rng(seed)
    each = _CALIBRATION_PIXELS // len(holdout) + 1
    logits, truth = [], []
    for raw, own in _calls(head, material, holdout):
        drawn = torch.from_numpy(rng.integers(len(own), size=min(each, len(own)))).to(own.device)
        logits.append(raw[drawn].cpu().numpy())
        truth.append(own[drawn].cpu().numpy())
    return max(_SUREST, fit_temperature(np.concatenate(logits), np.concatenate(truth)))


# ---- what is said about an image


def _judged(logits: torch.Tensor, maps: Sequence[torch.Tensor], height: int, width: int) -> Judged:
    """Judge one image from its calibrated logits (outputs, h / 4, w / 4) and its maps."""
    stride = STRIDES[0]
    rows, columns = -(-height // stride), -(-width // stride)
    coarse = logits[:, :rows, :columns].softmax(dim=0)  # (1 + c, h / 4, w / 4), without what was filled up
    size = logits.shape[1] * stride, logits.shape[2] * stride
    fine = _enlarged(logits[None], size)[0, :height, :width].softmax(dim=2)
    confidence, called = (each.cpu().numpy() for each in fine.max(dim=2))
    top = fine.topk(2, dim=2).values
    doubt = (1.0 - (top[..., 0] - top[..., 1])).cpu().numpy()  # (h, w)
    class_map = called.astype(np.uint8)
    side = max(1, round(max(height, width) * _SMALL / stride))
    window = min(side, rows), min(side, columns)
    small = functional.avg_pool2d(coarse, window, stride=1)  # (1 + c, ...) means over small areas
    found = class_map > 0
    area = found if found.any() else _area(small[0].cpu().numpy(), window, stride, (height, width))
    return Judged(
        class_map=class_map,
        confidence=confidence.astype(np.float16),
        uncertainty=_mean_of_top(doubt[area]),
        presence=small[1:].amax(dim=(1, 2)).cpu().numpy(),
        embedding=_embedding(coarse, maps),
    )


def _area(
    background: NDArray[np.float32], window: tuple[int, int], stride: int, size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Mark the small area (h, w) where background is least likely."""
    top, left = (stride * int(at) for at in np.unravel_index(background.argmin(), background.shape))
    area = np.zeros(size, np.bool_)
    area[top : top + stride * window[0], left : left + stride * window[1]] = True
    return area


def _mean_of_top(doubt: NDArray[np.float32]) -> float:
    """Mean of the most doubtful share of pixels (n,), n >= 1."""
    k = int(np.ceil(DOUBTFUL_SHARE * doubt.size))
    return float(np.clip(np.partition(doubt, doubt.size - k)[-k:].mean(), 0.0, 1.0))


def _embedding(coarse: torch.Tensor, maps: Sequence[torch.Tensor]) -> NDArray[np.float32]:
    """Mean feature of the two deepest maps over what was found, each of them of the same length."""
    found = coarse.argmax(dim=0) > 0
    weights = (coarse.max(dim=0).values * found if found.any() else torch.ones_like(coarse[0]))[None, None]
    parts = []
    for each in maps[-2:]:
        rows, columns = (-(-n // (maps[0].shape[k + 1] // each.shape[k + 1])) for k, n in enumerate(coarse.shape[1:]))
        share = functional.interpolate(weights, size=(rows, columns), mode="area")[0, 0]
        parts.append(functional.normalize((each[:, :rows, :columns] * share).sum(dim=(1, 2)), dim=0))
    embedding: NDArray[np.float32] = functional.normalize(torch.cat(parts), dim=0).cpu().numpy()
    return embedding
