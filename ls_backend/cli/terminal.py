"""What every command shares: where it prints, how it explains an error, what it works on.

Nothing slow is imported here, so that `--help` is instant.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Annotated, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from ls_backend import logs
from ls_backend.domain import plain
from ls_backend.errors import BackendError, QueueError
from ls_backend.settings import Settings

if TYPE_CHECKING:
    from ls_backend.domain import Finding
    from ls_backend.engine.context import Context

__all__ = [
    "AsJson",
    "ProjectId",
    "app",
    "err",
    "explained",
    "kick",
    "open_context",
    "out",
    "plain",
    "print_finding",
    "settings_of",
]

app = typer.Typer(
    name="ls-backend",
    help="Active learning for Label Studio: every annotator always sees the next most valuable task.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)

ProjectId = Annotated[int, typer.Option("--project", "-p", min=1, help="Label Studio's project id.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

MARKS = {"ok": "[green]ok[/green]", "warning": "[yellow]warning[/yellow]", "error": "[red]error[/red]"}

P = ParamSpec("P")
R = TypeVar("R")


def explained(command: Callable[P, R]) -> Callable[P, R]:
    """Turn our own errors into a sentence, a remedy and exit status 1."""

    @wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except BackendError as error:
            err.print(f"[red]{error.code}[/red]: {escape(str(error))}", f"\n  {escape(error.hint)}", highlight=False)
            raise typer.Exit(1) from error

    return wrapper


def settings_of(process: str) -> Settings:
    """Read the environment and set up the log of this process."""
    settings = Settings()
    logs.configure(settings, process=process)
    return settings


def open_context() -> Context:
    """Return what the engine's use cases need, made from the environment."""
    from ls_backend.engine.context import Context  # noqa: PLC0415 - slow to import

    return Context(settings_of("cli"))


def user() -> str:
    """Return the name of who runs the command; empty where the system knows none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in some containers
        return ""


def kick(context: Context, project_id: int) -> None:
    """Wake the worker; when Redis is away the supervisor finds the bumped generation by itself."""
    from ls_backend.jobs.queues import Queues  # noqa: PLC0415 - slow to import

    try:
        Queues.of(context.settings).kick(project_id)
    except QueueError as error:
        err.print(f"[yellow]The worker could not be woken ({error}); it will find the work when it runs.[/yellow]")


def print_finding(project_id: int | None, finding: Finding) -> None:
    """Print what is wrong or fine, about what, and what to do."""
    where = "" if project_id is None else f"project {project_id}: "
    text = f"{MARKS[finding.level]} {escape(f'{where}{finding.subject}: {finding.message}')}"
    out.print(text, highlight=False)
    if finding.remedy:
        out.print(f"   {escape(finding.remedy)} [dim]({finding.code})[/dim]", highlight=False)
