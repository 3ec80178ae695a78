"""Regions of an image between Label Studio's formats and plain arrays.

Rectangles and polygons are in percent of the image, brush masks in pixels of the image they were painted on. All of it
is relative to the upright image as the browser shows it before the annotator turns it: turning it in the editor only
turns the view, and `image_rotation` merely says by how much (seen in the editor of 1.23: the stage is rotated, regions
are not touched, and a mask is painted on a canvas of its own). So `image_rotation` is not read.

What cannot be used is skipped and named in `problems`; the rest of the annotation counts.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ls_backend.domain import Control
from ls_backend.labelstudio import rle
from ls_backend.labelstudio.outlines import outline, wind

MAX_CLASSES = 254
"""Labels a class map can tell apart."""

_MAX_PIXELS = 100_000_000
_FAR = 1e6
"""Percent; a coordinate beyond cannot be meant."""
_SPECK_CELLS = 4
_SPECK_SHARE = 0.01
_DECIMALS = 4
"""Of percentages and scores: a hundredth of a pixel in an image of 10 000."""
_SHOWN_LABELS = 5


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Rectangles of an annotation.

    Attributes:
        boxes: (b, 4) float32 left, top, right, bottom in pixels, with an area, inside the image.
        classes: (b,) int64 class indices.
        problems: What could not be used and why, a sentence each.
    """

    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ClassMap:
    """The class of every pixel, as an annotation has it.

    Attributes:
        class_map: (h, w) uint8, 0 = nothing, 1 + class index elsewhere.
        problems: What could not be used, or not as it is, and why, a sentence each.
    """

    class_map: NDArray[np.uint8]
    problems: tuple[str, ...] = ()


class _Region(NamedTuple):
    words: str
    raw: Mapping[str, Any]
    value: Mapping[str, Any]
    classes: list[int]


class _Shape(NamedTuple):
    """Pixels of a region: where the mask begins in the image, and what a person should know about it."""

    left: int
    top: int
    mask: NDArray[np.bool_]
    remark: str = ""


class _Unusable(Exception):
    """A region cannot be used: why, as the rest of a sentence that begins with its name."""


def read_boxes(control: Control, result: Sequence[Any], width: int, height: int) -> Boxes:
    """Read the rectangles of an annotation as boxes along the axes of the image.

    Of a rotated rectangle that is the smallest box around it. Boxes are cut off at the border of the image; a region
    with several labels gives a box for each.

    Args:
        control: Of kind "rectanglelabels".
        result: Regions of the annotation, those of other controls included; empty is legal.
        width: Of the upright image, in the pixels the boxes are wanted in.
        height: Same.
    """
    problems: list[str] = []
    boxes: list[list[float]] = []
    classes: list[int] = []
    for region in _regions(control, result, problems):
        try:
            box = _hull(region.value, width, height)
        except _Unusable as why:
            problems.append(f"{region.words} {why}")
            continue
        boxes += [box] * len(region.classes)
        classes += region.classes
    return Boxes(np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64), tuple(problems))


def write_boxes(
    control: Control,
    boxes: NDArray[np.float32],
    classes: NDArray[np.int64],
    scores: NDArray[np.float32],
    width: int,
    height: int,
) -> tuple[dict[str, Any], ...]:
    """Write boxes as regions of a prediction.

    Boxes are cut off at the border of the image; those without an area there, or with a coordinate that is no number,
    are left out.

    Args:
        control: Of kind "rectanglelabels".
        boxes: (b, 4) left, top, right, bottom in pixels of the image.
        classes: (b,) class indices.
        scores: (b,) confidence, 0 to 1.
        width: Of the upright image itself, pixels.
        height: Same.
    """
    size = np.array([width, height, width, height], np.float64)
    inside = np.clip(boxes.astype(np.float64), 0.0, size)
    usable = np.all(np.isfinite(boxes), axis=1) & np.all(inside[:, 2:] > inside[:, :2], axis=1)
    percent = np.round(100.0 * inside / size, _DECIMALS)[usable]
    return tuple(
        _prediction(
            control,
            {"x": left, "y": top, "width": right - left, "height": bottom - top, "rotation": 0},
            index,
            score,
            (width, height),
        )
        for (left, top, right, bottom), index, score in zip(
            percent.tolist(), classes[usable].tolist(), scores[usable].tolist(), strict=True
        )
    )


