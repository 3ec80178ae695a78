"""Jobs as people see them, the retry of failed ones, and what workers count."""

from __future__ import annotations

import json

import pytest

from ls_backend.errors import Rejected, SettingsError
from ls_backend.jobs import tally, work
from ls_backend.jobs.keys import pause_key
from ls_backend.jobs.sights import Pace


def fail(queues, kind="update", project=7, **how):
    given = {"code": "label-studio-rejected", "message": "401", "hint": "Make a token.", **how}
    queues.started(kind, project)
    queues.record_failure(kind, project, **given)


def test_waiting_and_failed_jobs_are_listed_by_project(with_redis):
    queues = with_redis.queues
    queues.kick(7)
    queues.kick_embed(8)
    fail(queues, "reconcile", 8)
    assert [(job.state, job.kind, job.project_id) for job in queues.jobs()] == [
        ("queued", "update", 7),
        ("queued", "embed", 8),
        ("failed", "reconcile", 8),
    ]
    assert [job.kind for job in queues.jobs(8)] == ["embed", "reconcile"]
    assert all(job.since is not None for job in queues.jobs())
    failure = queues.jobs(8)[-1].failure
    assert (failure.code, failure.message, failure.hint) == ("label-studio-rejected", "401", "Make a token.")


def test_a_running_job_is_seen_running(with_redis, eventually):
    with_redis.connect_project(7)
    with_redis.tell("slow", 30)
    with_redis.start_worker("rank")
    with_redis.event(7)
    eventually(
        lambda: [(job.state, job.kind) for job in with_redis.queues.jobs(7)] == [("running", "update")], within_s=30
    )
    assert with_redis.queues.jobs(7)[0].since is not None


def test_a_retry_ends_the_pause_and_wakes_the_work(with_redis):
    queues = with_redis.queues
    fail(queues)
    assert queues.resting("update", 7)
    assert queues.retry("update", 7)
    assert not queues.resting("update", 7)
    assert with_redis.redis.exists(pause_key("update", 7)) == 0
    assert [job.state for job in queues.jobs(7)] == ["queued", "failed"], "it failed until it has succeeded"


@pytest.mark.parametrize("kind", ["embed", "reconcile", "sync", "connect", "judge"])
def test_every_kind_can_be_tried_again(with_redis, kind):
    fail(with_redis.queues, kind)
    assert with_redis.queues.retry(kind, 7)
    assert sum(with_redis.queues.depths().values()) == 1


def test_a_predict_is_only_forgotten(with_redis):
    fail(with_redis.queues, "predict")
    assert not with_redis.queues.retry("predict", 7)
    assert with_redis.queues.jobs(7) == []


def test_an_unknown_kind_is_refused_by_name(with_redis):
    with pytest.raises(SettingsError, match=r"no kind of job 'ranking'; expected one of update.*embed"):
        with_redis.queues.retry("ranking", 7)


def test_a_failed_training_is_wanted_anew(with_redis):
    with_redis.connect_project(7)
    trainings = with_redis.store.trainings
    first = trainings.ask(7, "box", classes=("car",), n_labels=12)
    trainings.finish(first.training_id, "failed", error="memory was short")
    other = trainings.ask(7, "outline", classes=("car",), n_labels=12)
    trainings.finish(other.training_id, "done", version_id="deep-1-0badcafe")
    assert work.retry(with_redis.store, with_redis.queues, "train", 7)
    (wanted,) = trainings.open(7)
    assert (wanted.control, wanted.state) == ("box", "queued")
    assert [job.kind for job in with_redis.queues.jobs(7) if job.kind == "train"] == ["train"]


def test_how_far_long_work_is(with_redis):
    with_redis.connect_project(7)
    store, queues = with_redis.store, with_redis.queues
    training = store.trainings.ask(7, "box", classes=("car",), n_labels=12)
    store.trainings.begin(training.training_id, classes=("car",), n_labels=12, labels_until=None)
    store.trainings.report(training.training_id, {"phase": "learning", "epoch": 3, "epochs": 12, "left_s": 90.0})
    (seen,) = work.look(store, queues, 7).outlooks
    assert (seen.what, seen.subject, seen.phase, seen.share, seen.left_s) == ("training", "box", "learning", 0.25, 90.0)


