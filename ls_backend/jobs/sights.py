"""The job queues as they are now: what runs, waits and failed, who works, what was counted. Changes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

import redis
from rq import Queue

from ls_backend.errors import QueueError
from ls_backend.jobs import tally
from ls_backend.jobs.keys import alive_key, failures_key, job_key, pace_key, project_of

_LOOKED_AT = 1_000  # jobs of a queue that are looked at: more wait only where something else is wrong, and is told


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the last run of a kind of job failed; gone with the next success.

    Attributes:
        kind: "update", "embed", "reconcile", "sync", "connect", "predict", "insights", "preview", "reasons", "train",
            "judge", "advice", "savings" or "examine".
        code: Stable name of the error.
        at: When it failed.
    """

    kind: str
    code: str
    message: str
    hint: str
    at: datetime


@dataclass(frozen=True, slots=True)
class JobSeen:
    """A job as people see it.

    Attributes:
        state: "running", "queued", or "failed" until it succeeds or is a day old.
        kind: See `Failure`.
        project_id: `DEPLOYMENT` for work of no project.
        since: When it began, was queued or failed.
        job_id: None for a failed one, whose next run has the same.
        failure: Why it failed.
    """

    state: str
    kind: str
    project_id: int
    since: datetime | None
    job_id: str | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the last chunk of images or texts was embedded.

    Attributes:
        tasks: Read and embedded, or found unreadable.
    """

    tasks: int
    seconds: float


class Sights:
    """What can be seen of the queues of a deployment.

    Args:
        connection: Redis of the job queue.
        queues: Its queues by name.
        kinds: Kind of job -> name of its queue.
    """

    def __init__(self, connection: redis.Redis, queues: Mapping[str, Queue], kinds: Mapping[str, str]) -> None:
        self._redis = connection
        self._queues = queues
        self._kinds = kinds

    def depths(self) -> dict[str, int]:
        """Jobs that wait, by queue name."""
        with self._talking():
            return {name: int(self._redis.llen(queue.key)) for name, queue in self._queues.items()}

    def ages(self) -> dict[str, float]:
        """Seconds for which the oldest waiting job has waited, by queue name; 0 when none waits."""
        now = datetime.now(UTC)
        ages = dict.fromkeys(self._queues, 0.0)
        for job in self._waiting():
            if job.since is not None:
                name = self._kinds[job.kind]
                ages[name] = max(ages[name], (now - job.since).total_seconds())
        return ages

    def workers(self) -> dict[str, int]:
        """Workers that live, by queue name."""
        with self._talking():
            return {name: sum(self._live(name)) for name in self._queues}

    def _live(self, queue: str) -> list[bool]:
        members = cast("set[bytes]", self._redis.smembers(f"rq:workers:{queue}"))
        pipeline = self._redis.pipeline()
        for member in members:
            pipeline.exists(alive_key(member.decode().removeprefix("rq:worker:")))
        return [bool(found) for found in pipeline.execute()]

    def tally(self) -> tally.Tally:
        """Return what the workers have counted."""
        with self._talking():
            return tally.read(cast("dict[bytes, bytes]", self._redis.hgetall(tally.KEY)))

    def jobs(self, project_id: int | None = None) -> list[JobSeen]:
        """Return running, waiting and failed jobs, in this order.

        Args:
            project_id: Of this project only; None for all and those of no project.
        """
        found = [*self._running(), *self._waiting(), *self._failed(project_id)]
        return [job for job in found if project_id in (None, job.project_id)]

    def _running(self) -> list[JobSeen]:
        with self._talking():
            entries = [
                cast("bytes", entry)
                for queue in self._queues.values()
                for entry in self._redis.zrange(queue.started_job_registry.key, 0, _LOOKED_AT)
            ]
        return self._seen("running", [entry.decode().split(":")[0] for entry in entries], "started_at")

    def _waiting(self) -> list[JobSeen]:
        with self._talking():
            ids = [
                cast("bytes", job_id)
                for queue in self._queues.values()
                for job_id in self._redis.lrange(queue.key, 0, _LOOKED_AT)
            ]
        return self._seen("queued", [job_id.decode() for job_id in ids], "enqueued_at")

    def _seen(self, state: str, job_ids: list[str], moment: str) -> list[JobSeen]:
        with self._talking():
            pipeline = self._redis.pipeline(transaction=False)
            for job_id in job_ids:
                pipeline.hget(job_key(job_id), moment)
            moments = cast("list[bytes | None]", pipeline.execute())
        seen = []
        for job_id, raw in zip(job_ids, moments, strict=True):
            kind, project_id = project_of(job_id)
            if kind in self._kinds:  # a job of another release says nothing to this one
                seen.append(
                    JobSeen(state, kind, project_id, datetime.fromisoformat(raw.decode()) if raw else None, job_id)
                )
        return seen

    def _failed(self, project_id: int | None) -> list[JobSeen]:
        if project_id is None:
            with self._talking():
                keys = [cast("bytes", key).decode() for key in self._redis.scan_iter(failures_key("*"))]
            ids = sorted(int(key.rsplit(":", 1)[1]) for key in keys)
        else:
            ids = [project_id]
        return [
            JobSeen("failed", failure.kind, owner, failure.at, None, failure)
            for owner in ids
            for failure in self.failed(owner)
        ]

    def pace(self, project_id: int) -> Pace | None:
        """Return how fast the last chunk was embedded; None when that is long ago."""
        with self._talking():
            stored = cast("bytes | None", self._redis.get(pace_key(project_id)))
        return Pace(*json.loads(stored)) if stored else None

    def clock_ahead_s(self) -> float:
        """Seconds by which the clock of the Redis server is ahead of ours; the way there and back is halved."""
        with self._talking():
            asked = time.time()
            seconds, microseconds = self._redis.time()
            return seconds + microseconds / 1e6 - (asked + time.time()) / 2

    def failed(self, project_id: int) -> tuple[Failure, ...]:
        """Return what failed the last time it ran, newest first."""
        with self._talking():
            stored = cast("dict[bytes, bytes]", self._redis.hgetall(failures_key(project_id)))
        failures = [_read_failure(kind.decode(), json.loads(raw)) for kind, raw in stored.items()]
        return tuple(sorted(failures, key=lambda failure: failure.at, reverse=True))

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            raise QueueError(f"Redis refused or gave no answer: {error}") from error


def _read_failure(kind: str, told: dict[str, str]) -> Failure:
    return Failure(kind, told["code"], told["message"], told["hint"], datetime.fromisoformat(told["at"]))
