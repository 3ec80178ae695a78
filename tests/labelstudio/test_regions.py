from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as some
from hypothesis.extra.numpy import arrays
from label_studio_sdk.converter import brush

from ls_backend.domain import Control, Prediction
from ls_backend.labelstudio.label_config import validate
from ls_backend.labelstudio.regions import read_boxes, read_class_map, write_boxes, write_class_map

LABELS = ("car", "person", "road")
RECTANGLES, POLYGONS, BRUSHES = (
    Control("shape", kind, "image", LABELS, multiple=True)
    for kind in ("rectanglelabels", "polygonlabels", "brushlabels")
)
GOLDEN = Path(__file__).parents[1] / "golden"


def config(control):
    tag = {"rectanglelabels": "RectangleLabels", "polygonlabels": "PolygonLabels", "brushlabels": "BrushLabels"}
    labels = "".join(f'<Label value="{label}"/>' for label in control.classes)
    drawn = f'<{tag[control.kind]} name="{control.name}" toName="image">{labels}</{tag[control.kind]}>'
    return f'<View><Image name="image" value="$image"/>{drawn}</View>'


def accepted(control, regions):
    return validate(config(control), Prediction(1, tuple(regions), 0.5, "al-1-x")) == []


def region(control, value, *labels, name="r1", **rest):
    value = value | {control.kind: list(labels)}
    return {"id": name, "from_name": "shape", "to_name": "image", "type": control.kind, "value": value} | rest


def rectangle(x, y, width, height, *labels, rotation=0.0, **rest):
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": rotation}
    return region(RECTANGLES, value, *(labels or ["car"]), **rest)


def polygon(points, *labels, **rest):
    return region(POLYGONS, {"points": points, "closed": True}, *(labels or ["car"]), **rest)


def painted(mask, *labels, **rest):
    height, width = mask.shape
    value = {"format": "rle", "rle": brush.mask2rle(mask.astype(np.uint8) * 255)}
    size = {"original_width": width, "original_height": height, "image_rotation": 0}
    return region(BRUSHES, value, *(labels or ["car"]), **(size | rest))


def recorded(name):
    (found,) = json.loads((GOLDEN / name).read_text())["body"]["annotation"]["result"]
    return found


def ious(one, other):
    """IoU of each class that is in either map."""
    classes = np.union1d(one, other)
    return [1.0] + [((one == k) & (other == k)).sum() / ((one == k) | (other == k)).sum() for k in classes if k]


def disc(width, height, x, y, radius):
    rows, columns = np.mgrid[:height, :width]
    return (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 < radius**2


# Boxes


@settings(deadline=None)
@given(
    x=some.floats(-20, 110),
    y=some.floats(-20, 110),
    width=some.floats(0.1, 120),
    height=some.floats(0.1, 120),
    rotation=some.floats(-360, 360),
)
def test_the_box_of_a_rotated_rectangle_is_the_hull_of_its_turned_corners(x, y, width, height, rotation):
    # Clockwise, y downwards, about the upper left corner, in pixels: p -> R (p - corner) + corner.
    angle = np.deg2rad(rotation)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scale = np.array([6.4, 4.8])
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]]) * scale @ turn.T + np.array([x, y]) * scale
    lower, upper = (np.clip(edge, 0, [640, 480]) for edge in (corners.min(axis=0), corners.max(axis=0)))
    assume(np.all(upper - lower > 0.01))
    found = read_boxes(RECTANGLES, [rectangle(x, y, width, height, rotation=rotation)], 640, 480)
    np.testing.assert_allclose(found.boxes, [[*lower, *upper]], atol=1e-3)
    assert found.problems == ()


def test_the_recorded_rectangle_is_read():
    control = Control("bbox", "rectanglelabels", "image", ("car", "person"), multiple=True)
    found = read_boxes(control, [recorded("webhook_annotation_created_rectanglelabels.json")], 64, 48)
    corner, across, down = np.array([10.5 * 0.64, 20 * 0.48]), 30 * 0.64, 40 * 0.48
    cos, sin = np.cos(np.pi / 12), np.sin(np.pi / 12)
    hull = [corner[0] - down * sin, corner[1], corner[0] + across * cos, corner[1] + across * sin + down * cos]
    np.testing.assert_allclose(found.boxes, [[*np.maximum(hull[:2], 0), *hull[2:]]], atol=1e-4)
    assert found.classes.tolist() == [0]


