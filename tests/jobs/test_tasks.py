"""One run at a time for each project, and no event without a run after it."""

import subprocess
import sys
import time

import pytest

from ls_backend.errors import QueueError
from ls_backend.jobs import tasks

EVENTS = """
import sys, time
from ls_backend.jobs.queues import Queues
from ls_backend.settings import Settings
from ls_backend.store import Store
settings = Settings()
store, queues = Store(settings.sql_url), Queues.of(settings)
for number in range(int(sys.argv[1])):
    store.projects.bump(7 + number % 2)
    queues.kick(7 + number % 2)
    time.sleep(0.005)
store.dispose()
queues.close()
"""


def test_a_storm_of_events_becomes_few_runs_never_two_at_once(with_redis, eventually):
    for project in (7, 8):
        with_redis.connect_project(project)
    with_redis.tell("slow", 0.05)
    for _ in range(2):
        with_redis.start_worker("rank")
    sources = [subprocess.Popen([sys.executable, "-c", EVENTS, "150"], env=with_redis.environment) for _ in range(3)]
    assert [source.wait(60) for source in sources] == [0, 0, 0]
    eventually(lambda: with_redis.covered(7) and with_redis.covered(8), within_s=20)
    generations = [with_redis.store.projects.get(project).done_generation for project in (7, 8)]
    assert generations == [225, 225]
    assert with_redis.overlaps("update") == 1
    runs = len(with_redis.runs(event="end", kind="update"))
    assert 2 <= runs < 150


def test_an_event_at_the_very_end_of_a_run_is_not_lost(with_redis, eventually):
    with_redis.connect_project(7)
    with_redis.tell("slow", 0.02)
    with_redis.start_worker("rank")
    eventually(with_redis.workers, within_s=30)
    for delay_ms in range(40):
        with_redis.event(7)
        time.sleep(0.018 + delay_ms / 4000)
        generation = with_redis.event(7)
        eventually(lambda asked=generation: with_redis.covered(7, asked), within_s=5)


def test_an_event_during_a_run_is_covered_by_another_run(with_redis, eventually):
    with_redis.connect_project(7)
    with_redis.tell("slow", 0.5)
    with_redis.start_worker("rank")
    with_redis.event(7)
    eventually(lambda: with_redis.runs(event="begin"), within_s=30)
    generation = with_redis.event(7)
    eventually(lambda: with_redis.covered(7, generation), within_s=10)
    assert len(with_redis.runs(event="end")) == 2


def test_a_bump_without_kick_is_seen_by_the_run_that_ends(with_redis, eventually):
    with_redis.connect_project(7)
    with_redis.tell("slow", 0.5)
    with_redis.start_worker("rank")
    with_redis.event(7)
    eventually(lambda: with_redis.runs(event="begin"), within_s=30)
    generation = with_redis.store.projects.bump(7)
    eventually(lambda: with_redis.covered(7, generation), within_s=10)


def test_a_comparison_and_an_update_of_one_project_are_never_at_once(with_redis, eventually):
    with_redis.connect_project(7)
    with_redis.tell("slow", 0.3)
    for _ in range(2):
        with_redis.start_worker("rank")
    with_redis.queues.kick_reconcile(7)
    eventually(lambda: with_redis.runs(event="begin", kind="reconcile"), within_s=30)
    generation = with_redis.event(7)
    eventually(lambda: with_redis.covered(7, generation), within_s=10)
    order = [(what, kind) for what, kind, *_ in with_redis.runs()]
    assert order == [("begin", "reconcile"), ("end", "reconcile"), ("begin", "update"), ("end", "update")]


def test_a_full_read_waits_for_the_update_and_then_updates(with_redis, eventually):
    with_redis.connect_project(7)
    with_redis.tell("slow", 0.5)
    for _ in range(2):
        with_redis.start_worker("rank")
    with_redis.event(7)
    eventually(lambda: with_redis.runs(event="begin", kind="update"), within_s=30)
    assert with_redis.queues.kick_sync(7, rebuild=True)
    eventually(lambda: len(with_redis.runs(event="end", kind="update")) == 2, within_s=15)
    assert [kind for what, kind, *_ in with_redis.runs() if what == "end"] == ["update", "sync", "update"]


def test_a_project_is_connected_once_however_often_somebody_asks_and_then_ranked(with_redis, eventually):
    assert [with_redis.queues.kick_connect(7) for _ in range(3)] == [True, False, False]
    with_redis.start_worker("rank")
    eventually(lambda: with_redis.runs(event="end", kind="update"), within_s=30)
    assert [(what, kind) for what, kind, *_ in with_redis.runs() if kind == "connect"] == [
        ("begin", "connect"),
        ("end", "connect"),
    ]
    eventually(lambda: with_redis.covered(7), within_s=5)
    eventually(lambda: with_redis.queues.kick_connect(7), within_s=5)


