"""Warm workers: one queue each, everything imported and loaded once, jobs in the worker's own process.

A job that crashes takes its worker along; the supervisor starts another one and gives the job back (`reaper`).

    python -m ls_backend.jobs.workers QUEUE NAME [--parent PID]
"""

from __future__ import annotations

import argparse
import socket
import threading
import uuid

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from rq import SimpleWorker
from rq.job import Job

from ls_backend import leash, logs
from ls_backend.errors import SettingsError
from ls_backend.jobs import reaper, tasks
from ls_backend.jobs.keys import alive_key
from ls_backend.jobs.queues import NAMES, SERIALIZER, redis_url
from ls_backend.settings import Settings

_WORKER_TTL_S = 20  # RQ waits for a job 15 s less than this, so a worker looks at its signals every 5 s
_log = logs.get(__name__)


class WarmWorker(SimpleWorker):
    """RQ's in-process worker, with the deadline of its jobs said in our own words."""

    max_connection_wait_time = 4  # seconds between two looks for a Redis that is away; RQ's minute is long for people

    def handle_warm_shutdown_request(self) -> None:
        """Tell the running job, in case it can break off and go on in another worker."""
        tasks.stopping.set()
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]  # RQ's

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:  # noqa: ARG002 - RQ's signature
        """Seconds after which a running job may be called abandoned."""
        return int(job.timeout or 0) + reaper.JOB_GRACE_S


def fresh_name(queue: str) -> str:
    """Return a name no worker had before: RQ refuses a name while its last bearer is remembered."""
    return f"{queue}-{socket.gethostname()}-{uuid.uuid4().hex[:10]}"


def work(settings: Settings, queue: str, name: str) -> None:
    """Run the jobs of a queue until SIGTERM or SIGINT; the running job is finished first.

    Args:
        settings: Deployment settings; jobs see the same.
        queue: "rank", "embed" or "train".
        name: Name never used before, see `fresh_name`.

    Raises:
        SettingsError: If there is no such queue.
    """
    if queue not in NAMES:
        raise SettingsError(f"There is no queue {queue!r}; expected one of {', '.join(NAMES)}.")
    logs.configure(settings, process=name)
    connection = _connection(settings)
    tasks.worker_settings.set(settings)
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(settings, name, ended), name="alive", daemon=True)
    beat.start()
    _warm_up(settings, queue)
    try:
        WarmWorker([queue], name=name, connection=connection, serializer=SERIALIZER, worker_ttl=_WORKER_TTL_S).work(
            logging_level=None
        )
    finally:
        ended.set()
        beat.join(2)


def _warm_up(settings: Settings, queue: str) -> None:
    try:
        tasks.warm_up(settings, queue)
    except Exception:  # noqa: BLE001 - each job tells a broken database or package in words the dashboard shows
        _log.exception("warm-up failed; jobs will say why")


def _beat(settings: Settings, name: str, ended: threading.Event) -> None:
    connection = _connection(settings)
    while not ended.is_set():
        try:
            connection.set(alive_key(name), reaper.sign_of_life(), ex=reaper.ALIVE_TTL_S)
        except redis.RedisError as error:
            _log.debug("no sign of life given", error=str(error))
        ended.wait(reaper.ALIVE_EVERY_S)
    connection.close()


def _connection(settings: Settings) -> redis.Redis:
    return redis.Redis.from_url(redis_url(settings), socket_connect_timeout=3, retry=Retry(ConstantBackoff(0.2), 10))


def main() -> None:
    """Work as a child of the supervisor, with settings from the environment."""
    parser = argparse.ArgumentParser(prog="python -m ls_backend.jobs.workers", description=__doc__)
    parser.add_argument("queue", choices=NAMES)
    parser.add_argument("name")
    parser.add_argument("--parent", type=int, help="process id of the supervisor; this process dies with it")
    given = parser.parse_args()
    if given.parent is not None:
        leash.die_with(given.parent)
    work(Settings(), given.queue, given.name)


if __name__ == "__main__":
    main()
