"""What an admin reads under "Send Test Request"."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import redis
from sqlalchemy import Engine, event

from ls_backend.domain import Annotation, Finding, Metrics, ModelVersion, Task, Window
from ls_backend.store import WindowRow

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def ask(backend, *task_ids):
    tasks = [{"id": task_id, "data": {"image": "/a.png"}} for task_id in task_ids]
    body = {"tasks": tasks, "project": "7.1795385194", "label_config": backend.config, "params": {}}
    answer = backend.http.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    return [entry["diagnosis"] for entry in answer.get_json()["results"]]


@pytest.fixture
def labelled(connected):
    """A project of four tasks, a window of three, one of them labelled, and a measured model."""
    store = connected.store
    made = Annotation(1, 3, (), False, False, 1, NOW, NOW)
    tasks = [
        Task(i, {"image": f"/{i}.png"}, NOW, i == 3, int(i == 3), 0, (made,) if i == 3 else ()) for i in (1, 2, 3, 4)
    ]
    store.tasks.upsert(7, tasks, image_field="image")
    store.tasks.set_labels(7, {3: ("cat", None)})
    metrics = Metrics(5, accuracy=0.8)
    version = ModelVersion(
        "al-1-0123abcd", 7, 1, "efficientnet_lite0", ("cat", "dog"), (0, 0), 1, "0" * 64, 1.0, metrics, "promoted", NOW
    )
    store.versions.add(version)
    rows = [WindowRow(i, place, 1.0, {}, {}, f"reason {i}") for place, i in enumerate((2, 1, 3))]
    store.windows.add(Window("al-1-0123abcd:1", 7, 1, version.version_id, (2, 1, 3), 1), rows)
    store.windows.flipped(7, "al-1-0123abcd:1", NOW)
    store.predictions.put(7, version.version_id, dict.fromkeys((1, 2, 3, 4), (0.9, 0.1)))
    return connected


def test_it_says_what_serves_what_is_left_and_where_the_task_stands(labelled):
    second, beside = ask(labelled, 1, 4)
    assert second["model"] == "al-1-0123abcd, trained with 1 of 1 labels, accuracy 80% on 5 held out"
    assert second["window"] == "al-1-0123abcd:1 is in force, 2 of 3 tasks left"
    assert second["problems"] == "none"
    assert second["task"] == "task 1 has rank 1: reason 1"
    assert "task 4 is not in the window" in beside["task"]
    assert "no_prediction" not in second


def test_the_worst_problem_is_told_with_its_message(labelled):
    report = labelled.store.problems.report
    report(7, Finding("image-unreadable", "warning", "task 1", "The image is gone."))
    report(7, Finding("model-version", "error", "annotation settings", "The model version is not ours."))
    report(7, Finding("overlap", "warning", "annotation settings", "Two annotations."))
    (told,) = ask(labelled, 1)
    assert told["problems"] == "3 open; the worst is model-version: The model version is not ours."
    assert "NOT in force" in told["window"]


def test_an_order_that_was_put_back_is_in_force(labelled):
    finding = Finding("model-version", "warning", "annotation settings", "It was put back.")
    labelled.store.problems.report(7, finding)
    (told,) = ask(labelled, 1)
    assert "is in force" in told["window"]
    assert told["problems"] == "1 open; it is model-version: It was put back."


def test_missing_workers_are_named_and_those_that_live_are_counted(labelled):
    (told,) = ask(labelled, 1)
    assert "no rank and no embed worker is alive" in told["workers"]
    assert "ls-backend start" in told["workers"]
    connection = redis.Redis.from_url(labelled.queues.url)
    for queue in ("rank", "embed"):
        connection.sadd(f"rq:workers:{queue}", f"rq:worker:{queue}-here", f"rq:worker:{queue}-dead")
        connection.set(f"lsb:alive:{queue}-here", "1")
    connection.close()
    (told,) = ask(labelled, 1)
    assert told["workers"] == "1 rank, 1 embed, 0 train"


def test_before_any_order_it_says_what_is_waited_for(connected):
    (told,) = ask(connected, 1)
    assert told["no_prediction"] == "there is no model yet"
    assert told["model"] == "no model yet: 0 of 10 labels"
    assert told["window"] == "no order has been published yet"


def test_without_redis_the_rest_is_told(deploy):
    backend = deploy(redis_url="redis://127.0.0.1:1/0")
    backend.set_up()
    (told,) = ask(backend, 1)
    assert "Redis" in told["workers"]
    assert told["model"] == "no model yet: 0 of 10 labels"


def test_many_tasks_cost_no_more_questions_than_one(labelled):
    asked = []

    def note(*about):
        asked.append(about[2])

    event.listen(Engine, "before_cursor_execute", note)
    try:
        ask(labelled, 1)
        for_one = len(asked)
        ask(labelled, 1, 2, 3, 4)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert 0 < len(asked) - for_one <= for_one
