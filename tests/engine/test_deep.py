"""Deeper training and judging on images that lie in the task data; what learns is tiny, the rest is real."""

from __future__ import annotations

import base64
import io
import itertools
import json
import sys
from datetime import UTC, datetime, timedelta
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ls_backend.domain import Annotation, Control, LabelSchema, Task, Window
from ls_backend.engine import deep, judge, learners, snapshot
from ls_backend.engine.context import Context
from ls_backend.engine.sync import share_holdout
from ls_backend.errors import Diverged, SettingsError, Unreachable
from ls_backend.settings import DEFAULT_BACKBONE, ProjectSettings, Settings

COLOURS = {"red": (220, 40, 40), "green": (40, 220, 40)}
CONFIG = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image">'
    '<Label value="red"/><Label value="green"/></RectangleLabels></View>'
)
WIDTH, HEIGHT = 96, 64


class Killed(BaseException):
    """The process ends here."""


class Tiny(ModuleType):
    """Learns the mean colour of each class; sees one box: what is not dark. Follows the interface of `vision.deep`."""

    epochs = 4

    def __init__(self):
        super().__init__("tiny_learner")
        self.ran = []
        self.at_epoch = {}  # epoch -> what happens after it
        self.fitted_on = None

    def fit(self, backbone, examples, learn, holdout, recipe, *, folder, report):
        from ls_backend.vision.deep import Fitted, Progress

        self.fitted_on = examples
        reached = folder / "epoch.txt"
        for epoch in range(int(reached.read_text()) if reached.exists() else 0, self.epochs):
            self.ran.append(epoch + 1)
            folder.mkdir(parents=True, exist_ok=True)
            reached.write_text(str(epoch + 1))
            goes_on = report(Progress(epoch + 1, self.epochs, 1.0 / (epoch + 1), 1.0 + epoch, 0.5))
            self.at_epoch.pop(epoch + 1, lambda: None)()
            if not goes_on:
                return Fitted({}, {}, "cancelled")
        colours = np.zeros((recipe.n_classes, 3), np.float32)
        for c in range(recipe.n_classes):
            boxes = [
                (examples.image(i), box) for i in learn for box, k in zip(*examples.boxes(i), strict=True) if k == c
            ]
            cut = [image[int(y) : int(b), int(x) : int(r)] for image, (x, y, r, b) in boxes]
            colours[c] = np.mean([part.reshape(-1, 3).mean(axis=0) for part in cut if part.size] or [[0, 0, 0]], axis=0)
        return Fitted({"colours": colours}, {"map50": 0.5}, "done")

    def load(self, backbone, arrays, n_classes, device):
        return SimpleNamespace(judge=lambda images: [self._see(image, arrays["colours"]) for image in images])

    @staticmethod
    def _see(image, colours):
        ys, xs = np.nonzero(image.max(axis=2) > 128)
        boxes = np.array([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]] if len(xs) else [], np.float32).reshape(
            -1, 4
        )
        distances = np.linalg.norm(colours - image[ys, xs].mean(axis=0), axis=1) if len(xs) else np.zeros(len(colours))
        best = int(distances.argmin())
        return SimpleNamespace(
            uncertainty=0.25,
            presence=np.eye(len(colours), dtype=np.float32)[best] * len(boxes),
            embedding=np.array([0.6, 0.8], np.float32),
            boxes=boxes,
            classes=np.full(len(boxes), best, np.int64),
            scores=np.full(len(boxes), 0.875, np.float32),
            values=np.full(len(boxes), 0.125, np.float32),
        )


