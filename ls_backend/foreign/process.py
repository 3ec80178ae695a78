"""The parent's side of a foreign model's process: start, ask within a time, end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from multiprocessing.connection import Pipe
from typing import Any

from ls_backend.foreign.answers import FailureKind
from ls_backend.foreign.order import Order
from ls_backend.leash import leashed

_STDERR = 2


class Lost(Exception):
    """The process gave no answer: it hung and was ended, or it died.

    Attributes:
        kind: "hung" or "died".
    """

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class ModelProcess:
    """A process that runs one foreign model, with a group of its own so that its helpers end with it.

    On Linux it ends when the thread that started it ends, however that comes; elsewhere when its next answer finds
    nobody.
    """

    def __init__(self, order: Order) -> None:
        ours, theirs = Pipe()
        self._connection = ours
        with theirs:
            command = [sys.executable, "-m", "ls_backend.foreign.child", str(theirs.fileno())]
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                leashed(command, on_death=signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=_STDERR,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._order = order
        self._reaping = threading.Lock()

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked; between two questions nothing but its end makes the pipe readable."""
        return not self._connection.closed and not self._connection.poll()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def load(self, timeout_s: float) -> dict[str, Any]:
        """Have the model imported and constructed; like `ask`."""
        return self._exchange(asdict(self._order), timeout_s)

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send a request and return its answer.

        Raises:
            Lost: No answer in time, or the process died. It is gone then.
        """
        return self._exchange(request, timeout_s)

    def end(self) -> int:
        """Kill it with its helpers; return its exit status."""
        self._kill()
        with self._reaping:  # who cancels and who waits for an answer may both end it
            status = self._process.wait()
            self._connection.close()
        return status

    def _exchange(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        # A timer that kills, and not a poll: sending and half an answer may block just as well.
        overdue = threading.Event()
        timer = threading.Timer(timeout_s, self._end_overdue, [overdue])
        timer.start()
        try:
            self._connection.send_bytes(json.dumps(message).encode())
            answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            status = self.end()
            if overdue.is_set():
                raise Lost("hung", f"it gave no answer within {timeout_s:g} s and was ended") from error
            raise Lost("died", f"its process ended with {_status_words(status)}") from error
        finally:
            timer.cancel()
        return answer

    def _end_overdue(self, overdue: threading.Event) -> None:
        overdue.set()
        self._kill()

    def _kill(self) -> None:
        with self._reaping:
            if self._process.returncode is None:  # once it is reaped, the number may be somebody else's
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)


def _status_words(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