def test_a_box_annotated_on_4000_x_3000_is_read_at_320_x_240():
    drawn = rectangle(25, 50, 10, 20, original_width=4000, original_height=3000)
    assert read_boxes(RECTANGLES, [drawn], 4000, 3000).boxes.tolist() == [[1000, 1500, 1400, 2100]]
    assert read_boxes(RECTANGLES, [drawn], 320, 240).boxes.tolist() == [[80, 120, 112, 168]]


def test_turning_the_image_in_the_editor_moves_nothing():
    upright, turned = rectangle(10, 20, 30, 40), rectangle(10, 20, 30, 40, image_rotation=90)
    assert np.array_equal(*(read_boxes(RECTANGLES, [one], 64, 48).boxes for one in (upright, turned)))


def test_a_region_with_several_labels_is_a_box_for_each():
    found = read_boxes(RECTANGLES, [rectangle(10, 10, 10, 10, "road", "car", "road")], 100, 100)
    assert found.boxes.tolist() == [[10, 10, 20, 20]] * 2
    assert found.classes.tolist() == [2, 0]


def test_boxes_are_cut_off_at_the_border_and_empty_annotations_are_legal():
    assert read_boxes(RECTANGLES, [rectangle(-10, 90, 30, 30)], 50, 100).boxes.tolist() == [[0, 90, 10, 100]]
    nothing = read_boxes(RECTANGLES, [], 50, 100)
    assert (nothing.boxes.shape, nothing.classes.shape, nothing.problems) == ((0, 4), (0,), ())
    assert (nothing.boxes.dtype, nothing.classes.dtype) == (np.float32, np.int64)


def test_other_controls_and_other_people_s_names_are_understood():
    control = Control("shape", "rectanglelabels", "image", LABELS, aliases=(("automobile", "car"), ("cab", "car")))
    other = rectangle(0, 0, 10, 10) | {"from_name": "quality", "type": "choices", "value": {"choices": ["sharp"]}}
    found = read_boxes(
        control, [other, rectangle(0, 0, 50, 50, "automobile", "cab"), rectangle(0, 0, 9, 9, "road")], 9, 9
    )
    assert found.classes.tolist() == [0, 2]
    assert found.problems == ()


@settings(deadline=None)
@given(
    drawn=some.lists(
        some.tuples(some.floats(0, 95), some.floats(0, 95), some.floats(1, 100), some.floats(1, 100)), max_size=8
    ),
    size=some.sampled_from([(640, 480), (4000, 3000), (37, 101)]),
)
def test_boxes_come_back_within_a_pixel(drawn, size):
    annotation = [rectangle(*one, LABELS[place % 3]) for place, one in enumerate(drawn)]
    first = read_boxes(RECTANGLES, annotation, *size)
    written = write_boxes(RECTANGLES, first.boxes, first.classes, np.full(len(drawn), 0.7, np.float32), *size)
    again = read_boxes(RECTANGLES, list(written), *size)
    np.testing.assert_allclose(again.boxes, first.boxes, atol=0.05)
    assert again.classes.tolist() == first.classes.tolist()
    assert again.problems == ()
    assert accepted(RECTANGLES, written)


def test_a_predicted_box_has_all_that_label_studio_wants():
    boxes = np.array([[10, 20, 30, 40]], np.float32)
    (written,) = write_boxes(RECTANGLES, boxes, np.array([1]), np.array([0.83], np.float32), 200, 100)
    assert len(written.pop("id")) == 10
    assert written == {
        "from_name": "shape",
        "to_name": "image",
        "type": "rectanglelabels",
        "original_width": 200,
        "original_height": 100,
        "image_rotation": 0,
        "value": {"x": 5.0, "y": 20.0, "width": 10.0, "height": 20.0, "rotation": 0, "rectanglelabels": ["person"]},
        "score": 0.83,
    }


def test_predicted_boxes_are_cut_off_and_impossible_ones_left_out():
    boxes = np.array(
        [[-5, -5, 50, 900], [50, 5, 50, 20], [30, 5, 20, 20], [300, 5, 400, 9], [np.nan, 0, 5, 5]], np.float32
    )
    written = write_boxes(RECTANGLES, boxes, np.zeros(5, int), np.array([1.5, 0, 0, 0, 0], np.float32), 100, 100)
    assert [one["value"]["height"] for one in written] == [100]
    assert written[0]["score"] == 1.0
    assert accepted(RECTANGLES, written)
    assert write_boxes(RECTANGLES, np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros(0), 9, 9) == ()


