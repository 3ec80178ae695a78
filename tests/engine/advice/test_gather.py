"""The advice on a project that is in the store, and what is kept of a replay."""

import itertools
import json
from datetime import datetime, timedelta

import numpy as np
import pytest
from typer.testing import CliRunner

from ls_backend.cli import app
from ls_backend.domain import Annotation, Task
from ls_backend.engine.advice import KIND, SAVINGS, advise, due, renew, replay_savings
from ls_backend.errors import SettingsError
from ls_backend.labelstudio import label_config

CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="digit" toName="image" choice="single">'
    + "".join(f'<Choice value="{name}"/>' for name in "0123456789")
    + "</Choices></View>"
)
_annotations = itertools.count(10_000)


@pytest.fixture
def make(make_desk):
    def make(n=300, **words):
        desk = make_desk(n, **{"min_labels": 4, **words})
        desk.context.store.projects.set(desk.pid, label_config=CONFIG)
        return desk

    return make


def course(desk, counts):
    """Label in a random order, and train after so many labels."""
    order = [int(i) for i in np.random.default_rng(0).permutation(desk.tasks)]
    done = 0
    for count in counts:
        desk.label(*order[done:count])
        done = count
        desk.train()
    return order[:done]


def answer(desk, task_id, **said):
    """Let several people answer a task: annotator -> label."""
    made = tuple(
        Annotation(
            next(_annotations),
            task_id,
            ({"from_name": "digit", "to_name": "image", "type": "choices", "value": {"choices": [label]}},),
            False,
            False,
            int(who.removeprefix("by")),
            desk.now,
            desk.now,
        )
        for who, label in said.items()
    )
    task = Task(task_id, desk._data[task_id], desk.now, True, len(made), 0, made)
    desk.context.store.tasks.upsert(desk.pid, [task], image_field="image")


def test_a_new_project_is_told_that_it_is_too_early(make):
    advice = advise(make(60).context, 1)
    assert (advice.n_labels, advice.stop.verdict, advice.drift.verdict) == (0, "too-early", "too-early")
    assert advice.relabel.sentence.startswith("Too early")


def test_a_project_without_an_embedding_is_told_so_too(make):
    desk = make(60)
    desk.context.store.tasks.forget_content(desk.pid, desk.tasks)
    advice = advise(desk.context, 1)
    assert (advice.stop.verdict, advice.drift.verdict, advice.duplicates.n_checked) == ("too-early", "too-early", 0)


def test_a_project_that_was_never_connected_is_refused(make):
    with pytest.raises(SettingsError, match="not connected"):
        advise(make(20).context, 99)


def test_everything_is_looked_at_and_can_be_written_as_json(make):
    desk = make(500)
    course(desk, range(30, 240, 20))
    first = [task for task in desk.tasks if desk.context.store.tasks.rows(1).label[task - 1] is not None][:3]
    desk.label(first[0], label=str((int(desk.truth[first[0]]) + 5) % 10))
    answer(desk, first[1], by1="1", by2="2")
    answer(desk, first[2], by1="3", by2="3")
    said = []
    advice = advise(desk.context, 1, say=said.append)
    assert advice.n_labels == 230
    assert (advice.stop.forecast.n_models >= 5, advice.stop.forecast.n_labels) == (True, 230)
    assert advice.stop.verdict != "too-early"
    assert first[0] in [one.task_id for one in advice.relabel.suspects]
    assert [one.task_id for one in advice.disagreement.tasks] == [first[1]]
    assert advice.disagreement.n_tasks == 2
    assert advice.drift.verdict != "too-early"
    assert len(said) >= 5
    plain = advice.plain()
    assert {"stop", "relabel", "disagreement", "duplicates", "drift"} <= set(plain)
    assert set(plain["sentences"]) == {"stop", "relabel", "disagreement", "duplicates", "drift"}
    desk.context.store.insights.put(1, KIND, plain)
    assert desk.context.store.insights.get(1, KIND).content == json.loads(json.dumps(plain, allow_nan=False))


def test_the_forecast_is_measured_on_what_is_held_out_today(make):
    desk = make(400)
    course(desk, range(30, 200, 15))
    seen = desk.view()
    forecast = advise(desk.context, 1).stop.forecast
    assert forecast.n_holdout == int(seen.labelled.holdout.sum())
    right = ~desk_model(desk).evaluation.wrong(
        seen.labelled.features[seen.labelled.holdout], seen.labelled.targets[seen.labelled.holdout]
    )
    assert forecast.accuracy == pytest.approx(right.mean())


def desk_model(desk):
    from ls_backend.engine.retrain import load

    return load(desk.context, desk.context.store.versions.latest(desk.pid))