def read_class_map(control: Control, result: Sequence[Any], width: int, height: int) -> ClassMap:
    """Read the polygons or brush masks of an annotation as the class of every pixel.

    A pixel belongs to a region that covers its centre, and to the last of several regions. A polygon that crosses
    itself is filled as the editor does it, and named. Brush masks are read at the size they were painted in and
    scaled; a pixel counts as painted with at least half of the mask's strongest alpha, since strokes have soft borders.
    Regions that cover no pixel centre at the wanted size leave no trace.

    Args:
        control: Of kind "polygonlabels" or "brushlabels", with at most `MAX_CLASSES` labels.
        result: Regions of the annotation, those of other controls included; empty is legal and gives a map of zeros.
        width: Of the upright image, in the pixels the map is wanted in.
        height: Same.
    """
    read = {"polygonlabels": _polygon, "brushlabels": _brush}[control.kind]
    problems: list[str] = []
    class_map = np.zeros((height, width), np.uint8)
    for region in _regions(control, result, problems):
        try:
            shape = read(region, width, height)
        except _Unusable as why:
            problems.append(f"{region.words} {why}")
            continue
        if shape.remark:
            problems.append(f"{region.words} {shape.remark}")
        rows, columns = shape.mask.shape
        part = class_map[shape.top : shape.top + rows, shape.left : shape.left + columns]
        part[shape.mask] = region.classes[-1] + 1
    return ClassMap(class_map, tuple(problems))


def write_class_map(
    control: Control,
    class_map: NDArray[np.uint8],
    confidence: NDArray[np.floating[Any]],
    width: int,
    height: int,
) -> tuple[dict[str, Any], ...]:
    """Write the class of every pixel as regions of a prediction, one for each connected component.

    Pixels that touch by a corner are connected: a thin slanting stroke stays one region. Components of fewer than 4
    pixels of the map are left out as specks, unless they make up a hundredth of the map. The largest comes first: of
    regions that overlap the later one is on top, and a simplified polygon may reach a little into a small neighbour.
    The score of a region is the mean confidence of its pixels.

    Args:
        control: Of kind "polygonlabels" or "brushlabels"; regions are written in its format.
        class_map: (h, w), 0 = nothing, 1 + class index elsewhere; of the shape of the image, and at most as large.
        confidence: (h, w) of the predicted class, 0 to 1.
        width: Of the upright image itself, pixels: masks are scaled up to it.
        height: Same.
    """
    write = {"polygonlabels": _polygon_value, "brushlabels": _brush_value}[control.kind]
    components = sorted(_components(class_map, confidence), key=lambda component: -np.count_nonzero(component[1].mask))
    return tuple(
        _prediction(control, write(part, class_map.shape, (width, height)), index, score, (width, height))
        for index, part, score in components
    )


def _regions(control: Control, result: Sequence[Any], problems: list[str]) -> Iterator[_Region]:
    """Yield the regions of a control that have a known label; name what is wrong with the others."""
    if not isinstance(result, list | tuple):
        problems.append(f"The result is a {type(result).__name__}; a list of regions was expected.")
        return
    known = dict(control.aliases) | {label: label for label in control.classes}
    index = {label: place for place, label in enumerate(control.classes)}
    for number, raw in enumerate(result, start=1):
        if not isinstance(raw, Mapping):
            problems.append(f"Region number {number} is a {type(raw).__name__}; an object was expected.")
            continue
        if raw.get("from_name") != control.name:
            continue
        words = f"Region {raw['id']}" if raw.get("id") else f"Region number {number}"
        try:
            value, labels = _labels(control, raw)
        except _Unusable as why:
            problems.append(f"{words} {why}")
            continue
        problems += [f"{words} has the label '{label}'; {_choice(control)}" for label in labels if label not in known]
        classes = list(dict.fromkeys(index[known[label]] for label in labels if known.get(label) in index))
        if classes:
            yield _Region(words, raw, value, classes)


