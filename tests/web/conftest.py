"""A server on a real store and a real embedded Redis: in this process, and as the process people run."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis

from ls_backend.domain import Annotation, Metrics, ModelVersion, Task, Window
from ls_backend.jobs import redis_server
from ls_backend.jobs.queues import Queues
from ls_backend.jobs.supervisor import environment, server_command
from ls_backend.settings import Settings
from ls_backend.store import Store, WindowRow
from ls_backend.web.app import create_app

GOLDEN = Path(__file__).parents[1] / "golden"
CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image" choice="single">'
    '<Choice value="cat"/><Choice value="dog"/></Choices></View>'
)
API_KEY = "key-of-the-operator"


@pytest.fixture(scope="session")
def recorded():
    """Recorded request by name of its file."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(GOLDEN.glob("*.json"))}


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory):
    server = redis_server.start(tmp_path_factory.mktemp("redis"))
    yield server.url
    server.stop()


def flush(url):
    client = redis.Redis.from_url(url)
    client.flushall()
    client.close()


@pytest.fixture
def _empty_queues(redis_url):
    """No job of other tests waits or has failed, and none of this one afterwards."""
    flush(redis_url)
    yield
    flush(redis_url)


def promoted(store, project_id, classes, *, version_id="al-1-0123abcd"):
    """Record a model version as a retrain does."""
    version = ModelVersion(
        version_id=version_id,
        project_id=project_id,
        round=1,
        backbone="efficientnet_lite0",
        classes=tuple(classes),
        questions=(0,) * len(classes),
        n_labels=12,
        labels_digest="0" * 64,
        temperature=1.0,
        metrics=Metrics(0),
        state="promoted",
        created_at=datetime.now(UTC),
    )
    store.versions.add(version)
    return version


@pytest.fixture
def promote():
    """Record a model version in a store of one's own."""
    return promoted


@dataclass
class Deployed:
    """One deployment: settings, its store, its queues, and a client of its server."""

    settings: Settings
    store: Store
    queues: Queues
    http: object
    config: str = CONFIG

    def set_up(self, project="7.1795385194", schema=CONFIG, **sent):
        body = {"project": project, "schema": schema, "hostname": "http://localhost:8080", "access_token": "t", **sent}
        return self.http.post("/setup", json=body)

    def problems(self, project_id=7):
        return self.http.get(f"/api/projects/{project_id}/problems").get_json()["problems"]

    def codes(self, project_id=7):
        return [problem["finding"]["code"] for problem in self.problems(project_id)]

    def waiting(self, *queues):
        """Ids of the jobs that wait, in order, in some queues; of rank and embed without a name."""
        client = redis.Redis.from_url(self.queues.url)
        names = queues or ("rank", "embed")
        ids = [job_id.decode() for name in names for job_id in client.lrange(f"rq:queue:{name}", 0, -1)]
        client.close()
        return ids

    def promote(self, project_id=7, *, version_id="al-1-0123abcd", classes=("cat", "dog")):
        """Record a model version as a retrain does."""
        return promoted(self.store, project_id, classes, version_id=version_id)

    def publish(self, project_id=7, version="al-1-0123abcd:1", task_ids=(1, 2)):
        """Record a window in force as a flip does."""
        self.store.windows.add(Window(version, project_id, 1, "al-1-0123abcd", tuple(task_ids), 12))
        self.store.windows.flipped(project_id, version, datetime.now(UTC))


@pytest.fixture
def deploy(tmp_path, redis_url):
    """Make a deployment with settings of one's own."""
    flush(redis_url)
    made = []

    def make(**settings):
        given = {"label_studio_api_key": API_KEY, "redis_url": redis_url, "predict_deadline_s": 0.3, **settings}
        chosen = Settings(data_dir=tmp_path / f"data-{len(made)}", **given)
        app = create_app(chosen)
        deployed = Deployed(chosen, Store(chosen.sql_url), Queues.of(chosen), app.test_client())
        made.append(deployed)
        return deployed

    yield make
    for deployed in made:
        deployed.store.dispose()
        deployed.queues.close()


@pytest.fixture
def backend(deploy):
    return deploy()


@pytest.fixture
def connected(backend):
    """A backend that knows project 7; what the set-up asked of the worker is done."""
    assert backend.set_up().status_code == 200
    flush(backend.queues.url)
    return backend


