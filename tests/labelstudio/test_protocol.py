"""What the real Label Studio sends is what the recorded requests say, and our answers are what it reads."""

from __future__ import annotations

import http.server
import json
import threading
import time
from pathlib import Path

import pytest

from ls_backend.labelstudio import wire
from ls_backend.labelstudio.client import SECRET_HEADER

pytestmark = pytest.mark.e2e

GOLDEN = Path(__file__).parents[1] / "golden"
CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image">'
    '<Choice value="cat"/><Choice value="dog"/></Choices></View>'
)
CAT = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["cat"]}}


class Backend(http.server.ThreadingHTTPServer):
    """The smallest backend that Label Studio connects to; it remembers what it was sent."""

    def __init__(self):
        self.seen = []
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def sent(self, path):
        return [body for each, _, body in self.seen if each == path]

    def event(self, action):
        """The event of that name; Label Studio sends it before it answers the annotator."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            for path, headers, body in self.seen:
                if path == "/webhook" and body["action"] == action:
                    return headers, body
            time.sleep(0.02)
        raise AssertionError(f"no {action} in {[body.get('action') for body in self.sent('/webhook')]}")


class Handler(http.server.BaseHTTPRequestHandler):
    def _any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(body) if body else None
        self.server.seen.append((self.path, dict(self.headers), body))
        answers = {
            "/health": {"status": "UP"},
            "/setup": {"model_version": "live:al-1-x"},
            "/webhook": {"status": "ok"},
        }
        if self.path == "/predict":
            one = {"result": [CAT], "score": 0.5, "model_version": "live:al-1-x", "diagnosis": "well"}
            answers["/predict"] = {"results": [one] * len(body["tasks"])}
        data = json.dumps(answers[self.path]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = _any  # noqa: N815 - the names http.server looks for

    def log_message(self, *args):
        pass


@pytest.fixture
def backend():
    server = Backend()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def pid(client, backend):
    pid = client.create_project("protocol", CONFIG)
    yield pid
    client.delete_project(pid)


def same_keys(sent, recorded):
    """Keys of a recorded body that a sent one lacks, to the second level."""
    missing = {key for key in recorded if key not in sent}
    for key, value in recorded.items():
        if isinstance(value, dict) and value and isinstance(sent.get(key), dict):
            missing |= {f"{key}.{inner}" for inner in value if inner not in sent[key]}
    return missing


def golden(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())["body"]


def test_connecting_a_backend_sends_the_recorded_setup(client, backend, pid, label_studio):
    made = client.put_ml_backend(pid, backend.url, "ours", extra_params={"k": "v"})
    body = backend.sent("/setup")[0]
    assert same_keys(body, golden("setup")) == set()
    request = wire.SetupRequest.model_validate(body)
    assert (request.project, request.label_config) == (pid, CONFIG)
    assert request.extra_params == {"k": "v"}
    assert request.access_token is not None
    assert request.access_token.get_secret_value() == label_studio.token
    (listed,) = client.ml_backends(pid)
    assert (listed.backend_id, listed.url, listed.title, listed.state) == (made.backend_id, backend.url, "ours", "CO")
    assert [hook.url for hook in client.webhooks(pid)] == [f"{backend.url}/webhook"]
    assert client.project(pid).model_version == "ours"  # live mode: no order until a version of ours is in force


def test_a_connection_can_be_changed_and_ended(client, backend, pid):
    made = client.put_ml_backend(pid, backend.url, "ours")
    changed = client.put_ml_backend(
        pid, backend.url, "theirs", backend_id=made.backend_id, basic_auth=("name", "pass-word")
    )
    assert changed.title == "theirs"
    authorized = [headers.get("Authorization", "") for path, headers, _ in backend.seen if path == "/setup"]
    assert authorized[-1].startswith("Basic ")
    client.delete_ml_backend(made.backend_id)
    assert client.ml_backends(pid) == []


def test_events_carry_our_secret_and_the_recorded_payload(client, backend, pid):
    client.ensure_webhook(pid, f"{backend.url}/webhook", "the-secret")
    (task_id,) = client.import_tasks(pid, [{"data": {"image": "http://host/1.png"}}])
    annotation_id = client.submit(task_id, [CAT])
    client.delete_annotation(annotation_id)
    client.delete_tasks(pid, [task_id])
    named = {
        "TASKS_CREATED": ((task_id,), ()),
        "ANNOTATION_CREATED": ((task_id,), (annotation_id,)),
        "ANNOTATIONS_DELETED": ((), (annotation_id,)),
        "TASKS_DELETED": ((task_id,), ()),
    }
    for action, (task_ids, annotation_ids) in named.items():
        headers, body = backend.event(action)
        assert headers[SECRET_HEADER] == "the-secret"
        assert same_keys(body, golden(f"webhook_{action.lower()}")) == set()
        event = wire.WebhookEvent.model_validate(body)
        assert (event.project, event.task_ids, event.annotation_ids) == (pid, task_ids, annotation_ids)


def test_a_prediction_request_is_the_recorded_one_and_its_answer_is_stored(client, backend, pid):
    client.put_ml_backend(pid, backend.url, "ours")
    (task_id,) = client.import_tasks(pid, [{"data": {"image": "http://host/1.png"}}])
    shown = client.get(f"/api/tasks/{task_id}/")["predictions"]
    body = backend.sent("/predict")[0]
    assert same_keys(body, golden("predict_on_open_task")) == set()
    request = wire.PredictRequest.model_validate(body)
    assert [task.id for task in request.tasks] == [task_id]
    assert (request.project, request.label_config) == (pid, CONFIG)
    assert [(each["model_version"], each["score"]) for each in shown] == [("live:al-1-x", 0.5)]


def test_a_test_request_shows_the_owner_our_diagnosis(client, backend, pid):
    made = client.put_ml_backend(pid, backend.url, "ours")
    client.import_tasks(pid, [{"data": {"image": "http://host/1.png"}}])
    answer = client.call("POST", f"/api/ml/{made.backend_id}/predict/test", params={"random": "true"})
    assert answer["response"][0]["diagnosis"] == "well"


def test_a_static_version_keeps_us_out_of_the_annotator_s_way(client, backend, pid):
    client.put_ml_backend(pid, backend.url, "ours")
    (task_id,) = client.import_tasks(pid, [{"data": {"image": "http://host/1.png"}}])
    client.call(
        "POST",
        f"/api/projects/{pid}/import/predictions",
        body=[{"task": task_id, "result": [], "score": 0.5, "model_version": "al-1-x:1"}],
    )
    client.update_project(pid, model_version="al-1-x:1", sampling="Uncertainty sampling")
    backend.seen.clear()
    served = client.next_task(pid)
    assert served is not None
    assert served["id"] == task_id
    assert backend.seen == []
