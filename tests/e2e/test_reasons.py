"""Reasons where people look for them in Label Studio: above the task, in a tab, in the answer to a test request."""

from __future__ import annotations

import json

import pytest

from ls_backend.engine.rerank import HELD
from ls_backend.labelstudio.order_tab import TITLE
from ls_backend.labelstudio.reason_header import FIELD, HEADER

pytestmark = pytest.mark.e2e

WINDOW = 8


class Sight:
    """What people see of a lab."""

    def __init__(self, lab):
        self.lab = lab

    def ranked(self):
        """Task id -> reason as the command line tells it, without tasks that somebody has open."""
        answer = json.loads(self.lab.stack.command("rank", "--project", str(self.lab.pid), "--limit", "100", "--json"))
        return {row["task_id"]: row["reason"] for row in answer["tasks"] if row["reason"] != HELD}

    def said(self):
        """Task id -> reason as Label Studio holds it."""
        data = {task.task_id: task.data for task in self.lab.client.tasks(self.lab.pid)}
        return {task_id: fields[FIELD] for task_id, fields in data.items() if FIELD in fields}

    def tabs(self):
        rows = self.lab.client.get("/api/dm/views/", {"project": self.lab.pid})
        return {row["data"]["title"]: row["id"] for row in rows}

    def listed(self):
        """Task ids as the tab lists them."""
        params = {"project": self.lab.pid, "view": self.tabs()[TITLE], "page_size": 1000}
        return [row["id"] for row in self.lab.client.get("/api/tasks/", params)["tasks"]]

    def updates(self):
        return len(self.lab.stack.get(f"/api/projects/{self.lab.pid}/runs?limit=1000")["runs"])

    def command(self, *words):
        return self.lab.stack.command("reasons", "--project", str(self.lab.pid), *words)


@pytest.fixture
def stack(label_studio, new_stack):
    """Compared every second, so that a loop of our own making would show."""
    with new_stack(label_studio, label_studio.token, LSB_RECONCILE_S="1") as stack:
        yield stack


def test_reasons_follow_the_order_and_go_again(client, stack, make_lab, wait_for):
    lab = make_lab(client, stack, 40, window=WINDOW, reasons=True)
    sight = Sight(lab)
    first = wait_for("reasons of the first window", lambda: sight.said() == sight.ranked() and sight.said(), 60)
    assert set(first) == set(lab.window())

    # They follow a flip, and leave what was labelled.
    for _ in range(6):
        lab.label(1)
    lab.settled(labels=6)
    lab.nothing_lost(60)
    served = set(lab.held())

    def follows():
        said, ranked = sight.said(), sight.ranked()
        return {task_id: said.get(task_id) for task_id in ranked} == ranked and not served & set(said)

    wait_for("reasons of the present window", follows, 60)
    assert len(set(sight.said()) - set(lab.window())) == 0

    # Nothing else was touched, and our own writing has set nothing in motion.
    assert all(set(task.data) <= {"image", FIELD} for task in client.tasks(lab.pid))
    updates, window = sight.updates(), lab.state()["window"]
    compared = len(client.webhooks(lab.pid))
    assert compared == 1
    before = lab.state()["done_generation"]
    wait_for("several comparisons", rounds(stack, lab, 4), 30)
    assert sight.updates() == updates
    assert lab.state()["done_generation"] == before
    assert lab.state()["window"] == window

    # An export can be had without them.
    assert json.loads(sight.command("--remove", "--json"))["removed"] > 0
    exported = client.get(f"/api/projects/{lab.pid}/export", {"exportType": "JSON", "download_all_tasks": "true"})
    assert [sorted(task["data"]) for task in exported] == [["image"]] * 40

    # The labelling interface is changed on request only; the doctor misses the line.
    assert HEADER not in client.project(lab.pid).label_config
    wait_for("the missing header is reported", lambda: lab.problems("reasons-no-header"), 30)
    findings = json.loads(stack.command("doctor", "--project", str(lab.pid), "--json"))
    assert "reasons-no-header" in json.dumps(findings)
    sight.command("--add-header")
    assert HEADER in client.project(lab.pid).label_config
    wait_for("nothing is missing any more", lambda: not lab.problems("reasons-no-header"), 30)
    lab.settled(labels=6)
    lab.label(1)
    lab.nothing_lost(60)


def rounds(stack, lab, n):
    """Answer a probe that is true after n more comparisons with Label Studio."""
    from ls_backend.store import Store

    store = Store(f"sqlite:///{stack.data_dir / 'ls_backend.sqlite3'}")
    seen = set()

    def probe():
        seen.add(store.projects.get(lab.pid).reconciled_at)
        return len(seen) > n

    return probe


def test_the_tab_lists_the_window_in_order_and_follows_every_flip(client, stack, make_lab):
    lab = make_lab(client, stack, 40, window=WINDOW)
    sight = Sight(lab)
    assert sight.listed() == lab.window()
    assert list(sight.tabs()) == ["Default", TITLE]
    first = lab.state()["window"]
    for _ in range(5):
        lab.label(1)
    lab.settled(labels=5)
    lab.nothing_lost(60)
    assert lab.state()["window"] != first
    assert sight.listed() == lab.window()

    # Connecting again makes no other one, and keeps what the owner has made of it.
    view = sight.tabs()[TITLE]
    body = {"project": lab.pid, "data": {"title": TITLE, "ordering": ["tasks:id"]}}
    client.call("PATCH", f"/api/dm/views/{view}/", body=body)
    assert f"{TITLE}: kept" in stack.command("connect", "--project", str(lab.pid))
    assert list(sight.tabs()) == ["Default", TITLE]
    assert client.get(f"/api/dm/views/{view}/")["data"]["ordering"] == ["tasks:id"]


def test_who_wants_no_tab_gets_none(client, stack, make_project):
    pid, _ = make_project(client, 4)
    stack.command("connect", "--project", str(pid), "--no-tab")
    assert client.get("/api/dm/views/", {"project": pid}) == []


def test_a_test_request_shows_the_state_and_the_reason(client, stack, make_lab):
    lab = make_lab(client, stack, 20)
    for _ in range(5):
        lab.label(1)
    lab.settled(labels=5)
    lab.nothing_lost(60)
    (backend,) = client.ml_backends(lab.pid)
    answer = client.call("POST", f"/api/ml/{backend.backend_id}/predict/test", params={"random": "true"})
    told = answer["response"][0]["diagnosis"]
    state = lab.state()
    assert told["model"].startswith(f"{state['model_version']}, trained with 5 of 5 labels")
    assert told["window"] == f"{state['window']} is in force, {len(lab.window())} of {len(lab.window())} tasks left"
    assert told["problems"] == "none"
    assert told["workers"] == "1 rank, 1 embed, 1 train"
    task_id = int(told["task"].split()[1])
    if task_id in lab.held():
        assert "is not in the window" in told["task"]
    else:
        assert f"has rank {lab.window().index(task_id)}: " in told["task"]
