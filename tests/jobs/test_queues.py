import threading
import time

import pytest

from ls_backend.errors import QueueError
from ls_backend.jobs import queues as queues_module
from ls_backend.jobs.keys import project_of
from ls_backend.jobs.queues import Queues


def test_two_jobs_wait_at_most(with_redis):
    kicks = [with_redis.queues.kick(7) for _ in range(5)]
    assert kicks == [True, True, False, False, False]
    assert with_redis.queues.depths() == {"rank": 2, "embed": 0, "train": 0}


def test_projects_do_not_block_each_other(with_redis):
    assert all(with_redis.queues.kick(project) for project in range(10))
    assert with_redis.queues.depths()["rank"] == 10


def test_one_comparison_waits_for_each_project(with_redis):
    assert with_redis.queues.kick_reconcile(7)
    assert not with_redis.queues.kick_reconcile(7)
    assert with_redis.queues.kick_reconcile(8)


def test_two_looks_at_a_project_wait_at_most_and_never_before_the_ranking(with_redis):
    assert [with_redis.queues.kick_insights(7) for _ in range(3)] == [True, True, False]
    assert with_redis.queues.depths() == {"rank": 0, "embed": 2, "train": 0}


def test_the_jobs_are_named_with_their_project_in_the_order_in_which_they_are_taken(with_redis, eventually):
    for project in (7, 8):
        with_redis.connect_project(project)
        with_redis.queues.kick(project)
    with_redis.queues.kick_insights(8)
    with_redis.queues.predict(7, [1], deadline_s=0.01)
    told = [(job.kind, job.project_id, job.state) for job in with_redis.queues.jobs()]
    assert told == [
        ("update", 7, "queued"),
        ("update", 8, "queued"),
        ("predict", 7, "queued"),
        ("insights", 8, "queued"),
    ]
    with_redis.store.projects.bump(7)
    with_redis.tell("slow", 2)
    with_redis.start_worker("rank")
    eventually(lambda: with_redis.runs(event="begin"), within_s=30)
    running = [(job.job_id, job.kind, job.project_id) for job in with_redis.queues.jobs() if job.state == "running"]
    assert running == [("update-7-a", "update", 7)]


def test_a_kick_is_fast(with_redis):
    with_redis.queues.kick(1)
    started = time.perf_counter()
    for project in range(100):
        with_redis.queues.kick(project)
    assert (time.perf_counter() - started) / 100 < 0.02


def test_a_redis_that_is_away_is_told_soon(tmp_path, within):
    absent = Queues(f"unix://{tmp_path}/nobody.sock")
    started = time.monotonic()
    with pytest.raises(QueueError, match="no answer"):
        absent.kick(7)
    assert within(started, 1)
    absent.close()


def test_a_predict_nobody_works_on_ends_at_its_deadline(with_redis):
    started = time.monotonic()
    assert with_redis.queues.predict(7, [1], deadline_s=0.5) is False
    assert 0.4 < time.monotonic() - started < 1.5


def test_predict_goes_before_embedding(with_redis):
    with_redis.queues.kick_embed(7)
    with_redis.queues.predict(7, [1, 2], deadline_s=0.01)
    first, *_ = with_redis.redis.lrange("rq:queue:embed", 0, -1)
    assert first.startswith(b"predict-7-")


def test_the_same_question_is_asked_once(with_redis):
    for ids in ([3, 1, 2], [1, 2, 3], [2, 3, 1, 1]):
        with_redis.queues.predict(7, ids, deadline_s=0.01)
    with_redis.queues.predict(7, [1, 2], deadline_s=0.01)
    assert with_redis.queues.depths()["embed"] == 2


def test_answers_come_from_a_worker(with_redis, within):
    with_redis.connect_project(7)
    with_redis.start_worker("embed")
    assert with_redis.queues.predict(7, [1, 2], deadline_s=30)
    assert set(with_redis.store.predictions.get(7, "al-1-stand-in", [1, 2])) == {1, 2}
    started = time.monotonic()
    assert with_redis.queues.predict(7, [3], deadline_s=30)
    assert within(started, 2)


