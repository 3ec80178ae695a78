"""Whole loops: a real Label Studio, and our server, workers and Redis as the processes people run.

Every test has projects of its own; a server and its workers are shared by a module where the fault allows it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import time

import httpx
import numpy as np
import pytest

from ls_backend.demo.digits import LABEL_CONFIG, digits
from ls_backend.demo.label_studio import LabelStudioServer
from ls_backend.demo.stack import Stack
from ls_backend.engine.connect import connect
from ls_backend.engine.context import Context
from ls_backend.engine.retrain import digest_of
from ls_backend.errors import Unreachable
from ls_backend.settings import Settings

N_IMAGES = 60
_titles = itertools.count(1)
_measured = []


def pytest_terminal_summary(terminalreporter):
    for line in _measured:
        terminalreporter.write_line(f"MEASURED: {line}")


def poll(what, probe, seconds):
    """Answer the first true answer of the probe; fail when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (answer := probe()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return answer


class Lab:
    """One Label Studio project with its truth, as its annotators and its owner see it."""

    def __init__(self, client, stack, pid, truth):
        self.client = client
        self.stack = stack
        self.pid = pid
        self.truth = truth

    # -- what people do --

    def result_of(self, task_id):
        choices = {"choices": [self.truth[task_id]]}
        return [{"from_name": "digit", "to_name": "image", "type": "choices", "value": choices}]

    def label(self, n):
        """Label what Label Studio serves, as its page does; answer the task ids."""
        served = []
        for _ in range(n):
            task = self.client.next_task(self.pid)
            assert task is not None, "Label Studio has no task left"
            shown = next(iter(task["predictions"]), None)
            self.client.submit(task["id"], self.result_of(task["id"]), parent_prediction=shown and shown["id"])
            served.append(task["id"])
        return served

    # -- what can be seen --

    def state(self):
        """Answer what our server says; nothing while it does not answer."""
        with contextlib.suppress(Unreachable):
            return self.stack.get(f"/api/projects/{self.pid}")
        return None

    def problems(self, code):
        """Open findings of a kind by subject; none while our server does not answer."""
        with contextlib.suppress(Unreachable):
            opened = self.stack.get(f"/api/projects/{self.pid}/problems")["problems"]
            return {item["finding"]["subject"]: item["finding"] for item in opened if item["finding"]["code"] == code}
        return {}

    def window(self):
        """Task ids of the published window, in order."""
        return [row["task_id"] for row in self.stack.get(f"/api/projects/{self.pid}/queue?limit=1000")["tasks"]]

    def head(self, limit=1000):
        """Task ids in the order Label Studio itself serves them."""
        return [task_id for task_id, _ in self.client.queue_head(self.pid, limit)]

    def held(self):
        """Task id -> label as Label Studio holds it; each task has one opinion here."""
        return {
            task_id: one.result[0]["value"]["choices"][0]
            for task_id, made in self.client.annotations(self.pid).items()
            for one in made
            if not one.was_cancelled
        }

    def trained_on(self):
        """How many labels the newest model version knows, and their digest."""
        versions = (self.state() or {}).get("versions")
        return (versions[0]["n_labels"], versions[0]["labels_digest"]) if versions else None

    # -- what must come true --

    def settled(self, **how):
        return self.stack.settled(self.pid, **how)

    def nothing_lost(self, within):
        """Wait for a model version of exactly the labels Label Studio holds, and for its order; answer the seconds."""
        started = time.monotonic()
        held = self.held()
        expected = (len(held), digest_of(np.array(list(held), dtype=np.int64), list(held.values())))
        deadline = started + within
        while (found := self.trained_on()) != expected:
            assert time.monotonic() < deadline, f"trained on {found}, Label Studio holds {expected} after {within} s"
            time.sleep(0.05)
        seconds = time.monotonic() - started
        self.order_in_force(within=within)
        return seconds

    def order_in_force(self, *, within=30):
        """Wait until Label Studio serves the window we say is in force, task by task."""

        def ours():
            state = self.client.project(self.pid)
            known = self.state()
            if known is None or state.model_version != known["window"] or state.sampling != "Uncertainty sampling":
                return False
            done = set(self.held())
            return self.head() == [task_id for task_id in self.window() if task_id not in done]

        poll("Label Studio serves our window in our order", ours, within)


@pytest.fixture(scope="session")
def wait_for():
    return poll


@pytest.fixture(scope="session")
def measured():
    """Say a figure at the end of the test run."""
    return _measured.append


@pytest.fixture(scope="session")
def images():
    return digits(N_IMAGES, seed=5)


@pytest.fixture(scope="session")
def make_project(images):
    """Make a Label Studio project of n digits; the images are uploaded once to each Label Studio."""
    uploaded = {}

    def make(client, n=40):
        if client.url not in uploaded:
            home = client.create_project("images", LABEL_CONFIG)
            uploaded[client.url] = client.upload_files(home, {item.name: item.png for item in images})
        pid = client.create_project(f"end to end {next(_titles)}", LABEL_CONFIG)
        rows = [{"data": {"image": uploaded[client.url][item.name]}} for item in images[:n]]
        return pid, dict(zip(client.import_tasks(pid, rows), [item.label for item in images[:n]], strict=True))

    return make


@pytest.fixture(scope="session")
def make_lab(make_project):
    """Make a project, connect it as the command line does but without a process of its own, wait for its order."""

    def make(client, stack, n=40, *, wait=True, **settings):
        pid, truth = make_project(client, n)
        given = Settings.model_validate(
            {
                "LABEL_STUDIO_URL": client.url,
                "LABEL_STUDIO_API_KEY": LabelStudioServer.token,
                "DATA_DIR": stack.data_dir,
                "backend_url": stack.url,
            }
        )
        context = Context(given)
        try:
            connect(context, pid, extra_params={"min_labels": 4, **settings})
        finally:
            context.close()
        lab = Lab(client, stack, pid, truth)
        if wait:
            lab.settled()
        return lab

    return make


@pytest.fixture(scope="session")
def lab_of():
    """See a project that was connected in another way."""
    return Lab


@pytest.fixture(scope="session")
def new_stack(tmp_path_factory):
    """Prepare our processes on a folder of their own; `with` runs them."""

    def prepare(label_studio, token, **environment):
        return Stack(tmp_path_factory.mktemp("stack"), label_studio.url, token, environment)

    return prepare


@pytest.fixture(scope="session")
def stack(label_studio, new_stack):
    """Our processes beside the session's Label Studio; who kills some of them sees to it that they come back."""
    with new_stack(label_studio, label_studio.token) as stack:
        yield stack


@pytest.fixture(scope="session")
def process_of():
    """Process id of a child of the supervisor, by what its command line holds; None while there is none."""

    def find(stack, mark):
        rows = subprocess.run(
            ["ps", "-ww", "-o", "pid=,stat=,args=", "--ppid", str(stack.pid)],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.splitlines()
        alive = [row.split(maxsplit=2) for row in rows]
        return next((int(pid) for pid, state, command in alive if mark in command and state[0] != "Z"), None)

    return find


@pytest.fixture(scope="session")
def deliver():
    """Send an event to our server as Label Studio would; answer the status."""

    def send(stack, pid, action, secret, **content):
        headers = {} if secret is None else {"X-LSB-Secret": secret}
        body = {"action": action, "project": {"id": pid}, **content}
        return httpx.post(f"{stack.url}/webhook", headers=headers, content=json.dumps(body), timeout=10).status_code

    return send


@pytest.fixture
def frozen():
    """Stop a process for the length of a block."""

    @contextlib.contextmanager
    def freeze(pid):
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    return freeze
