"""Texts as tasks: read, embedded, learned from and ranked like images; a project that is only in the store."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest

from ls_backend.domain import Annotation, Task
from ls_backend.engine import backbones
from ls_backend.engine.context import Context
from ls_backend.engine.embed_pool import embed_pool
from ls_backend.engine.predict import predict_tasks
from ls_backend.engine.rerank import rerank
from ls_backend.engine.retrain import retrain
from ls_backend.engine.sync import share_holdout
from ls_backend.engine.view import view
from ls_backend.labelstudio import label_config
from ls_backend.settings import DEFAULT_BACKBONE, TEXT_BACKBONE, ProjectSettings, Settings

CONFIG = (
    '<View><Text name="text" value="$text"/><Choices name="mood" toName="text">'
    '<Choice value="praise"/><Choice value="complaint"/></Choices></View>'
)
THINGS = ["delivery", "phone", "staff", "lamp", "website", "chair", "manual", "table", "shop", "cable"]
SAID = {"praise": "I love and recommend the {}", "complaint": "Never again, the {} was broken"}


class Desk:
    pid = 1

    def __init__(self, folder, texts, config=CONFIG, **words):
        self.context = Context(Settings(data_dir=folder, device="cpu"))
        self.store = self.context.store
        self.store.projects.ensure(self.pid, label_config=config)
        self.store.projects.set(self.pid, settings_json=ProjectSettings(**{"min_labels": 4, **words}).model_dump_json())
        self.now = datetime(2026, 3, 1, tzinfo=UTC)
        self.write(texts)

    def write(self, texts, annotations=None):
        given = [
            Task(task_id, {"text": text}, self.now, bool(annotations), len(annotations or ()), 0, annotations)
            for task_id, text in texts.items()
        ]
        self.store.tasks.upsert(self.pid, given, image_field="text")

    def label(self, task_id, text, label):
        self.now += timedelta(seconds=1)
        region = {"from_name": "mood", "to_name": "text", "type": "choices", "value": {"choices": [label]}}
        made = Annotation(task_id, task_id, (region,), False, False, 1, self.now, self.now)
        self.write({task_id: text}, (made,))
        self.store.tasks.set_labels(self.pid, {task_id: (label, None)})
        share_holdout(self.context, self.pid, self.schema)

    @property
    def schema(self):
        return label_config.parse(self.project.label_config)

    @property
    def project(self):
        return self.context.project(self.pid)

    def view(self):
        return view(self.context, self.project, self.schema, backbones.in_force(self.context, self.project))

    def problems(self):
        return {item.finding.subject: item.finding for item in self.store.problems.open(self.pid)}


@pytest.fixture
def make_desk(tmp_path):
    made = []

    def make(texts, **how):
        desk = Desk(tmp_path / f"desk{len(made)}", texts, **how)
        made.append(desk)
        return desk

    yield make
    for desk in made:
        desk.context.close()


def test_texts_are_embedded_whatever_the_backbone_of_images_and_once_per_content(make_desk):
    desk = make_desk({1: "good", 2: "bad", 3: "good", 4: "ü \ud800"}, backbone="resnet18")
    done = embed_pool(desk.context, desk.pid)
    assert (done.read, done.failed, done.remaining) == (4, 0, False)
    rows = {row.task_id: row.content_hash for row in desk.store.tasks.images(desk.pid, [1, 2, 3])}
    assert rows[1] == rows[3] == hashlib.sha256(b"good").hexdigest()
    made_by = desk.context.text_backbone
    assert len(desk.context.vectors.known(made_by.identity, made_by.dim)) == 3
    assert not backbones.changing(desk.context, desk.project)


@pytest.mark.parametrize("empty", ["", "  \n", None])
def test_a_task_without_a_text_is_a_problem_of_its_own_until_it_has_one(make_desk, empty):
    desk = make_desk({1: "good", 2: empty})
    done = embed_pool(desk.context, desk.pid)
    assert (done.read, done.failed) == (1, 1)
    assert desk.problems()["task 2"].code == "text-missing"
    assert desk.view().spare == [2], "it is served last"
    desk.now += timedelta(seconds=1)
    desk.write({2: "now there is one"})
    assert embed_pool(desk.context, desk.pid).read == 1
    assert desk.problems() == {}


def test_a_changed_text_is_embedded_anew(make_desk):
    desk = make_desk({1: "good"})
    embed_pool(desk.context, desk.pid)
    desk.now += timedelta(seconds=1)
    desk.write({1: "bad"})
    assert embed_pool(desk.context, desk.pid).read == 1
    assert desk.store.tasks.images(desk.pid, [1])[0].content_hash == hashlib.sha256(b"bad").hexdigest()


def test_texts_are_learned_ranked_and_predicted(make_desk):
    said = [(SAID[mood].format(thing), mood) for thing in THINGS for mood in SAID]
    texts = {task_id: text for task_id, (text, _) in enumerate(said, start=1)}
    truth = {task_id: mood for task_id, (_, mood) in enumerate(said, start=1)}
    desk = make_desk(texts)
    embed_pool(desk.context, desk.pid)
    for task_id in range(1, 9):
        desk.label(task_id, texts[task_id], truth[task_id])
    seen = desk.view()
    model = retrain(desk.context, desk.project, desk.schema, seen.labelled, seen.standardiser)
    assert (model.version.backbone, model.version.state) == (TEXT_BACKBONE, "promoted")
    ranked = rerank(desk.context, desk.project, desk.schema, seen, model, 100)
    assert sorted(row.task_id for row in ranked.rows) == list(range(9, 21))
    assert predict_tasks(desk.context, desk.pid, list(range(9, 21))) == 12
    found = desk.store.predictions.get(desk.pid, model.version.version_id, range(9, 21))
    right = [desk.schema.classes[desk.schema.likeliest(row)[0]] == truth[task_id] for task_id, row in found.items()]
    assert sum(right) == 12, "the openings are all the same"


def test_a_project_that_turns_to_images_lets_go_of_what_it_knew_of_texts(make_desk):
    desk = make_desk({1: "good", 2: "bad", 3: "good one", 4: "bad one"})
    embed_pool(desk.context, desk.pid)
    for task_id, label in ((1, "praise"), (2, "complaint"), (3, "praise"), (4, "complaint")):
        desk.label(task_id, "text", label)
    embed_pool(desk.context, desk.pid)
    seen = desk.view()
    retrain(desk.context, desk.project, desk.schema, seen.labelled, seen.standardiser)
    assert backbones.in_force(desk.context, desk.project) == TEXT_BACKBONE
    desk.store.projects.set(desk.pid, label_config=CONFIG.replace("<Text ", "<Image "))
    assert backbones.in_force(desk.context, desk.project) == DEFAULT_BACKBONE
    assert predict_tasks(desk.context, desk.pid, [1]) == 0
