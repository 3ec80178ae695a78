from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as some
from hypothesis.extra.numpy import arrays

from ls_backend.labelstudio.outlines import outline, wind


def filled(ring, width, height, rule=lambda turns: turns != 0):
    found = wind(np.asarray(ring, np.float64), width, height)
    image = np.zeros((height, width), bool)
    rows, columns = found.turns.shape
    image[found.top : found.top + rows, found.left : found.left + columns] = rule(found.turns)
    return image


def enlarged(mask, factor):
    return np.kron(mask, np.ones((factor, factor), bool)).astype(bool)


def iou(one, other):
    return (one & other).sum() / max(1, (one | other).sum())


def one_component(mask):
    """The component with the most pixels."""
    n, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    assume(n > 1)
    return parts == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])


blobs = arrays(bool, (9, 11)).map(one_component)


@settings(deadline=None)
@given(
    radii=some.lists(some.floats(1, 25), min_size=3, max_size=12),
    x=some.floats(-10, 50),
    y=some.floats(-10, 40),
    clockwise=some.booleans(),
)
def test_the_pixels_whose_centre_is_inside_are_filled(radii, x, y, clockwise):
    angles = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)[:: 1 if clockwise else -1]
    ring = np.column_stack([x + radii * np.cos(angles), y + radii * np.sin(angles)]).astype(np.float32)
    signed = np.array(
        [[cv2.pointPolygonTest(ring, (c + 0.5, r + 0.5), measureDist=True) for c in range(40)] for r in range(30)]
    )
    wrong = filled(ring, 40, 30) != (signed > 0)
    assert not np.any(wrong & (np.abs(signed) > 1e-4))
    assert not wind(ring.astype(np.float64), 40, 30).crosses


def test_polygons_that_share_an_edge_share_no_pixel_and_leave_none():
    left, right = [(0, 0), (3.5, 0), (7.5, 10), (0, 10)], [(3.5, 0), (10, 0), (10, 10), (7.5, 10)]
    assert np.all(filled(left, 10, 10) ^ filled(right, 10, 10))


def test_a_star_drawn_in_one_stroke_is_filled_in_the_middle_and_called_crossing():
    angles = np.pi * np.arange(5) * 4 / 5
    ring = np.column_stack([20 + 18 * np.sin(angles), 20 - 18 * np.cos(angles)])
    assert filled(ring, 40, 40)[20, 20]
    assert wind(ring, 40, 40).crosses


def test_a_bow_tie_is_two_triangles_and_called_crossing():
    ring = np.array([(0, 0), (20, 20), (20, 0), (0, 20)], np.float64)
    assert filled(ring, 20, 20).sum() == pytest.approx(200, abs=20)
    assert wind(ring, 20, 20).crosses


def test_thousands_of_edges_over_a_large_image_are_filled():
    angles = np.linspace(0, 2 * np.pi, 5000, endpoint=False)
    ring = np.column_stack([2000 + 1400 * np.cos(angles), 1500 + 1400 * np.sin(angles)])
    assert filled(ring, 4000, 3000).sum() == pytest.approx(np.pi * 1400**2, rel=1e-4)


@settings(deadline=None)
@given(mask=blobs, factor=some.sampled_from([1, 2, 5, 8]))
def test_an_outline_encloses_its_mask_holes_left_out_at_every_size(mask, factor):
    ring = outline(mask)
    even_odd = filled(ring * factor, 11 * factor, 9 * factor, lambda turns: turns % 2 == 1)
    non_zero = filled(ring * factor, 11 * factor, 9 * factor)
    assert iou(non_zero, enlarged(mask, factor)) >= 0.98
    assert np.array_equal(even_odd, non_zero)
    assert not wind(ring * factor, 11 * factor, 9 * factor).crosses


@settings(deadline=None)
@given(mask=blobs, factor=some.integers(6, 12))
def test_outlines_of_large_masks_are_as_good(mask, factor):
    mask = cv2.medianBlur(enlarged(mask, factor).astype(np.uint8), 5) > 0
    mask = one_component(mask)
    assert iou(filled(outline(mask), mask.shape[1], mask.shape[0]), mask) >= 0.98


def test_round_things_take_few_points_and_rectangles_four():
    y, x = np.mgrid[:200, :200]
    disc = (x - 100) ** 2 + (y - 100) ** 2 < 80**2
    assert len(outline(disc)) < 100
    assert iou(filled(outline(disc), 200, 200), disc) > 0.985
    box = (x > 10) & (x < 150) & (y > 30) & (y < 50)
    assert sorted(map(tuple, outline(box))) == [(11, 31), (11, 50), (150, 31), (150, 50)]


def test_a_single_pixel_is_a_square():
    assert sorted(map(tuple, outline(np.ones((1, 1), bool)))) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_two_holes_and_an_island_in_one_of_them():
    mask = np.ones((30, 40), bool)
    mask[5:15, 5:15] = mask[10:25, 20:35] = False
    assert np.array_equal(filled(outline(mask), 40, 30), mask)