def test_two_hundred_boxes_have_names_of_their_own():
    boxes = np.random.default_rng(0).random((200, 2)).astype(np.float32) * 500
    boxes = np.hstack([boxes, boxes + 20])
    written = write_boxes(RECTANGLES, boxes, np.zeros(200, int), np.full(200, 0.5), 640, 640)
    assert len({one["id"] for one in written}) == 200
    assert len(read_boxes(RECTANGLES, list(written), 320, 320).boxes) == 200


# Class maps


def test_the_recorded_mask_is_read_as_the_sdk_reads_it():
    control = Control("mask", "brushlabels", "image", ("road", "sky"), multiple=True)
    drawn = recorded("webhook_annotation_created_brushlabels.json")
    theirs = brush.decode_rle(drawn["value"]["rle"]).reshape(48, 64, 4)[:, :, 3] > 0
    found = read_class_map(control, [drawn], 64, 48)
    assert found.problems == ()
    assert found.class_map.dtype == np.uint8
    assert theirs.any()
    assert np.array_equal(found.class_map, theirs)


def test_a_polygon_covers_the_pixels_whose_centre_is_inside():
    found = read_class_map(POLYGONS, [polygon([[10, 20], [60, 20], [60, 80], [10, 80]], "road")], 10, 10)
    expected = np.zeros((10, 10), np.uint8)
    expected[2:8, 1:6] = 3
    assert np.array_equal(found.class_map, expected)


def test_the_later_region_wins_and_the_last_label_of_several():
    square = [[0, 0], [100, 0], [100, 100], [0, 100]]
    half = [[0, 0], [50, 0], [50, 100], [0, 100]]
    found = read_class_map(POLYGONS, [polygon(square, "road"), polygon(half, "car", "person")], 4, 1)
    assert found.class_map.tolist() == [[2, 2, 3, 3]]
    assert read_class_map(POLYGONS, [polygon(half, "car"), polygon(square, "road")], 4, 1).class_map.tolist() == [
        [3] * 4
    ]


@pytest.mark.parametrize("size", [(320, 240), (4000, 3000), (250, 187), (400, 300)])
def test_shapes_annotated_on_4000_x_3000_are_read_at_other_sizes(size):
    width, height = size
    full = np.zeros((3000, 4000), np.uint8)
    full[300:1500, 1000:3000] = 1
    drawn = write_class_map(BRUSHES, full, np.ones((3000, 4000), np.float16), 4000, 3000)
    columns, rows = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    expected = ((rows >= 0.1) & (rows < 0.5))[:, None] & ((columns >= 0.25) & (columns < 0.75))
    assert np.array_equal(read_class_map(BRUSHES, drawn, width, height).class_map, expected)
    drawn = polygon([[25, 10], [75, 10], [75, 50], [25, 50]], original_width=4000, original_height=3000)
    assert np.array_equal(read_class_map(POLYGONS, [drawn], width, height).class_map, expected)


def test_soft_and_faint_strokes_count_from_half_their_strongest_alpha():
    soft, faint = np.array([[0, 60, 200, 255]], np.uint8), np.array([[0, 0, 1, 1]], np.uint8)
    for alpha in (soft, faint):
        drawn = painted(alpha > 0)
        drawn["value"]["rle"] = brush.mask2rle(alpha)
        assert read_class_map(BRUSHES, [drawn], 4, 1).class_map.tolist() == [[0, 0, 1, 1]]


def test_a_mask_without_its_size_is_read_if_it_fills_the_image():
    mask = disc(40, 30, 20, 15, 9)
    drawn = painted(mask)
    del drawn["original_width"], drawn["original_height"]
    assert np.array_equal(read_class_map(BRUSHES, [drawn], 40, 30).class_map, mask)
    (problem,) = read_class_map(BRUSHES, [drawn], 20, 15).problems
    assert "no original_width" in problem