def _labels(control: Control, raw: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    kind = str(raw.get("type")).lower()
    # The editor calls a region "rectangle", "polygon" or "brush" when its label was taken off.
    if kind not in {control.kind, control.kind.removesuffix("labels")}:
        raise _Unusable(f"is of type '{kind}'; '{control.kind}' was expected.")
    value = raw.get("value")
    if not isinstance(value, Mapping):
        raise _Unusable(f"has a value that is a {type(value).__name__}; an object was expected.")
    labels = value.get(control.kind)
    if not labels:
        raise _Unusable("has no label. Give it one, or delete it.")
    if not isinstance(labels, list | tuple):
        raise _Unusable(f"has labels that are a {type(labels).__name__}; a list was expected.")
    return value, [str(label) for label in labels]


def _choice(control: Control) -> str:
    shown = ", ".join(control.classes[:_SHOWN_LABELS]) + (", ..." if len(control.classes) > _SHOWN_LABELS else "")
    return f"the label config has {shown}."


def _number(place: Mapping[str, Any], name: str) -> float:
    return _percent(place.get(name), name)


def _percent(value: object, name: str) -> float:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _FAR  # NaN is not
    if not usable:
        raise _Unusable(f"has {name} = {str(value)[:20]!r}; a number of percent was expected.")
    return float(value)  # type: ignore[arg-type]  # checked above


def _hull(value: Mapping[str, Any], width: int, height: int) -> list[float]:
    """The box around a rectangle that is rotated clockwise about its upper left corner."""
    across, down = _number(value, "width") * width / 100, _number(value, "height") * height / 100
    if not across or not down:
        raise _Unusable(f"has no area: width {value['width']}, height {value['height']} percent.")
    angle = math.radians(_number(value, "rotation") if value.get("rotation") is not None else 0.0)
    cos, sin = math.cos(angle), math.sin(angle)
    xs = [
        _number(value, "x") * width / 100 + step for step in (0.0, across * cos, -down * sin, across * cos - down * sin)
    ]
    ys = [
        _number(value, "y") * height / 100 + step for step in (0.0, across * sin, down * cos, across * sin + down * cos)
    ]
    left, right = (min(max(edge, 0.0), float(width)) for edge in (min(xs), max(xs)))
    top, bottom = (min(max(edge, 0.0), float(height)) for edge in (min(ys), max(ys)))
    if np.float32(right) <= np.float32(left) or np.float32(bottom) <= np.float32(top):
        raise _Unusable("lies outside the image; x, y, width and height are percent of it.")
    return [left, top, right, bottom]


def _polygon(region: _Region, width: int, height: int) -> _Shape:
    points = region.value.get("points")
    if not isinstance(points, list | tuple):
        raise _Unusable(f"has points that are a {type(points).__name__}; a list was expected.")
    if region.value.get("closed") is False:
        raise _Unusable("is not closed, so it has no inside. Close it in the editor.")
    ring = np.array([_point(point) for point in points], np.float64).reshape(-1, 2)
    if len(np.unique(ring, axis=0)) < 3:
        raise _Unusable(f"has {len(np.unique(ring, axis=0))} different points; a polygon has at least 3.")
    found = wind(ring * [width / 100, height / 100], width, height)
    crossing = "crosses itself; it is filled as the editor does it. Draw it again without crossing."
    if not found.turns.size:
        raise _Unusable("lies outside the image, or has no area; points are percent of the image.")
    return _Shape(found.left, found.top, found.turns != 0, crossing if found.crosses else "")


def _point(point: object) -> tuple[float, float]:
    if not isinstance(point, list | tuple) or len(point) != 2:
        raise _Unusable(f"has the point {str(point)[:40]}; two numbers, x and y, were expected.")
    return _percent(point[0], "x"), _percent(point[1], "y")


def _brush(region: _Region, width: int, height: int) -> _Shape:
    if region.value.get("format", "rle") != "rle":
        raise _Unusable(f"has the format {str(region.value['format'])[:20]!r}; 'rle' was expected.")
    try:
        ends, alpha = rle.decode_alpha(region.value.get("rle"), _MAX_PIXELS)
    except ValueError as error:
        raise _Unusable(str(error)) from error
    columns, rows = _painted_size(region.raw, int(ends[-1]) if ends.size else 0, width, height)
    painted = alpha >= max(1, (int(alpha.max(initial=0)) + 1) // 2)
    if (columns, rows) == (width, height):
        return _Shape(0, 0, np.repeat(painted, np.diff(ends, prepend=0)).reshape(rows, columns))
    places = _sources(height, rows)[:, None] * columns + _sources(width, columns)
    return _Shape(0, 0, painted[np.searchsorted(ends, places, side="right")])


def _painted_size(raw: Mapping[str, Any], n_pixels: int, width: int, height: int) -> tuple[int, int]:
    """Width and height of the image a mask was painted on."""
    columns, rows = raw.get("original_width"), raw.get("original_height")
    if columns is None or rows is None:
        if n_pixels != width * height:
            raise _Unusable(
                f"has no original_width and original_height, and its {n_pixels} pixels do not fill the image of "
                f"{width} x {height}."
            )
        return width, height
    if not (isinstance(columns, int) and isinstance(rows, int) and columns > 0 and rows > 0):
        raise _Unusable(f"has an original size of {str(columns)[:20]} x {str(rows)[:20]}; whole numbers were expected.")
    if columns * rows != n_pixels:
        raise _Unusable(f"has {n_pixels} pixels in its RLE; {columns} x {rows} = {columns * rows} were expected.")
    if abs(width * rows - height * columns) > max(columns, rows):  # more than rounding to whole pixels explains
        raise _Unusable(
            f"was painted on an image of {columns} x {rows}, which is not of the shape of this one, "
            f"{width} x {height}. Was the image replaced?"
        )
    return columns, rows


def _sources(n_wanted: int, n_there: int) -> NDArray[np.int64]:
    """For each of `n_wanted` places along a side, which of `n_there` holds its centre."""
    return (2 * np.arange(n_wanted) + 1) * n_there // (2 * n_wanted)


def _components(
    class_map: NDArray[np.uint8], confidence: NDArray[np.floating[Any]]
) -> Iterator[tuple[int, _Shape, float]]:
    """Yield class index, pixels and mean confidence of each connected component that is no speck."""
    import cv2  # noqa: PLC0415 - needed for predictions only, and slow to load

    smallest = min(_SPECK_CELLS, max(1, math.ceil(_SPECK_SHARE * class_map.size)))
    for index in np.flatnonzero(np.bincount(class_map.ravel())[1:]).tolist():
        mask = (class_map == index + 1).astype(np.uint8)
        _, part_of, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        for number in 1 + np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= smallest):
            left, top, columns, rows, _ = stats[number].tolist()
            place = slice(top, top + rows), slice(left, left + columns)
            part = part_of[place] == number
            yield index, _Shape(left, top, part), float(confidence[place][part].mean(dtype=np.float64))


def _polygon_value(part: _Shape, shape: tuple[int, ...], _size: tuple[int, int]) -> dict[str, Any]:
    ring = outline(part.mask) + np.array([part.left, part.top])
    percent = np.round(100.0 * ring / np.array([shape[1], shape[0]]), _DECIMALS)
    return {"points": percent.tolist(), "closed": True}


def _brush_value(part: _Shape, shape: tuple[int, ...], size: tuple[int, int]) -> dict[str, Any]:
    width, height = size
    rows = np.searchsorted(_sources(height, shape[0]), np.arange(part.top, part.top + part.mask.shape[0] + 1))
    columns = np.searchsorted(_sources(width, shape[1]), np.arange(part.left, part.left + part.mask.shape[1] + 1))
    return {"format": "rle", "rle": rle.encode_mask(part.mask, rows, columns, width, height)}


def _prediction(
    control: Control, value: dict[str, Any], index: int, score: float, size: tuple[int, int]
) -> dict[str, Any]:
    return {
        # Random: interactive pre-annotation adds regions to those an annotator has, and no two may share an id.
        "id": uuid.uuid4().hex[:10],
        "from_name": control.name,
        "to_name": control.obj,
        "type": control.kind,
        "original_width": size[0],
        "original_height": size[1],
        "image_rotation": 0,
        "value": {**value, control.kind: [control.classes[index]]},
        "score": round(min(max(score, 0.0), 1.0), _DECIMALS) if math.isfinite(score) else 0.0,
    }
