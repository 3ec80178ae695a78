"""Jobs of dead workers are given back to their queue, at once.

RQ itself notices a dead `SimpleWorker` only when the job's timeout has passed. Here two facts are used instead: the
supervisor knows which of its own workers died, and every worker keeps a key alive that expires soon after its death,
so that workers of another host are found too. A live worker taken for dead runs its job twice, which the
generations in the records make harmless.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

import redis
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job, JobStatus

from ls_backend import logs
from ls_backend.jobs.keys import alive_key
from ls_backend.jobs.queues import NAMES, SERIALIZER

_PUT_BACK = """
if redis.call('lrem', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
if redis.call('hget', KEYS[3], 'status') ~= 'queued' then return 0 end
return redis.call('lpush', KEYS[2], ARGV[1])
"""
ALIVE_TTL_S = 15
ALIVE_EVERY_S = 4.0
JOB_GRACE_S = 60
"""Seconds RQ gives a job beyond its timeout before anybody may call it abandoned."""

_OVERRUN_S = 30  # a native call that does not come back can only be killed from outside
_MISSING_S = 10.0  # after an outage of Redis every key is gone until the workers are back
_STUCK_S = 3.0  # between taking a job and starting it a worker needs milliseconds
_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One execution in RQ's registry of started jobs.

    Attributes:
        member: As RQ stores it.
        worker: Name of its worker; "" between taking the job and starting it, None when the job is gone.
        expires_at: Unix time from which RQ calls it abandoned.
    """

    member: bytes
    job_id: str
    worker: str | None
    expires_at: float


def sign_of_life() -> str:
    """What a worker writes under its `alive_key`: where it runs, so that a neighbour can look it up."""
    return f"{this_machine()}:{os.getpid()}"


@cache
def this_machine() -> str:
    """Name of this boot of this machine and, in a container, of its process numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()}/{uuid.getnode()}"


def _runs(pid: int, worker_name: str) -> bool:
    if sys.platform.startswith("linux"):
        try:
            return worker_name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        except FileNotFoundError:
            return False
        except OSError:
            return True  # hidden from us is not gone
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


class Reaper:
    """Finds jobs that nobody works on any more. Remembers what it saw; one for each supervisor, not thread-safe."""

    def __init__(self, connection: redis.Redis) -> None:
        self._redis = connection
        self._queues = [Queue(name, connection=connection, serializer=SERIALIZER) for name in NAMES]
        self._seen: dict[str, float] = {}
        self._now_seen: dict[str, float] = {}

    def reap(self, worker_name: str) -> list[str]:
        """Give back what a worker known to be dead was doing.

        Returns:
            Ids of its jobs; RQ runs them again, or fails them when they killed too many workers.
        """
        self._redis.delete(alive_key(worker_name))
        return [job_id for queue in self._queues for job_id in self._give_back(queue, worker_name)]

    def sweep(self) -> dict[str, str]:
        """Look for jobs of vanished workers and jobs lost between two lists. Cheap; to be called every few seconds.

        Returns:
            Workers that gave no sign of life, or are far beyond the timeout of their job; and that job. If such a
            process still exists, it hangs.
        """
        hanging = self._overrunning()
        for queue in self._queues:
            hanging |= self._sweep_vanished(queue)
            self._sweep_stuck(queue)
            queue.started_job_registry.cleanup()
        self._seen, self._now_seen = self._now_seen, {}
        return hanging

    def _overrunning(self) -> dict[str, str]:
        latest = time.time() + JOB_GRACE_S - _OVERRUN_S
        entries = [entry for queue in self._queues for entry in self._entries(queue)]
        return {entry.worker: entry.job_id for entry in entries if entry.worker and entry.expires_at < latest}

    def _give_back(self, queue: Queue, worker_name: str) -> list[str]:
        registry = queue.started_job_registry
        dead = [entry for entry in self._entries(queue) if entry.worker in (worker_name, None)]
        for entry in dead:
            self._redis.zadd(registry.key, {entry.member: 1}, xx=True)
        registry.cleanup()
        # A killed cleaner would keep everybody else from cleaning for a quarter of an hour.
        self._redis.delete(f"rq:clean_registries:{queue.name}")
        return [entry.job_id for entry in dead if entry.worker is not None]

    def _sweep_vanished(self, queue: Queue) -> dict[str, str]:
        vanished = {}
        for entry in self._entries(queue):
            if entry.worker and self._has_vanished(entry.worker):
                vanished[entry.worker] = entry.job_id
        for name in vanished:
            _log.warning("a worker vanished; its jobs run again", worker=name, jobs=self._give_back(queue, name))
        return vanished

    def _has_vanished(self, worker_name: str) -> bool:
        sign = cast("bytes | None", self._redis.get(alive_key(worker_name)))
        if sign is None:
            return self._lasts_s(f"vanished {worker_name}") > _MISSING_S
        machine, _, pid = sign.decode().rpartition(":")
        return machine == this_machine() and not _runs(int(pid), worker_name)

    def _sweep_stuck(self, queue: Queue) -> None:
        """Put back jobs whose worker died after it took them and before it said so."""
        between = IntermediateQueue(queue.key, connection=self._redis)
        for job_id in between.get_job_ids():
            if self._lasts_s(f"stuck {job_id}") <= _STUCK_S:
                continue
            self._forget_executions(queue, job_id)
            keys = (between.key, queue.key, Job.key_for(job_id))
            if self._redis.eval(_PUT_BACK, len(keys), *keys, job_id):
                _log.warning("a job was lost on its way to a worker; it is queued again", job=job_id)

    def _lasts_s(self, what: str) -> float:
        """Seconds for which `what` was seen in every sweep."""
        now = time.monotonic()
        self._now_seen[what] = self._seen.get(what, now)
        return now - self._now_seen[what]

    def _forget_executions(self, queue: Queue, job_id: str) -> None:
        for entry in self._entries(queue):
            if entry.job_id == job_id:
                self._redis.zrem(queue.started_job_registry.key, entry.member)

    def _entries(self, queue: Queue) -> list[_Entry]:
        raw = self._redis.zrange(queue.started_job_registry.key, 0, -1, withscores=True)
        entries = []
        for member, expires_at in cast("list[tuple[bytes, float]]", raw):
            job_id = member.decode().split(":")[0]
            job = self._job(job_id, queue)
            started = job is None or job.get_status(refresh=False) == JobStatus.STARTED
            worker = job.worker_name if job and started else ("" if job else None)
            entries.append(_Entry(member, job_id, worker, expires_at))
        return entries

    def _job(self, job_id: str, queue: Queue) -> Job | None:
        try:
            return Job.fetch(job_id, connection=self._redis, serializer=queue.serializer)
        except NoSuchJobError:
            return None
