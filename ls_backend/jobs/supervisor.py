"""The parent of all processes of a deployment: starts them, watches them, repairs what they left behind.

    main thread      children: start, notice every exit, start again
    healer thread    every 2 s: lost kicks, lost jobs, hanging jobs, due comparisons with Label Studio

Several supervisors may share one Redis and one database, on one host or many: all they do may be done twice.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

import redis
from pydantic import SecretStr

from ls_backend import logs
from ls_backend.errors import BackendError, QueueError
from ls_backend.jobs import redis_server, workers
from ls_backend.jobs.keys import project_of
from ls_backend.jobs.queues import EMBED, RANK, TRAIN, Queues, redis_url
from ls_backend.jobs.reaper import Reaper
from ls_backend.leash import leashed
from ls_backend.settings import Settings, env_names

if TYPE_CHECKING:
    from ls_backend.store import Store

HEAL_S = 2.0
WARM_STOP_S = 10.0
SERVER_STOP_S = 5.0
SERVER_HEAD_START_S = 2.5
_TICK_S = 0.1
_REDIS_START_S = 30.0  # a Redis started at the same moment by somebody else may not be up yet
_LONGEST_BACK_OFF_S = 30.0
_EXAMINE_EVERY_S = 3600.0
_FIRST_EXAMINE_S = 60.0  # not while everything starts
_HEALTHY_S = 30.0  # a child that lived this long is started again at once
_log = logs.get(__name__)


@dataclass(slots=True)
class Child:
    """A place for a process that has to run all the time.

    Attributes:
        role: "server" or the name of its queue.
        name: Worker name of the present process; another one after each start.
        crashes: Exits in a row soon after the start.
        start_at: Monotonic time before which it is not started again.
    """

    role: str
    name: str = ""
    process: subprocess.Popen[bytes] | None = None
    crashes: int = 0
    started_at: float = 0.0
    start_at: float = 0.0


class Supervisor:
    """Runs a deployment, or the workers of one, until it is told to stop.

    Args:
        settings: Deployment settings; children get the same through their environment.
        server: Whether to run the HTTP server.
        redis: Whether to start the embedded Redis when REDIS_URL is unset; False to be a client of one.
    """

    def __init__(self, settings: Settings, *, server: bool, redis: bool) -> None:
        self.settings = settings
        self._starts_redis = redis and settings.redis_url is None
        self._embedded: redis_server.EmbeddedRedis | None = None
        # Workers take seconds of processor time to load torch; the server, which Label Studio may ask, goes first.
        start_at = time.monotonic() + (SERVER_HEAD_START_S if server else 0.0)
        self.children = [Child("server")] * server
        self.children += [Child(RANK, start_at=start_at) for _ in range(settings.rank_workers)]
        self.children += [Child(EMBED, start_at=start_at) for _ in range(settings.embed_workers)]
        self.children += [Child(TRAIN, start_at=start_at) for _ in range(settings.train_workers)]
        self._stopping = threading.Event()
        self._look_at_redis_at = 0.0
        self._hurry = False
        self._hanging: dict[str, str] = {}  # written by the healer, acted on by the main thread

    def run(self) -> None:
        """Run until SIGTERM, SIGINT or `stop`; call it from the main thread.

        Raises:
            QueueError: If there is no Redis fit for a job queue.
        """
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self.settings.data_dir.mkdir(parents=True, exist_ok=True)
            self._provide_redis()
            healer = threading.Thread(target=self._heal_for_ever, name="healer", daemon=True)
            healer.start()
            while not self._stopping.wait(_TICK_S):
                self._tick()
            healer.join(HEAL_S + 1)
        finally:
            self._stop_children()
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self) -> None:
        """Ask `run` to end: the server first, then the workers when their job is done, Redis last."""
        self._stopping.set()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._stopping.is_set():
            self._hurry = True
        _log.info("stopping", signal=signal.Signals(number).name, hurry=self._hurry)
        self.stop()

    def _tick(self) -> None:
        now = time.monotonic()
        self._keep_redis(now)
        for child in self.children:
            if child.process is not None and (code := child.process.poll()) is not None:
                self._bury(child, code, now)
            if child.process is None and now >= child.start_at:
                self._start(child, now)
            if child.process is not None and (job := self._hanging.pop(child.name, None)):
                _log.error("a job hangs beyond its timeout; its worker is killed", worker=child.name, job=job)
                child.process.kill()

    def _start(self, child: Child, now: float) -> None:
        child.name = "server" if child.role == "server" else workers.fresh_name(child.role)
        child.process = subprocess.Popen(  # noqa: S603 - our own commands
            self._command(child),
            env=_thread_limits() | os.environ | environment(self.settings) | {"REDIS_URL": redis_url(self.settings)},
            start_new_session=True,  # Ctrl-C is for the supervisor alone, which stops its children in order
            stdin=subprocess.DEVNULL,
        )
        child.started_at = now
        _log.info("started", role=child.role, name=child.name, pid=child.process.pid)

    def _command(self, child: Child) -> list[str]:
        if child.role != "server":
            return [sys.executable, "-m", workers.__name__, child.role, child.name, "--parent", str(os.getpid())]
        return leashed(server_command(self.settings), on_death=signal.SIGTERM)

    def _bury(self, child: Child, code: int, now: float) -> None:
        """Note an exit nobody asked for, whatever its code says, and plan the next start."""
        child.process = None
        healthy = now - child.started_at >= _HEALTHY_S
        child.crashes = 1 if healthy else child.crashes + 1
        wait_s = 0.0 if child.crashes == 1 else min(2.0 ** (child.crashes - 2), _LONGEST_BACK_OFF_S)
        child.start_at = now + wait_s
        _log.error("a process ended by itself", role=child.role, name=child.name, code=code, again_in_s=wait_s)
        if child.role != "server":
            self._reap(child.name, code)

    def _reap(self, worker_name: str, code: int) -> None:
        try:
            with self._talk() as connection:
                job_ids = Reaper(connection).reap(worker_name)
            queues = Queues(redis_url(self.settings))
            for job_id in job_ids:
                kind, project_id = project_of(job_id)
                message = f"A worker ended with code {code} while it ran {kind}; the job is run again."
                hint = "If it goes on: code -9 means that memory was short or that the job hung."
                queues.record_failure(kind, project_id, code="worker-died", message=message, hint=hint)
            queues.close()
        except (redis.RedisError, QueueError) as error:
            _log.warning("jobs of a dead worker could not be given back; the sweep will", error=str(error))

    def _talk(self) -> redis.Redis:
        return redis.Redis.from_url(redis_url(self.settings), socket_connect_timeout=2, socket_timeout=5)

    def _provide_redis(self) -> None:
        if self._starts_redis:
            self._embedded = redis_server.start(self.settings.data_dir)
        url = redis_url(self.settings)
        deadline = time.monotonic() + _REDIS_START_S
        while not redis_server.answers(url) and time.monotonic() < deadline:
            if self._stopping.wait(_TICK_S):
                return
        redis_server.check(url)
        with closing(Queues.of(self.settings)) as queues:
            queues.end_pauses()

    def _keep_redis(self, now: float) -> None:
        """Start the embedded Redis again when it is gone, whoever started it before."""
        if self._embedded is None or now < self._look_at_redis_at:
            return
        self._look_at_redis_at = now + (_TICK_S if self._embedded.process is not None else HEAL_S)
        if not self._embedded.gone():
            return
        _log.error("the embedded Redis ended by itself; it is started again")
        try:
            self._embedded = redis_server.start(self.settings.data_dir)
        except QueueError as error:
            _log.error("the embedded Redis cannot be started", error=str(error))

    def _heal_for_ever(self) -> None:
        healer = Healer(self.settings)
        while not self._stopping.wait(HEAL_S):
            self._hanging = healer.heal()
        healer.close()

    def _stop_children(self) -> None:
        server = [child for child in self.children if child.role == "server"]
        rest = [child for child in self.children if child.role != "server"]
        self._end(server, SERVER_STOP_S)
        for child in self._end(rest, WARM_STOP_S):
            self._reap(child.name, -signal.SIGKILL)
        if self._embedded is not None:
            self._embedded.stop()

    def _end(self, children: list[Child], grace_s: float) -> list[Child]:
        """Stop processes together; returns those that had to be killed."""
        running = [(child, child.process) for child in children if child.process is not None]
        for _, process in running:
            process.terminate()
        deadline = time.monotonic() + grace_s
        while any(process.poll() is None for _, process in running):
            if self._hurry or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        killed = [(child, process) for child, process in running if process.poll() is None]
        for _, process in killed:
            process.kill()
        for child, process in running:
            process.wait()
            child.process = None
        return [child for child, _ in killed]


class Healer:
    """Repairs what no process knows it has lost; every step may fail and is tried again in the next round."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queues = Queues(redis_url(settings))
        self._connection = redis.Redis.from_url(redis_url(settings), socket_connect_timeout=2, socket_timeout=5)
        self._reaper = Reaper(self._connection)
        self._store: Store | None = None
        self._examine_from = time.monotonic() + _FIRST_EXAMINE_S

    def heal(self) -> dict[str, str]:
        """Do one round.

        Returns:
            Names of workers that hang, with their jobs.
        """
        hanging: dict[str, str] = {}
        try:
            hanging = self._reaper.sweep()
            self._wake_projects()
            if time.monotonic() > self._examine_from and self._queues.claim("examine", seconds=_EXAMINE_EVERY_S):
                self._queues.kick_examine()
        except (redis.RedisError, BackendError) as error:
            _log.warning("healing waits", error=str(error))
        except Exception:  # noqa: BLE001 - a round that fails must not end all rounds; SQL has errors of its own
            _log.exception("healing failed; it goes on with the next round")
        return hanging

    def close(self) -> None:
        """Let go of the connections."""
        self._queues.close()
        self._connection.close()
        if self._store is not None:
            self._store.dispose()

    def _wake_projects(self) -> None:
        if self._store is None:
            from ls_backend.store import Store  # noqa: PLC0415 - the supervisor is up before the database is

            self._store = Store(self._settings.sql_url)
        for project_id in self._store.projects.behind():
            self._queues.heal(project_id)
        for training in self._store.trainings.open():
            self._queues.kick_train(training.project_id, training.training_id)
        for project in self._store.projects.active():
            if self._queues.claim(f"reconcile-{project.id}", seconds=self._settings.reconcile_s):
                self._queues.kick_reconcile(project.id)


def _thread_limits() -> dict[str, str]:
    """Give a process half of the cores for its matrices, unless the operator has decided otherwise.

    Label Studio and the other workers are at work beside it, and threads of OpenMP that wait for a core they cannot
    get spin: on two busy cores two threads embed images four times slower than one.
    """
    half = str(max(1, (os.cpu_count() or 1) // 2))
    return {"OMP_NUM_THREADS": half, "OPENBLAS_NUM_THREADS": half, "MKL_NUM_THREADS": half}


def server_command(settings: Settings) -> list[str]:
    """Return the command line of the server: one process of many threads, so that Label Studio may call back."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    command = [sys.executable, "-m", "gunicorn", "--worker-class", "gthread", "--workers", "1"]
    command += ["--threads", str(settings.threads), "--bind", f"{host}:{settings.port}"]
    return [*command, "--no-control-socket", "ls_backend.web.app:create_app()"]


def environment(settings: Settings) -> dict[str, str]:
    """Settings as the environment variables that a child process reads them from."""
    variables = {}
    for name, (variable, *_) in env_names().items():
        value = getattr(settings, name)
        if value is not None:
            variables[variable] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return variables