@pytest.mark.parametrize("control", [POLYGONS, BRUSHES], ids=lambda control: control.kind)
@pytest.mark.parametrize("scale", [1, 2, 10])
@settings(deadline=None)
@given(
    coarse=arrays(np.uint8, (5, 7), elements=some.integers(0, 3)),
    factor=some.integers(5, 9),
    smooth=some.booleans(),
)
def test_class_maps_come_back_at_every_image_size(control, scale, coarse, factor, smooth):
    drawn = np.kron(coarse, np.ones((factor, factor), np.uint8))
    if smooth:
        drawn = cv2.medianBlur(drawn, 5)
    height, width = drawn.shape
    size = width * scale, height * scale
    written = write_class_map(control, drawn, np.full(drawn.shape, 0.5, np.float16), *size)
    found = read_class_map(control, list(written), *size)
    assert found.problems == ()
    assert min(ious(found.class_map, np.kron(drawn, np.ones((scale, scale), np.uint8)))) >= 0.98
    again = read_class_map(control, list(written), width, height)
    assert min(ious(again.class_map, drawn)) >= 0.98
    assert accepted(control, written)
    assert {one["score"] for one in written} <= {0.5}


@settings(deadline=None)
@given(
    radii=some.lists(some.floats(8, 45), min_size=3, max_size=10),
    hole=some.floats(2, 6),
    size=some.sampled_from([(128, 96), (256, 192)]),
)
def test_an_annotated_polygon_survives_annotation_to_map_to_prediction_to_map(radii, hole, size):
    angles = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    outer = np.column_stack([50 + radii * np.cos(angles), 50 + radii * np.sin(angles)])
    inner = np.column_stack([50 + hole * np.cos(angles), 50 + hole * np.sin(angles)])
    annotation = [polygon(outer.tolist(), "road"), polygon(inner.tolist(), "person")]
    first = read_class_map(POLYGONS, annotation, *size)
    assume(_no_specks(first.class_map))
    for control in (POLYGONS, BRUSHES):
        written = write_class_map(control, first.class_map, np.ones(first.class_map.shape), 640, 480)
        again = read_class_map(control, list(written), *size)
        assert min(ious(first.class_map, again.class_map)) >= 0.98


def _no_specks(image):
    return all(cv2.connectedComponentsWithStats((image == k).astype(np.uint8))[2][:, 4].min() >= 4 for k in (2, 3))


@pytest.mark.parametrize("control", [POLYGONS, BRUSHES], ids=lambda control: control.kind)
def test_a_ring_with_an_island_is_two_regions_and_keeps_its_hole(control):
    image = np.zeros((60, 80), np.uint8)
    image[disc(80, 60, 40, 30, 25)] = 1
    image[disc(80, 60, 40, 30, 15)] = 0
    image[disc(80, 60, 40, 30, 6)] = 1
    written = write_class_map(control, image, np.where(disc(80, 60, 40, 30, 10), 0.9, 0.4), 80, 60)
    assert sorted(one["score"] for one in written) == [0.4, 0.9]
    assert min(ious(read_class_map(control, list(written), 80, 60).class_map, image)) >= 0.98


def test_pixels_that_touch_by_a_corner_are_one_region():
    image = np.eye(12, dtype=np.uint8)
    (written,) = write_class_map(POLYGONS, image, np.ones((12, 12)), 12, 12)
    assert np.array_equal(read_class_map(POLYGONS, [written], 12, 12).class_map, image)


def test_specks_are_left_out_unless_the_map_is_tiny():
    image = np.zeros((50, 50), np.uint8)
    image[3, 3:6] = image[10:12, 10:12] = 1
    (written,) = write_class_map(BRUSHES, image, np.ones((50, 50)), 50, 50)
    assert read_class_map(BRUSHES, [written], 50, 50).class_map.sum() == 4
    for control in (POLYGONS, BRUSHES):
        (written,) = write_class_map(control, np.array([[2]], np.uint8), np.array([[0.25]]), 1, 1)
        assert written["score"] == 0.25
        assert read_class_map(control, [written], 1, 1).class_map.tolist() == [[2]]
        assert accepted(control, [written])
    assert write_class_map(POLYGONS, np.zeros((9, 9), np.uint8), np.ones((9, 9)), 90, 90) == ()


def test_a_confidence_that_is_no_number_is_none():
    (written,) = write_class_map(POLYGONS, np.ones((9, 9), np.uint8), np.full((9, 9), np.nan), 9, 9)
    assert written["score"] == 0.0


# Bad input