def test_what_is_left_to_embed_takes_as_long_as_the_last_chunk_says(with_redis, monkeypatch):
    from ls_backend.store import Counts, Tasks

    with_redis.connect_project(7)
    monkeypatch.setattr(
        Tasks, "counts", lambda *_: Counts(tasks=1000, annotations=0, cancelled=0, labelled=0, unread=600)
    )
    (before,) = work.look(with_redis.store, with_redis.queues, 7).outlooks
    assert (before.phase, before.share, before.left_s) == ("waiting", 0.4, None)
    with_redis.queues.note_pace(7, Pace(tasks=50, seconds=10.0))
    (after,) = work.look(with_redis.store, with_redis.queues, 7).outlooks
    assert (after.phase, after.done, after.total, after.left_s) == ("reading", 400, 1000, 120.0)


def test_without_redis_the_records_are_still_told(deployment):
    deployment.connect_project(7)
    deployment.store.trainings.ask(7, "box", classes=("car",), n_labels=12)
    seen = work.look(deployment.store, deployment.queues)
    assert seen.jobs == ()
    assert "no answer" in seen.queue_error
    assert [item.subject for item in seen.outlooks] == ["box"]


def test_runs_are_counted_where_other_processes_can_read_them(with_redis):
    queues = with_redis.queues
    queues.succeeded("update", 7, seconds=0.2)
    queues.succeeded("update", 8, seconds=400.0)
    fail(queues, "update", seconds=1e6, error=Rejected("no", status=401))
    fail(queues, "embed")  # a worker that died: nobody knows for how long it ran
    counted = queues.tally()
    assert counted.jobs == {("update", "done"): 2, ("update", "failed"): 1, ("embed", "died"): 1}
    assert counted.refusals == {("label-studio-rejected", "401"): 1}
    durations = counted.durations["update"]
    assert sum(durations.counts) == 3
    assert durations.counts[tally.BUCKETS_S.index(0.25)] == 1
    assert durations.counts[tally.BUCKETS_S.index(1800.0)] == 1
    assert durations.counts[-1] == 1, "longer than every bound"
    assert durations.sum_s == pytest.approx(1_000_400.2)


def test_fields_of_another_release_are_left_out():
    read = tally.read({b"jobs|update|done": b"3", b"seconds|update|99": b"1", b"moons|full": b"2"})
    assert read.jobs == {("update", "done"): 3}
    assert read.durations == {}


def test_a_worker_counts_what_it_runs(with_redis, eventually):
    with_redis.connect_project(7)
    with_redis.start_worker("rank")
    with_redis.event(7)
    eventually(lambda: with_redis.queues.tally().jobs.get(("update", "done")) == 1, within_s=30)
    assert sum(with_redis.queues.tally().durations["update"].counts) == 1
    with_redis.tell("raise", "unreachable")
    with_redis.event(7)
    eventually(lambda: with_redis.queues.tally().jobs.get(("update", "failed")) == 1, within_s=10)
    assert with_redis.queues.tally().refusals == {("label-studio-unreachable", ""): 1}


def test_the_log_lines_of_a_job_say_which_job_of_which_project_it_is(with_redis, eventually):
    with_redis.environment["LSB_LOG_JSON"] = "true"
    with_redis.connect_project(7)
    with_redis.tell("raise", "unreachable")
    with_redis.start_worker("rank")
    with_redis.event(7)
    eventually(lambda: "job failed" in with_redis.output(), within_s=30)
    (line,) = [json.loads(line) for line in with_redis.output().splitlines() if "job failed" in line]
    assert (line["job"], line["kind"], line["project"]) == ("update-7-a", "update", 7)
    assert line["process"].startswith("rank-test-")
    assert line["code"] == "label-studio-unreachable"


def test_a_look_at_all_traps_is_a_job(with_redis, eventually):
    assert with_redis.queues.kick_examine()
    assert not with_redis.queues.kick_examine(), "one waits already"
    with_redis.start_worker("embed")
    eventually(lambda: with_redis.runs(event="kept", kind="examine"), within_s=30)
    eventually(lambda: with_redis.queues.tally().jobs.get(("examine", "done")) == 1, within_s=10)
    eventually(with_redis.queues.kick_examine, within_s=10)


def test_the_age_is_that_of_the_oldest_waiting_job(with_redis):
    assert with_redis.queues.ages() == {"rank": 0.0, "embed": 0.0, "train": 0.0}
    for project in (7, 8):
        with_redis.queues.kick(project)
    with_redis.redis.hset("rq:job:update-8-a", "enqueued_at", "2026-01-01T00:00:00.000000Z")
    assert with_redis.queues.ages()["rank"] > 86_400
    assert with_redis.queues.ages()["embed"] == 0.0