class Studio:
    """A project of coloured rectangles on noise, and people who draw boxes around them."""

    pid = 1
    control = Control("box", "rectanglelabels", "image", ("red", "green"), multiple=True)
    schema = LabelSchema("image", (control,))

    def __init__(self, folder, n):
        self.context = Context(
            Settings(data_dir=folder, device="cpu", label_studio_url="http://127.0.0.1:9", label_studio_api_key="none")
        )
        self.store = self.context.store
        self.context._backbones[DEFAULT_BACKBONE] = SimpleNamespace(
            name=DEFAULT_BACKBONE, identity="none", dim=2, device="cpu"
        )
        self.store.projects.ensure(self.pid, label_config=CONFIG)
        self.now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
        self.numbers = itertools.count(1)
        self.images, self.truth = {}, {}
        rng = np.random.default_rng(0)
        for task_id in range(1, n + 1):
            pixels = rng.integers(0, 30, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            x, y, w, h = (int(rng.integers(low, high)) for low, high in ((0, 60), (0, 40), (12, 30), (12, 20)))
            name = sorted(COLOURS)[task_id % 2]
            pixels[y : y + h, x : x + w] = COLOURS[name]
            self.truth[task_id] = (name, x, y, w, h)
            self.images[task_id] = as_uri(pixels)
        self._write(self.images, {})
        self.store.tasks.set_content(self.pid, {task_id: f"{task_id:064x}" for task_id in self.images})
        self.settings()

    def settings(self, **training):
        words = ProjectSettings(min_labels=4, holdout=0.4, training={"after": 5, **training})
        self.store.projects.set(self.pid, settings_json=words.model_dump_json())

    def _write(self, task_ids, annotations):
        given = [
            Task(
                task_id,
                {"image": self.images[task_id]},
                self.now,
                bool(made := annotations.get(task_id)),
                len(made or ()),
                0,
                made,
            )
            for task_id in task_ids
        ]
        self.store.tasks.upsert(self.pid, given, image_field="image")

    def region(self, task_id, name=None):
        true, x, y, w, h = self.truth[task_id]
        sizes = {"x": x / WIDTH, "y": y / HEIGHT, "width": w / WIDTH, "height": h / HEIGHT}
        value = {key: 100 * share for key, share in sizes.items()} | {"rotation": 0, "rectanglelabels": [name or true]}
        return {"from_name": "box", "to_name": "image", "type": "rectanglelabels", "value": value}

    def draw(self, *task_ids, name=None, result=None):
        """Submit the true box, one with another label, or any result."""
        for task_id in task_ids:
            self.now += timedelta(seconds=1)
            regions = [self.region(task_id, name)] if result is None else result
            made = Annotation(
                task_id * 1000 + next(self.numbers), task_id, tuple(regions), False, False, 1, self.now, self.now
            )
            self._write([task_id], {task_id: (made,)})
        labels = {task_id: (json.dumps({"box": []}), None) for task_id in task_ids}
        self.store.tasks.set_labels(self.pid, labels)
        share_holdout(self.context, self.pid, self.schema)

    def ask(self):
        (training,) = deep.ask(self.context, self.pid, force=True)
        return training.training_id

    def train(self, training_id=None):
        return deep.train(self.context, training_id or self.ask(), lambda: None)

    def judge(self):
        woken = []
        done = judge.judge_pool(self.context, self.pid, "box", woken.append)
        return done, woken

    def left(self):
        """Folders of trainings that are not over."""
        return [path.name for path in self.context.settings.models_path.glob("*/.training-*")]

    def holdout(self):
        return {task.task_id for task in self.store.tasks.labelled(self.pid) if task.holdout}

    def problems(self):
        return {item.finding.subject: item.finding for item in self.store.problems.open(self.pid)}

    @property
    def in_force(self):
        return self.store.deep_versions.in_force(self.pid, "box")


def as_uri(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def tiny(monkeypatch):
    made = Tiny()
    monkeypatch.setitem(sys.modules, made.__name__, made)
    box = learners.LEARNERS["rectanglelabels"]
    like_box = learners.Learner(made.__name__, box.read, box.write, box.quality)
    monkeypatch.setitem(learners.LEARNERS, "rectanglelabels", like_box)
    return made


@pytest.fixture
def make_studio(tmp_path, tiny):
    made = []

    def make(n=40):
        studio = Studio(tmp_path / f"data{len(made)}", n)
        made.append(studio)
        return studio

    yield make
    for studio in made:
        studio.context.close()


# -- when --


def test_a_training_is_due_with_the_first_labels_and_again_with_enough_more(make_studio):
    studio = make_studio()
    wanted = lambda: [one.training_id for one in deep.ask(studio.context, studio.pid)]  # noqa: E731
    studio.draw(1, 2, 3)
    assert wanted() == []
    studio.draw(4)
    (first,) = wanted()
    studio.draw(*range(5, 15))
    assert wanted() == [], "one is open"
    studio.store.trainings.finish(first, "failed")
    assert len(wanted()) == 1, "it was asked for with four labels"
    studio.train(studio.store.trainings.open()[0].training_id)
    studio.draw(15, 16, 17)
    assert wanted() == []
    studio.draw(1, 2, name="green")
    assert len(wanted()) == 1, "corrections count"


def test_what_failed_is_not_repeated_on_the_same_labels_and_other_classes_never_wait(make_studio, tiny):
    studio = make_studio()
    studio.draw(*range(1, 9))
    tiny.at_epoch[1] = lambda: (_ for _ in ()).throw(Diverged("The loss became nan."))
    studio.train()
    assert deep.ask(studio.context, studio.pid) == []
    studio.store.projects.set(studio.pid, label_config=CONFIG.replace("green", "blue"))
    (training,) = deep.ask(studio.context, studio.pid)
    assert training.classes == ("red", "blue")


def test_a_training_asked_for_by_hand_needs_a_control_that_can_be_trained(make_studio):
    studio = make_studio()
    with pytest.raises(SettingsError, match=r"'mask'.*box"):
        deep.ask(studio.context, studio.pid, control="mask", force=True)
    assert deep.ask(studio.context, studio.pid, control="mask") == []


# -- training --


def test_labels_become_a_version_that_draws_boxes_on_the_pool(make_studio):
    studio = make_studio()
    studio.settings(image_px=48)
    studio.draw(*range(1, 21))
    training_id = studio.ask()
    version = studio.train(training_id)
    assert (version.state, version.classes, version.n_labels) == ("promoted", ("red", "green"), 20)
    assert version == studio.in_force
    training = studio.store.trainings.get(training_id)
    assert (training.state, training.version_id, training.n_labels) == ("done", version.version_id, 20)
    assert studio.left() == []
    done, woken = studio.judge()
    assert (done.judged, done.failed, woken[-1]) == (20, 0, True)
    seen = studio.store.inferences.results(studio.pid, "box", range(21, 41))
    assert set(seen) == set(range(21, 41))
    for task_id, one in seen.items():
        (region,) = one.result
        name, x, y, w, h = studio.truth[task_id]
        assert region["value"]["rectanglelabels"] == [name]
        assert (region["original_width"], region["original_height"]) == (WIDTH, HEIGHT)
        found = [region["value"][key] for key in ("x", "y", "width", "height")]
        expected = [100 * x / WIDTH, 100 * y / HEIGHT, 100 * w / WIDTH, 100 * h / HEIGHT]
        np.testing.assert_allclose(found, expected, atol=8), "two pixels of the small image"
        assert one.scores == (0.125,)


def test_a_killed_training_goes_on_with_the_labels_it_began_with(make_studio, tiny):
    studio = make_studio()
    studio.draw(*range(1, 13))
    tiny.at_epoch[3] = lambda: (_ for _ in ()).throw(Killed)
    training_id = studio.ask()
    with pytest.raises(Killed):
        studio.train(training_id)
    assert studio.store.trainings.get(training_id).state == "running"
    assert studio.store.trainings.get(training_id).progress["phase"] == "learning"
    studio.draw(*range(13, 20))
    version = studio.train(training_id)
    assert tiny.ran == [1, 2, 3, 4]
    assert len(tiny.fitted_on) == version.n_labels == 12
    other = make_studio()
    other.draw(*range(1, 13))
    assert other.train().labels_digest == version.labels_digest, "as if nothing had happened"


def test_a_process_killed_after_the_version_was_saved_makes_no_second_one(make_studio, monkeypatch):
    studio = make_studio()
    studio.draw(*range(1, 13))
    training_id = studio.ask()

    def killed(*_, **__):
        raise Killed

    for method in ("add", "finish"):
        target = studio.store.deep_versions if method == "add" else studio.store.trainings
        with monkeypatch.context() as patch:
            patch.setattr(target, method, killed)
            with pytest.raises(Killed):
                studio.train(training_id)
    studio.train(training_id)
    assert [one.number for one in studio.store.deep_versions.list(studio.pid)] == [1]
    assert studio.store.trainings.get(training_id).state == "done"
    assert studio.left() == []


def test_a_cancelled_training_leaves_nothing(make_studio, tiny):
    studio = make_studio()
    studio.draw(*range(1, 13))
    tiny.epochs = 10_000_000
    tiny.at_epoch[1] = lambda: studio.store.trainings.cancel(studio.pid)
    training_id = studio.ask()
    assert studio.train(training_id) is None
    assert studio.store.trainings.get(training_id).state == "cancelled"
    assert studio.left() == []
    assert studio.in_force is None


@pytest.mark.parametrize(
    ("error", "code"),
    [(Diverged("The loss became nan."), "training-diverged"), (ZeroDivisionError("oh"), "training-error")],
)
def test_a_failure_is_told_and_taken_back_by_success(make_studio, tiny, error, code):
    studio = make_studio()
    studio.draw(*range(1, 13))

    def fail():
        raise error

    tiny.at_epoch[2] = fail
    training_id = studio.ask()
    assert studio.train(training_id) is None
    assert studio.store.trainings.get(training_id).state == "failed"
    finding = studio.problems()["training of box"]
    assert (finding.code, finding.level) == (code, "error")
    assert finding.remedy
    assert studio.train() is not None
    assert "training of box" not in studio.problems()


def test_an_outage_leaves_the_training_open(make_studio, tiny):
    studio = make_studio()
    studio.draw(*range(1, 13))

    def fail():
        raise Unreachable("Label Studio gave no answer within 3 s.")

    tiny.at_epoch[2] = fail
    training_id = studio.ask()
    with pytest.raises(Unreachable):
        studio.train(training_id)
    assert studio.store.trainings.get(training_id).is_open
    studio.train(training_id)
    assert tiny.ran == [1, 2, 3, 4]


def test_nothing_drawn_anywhere_is_too_little_and_said_so(make_studio):
    studio = make_studio()
    studio.draw(*range(1, 9), result=[])
    assert studio.train() is None
    assert studio.problems()["training of box"].code == "too-few-labels"


def test_bad_images_and_regions_are_named_and_the_rest_is_learnt(make_studio, tiny):
    studio = make_studio()
    studio.images[3] = "data:image/png;base64,AAAA"
    studio._write([3], {})
    studio.store.tasks.set_content(studio.pid, {3: "0" * 64})
    studio.draw(*range(1, 13))
    gone = studio.region(5) | {"id": "abc"}
    gone["value"] = gone["value"] | {"rectanglelabels": ["purple"]}
    studio.draw(5, result=[gone, studio.region(5)])
    studio.draw(6, result=[])
    version = studio.train()
    assert version.n_labels == 11
    assert 3 not in tiny.fitted_on.task_ids.tolist()
    boxes = {int(task): tiny.fitted_on.boxes(i)[1].tolist() for i, task in enumerate(tiny.fitted_on.task_ids)}
    assert boxes[5] == [0], "the region that is left"
    assert boxes[6] == [], "nothing here is an answer"
    problems = studio.problems()
    assert problems["task 3"].code == "image-unreadable"
    assert problems["task 5"].code == "region-unusable"
    assert "abc" in problems["task 5"].message
    assert "purple" in problems["task 5"].message
    studio.draw(5)
    studio.train()
    assert "task 5" not in studio.problems()


def test_the_test_set_is_measured_on_and_never_learnt(make_studio, tiny):
    studio = make_studio()
    words = ProjectSettings(min_labels=4, test_set=5)
    studio.store.projects.set(studio.pid, settings_json=words.model_dump_json())
    studio.store.tasks.lock_test_set(studio.pid, [2, 4, 6, 8, 30])
    studio.draw(*range(1, 13))
    studio.train()
    shown = tiny.fitted_on
    assert set(shown.task_ids[shown.measured].tolist()) == {2, 4, 6, 8}
    assert not set(shown.task_ids[shown.learn].tolist()) & {2, 4, 6, 8, 30}


# -- the gate --


def test_a_version_that_got_worse_does_not_serve_and_a_good_one_does_again(make_studio):
    studio = make_studio()
    studio.draw(*range(1, 31))
    good = studio.train()
    held = studio.holdout()
    assert len(held) == 12
    for task_id in set(range(1, 31)) - held:
        studio.draw(task_id, name={"red": "green", "green": "red"}[studio.truth[task_id][0]])
    bad = studio.train()
    assert bad.state == "rejected"
    assert good.version_id in bad.reason
    assert studio.in_force == good
    studio.draw(*(set(range(1, 31)) - held))
    studio.draw(31)
    again = studio.train()
    assert again.state == "promoted"
    assert studio.in_force == again


def test_a_version_whose_files_are_lost_makes_room_for_the_one_before(make_studio):
    import shutil

    studio = make_studio()
    studio.draw(*range(1, 13))
    first = studio.train()
    studio.draw(13)
    second = studio.train()
    shutil.rmtree(deep.folder_of(studio.context, second))
    model = deep.serving(studio.context, studio.context.project(studio.pid), studio.control)
    assert model.version == first
    assert studio.problems()[f"deep version {second.version_id}"].code == "store-error"


def test_other_classes_make_another_task(make_studio):
    studio = make_studio()
    studio.draw(*range(1, 31))
    studio.train()
    studio.judge()
    studio.store.projects.set(studio.pid, label_config=CONFIG.replace('<Label value="green"/>', ""))
    project = studio.context.project(studio.pid)
    assert deep.serving(studio.context, project, deep.subject_of(project, "box")) is None
    version = studio.train()
    assert (version.state, version.classes) == ("promoted", ("red",))
    assert studio.store.inferences.of(studio.pid, "box").task_id.tolist() == []
    studio.judge()
    assert studio.store.inferences.of(studio.pid, "box").presence.shape == (40, 1)


# -- judging --


def test_the_window_is_judged_first_and_an_update_wanted_twice(make_studio, monkeypatch):
    monkeypatch.setattr(judge, "CHUNK_S", 0.0)
    studio = make_studio()
    studio.draw(*range(1, 13))
    version = studio.train()
    window = Window("al-cold:1", studio.pid, 1, None, (40, 25, 33), 0)
    studio.store.windows.add(window)
    studio.store.windows.flipped(studio.pid, window.version, studio.now)
    before = studio.context.project(studio.pid).wanted_generation
    seen = []
    put = studio.store.inferences.put
    monkeypatch.setattr(
        studio.store.inferences, "put", lambda *given: (seen.append([one.task_id for one in given[2]]), put(*given))
    )
    _, woken = studio.judge()
    assert seen[0][:3] == [40, 25, 33]
    assert sorted(itertools.chain(*seen)) == list(range(1, 41)), "each once, and what is labelled with them"
    assert woken == [True, *[False] * (len(woken) - 2), True]
    assert studio.context.project(studio.pid).wanted_generation == before + 2
    assert set(studio.store.inferences.of(studio.pid, "box").version_id) == {version.version_id}
    assert studio.judge()[0].judged == 0


def test_judging_goes_on_where_it_was_killed_and_a_newer_version_judges_anew(make_studio, monkeypatch):
    monkeypatch.setattr(judge, "CHUNK_S", 0.0)
    studio = make_studio()
    studio.draw(*range(1, 13))
    studio.train()

    def killed(_woken):
        raise Killed

    with pytest.raises(Killed):
        judge.judge_pool(studio.context, studio.pid, "box", killed)
    some = studio.store.inferences.of(studio.pid, "box").task_id
    of_the_pool = int((some > 12).sum())
    assert 0 < of_the_pool < 28
    assert studio.judge()[0].judged == 28 - of_the_pool
    studio.draw(13)
    second = studio.train()
    assert judge.due(studio.context, studio.pid) == ["box"]
    assert studio.judge()[0].judged == 27
    assert studio.store.inferences.judged_by(studio.pid, "box", second.version_id) == set(range(1, 41))


def test_a_pool_is_judged_again_when_a_tenth_of_it_is_new(make_studio):
    studio = make_studio()
    studio.draw(*range(1, 13))
    assert judge.due(studio.context, studio.pid) == []
    studio.train()
    assert judge.due(studio.context, studio.pid) == ["box"]
    studio.judge()
    assert judge.due(studio.context, studio.pid) == []

    def add(*task_ids):
        for task_id in task_ids:
            studio.images[task_id] = studio.images[1]
        studio._write(task_ids, {})
        studio.store.tasks.set_content(studio.pid, dict.fromkeys(task_ids, "f" * 64))

    add(101, 102, 103)
    assert judge.due(studio.context, studio.pid) == []
    add(104)
    assert judge.due(studio.context, studio.pid) == ["box"], "4 of 32"


def test_a_large_pool_is_judged_in_part_and_the_same_part_stays(make_studio, monkeypatch):
    monkeypatch.setattr(judge, "CANDIDATES", 5)
    studio = make_studio()
    studio.draw(*range(1, 13))
    studio.train()
    assert studio.judge()[0].judged == 5
    first = set(studio.store.inferences.of(studio.pid, "box").task_id.tolist())
    studio.draw(min(first - set(range(1, 13))))
    assert studio.judge()[0].judged == 1, "one more takes the place of the one that was labelled"
    assert first < set(studio.store.inferences.of(studio.pid, "box").task_id.tolist())


def test_an_image_that_became_unreadable_is_named_and_leaves_the_pool(make_studio):
    studio = make_studio()
    studio.draw(*range(1, 13))
    studio.train()
    studio.images[20] = "data:image/png;base64,AAAA"
    studio._write([20], {})
    studio.store.tasks.set_content(studio.pid, {20: "0" * 64})
    done, _ = studio.judge()
    assert (done.judged, done.failed) == (27, 1)
    assert studio.problems()["task 20"].code == "image-unreadable"
    assert studio.store.tasks.images(studio.pid, [20])[0].content_hash is None
    assert studio.judge()[0].failed == 0


def test_a_snapshot_is_there_completely_or_not_at_all(make_studio, tmp_path):
    studio = make_studio()
    studio.draw(*range(1, 5))
    project = studio.context.project(studio.pid)
    learner = learners.LEARNERS["rectanglelabels"]
    folder = tmp_path / "snapshot"
    assert snapshot.take(studio.context, project, studio.control, learner, folder, lambda done, of: done < 2) is None
    assert snapshot.load(folder) is None
    shown = snapshot.take(studio.context, project, studio.control, learner, folder, lambda done, of: True)
    again = snapshot.load(folder)
    assert shown.digest == again.digest
    for i, task_id in enumerate(shown.task_ids.tolist()):
        name, x, y, w, h = studio.truth[task_id]
        boxes, classes = again.boxes(i)
        np.testing.assert_allclose(boxes, [[x, y, x + w, y + h]], atol=0.01)
        assert classes.tolist() == [("red", "green").index(name)]
        assert again.image(i).shape == (HEIGHT, WIDTH, 3)
