"""Traps of the job queue, each set up with a real Redis."""

from __future__ import annotations

import pytest

from ls_backend.jobs import checkup, redis_server
from ls_backend.jobs.keys import alive_key
from ls_backend.jobs.sights import Sights


def found(deployment):
    return {(item.code, item.subject): item for item in checkup.look(deployment.settings).findings}


def test_nobody_works(with_redis):
    with_redis.queues.kick(7)
    looked = found(with_redis)
    finding = looked["no-worker", "rank workers"]
    assert finding.level == "error"
    assert finding.message == "No rank worker is alive; 1 jobs wait for one."
    assert "ls-backend worker" in finding.remedy
    assert looked["no-worker", "embed workers"].level == "error"
    assert looked["no-worker", "train workers"].level == "ok", "none is needed while there is nothing to train"


def test_a_worker_that_lives_is_seen_and_one_that_died_is_not(with_redis, eventually):
    with_redis.start_worker("rank")
    eventually(lambda: with_redis.queues.workers()["rank"] == 1, within_s=30)
    assert found(with_redis)["no-worker", "rank workers"].level == "ok"
    (name,) = with_redis.workers()
    with_redis.processes[-1].kill()
    with_redis.processes[-1].wait()
    with_redis.redis.delete(alive_key(name))  # as time does
    assert found(with_redis)["no-worker", "rank workers"].level == "error"


def test_redis_is_away(deployment):
    looked = checkup.look(deployment.settings)
    (finding,) = looked.findings
    assert (finding.code, finding.level) == ("redis", "error")
    assert "no answer" in finding.message
    assert "REDIS_URL" in finding.remedy
    assert not looked.complete


def test_redis_may_throw_jobs_away(with_redis):
    with_redis.redis.config_set("maxmemory", "50mb")
    with_redis.redis.config_set("maxmemory-policy", "allkeys-lru")
    finding = redis_server.examine(with_redis.queues.url)
    assert (finding.code, finding.level) == ("redis", "error")
    assert "allkeys-lru, which throws jobs away when memory is full; expected noeviction" in finding.message


def test_a_job_has_waited_for_long(with_redis):
    with_redis.queues.kick(7)
    with_redis.redis.hset("rq:job:update-7-a", "enqueued_at", "2026-01-01T00:00:00.000000Z")
    finding = found(with_redis)["queue-stuck", "job queue"]
    assert finding.level == "warning"
    assert "minutes in the queue rank; expected less than 10" in finding.message
    assert "ls-backend jobs" in finding.remedy


def test_a_job_that_has_just_come_is_nothing_wrong(with_redis):
    with_redis.queues.kick(7)
    assert found(with_redis)["queue-stuck", "job queue"].level == "ok"


@pytest.mark.parametrize(("ahead_s", "words"), [(95.0, "95 s ahead of"), (-40.0, "40 s behind")])
def test_clocks_differ(with_redis, monkeypatch, ahead_s, words):
    monkeypatch.setattr(Sights, "clock_ahead_s", lambda _: ahead_s)
    finding = found(with_redis)["clock-skew", "clock"]
    assert finding.level == "warning"
    assert f"The clock of the Redis server is {words} the one of this machine" in finding.message
    assert "NTP" in finding.remedy


def test_one_clock_does_not_differ_from_itself(with_redis):
    assert abs(with_redis.queues.clock_ahead_s()) < 1
    assert found(with_redis)["clock-skew", "clock"].level == "ok"
