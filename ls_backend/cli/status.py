"""What goes on: the projects, where each stands, and the jobs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ls_backend.cli.terminal import AsJson, app, err, explained, open_context, out, plain
from ls_backend.errors import QueueError

if TYPE_CHECKING:
    from ls_backend.engine.context import Context
    from ls_backend.engine.progress import State
    from ls_backend.jobs.work import Standing
    from ls_backend.store import Project

_COLOURS = {"learning": "green", "waiting for labels": "cyan", "problem": "red"}


@app.command()
@explained
def status(
    project: Annotated[
        list[int] | None, typer.Option("--project", "-p", min=1, help="This project only; unset shows all.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say where each project stands: labels, model, window, last update, jobs. Exit status 1 when one has a problem."""
    from ls_backend.engine.progress import state  # noqa: PLC0415 - slow to import

    context = open_context()
    chosen = [context.project(number) for number in project] if project else context.store.projects.active()
    states = {item.id: state(context.store, item) for item in chosen}
    work = _work(context, chosen)
    if as_json:
        answer = {"projects": [_plain(item, states[item.id], work.get(item.id)) for item in chosen]}
        print(json.dumps(answer, indent=2))  # noqa: T201 - the command's answer
    else:
        _print(chosen, states, work)
    if any(found.name == "problem" for found in states.values()):
        raise typer.Exit(1)


def _work(context: Context, chosen: list[Project]) -> dict[int, Standing]:
    """Ask Redis for the jobs of each project; nothing when it does not answer, which is said."""
    from ls_backend.jobs.queues import Queues  # noqa: PLC0415 - slow to import
    from ls_backend.jobs.work import standings  # noqa: PLC0415 - slow to import

    queues = Queues.of(context.settings)
    try:
        return standings(queues, [item.id for item in chosen])
    except QueueError as error:
        err.print(f"[yellow]The jobs cannot be seen: {escape(str(error))}[/yellow]", highlight=False)
        return {}
    finally:
        queues.close()


def _plain(project: Project, state: State, work: Standing | None) -> dict[str, Any]:
    told: dict[str, Any] = {"id": project.id, "title": project.title, **plain(state), "jobs": None}
    if work is not None:
        told["jobs"] = {
            "running": [plain(job) for job in work.those("running")],
            "queued": [plain(job) for job in work.those("queued")],
            "failed": [plain(failure) for failure in work.failed],
        }
    return told


def _print(chosen: list[Project], states: dict[int, State], work: dict[int, Standing]) -> None:
    table = Table("project", "state", "labels", "model", "accuracy", "window left", "last update (UTC)", "jobs")
    for item in chosen:
        found, mine = states[item.id], work.get(item.id)
        table.add_row(
            escape(f"{item.id} {item.title}".strip()),
            f"[{_COLOURS[found.name]}]{found.name}[/]",
            f"{found.labels} of {found.tasks}",
            found.model_version or "none yet",
            _accuracy(found),
            str(found.window_left),
            "never" if found.updated_at is None else f"{found.updated_at:%Y-%m-%d %H:%M:%S}",
            "?" if mine is None else mine.words,
        )
    out.print(table)
    for item in chosen:
        out.print(f"{item.id}: {escape(states[item.id].sentence)}", highlight=False)
    if not chosen:
        out.print("No project is connected: `ls-backend connect --project N` does that.", highlight=False)


def _accuracy(state: State) -> str:
    if state.accuracy is None or state.low is None or state.high is None:
        return ""
    low, high = round(100 * state.low), round(100 * state.high)
    return f"{100 * state.accuracy:.0f} % ({low} to {high} on {state.n_measured})"