def test_a_project_that_cannot_be_connected_is_a_failed_job_and_leaves_no_problem_that_nothing_ends(
    with_redis, eventually
):
    with_redis.tell("raise", "unreachable")
    with_redis.start_worker("rank")
    with_redis.queues.kick_connect(99)
    eventually(lambda: with_redis.queues.failed(99), within_s=30)
    (failure,) = with_redis.queues.failed(99)
    assert (failure.kind, failure.code) == ("connect", "label-studio-unreachable")
    assert failure.hint
    assert with_redis.store.projects.get(99) is None
    with_redis.connect_project(7)
    with_redis.queues.kick_connect(7)
    eventually(lambda: with_redis.store.problems.open(7), within_s=10)
    assert with_redis.store.problems.open(99) == []
    (with_redis.data_dir / "raise").unlink()
    eventually(lambda: with_redis.queues.retry("connect", 7), within_s=5)  # the failed job has yet to end
    eventually(lambda: not with_redis.store.problems.open(7) and not with_redis.queues.failed(7), within_s=10)


def test_a_project_is_not_connected_while_it_is_being_updated(with_redis, eventually):
    with_redis.connect_project(7)
    with_redis.tell("slow", 0.5)
    for _ in range(2):
        with_redis.start_worker("rank")
    with_redis.event(7)
    eventually(lambda: with_redis.runs(event="begin", kind="update"), within_s=30)
    assert with_redis.queues.kick_connect(7)
    eventually(lambda: len(with_redis.runs(event="end", kind="update")) == 2, within_s=15)
    assert [kind for what, kind, *_ in with_redis.runs() if what == "end"] == ["update", "connect", "update"]


def test_reasons_follow_an_update_a_few_at_a_time(with_redis, eventually):
    with_redis.connect_project(7)
    with_redis.tell("reasons-due", "")
    with_redis.start_worker("rank")
    with_redis.start_worker("embed")
    with_redis.event(7)
    eventually(lambda: len(with_redis.runs(event="end", kind="reasons")) == 3, within_s=30)
    eventually(lambda: with_redis.queues.depths()["embed"] == 0, within_s=5)
    assert with_redis.overlaps("reasons") == 1


def test_no_reasons_are_written_that_nobody_asked_for(with_redis, eventually):
    with_redis.connect_project(7)
    with_redis.start_worker("rank")
    with_redis.start_worker("embed")
    generation = with_redis.event(7)
    eventually(lambda: with_redis.covered(7, generation), within_s=30)
    with_redis.queues.kick_embed(7)
    eventually(lambda: with_redis.runs(event="end", kind="embed"), within_s=30)
    assert with_redis.runs(kind="reasons") == []


def test_embedding_goes_on_chunk_by_chunk(with_redis, eventually):
    with_redis.connect_project(7)
    with_redis.tell("chunks", 3)
    with_redis.start_worker("embed")
    with_redis.queues.kick_embed(7)
    eventually(lambda: len(with_redis.runs(event="end", kind="embed")) >= 4, within_s=30)
    eventually(lambda: with_redis.queues.depths()["embed"] == 0, within_s=5)
    assert with_redis.overlaps("embed") == 1


def test_a_comparison_wakes_the_embedding_for_a_backbone_that_is_to_take_over(with_redis, eventually):
    with_redis.connect_project(7)
    with_redis.tell("changing", "")
    with_redis.start_worker("rank")
    with_redis.queues.kick_reconcile(7)
    eventually(lambda: with_redis.queues.depths()["embed"] == 1, within_s=30)


def test_a_predict_does_not_wait_for_all_chunks(with_redis, eventually, within):
    with_redis.connect_project(7)
    with_redis.tell("chunks", 40)
    with_redis.tell("slow", 0.1)
    with_redis.start_worker("embed")
    with_redis.queues.kick_embed(7)
    eventually(lambda: with_redis.runs(event="begin", kind="embed"), within_s=30)
    started = time.monotonic()
    assert with_redis.queues.predict(7, [1], deadline_s=10)
    assert within(started, 1.5)
    assert len(with_redis.runs(event="end", kind="embed")) < 20


def test_a_preview_is_made_before_updates_that_wait_and_whoever_waits_is_told(with_redis):
    for project in (7, 8):
        with_redis.connect_project(project)
        with_redis.event(project)
    with_redis.start_worker("rank")
    assert with_redis.queues.preview(7, "0123abcd", deadline_s=60)
    assert with_redis.store.insights.get(7, "preview:0123abcd").content == {"state": "done"}
    assert with_redis.runs()[0][1] == "preview"


def test_a_preview_that_fails_is_a_warning_and_whoever_waits_is_told(with_redis):
    with_redis.connect_project(7)
    with_redis.tell("raise", "bug")
    with_redis.start_worker("rank")
    assert not with_redis.queues.preview(7, "0123abcd", deadline_s=60)
    (problem,) = with_redis.store.problems.open(7)
    assert (problem.finding.subject, problem.finding.level) == ("job preview", "warning")


