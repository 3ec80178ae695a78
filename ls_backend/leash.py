"""Children that cannot outlive their parent.

Linux delivers a signal to a process when the thread that started it ends (`PR_SET_PDEATHSIG`). So children must be
started from a thread that lives as long as the parent: the main thread. Other systems have no such signal; there the
supervisor's own clean-up is all there is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
_LEASH = (
    "import ctypes, os, sys\n"
    "ctypes.CDLL(None).prctl(1, int(sys.argv[1]))\n"
    "if os.getppid() != int(sys.argv[2]): sys.exit(1)\n"
    "os.execv(sys.argv[3], sys.argv[3:])\n"
)


def leashed(command: Sequence[str], *, on_death: signal.Signals) -> list[str]:
    """Wrap a command so that it receives a signal when this process dies, however it dies.

    A wrapper instead of `preexec_fn`, which may deadlock when the parent has threads.

    Args:
        command: Absolute path of a program and its arguments.
        on_death: What the program receives.
    """
    if not sys.platform.startswith("linux"):
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _LEASH, str(int(on_death)), str(os.getpid()), *command]


def die_with(parent_pid: int) -> None:
    """Leash this very process to its parent: SIGKILL when the parent is gone.

    Args:
        parent_pid: The parent as it named itself; if it died before this call, this process ends at once.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit("the supervisor is gone already")
