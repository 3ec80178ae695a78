"""What the doctor asks of Redis and the workers: the traps of the job queue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from ls_backend.domain import Finding
from ls_backend.engine.doctor import Looked
from ls_backend.errors import QueueError
from ls_backend.jobs import redis_server
from ls_backend.jobs.queues import TRAIN, Queues, redis_url
from ls_backend.settings import Settings

LONGEST_WAIT_S = 600.0
MOST_SKEW_S = 10.0


def look(settings: Settings) -> Looked:
    """Look at Redis, at the workers that live and at what waits for them."""
    url = redis_url(settings)
    answers = redis_server.examine(url)
    if answers.level != "ok":
        return Looked(None, (answers,), complete=False)
    with closing(Queues(url)) as queues:
        try:
            return Looked(None, (answers, *_workers(queues), _waiting(queues), _clock(queues)))
        except QueueError as error:
            return Looked(None, (Finding("redis", "error", "REDIS_URL", str(error), error.hint),), complete=False)


def _workers(queues: Queues) -> Iterator[Finding]:
    depths = queues.depths()
    for name, alive in queues.workers().items():
        if alive:
            yield Finding("no-worker", "ok", f"{name} workers", f"{alive} alive")
        elif name == TRAIN and not depths[name]:
            yield Finding("no-worker", "ok", f"{name} workers", "none, and nothing to train")
        else:
            yield Finding(
                "no-worker",
                "error",
                f"{name} workers",
                f"No {name} worker is alive; {depths[name]} jobs wait for one.",
                "Start `ls-backend start`, or `ls-backend worker` beside a server elsewhere, with the same DATA_DIR, "
                "DATABASE_URL and REDIS_URL.",
            )


def _waiting(queues: Queues) -> Finding:
    name, seconds = max(queues.ages().items(), key=lambda item: item[1])
    if seconds < LONGEST_WAIT_S:
        return Finding("queue-stuck", "ok", "job queue", "no job has waited long")
    return Finding(
        "queue-stuck",
        "warning",
        "job queue",
        f"A job has waited for {seconds / 60:.0f} minutes in the queue {name}; expected less than "
        f"{LONGEST_WAIT_S / 60:.0f}.",
        "See with `ls-backend jobs` what runs before it; add workers of that queue if there is always work.",
    )


def _clock(queues: Queues) -> Finding:
    ahead_s = queues.clock_ahead_s()
    if abs(ahead_s) < MOST_SKEW_S:
        return Finding("clock-skew", "ok", "clock", f"the clock of Redis differs by {abs(ahead_s):.1f} s")
    return Finding(
        "clock-skew",
        "warning",
        "clock",
        f"The clock of the Redis server is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the one of "
        "this machine; jobs may be taken for abandoned, and ages are wrong.",
        "Let all machines set their clocks by NTP.",
    )
