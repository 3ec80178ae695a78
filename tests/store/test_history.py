"""Model versions, their answers, problems and runs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from ls_backend.domain import Finding, Metrics
from ls_backend.errors import StoreError
from ls_backend.store import runs


def test_a_model_version_comes_back_as_it_went_in(store, project, make_version):
    version = make_version(1)
    store.versions.add(version)
    assert store.versions.get(project, version.version_id) == version
    assert store.versions.get(project, "al-9-00000000") is None
    assert store.versions.get(2, version.version_id) is None


def test_a_version_from_before_reliability_was_measured_has_none(store, project, make_version):
    store.versions.add(make_version(1))
    old = '{"n_holdout": 4, "accuracy": 0.75, "balanced_accuracy": null, "log_loss": null, "ece": 0.1}'
    with store.versions._database.write() as connection:
        connection.execute(text("UPDATE versions SET metrics = :old"), {"old": old})
    assert store.versions.in_force(project).metrics == Metrics(n_holdout=4, accuracy=0.75, ece=0.1)


def test_a_model_version_cannot_be_recorded_twice(store, project, make_version):
    store.versions.add(make_version(1))
    with pytest.raises(StoreError, match="refused"):
        store.versions.add(make_version(1))
    assert len(store.versions.list(project)) == 1


def test_the_latest_version_is_that_of_any_backbone_or_of_one(store, project, make_version):
    assert store.versions.latest(project, "resnet18") is None
    store.versions.add(replace(make_version(1, state="rejected"), backbone="resnet18"))
    store.versions.add(make_version(2))
    assert store.versions.latest(project).round == 2
    assert store.versions.latest(project, "resnet18").round == 1


def test_the_latest_promoted_version_is_in_force(store, project, make_version):
    assert store.versions.in_force(project) is None
    for round_, state in ((2, "promoted"), (10, "promoted"), (11, "rejected")):
        store.versions.add(make_version(round_, state=state))
    assert store.versions.in_force(project).round == 10
    assert [one.round for one in store.versions.list(project)] == [11, 10, 2]
    store.versions.set_state(project, "al-10-0badcafe", "retired")
    assert store.versions.in_force(project).round == 2


def test_a_pinned_version_is_in_force_whatever_its_state(store, project, make_version):
    store.versions.add(make_version(1, state="retired"))
    store.versions.add(make_version(2))
    store.projects.pin(project, "al-1-0badcafe")
    assert store.versions.in_force(project).round == 1
    store.projects.pin(project, "al-404-00000000")
    assert store.versions.in_force(project).round == 2, "a pin that points nowhere does not leave the project without"


def test_a_version_has_one_of_three_states(store, project, make_version):
    store.versions.add(make_version(1))
    with pytest.raises(StoreError):
        store.versions.set_state(project, "al-1-0badcafe", "great")
    with pytest.raises(StoreError, match="no model version al-9"):
        store.versions.set_state(project, "al-9-0badcafe", "retired")
    assert store.versions.get(project, "al-1-0badcafe").state == "promoted"


def test_answers_are_kept_by_model_version(store, project):
    store.predictions.put(project, "al-1", {1: [0.25, 0.75], 2: np.array([0.5, 0.5], dtype=np.float32)})
    store.predictions.put(project, "al-1", {1: [1.0, 0.0]})
    store.predictions.put(project, "al-2", {3: [0.0, 1.0]})
    store.predictions.put(project, "al-2", {})
    assert store.predictions.get(project, "al-1", [1, 2, 3]) == {1: (1.0, 0.0), 2: (0.5, 0.5)}
    assert store.predictions.keep_only(project, ["al-2"]) == 2
    assert store.predictions.get(project, "al-1", [1, 2]) == {}
    assert store.predictions.get(project, "al-2", [3]) == {3: (0.0, 1.0)}


def test_a_problem_is_open_once_however_often_it_is_reported(store, project):
    store.problems.report(project, Finding("image-unreadable", "error", "task 1", "HTTP 404"))
    store.problems.report(project, Finding("image-unreadable", "warning", "task 1", "HTTP 500", "Wait.", {"n": 2}))
    (problem,) = store.problems.open(project)
    assert problem.count == 2
    assert problem.finding == Finding("image-unreadable", "warning", "task 1", "HTTP 500", "Wait.", {"n": 2})
    assert problem.first_seen <= problem.last_seen
    assert problem.project_id == project


def test_a_problem_of_the_deployment_belongs_to_no_project(store, project):
    store.problems.report(None, Finding("queue-error", "error", "Redis", "Gone."))
    store.problems.report(None, Finding("queue-error", "error", "Redis", "Gone."))
    store.problems.report(project, Finding("code", "error", "project", "No."))
    (problem,) = store.problems.open(None)
    assert (problem.project_id, problem.count) == (None, 2)
    assert [one.finding.code for one in store.problems.open(project)] == ["code"]
    assert [one.project_id for one in store.problems.open_anywhere()] == [project, None]


def test_problems_are_resolved_by_subject_or_all_of_a_kind(store, project):
    for subject in ("task 1", "task 2", "task 3"):
        store.problems.report(project, Finding("image-unreadable", "error", subject, "No."))
    store.problems.report(project, Finding("other", "error", "task 1", "No."))
    assert store.problems.resolve(project, "image-unreadable", "task 1") == 1
    assert store.problems.resolve(project, "image-unreadable", "task 1") == 0
    assert store.problems.resolve(project, "image-unreadable") == 2
    assert [one.finding.code for one in store.problems.open(project)] == ["other"]


def test_a_finding_that_all_is_well_closes_the_problem(store, project):
    store.problems.report(project, Finding("sampling-mode", "error", "project", "Wrong."))
    store.problems.report(project, Finding("sampling-mode", "ok", "project", "Fine."))
    assert store.problems.open(project) == []


def test_the_context_of_a_problem_may_hold_anything(store, project):
    context = {"path": Path("a.png"), "share": np.float32("nan"), "ids": (np.int64(3),)}
    store.problems.report(project, Finding("code", "error", "file \udcff", "No.", context=context))
    (problem,) = store.problems.open(project)
    assert problem.finding.context == {"path": "a.png", "share": None, "ids": [3]}
    assert store.problems.resolve(project, "code", "file \udcff") == 1


def test_a_run_is_recorded_from_start_to_end(store, project):
    run_id = store.runs.start(project, "update")
    assert [(one.status, one.finished_at) for one in store.runs.recent(project, 5)] == [("running", None)]
    store.runs.finish(run_id, "failed", {"read": np.float64(0.5)}, error="No.", n_labels=7, window_version="al-cold:1")
    (run,) = store.runs.recent(project, 5)
    assert (run.run_id, run.kind, run.status, run.seconds) == (run_id, "update", "failed", {"read": 0.5})
    assert (run.error, run.n_labels, run.window_version) == ("No.", 7, "al-cold:1")
    assert run.started_at <= run.finished_at <= datetime.now(UTC)
    with pytest.raises(StoreError, match="no run"):
        store.runs.finish(run_id + 1, "done", {})


def test_a_run_whose_worker_was_killed_is_lost_when_the_next_begins(store, project):
    killed = store.runs.start(project, "update")
    embedding = store.runs.start(project, "embed")
    again = store.runs.start(project, "update")
    status = {run.run_id: run.status for run in store.runs.recent(project, 5)}
    assert status == {killed: "lost", embedding: "running", again: "running"}


def test_only_the_latest_runs_are_kept(store, project, monkeypatch):
    monkeypatch.setattr(runs, "RUNS_KEPT", 3)
    started = [store.runs.start(project, "update") for _ in range(6)]
    assert [run.run_id for run in store.runs.recent(project, 10)] == started[:2:-1]
