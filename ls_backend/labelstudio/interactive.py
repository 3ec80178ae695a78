"""Interactive pre-annotation: of what a model sees, that which an annotator has pointed at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ls_backend.domain import Control, LabelSchema
from ls_backend.labelstudio import regions

_SIDE_PX = 512  # of the grid on which is compared what was pointed at and what is there

Region = Mapping[str, Any]


def pointed_at(
    schema: LabelSchema, result: Sequence[dict[str, Any]], context: Mapping[str, Any] | None
) -> tuple[dict[str, Any], ...]:
    """Keep of a prediction the regions that an annotator's points and rectangles touch, and everything without a place.

    A point of Label Studio's smart tools may be negative: a region under it is not meant. A tool with a label asks for
    regions of that label only. Without a point or a rectangle everything is kept.

    Args:
        schema: The label config the prediction is for.
        result: Regions of the prediction.
        context: `params.context` of the request, `{"result": [...]}` with what the annotator has drawn just now.

    Returns:
        The regions that remain, in order.
    """
    drawn = [region for region in (context or {}).get("result") or () if isinstance(region, dict)]
    places = [(region, box) for region in drawn if (box := _box(region)) is not None]
    if not places:
        return tuple(result)
    labels = {label for region, _ in places for label in _labels(region)}
    controls = {control.name: control for control in schema.controls if control.draws}
    return tuple(
        region
        for region in result
        if (control := controls.get(str(region.get("from_name")))) is None
        or ((not labels or labels & set(_labels(region))) and _is_meant(control, region, places))
    )


def _is_meant(control: Control, region: Region, places: Sequence[tuple[Region, tuple[float, ...]]]) -> bool:
    covered = _covered(control, region)
    height, width = covered.shape
    meant = False
    for drawn, (x, y, w, h) in places:
        rows = slice(int(np.clip(y * height, 0, height - 1)), int(np.clip((y + h) * height, 0, height - 1)) + 1)
        columns = slice(int(np.clip(x * width, 0, width - 1)), int(np.clip((x + w) * width, 0, width - 1)) + 1)
        if covered[rows, columns].any():
            if drawn.get("is_positive") is False:
                return False
            meant = True
    return meant


def _covered(control: Control, region: Region) -> NDArray[np.bool_]:
    """Return which cells (h, w) of a small grid over the image a region covers."""
    width, height = (_pixels(region.get(name)) for name in ("original_width", "original_height"))
    scale = min(1.0, _SIDE_PX / max(width, height))
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    if control.kind != "rectanglelabels":
        return regions.read_class_map(control, [region], width, height).class_map > 0
    covered = np.zeros((height, width), dtype=np.bool_)
    for left, top, right, bottom in regions.read_boxes(control, [region], width, height).boxes:
        covered[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
    return covered


def _box(region: Region) -> tuple[float, float, float, float] | None:
    """Return where a point or a rectangle lies: left, top, width, height as shares of the image; None for others."""
    value = region.get("value")
    if not isinstance(value, dict):
        return None
    has_area = str(region.get("type", "")).startswith("rectangle")
    if not has_area and not str(region.get("type", "")).startswith("keypoint"):
        return None
    try:
        x, y = float(value["x"]) / 100, float(value["y"]) / 100
        w, h = (float(value["width"]) / 100, float(value["height"]) / 100) if has_area else (0.0, 0.0)
    except (KeyError, TypeError, ValueError):
        return None
    return (x, y, w, h) if np.isfinite([x, y, w, h]).all() else None


def _labels(region: Region) -> list[str]:
    labels = region["value"].get(str(region.get("type")))
    return [str(label) for label in labels] if isinstance(labels, list) else []


def _pixels(value: object) -> int:
    return int(value) if isinstance(value, int | float) and 1 <= value < 1e6 else _SIDE_PX
