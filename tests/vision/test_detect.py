from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw
from torch import nn

from ls_backend.errors import Diverged, StoreError
from ls_backend.vision import album, backbones, checkpoints, detect
from ls_backend.vision.average_precision import overlaps
from ls_backend.vision.deep import Recipe

RECIPE = Recipe(n_classes=2, seed=3, epochs=2)


class Killed(Exception):
    pass


class Labelled:
    """Images with boxes, in memory."""

    def __init__(self, images, boxes=None, classes=None):
        self.images = images
        self.boxed = [np.array(b, np.float32).reshape(-1, 4) for b in boxes or [[]] * len(images)]
        self.classed = [np.array(c, np.int64) for c in classes or [[]] * len(images)]

    def __len__(self):
        return len(self.images)

    def image(self, i):
        return self.images[i]

    def boxes(self, i):
        return self.boxed[i], self.classed[i]


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    return backbones.load("efficientnet_lite0", weights_dir=tmp_path_factory.mktemp("empty"), device="cpu")


def drawing(width: int = 96, height: int = 64) -> np.ndarray:
    """A red disk at 8..40 and a blue square at 56..88 on grey."""
    picture = Image.new("RGB", (width, height), (120, 120, 120))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((8, 16, 40, 48), fill=(200, 30, 30))
    pen.rectangle((56, 8, 88, 40), fill=(30, 30, 200))
    return np.asarray(picture)


def scene(n: int = 1) -> Labelled:
    return Labelled([drawing()] * n, [[[8, 16, 40, 48], [56, 8, 88, 40]]] * n, [[0, 1]] * n)


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def fit(backbone, examples, learn, holdout=(), recipe=RECIPE, folder=None, report=lambda progress: True):
    return detect.fit(backbone, examples, rows(*learn), rows(*holdout), recipe, folder=folder, report=report)


def same(first, second) -> bool:
    return all(np.array_equal(first.arrays[name], second.arrays[name]) for name in first.arrays)


@pytest.fixture(scope="module")
def learnt(lite0):
    """Trained on one picture until it knows it; measured on the same, which is not to be done with real data."""
    return fit(lite0, scene(), [0], [0], replace(RECIPE, epochs=60))


def test_it_learns_a_picture_by_heart(lite0, learnt):
    assert learnt.stopped in {"done", "early"}
    assert learnt.metrics["map50"] == pytest.approx(1.0)
    assert learnt.metrics["map50_95"] > 0.5
    assert {"ap50_0", "ap50_1"} < set(learnt.metrics)
    [judged] = detect.load(lite0, learnt.arrays, 2, "cpu").judge([drawing()])
    shares = overlaps(judged.boxes, scene().boxed[0])
    order = shares.argmax(axis=0)
    assert (shares.max(axis=0) > 0.7).all()
    assert judged.classes[order].tolist() == [0, 1]
    assert len(judged.boxes) == 2


def test_a_judgement_has_the_promised_shapes_and_ranges(lite0, learnt):
    detector = detect.load(lite0, learnt.arrays, 2, "cpu")
    for judged in detector.judge([drawing(), np.full((40, 70, 3), 120, np.uint8)]):
        b = len(judged.boxes)
        assert judged.boxes.shape == (b, 4)
        assert (judged.classes.shape, judged.scores.shape, judged.values.shape) == ((b,), (b,), (b,))
        assert judged.probabilities.shape == (b, 2)
        assert judged.presence.shape == (2,)
        assert (np.diff(judged.scores) <= 0).all()
        for part in (judged.scores, judged.values, judged.probabilities, judged.presence, np.array(judged.uncertainty)):
            assert ((part >= 0) & (part <= 1)).all()
        assert (judged.boxes[:, :2] <= judged.boxes[:, 2:]).all()
        assert np.linalg.norm(judged.embedding) == pytest.approx(1.0, abs=1e-5)


def test_a_judgement_does_not_depend_on_the_company(lite0, learnt):
    detector = detect.load(lite0, learnt.arrays, 2, "cpu")
    images = [drawing(), drawing(130, 70), np.zeros((50, 50, 3), np.uint8)]
    alone = [detector.judge([image])[0] for image in images]
    for one, other in zip(detector.judge(images[::-1])[::-1], alone, strict=True):
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)
        assert one.uncertainty == pytest.approx(other.uncertainty, abs=1e-5)


