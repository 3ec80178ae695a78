"""The command line: one module for each group of commands."""

from __future__ import annotations

from ls_backend.cli import commands as _commands  # noqa: F401 - its commands register themselves
from ls_backend.cli import jobs as _jobs  # noqa: F401
from ls_backend.cli.terminal import app as app


def main() -> None:
    """Entry point of the console script."""
    app()
