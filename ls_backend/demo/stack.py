"""Our own processes for the demo and the end-to-end tests: `ls-backend start` on a folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ls_backend.errors import BackendError, Unreachable

START_S = 60.0
STOP_S = 30.0


class Stack:
    """A running ls_backend: server, workers and Redis in one process group.

    Attributes:
        url: Address of the server.
        data_dir: Its folder.
    """

    def __init__(
        self, data_dir: Path, label_studio_url: str, token: str, environment: Mapping[str, str] | None = None
    ) -> None:
        """Prepare; nothing runs before `start`.

        Args:
            data_dir: Folder of its database, embeddings, models and Redis.
            label_studio_url: Label Studio to serve.
            token: Label Studio's token, of either kind.
            environment: More variables.
        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = data_dir
        self.log_path = data_dir / "ls_backend.log"
        self.environment = {
            **os.environ,
            "LABEL_STUDIO_URL": label_studio_url,
            "LABEL_STUDIO_API_KEY": token,
            "LSB_HOST": "127.0.0.1",
            "LSB_BACKEND_URL": self.url,
            "PORT": str(self.port),
            "DATA_DIR": str(data_dir),
            **(environment or {}),
        }
        for name in ("REDIS_URL", "DATABASE_URL", "MODEL_DIR", "BASIC_AUTH_USER", "BASIC_AUTH_PASS"):
            if name not in (environment or {}):
                self.environment.pop(name, None)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: str = "start") -> Self:
        """Start everything, or what another command starts, and return when the server answers.

        Raises:
            Unreachable: It ended, or does not answer; the message ends with its log.
        """
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "ls_backend", command],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(BackendError):
                self.get("/health")
                return self
            time.sleep(0.05)
        tail = self.log_tail()
        self.stop()
        raise Unreachable(
            f"ls_backend did not start at {self.url}. Its log ends with:\n{tail}", hint="See the log above."
        )

    def command(self, *arguments: str) -> str:
        """Run an `ls-backend` command with the same environment and return what it prints.

        Raises:
            BackendError: It failed; the message holds what it said.
        """
        done = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "ls_backend", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        if done.returncode != 0:
            raise BackendError(f"ls-backend {arguments[0]} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def get(self, path: str) -> Any:  # noqa: ANN401 - JSON
        """Return the JSON answer of a path of the server.

        Raises:
            Unreachable: No answer.
        """
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:  # noqa: S310 - our own address
                return json.load(answer)
        except (urllib.error.URLError, OSError) as error:
            raise Unreachable(f"{self.url}{path}: {error}") from error

    def settled(self, project_id: int, *, labels: int | None = None, timeout_s: float = 180.0) -> dict[str, Any]:
        """Wait until a project has read its images and covered every event, and return its state.

        Args:
            project_id: Which.
            labels: Labels it must know; None for any number.
            timeout_s: Seconds to wait.

        Raises:
            Unreachable: It did not get there; the message has the last state.
        """
        deadline = time.monotonic() + timeout_s
        state: dict[str, Any] = {}
        while time.monotonic() < deadline:
            with contextlib.suppress(Unreachable):
                state = self.get(f"/api/projects/{project_id}")
                calm = state["done_generation"] >= state["wanted_generation"] and state["unread_images"] == 0
                if calm and state["window"] and (labels is None or state["labels"] == labels):
                    return state
            time.sleep(0.2)
        shown = {key: value for key, value in state.items() if key not in {"versions", "runs", "settings"}}
        problems = self.get(f"/api/projects/{project_id}/problems")
        raise Unreachable(f"project {project_id} did not settle in {timeout_s:.0f} s: {shown} {problems}")

    def kill(self) -> None:
        """End everything at once, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Stop everything in order; harmless when it has stopped."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def running(self) -> bool:
        """Whether the supervisor is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the supervisor."""
        assert self._process is not None, "the stack is not running"
        return self._process.pid

    def log_tail(self, lines: int = 30) -> str:
        """Return the last lines of its log."""
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
