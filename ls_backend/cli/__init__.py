"""The command line: one module for each group of commands."""

from __future__ import annotations

from ls_backend.cli import advice as _advice  # noqa: F401 - its commands register themselves
from ls_backend.cli import commands as _commands  # noqa: F401 - likewise
from ls_backend.cli import jobs as _jobs  # noqa: F401 - likewise
from ls_backend.cli import progress as _progress  # noqa: F401 - likewise
from ls_backend.cli import reasons as _reasons  # noqa: F401 - likewise
from ls_backend.cli import settings as _settings  # noqa: F401 - likewise
from ls_backend.cli import status as _status  # noqa: F401 - likewise
from ls_backend.cli.terminal import app as app


def main() -> None:
    """Entry point of the console script."""
    app()
