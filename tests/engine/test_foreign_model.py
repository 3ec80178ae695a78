"""Somebody else's model under our ranking: real processes, a project of texts that is only in the store."""

from __future__ import annotations

import itertools
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ls_backend.domain import Annotation, Task
from ls_backend.engine import deep, foreign_model, judge, shown
from ls_backend.engine.context import Context
from ls_backend.engine.embed_pool import embed_pool
from ls_backend.engine.rerank import rerank
from ls_backend.engine.sync import share_holdout
from ls_backend.engine.view import view
from ls_backend.labelstudio import label_config
from ls_backend.settings import TEXT_BACKBONE, ProjectSettings, Settings

FOREIGN = Path(__file__).parents[1] / "foreign"
CONFIG = (
    '<View><Text name="text" value="$text"/><Choices name="label" toName="text" choice="single">'
    '<Choice value="a"/><Choice value="b"/></Choices></View>'
)
MODEL = "odd:Obedient"


class Desk:
    """Texts, and people who label them; the model answers each text as the text says."""

    pid = 1

    def __init__(self, folder, texts, config=CONFIG):
        self.context = Context(
            Settings(data_dir=folder, label_studio_url="http://127.0.0.1:9", label_studio_api_key="none")
        )
        self.store = self.context.store
        self.store.projects.ensure(self.pid, label_config=config)
        self.texts = dict(enumerate(texts, start=1))
        self.now = datetime(2026, 3, 1, tzinfo=UTC)
        self.numbers = itertools.count(1)
        self.write(self.texts)
        self.settings()
        embed_pool(self.context, self.pid)

    @property
    def schema(self):
        return label_config.parse(self.project.label_config)

    @property
    def project(self):
        return self.context.project(self.pid)

    def settings(self, model=MODEL, **words):
        stored = ProjectSettings(**{"min_labels": 2, "model": model, **words})
        self.store.projects.set(self.pid, settings_json=stored.model_dump_json())

    def configure(self, config):
        self.store.projects.set(self.pid, label_config=config)

    def write(self, task_ids, annotations=None):
        given = [
            Task(task_id, {"text": self.texts[task_id]}, self.now, bool(annotations), len(annotations or ()), 0,
                 annotations)
            for task_id in task_ids
        ]  # fmt: skip
        self.store.tasks.upsert(self.pid, given, image_field="text")

    def label(self, task_id, label="a", **how):
        self.now += timedelta(seconds=1)
        region = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}
        words = {"was_cancelled": False, "ground_truth": False, "completed_by": 1, **how}
        made = Annotation(next(self.numbers), task_id, (region,), created_at=self.now, updated_at=self.now, **words)
        earlier = self.store.tasks.annotations(self.pid, [task_id]).get(task_id, ())
        self.write([task_id], (*earlier, made))
        self.store.tasks.set_labels(self.pid, {task_id: (label, None)})
        share_holdout(self.context, self.pid, self.schema)

    def train(self):
        (training,) = deep.ask(self.context, self.pid, force=True)
        deep.train(self.context, training.training_id, lambda: None)
        return self.store.trainings.get(training.training_id)

    def judge(self):
        woken = []
        (name,) = [one.name for one in deep.subjects(self.project)]
        return judge.judge_pool(self.context, self.pid, name, woken.append)

    def seen(self):
        return self.store.inferences.of(self.pid, foreign_model.named(self.project))

    def shown(self, *task_ids, ours=(0.9, 0.1)):
        found = shown.results(self.store, self.pid, self.schema, dict.fromkeys(task_ids, ours))
        return {task_id: [region["value"]["choices"][0] for region in found[task_id]] for task_id in task_ids}

    def rank(self):
        seen = view(self.context, self.project, self.schema, TEXT_BACKBONE)
        return [row.task_id for row in rerank(self.context, self.project, self.schema, seen, None, 100).rows]

    def problems(self, about="model"):
        opened = self.store.problems.open(self.pid)
        return {item.finding.code: item.finding for item in opened if about in item.finding.subject}

    @property
    def versions(self):
        return [version.version_id.split(":")[2] for version in self.store.deep_versions.list(self.pid)]


@pytest.fixture
def make_desk(monkeypatch, tmp_path):
    places = [str(FOREIGN / "second"), str(FOREIGN / "models"), str(FOREIGN.parents[1])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*places, os.environ.get("PYTHONPATH", "")]))
    made = []

    def make(*texts, **how):
        desk = Desk(tmp_path / f"desk{len(made)}", texts, **how)
        made.append(desk)
        return desk

    yield make
    for desk in made:
        desk.context.close()


def test_it_answers_before_any_label_and_is_shown_in_place_of_ours(make_desk):
    desk = make_desk("a", "b", "nothing", "b")
    assert judge.due(desk.context, desk.pid) == [MODEL]
    assert desk.judge() == judge.Judged(4, 0)
    assert judge.due(desk.context, desk.pid) == []
    assert desk.shown(1, 2, 3) == {1: ["a"], 2: ["b"], 3: []}
    assert desk.shown(1, 2, ours=None) == {1: ["a"], 2: ["b"]}, "cold start"
    assert desk.versions == ["initial"]
    assert desk.seen().uncertainty[:2].tolist() == [0.25, 0.25]


