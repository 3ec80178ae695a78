"""Label Studio stops, refuses us, or loses tasks and projects while we work: nothing is lost, and the rest goes on.

These tests stop Label Studio, so they have one of their own; our workers compare with it every few seconds.
"""

from __future__ import annotations

import pytest

from ls_backend.demo.label_studio import LabelStudioServer
from ls_backend.labelstudio.client import SECRET_HEADER

pytestmark = pytest.mark.e2e

WRONG_TOKEN = "f" * 40


@pytest.fixture(scope="module")
def studio(label_studio_executable, tmp_path_factory):
    folder = tmp_path_factory.mktemp("label-studio-that-fails")
    with LabelStudioServer.start(folder, executable=label_studio_executable) as studio:
        yield studio


@pytest.fixture(scope="module")
def client(studio):
    with studio.client() as client:
        yield client


@pytest.fixture(scope="module")
def processes(studio, new_stack):
    """Our processes, not started yet."""
    stack = new_stack(studio, studio.token, LSB_RECONCILE_S="4")
    yield stack
    stack.stop()


def restart(stack, token):
    stack.stop()
    stack.environment["LABEL_STUDIO_API_KEY"] = token
    return stack.start()


@pytest.fixture
def stack(processes, studio):
    """Our processes at work with the right token, whichever test ran before."""
    running = processes.running and processes.environment["LABEL_STUDIO_API_KEY"] == studio.token
    return processes if running else restart(processes, studio.token)


def test_a_wrong_token_is_said_and_the_right_one_catches_up(client, studio, processes, make_lab, wait_for):
    lab = make_lab(client, restart(processes, WRONG_TOKEN), wait=False)
    lab.label(5)
    problem = wait_for(
        "the refusal is reported", lambda: next(iter(lab.problems("label-studio-rejected").values()), None), 60
    )
    assert "401" in problem["message"]
    assert WRONG_TOKEN not in problem["message"]
    assert lab.trained_on() is None
    restart(processes, studio.token)
    lab.nothing_lost(within=90)
    assert lab.trained_on()[0] == 5
    wait_for("the problem is closed", lambda: not lab.problems("label-studio-rejected"), 60)


def test_tasks_deleted_while_they_are_ranked_leave_the_order_and_the_model(client, stack, make_lab, wait_for):
    lab = make_lab(client, stack)
    served = lab.label(6)
    gone = {*lab.head(5), *served[:2]}  # the next ones to be served, and labels the model may know already
    client.delete_tasks(lab.pid, gone)
    lab.nothing_lost(within=60)
    assert lab.trained_on()[0] == 4
    wait_for("our window is without them", lambda: not gone & set(lab.window()), 30)
    assert lab.settled(labels=4)["tasks"] == 33
    (next_one,) = lab.label(1)
    assert next_one not in gone
    lab.nothing_lost(within=30)


def test_a_webhook_with_the_wrong_secret_is_refused_reported_and_repaired(client, stack, make_lab, deliver, wait_for):
    lab = make_lab(client, stack)
    lab.label(4)
    lab.nothing_lost(within=60)
    before = lab.settled(labels=4)["wanted_generation"]
    for secret in ("wrong", None):
        assert deliver(stack, lab.pid, "ANNOTATION_CREATED", secret, task={"id": 1}) == 401
    assert lab.state()["wanted_generation"] == before
    assert lab.problems("webhook-secret")

    # Somebody changes the header in Label Studio: its own events are strangers' now, until the next comparison.
    (hook,) = client.webhooks(lab.pid)
    body = {"url": hook.url, "is_active": True, "send_payload": True, "send_for_all_actions": True}
    client.call("PATCH", f"/api/webhooks/{hook.webhook_id}/", body={**body, "headers": {SECRET_HEADER: "wrong"}})
    lab.label(3)
    lab.nothing_lost(within=60)
    wait_for("the secret is back", lambda: client.webhooks(lab.pid)[0].headers == hook.headers, 30)


def test_a_project_deleted_in_label_studio_stops_alone(client, stack, make_lab, wait_for):
    doomed, other = make_lab(client, stack), make_lab(client, stack)
    doomed.label(5)
    client.delete_project(doomed.pid)
    problem = wait_for("it is reported", lambda: doomed.problems("project-deleted").get("project"), 60)
    assert str(doomed.pid) in problem["message"]
    assert problem["remedy"]
    assert doomed.state()["active"] is False
    assert doomed.pid not in [project["id"] for project in stack.get("/api/projects")["projects"]]
    other.label(5)
    other.nothing_lost(within=30)
    assert other.problems("project-deleted") == {}


def test_label_studio_may_stop_while_people_label(client, studio, stack, make_lab, wait_for, measured):
    lab = make_lab(client, stack)
    lab.label(5)
    studio.stop()
    problem = wait_for(
        "its silence is reported",
        lambda: next(iter(lab.problems("label-studio-unreachable").values()), None),
        60,
    )
    assert "LABEL_STUDIO_URL" in problem["remedy"]
    studio.restart()
    lab.label(4)
    seconds = lab.nothing_lost(within=90)
    measured(f"labels from before and after a stop of Label Studio were trained on {seconds:.1f} s later")
    assert lab.trained_on()[0] == 9
    wait_for("the problem is closed", lambda: not lab.problems("label-studio-unreachable"), 60)
