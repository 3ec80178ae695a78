import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from replay.scenes import CLASSES, KINDS, MOST_OBJECTS, scene, scenes


@pytest.fixture(scope="module")
def made():
    return scenes(150, seed=3, side_px=96)


def test_boxes_and_class_map_are_those_of_the_visible_pixels(made):
    for each in made:
        assert each.image.shape == (96, 96, 3)
        assert each.image.dtype == each.class_map.dtype == each.instance_map.dtype == np.uint8
        assert each.boxes.dtype == np.float32
        assert len(each.boxes) == len(each.classes) == each.instance_map.max() <= MOST_OBJECTS
        for i, ((left, top, right, bottom), c) in enumerate(zip(each.boxes, each.classes, strict=True)):
            y, x = np.nonzero(each.instance_map == i + 1)
            assert (left, top, right, bottom) == (x.min(), y.min(), x.max() + 1, y.max() + 1)
            assert set(each.class_map[y, x]) == {1 + c}
        np.testing.assert_array_equal(each.class_map > 0, each.instance_map > 0)


def test_a_scene_depends_on_its_seed_and_number_alone(made):
    again = scene(17, seed=3, side_px=96)
    np.testing.assert_array_equal(again.image, made[17].image)
    np.testing.assert_array_equal(again.instance_map, made[17].instance_map)
    assert not np.array_equal(scene(17, seed=4, side_px=96).image, again.image)


def test_every_kind_comes_up_and_bolts_are_rare(made):
    counts = np.bincount(np.concatenate([each.classes for each in made]), minlength=len(CLASSES))
    assert counts[0] > counts[1] > counts[2] > 0
    assert counts[2] < 0.2 * counts.sum()
    assert {each.kind for each in made} == set(KINDS)
    assert all(len(each.boxes) == 0 for each in made if each.kind == "empty")
    overlapping = [each for each in made if _boxes_cross(each.boxes)]
    assert len(overlapping) > 15


def test_easy_scenes_are_near_duplicates_and_others_are_not(made):
    def nearest(kind):
        rows = np.stack([each.image[::4, ::4].ravel() for each in made if each.kind == kind]).astype(float)
        gaps = np.abs(rows[:, None] - rows[None]).mean(axis=2)
        np.fill_diagonal(gaps, np.inf)
        return np.median(gaps.min(axis=1))

    assert nearest("easy") < 0.6 * nearest("ordinary")


def test_no_class_has_a_colour_of_its_own(made):
    pixels = [np.concatenate([each.image[each.class_map == 1 + c] for each in made]) for c in range(len(CLASSES))]
    means, spreads = np.array([p.mean(axis=0) for p in pixels]), np.array([p.std(axis=0) for p in pixels])
    assert (np.ptp(means, axis=0) < spreads.min(axis=0)).all()


def _boxes_cross(boxes):
    low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    return bool(np.triu((low < high).all(axis=2), k=1).any())