def test_several_controls_are_judged_side_by_side_and_spoken_as_people_read_them(make):
    desk = make(300)
    config = CONFIG.replace(
        "</View>",
        '<Choices name="tags" toName="image" choice="multiple"><Choice value="odd"/><Choice value="big"/></Choices>'
        "</View>",
    )
    desk.context.store.projects.set(desk.pid, label_config=config)
    schema = label_config.parse(config)
    said = {
        task: schema.written({"digit": [digit], "tags": [*["odd"] * (int(digit) % 2), *["big"] * (int(digit) > 4)]})
        for task, digit in list(desk.truth.items())[:120]
    }
    desk.context.store.tasks.set_labels(desk.pid, {task: (label, None) for task, label in said.items()})
    desk.context.store.tasks.set_content(desk.pid, {1: "copy", 2: "copy"})
    desk.context.vectors.append("pixels", 64, ["copy"], np.ones((1, 64), np.float32))
    advice = advise(desk.context, desk.pid)
    assert advice.relabel.n_checked == 120 * 3  # a choice and two labels that hold or not
    group = advice.duplicates.groups[0]
    assert (group.task_ids, group.labels) == ((1, 2), ("digit: 0; tags: nothing", "digit: 1; tags: odd"))


def test_a_lost_model_is_left_out(make):
    desk = make(300)
    course(desk, range(30, 160, 20))
    before = advise(desk.context, 1).stop.forecast.n_models
    lost = desk.context.store.versions.latest(1)
    for file in (desk.context.settings.models_path / "1" / lost.version_id).iterdir():
        file.unlink()
    after = advise(desk.context, 1)
    assert after.stop.forecast.n_models == before - 1


def test_labels_of_a_test_set_are_not_learnt_from(make):
    desk = make(300, test_set=40)
    desk.rank()  # an update draws it
    from ls_backend.engine import test_set

    test_set.draw(desk.context, desk.project)
    locked = sorted(desk.context.store.tasks.test_set(1))
    desk.label(*locked[:30])
    desk.label(*[task for task in desk.tasks if task not in locked][:60])
    advice = advise(desk.context, 1)
    assert (advice.n_labels, advice.relabel.n_checked) == (90, 60)


@pytest.mark.parametrize(
    ("minutes", "n_labels", "again"),
    [(1, 100, False), (1, 149, False), (1, 150, True), (11, 100, False), (11, 101, True), (11, 99, True)],
)
def test_advice_is_made_again_after_ten_minutes_or_many_labels(make, monkeypatch, minutes, n_labels, again):
    desk = make(200)
    desk.label(*desk.tasks[:n_labels])
    monkeypatch.setattr("ls_backend.store.insights.datetime", Earlier(minutes))
    desk.context.store.insights.put(1, KIND, {"n_labels": 100})
    assert due(desk.context.store, 1) is again


class Earlier:
    """A clock that is behind."""

    def __init__(self, minutes):
        self.minutes = minutes

    def now(self, zone):
        return datetime.now(zone) - timedelta(minutes=self.minutes)


def test_advice_that_was_never_made_is_due_once_labels_can_be_judged(make):
    desk = make(60)
    desk.label(*desk.tasks[:19])
    assert not due(desk.context.store, 1)
    desk.label(desk.tasks[19])
    assert due(desk.context.store, 1)
    renew(desk.context, 1, say=lambda _: None)
    assert desk.context.store.insights.get(1, KIND).content["n_labels"] == 20
    assert not due(desk.context.store, 1)


def test_what_a_replay_has_shown_is_kept(make):
    desk = make(200)
    desk.label(*desk.tasks[:120])
    said = []
    content = replay_savings(desk.context, 1, say=said.append)
    kept = desk.context.store.insights.get(1, SAVINGS).content
    assert kept == json.loads(json.dumps(content))
    assert kept["refused"] is None
    assert [plan["name"] for plan in kept["plans"]] == ["random", "plan in force"]
    assert kept["plans"][1]["labels_saved"]["sentence"].startswith("Labels saved against random")
    assert kept["settings"] == {"batch": 10, "rounds": 20, "seeds": 10}
    assert said


def test_too_few_labels_for_a_replay_are_told_and_no_fault(make):
    desk = make(60)
    desk.label(*desk.tasks[:30])
    replay_savings(desk.context, 1, say=lambda _: None)
    kept = desk.context.store.insights.get(1, SAVINGS).content
    assert "Too few labels to replay" in kept["refused"]
    assert "plans" not in kept


def run(desk, *arguments):
    """Run the command on a desk; answer its exit status, and what it printed on standard output."""
    environment = {"DATA_DIR": str(desk.context.settings.data_dir), "DEVICE": "cpu", "COLUMNS": "160"}
    done = CliRunner().invoke(app, ["advice", *arguments], env=environment)
    return done.exit_code, done.stdout


def test_the_command_prints_every_part_and_as_json_all_of_it(make, monkeypatch):
    desk = make(300)
    desk.label(*desk.tasks[:80])
    answer(desk, 1, by1="1", by2="2")
    # The command makes a context of its own, which has to know the stand-in for the backbone, too.
    monkeypatch.setattr("ls_backend.engine.context.Context", lambda _: desk.context)
    status, text = run(desk, "--project", "1")
    words = " ".join(text.split())
    assert status == 0
    for title in ("Stop or go on: Too early", "Wrong labels:", "Disagreement:", "Near-duplicates:", "Drift:"):
        assert title in words
    status, text = run(desk, "--project", "1", "--json")
    assert status == 0
    assert json.loads(text)["sentences"]["drift"] in words


def test_the_command_explains_a_project_it_does_not_know(make):
    status, _ = run(make(20), "--project", "99")
    assert status == 1
