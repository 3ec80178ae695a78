"""Commands about work, as people and scripts run them: what they print, and their exit status."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from ls_backend.cli import app
from ls_backend.domain import Finding, Metrics, ModelVersion
from ls_backend.engine import doctor
from ls_backend.jobs import redis_server
from ls_backend.jobs.queues import Queues
from ls_backend.settings import Settings
from ls_backend.store import Store


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A data folder with its Redis, and no other process."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    before = logging.getLogger().handlers[:]
    redis = redis_server.start(tmp_path)
    settings = Settings(data_dir=tmp_path)
    store, queues = Store(settings.sql_url), Queues.of(settings)
    store.projects.ensure(7)
    yield store, queues
    queues.close()
    store.dispose()
    redis.stop()
    logging.getLogger().handlers[:] = before


def run(*words, **how):
    return CliRunner().invoke(app, list(words), prog_name="ls-backend", **how)


def fail(queues):
    queues.started("update", 7)
    queues.record_failure("update", 7, code="label-studio-rejected", message="401 no", hint="Make a new token.")


def test_jobs_says_what_waits_and_is_content_while_nothing_fails(desk):
    _, queues = desk
    queues.kick_embed(7)
    answer = run("jobs")
    assert answer.exit_code == 0
    assert "queued" in answer.output
    assert "embed" in answer.output


def test_a_failed_job_is_told_with_its_remedy_and_exit_status_1(desk):
    _, queues = desk
    fail(queues)
    answer = run("jobs")
    assert answer.exit_code == 1
    assert "label-studio-rejected: 401 no Make a new token." in answer.output
    found = run("jobs", "--project", "7", "--json")
    assert found.exit_code == 1
    (job,) = json.loads(found.stdout)["jobs"]
    assert (job["state"], job["kind"], job["failure"]["code"]) == ("failed", "update", "label-studio-rejected")
    assert run("jobs", "--project", "8").exit_code == 0


def test_jobs_shows_how_far_a_training_is(desk):
    store, _ = desk
    training = store.trainings.ask(7, "box", classes=("car",), n_labels=3)
    store.trainings.begin(training.training_id, classes=("car",), n_labels=3, labels_until=None)
    store.trainings.report(training.training_id, {"phase": "learning", "epoch": 2, "epochs": 8, "left_s": 360.0})
    answer = run("jobs")
    assert "25 %, 6 min left" in answer.output
    (progress,) = json.loads(run("jobs", "--json").stdout)["progress"]
    assert (progress["subject"], progress["share"], progress["left_s"]) == ("box", 0.25, 360.0)


def test_jobs_without_redis_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    before = logging.getLogger().handlers[:]
    answer = run("jobs", "--json")
    logging.getLogger().handlers[:] = before
    assert answer.exit_code == 1
    assert "no answer" in json.loads(answer.stdout)["queue_error"]


def test_retry_wakes_a_failed_job(desk):
    _, queues = desk
    fail(queues)
    answer = run("retry", "--project", "7", "--kind", "update")
    assert (answer.exit_code, answer.stdout) == (0, "It is tried again.\n")
    assert [job.state for job in queues.jobs(7)] == ["queued", "failed"]


def test_retry_of_a_kind_that_is_none(desk):
    answer = run("retry", "--project", "7", "--kind", "ranking")
    assert answer.exit_code == 1
    assert "settings-invalid" in answer.output
    assert "no kind of job 'ranking'" in answer.output


def test_problems_are_listed_with_remedies_and_only_errors_are_bad(desk):
    store, _ = desk
    assert run("problems").exit_code == 0
    store.problems.report(7, Finding("overlap", "warning", "annotation settings", "Three.", "Set it to 1."))
    answer = run("problems")
    assert answer.exit_code == 0
    assert "project 7: annotation settings: Three." in answer.output
    assert "Set it to 1. (overlap)" in answer.output
    store.problems.report(None, Finding("disk", "error", "DATA_DIR", "Full.", "Make room."))
    assert run("problems").exit_code == 1
    assert run("problems", "--project", "7").exit_code == 0
    rows = json.loads(run("problems", "--json").stdout)
    assert {(row["project_id"], row["finding"]["code"]) for row in rows} == {(7, "overlap"), (None, "disk")}


def test_models_of_a_project_without_any_and_of_an_unknown_one(desk):
    found = json.loads(run("models", "--project", "7", "--json").stdout)
    assert found == {"project": 7, "in_force": None, "pinned": None, "versions": [], "deep_versions": []}
    answer = run("models", "--project", "9")
    assert answer.exit_code == 1
    assert "Project 9 is not connected" in answer.output


@pytest.fixture
def versions(desk):
    """Two versions, of which the gate has refused the second."""
    store, _ = desk
    first = ModelVersion(
        version_id="al-1-0123abcd",
        project_id=7,
        round=1,
        backbone="efficientnet_lite0",
        classes=("cat", "dog"),
        questions=(0, 0),
        n_labels=20,
        labels_digest="0" * 64,
        temperature=1.0,
        metrics=Metrics(20, accuracy=0.5, log_loss=0.7),
        state="promoted",
        created_at=datetime(2026, 3, 1, tzinfo=UTC),
    )
    second = replace(first, version_id="al-2-0123abcd", round=2, n_labels=40, metrics=Metrics(40, accuracy=0.9))
    store.versions.add(first)
    store.versions.add(replace(second, state="rejected", labels_digest="1" * 64, reason="log loss is higher"))
    return store


def test_two_models_stand_side_by_side(versions):
    answer = run("models", "--project", "7", "--compare", "al-1-0123abcd", "al-2-0123abcd")
    assert answer.exit_code == 0
    assert "+0.400" in answer.output
    assert "0.500 (0.299 to 0.701)" in answer.output
    assert "al-2-0123abcd was refused by the gate: log loss is higher" in answer.output
    assert "not directly comparable" in answer.output
    made = json.loads(run("models", "-p", "7", "--compare", "al-1-0123abcd", "al-2-0123abcd", "--json").stdout)
    assert made["same_tasks"] is False
    assert {figure["name"]: figure["difference"] for figure in made["figures"]}["log_loss"] is None
    unknown = run("models", "--project", "7", "--compare", "al-1-0123abcd", "al-9")
    assert unknown.exit_code == 1
    assert "'al-9' is no model version of project 7" in unknown.output


def test_a_refused_version_is_put_in_force_and_released(versions):
    answer = run("rollback", "--project", "7", "--to", "al-2-0123abcd")
    assert answer.exit_code == 0
    assert "al-2-0123abcd serves until" in answer.output
    assert versions.versions.in_force(7).version_id == "al-2-0123abcd"
    assert run("rollback", "--project", "7", "--latest").exit_code == 0
    assert versions.versions.in_force(7).version_id == "al-1-0123abcd"


def test_the_doctor_has_workers_mend_what_they_can(desk, monkeypatch):
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "token")
    monkeypatch.setattr(doctor, "_torch", lambda: doctor._ok("torch-pair", "torch", "not looked at"))
    store, queues = desk
    store.problems.report(7, Finding("webhook-missing", "error", "webhook", "There is none.", "Connect."))
    store.problems.report(7, Finding("overlap", "warning", "annotation settings", "Three.", "Set it to 1."))
    assert run("doctor", "--project", "7").exit_code == 1
    assert queues.jobs(7) == []
    answer = run("doctor", "--project", "7", "--fix")
    assert "webhook: Connect the project again: a worker will do it" in answer.output
    assert "annotation settings: " not in answer.stderr
    assert [(job.kind, job.state) for job in queues.jobs(7)] == [("connect", "queued")]
    assert "it is on its way already" in run("doctor", "--project", "7", "--fix").output


@pytest.mark.parametrize(
    "words", [["no-such-command"], ["jobs", "--no-such-option"], ["models"], ["models", "-p", "0"]]
)
def test_wrong_usage_has_exit_status_2(words):
    assert run(*words).exit_code == 2


@pytest.mark.parametrize(
    ("shell", "mark"), [("bash", "complete -o"), ("zsh", "#compdef ls-backend"), ("fish", "complete")]
)
def test_the_completion_script_comes_out(shell, mark):
    answer = run(env={"_LS_BACKEND_COMPLETE": f"source_{shell}"})  # --show-completion asks which shell runs pytest
    assert answer.exit_code == 0
    assert mark in answer.stdout
    assert "_LS_BACKEND_COMPLETE" in answer.stdout


def test_completion_can_be_installed_and_shown():
    help_text = run("--help").stdout
    assert "--install-completion" in help_text
    assert "--show-completion" in help_text


def test_the_tab_key_completes_commands():
    asked = {"_LS_BACKEND_COMPLETE": "complete_bash", "COMP_WORDS": "ls-backend ro", "COMP_CWORD": "1"}
    assert run(env=asked).stdout.split() == ["rollback"]
