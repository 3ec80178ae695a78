"""What operators see over HTTP: metrics of every process, jobs, problems, request ids."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from ls_backend.domain import Finding
from ls_backend.errors import Rejected, StoreError
from ls_backend.store import Problems
from ls_backend.web import app as web_app


def measured(backend):
    """(name of the sample, values of its labels in the order of their names) -> value."""
    answer = backend.http.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if family.name.startswith("lsb_")
    }


def finding(code, level="error"):
    return Finding(code, level, "general settings", "It is wrong.", "Mend it.")


def test_what_workers_counted_is_in_the_metrics_of_the_server(connected):
    queues = connected.queues
    queues.succeeded("update", 7, seconds=0.3)
    queues.succeeded("update", 7, seconds=3.0)
    queues.record_failure("embed", 7, code="c", message="m", hint="h", seconds=20.0, error=Rejected("no", status=403))
    found = measured(connected)
    assert found["lsb_jobs_total", "update", "done"] == 2
    assert found["lsb_jobs_total", "embed", "failed"] == 1
    assert found["lsb_label_studio_errors_total", "label-studio-rejected", "403"] == 1
    assert found["lsb_job_seconds_count", "update"] == 2
    assert found["lsb_job_seconds_sum", "update"] == pytest.approx(3.3)
    assert found["lsb_job_seconds_bucket", "update", "0.25"] == 0
    assert found["lsb_job_seconds_bucket", "update", "0.5"] == 1
    assert found["lsb_job_seconds_bucket", "update", "5.0"] == 2
    assert found["lsb_job_seconds_bucket", "update", "+Inf"] == 2


def test_queues_and_workers_are_measured(connected):
    connected.queues.kick(7)
    client = redis.Redis.from_url(connected.queues.url)
    client.hset("rq:job:update-7-a", "enqueued_at", "2026-01-01T00:00:00.000000Z")
    client.sadd("rq:workers:rank", "rq:worker:rank-1", "rq:worker:rank-dead")
    client.set("lsb:alive:rank-1", "here")
    client.close()
    found = measured(connected)
    assert found["lsb_queue_depth", "rank"] == 1
    assert found["lsb_queue_depth", "embed"] == 0
    assert found["lsb_queue_age_seconds", "rank"] > 3600
    assert found["lsb_workers", "rank"] == 1
    assert found["lsb_workers", "embed"] == 0


@pytest.mark.parametrize("code", ["sampling-mode", "model-version", "predictions-off"])
def test_the_order_is_applied_unless_the_last_look_found_another_one(connected, code):
    assert measured(connected)["lsb_order_applied", "7"] == 0, "no window was published"
    connected.publish()
    assert measured(connected)["lsb_order_applied", "7"] == 1
    connected.store.problems.report(7, finding(code))
    assert measured(connected)["lsb_order_applied", "7"] == 0
    connected.store.problems.report(7, finding(code, "warning"))
    assert measured(connected)["lsb_order_applied", "7"] == 1, "it was put back"


def test_a_project_is_measured_and_disappears_when_it_is_forgotten(connected):
    connected.publish()
    connected.store.projects.set(7, reconciled_at=datetime.now(UTC))
    connected.store.problems.report(7, finding("overlap", "warning"))
    connected.store.problems.report(None, finding("disk"))
    training = connected.store.trainings.ask(7, "box", classes=("car",), n_labels=3)
    connected.store.trainings.begin(training.training_id, classes=("car",), n_labels=3, labels_until=None)
    connected.store.trainings.report(training.training_id, {"epoch": 1, "epochs": 4})
    found = measured(connected)
    assert found["lsb_labels", "7"] == 0
    assert found["lsb_window_left", "7"] == 0
    assert found["lsb_problems", "warning", "7"] == 1
    assert found["lsb_problems", "error", "7"] == 0
    assert found["lsb_problems", "error", ""] == 1
    assert found["lsb_trainings", "7", "running"] == 1
    assert found["lsb_training_progress", "box", "7"] == 0.25
    assert 0 <= found["lsb_last_look_seconds", "7"] < 60
    connected.store.projects.forget(7)
    assert [key for key in measured(connected) if "7" in key[1:]] == []


def test_without_redis_the_rest_is_measured_and_its_absence_told(deploy):
    backend = deploy(redis_url="redis://127.0.0.1:1/0")
    backend.set_up()
    found = measured(backend)
    assert found["lsb_up", "redis"] == 0
    assert found["lsb_up", "records"] == 1
    assert found["lsb_labels", "7"] == 0
    assert not [key for key in found if key[0] == "lsb_queue_depth"]


def test_without_records_the_rest_is_measured_and_their_absence_told(connected, monkeypatch):
    connected.queues.succeeded("update", 7, seconds=0.3)

    def refuse(_):
        raise StoreError("The database refused: disk I/O error")

    monkeypatch.setattr(Problems, "open_anywhere", refuse)
    found = measured(connected)
    assert found["lsb_up", "records"] == 0
    assert found["lsb_jobs_total", "update", "done"] == 1


def test_jobs_and_a_retry_over_http(connected):
    connected.queues.started("update", 7)
    connected.queues.record_failure("update", 7, code="label-studio-rejected", message="401", hint="Make a token.")
    answer = connected.http.get("/api/jobs?project=7").get_json()
    (job,) = answer["jobs"]
    assert (job["state"], job["kind"], job["project_id"]) == ("failed", "update", 7)
    assert job["failure"]["hint"] == "Make a token."
    assert answer["queue_error"] is None
    woken = connected.http.post("/api/jobs/retry", json={"kind": "update", "project": 7})
    assert (woken.status_code, woken.get_json()) == (202, {"woken": True})
    assert connected.waiting() == ["update-7-a"]
    assert connected.http.get("/api/jobs?project=8").get_json()["jobs"] == []


def test_a_wrong_kind_is_refused_in_words(connected):
    answer = connected.http.post("/api/jobs/retry", json={"kind": "ranking", "project": 7})
    assert answer.status_code == 400
    assert answer.get_json()["error"] == "settings-invalid"
    assert "no kind of job 'ranking'" in answer.get_json()["message"]


def test_jobs_without_redis_are_told(deploy):
    answer = deploy(redis_url="redis://127.0.0.1:1/0").http.get("/api/jobs")
    assert answer.status_code == 200
    assert "no answer" in answer.get_json()["queue_error"]


def test_every_problem_is_listed_and_a_look_can_be_asked_for(connected):
    connected.store.problems.report(7, finding("overlap", "warning"))
    connected.store.problems.report(None, finding("disk"))
    rows = connected.http.get("/api/problems").get_json()["problems"]
    assert {(row["project_id"], row["finding"]["code"]) for row in rows} == {(7, "overlap"), (None, "disk")}
    assert all(row["finding"]["remedy"] for row in rows)
    assert connected.http.post("/api/doctor").get_json() == {"woken": True}
    assert connected.waiting() == ["examine-0"]
    assert connected.http.post("/api/doctor").get_json() == {"woken": False}


def test_each_request_has_an_id_in_its_answer_and_its_log_lines(server):
    server.request("POST", "/setup", {"project": 1}, {"X-Request-ID": "proxy-4711"})
    lines = [line for line in server.log().splitlines() if "proxy-4711" in line]
    assert any("refused" in line for line in lines)
    server.request("POST", "/setup", {"project": 1})
    *_, last = [line for line in server.log().splitlines() if "refused" in line]
    assert "proxy-4711" not in last, "an id ends with its request"
    assert "request=" in last or "request\x1b" in last


def test_two_requests_have_two_ids(connected):
    ids = {connected.http.get("/health").headers["X-Request-ID"] for _ in range(5)}
    assert len(ids) == 5


@pytest.mark.parametrize(("given", "kept"), [("proxy-17.a", True), ("x" * 65, False), ('"; evil', False)])
def test_the_id_of_a_proxy_is_kept_when_it_is_one(connected, given, kept):
    answer = connected.http.get("/health", headers={web_app.REQUEST_ID_HEADER: given})
    assert (answer.headers["X-Request-ID"] == given) is kept
