"""Kill anything, at any time: every event is covered soon, and nothing is left behind."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from ls_backend.errors import QueueError
from ls_backend.jobs import redis_server
from ls_backend.jobs.queues import TIMEOUT_S
from ls_backend.jobs.supervisor import Supervisor, environment, server_command
from ls_backend.settings import Settings


@pytest.fixture
def running(deployment):
    """A supervisor with its Redis and two workers, and a project."""
    deployment.connect_project(7)
    deployment.start_supervisor()
    return deployment


def _supervisor(deployment):
    (alive,) = [process for process in deployment.processes if process.poll() is None]
    return alive


def _redis_pid(deployment):
    children = deployment.children(_supervisor(deployment).pid)
    (pid,) = [pid for pid, line in children.items() if "unixsocket" in line]
    return pid


def _gone(pid):
    return not Path(f"/proc/{pid}").exists()


def test_an_event_is_covered(running, eventually):
    generation = running.event(7)
    assert eventually(lambda: running.covered(7, generation), within_s=5) < 2


def test_an_event_whose_kick_got_lost_is_found(running, eventually):
    generation = running.store.projects.bump(7)
    eventually(lambda: running.covered(7, generation), within_s=6)


def test_a_killed_worker_costs_seconds(running, eventually):
    running.tell("crash", "now")
    generation = running.event(7)
    assert eventually(lambda: running.covered(7, generation), within_s=15) < 10
    begun = running.runs(event="begin", kind="update")
    assert len(begun) == 2
    assert begun[0][3] != begun[1][3], "another process took it over"
    eventually(lambda: not running.queues.failed(7), within_s=5)


def test_workers_killed_again_and_again_are_told_and_still_recover(running, eventually):
    generation = running.event(7)
    eventually(lambda: running.covered(7, generation), within_s=10)
    running.tell("slow", 0.5)
    told = []
    for _ in range(3):
        running.tell("crash", "now")
        generation = running.event(7)
        eventually(lambda: not (running.data_dir / "crash").exists(), within_s=20)
        eventually(lambda g=generation: running.queues.failed(7) or running.covered(7, g), within_s=20)
        told += [failure.code for failure in running.queues.failed(7)]
    eventually(lambda: running.covered(7), within_s=60)
    assert "worker-died" in told


def test_an_idle_worker_that_is_killed_is_replaced(running, eventually):
    before = running.worker_pid("rank")
    os.kill(before, signal.SIGKILL)
    eventually(lambda: running.worker_pid("rank") not in (before, None), within_s=5)
    generation = running.event(7)
    eventually(lambda: running.covered(7, generation), within_s=10)


def test_a_worker_that_leaves_with_code_0_is_replaced(running, eventually):
    before = running.worker_pid("embed")
    os.kill(before, signal.SIGTERM)
    eventually(lambda: running.worker_pid("embed") not in (before, None), within_s=10)
    assert "code=0" in running.output()


def test_a_killed_redis_comes_back_and_events_meanwhile_are_covered(running, eventually):
    running.tell("slow", 1)
    running.event(7)
    eventually(lambda: running.runs(event="begin", kind="update"), within_s=10)
    os.kill(_redis_pid(running), signal.SIGKILL)
    generation = running.store.projects.bump(7)  # as the server does; its kick may fail now
    assert eventually(lambda: running.covered(7, generation), within_s=30) < 15
    assert running.overlaps("update") == 1


def test_a_redis_that_forgot_everything_is_healed(running, eventually):
    running.tell("slow", 1)
    first = running.event(7)
    eventually(lambda: running.runs(event="begin", kind="update"), within_s=10)
    running.redis.flushall()
    generation = running.store.projects.bump(7)
    eventually(lambda: running.covered(7, generation), within_s=15)
    assert generation > first
    assert running.overlaps("update") == 1


def test_a_killed_supervisor_takes_everything_along(running, eventually):
    supervisor = _supervisor(running)
    children = running.children(supervisor.pid)
    assert len(children) == 4
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.wait()
    eventually(lambda: all(_gone(pid) for pid in children), within_s=10)


def test_the_work_of_a_killed_supervisor_is_taken_up_by_the_next(running, eventually):
    running.tell("slow", 60)
    generation = running.event(7)
    eventually(lambda: running.runs(event="begin", kind="update"), within_s=10)
    supervisor = _supervisor(running)
    children = running.children(supervisor.pid)
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.wait()
    eventually(lambda: all(_gone(pid) for pid in children), within_s=10)
    running.tell("slow", 0)
    running.start_supervisor()
    assert eventually(lambda: running.covered(7, generation), within_s=40) < 15


def test_a_stop_lets_the_running_job_finish_and_leaves_nothing(running, eventually):
    running.tell("slow", 2)
    generation = running.event(7)
    eventually(lambda: running.runs(event="begin", kind="update"), within_s=10)
    supervisor = _supervisor(running)
    children = running.children(supervisor.pid)
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(15) == 0
    assert all(_gone(pid) for pid in children)
    assert running.covered(7, generation)
    assert not redis_server.answers(redis_server.url_of(running.data_dir))


def test_a_stop_does_not_wait_for_ever_and_the_job_is_run_by_the_next(running, eventually, within):
    running.tell("slow", 120)
    generation = running.event(7)
    eventually(lambda: running.runs(event="begin", kind="update"), within_s=10)
    supervisor = _supervisor(running)
    started = time.monotonic()
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(30) == 0
    assert within(started, 16)
    running.tell("slow", 0)
    running.start_supervisor()
    eventually(lambda: running.covered(7, generation), within_s=10)


def test_a_second_signal_stops_at_once(running, eventually, within):
    running.tell("slow", 120)
    running.event(7)
    eventually(lambda: running.runs(event="begin", kind="update"), within_s=10)
    supervisor = _supervisor(running)
    supervisor.send_signal(signal.SIGINT)
    time.sleep(0.5)
    started = time.monotonic()
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(15) == 0
    assert within(started, 5)


def test_an_idle_stop_is_quick(running, within):
    supervisor = _supervisor(running)
    started = time.monotonic()
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(15) == 0
    assert within(started, 4)


@pytest.mark.parametrize(
    ("hang", "patches"),
    [
        ("native", "reaper._OVERRUN_S = 1"),
        ("held", "reaper._MISSING_S = 1"),
    ],
)
def test_a_hanging_worker_is_killed_and_its_job_runs_again(deployment, eventually, monkeypatch, hang, patches):
    monkeypatch.setitem(TIMEOUT_S, "update", 2 if hang == "native" else 600)
    deployment.connect_project(7)
    deployment.start_supervisor(patches)
    deployment.tell("hang", hang)
    generation = deployment.event(7)
    eventually(lambda: deployment.covered(7, generation), within_s=45)
    assert "hangs" in deployment.output()


def test_a_job_lost_between_two_lists_is_put_back(running, eventually):
    # All three workers wait inside Redis for a job; one that is still ending its last job would not take the next.
    eventually(lambda: sum("b" in client["flags"] for client in running.redis.client_list()) >= 3, within_s=10)
    os.kill(running.worker_pid("rank"), signal.SIGSTOP)
    generation = running.event(7)
    # The stopped worker's blocked connection takes the job, as a worker killed at that moment would.
    eventually(lambda: running.redis.llen("rq:queue:rank:intermediate") == 1, within_s=10)
    os.kill(running.worker_pid("rank"), signal.SIGKILL)
    eventually(lambda: running.covered(7, generation), within_s=20)


def test_active_projects_are_compared_with_label_studio_now_and_then(deployment, eventually):
    deployment.environment["LSB_RECONCILE_S"] = "2"
    deployment.connect_project(7)
    deployment.connect_project(8)
    deployment.store.projects.set(8, active=False)
    deployment.start_supervisor()
    eventually(lambda: len(deployment.runs(kind="reconcile", event="end")) >= 2, within_s=15)
    assert {project for _, _, project, _, _ in deployment.runs(kind="reconcile")} == {7}


def test_a_failing_project_is_tried_again_with_pauses(running, eventually):
    running.tell("raise", "unreachable")
    running.event(7)
    time.sleep(9)
    tries = len(running.runs(event="begin", kind="update"))
    assert 2 <= tries <= 4
    (running.data_dir / "raise").unlink()
    eventually(lambda: running.covered(7), within_s=20)


def test_two_supervisors_share_one_redis(running, eventually):
    running.start_supervisor()
    first, second = running.processes
    eventually(lambda: len(running.workers()) == 6, within_s=20)
    first.send_signal(signal.SIGTERM)
    assert first.wait(15) == 0
    generation = running.store.projects.bump(7)
    eventually(lambda: running.covered(7, generation), within_s=30)
    assert second.poll() is None


def test_the_server_gets_its_address_and_threads(tmp_path):
    settings = Settings(data_dir=tmp_path, host="127.0.0.1", port=9191, threads=3)
    command = server_command(settings)
    assert command[-1] == "ls_backend.web.app:create_app()"
    assert command[command.index("--bind") + 1] == "127.0.0.1:9191"
    assert command[command.index("--threads") + 1] == "3"


def test_an_ipv6_address_is_bracketed(tmp_path):
    command = server_command(Settings(data_dir=tmp_path, host="::1"))
    assert command[command.index("--bind") + 1] == "[::1]:9090"


def test_children_see_the_settings_of_their_parent(tmp_path, monkeypatch):
    given = Settings(
        data_dir=tmp_path,
        label_studio_url="http://studio",
        label_studio_api_key="secret",
        reconcile_s=3.5,
        rank_workers=2,
        log_json=True,
        redis_url="redis://elsewhere",
    )
    for name, value in environment(given).items():
        monkeypatch.setenv(name, value)
    assert Settings() == given


def test_a_redis_unfit_for_jobs_ends_the_start(with_redis):
    with_redis.redis.config_set("maxmemory", "50mb")
    with_redis.redis.config_set("maxmemory-policy", "allkeys-lru")
    settings = Settings(data_dir=with_redis.data_dir)
    with pytest.raises(QueueError, match="noeviction"):
        Supervisor(settings, server=False, redis=False).run()


def test_stop_ends_run(with_redis):
    supervisor = Supervisor(Settings(data_dir=with_redis.data_dir), server=False, redis=False)
    threading.Timer(1.0, supervisor.stop).start()
    supervisor.run()
    assert all(child.process is None for child in supervisor.children)
    assert redis_server.answers(redis_server.url_of(with_redis.data_dir)), "a client leaves the server alone"