def test_many_may_wait_for_the_same_answer(with_redis):
    with_redis.connect_project(7)
    with_redis.tell("slow", 0.5)
    with_redis.start_worker("embed")
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(with_redis.queues.predict(7, [1], deadline_s=30)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 8
    assert len(with_redis.runs(kind="predict", event="end")) <= 2


def test_a_failed_predict_is_answered_at_once_with_its_reason(with_redis):
    with_redis.connect_project(7)
    with_redis.tell("raise", "unreachable")
    with_redis.start_worker("embed")
    assert with_redis.queues.predict(7, [1], deadline_s=30) is False
    (failure,) = with_redis.queues.failed(7)
    assert (failure.kind, failure.code) == ("predict", "label-studio-unreachable")
    assert "3 s" in failure.message
    assert failure.hint


def test_a_failing_project_rests_before_it_is_healed(with_redis):
    queues = with_redis.queues
    queues.started("update", 7)
    assert queues.heal(7) is False
    assert queues.heal(8) is True
    queues.succeeded("update", 7)
    assert queues.heal(7) is True


def test_what_a_person_does_is_tried_although_the_project_rests(with_redis):
    with_redis.queues.started("update", 7)
    assert with_redis.queues.kick(7) is True


def test_a_project_whose_update_waits_is_not_healed(with_redis):
    with_redis.queues.kick(7)
    assert with_redis.queues.heal(7) is False
    assert with_redis.queues.depths()["rank"] == 1


def test_an_id_of_a_job_that_runs_nowhere_is_freed(with_redis):
    for _ in range(2):
        with_redis.queues.kick(7)
    with_redis.redis.delete("rq:queue:rank")
    for slot in "ab":
        with_redis.redis.hset(f"rq:job:update-7-{slot}", "status", "started")
    assert with_redis.queues.kick(7) is False
    assert with_redis.queues.heal(7) is True


def test_the_rest_doubles_up_to_a_minute(with_redis):
    rests = []
    for _ in range(8):
        with_redis.queues.started("update", 7)
        rests.append(with_redis.redis.ttl("lsb:pause:update:7"))
    assert rests == [2, 4, 8, 16, 32, 60, 60, 60]


def test_a_restart_ends_the_rest_but_the_next_failure_rests_as_long_again(with_redis):
    for _ in range(5):
        with_redis.queues.started("update", 7)
    with_redis.queues.end_pauses()
    assert not with_redis.queues.resting("update", 7)
    with_redis.queues.started("update", 7)
    assert with_redis.redis.ttl("lsb:pause:update:7") == 60


def test_an_id_of_a_job_that_waits_nowhere_is_freed(with_redis):
    for _ in range(2):
        with_redis.queues.kick(7)
    with_redis.redis.delete("rq:queue:rank")
    assert with_redis.queues.kick(7) is False
    assert with_redis.queues.heal(7) is True


def test_a_claim_is_given_once(with_redis):
    granted = [with_redis.queues.claim("reconcile-7", seconds=0.3) for _ in range(3)]
    assert granted == [True, False, False]
    time.sleep(0.35)
    assert with_redis.queues.claim("reconcile-7", seconds=0.3)


def test_failures_come_newest_first_and_go_with_success(with_redis):
    queues = with_redis.queues
    for kind in ("update", "embed"):
        queues.record_failure(kind, 7, code="label-studio-unreachable", message="gone", hint="Look.")
        time.sleep(0.002)
    assert [failure.kind for failure in queues.failed(7)] == ["embed", "update"]
    queues.succeeded("embed", 7)
    assert [failure.kind for failure in queues.failed(7)] == ["update"]
    assert queues.failed(8) == ()


@pytest.mark.parametrize(
    ("job_id", "expected"),
    [("update-7-a", ("update", 7)), ("reconcile-12", ("reconcile", 12)), ("predict-3-0a1b", ("predict", 3))],
)
def test_job_ids_tell_kind_and_project(job_id, expected):
    assert project_of(job_id) == expected


def test_every_kind_has_a_queue_a_function_and_a_time_limit():
    kinds = set(queues_module.TIMEOUT_S)
    assert kinds == set(queues_module.KIND_QUEUES) == set(queues_module._FUNCTIONS)
    for path in queues_module._FUNCTIONS.values():
        module, _, name = path.rpartition(".")
        assert callable(getattr(__import__(module, fromlist=[name]), name))