SQUARE = {"points": [[0, 0], [50, 0], [50, 50], [0, 50]], "closed": True}
EDGES = {"x": 10, "y": 10, "width": 10, "height": 10, "rotation": 0}
GOOD = {
    "rectanglelabels": rectangle(50, 50, 20, 20, "road", name="good"),
    "polygonlabels": polygon([[50, 50], [70, 50], [70, 70], [50, 70]], "road", name="good"),
    "brushlabels": painted(disc(10, 10, 6, 6, 2), "road", name="good"),
}
ANY = [
    (lambda control: "text", "Region number 1 is a str; an object was expected."),
    (lambda control: None, "Region number 1 is a NoneType"),
    (lambda control: GOOD[control.kind] | {"value": None}, "Region good has a value that is a NoneType"),
    (lambda control: GOOD[control.kind] | {"value": {}, "id": None}, "Region number 1 has no label"),
    (lambda control: GOOD[control.kind] | {"value": {control.kind: "car"}}, "labels that are a str"),
    (lambda control: GOOD[control.kind] | {"type": control.kind.removesuffix("labels"), "value": SQUARE}, "no label"),
    (lambda control: GOOD[control.kind] | {"type": "keypointlabels"}, "of type 'keypointlabels'; "),
    (
        lambda control: GOOD[control.kind] | {"value": GOOD[control.kind]["value"] | {control.kind: ["bird"]}},
        "has the label 'bird'; the label config has car, person, road.",
    ),
]


def problems_of(control, bad):
    """What is said of a bad region; the good one behind it must be read all the same."""
    if control is RECTANGLES:
        found = read_boxes(control, [bad, GOOD[control.kind]], 10, 10)
        assert found.classes.tolist()[-1:] == [2]
        assert found.boxes[-1].tolist() == [5, 5, 7, 7]
        return found.problems
    found = read_class_map(control, [bad, GOOD[control.kind]], 10, 10)
    assert np.count_nonzero(found.class_map == 3) == {"polygonlabels": 4, "brushlabels": 12}[control.kind]
    return found.problems


@pytest.mark.parametrize("control", [RECTANGLES, POLYGONS, BRUSHES], ids=lambda control: control.kind)
@pytest.mark.parametrize(("make", "words"), ANY)
def test_what_is_no_region_of_a_known_label_is_named_and_skipped(control, make, words):
    (problem,) = problems_of(control, make(control))
    assert words in problem


@pytest.mark.parametrize("result", [None, {"id": 1}, "[]", 7])
def test_a_result_that_is_no_list_is_named(result):
    assert "a list of regions was expected" in read_boxes(RECTANGLES, result, 4, 3).problems[0]
    found = read_class_map(POLYGONS, result, 4, 3)
    assert "a list of regions was expected" in found.problems[0]
    assert found.class_map.tolist() == [[0] * 4] * 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": 150}, "lies outside the image"),
        ({"x": -30}, "lies outside the image"),
        ({"y": 100}, "lies outside the image"),
        ({"width": 0}, "no area: width 0, height 10"),
        ({"height": 0, "rotation": 30}, "no area"),
        ({"x": float("nan")}, "x = 'nan'; a number of percent was expected"),
        ({"width": float("inf")}, "width = 'inf'"),
        ({"width": 1e300}, "width = '1e+300'"),
        ({"height": None}, "height = 'None'"),
        ({"y": "10"}, "y = '10'"),
        ({"y": True}, "y = 'True'"),
        ({"rotation": "right"}, "rotation = 'right'"),
        ({"x": [1]}, "x = '[1]'"),
    ],
)
def test_bad_rectangles_are_named_and_skipped(change, words):
    (problem,) = problems_of(RECTANGLES, region(RECTANGLES, EDGES | change, "car"))
    assert problem.startswith("Region r1 ")
    assert words in problem


def test_missing_coordinates_are_named_and_a_missing_rotation_is_none():
    (problem,) = problems_of(RECTANGLES, region(RECTANGLES, {"x": 1, "y": 2, "width": 3}, "car"))
    assert "height = 'None'" in problem
    del (drawn := rectangle(10, 10, 10, 10))["value"]["rotation"]
    assert read_boxes(RECTANGLES, [drawn], 100, 100).boxes.tolist() == [[10, 10, 20, 20]]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"points": [[0, 0], [50, 50]]}, "2 different points; a polygon has at least 3"),
        ({"points": [[0, 0], [50, 50], [0, 0], [50, 50]]}, "2 different points"),
        ({"points": []}, "0 different points"),
        ({}, "points that are a NoneType"),
        ({"points": "0,0"}, "points that are a str"),
        ({"points": [[0, 0], [50, 0], [50, None]]}, "y = 'None'"),
        ({"points": [[0, 0], [50, 0], [float("nan"), 4]]}, "x = 'nan'"),
        ({"points": [[0, 0], [50, 0], ["50", 50]]}, "x = '50'"),
        ({"points": [[0, 0], [50, 0], [50]]}, "the point [50]"),
        ({"points": [[0, 0], [50, 0], {"x": 1}]}, "two numbers, x and y"),
        ({"points": [[200, 0], [250, 0], [250, 50]]}, "lies outside the image"),
        ({"points": [[0, 0], [50, 0], [50, 50]], "closed": False}, "not closed"),
    ],
)
def test_bad_polygons_are_named_and_skipped(value, words):
    (problem,) = problems_of(POLYGONS, region(POLYGONS, value, "car"))
    assert words in problem


