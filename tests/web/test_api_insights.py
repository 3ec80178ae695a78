"""The JSON that the pages about a project read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ls_backend.domain import Annotation, Task


@pytest.fixture
def labelled(connected):
    """Project 7 with four tasks, two of them labelled now by annotator 3."""
    now = datetime.now(UTC)
    answers = {i: (Annotation(i, i, (), False, False, 3, now, now),) for i in (1, 2)}
    given = [Task(i, {"image": f"/{i}.png"}, now, i <= 2, int(i <= 2), 0, answers.get(i)) for i in range(1, 5)]
    connected.store.tasks.upsert(7, given, image_field="image")
    connected.store.projects.set(7, label_config=connected.config)  # as the first update does
    connected.store.tasks.set_labels(7, {1: ("cat", None), 2: ("cat", None)})
    return connected


def test_the_progress_of_a_project(labelled):
    labelled.promote()
    labelled.publish(task_ids=(1, 3, 4))
    told = labelled.http.get("/api/projects/7/progress").get_json()
    assert (told["state"]["name"], told["state"]["labels"], told["state"]["window_left"]) == ("learning", 2, 2)
    assert told["curve"] == [], "that version was never measured"
    (hour,) = told["throughput"]
    assert (hour["annotator_id"], hour["labels"], hour["skipped"], told["hours"]) == (3, 2, 0, 24)
    assert [(one["label"], one["n"]) for one in told["balance"]] == [("cat", 2), ("dog", 0)]


@pytest.mark.parametrize("hours", ["0", "721", "many"])
def test_hours_out_of_range_are_refused(connected, hours):
    assert connected.http.get(f"/api/projects/7/progress?hours={hours}").status_code == 422


def test_insights_come_by_kind_with_their_age(connected):
    assert connected.http.get("/api/projects/7/insights").get_json() == {"insights": {}}
    connected.store.insights.put(7, "map", {"points": [[0.0, 1.0]]})
    connected.store.insights.put(7, "uncertainty", {"counts": [1]})
    told = connected.http.get("/api/projects/7/insights").get_json()["insights"]
    assert (told["map"]["content"], told["uncertainty"]["content"]) == ({"points": [[0.0, 1.0]]}, {"counts": [1]})
    assert 0 <= told["map"]["age_s"] < 60
    made_at = datetime.fromisoformat(told["map"]["made_at"])
    assert abs(datetime.now(UTC) - made_at) < timedelta(minutes=1)
    one = connected.http.get("/api/projects/7/insights?kind=map").get_json()["insights"]
    assert list(one) == ["map"]
    assert connected.http.get("/api/projects/7/insights?kind=other").get_json() == {"insights": {}}


def test_new_insights_can_be_asked_for_and_are_made_by_a_worker(connected):
    answer = connected.http.post("/api/projects/7/insights")
    assert (answer.status_code, answer.get_json()) == (202, {"added": True})
    assert connected.waiting() == ["insights-7-a"]


def test_without_redis_new_insights_are_refused_with_the_reason(deploy, tmp_path):
    lonely = deploy(redis_url=f"unix://{tmp_path}/nobody.sock")
    lonely.store.projects.ensure(7)
    answer = lonely.http.post("/api/projects/7/insights")
    assert (answer.status_code, answer.get_json()["error"]) == (503, "queue-error")


@pytest.mark.parametrize(("path", "method"), [("progress", "get"), ("insights", "get"), ("insights", "post")])
def test_a_project_that_is_not_connected_is_not_found(connected, path, method):
    answer = getattr(connected.http, method)(f"/api/projects/99/{path}")
    assert (answer.status_code, "not connected" in answer.get_json()["message"]) == (404, True)
