from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from ls_backend.labelstudio import wire

GOLDEN = Path(__file__).parents[1] / "golden"


def recorded(kind):
    return {path.stem: json.loads(path.read_text())["body"] for path in sorted(GOLDEN.glob(f"{kind}*.json"))}


@pytest.mark.parametrize("name", recorded("setup"))
def test_recorded_setup_requests_are_understood(name):
    body = recorded("setup")[name]
    request = wire.SetupRequest.model_validate(body)
    assert f"{request.project}.{request.origin}" == body["project"]
    assert request.label_config.startswith("<View>")
    assert request.hostname == "http://labelstudio:8080"


@pytest.mark.parametrize("name", recorded("predict"))
def test_recorded_predict_requests_are_understood(name):
    body = recorded("predict")[name]
    request = wire.PredictRequest.model_validate(body)
    assert [task.id for task in request.tasks] == [task["id"] for task in body["tasks"]]
    assert all("image" in task.data for task in request.tasks)
    assert request.project is not None
    is_interactive = "interactive" in name
    assert (request.params is not None and request.params.context is not None) == is_interactive


@pytest.mark.parametrize("name", recorded("webhook"))
def test_recorded_events_are_understood(name):
    body = recorded("webhook")[name]
    event = wire.WebhookEvent.model_validate(body)
    assert event.action == body["action"]
    assert event.project == body["project"]["id"]


@pytest.mark.parametrize(
    ("name", "task_ids", "annotation_ids"),
    [
        ("webhook_annotation_created", (1,), (1,)),
        ("webhook_annotations_deleted", (), (2,)),
        ("webhook_tasks_deleted", (3,), ()),
        ("webhook_start_training", (), ()),
    ],
)
def test_events_name_their_tasks_and_annotations(name, task_ids, annotation_ids):
    event = wire.WebhookEvent.model_validate(recorded("webhook")[name])
    assert event.task_ids == task_ids
    assert event.annotation_ids == annotation_ids


def test_plural_annotation_events_name_every_task():
    body = recorded("webhook")["webhook_annotations_created_predictions_to_annotations"]
    event = wire.WebhookEvent.model_validate(body)
    assert event.annotation_ids == tuple(item["id"] for item in body["annotation"])
    assert event.task_ids == tuple(item["id"] for item in body["task"])


@pytest.mark.parametrize(("value", "expected"), [("1.1795385194", 1), ("12", 12), (7, 7), ({"id": 3, "title": "x"}, 3)])
def test_project_ids_are_read_in_every_form(value, expected):
    assert wire.SetupRequest.model_validate({"project": value}).project == expected


@pytest.mark.parametrize("value", ["", "x", "-1", None, True, {}, [], "²", "1e3"])
def test_project_ids_that_are_none_are_refused_with_the_value(value):
    with pytest.raises(ValidationError, match="expected an id"):
        wire.SetupRequest.model_validate({"project": value})


@pytest.mark.parametrize("extra", [None, "", "plain text", '{"preset": "margin"}', {"preset": "margin"}, [1], 5])
def test_extra_params_may_be_anything(extra):
    assert wire.SetupRequest.model_validate({"project": "1", "extra_params": extra}).extra_params == extra


def test_an_event_without_payload_has_no_project():
    event = wire.WebhookEvent.model_validate({"action": "TASKS_CREATED"})
    assert (event.project, event.task_ids, event.annotation_ids) == (None, (), ())


@pytest.mark.parametrize("body", [{}, {"action": ""}, {"action": 5}, [], "x", None])
def test_what_is_no_event_is_refused(body):
    with pytest.raises(ValidationError):
        wire.WebhookEvent.model_validate(body)


def test_tokens_do_not_show_in_the_text_of_a_request():
    request = wire.SetupRequest.model_validate({"project": "1", "access_token": "hush-hush"})
    assert "hush-hush" not in f"{request!r} {request} {request.model_dump()}"
    assert request.access_token is not None
    assert request.access_token.get_secret_value() == "hush-hush"
