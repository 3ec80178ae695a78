from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from ls_backend.errors import DataError, Diverged, StoreError, TooFewLabels
from ls_backend.vision import backbones, segment
from ls_backend.vision.deep import Progress, Recipe
from ls_backend.vision.segment import ious

NOBODY = np.array([], np.int64)
WEIGHTS = Path("model_weights")


@dataclass
class Pictures:
    """Labelled images in memory."""

    images: list[np.ndarray]
    class_maps: list[np.ndarray]

    def __len__(self):
        return len(self.images)

    def image(self, i):
        return self.images[i]

    def class_map(self, i):
        return self.class_maps[i]


def pictures(n: int, *, size=(64, 64), seed: int = 0) -> Pictures:
    """A bright disk of class 0 and a striped square of class 1 on noise."""
    rng = np.random.default_rng(seed)
    images, class_maps = [], []
    y, x = np.mgrid[: size[0], : size[1]]
    for _ in range(n):
        image = rng.integers(60, 120, (*size, 3)).astype(np.uint8)
        class_map = np.zeros(size, np.uint8)
        cy, cx, ty, tx = rng.uniform(0.25, 0.75, 4) * [*size, *size]
        square = (abs(y - ty) < 11) & (abs(x - tx) < 11)
        image[square], class_map[square] = np.where((x // 4) % 2, 200, 20)[square][:, None], 2
        disk = (y - cy) ** 2 + (x - cx) ** 2 < 13**2
        image[disk], class_map[disk] = (250, 240, 200), 1
        images.append(image)
        class_maps.append(class_map)
    return Pictures(images, class_maps)


@pytest.fixture(scope="module")
def backbone():
    return backbones.load("efficientnet_lite0", weights_dir=WEIGHTS, device="cpu")


def train(backbone, examples, *, holdout=0, epochs=3, n_classes=2, finetune=False, **options):
    rows = np.arange(len(examples))
    recipe = Recipe(n_classes, finetune=finetune, device="cpu", epochs=epochs)
    return segment.fit(backbone, examples, rows[holdout:], rows[:holdout], recipe, **options)


def called(backbone, fitted, images, n_classes=2):
    return segment.load(backbone, fitted.arrays, n_classes, "cpu").judge(images)


def same(first, second):
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


def test_one_image_is_learnt_by_heart(backbone):
    one = pictures(1)
    judged = called(backbone, train(backbone, one, epochs=40), one.images)[0]
    truth = one.class_maps[0]
    assert jaccard_score(truth.ravel(), judged.class_map.ravel(), average=None).min() > 0.8
    assert judged.presence.min() > 0.8
    assert judged.confidence[truth == judged.class_map].mean() > judged.confidence[truth != judged.class_map].mean()


def test_a_backbone_that_learns_is_kept_with_the_head(backbone):
    few = pictures(2)
    frozen, tuned = train(backbone, few, epochs=2), train(backbone, few, epochs=2, finetune=True)
    assert not any(name.startswith("pyramid.") for name in frozen.arrays)
    assert any(name.startswith("pyramid.") for name in tuned.arrays)
    before = backbone.embed(few.images)
    judged = called(backbone, tuned, few.images)
    np.testing.assert_array_equal(backbone.embed(few.images), before)  # the shared one has not moved
    again = segment.load(backbone, tuned.arrays, 2, "cpu").judge(few.images)
    np.testing.assert_array_equal(judged[0].confidence, again[0].confidence)
    without = {name: array for name, array in tuned.arrays.items() if not name.startswith("pyramid.")}
    assert not np.array_equal(
        segment.load(backbone, without, 2, "cpu").judge(few.images)[0].confidence, judged[0].confidence
    )


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(backbone):
    few = pictures(5)
    first = train(backbone, few, holdout=2)
    torch.manual_seed(1)  # what others draw does not count
    same(first.arrays, train(backbone, few, holdout=2).arrays)
    other = segment.fit(backbone, few, np.arange(2, 5), np.arange(2), Recipe(2, seed=1, device="cpu", epochs=3))
    assert not np.array_equal(first.arrays["head.call.1.weight"], other.arrays["head.call.1.weight"])


class Killed(BaseException):
    """Nothing in the training catches it."""


def test_a_killed_training_goes_on_where_it_was(backbone, tmp_path):
    few = pictures(4, size=(40, 70))
    reported: list[int] = []

    def kill(progress: Progress) -> bool:
        if progress.epoch == 2:
            raise Killed
        return True

    def note(progress: Progress) -> bool:
        reported.append(progress.epoch)
        return True

    with pytest.raises(Killed):
        train(backbone, few, holdout=1, epochs=4, folder=tmp_path, report=kill)
    resumed = train(backbone, few, holdout=1, epochs=4, folder=tmp_path, report=note)
    assert min(reported) == 1
    whole = train(backbone, few, holdout=1, epochs=4)
    same(resumed.arrays, whole.arrays)
    assert resumed.metrics == whole.metrics


def test_other_labels_are_another_training(backbone, tmp_path):
    few, reported = pictures(2), []
    train(backbone, few, epochs=2, folder=tmp_path)
    few.class_maps[1] = np.zeros_like(few.class_maps[1])
    train(backbone, few, epochs=2, folder=tmp_path, report=lambda progress: reported.append(progress.epoch) or True)
    assert min(reported) == 0


def test_cancelling_ends_the_training_with_what_it_has(backbone):
    fitted = train(backbone, pictures(3), holdout=1, epochs=50, report=lambda progress: progress.epoch < 1)
    assert fitted.stopped == "cancelled"
    assert fitted.metrics


def test_the_time_budget_ends_the_training(backbone):
    few = pictures(2)
    fitted = segment.fit(backbone, few, np.arange(2), NOBODY, Recipe(2, seconds=0.0, device="cpu"))
    assert fitted.stopped == "time"
    assert fitted.metrics == {}


def test_ious_are_jaccard_scores_of_all_pixels_together():
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 4, 5000), rng.integers(0, 4, 5000)
    guess[:2000] = truth[:2000]
    confusion = np.bincount(truth * 4 + guess, minlength=16).reshape(4, 4)
    wanted = jaccard_score(truth, guess, average=None)
    found = ious(confusion)
    assert [found[name] for name in ("iou_background", "iou_0", "iou_1", "iou_2")] == pytest.approx(list(wanted))
    assert found["mean_iou"] == pytest.approx(wanted.mean())
    assert found["mean_iou_classes"] == pytest.approx(wanted[1:].mean())


def test_ious_leave_out_classes_that_nobody_saw_or_called():
    confusion = np.array([[90, 0, 10], [0, 0, 0], [0, 0, 0]])
    assert ious(confusion) == {
        "mean_iou": pytest.approx(0.45),
        "mean_iou_classes": 0.0,
        "iou_background": pytest.approx(0.9),
        "iou_1": 0.0,
    }
    assert ious(np.array([[9, 0], [0, 0]])) == {"mean_iou": 1.0, "iou_background": 1.0}


def test_the_metrics_are_those_of_the_model_that_is_loaded(backbone):
    few = pictures(6, size=(50, 45))
    fitted = train(backbone, few, holdout=3, epochs=12)
    judged = called(backbone, fitted, few.images[:3])
    truth = np.concatenate([each.ravel() for each in few.class_maps[:3]])
    guess = np.concatenate([each.class_map.ravel() for each in judged])
    wanted = jaccard_score(truth, guess, average=None)
    assert fitted.metrics["mean_iou"] == pytest.approx(wanted.mean(), abs=0.01)  # training maps are half precision
    assert fitted.metrics["iou_1"] == pytest.approx(wanted[2], abs=0.01)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (200, 2), (33, 65), (96, 64)])