def test_the_presence_of_what_is_there_is_higher(lite0, learnt):
    detector = detect.load(lite0, learnt.arrays, 2, "cpu")
    only_disk = drawing().copy()
    only_disk[:, 48:] = 120
    both, disk = detector.judge([drawing(), only_disk])
    assert both.presence.min() > 0.4
    assert disk.presence[0] > disk.presence[1] + 0.2
    assert disk.presence[1] < both.presence[1] - 0.2


def test_where_nothing_is_found_there_is_still_a_defined_doubt(lite0, learnt):
    detector = replace(detect.load(lite0, learnt.arrays, 2, "cpu"), threshold=1.1)
    [judged] = detector.judge([drawing()])
    assert len(judged.boxes) == 0
    candidates = detector.find(drawing()).probabilities.numpy()
    doubts = detect.box_doubts(candidates)
    assert 0.8 * doubts.max() <= judged.uncertainty <= doubts.max()


def test_the_version_survives_the_disk(lite0, learnt, tmp_path):
    checkpoints.save(tmp_path / "v1", {}, learnt.arrays)
    _, arrays = checkpoints.load(tmp_path / "v1")
    [first] = detect.load(lite0, learnt.arrays, 2, "cpu").judge([drawing()])
    [second] = detect.load(lite0, arrays, 2, "cpu").judge([drawing()])
    np.testing.assert_array_equal(first.boxes, second.boxes)
    assert first.uncertainty == second.uncertainty


def test_a_version_of_other_classes_is_refused(lite0, learnt):
    with pytest.raises(StoreError, match=r"Expected one of 5 classes on efficientnet_lite0"):
        detect.load(lite0, learnt.arrays, 5, "cpu")


def test_the_same_seed_trains_the_same_detector_and_a_kill_changes_nothing(lite0, tmp_path):
    def die(progress):
        if progress.epoch == 1:
            raise Killed
        return True

    whole = fit(lite0, scene(3), [0, 1], [2])
    with pytest.raises(Killed):
        fit(lite0, scene(3), [0, 1], [2], folder=tmp_path, report=die)
    assert same(whole, fit(lite0, scene(3), [0, 1], [2], folder=tmp_path))
    assert not same(whole, fit(lite0, scene(3), [0, 1], [2], replace(RECIPE, seed=4)))


def test_somebody_cancels_before_the_first_epoch(lite0):
    fitted = fit(lite0, scene(2), [0, 1], report=lambda progress: False)
    assert fitted.stopped == "cancelled"
    detect.load(lite0, fitted.arrays, 2, "cpu").judge([drawing()])


def test_a_backbone_that_learns_changes_and_one_that_is_frozen_is_not_stored(lite0):
    tuned = fit(lite0, scene(1), [0], [0], replace(RECIPE, finetune=True))
    frozen = fit(lite0, scene(1), [0], [0])
    assert not any(name.startswith("pyramid.") for name in frozen.arrays)
    stored = {name for name in tuned.arrays if name.startswith("pyramid.")}
    own = dict(lite0._network.named_parameters())
    changed = [name for name in stored if not np.array_equal(tuned.arrays[name], own[name[16:]].numpy())]
    assert len(changed) > 0.9 * len(stored) > 0
    detector = detect.load(lite0, tuned.arrays, 2, "cpu")
    name = min(changed)
    np.testing.assert_array_equal(dict(detector.pyramid.named_parameters())[name[8:]].numpy(), tuned.arrays[name])


@pytest.mark.parametrize("finetune", [False, True])
def test_odd_images_and_labels_train_and_are_judged(lite0, finetune):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    many = rng.uniform(0, 60, (200, 2)).astype(np.float32)
    examples = Labelled(
        [np.zeros((1, 1, 3), np.uint8), np.zeros((3, 200, 3), np.uint8), noise, noise, drawing()],
        [[[0, 0, 1, 1]], [[0, 0, 200, 3]], np.hstack([many, many + 3]), [], [[8, 16, 40, 48]]],
        [[0], [0], np.zeros(200), [], [0]],
    )
    fitted = fit(lite0, examples, range(5), [3, 4], replace(RECIPE, n_classes=1, finetune=finetune))
    detector = detect.load(lite0, fitted.arrays, 1, "cpu")
    for image, judged in zip(examples.images, detector.judge(examples.images), strict=True):
        height, width = image.shape[:2]
        assert ((judged.boxes >= 0) & (judged.boxes <= [width, height, width, height])).all()
        assert 0 <= judged.uncertainty <= 1