def test_a_task_it_cannot_answer_is_named_counted_and_shown_as_ours(make_desk):
    desk = make_desk("a", "raise", "b", "short", "number")
    assert desk.judge() == judge.Judged(2, 3)
    finding = desk.problems()["foreign-model-failed"]
    assert "Task 2: The model raised ValueError" in finding.message
    assert finding.context["count"] == 3
    assert finding.context["tasks"] == [2, 4, 5]
    assert desk.shown(1, 2, 4) == {1: ["a"], 2: ["a"], 4: ["a"]}
    assert sorted(desk.rank()) == [1, 2, 3, 4, 5], "the queue has them all"
    assert judge.due(desk.context, desk.pid) == [], "what failed is asked again after it has learned"
    for task_id in (2, 4, 5):
        desk.texts[task_id] = "a"
        desk.write([task_id])
    embed_pool(desk.context, desk.pid)
    for task_id in (1, 3):
        desk.label(task_id)
    assert desk.train().state == "done"
    assert desk.judge() == judge.Judged(3, 0)
    assert desk.problems() == {}


def test_one_that_hangs_is_left_alone_and_the_rest_goes_on(make_desk, monkeypatch):
    monkeypatch.setattr(foreign_model, "ANSWER_S", 3.0)
    desk = make_desk("a", "hang", "b")
    assert desk.judge() == judge.Judged(2, 1)
    assert "gave no answer within 3 s" in desk.problems()["foreign-model-failed"].message
    assert desk.shown(2, 3) == {2: ["a"], 3: ["b"]}


def test_one_that_hangs_on_everything_is_not_asked_on_and_on(make_desk, monkeypatch):
    monkeypatch.setattr(foreign_model, "ANSWER_S", 0.5)
    desk = make_desk(*["hang"] * 20)
    done = desk.judge()
    assert (done.judged, done.failed) == (0, 2), "a batch and two tasks"
    assert "asked later" in desk.problems()["foreign-model-failed"].message
    assert judge.due(desk.context, desk.pid) == [], "it rests"
    monkeypatch.setattr(foreign_model, "REST", timedelta(0))
    assert judge.due(desk.context, desk.pid) == [MODEL]


@pytest.mark.parametrize(
    ("model", "code", "words"),
    [
        ("nowhere:Model", "foreign-model-unknown", "no module nowhere"),
        ("odd:Obedien", "foreign-model-unknown", "did you mean Obedient"),
        ("odd:Choosy", "foreign-model-failed", "I only work with audio"),
        ("odd:Slow", "foreign-model-failed", "gave no answer within"),
    ],
)
def test_one_that_cannot_be_loaded_stops_nothing_and_is_tried_again(make_desk, monkeypatch, model, code, words):
    monkeypatch.setattr(foreign_model, "LOAD_S", 5.0 if "Slow" in model else 60.0)
    desk = make_desk("a", "b", "c")
    desk.settings(model)
    assert desk.judge() == judge.Judged(0, 0)
    finding = desk.problems()[code]
    assert words in finding.message
    assert (finding.level, finding.subject) == ("error", f"foreign model {model}")
    assert sorted(desk.rank()) == [1, 2, 3]
    assert desk.shown(1) == {1: ["a"]}, "ours"
    assert judge.due(desk.context, desk.pid) == [], "it rests"
    monkeypatch.setattr(foreign_model, "REST", timedelta(0))
    assert judge.due(desk.context, desk.pid) == [model]
    desk.settings()
    deep.ask(desk.context, desk.pid)
    assert desk.problems() == {}, "nobody asks for it any more"
    assert desk.judge().judged >= 2


def test_it_learns_from_what_is_annotated_and_answers_anew(make_desk):
    desk = make_desk("a", "b", "c", "d", "e")
    desk.judge()
    desk.label(1, "b")
    assert deep.ask(desk.context, desk.pid) == [], "min_labels is 2"
    desk.label(1, "a", ground_truth=True)
    desk.label(2, "b")
    (training,) = deep.ask(desk.context, desk.pid)
    deep.train(desk.context, training.training_id, lambda: None)
    training = desk.store.trainings.get(training.training_id)
    assert training.state == "done", training.error
    assert training.version_id == desk.store.deep_versions.in_force(desk.pid, "odd:Obedient").version_id
    assert deep.ask(desk.context, desk.pid) == [], "20 new labels are waited for"
    assert desk.versions == ["fit-1", "initial"]
    assert judge.due(desk.context, desk.pid) == ["odd:Obedient"]
    assert desk.judge().judged == 3
    assert len(set(desk.seen().version_id[2:])) == 1


