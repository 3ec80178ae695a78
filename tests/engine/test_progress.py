"""How far a project has come: everything from records, with no worker and no Label Studio."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from scipy.stats import binomtest

from ls_backend.domain import Annotation, Finding, Metrics, ModelVersion, Task, Window
from ls_backend.engine import progress
from ls_backend.settings import ProjectSettings
from ls_backend.store import DeepVersion, Store

CHOICES = (
    '<View><Image name="image" value="$image"/><Choices name="kind" toName="image">'
    '<Choice value="crack"/><Choice value="rust"/><Choice value="none"/></Choices>{more}</View>'
)
BOXES = '<RectangleLabels name="where" toName="image"><Label value="crack"/><Label value="hole"/></RectangleLabels>'
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def store(tmp_path):
    opened = Store(f"sqlite:///{tmp_path / 'records.sqlite3'}")
    opened.projects.ensure(1, label_config=CHOICES.format(more=""))
    yield opened
    opened.dispose()


def now(store):
    return progress.state(store, store.projects.get(1))


def add_tasks(store, n, *, labels=(), read=True):
    """Tasks 1 to n, the first of them with a label each."""
    tasks = [Task(i, {"image": f"/{i}.png"}, NOON, i <= len(labels), int(i <= len(labels)), 0) for i in range(1, n + 1)]
    store.tasks.upsert(1, tasks, image_field="image")
    store.tasks.set_labels(1, {i: (label, None) for i, label in enumerate(labels, start=1)})
    if read:
        store.tasks.set_content(1, {task.task_id: f"{task.task_id:064x}" for task in tasks})


def add_version(store, round_, *, accuracy=None, n=0, state="promoted", test_set=False, labels=40):
    version = ModelVersion(
        f"al-{round_}-0badcafe", 1, round_, "net", ("crack", "rust", "none"), (0, 0, 0), labels, "0" * 64, 1.0,
        Metrics(n, accuracy, test_set=test_set), state, NOON + timedelta(minutes=round_),
    )  # fmt: skip
    store.versions.add(version)


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 30), (17, 20), (30, 30), (450, 500)])
def test_the_interval_is_scipys_wilson_interval(hits, n):
    expected = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert progress.wilson(hits / n, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_of_many_versions_the_curve_takes_some_evenly_and_the_newest(store, monkeypatch):
    monkeypatch.setattr(progress, "CURVE_POINTS", 4)
    for i in range(1, 11):
        add_version(store, i, accuracy=0.5, n=10, labels=i)
    assert [one.n_labels for one in progress.learning_curve(store, 1)] == [1, 4, 7, 10]


def test_the_curve_has_a_point_for_every_version_that_was_measured(store):
    add_version(store, 1, labels=4)
    add_version(store, 2, accuracy=0.5, n=10, labels=20)
    add_version(store, 3, accuracy=0.4, n=20, labels=30, state="rejected")
    add_version(store, 4, accuracy=0.8, n=50, labels=60, test_set=True)
    curve = progress.learning_curve(store, 1)
    assert [(one.n_labels, one.value, one.n_measured, one.measured_on, one.state) for one in curve] == [
        (20, 0.5, 10, "hold-out", "promoted"),
        (30, 0.4, 20, "hold-out", "rejected"),
        (60, 0.8, 50, "test set", "promoted"),
    ]
    for one in curve:
        low, high = binomtest(round(one.value * one.n_measured), one.n_measured).proportion_ci(0.95, method="wilson")
        assert (one.metric, one.control) == ("accuracy", None)
        assert (one.low, one.high) == pytest.approx((low, high))


def test_deep_versions_are_points_without_an_interval(store):
    add_version(store, 1, accuracy=0.5, n=10)
    metrics = {"map50": 0.25, "map50_95": 0.125}
    for number, (measured, control) in enumerate(((metrics, "where"), ({}, "else")), start=1):
        store.deep_versions.add(
            DeepVersion(
                f"deep-{number}-0badcafe", 1, control, "rectanglelabels", number, "net", ("crack",), 70, "0" * 64,
                measured, "promoted", NOON,
            )
        )  # fmt: skip
    first, second = progress.learning_curve(store, 1)
    assert (first.control, first.metric, first.value, first.low, first.n_labels) == ("where", "map50", 0.25, None, 70)
    assert second.control is None


def test_the_throughput_begins_at_a_full_hour(store):
    at = datetime.now(UTC)
    begun = at.replace(minute=0, second=0, microsecond=0)
    made = [begun - timedelta(hours=1, seconds=1), begun - timedelta(minutes=30), begun, at]
    tasks = [
        Task(i, {}, when, True, 1, 0, (Annotation(i, i, (), False, False, 5, when, when),))
        for i, when in enumerate(made, start=1)
    ]
    store.tasks.upsert(1, tasks, image_field="image")
    counted = progress.throughput(store, 1, 2)
    if datetime.now(UTC).hour == at.hour:  # else an hour has begun meanwhile
        assert [(one.hour, one.annotator_id, one.labels) for one in counted] == [
            (begun - timedelta(hours=1), 5, 1),
            (begun, 5, 2),
        ]


def test_every_class_is_counted_also_those_nobody_has_seen(store):
    add_tasks(store, 6, labels=("rust", "crack", "rust", "gone from the config"))
    counted = progress.class_balance(store, store.projects.get(1))
    assert [(one.control, one.label, one.n) for one in counted] == [
        ("kind", "crack", 1),
        ("kind", "rust", 2),
        ("kind", "none", 0),
    ]


def test_a_task_counts_for_each_of_its_labels(store):
    store.projects.set(1, label_config=CHOICES.format(more=BOXES))
    answers = ('{"kind": ["rust"], "where": ["crack", "hole"]}', '{"where": ["hole"]}', '{"where": []}')
    add_tasks(store, 6, labels=(*answers, "rust", "7"))  # the last two are from before there were two controls
    counted = {(one.control, one.label): one.n for one in progress.class_balance(store, store.projects.get(1))}
    assert counted == {
        ("kind", "crack"): 0,
        ("kind", "rust"): 1,
        ("kind", "none"): 0,
        ("where", "crack"): 1,
        ("where", "hole"): 2,
    }


def test_a_label_config_nothing_can_be_learnt_from_has_no_classes(store):
    store.projects.set(1, label_config="<View/>")
    assert progress.class_balance(store, store.projects.get(1)) == []


def test_a_project_waits_for_tasks_then_for_images_then_for_labels(store):
    store.projects.set(1, settings_json=ProjectSettings(min_labels=7).model_dump_json())
    assert (now(store).name, now(store).sentence[:22]) == ("waiting for labels", "There are no tasks yet")
    add_tasks(store, 20, read=False)
    assert "None of 20 tasks has been read" in now(store).sentence
    add_tasks(store, 20, labels=("rust",) * 3)
    assert now(store).sentence == "3 of 7 labels that the first model takes."
    add_tasks(store, 20, labels=("rust",) * 8)
    assert "the next update trains the first model" in now(store).sentence
    store.problems.report(1, Finding("too-few-labels", "warning", "training", "All 8 labels are of one class."))
    found = now(store)
    assert (found.name, found.sentence) == ("waiting for labels", "All 8 labels are of one class.")
    assert (found.tasks, found.labels, found.model_version, found.accuracy, found.low) == (20, 8, None, None, None)


def test_a_project_with_a_model_is_learning_and_says_how_good_it_is(store):
    add_tasks(store, 100, labels=("rust",) * 40)
    add_version(store, 1, accuracy=0.9, n=20)
    found = now(store)
    assert (found.name, found.model_version, found.measured_on) == ("learning", "al-1-0badcafe", "hold-out")
    assert found.sentence == (
        "al-1-0badcafe has learnt from 40 labels; 90 % of 20 labels of the hold-out are right "
        "(95 % interval 70 to 97 %)."
    )
    add_version(store, 2)
    assert "none of them is held out" in now(store).sentence
    add_tasks(store, 100, labels=("rust",) * 100)
    assert now(store).sentence == "All 100 tasks are labelled."


def test_an_error_is_a_problem_and_a_warning_is_not(store):
    add_tasks(store, 10)
    store.problems.report(1, Finding("image-unreadable", "warning", "task 3", "It is damaged."))
    assert (now(store).name, now(store).problems) == ("waiting for labels", 1)
    store.problems.report(1, Finding("unreachable", "error", "job update", "Label Studio gave no answer."))
    store.problems.report(1, Finding("image-unreadable", "warning", "task 4", "It is damaged."))
    found = now(store)
    assert (found.name, found.sentence, found.problems) == ("problem", "job update: Label Studio gave no answer.", 3)
    store.problems.resolve(1, "unreachable")
    assert now(store).name == "waiting for labels"


def test_the_window_and_the_last_update_are_those_in_force(store):
    add_tasks(store, 10, labels=("rust", "none"))
    assert (now(store).window, now(store).window_left, now(store).updated_at) == (None, 0, None)
    store.windows.add(Window("al-cold:1", 1, 1, None, (1, 5, 6, 2, 7), 0))
    store.windows.flipped(1, "al-cold:1", NOON)
    for status in ("done", "failed"):
        store.runs.finish(store.runs.start(1, "update"), status, {})
    found = now(store)
    done = next(run for run in store.runs.recent(1, 5) if run.status == "done")
    assert (found.window, found.window_left, found.updated_at) == ("al-cold:1", 3, done.finished_at)


def test_the_server_can_import_it_without_torch():
    program = "import sys, ls_backend.engine.progress; print({'torch', 'lancedb', 'cv2', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
