"""A real Label Studio as a child process, set up the way this backend needs it.

Used by `ls-backend demo` and by the end-to-end tests. The first start of a Label Studio migrates an empty database,
which takes half a minute; that database is kept as a template, so that later starts take a few seconds.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import httpx

from ls_backend.errors import LabelStudioError, SettingsError, Unreachable
from ls_backend.settings import default_cache_dir

if TYPE_CHECKING:
    from ls_backend.labelstudio.client import Client

# An account of a throw-away server that only this machine can reach: these are no secrets.
EMAIL = "admin@example.com"
PASSWORD = "admin-password-1"  # noqa: S105 - see above
TOKEN = "0123456789abcdef0123456789abcdef01234567"  # noqa: S105 - see above

DATABASE_FILE = "label_studio.sqlite3"
FAST_IMPORT_FLAG = "fflag_fix_back_4620_memory_efficient_predictions_import_08012025_short"
ENVIRONMENT = {
    "LABEL_STUDIO_USERNAME": EMAIL,
    "LABEL_STUDIO_PASSWORD": PASSWORD,
    "LABEL_STUDIO_USER_TOKEN": TOKEN,
    "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",  # acts only when the organization is created
    "ML_BLOCK_LOCAL_IP": "false",  # else backends on private addresses are refused
    "SSRF_PROTECTION_ENABLED": "false",  # else webhooks to private addresses are dropped in silence
    "COLLECT_ANALYTICS": "False",
    "LATEST_VERSION_CHECK": "False",
    "SENTRY_DSN": "",
    "PYTHONUNBUFFERED": "1",  # the log is read while the server starts
}
# Label Studio reads hundreds of variables, many with common names (HOST, PORT, DEBUG): only these are handed down.
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "XDG_CACHE_HOME")

PORT_TRIES = 3
POLL_S = 0.1
STOP_S = 10.0

# Runs in the child before Label Studio: the kernel ends it when its parent dies, however the parent dies.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent died first")
os.execv(sys.argv[2], sys.argv[2:])
"""


class PortTaken(LabelStudioError):
    """Somebody else listens on the port that was asked for."""

    code = "port-taken"
    hint = "Choose another port, or none to get a free one."


def find_executable(executable: Path | None = None) -> Path:
    """Return Label Studio's program: the given one, the one of `make setup-label-studio`, or the one on PATH.

    Raises:
        SettingsError: If there is none.
    """
    if executable is not None:
        if os.access(executable, os.X_OK):
            return executable.absolute()
        raise SettingsError(
            f"Label Studio's program {executable} does not exist or cannot be run.",
            hint="Correct LSB_LABEL_STUDIO_EXECUTABLE, or unset it and run `make setup-label-studio`.",
        )
    beside = Path(sys.prefix).parent / ".venv-label-studio" / "bin" / "label-studio"
    if os.access(beside, os.X_OK):
        return beside
    on_path = shutil.which("label-studio")
    if on_path is not None:
        return Path(on_path).absolute()
    raise SettingsError(
        f"Label Studio is not installed: neither {beside} nor label-studio on PATH exists.",
        hint="Run `make setup-label-studio`, or set LSB_LABEL_STUDIO_EXECUTABLE.",
    )


def version_of(executable: Path) -> str | None:
    """Return the version of an installed Label Studio without starting it; None if it cannot be told."""
    program = 'from importlib.metadata import version; print(version("label-studio"))'
    for folder in (executable.parent, executable.resolve().parent):
        python = folder / "python"
        if python.exists():
            done = subprocess.run(  # noqa: S603 - the interpreter beside the program about to be run
                [python, "-I", "-c", program], capture_output=True, text=True, timeout=60, check=False
            )
            if done.returncode == 0:
                return done.stdout.strip()
    return None


