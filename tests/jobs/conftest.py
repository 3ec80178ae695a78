"""A deployment made of real processes: embedded Redis, supervisor, workers, store. Only the engine is a stand-in."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import redis as redis_client

from ls_backend.jobs import redis_server
from ls_backend.jobs.queues import Queues
from ls_backend.settings import Settings
from ls_backend.store import Store

STAND_IN = Path(__file__).parent / "stand_in"
SUPERVISOR = """
from ls_backend import logs
from ls_backend.jobs import reaper
from ls_backend.jobs.supervisor import Supervisor
from ls_backend.settings import Settings
{patches}
settings = Settings()
logs.configure(settings, process="supervisor")
Supervisor(settings, server=False, redis=True).run()
"""


def slowdown():
    """How many times longer everything takes than on an idle machine: runnable processes for each core, at least 1."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def wait_until(condition, *, within_s, every_s=0.02):
    """Seconds until the condition held; the deadline is for a machine that has nothing else to do."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > within_s * slowdown():
            pytest.fail(f"not within {within_s} s, {slowdown():.1f} times over: {condition}")
        time.sleep(every_s)
    return time.monotonic() - started


class Deployment:
    """One data folder with its processes."""

    def __init__(self, data_dir):
        self.data_dir = data_dir
        self.environment = os.environ | {
            "DATA_DIR": str(data_dir),
            "PYTHONPATH": str(STAND_IN),
            "LSB_RECONCILE_S": "3600",
        }
        data_dir.mkdir(parents=True, exist_ok=True)
        self.settings = Settings(data_dir=data_dir)
        self.store = Store(self.settings.sql_url)
        self.queues = Queues.of(self.settings)
        self.redis = redis_client.Redis.from_url(redis_server.url_of(data_dir), socket_timeout=5)
        self.processes = []

    def tell(self, name, text):
        """Tell the stand-in engine how to behave."""
        (self.data_dir / name).write_text(str(text))

    def connect_project(self, project_id):
        self.store.projects.ensure(project_id)
        return project_id

    def start_supervisor(self, patches=""):
        code = SUPERVISOR.format(patches=patches)
        with (self.data_dir / "output.log").open("a") as output:
            process = subprocess.Popen([sys.executable, "-c", code], env=self.environment, stderr=output, stdout=output)
        self.processes.append(process)
        wait_until(lambda: len(self.workers()) >= 3, within_s=30)
        if self.store.projects.active():
            # The first comparison comes at once; a test that follows is about its own jobs.
            wait_until(lambda: self.runs(event="end", kind="reconcile"), within_s=30)
        return process

    def start_worker(self, queue):
        with (self.data_dir / "output.log").open("a") as output:
            command = [sys.executable, "-m", "ls_backend.jobs.workers", queue, f"{queue}-test-{time.time_ns()}"]
            process = subprocess.Popen(command, env=self.environment, stderr=output, stdout=output)
        self.processes.append(process)
        return process

    def children(self, parent_pid):
        """Process id -> command line, of processes that are no zombies."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                if int(parent) == parent_pid and state != "Z":
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().decode().replace("\0", " ")
        return found

    def worker_pid(self, queue):
        """Process id of the (only) worker of a queue."""
        (supervisor,) = [process for process in self.processes if process.poll() is None]
        pids = [pid for pid, line in self.children(supervisor.pid).items() if f"workers {queue}" in line]
        return pids[0] if pids else None

    def workers(self):
        """Names of workers that listen, as RQ knows them."""
        with contextlib.suppress(redis_client.RedisError):
            return [name.decode().removeprefix("rq:worker:") for name in self.redis.smembers("rq:workers")]
        return []

    def output(self):
        return (self.data_dir / "output.log").read_text()

    def runs(self, *, event=None, kind=None):
        """Lines of the stand-in's diary: (event, kind, project, pid, time)."""
        with contextlib.suppress(FileNotFoundError):
            lines = [line.split() for line in (self.data_dir / "runs.log").read_text().splitlines()]
            return [
                (what, which, int(project), int(pid), float(at))
                for what, which, project, pid, at in lines
                if event in (None, what) and kind in (None, which)
            ]
        return []

    def overlaps(self, kind):
        """Most runs of a kind at the same time for one project."""
        now, most = Counter(), 0
        for what, _, project, _, _ in self.runs(kind=kind):
            now[project] += 1 if what == "begin" else -1
            most = max(most, now[project])
        return most

    def event(self, project_id):
        """What the server does on a webhook."""
        generation = self.store.projects.bump(project_id)
        self.queues.kick(project_id)
        return generation

    def covered(self, project_id, generation=None):
        project = self.store.projects.get(project_id)
        return project.done_generation >= (generation or project.wanted_generation)

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.queues.close()
        self.redis.close()
        self.store.dispose()


@pytest.fixture
def deployment(tmp_path):
    """Nothing runs yet."""
    made = Deployment(tmp_path / "data")
    yield made
    made.close()


@pytest.fixture
def with_redis(deployment):
    """Only the embedded Redis runs."""
    server = redis_server.start(deployment.data_dir)
    yield deployment
    deployment.close()
    server.stop()


@pytest.fixture
def eventually():
    return wait_until


@pytest.fixture
def within():
    """Whether seconds since a start are below a bound that holds on an idle machine."""
    return lambda started, seconds: time.monotonic() - started < seconds * slowdown()
