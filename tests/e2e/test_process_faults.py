"""Our own processes die while people label: nothing is lost, and the next model knows exactly what Label Studio holds.

The workers compare with Label Studio every 45 s, as they do for everybody; what comes back sooner came back by itself.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time

import pytest

from ls_backend.errors import Unreachable
from ls_backend.labelstudio.client import SECRET_HEADER

pytestmark = pytest.mark.e2e

RANK = "ls_backend.jobs.workers rank"
SERVER = "gunicorn"
REDIS = "unixsocket"


def test_events_that_come_twice_or_in_the_wrong_order_change_nothing(client, stack, make_lab, deliver, wait_for):
    lab = make_lab(client, stack)
    (hook,) = client.webhooks(lab.pid)
    secret = hook.headers[SECRET_HEADER]
    lab.label(5)
    lab.nothing_lost(within=60)
    known = lab.settled(labels=5)

    # From here on Label Studio is silent, and all events are ours: late, doubled, backwards, and lying.
    quiet = {"url": hook.url, "is_active": False, "send_payload": True, "send_for_all_actions": True}
    client.call("PATCH", f"/api/webhooks/{hook.webhook_id}/", body={**quiet, "headers": hook.headers})
    served = lab.label(4)
    annotations = client.annotations(lab.pid)
    assert lab.state()["wanted_generation"] == known["wanted_generation"]
    for task_id in [*reversed(served), *served]:
        annotation = {"id": annotations[task_id][0].annotation_id, "task": task_id, "result": lab.result_of(served[0])}
        for action in ("ANNOTATIONS_DELETED", "ANNOTATION_UPDATED", "ANNOTATION_CREATED"):
            content = {"annotations": [annotation]} if action == "ANNOTATIONS_DELETED" else {"annotation": annotation}
            assert deliver(stack, lab.pid, action, secret, task={"id": task_id}, **content) == 201
    lab.nothing_lost(within=30)
    assert lab.settled(labels=9)["wanted_generation"] >= known["wanted_generation"] + 3 * 2 * len(served)

    # An event that is repeated although nothing happened makes no model.
    versions = lab.state()["versions"]
    assert deliver(stack, lab.pid, "ANNOTATION_CREATED", secret, task={"id": served[0]}) == 201
    lab.settled(labels=9)
    assert lab.state()["versions"] == versions


def test_labels_given_while_the_server_is_down_are_trained_on_after_its_return(
    client, stack, make_lab, process_of, frozen, wait_for, measured
):
    lab = make_lab(client, stack)
    before = lab.settled()["wanted_generation"]
    with frozen(stack.pid):  # a supervisor at work would start the server again at once
        os.killpg(process_of(stack, SERVER), signal.SIGKILL)
        wait_for("the server is down", lambda: lab.state() is None, 10)
        lab.label(20)
        assert lab.state() is None
    wait_for("the server is back", lab.state, 60)
    assert before == lab.state()["wanted_generation"] or lab.state()["labels"] > 0  # nobody told it of any label
    seconds = lab.nothing_lost(within=90)
    measured(f"20 labels given while the server was down were trained on {seconds:.1f} s after its return (limit 90 s)")
    assert lab.trained_on()[0] == 20


def test_redis_killed_while_people_label_loses_no_label(client, stack, make_lab, process_of, wait_for, measured):
    lab = make_lab(client, stack)
    lab.label(3)
    killed = wait_for("there is a Redis", lambda: process_of(stack, REDIS), 10)
    os.kill(killed, signal.SIGKILL)
    lab.label(5)
    seconds = lab.nothing_lost(within=60)
    measured(f"labels given around the death of Redis were trained on {seconds:.1f} s later")
    assert process_of(stack, REDIS) not in (None, killed)


def test_a_rank_worker_killed_in_the_middle_of_updates_loses_no_label(
    client, stack, make_lab, process_of, wait_for, measured
):
    lab = make_lab(client, stack)
    moments = random.Random(7)

    def runs():
        with contextlib.suppress(Unreachable):
            return stack.get(f"/api/projects/{lab.pid}/runs?limit=1000")["runs"]
        return []

    def runs_now():
        newest = next(iter(runs()), None)
        return newest and newest["status"] == "running" and newest["run_id"] not in met and newest["run_id"]

    met = set()
    for _ in range(3):
        lab.label(1)
        met.add(wait_for("an update runs", runs_now, 60))
        time.sleep(moments.uniform(0, 0.4))  # not a wait for anything: the moment of the kill is to be any moment
        os.kill(process_of(stack, RANK), signal.SIGKILL)
        lab.label(1)
    lab.label(2)
    seconds = lab.nothing_lost(within=90)
    lost = sum(run["status"] == "lost" for run in runs())
    measured(f"of 3 killed rank workers {lost} died in an update; all labels were trained on {seconds:.1f} s later")
    assert lost >= 1, "no kill met a running update; the test proved nothing"
    assert lab.trained_on()[0] == 8


def test_a_whole_stack_that_was_killed_goes_on_where_label_studio_is(client, stack, make_lab, measured):
    lab = make_lab(client, stack)
    lab.label(5)
    lab.nothing_lost(within=60)
    order = lab.head()
    stack.kill()
    served = lab.label(5)
    assert served == order[:5], "without us Label Studio serves our last order"
    stack.start()  # no /setup: nobody opens the Data Manager
    seconds = lab.nothing_lost(within=90)
    measured(f"5 labels given while everything was dead were trained on {seconds:.1f} s after the start")
    assert lab.trained_on()[0] == 10
    lab.label(1)
    lab.nothing_lost(within=30)
