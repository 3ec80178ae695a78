"""Engine functions on a real Label Studio: one server and one data folder for all tests, a project for each.

The images are uploaded once; a project is only a list of tasks that point to them. No worker, server or Redis runs: a
test says itself what happens when. What needs no Label Studio gets a `Desk`: a project that is only in the store.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ls_backend.demo.digits import digits
from ls_backend.domain import Annotation, Control, LabelSchema, Task, Window
from ls_backend.engine.context import Context
from ls_backend.engine.embed_pool import embed_pool
from ls_backend.engine.reconcile import reconcile
from ls_backend.engine.rerank import rerank
from ls_backend.engine.retrain import retrain
from ls_backend.engine.sync import share_holdout
from ls_backend.engine.update import update_project
from ls_backend.engine.view import view
from ls_backend.settings import DEFAULT_BACKBONE, ProjectSettings, Settings

CLASSES = ("0", "1", "2")
N_IMAGES = 60
_titles = itertools.count(1)


def label_config(classes=CLASSES, *, field="image"):
    choices = "".join(f'<Choice value="{name}"/>' for name in classes)
    return (
        f'<View><Image name="image" value="${field}"/>'
        f'<Choices name="digit" toName="image" choice="single">{choices}</Choices></View>'
    )


def result_of(label):
    region = {"from_name": "digit", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
    return [] if label is None else [region]


class Lab:
    """One Label Studio project with its truth, and the engine's steps on it."""

    classes = CLASSES
    result_of = staticmethod(result_of)
    label_config = staticmethod(label_config)

    def __init__(self, context, client, pid, truth, images):
        self.context = context
        self.client = client
        self.pid = pid
        self.truth = truth
        self.images = images
        self.tasks = sorted(truth)

    # -- what the jobs would do --

    def update(self):
        """Update until nothing waits, as the workers would; answer the window of the last one."""
        window = update_project(self.context, self.pid)
        while self.context.store.tasks.unread(self.pid, 1):
            embed_pool(self.context, self.pid)
            window = update_project(self.context, self.pid)
        return window

    def reconcile(self):
        """Compare, and update when the comparison asks for it; answer whether it did."""
        reconcile(self.context, self.pid)
        behind = self.project.wanted_generation > self.project.done_generation
        if behind or self.context.store.tasks.unread(self.pid, 1):
            self.update()
        return behind

    # -- what people do --

    def label(self, *task_ids, label=None, **how):
        """Submit the truth, or `label`, and answer the id of the last annotation."""
        made = None
        for task_id in task_ids:
            made = self.client.submit(task_id, result_of(label or self.truth[task_id]), **how)
        return made

    def configure(self, classes=CLASSES, *, field="image"):
        self.client.update_project(self.pid, label_config=label_config(classes, field=field))

    def settings(self, **words):
        """Put project settings in force as /setup does."""
        stored = ProjectSettings(**words).model_dump_json()
        self.context.store.projects.set(self.pid, settings_json=stored)

    # -- what can be seen --

    @property
    def project(self):
        return self.context.store.projects.get(self.pid)

    @property
    def window(self):
        return self.context.store.windows.in_force(self.pid)

    @property
    def latest(self):
        """The newest model version, promoted or not."""
        return self.context.store.versions.latest(self.pid)

    @property
    def serving(self):
        return self.context.store.versions.in_force(self.pid)

    def state(self):
        return self.client.project(self.pid)

    def queue(self):
        """Task ids as Label Studio would serve them."""
        return [task_id for task_id, _ in self.client.queue_head(self.pid, 1000)]

    def problems(self, code):
        """Open findings of a kind by subject."""
        opened = self.context.store.problems.open(self.pid)
        return {item.finding.subject: item.finding for item in opened if item.finding.code == code}

    def held_labels(self, *, without=(), classes=CLASSES):
        """Task -> label as Label Studio holds it now: ground truth, else the majority, else the latest."""
        held = {}
        for task_id, made in self.client.annotations(self.pid).items():
            votes = [
                (one.updated_at, region["value"]["choices"][0], one.ground_truth)
                for one in made
                for region in one.result
                if not one.was_cancelled and region["value"]["choices"][0] in classes
            ]
            votes = [vote for vote in votes if vote[2]] or votes
            if votes and task_id not in without:
                count = Counter(label for _, label, _ in votes)
                held[task_id] = max(sorted(votes), key=lambda vote: (count[vote[1]], vote[0]))[1]
        return held

    def assert_trained_on_what_label_studio_holds(self, **held):
        """The newest model version knows every label Label Studio holds now, and nothing else."""
        labels = self.held_labels(**held)
        digest = hashlib.sha256(repr(sorted(labels.items())).encode()).hexdigest()
        assert self.latest is not None, "no model was trained"
        assert self.latest.n_labels == len(labels)
        assert self.latest.labels_digest == digest


@pytest.fixture(scope="session")
def make_context(label_studio, tmp_path_factory):
    """Make an engine on a data folder of its own; the backbone is loaded once."""
    made = []
    backbones = {}

    def make(data_dir=None, **settings):
        folder = data_dir or tmp_path_factory.mktemp("data")
        given = {"label_studio_url": label_studio.url, "label_studio_api_key": label_studio.token, **settings}
        context = Context(Settings(data_dir=folder, device="cpu", image_timeout_s=5.0, **given))
        context._backbones = backbones
        made.append(context)
        return context

    yield make
    for context in made:
        context.close()


@pytest.fixture(scope="session")
def shared_context(make_context):
    return make_context()


