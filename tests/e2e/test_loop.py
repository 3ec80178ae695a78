"""The whole loop as people walk it: connect, label what is served, get a better order, with either kind of token."""

from __future__ import annotations

import json

import pytest

from ls_backend.demo.label_studio import LabelStudioServer
from ls_backend.engine.rerank import HELD
from ls_backend.labelstudio.accounts import personal_access_token
from ls_backend.labelstudio.client import Client
from ls_backend.strategies.reasons import TO_EXPLORE

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", params=["legacy token", "personal access token"])
def studio_and_token(request, label_studio_executable, tmp_path_factory):
    """A Label Studio and a token it takes; with a personal access token it refuses legacy ones, as a new one does."""
    if request.param == "legacy token":
        studio = request.getfixturevalue("label_studio")
        yield studio, studio.token
        return
    folder = tmp_path_factory.mktemp("without-legacy-tokens")
    with LabelStudioServer.start(folder, executable=label_studio_executable, legacy_token=False) as studio:
        yield studio, personal_access_token(studio.url, studio.email, studio.password)


def test_labels_make_models_and_models_make_the_order(studio_and_token, new_stack, make_project, lab_of, wait_for):
    studio, token = studio_and_token
    with new_stack(studio, token) as stack, Client(studio.url, token) as client:
        pid, truth = make_project(client, 48)
        lab = lab_of(client, stack, pid, truth)

        # Connected by the command line, the project has an order before anybody labelled anything.
        stack.command("connect", "--project", str(pid), "--settings", json.dumps({"min_labels": 4}))
        first = lab.settled(labels=0)
        assert first["window"].startswith("al-cold:")
        assert first["versions"] == []
        assert lab.head() == lab.window()
        assert sorted(lab.window()) == sorted(truth)

        # The annotator is served strictly the top, and each label brings a new order.
        windows = {first["window"]}
        for given in range(1, 7):
            top = lab.head(1)
            assert lab.label(1) == top
            state = lab.settled(labels=given)
            windows.add(state["window"])
        models = {version["version_id"]: version for version in state["versions"]}
        assert [version["n_labels"] for version in state["versions"]] == [6, 5, 4]
        assert state["window"].rpartition(":")[0] in models
        assert client.project(pid).model_version == state["window"]
        assert len(windows) > 3
        lab.nothing_lost(within=30)

        # What is served is pre-annotated by the newest model, and says so.
        shown = client.next_task(pid)["predictions"][0]
        assert shown["model_version"] == state["window"]
        assert shown["result"][0]["value"]["choices"][0] in {str(digit) for digit in range(10)}

        # The command line says the same order, and why.
        ranked = json.loads(stack.command("rank", "--project", str(pid), "--limit", "5", "--json"))
        assert ranked["version"] == state["window"]
        assert [row["task_id"] for row in ranked["tasks"]] == lab.head(5)
        for row in ranked["tasks"]:
            assert row["reason"] == HELD or {"uncertainty", "diversity"} <= set(row["factors"])
        told = [row["reason"] for row in ranked["tasks"] if row["reason"] not in {TO_EXPLORE, HELD}]
        assert len(told) >= 3, "of twenty places one is random, and one task is open"
        assert all(any(character.isdigit() for character in reason) for reason in told), told

        # The doctor fails when anything is wrong.
        findings = json.loads(stack.command("doctor", "--project", str(pid), "--json"))
        assert {finding["code"] for finding in findings} > {"label-studio", "redis", "model-version", "webhook"}
        assert [finding for finding in findings if finding["level"] != "ok"] == []

        # An earlier model can be put in force; labels go on counting, and the newest one comes back.
        older = state["versions"][2]["version_id"]
        assert older in stack.command("rollback", "--project", str(pid), "--to", older)
        assert lab.settled(labels=6)["model_version"] == older
        lab.label(1)
        lab.nothing_lost(within=30)
        assert lab.settled(labels=7)["model_version"] == older
        assert client.project(pid).model_version.startswith(f"{older}:")
        stack.command("rollback", "--project", str(pid), "--latest")
        wait_for("another model serves", lambda: lab.settled(labels=7)["model_version"] != older, 30)
        assert lab.state()["model_version"] == lab.state()["versions"][0]["version_id"]
        lab.order_in_force()