class LabelStudioServer:
    """A running Label Studio; stops with its process group on `stop`, at the end of `with`, and with its parent.

    Make one with `LabelStudioServer.start`. On Linux the server ends when the *thread* that started it ends: start
    it from a thread that lives as long as the server should.
    """

    email = EMAIL
    password = PASSWORD
    token = TOKEN

    def __init__(
        self, data_dir: Path, executable: Path, environment: Mapping[str, str], start_timeout_s: float
    ) -> None:
        self.data_dir = data_dir
        self.log_path = data_dir / "label-studio.log"
        self.port = 0
        self._executable = executable
        self._environment = environment
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @classmethod
    def start(
        cls,
        data_dir: Path,
        *,
        port: int | None = None,
        executable: Path | None = None,
        template: bool = True,
        fast_import: bool = True,
        legacy_token: bool = True,
        environment: Mapping[str, str] | None = None,
        start_timeout_s: float = 240.0,
    ) -> Self:
        """Start Label Studio on a data folder and return when it answers.

        Args:
            data_dir: Its database, uploads and log; made when missing, kept when stopped.
            port: Port on 127.0.0.1; a free one if not given.
            executable: Label Studio's program; see `find_executable`.
            template: Begin a new data folder from a migrated copy, made once for each version of Label Studio.
            fast_import: Switch on the flag that makes an import of predictions cost its own rows only.
            legacy_token: Accept legacy tokens; without, `token` is refused and only personal access tokens work.
            environment: More variables for Label Studio.
            start_timeout_s: Seconds until a server that does not answer is given up.

        Raises:
            SettingsError: If Label Studio is not installed.
            PortTaken: If somebody else listens on `port`.
            Unreachable: If it ended or did not answer in time; the message ends with its log.
        """
        program = find_executable(executable)
        data_dir = data_dir.absolute()
        data_dir.mkdir(parents=True, exist_ok=True)
        if template and not (data_dir / DATABASE_FILE).exists():
            _copy_template(program, data_dir, start_timeout_s)
        extra = {FAST_IMPORT_FLAG: "true" if fast_import else "false", **(environment or {})}
        server = cls(data_dir, program, extra, start_timeout_s)
        server._launch_on(port)
        if not legacy_token:
            server._refuse_legacy_token()
        return server

    @property
    def url(self) -> str:
        """Address of the server, without a trailing slash."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    def client(self) -> Client:
        """Return a client of this server that uses the legacy token."""
        from ls_backend.labelstudio.client import Client  # noqa: PLC0415 - the SDK is slow to import

        return Client(self.url, self.token)

    def stop(self) -> None:
        """End the server and everything it started; harmless when it has stopped already."""
        process, self._process = self._process, None
        if process is None:
            return
        _signal_group(process.pid, signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            _signal_group(process.pid, signal.SIGKILL)
            process.wait()
        _signal_group(process.pid, signal.SIGKILL)  # what outlived its leader

    def restart(self) -> None:
        """Stop and start again on the same port and data."""
        self.stop()
        self._launch_on(self.port)

    def log_tail(self, lines: int = 30) -> str:
        """Return the last lines the server logged since its last start."""
        return "\n".join(self._log().splitlines()[-lines:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _launch_on(self, port: int | None) -> None:
        for attempt in range(1, PORT_TRIES + 1):
            self.port = port or _free_port()
            try:
                self._launch()
            except PortTaken:
                self.stop()
                if port is not None or attempt == PORT_TRIES:
                    raise
            except BaseException:
                self.stop()
                raise
            else:
                return

    def _launch(self) -> None:
        if _is_taken(self.port):
            raise PortTaken(f"Port {self.port} is taken; Label Studio would have started on another one.")
        command = [str(self._executable), "start", "--no-browser", "--internal-host", "127.0.0.1"]
        command += ["--port", str(self.port), "--data-dir", str(self.data_dir)]
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        environment |= {**ENVIRONMENT, "LABEL_STUDIO_HOST": self.url, **self._environment}
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(  # noqa: S603 - the operator's own program
                [sys.executable, "-I", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command],
                cwd=self.data_dir,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait_until_ready(self._process)

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        with httpx.Client(base_url=self.url, timeout=5.0, trust_env=False) as http:
            while time.monotonic() < deadline:
                code = process.poll()
                # The log is asked first: a stranger on the same port may well have a /health, too.
                listening = self._port_in_log()
                if listening not in (None, self.port) or (code is not None and "port is already in use" in self._log()):
                    raise PortTaken(f"Port {self.port} was taken by somebody else while Label Studio started.")
                if code is not None:
                    raise Unreachable(f"Label Studio ended with exit code {code} while starting.{self._story()}")
                if listening is not None and _is_healthy(http):
                    return
                time.sleep(POLL_S)
        raise Unreachable(f"Label Studio did not answer within {self._start_timeout_s:g} s.{self._story()}")

    def _port_in_log(self) -> int | None:
        """Port the server says it listens on; None before it has said so."""
        found = re.search(r"server at https?://[^\s/]+:(\d+)", self._log())
        return int(found.group(1)) if found else None

    def _log(self) -> str:
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def _story(self) -> str:
        return f" The end of {self.log_path}:\n{self.log_tail()}"

    def _refuse_legacy_token(self) -> None:
        answer = httpx.post(
            f"{self.url}/api/jwt/settings",
            headers={"Authorization": f"Token {TOKEN}"},
            json={"api_tokens_enabled": True, "legacy_api_tokens_enabled": False},
            timeout=30.0,
            trust_env=False,
        )
        if not answer.is_success and answer.status_code != httpx.codes.UNAUTHORIZED:  # refused: off already
            self.stop()
            raise LabelStudioError(f"Label Studio kept legacy tokens: {answer.status_code} {answer.text[:200]}")


def _copy_template(executable: Path, data_dir: Path, start_timeout_s: float) -> None:
    """Lay a migrated database into an empty data folder; the database comes last, so a torn copy is begun again."""
    version = version_of(executable)
    if version is None:
        return  # an unknown program: it migrates by itself, slowly but rightly
    recipe = hashlib.sha256(json.dumps(ENVIRONMENT, sort_keys=True).encode()).hexdigest()[:8]
    home = default_cache_dir() / "label-studio-templates"
    home.mkdir(parents=True, exist_ok=True)
    template = home / f"{version}-{recipe}"
    with _locked(home / f"{template.name}.lock"):
        if not template.exists():
            _make_template(executable, template, start_timeout_s)
    shutil.copy(template / ".env", data_dir / ".env")  # the key that signs sessions and tokens
    torn = data_dir / f"{DATABASE_FILE}.copying"
    shutil.copyfile(template / DATABASE_FILE, torn)
    torn.replace(data_dir / DATABASE_FILE)


def _make_template(executable: Path, template: Path, start_timeout_s: float) -> None:
    """Let Label Studio migrate an empty database, stop it, check the database and give it its name in one step."""
    with tempfile.TemporaryDirectory(dir=template.parent, prefix="new-", ignore_cleanup_errors=True) as folder:
        made = Path(folder) / "data"
        LabelStudioServer.start(made, executable=executable, template=False, start_timeout_s=start_timeout_s).stop()
        with closing(sqlite3.connect(made / DATABASE_FILE)) as database:
            (verdict,) = database.execute("PRAGMA quick_check").fetchone()  # opening it also rolls a torn write back
        if verdict != "ok":
            raise LabelStudioError(f"Label Studio left a damaged database: {verdict}.", hint="Start it again.")
        made.rename(template)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes; the kernel frees it when the holder dies."""
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_healthy(http: httpx.Client) -> bool:
    try:
        return http.get("/health").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return  # all gone