@pytest.fixture(scope="session")
def uploaded(client):
    """(reference, label) of digits that lie in Label Studio, the classes taking turns."""
    by_class = {name: [item for item in digits(600, seed=3) if item.label == name] for name in CLASSES}
    chosen = [by_class[CLASSES[i % len(CLASSES)]][i // len(CLASSES)] for i in range(N_IMAGES)]
    home = client.create_project("images", label_config())
    references = client.upload_files(home, {item.name: item.png for item in chosen})
    return [(references[item.name], item.label) for item in chosen]


@pytest.fixture(scope="session")
def make_lab(client, shared_context, uploaded):
    """Make a project with n tasks, the first few of which are labelled already."""

    def make(n=20, *, labelled=0, context=None, classes=CLASSES, **settings):
        context = context or shared_context
        pid = client.create_project(
            f"engine {next(_titles)}",
            label_config(classes),
            sampling="Uncertainty sampling",
            show_collab_predictions=True,
        )
        chosen = uploaded[:n]
        rows = [
            {"data": {"image": reference}, "annotations": [{"result": result_of(label)}] if i < labelled else []}
            for i, (reference, label) in enumerate(chosen)
        ]
        task_ids = client.import_tasks(pid, rows)
        context.store.projects.ensure(pid)
        # Events go to a closed port: nobody listens in these tests.
        context.store.projects.set(pid, webhook_url="http://127.0.0.1:9/webhook", webhook_secret="secret")
        truth = {task_id: label for task_id, (_, label) in zip(task_ids, chosen, strict=True)}
        images = {task_id: reference for task_id, (reference, _) in zip(task_ids, chosen, strict=True)}
        lab = Lab(context, client, pid, truth, images)
        lab.settings(**{"min_labels": 4, **settings})
        return lab

    return make


class Desk:
    """A project that is only in the store: digits whose pixels are their embeddings, and people who answer.

    Task ids count from 1. `table` and everything else is read through the engine, as an update would.
    """

    schema = LabelSchema("image", (Control("digit", "choices", "image", tuple("0123456789")),))
    pid = 1

    def __init__(self, folder, n):
        self.context = Context(Settings(data_dir=folder, device="cpu"))
        self.context.store.projects.ensure(self.pid)
        pixels, digit = load_digits(return_X_y=True)
        self.now = datetime.now(UTC)
        self.truth = {task_id: str(digit[task_id - 1]) for task_id in range(1, n + 1)}
        self.tasks = sorted(self.truth)
        self._answers = itertools.count(1)
        self._data = {task_id: {"image": f"/{task_id}.png", "digit": self.truth[task_id]} for task_id in self.tasks}
        self._write(self.tasks, {})
        # Nothing is read here: a backbone is only asked whose embeddings those in the store are.
        self.context._backbones[DEFAULT_BACKBONE] = SimpleNamespace(identity="pixels", dim=64)
        hashes = [self.hash_of(task_id) for task_id in self.tasks]
        self.context.vectors.append("pixels", 64, hashes, pixels[:n].astype(np.float32))
        self.context.store.tasks.set_content(self.pid, dict(zip(self.tasks, hashes, strict=True)))

    @staticmethod
    def hash_of(task_id):
        return f"{task_id:064x}"

    def _write(self, task_ids, annotations):
        given = [
            Task(
                task_id=task_id,
                data=self._data[task_id],
                updated_at=self.now,
                is_labeled=bool(annotations.get(task_id)),
                total_annotations=len(annotations.get(task_id, ())),
                cancelled_annotations=0,
                annotations=annotations.get(task_id),
            )
            for task_id in task_ids
        ]
        self.context.store.tasks.upsert(self.pid, given, image_field="image")

    def settings(self, **words):
        self.context.store.projects.set(self.pid, settings_json=ProjectSettings(**words).model_dump_json())

    def describe(self, **columns):
        """Give tasks fields: name -> {task: value}."""
        for name, values in columns.items():
            for task_id, value in values.items():
                self._data[task_id] = {**self._data[task_id], name: value}
        self._write(self.tasks, {})

    def label(self, *task_ids, by=1, label=None):
        """Submit the truth, or `label`, a millisecond apart."""
        for task_id in task_ids:
            self.now += timedelta(milliseconds=1)
            made = Annotation(next(self._answers), task_id, tuple(result_of("0")), False, False, by, self.now, self.now)
            self._write([task_id], {task_id: (made,)})
        chosen = {task_id: (label or self.truth[task_id], None) for task_id in task_ids}
        self.context.store.tasks.set_labels(self.pid, chosen)
        share_holdout(self.context, self.pid, self.schema)

    def serve(self, task_ids, *, flipped=None):
        """Put a window in force, from a minute ago unless told otherwise."""
        window = Window("al-cold:1", self.pid, 1, None, tuple(task_ids), 0)
        self.context.store.windows.add(window)
        self.context.store.windows.flipped(self.pid, window.version, flipped or self.now - timedelta(minutes=1))

    @property
    def project(self):
        return self.context.project(self.pid)

    def view(self):
        return view(self.context, self.project, self.schema, DEFAULT_BACKBONE)

    def train(self):
        seen = self.view()
        return retrain(self.context, self.project, self.schema, seen.labelled, seen.standardiser)

    def rank(self, k=20, *, model=None):
        return rerank(self.context, self.project, self.schema, self.view(), model, k)

    def problems(self, code):
        opened = self.context.store.problems.open(self.pid)
        return {item.finding.subject: item.finding for item in opened if item.finding.code == code}


@pytest.fixture
def desk_class():
    return Desk


@pytest.fixture
def make_desk(tmp_path):
    made = []

    def make(n=200, **words):
        desk = Desk(tmp_path / f"desk{len(made)}", n)
        made.append(desk)
        desk.settings(**words)
        return desk

    yield make
    for desk in made:
        desk.context.close()
