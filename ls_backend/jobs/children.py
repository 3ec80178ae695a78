"""Deep work in a process of its own: the memory of PyTorch comes back when it ends, and it can be killed at any time.

    train worker  --- starts, listens, kills --->  child: python -m ls_backend.jobs.children --parent PID train ID

The child writes a line whenever it gets on, and at the end one that says why it could not go on now, if so. Silence
means that it hangs. What it has done is in the records, not in the pipe: either side may die at any moment.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Literal

import structlog

from ls_backend import leash, logs
from ls_backend.errors import BackendError, QueueError
from ls_backend.jobs.queues import Queues
from ls_backend.settings import Settings

if TYPE_CHECKING:
    from ls_backend.engine.context import Context

SILENT_S = 900.0
"""Seconds without a sign of life after which a child is taken to hang: longer than loading or a slow epoch takes."""

CANCEL_S = 10.0
"""Seconds a child has to end by itself when its training is cancelled."""

ATTEMPTS = 3
"""Processes of one training that may die before it is given up."""

_LISTEN_S = 0.2
_LOOK_S = 1.0
_LATER = 75  # exit code "try again later", as in sysexits.h
_KEPT_BYTES = 65_536  # of what a child has written: room for its last words
_NICE = 10  # the fast loop, Label Studio and the server come first
_log = logs.get(__name__)


class ToldByChild(BackendError):
    """What a child could not do now, in its words; the work is tried again after a pause."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.code = code


class ChildDied(BackendError):
    """A child ended without being asked to, or hung and was killed."""

    code = "worker-died"
    hint = "If it goes on: code -9 means that memory was short or that the process hung."

    def __init__(self, what: str, exit_code: int | None) -> None:
        how = "hung and was killed" if exit_code is None else f"ended with code {exit_code}"
        super().__init__(f"The process of {what} {how}; it is started again.")
        self.exit_code = exit_code


def train(context: Context, training_id: int, stopping: threading.Event) -> None:
    """Carry out a training in a child, and start another where one dies.

    Args:
        context: Of this worker; the child makes its own from the same environment.
        training_id: Of the records; one that is over is left alone.
        stopping: Set when this worker has to end; the training stays open, and goes on elsewhere or later.

    Raises:
        ToldByChild: Label Studio, the database or Redis refused; the training stays open.
        ChildDied: The child died after the training was over.
    """
    trainings = context.store.trainings

    def cancelled() -> bool:
        training = trainings.get(training_id)
        return training is not None and training.is_open and training.cancel_requested

    while not stopping.is_set():
        try:
            _run(["train", str(training_id)], stopping, cancelled)
        except ChildDied as died:
            training = trainings.get(training_id)
            if training is None or not training.is_open:
                raise
            deaths = trainings.died(training_id)
            _log.error("the process of a training died", training=training_id, error=str(died), deaths=deaths)
            if deaths >= ATTEMPTS:
                from ls_backend.engine import deep  # noqa: PLC0415 - slow to import

                deep.give_up(context, training_id, died.exit_code, deaths)
                return
            continue
        if cancelled():
            trainings.finish(training_id, "cancelled")  # it did not end by itself
        return


def judge(project_id: int, control: str, stopping: threading.Event) -> None:
    """Have a deep version look at the pool in a child; the next run goes on with what is left.

    Raises:
        ToldByChild: Label Studio, the database or Redis refused.
        ChildDied: It died or hung.
    """
    _run(["judge", str(project_id), control], stopping, lambda: False)


def advise(kind: Literal["advice", "savings"], project_id: int, stopping: threading.Event) -> None:
    """Make advice, or replay the labels of a project, in a child; when this worker has to end, so does it, for good.

    Raises:
        ToldByChild: The project, its plan or the database refused.
        ChildDied: It died or hung.
    """
    _run([kind, str(project_id)], stopping, lambda: False)


