from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ls_backend.domain import Control, LabelSchema
from ls_backend.labelstudio.interactive import pointed_at
from ls_backend.labelstudio.regions import write_boxes, write_class_map

GOLDEN = Path(__file__).parents[1] / "golden"
W, H = 640, 480


def schema_of(kind):
    return LabelSchema("image", (Control("area", kind, "image", ("car", "road"), multiple=True),))


def two_areas(kind):
    """A car on the left half, a road on the right half, in the control's own format."""
    control = schema_of(kind).controls[0]
    if kind == "rectanglelabels":
        boxes = np.array([[60, 100, 250, 400], [400, 100, 600, 400]], np.float32)
        return write_boxes(control, boxes, np.array([0, 1]), np.array([0.9, 0.8]), W, H)
    class_map = np.zeros((H // 4, W // 4), np.uint8)
    class_map[25:100, 15:62], class_map[25:100, 100:150] = 1, 2
    return write_class_map(control, class_map, np.full(class_map.shape, 0.9, np.float16), W, H)


def point(x, y, *labels, positive=True):
    value = {"x": x, "y": y, "width": 0.5, **({"keypointlabels": list(labels)} if labels else {})}
    return {"type": "keypointlabels", "from_name": "tool", "is_positive": positive, "value": value}


def labels_of(kind, *drawn):
    return [region["value"][kind][0] for region in pointed_at(schema_of(kind), two_areas(kind), {"result": drawn})]


KINDS = ["rectanglelabels", "polygonlabels", "brushlabels"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_point_asks_for_what_is_under_it(kind):
    assert labels_of(kind, point(25, 50)) == ["car"]
    assert labels_of(kind, point(80, 50)) == ["road"]
    assert labels_of(kind, point(50, 50)) == []
    assert sorted(labels_of(kind, point(25, 50), point(80, 50))) == ["car", "road"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_rectangle_asks_for_what_it_touches(kind):
    box = {"type": "rectanglelabels", "value": {"x": 5, "y": 5, "width": 10, "height": 40, "rotation": 0}}
    assert labels_of(kind, box) == ["car"]
    assert sorted(labels_of(kind, {**box, "value": {**box["value"], "width": 80}})) == ["car", "road"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_negative_point_excludes_what_is_under_it(kind):
    box = {"type": "rectangle", "value": {"x": 5, "y": 5, "width": 80, "height": 40}}
    assert labels_of(kind, box, point(25, 50, positive=False)) == ["road"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_tool_with_a_label_asks_for_that_label(kind):
    assert labels_of(kind, point(25, 50, "car")) == ["car"]
    assert labels_of(kind, point(25, 50, "road")) == []


@pytest.mark.parametrize("context", [None, {}, {"result": []}, {"result": [{"value": 3}, "text", point("left", 5)]}])
def test_without_a_place_everything_is_kept(context):
    everything = two_areas("rectanglelabels")
    assert pointed_at(schema_of("rectanglelabels"), everything, context) == everything


def test_choices_have_no_place_and_stay():
    choice = {"from_name": "weather", "to_name": "image", "type": "choices", "value": {"choices": ["rain"]}}
    kept = pointed_at(schema_of("brushlabels"), [choice, *two_areas("brushlabels")], {"result": [point(50, 50)]})
    assert kept == (choice,)


@pytest.mark.parametrize("name", ["predict_interactive_rectanglelabels", "predict_interactive_brushlabels_keypoint"])
def test_what_label_studio_sends_is_understood(name):
    context = json.loads((GOLDEN / f"{name}.json").read_text())["body"]["params"]["context"]
    place = context["result"][0]["value"]
    schema = LabelSchema("image", (Control("any", "rectanglelabels", "image", ("car", "road"), multiple=True),))
    control = schema.controls[0]
    centre = np.array([place["x"], place["y"]]) / 100 * [64, 48]
    boxes = np.array([[*(centre - 0.4), *(centre + 3)], [50, 40, 60, 47]], np.float32)
    label = 0 if "car" in json.dumps(place) else 1
    result = write_boxes(control, boxes, np.array([label, label]), np.array([0.9, 0.9]), 64, 48)
    assert pointed_at(schema, result, context) == result[:1]