def test_nothing_here_is_learnt(lite0):
    blank = Labelled([np.full((64, 64, 3), 120, np.uint8)] * 2)
    fitted = fit(lite0, blank, [0], [1], replace(RECIPE, epochs=12))
    assert fitted.metrics == {}
    [judged] = detect.load(lite0, fitted.arrays, 2, "cpu").judge(blank.images[:1])
    assert len(judged.boxes) == 0
    assert judged.presence.max() < 0.2


def test_without_holdout_there_are_no_metrics(lite0):
    fitted = fit(lite0, scene(), [0])
    assert fitted.metrics == {}
    assert float(fitted.arrays["threshold"]) == 0.3


def test_maps_that_are_no_numbers_stop_the_training(lite0):
    broken = replace(lite0, _mean=lite0._mean * np.nan)
    with pytest.raises(Diverged, match="expected a finite number"):
        fit(broken, scene(), [0])


def test_another_backbone_works_as_well(lite0):
    def halving(channels, out):
        return nn.Sequential(nn.Conv2d(channels, out, 3, stride=2, padding=1), nn.BatchNorm2d(out), nn.ReLU())

    network = nn.Sequential(halving(3, 4), halving(4, 4), halving(4, 8), halving(8, 8), halving(8, 16)).eval()
    tiny = replace(lite0, name="tiny", identity="tiny", _network=network)
    fitted = fit(tiny, scene(), [0], [0])
    assert len(detect.load(tiny, fitted.arrays, 2, "cpu").judge([drawing()])) == 1


def test_doubt_is_entropy_in_bits_of_the_least_clear_class():
    doubts = detect.box_doubts(np.array([[0.5, 0.0], [1.0, 0.0], [0.9, 0.1], [0.99, 0.5]], np.float32))
    np.testing.assert_allclose(doubts, [1.0, 0.0, 0.4689956, 1.0], atol=1e-6)


def test_classes_found_badly_weigh_more():
    # PPAL's formula at alpha 0.3 and beta 0.2 goes from 1 to 1.2; 26.0316 is e^(1 / 0.3) - 1, minus 1 again.
    weights = detect.class_weights(np.array([0.0, 0.5, 1.0], np.float32))
    np.testing.assert_allclose(weights, [1 / 1.2, (1 + 0.06 * np.log(14.51581)) / 1.2, 1.0], atol=1e-5)


def test_doubts_of_boxes_make_one():
    doubts = np.array([0.2, 0.6, 0.7], np.float32)
    assert detect.pooled(doubts, "mean") == pytest.approx(0.5)
    assert detect.pooled(doubts, "max") == pytest.approx(0.7)
    assert detect.pooled(doubts, "sum") == pytest.approx(1.5 / 2.5)


def test_mirrored_twice_is_the_image_itself():
    image, boxes = drawing(), np.array([[8, 16, 40, 48], [56, 8, 88, 40]], np.float32)
    swapped, moved = album.mirrored(image, boxes)
    np.testing.assert_array_equal(moved[0], [56, 16, 88, 48])
    back, again = album.mirrored(swapped, moved)
    np.testing.assert_array_equal(back, image)
    np.testing.assert_array_equal(again, boxes)


def test_boxes_go_with_what_they_show():
    white = np.zeros((80, 120, 3), np.uint8)
    white[20:60, 30:80] = 255
    rng = np.random.default_rng(0)
    for _ in range(30):
        image, boxes, classes = album.varied(white, np.array([[30, 20, 80, 60]], np.float32), rows(1), rng)
        assert image.shape == white.shape
        bright = image[..., 0] > image.max() * 0.75
        if len(boxes):
            ys, xs = np.nonzero(bright)
            seen = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            np.testing.assert_allclose(boxes[0], seen, atol=2.0)
        assert len(classes) == len(boxes)


def test_a_large_set_keeps_few_views_and_memory_is_bounded(lite0, monkeypatch):
    pyramid = detect.Pyramid(lite0, strides=detect.STRIDES)
    opened = {
        n: album.Album(pyramid, scene(3), finetune=False, n_learn=n, seed=0, device="cpu") for n in (1, 300, 9000)
    }
    assert [one.n_views for one in opened.values()] == [8, 3, 2]
    monkeypatch.setattr(album, "_KEPT_BYTES", 1)
    opened[1].prepare(rows(0, 1, 2), rows(), lambda: None)
    assert len(opened[1]._kept) == 1
    first, second = opened[1].view(2, 5), opened[1].view(2, 5)
    assert all((one == other).all() for one, other in zip(first.levels, second.levels, strict=True))