def _run(words: list[str], stopping: threading.Event, cancelled: Callable[[], bool]) -> None:
    """Wait until a child has ended, by itself or because it was cancelled or this worker has to end."""
    module = "ls_backend.jobs.children"
    about = (
        structlog.contextvars.get_contextvars()
    )  # of the job that waits here: the child's log lines are about it too
    named = [text for name in ("job", "project") if name in about for text in (f"--{name}", str(about[name]))]
    command = [sys.executable, "-m", module, "--parent", str(os.getpid()), *named, "--", *words]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)  # noqa: S603 - our own
    assert process.stdout is not None
    try:
        how, last = _listen(process.stdout, stopping, cancelled)
        if how == "ended":  # it has said all it had to say
            with suppress(subprocess.TimeoutExpired):
                process.wait(CANCEL_S)
    finally:  # a time limit of the job ends up here, too
        process.kill()
        process.stdout.close()
        code = process.wait()
    what = " ".join(words[:2])
    if how == "hung":
        raise ChildDied(what, None)
    if how == "ended" and code == _LATER:
        raise ToldByChild(**json.loads(last))
    if how == "ended" and code != 0:
        raise ChildDied(what, code)


def _listen(
    pipe: IO[bytes], stopping: threading.Event, cancelled: Callable[[], bool]
) -> tuple[Literal["ended", "hung", "stopped"], bytes]:
    """Read a child's lines until it closes the pipe or has to be killed; returns why, and its last line."""
    heard = looked = time.monotonic()
    patience_ends: float | None = None
    text = b""
    while not stopping.is_set():
        ready, _, _ = select.select([pipe], [], [], _LISTEN_S)
        now = time.monotonic()
        if ready:
            got = os.read(pipe.fileno(), 65_536)
            if not got:
                return "ended", text.strip().rpartition(b"\n")[2]
            text, heard = (text + got)[-_KEPT_BYTES:], now
        if now - heard > SILENT_S:
            return "hung", b""
        if now - looked >= _LOOK_S:
            looked = now
            if patience_ends is None and cancelled():
                patience_ends = now + CANCEL_S
        if patience_ends is not None and now > patience_ends:
            return "stopped", b""
    return "stopped", b""


def main() -> None:
    """Do the work of a child, with settings from the environment."""
    parser = argparse.ArgumentParser(prog="python -m ls_backend.jobs.children", description=__doc__)
    parser.add_argument("--parent", type=int, required=True, help="process id of the worker; this process dies with it")
    parser.add_argument("--job", help="id of the job that waits for this process")
    parser.add_argument("--project", type=int, help="its project")
    parser.add_argument("kind", choices=("train", "judge", "advice", "savings"))
    parser.add_argument("number", type=int, help="id of the training, or else of the project")
    parser.add_argument("control", nargs="?", help="whose version judges")
    given = parser.parse_args()
    leash.die_with(given.parent)
    os.nice(_NICE)
    # Open until this process has ended: taking PyTorch down can take longer than the parent waits for one that is done.
    with os.fdopen(os.dup(1), "w", closefd=False) as pipe:
        os.dup2(2, 1)  # what a library prints is no sign of life
        try:
            _work(given, pipe)
        except BackendError as error:
            told = {"code": error.code, "message": str(error), "hint": error.hint}
            pipe.write(f"\n{json.dumps(told)}\n")
            pipe.flush()
            sys.exit(_LATER)


def _work(given: argparse.Namespace, pipe: IO[str]) -> None:
    settings = Settings()
    logs.configure(settings, process=given.kind)
    about = {"kind": given.kind, "job": given.job, "project": given.project}
    structlog.contextvars.bind_contextvars(**{name: value for name, value in about.items() if value is not None})
    from ls_backend.engine import deep, judge  # noqa: PLC0415 - slow to import
    from ls_backend.engine.context import Context  # noqa: PLC0415 - slow to import

    context, queues = Context(settings), Queues.of(settings)

    def beat() -> None:
        pipe.write("\n")
        pipe.flush()

    def look(project_id: int, control: str) -> None:
        def told(woken: bool) -> None:  # noqa: FBT001 - said by position
            beat()
            if woken:
                with suppress(QueueError):  # the supervisor finds the wanted generation by itself
                    queues.kick(project_id)

        judge.judge_pool(context, project_id, control, told)

    beat()
    if given.kind in ("advice", "savings"):
        from ls_backend.engine.advice import renew, replay_savings  # noqa: PLC0415 - slow to import

        (renew if given.kind == "advice" else replay_savings)(context, given.number, say=lambda _: beat())
        return
    if given.kind == "judge":
        look(given.number, given.control)
        return
    deep.train(context, given.number, beat)
    training = context.store.trainings.get(given.number)
    if training is not None and training.state == "done":
        look(training.project_id, training.control)


if __name__ == "__main__":
    main()