def test_every_size_is_judged_at_its_own(backbone, size):
    few = pictures(2)
    model = segment.load(backbone, train(backbone, few, epochs=8).arrays, 2, "cpu")
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    alone, beside = model.judge([image])[0], model.judge([few.images[0], image, few.images[1]])[1]
    for judged in (alone, beside):
        assert judged.class_map.shape == judged.confidence.shape == size
        assert judged.class_map.dtype == np.uint8
        assert judged.confidence.dtype == np.float16
        assert 0.0 <= judged.uncertainty <= 1.0
        assert judged.presence.shape == (2,)
        assert np.linalg.norm(judged.embedding) == pytest.approx(1.0, abs=1e-5)
    assert beside.uncertainty == pytest.approx(alone.uncertainty, abs=1e-4)
    np.testing.assert_allclose(beside.embedding, alone.embedding, atol=1e-4)


def test_images_of_any_size_are_learnt_from(backbone):
    sizes = [(1, 1), (1, 80), (70, 3), (64, 64)]
    images = [np.full((*size, 3), 80, np.uint8) for size in sizes]
    class_maps = [np.zeros(size, np.uint8) for size in sizes]
    class_maps[3][:32] = 1
    fitted = train(backbone, Pictures(images, class_maps), holdout=1, n_classes=1)
    assert np.isfinite(fitted.metrics["mean_iou"])