def test_a_polygon_that_crosses_itself_is_used_and_named():
    bow_tie = polygon([[0, 0], [100, 100], [100, 0], [0, 100]], "person")
    found = read_class_map(POLYGONS, [bow_tie], 20, 20)
    assert (found.class_map == 2).sum() == pytest.approx(200, abs=20)
    (problem,) = found.problems
    assert "crosses itself" in problem


def claim(n_pixels, tail=(57, 27, 255, 10, 19, 0)):
    return [*(4 * n_pixels).to_bytes(4, "big"), *tail]


@pytest.mark.parametrize(
    ("value", "rest", "words"),
    [
        ({"rle": None}, {}, "no RLE"),
        ({"format": "png"}, {}, "the format 'png'; 'rle' was expected"),
        ({"rle": "0011"}, {}, "a list of bytes"),
        ({"rle": [0, 0, 1]}, {}, "3 bytes"),
        ({"rle": [1, 2, None]}, {}, "from 0 to 255"),
        ({"rle": claim(100, (57, 27, 255))}, {}, "breaks off after 0 of 400 values"),
        ({"rle": claim(1_000_000_000)}, {}, "claims 1000000000 pixels"),
        ({}, {"original_width": 11}, "100 pixels in its RLE; 11 x 10 = 110 were expected"),
        ({}, {"original_width": 100_000, "original_height": 100_000}, "100 pixels in its RLE; 100000 x 100000"),
        ({}, {"original_width": 5, "original_height": 20}, "not of the shape of this one, 10 x 10"),
        ({}, {"original_width": "10"}, "original size of 10 x 10; whole numbers"),
        ({}, {"original_width": 0}, "original size of 0 x 10"),
        ({}, {"original_width": -10, "original_height": -10}, "original size of -10 x -10"),
        ({}, {"original_width": 10.5}, "original size of 10.5"),
    ],
)
def test_bad_masks_are_named_and_skipped(value, rest, words):
    drawn = painted(disc(10, 10, 3, 3, 2), **rest)
    (problem,) = problems_of(BRUSHES, drawn | {"value": drawn["value"] | value})
    assert words in problem


def test_one_pixel_images_are_read():
    assert read_boxes(RECTANGLES, [rectangle(0, 0, 100, 100)], 1, 1).boxes.tolist() == [[0, 0, 1, 1]]
    assert read_class_map(POLYGONS, [region(POLYGONS, SQUARE, "car")], 1, 1).class_map.tolist() in ([[0]], [[1]])
    assert read_class_map(BRUSHES, [painted(np.ones((1, 1), bool), "road")], 1, 1).class_map.tolist() == [[3]]


def test_a_mask_of_12_megapixels_and_two_hundred_boxes_take_no_seconds():
    mask = np.zeros((3000, 4000), np.uint8)
    mask[disc(4000, 3000, 1500, 1500, 1400)] = 1
    mask[disc(4000, 3000, 3300, 800, 600)] = 2
    start = time.process_time()
    for control in (POLYGONS, BRUSHES):
        read_class_map(control, write_class_map(control, mask, np.ones(mask.shape, np.float16), 4000, 3000), 4000, 3000)
    boxes = np.tile(np.array([[1, 2, 30, 40]], np.float32), (200, 1))
    read_boxes(RECTANGLES, write_boxes(RECTANGLES, boxes, np.zeros(200, int), np.ones(200), 4000, 3000), 320, 240)
    assert time.process_time() - start < 10


def test_reading_loads_neither_opencv_nor_the_sdk():
    code = (
        "from ls_backend.domain import Control; from ls_backend.labelstudio import regions; import sys\n"
        "regions.read_class_map(Control('p', 'polygonlabels', 'i', ('a',)), [], 9, 9)\n"
        "print({'cv2', 'label_studio_sdk', 'torch'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