@pytest.mark.parametrize(("how", "code"), [("unreachable", "label-studio-unreachable"), ("bug", "job-failed")])
def test_a_failure_is_told_twice_and_taken_back_by_success(with_redis, eventually, how, code):
    with_redis.connect_project(7)
    with_redis.tell("raise", how)
    with_redis.start_worker("rank")
    with_redis.event(7)
    eventually(lambda: with_redis.queues.failed(7), within_s=30)
    eventually(lambda: with_redis.store.problems.open(7), within_s=5)
    (failure,), (problem,) = with_redis.queues.failed(7), with_redis.store.problems.open(7)
    assert failure.code == problem.finding.code == code
    assert problem.finding.level == "error"
    assert failure.message
    assert problem.finding.remedy
    assert not with_redis.covered(7), "the generation stays wanted"
    assert len(with_redis.runs(event="begin")) == 1, "RQ does not repeat it at once"
    (with_redis.data_dir / "raise").unlink()
    with_redis.queues.kick(7)
    eventually(lambda: with_redis.covered(7), within_s=5)
    eventually(lambda: not with_redis.queues.failed(7) and not with_redis.store.problems.open(7), within_s=5)


def test_what_people_can_see_is_made_once_however_many_updates_come(with_redis, eventually):
    with_redis.connect_project(7)
    with_redis.tell("insights-due", "")
    for queue in ("rank", "embed"):
        with_redis.start_worker(queue)
    for _ in range(3):
        generation = with_redis.event(7)
        eventually(lambda asked=generation: with_redis.covered(7, asked), within_s=30)
    eventually(lambda: with_redis.runs(event="end", kind="insights"), within_s=10)
    with_redis.queues.kick_reconcile(7)
    eventually(lambda: with_redis.runs(event="end", kind="reconcile"), within_s=10)
    eventually(lambda: not with_redis.queues.jobs(), within_s=5)
    assert len(with_redis.runs(event="end", kind="insights")) == 1


def test_a_change_that_came_too_soon_for_the_last_look_is_seen_after_the_next_comparison(with_redis, eventually):
    with_redis.connect_project(7)
    for queue in ("rank", "embed"):
        with_redis.start_worker(queue)
    assert with_redis.queues.claim("insights-7", seconds=60)
    with_redis.tell("insights-due", "")
    generation = with_redis.event(7)
    eventually(lambda: with_redis.covered(7, generation), within_s=30)
    with_redis.redis.delete("lsb:claim:insights-7")
    with_redis.queues.kick_reconcile(7)
    eventually(lambda: with_redis.runs(event="end", kind="insights"), within_s=10)


def test_people_who_ask_need_not_wait_and_a_failure_disturbs_nothing_else(with_redis, eventually):
    with_redis.connect_project(7)
    with_redis.tell("raise", "bug")
    with_redis.start_worker("embed")
    assert with_redis.queues.claim("insights-7", seconds=60)
    with_redis.queues.kick_insights(7)
    eventually(lambda: with_redis.store.problems.open(7), within_s=30)
    (problem,) = with_redis.store.problems.open(7)
    assert (problem.finding.code, problem.finding.level) == ("job-failed", "warning")
    assert problem.finding.subject == "job insights"
    (with_redis.data_dir / "raise").unlink()
    with_redis.start_worker("rank")
    generation = with_redis.event(7)
    eventually(lambda: with_redis.covered(7, generation), within_s=30)
    with_redis.queues.kick_insights(7)
    eventually(lambda: not with_redis.store.problems.open(7) and not with_redis.queues.failed(7), within_s=10)


def test_a_run_beyond_its_time_limit_is_ended_and_told(with_redis, eventually, monkeypatch):
    monkeypatch.setitem(tasks.TIMEOUT_S, "update", 1)
    with_redis.connect_project(7)
    with_redis.tell("slow", 30)
    with_redis.start_worker("rank")
    with_redis.event(7)
    eventually(lambda: with_redis.queues.failed(7), within_s=30)
    assert with_redis.queues.failed(7)[0].code == "job-timeout"


def test_a_project_that_was_deleted_does_no_harm(with_redis, eventually):
    for queue in ("rank", "embed"):
        with_redis.start_worker(queue)
    with_redis.queues.kick(99)
    with_redis.queues.kick_insights(99)
    eventually(lambda: not with_redis.redis.keys("rq:job:*"), within_s=30)
    assert with_redis.queues.failed(99) == ()
    assert with_redis.runs() == []


def test_a_database_that_does_not_open_is_told(with_redis, eventually):
    broken = with_redis.environment | {"DATABASE_URL": "sqlite:////dev/null/not-a-folder/records.sqlite3"}
    with_redis.environment = broken
    with_redis.start_worker("rank")
    with_redis.queues.kick(7)
    eventually(lambda: with_redis.queues.failed(7), within_s=30)
    assert with_redis.queues.failed(7)[0].kind == "update"


def test_job_functions_refuse_to_run_outside_a_worker():
    with pytest.raises(QueueError, match="outside a worker"):
        tasks.update_project(7)