def test_nothing_here_is_learnt(backbone):
    few = pictures(3)
    empty = Pictures(few.images, [np.zeros_like(each) for each in few.class_maps])
    fitted = train(backbone, empty, holdout=1, epochs=12)
    assert fitted.metrics == {"mean_iou": 1.0, "iou_background": 1.0}
    assert fitted.arrays["temperature"] == 0.5  # and not a quarter, although all of the hold-out is right
    judged = called(backbone, fitted, empty.images)[0]
    assert not judged.class_map.any()
    assert 0.0 <= judged.uncertainty < 0.5


@pytest.mark.parametrize(
    ("beliefs", "uncertainty"),
    [((0.2, 0.7, 0.1), 0.5), ((0.8, 0.15, 0.05), 0.35), ((0.1, 0.45, 0.45), 1.0)],
)
def test_uncertainty_and_presence_of_an_image_that_is_the_same_everywhere(beliefs, uncertainty):
    logits = torch.log(torch.tensor(beliefs)).reshape(3, 1, 1).expand(3, 16, 24)
    maps = [torch.ones(4, 64 // stride, 96 // stride) for stride in (4, 8, 16, 32)]
    judged = segment._judged(logits, maps, 61, 90)
    assert judged.uncertainty == pytest.approx(uncertainty, abs=1e-5)
    np.testing.assert_allclose(judged.presence, beliefs[1:], atol=1e-5)
    np.testing.assert_allclose(judged.confidence, max(beliefs), atol=1e-3)
    assert judged.class_map.shape == (61, 90)


def test_a_faint_object_where_nothing_was_found_raises_the_uncertainty():
    faint, nothing = torch.log(torch.tensor([[0.55, 0.44, 0.01], [0.98, 0.01, 0.01]]))
    logits = nothing.reshape(3, 1, 1).repeat(1, 32, 32)
    maps = [torch.ones(4, 128 // stride, 128 // stride) for stride in (4, 8, 16, 32)]
    without = segment._judged(logits, maps, 128, 128)
    logits[:, 20:24, 6:10] = faint[:, None, None]
    judged = segment._judged(logits, maps, 128, 128)
    assert not judged.class_map.any()
    assert judged.uncertainty > 0.8
    assert without.uncertainty < 0.1


def test_the_embedding_is_about_what_was_found():
    logits = torch.log(torch.tensor([0.98, 0.02])).reshape(2, 1, 1).repeat(1, 32, 32)
    logits[:, :8, :8] = torch.log(torch.tensor([0.02, 0.98]))[:, None, None]
    maps = [torch.zeros(2, 128 // stride, 128 // stride) for stride in (4, 8, 16, 32)]
    for each in maps:
        each[0] = 1.0
        corner = max(1, each.shape[1] // 4)
        each[:, :corner, :corner] = torch.tensor([0.0, 1.0])[:, None, None]
    np.testing.assert_allclose(segment._judged(logits, maps, 128, 128).embedding, np.array([0, 1, 0, 1]) / 2**0.5)


def test_a_loss_that_is_not_a_number_is_named(backbone):
    broken = backbones.load("efficientnet_lite0", weights_dir=WEIGHTS, device="cpu")
    next(broken._network.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match="epoch 1"):
        train(broken, pictures(1))


@pytest.mark.parametrize(
    ("image", "class_map", "reason"),
    [
        ((20, 30, 3), np.zeros((30, 20), np.uint8), r"\(30, 20\).*\(20, 30\)"),
        ((20, 30, 3), np.zeros((20, 30), np.int64), "int64"),
        ((20, 30, 3), np.full((20, 30), 3, np.uint8), "value 3"),
        ((20, 30), np.zeros((20, 30), np.uint8), "RGB"),
        ((20, 30, 4), np.zeros((20, 30), np.uint8), "RGB"),
        ((0, 30, 3), np.zeros((0, 30), np.uint8), "RGB"),
    ],
)
def test_material_that_does_not_fit_is_refused(backbone, image, class_map, reason):
    with pytest.raises(DataError, match=reason):
        train(backbone, Pictures([np.zeros(image, np.uint8)], [class_map]))


def test_a_training_needs_something_to_learn_from(backbone):
    with pytest.raises(TooFewLabels):
        train(backbone, pictures(1), holdout=1)


def test_an_image_that_is_none_is_refused_by_number(backbone):
    model = segment.load(backbone, train(backbone, pictures(1), epochs=1).arrays, 2, "cpu")
    with pytest.raises(DataError, match="Image 1"):
        model.judge([np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), np.uint8)])


def test_arrays_of_another_config_are_refused(backbone):
    fitted = train(backbone, pictures(1), epochs=1)
    with pytest.raises(StoreError, match="no segmenter of 3 classes"):
        segment.load(backbone, fitted.arrays, 3, "cpu")
    with pytest.raises(StoreError, match="temperature"):
        segment.load(backbone, {}, 2, "cpu")
