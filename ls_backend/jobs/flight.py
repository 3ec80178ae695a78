"""One run at a time for each project: a lock that belongs to a job, not to a process.

A job that holds the lock and is not running any more (its worker was killed) does not block: whoever comes next sees
that the holder's status is not "started" and takes the lock over. A plain lease would block until it expires.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis

_TAKE = """
local holder = redis.call('get', KEYS[1])
if holder and holder ~= ARGV[1] and redis.call('hget', 'rq:job:' .. holder, 'status') == 'started' then return 0 end
redis.call('set', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
"""
_RELEASE = """
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end
return 0
"""
_LOOK_AGAIN_S = 0.2


@contextmanager
def alone(connection: redis.Redis, name: str, job_id: str, *, longest_s: int, wait_s: float = 0.0) -> Iterator[bool]:
    """Hold the lock `name` for a job while the block runs.

    Args:
        connection: Redis of the job queue.
        name: What is locked.
        job_id: The running job.
        longest_s: Seconds after which the lock ends by itself.
        wait_s: Seconds to wait while another running job holds it.

    Yields:
        Whether the lock was got; without it the block must do nothing.
    """
    key = f"lsb:lock:{name}"
    deadline = time.monotonic() + wait_s
    taken = bool(connection.eval(_TAKE, 1, key, job_id, longest_s))
    while not taken and time.monotonic() < deadline:
        time.sleep(_LOOK_AGAIN_S)
        taken = bool(connection.eval(_TAKE, 1, key, job_id, longest_s))
    try:
        yield taken
    finally:
        if taken:
            connection.eval(_RELEASE, 1, key, job_id)