def test_the_annotation_that_counts_comes_first_and_a_test_set_stays_hidden(make_desk):
    desk = make_desk("a", "b", "c", "d", "e", "f")
    desk.label(1, "b", ground_truth=True)
    desk.label(1, "a")
    desk.label(2, was_cancelled=True)
    desk.label(3)
    (first, third) = foreign_model._annotated(desk.context, desk.project)
    assert [one["ground_truth"] for one in first["annotations"]] == [True, False]
    assert (first["id"], third["id"], third["data"]) == (1, 3, {"text": "c"})
    desk.settings(test_set=1)
    desk.store.tasks.lock_test_set(desk.pid, [3])
    assert [task["id"] for task in foreign_model._annotated(desk.context, desk.project)] == [1]


def test_a_fit_that_fails_is_named_and_what_was_learned_stays(make_desk):
    desk = make_desk("a", "b", "raise", "c")
    desk.label(1)
    desk.label(3)
    training = desk.train()
    assert training.state == "failed"
    assert "cannot learn this" in training.error
    assert "cannot learn this" in desk.problems("training")["foreign-model-failed"].message
    assert deep.ask(desk.context, desk.pid) == [], "not again on the same labels"
    assert desk.judge().judged == 2
    desk.texts[3] = "b"
    desk.write([3], desk.store.tasks.annotations(desk.pid, [3])[3])
    assert desk.train().state == "done"
    assert desk.problems("training") == {}


def test_a_fit_that_takes_too_long_is_ended(make_desk):
    desk = make_desk("a", "hang", "b")
    desk.settings(training={"minutes": 0.02})
    desk.label(1)
    desk.label(2)
    training = desk.train()
    assert training.state == "failed"
    assert "no answer within 1.2 s" in training.error


def test_a_fit_is_cancelled_and_shows_that_it_lives(make_desk, monkeypatch):
    monkeypatch.setattr(foreign_model, "_BEAT_S", 0.05)
    desk = make_desk("a", "hang", "b")
    desk.label(1)
    desk.label(2)
    (training,) = deep.ask(desk.context, desk.pid)
    beats = itertools.count(1)

    def beat():
        if next(beats) == 3:
            desk.store.trainings.cancel(desk.pid)

    assert deep.train(desk.context, training.training_id, beat) is None
    assert desk.store.trainings.get(training.training_id).state == "cancelled"
    assert desk.problems("training") == {}


def test_its_doubts_order_the_queue_and_what_it_does_not_say_stays_unknown(make_desk):
    desk = make_desk("sure", "doubtful", "unsaid", "sure too")
    desk.settings("odd:Doubtful", preset="margin")
    desk.judge()
    assert desk.rank()[0] == 2
    assert desk.seen().uncertainty[2] != desk.seen().uncertainty[2], "NaN"
    assert desk.store.inferences.results(desk.pid, "odd:Doubtful", [3])[3].is_answer
    assert desk.shown(3, ours=None) == {3: ["b"]}


def test_another_label_config_or_another_model_forgets_what_was_said(make_desk):
    desk = make_desk("a", "b")
    desk.judge()
    desk.configure(CONFIG.replace('value="b"', 'value="c"'))
    assert desk.shown(1, 2) == {1: ["a"], 2: ["a"]}, "ours until it has answered for the new labels"
    assert desk.judge().judged == 2
    assert desk.shown(2) == {2: []}
    assert "'b'" in desk.problems()["label-unknown"].message
    desk.configure(CONFIG.replace("<Choices ", '<Choices model_score_threshold="0.8" '))
    desk.judge()
    assert desk.shown(1) == {1: []}, "0.75 is below"
    assert desk.problems() == {}
    desk.settings(None)
    deep.ask(desk.context, desk.pid)
    assert desk.store.inferences.controls(desk.pid) == []
    assert desk.shown(1) == {1: ["a"]}
    assert deep.subjects(desk.project) == []


def test_tasks_somebody_waits_for_are_asked_about_at_once(make_desk):
    desk = make_desk("a", "b", "b")
    judge.judge_tasks(desk.context, desk.project, [1])
    assert not len(desk.seen().task_id), "it has not judged for this label config yet"
    desk.judge()
    desk.texts[4] = "b"
    desk.write([4])
    embed_pool(desk.context, desk.pid)
    assert shown.unseen(desk.store, desk.pid, desk.schema, [1, 4]) == {4}
    judge.judge_tasks(desk.context, desk.project, [1, 4])
    assert desk.shown(4) == {4: ["b"]}


def test_a_lost_folder_means_that_it_starts_from_nothing(make_desk):
    desk = make_desk("a", "b", "c", "d")
    desk.label(1)
    desk.label(2)
    desk.train()
    desk.judge()
    desk.context.drop_predictor(desk.pid)
    for path in desk.context.settings.models_path.glob("*/foreign-*/state.json"):
        path.unlink()
    assert desk.judge().judged == 2, "what it knows now"
    desk.train()
    assert desk.judge().judged == 2, "and again, though its first training had the same name"
