"""Our backend as a model class of label-studio-ml, under that project's own server in a process of its own."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import redis

from ls_backend.labelstudio import wire
from ls_backend.settings import Settings
from ls_backend.web.protocol import Backend, answer_webhook

GOLDEN = Path(__file__).parents[1] / "golden"
START_S = 240
EVENT_S = 480  # its process loads PyTorch, in minutes where the machine is busy
WSGI = """
from label_studio_ml.api import init_app

from ls_backend.ml_backend import ActiveLearningBackend

app = init_app(model_class=ActiveLearningBackend, model_dir={model_dir!r})
"""


class Theirs:
    """label-studio-ml's server with our class, and the store behind it."""

    def __init__(self, folder, redis_url):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        (folder / "theirs.py").write_text(WSGI.format(model_dir=str(folder / "theirs")))
        self.deployment = {
            "DATA_DIR": str(folder / "data"),
            "REDIS_URL": redis_url,
            "LABEL_STUDIO_API_KEY": "key",
            "LSB_PREDICT_DEADLINE_S": "0.3",
            "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]),
        }
        settings = Settings(data_dir=folder / "data", redis_url=redis_url)
        self.log_path = folder / "log"
        address = self.url.removeprefix("http://")
        command = [sys.executable, "-m", "gunicorn", "--bind", address, "--threads", "8", "theirs:app"]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command, env={**os.environ, **self.deployment}, stdout=log, stderr=log, cwd=folder
            )
        deadline = time.monotonic() + START_S
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                self.request("/health")
            except OSError:
                time.sleep(0.05)
            else:
                break
        else:
            self.stop()
            pytest.fail(f"label-studio-ml's server did not start:\n{self.log_path.read_text()}")
        self.backend = Backend.of(settings)

    def request(self, path, body=None):
        """Return status, reason phrase and JSON of an answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.reason, json.load(answer)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.reason, json.load(refused)

    def project(self, project_id):
        return self.backend.store.projects.get(project_id)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def theirs(tmp_path_factory, redis_url):
    server = Theirs(tmp_path_factory.mktemp("theirs"), redis_url)
    yield server
    server.stop()
    server.backend.store.dispose()
    server.backend.queues.close()


@pytest.fixture
def body_of(recorded):
    """A recorded body, as if it came from a project of its own."""

    def make(name, project_id):
        body = json.loads(json.dumps(recorded[name]["body"]))
        if isinstance(body["project"], dict):
            body["project"]["id"] = project_id
        else:
            body["project"] = f"{project_id}.1795385194"
        return body

    return make


def names(kind):
    return sorted(path.stem for path in GOLDEN.glob(f"{kind}*.json"))


def set_up(theirs, body_of, project_id, **changes):
    status, reason, answer = theirs.request("/setup", {**body_of("setup", project_id), "extra_params": None, **changes})
    return status, reason, answer


def test_the_recorded_probe_is_answered(theirs, recorded):
    assert recorded["health"]["path"] == "/health"
    status, _, answer = theirs.request("/health")
    assert (status, answer["status"]) == (200, "UP")


def test_the_recorded_set_up_connects_its_project_and_asks_for_a_first_ranking(theirs, body_of):
    body = {**body_of("setup", 31), "extra_params": {"preset": "margin"}}
    status, _, answer = theirs.request("/setup", body)
    assert (status, answer) == (200, {"model_version": "live:al-cold"})
    project = theirs.project(31)
    assert (project.active, project.hostname, project.access_token) == (True, body["hostname"], "TOKEN")
    assert json.loads(project.settings_json)["preset"] == "margin"
    waiting = redis.Redis.from_url(theirs.backend.queues.url)
    assert b"update-31-a" in waiting.lrange("rq:queue:rank", 0, -1)
    waiting.close()


@pytest.mark.parametrize(
    "changes", [{"extra_params": {"retrain_aftr": 5}}, {"schema": "<View><Image"}, {"project": None}]
)
def test_a_set_up_that_is_wrong_is_refused_in_the_reason_phrase_as_by_our_own_server(theirs, body_of, changes):
    status, reason, answer = set_up(theirs, body_of, 32, **changes)
    assert status == 400
    assert answer["message"].split(":")[0] in reason
    assert "traceback" not in json.dumps(answer).lower()
    assert theirs.request("/health")[0] == 200


@pytest.mark.parametrize("name", names("predict"))
def test_recorded_predictions_get_one_entry_a_task_before_there_is_a_model(theirs, body_of, name):
    set_up(theirs, body_of, 33)
    body = body_of(name, 33)
    status, _, answer = theirs.request("/predict", body)
    assert status == 200, answer
    assert [entry["result"] for entry in answer["results"]] == [[] for _ in body["tasks"]]
    assert all("0 of 10 labels" in entry["diagnosis"]["model"] for entry in answer["results"])


@pytest.mark.parametrize("name", ["predict_on_open_task", "predict_test_random", "predict_interactive"])
def test_recorded_predictions_are_answered_from_the_store(theirs, body_of, promote, name):
    project_id = 40 + names("predict").index(name)
    set_up(theirs, body_of, project_id)
    body = body_of(name, project_id)
    classes = re.findall(r'<Choice value="(\w+)"', body["label_config"])
    promote(theirs.backend.store, project_id, classes)
    surely_last = (*(0.1 / (len(classes) - 1) for _ in classes[1:]), 0.9)
    rows = {task["id"]: surely_last for task in body["tasks"]}
    theirs.backend.store.predictions.put(project_id, "al-1-0123abcd", rows)
    status, _, answer = theirs.request("/predict", body)
    assert status == 200, answer
    assert [entry["result"][0]["value"]["choices"] for entry in answer["results"]] == [[classes[-1]]] * len(rows)
    assert {entry["model_version"] for entry in answer["results"]} == {"live:al-1-0123abcd"}


def test_recorded_events_are_acknowledged_in_time_and_noted(theirs, body_of):
    set_up(theirs, body_of, 35)
    wanted = theirs.project(35).wanted_generation
    status, _, answer = theirs.request("/webhook", body_of("webhook_annotation_created", 35))
    assert status == 201
    assert answer["job_id"]
    # That server starts a process for each event.
    deadline = time.monotonic() + EVENT_S
    while theirs.project(35).wanted_generation == wanted:
        assert time.monotonic() < deadline, theirs.log_path.read_text()[-3000:]
        time.sleep(0.1)
    assert theirs.project(35).wanted_generation == wanted + 1


def test_every_recorded_event_is_read_as_our_own_server_reads_it(theirs, body_of):
    # What the process of an event runs, here in one process for all of them.
    set_up(theirs, body_of, 36)
    program = (
        "import json, sys\nfrom ls_backend.ml_backend import ActiveLearningBackend\nmodel = ActiveLearningBackend()\n"
        "for line in sys.stdin:\n"
        "    data = json.loads(line)\n"
        "    print(json.dumps(model.process_event(data.pop('action'), data, 'job', {'workdir': '.'})))\n"
    )
    bodies = [body_of(name, 36) for name in names("webhook")]
    done = subprocess.run(
        [sys.executable, "-c", program],
        input="\n".join(map(json.dumps, bodies)),
        env={**os.environ, **theirs.deployment},
        capture_output=True,
        text=True,
        check=True,
    )
    heard = [json.loads(line) for line in done.stdout.splitlines()]
    expected = [answer_webhook(theirs.backend, wire.WebhookEvent.model_validate(body), None)[0] for body in bodies]
    assert [answer["status"] for answer in heard] == [answer["status"] for answer in expected]
    assert [set(answer) for answer in heard] == [set(answer) for answer in expected]
    assert {answer["status"] for answer in heard} == {"ok"}