class Process:
    """The server as `ls-backend start` runs it, with its log."""

    def __init__(self, folder, redis_url, **settings):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        given = {"label_studio_api_key": API_KEY, "redis_url": redis_url, "predict_deadline_s": 0.3, **settings}
        self.settings = Settings(data_dir=folder, host="127.0.0.1", port=self.port, **given)
        self.log_path = folder / "server.log"
        folder.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self):
        """Start it, as often as it was stopped, at the same port."""
        started = time.monotonic()
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                server_command(self.settings), env=os.environ | environment(self.settings), stdout=log, stderr=log
            )
        while self.process.poll() is None and time.monotonic() - started < 60:
            try:
                self.request("GET", "/health")
            except OSError:
                time.sleep(0.02)
            else:
                break
        else:
            self.stop()
            pytest.fail(f"the server did not start:\n{self.log()}")
        self.start_s = time.monotonic() - started

    def request(self, method, path, body=None, headers=None):
        """Return status, reason phrase and body as they stand on the wire."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, raw, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.reason, answer.read()
        finally:
            connection.close()

    def log(self):
        return self.log_path.read_text(errors="replace")

    def pids(self):
        """The server's processes: gunicorn and its worker."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [self.process.pid, *(int(pid) for pid in path.read_text().split())]

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@pytest.fixture(scope="session")
def serve(tmp_path_factory, redis_url):
    """Start a server process with records of its own."""
    running = []

    def start(**settings):
        running.append(Process(tmp_path_factory.mktemp("server") / "data", **{"redis_url": redis_url, **settings}))
        return running[-1]

    yield start
    for process in running:
        process.stop()


@pytest.fixture(scope="session")
def server(serve):
    """A running server process."""
    return serve(log_level="DEBUG")


def an_image(number, at, *, annotated=False):
    answer = Annotation(
        number, number, (), was_cancelled=False, ground_truth=False, completed_by=3, created_at=at, updated_at=at
    )
    return Task(
        number,
        {"image": f"{number}.png"},
        at,
        is_labeled=annotated,
        total_annotations=int(annotated),
        cancelled_annotations=0,
        annotations=(answer,) if annotated else None,
    )


def filled(store, project_id=7, n=60):
    """Tasks of which two are labelled, two model versions and a window with reasons, as updates leave them."""
    made = datetime.now(UTC)
    tasks = [an_image(1, made, annotated=True), *(an_image(i, made) for i in range(2, n + 1))]
    store.tasks.upsert(project_id, tasks, image_field="image")
    store.tasks.set_labels(project_id, {1: ('{"label": ["cat"]}', None)})
    for number, accuracy in ((1, 0.5), (2, 0.9)):
        store.versions.add(
            ModelVersion(
                version_id=f"al-{number}-0123abcd",
                project_id=project_id,
                round=number,
                backbone="efficientnet_lite0",
                classes=("cat", "dog"),
                questions=(0, 0),
                n_labels=10 * number,
                labels_digest="0" * 64,
                temperature=1.0,
                metrics=Metrics(20, accuracy=accuracy, balanced_accuracy=accuracy, log_loss=0.4, ece=0.05),
                state="promoted",
                created_at=made + timedelta(seconds=number),
            )
        )
    order = tuple(range(2, n + 1))
    rows = [
        WindowRow(i, rank, 0.5, {"uncertainty": 0.8}, {"uncertainty": 2.0}, f"margin 0.04, task {i}")
        for rank, i in enumerate(order)
    ]
    store.windows.add(Window("al-2-0123abcd:1", project_id, 1, "al-2-0123abcd", order, 20), rows)
    store.windows.flipped(project_id, "al-2-0123abcd:1", made)


@pytest.fixture(scope="session")
def fill():
    """Fill a store with a project as updates leave it."""
    return filled


@pytest.fixture(scope="session")
def task():
    """Make a task with an image."""
    return an_image


@pytest.fixture(scope="session")
def serve_project(serve):
    """Start a server process whose records hold a project as updates leave it; answer the process and its records."""
    opened = []

    def start():
        running = serve()
        opened.append(Store(running.settings.sql_url))
        opened[-1].projects.ensure(7)
        opened[-1].projects.set(7, title="Cracks", label_config=CONFIG, hostname="http://localhost:8080")
        filled(opened[-1])
        return running, opened[-1]

    yield start
    for store in opened:
        store.dispose()
