"""What people do to us in Label Studio's pages: connect by the form, save stale settings, label together."""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import datetime

import pytest

from ls_backend.demo.annotators import THINK_S
from ls_backend.demo.annotators import label as label_together
from ls_backend.errors import Rejected
from ls_backend.labelstudio.client import SECRET_HEADER, Client

pytestmark = pytest.mark.e2e


def submit_form(client, stack, pid, extra_params):
    """What Label Studio's form "Connect model" sends: the extra params are the text of the field."""
    body = {"project": pid, "url": stack.url, "title": "by hand", "auth_method": "NONE", "is_interactive": False}
    return client.call("POST", "/api/ml/", body={**body, "extra_params": extra_params})


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", {"min_labels": 10, "window": None}),
        (json.dumps({"min_labels": 4, "window": 9}), {"min_labels": 4, "window": 9}),
    ],
    ids=["empty", "json"],
)
def test_a_project_connected_by_the_form_alone_is_adopted(
    client, stack, make_project, lab_of, wait_for, text, settings
):
    pid, truth = make_project(client)
    submit_form(client, stack, pid, text)
    lab = lab_of(client, stack, pid, truth)
    state = lab.settled()
    assert state["settings"].items() >= settings.items()
    wait_for("its order is in force", lambda: lab.head(3) and lab.head(9) == lab.window()[:9], 60)
    lab.order_in_force()
    assert len(lab.window()) == (settings["window"] or len(truth))
    hook = wait_for("a webhook", lambda: [each for each in client.webhooks(pid) if each.headers.get(SECRET_HEADER)], 60)
    assert [each.url for each in hook] == [f"{stack.url}/webhook"]
    wanted = state["wanted_generation"]
    lab.label(1)
    assert lab.settled(labels=1)["wanted_generation"] > wanted


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"min_labels": 4', "Extra params are not JSON"),
        ('{"min_lables": 4}', "min_lables is not a setting; did you mean min_labels?"),
    ],
    ids=["broken", "unknown"],
)
def test_the_form_shows_why_extra_params_are_refused(client, stack, make_project, text, reason):
    pid, _ = make_project(client, 1)
    with pytest.raises(Rejected) as refused:
        submit_form(client, stack, pid, text)
    assert refused.value.status == 400
    assert reason in str(refused.value)
    assert client.project(pid).sampling != "Uncertainty sampling"


def test_a_stale_settings_page_cannot_bring_an_old_order_back(client, stack, make_lab, wait_for, measured):
    lab = make_lab(client, stack)
    stale = client.project(lab.pid).model_version
    lab.label(5)
    lab.nothing_lost(within=60)
    current = lab.settled(labels=5)["window"]
    assert stale not in ("", current)

    started = time.monotonic()
    client.update_project(lab.pid, model_version=stale, sampling="Sequential sampling")
    assert client.project(lab.pid).model_version == stale, "Label Studio takes the stale page's word"

    def repaired():
        state = client.project(lab.pid)
        return (state.sampling, state.model_version) == ("Uncertainty sampling", lab.state()["window"])

    wait_for("both are repaired", repaired, 60)
    measured(f"a stale settings page was undone in {time.monotonic() - started:.1f} s (limit 60 s)")
    (version,) = wait_for("the version is reported", lambda: lab.problems("model-version"), 10).values()
    (sampling,) = wait_for("the mode is reported", lambda: lab.problems("sampling-mode"), 10).values()
    assert stale in version["message"]
    assert current in version["message"]
    assert "Sequential sampling" in sampling["message"]
    lab.order_in_force()


def test_three_people_label_the_window_together(client, label_studio, stack, make_lab, measured):
    lab = make_lab(client, stack, 60, window=15)
    people = [client]
    for number in range(2):
        token = client.create_user(f"together{number}@example.com", f"together-password-{number}")
        people.append(Client(label_studio.url, token))
    served, errors = label_together(people, lab.pid, lab.truth, 15, lambda _: None)
    assert errors == []
    assert len(served) == 15
    assert {one.annotator for one in served} == {0, 1, 2}

    # Each was served from a window that was in force between being asked for and being submitted.
    windows = stack.get(f"/api/projects/{lab.pid}/windows?limit=1000")["windows"]
    for one in served:
        shown = [
            window["task_ids"]
            for window in windows
            if window["flipped_at"]
            and moment(window["flipped_at"]) <= one.submitted_at - THINK_S / 2
            and (window["replaced_at"] is None or moment(window["replaced_at"]) >= one.submitted_at - 5 * THINK_S)
        ]
        assert any(one.task_id in task_ids for task_ids in shown), f"{one} came from no window of {len(shown)}"
    assert all(len(window["task_ids"]) < len(lab.truth) / 2 for window in windows)

    # SQLite has no row locks that would keep two requests of one moment apart, so a task may be served twice.
    twice = sum(count > 1 for count in Counter(one.task_id for one in served).values())
    tops = sum(one.top for one in served)
    measured(f"3 people, 15 labels: {twice} tasks served twice, {tops} of 15 were the top of the queue when served")
    assert twice <= 5
    assert tops >= 10
    lab.nothing_lost(within=60)
    for person in people[1:]:
        person.close()


def moment(text):
    return datetime.fromisoformat(text).timestamp()
