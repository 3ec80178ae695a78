"""Commands about work: what runs and failed, what is wrong, which models there are."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ls_backend.cli.terminal import (
    AsJson,
    ProjectId,
    app,
    err,
    explained,
    open_context,
    out,
    plain,
    print_finding,
    settings_of,
)

if TYPE_CHECKING:
    from ls_backend.engine.versions import Comparison, Listing

OneProject = Annotated[
    int | None, typer.Option("--project", "-p", min=1, help="Of this Label Studio project only; unset for all.")
]


@app.command()
@explained
def jobs(project: OneProject = None, as_json: AsJson = False) -> None:
    """List what runs, waits and failed, and how far embedding and trainings are. Exit status 1 when a job failed."""
    from ls_backend.jobs import work  # noqa: PLC0415 - slow to import
    from ls_backend.jobs.queues import Queues  # noqa: PLC0415 - slow to import
    from ls_backend.store import Store  # noqa: PLC0415 - slow to import

    settings = settings_of("cli")
    seen = work.look(Store(settings.sql_url), Queues.of(settings), project)
    if as_json:
        print(json.dumps(seen.plain(), indent=2))  # noqa: T201 - the command's answer
    else:
        table = Table("state", "kind", "project", "for", "why")
        for item in seen.jobs:
            why = "" if item.failure is None else f"{item.failure.code}: {item.failure.message} {item.failure.hint}"
            table.add_row(item.state, item.kind, str(item.project_id or ""), _since(item.since), escape(why))
        for look in seen.outlooks:
            share = "" if look.share is None else f"{100 * look.share:.0f} %"
            left = "" if look.left_s is None else f", {_lasting(look.left_s)} left"
            what = f"{look.what} {look.subject}".strip()
            table.add_row(look.phase, escape(what), str(look.project_id), "", f"{share}{left}".strip(", "))
        out.print(table)
        if seen.queue_error:
            err.print(f"[red]queue-error[/red]: {escape(seen.queue_error)}", highlight=False)
    if seen.queue_error or any(item.state == "failed" for item in seen.jobs):
        raise typer.Exit(1)


def _since(moment: datetime | None) -> str:
    return "" if moment is None else _lasting((datetime.now(UTC) - moment).total_seconds())


def _lasting(seconds: float) -> str:
    if seconds < 120:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@app.command()
@explained
def retry(
    project: Annotated[int, typer.Option("--project", "-p", min=0, help="Its project; 0 for work of none.")],
    kind: Annotated[str, typer.Option(help="Kind of the failed job, as `ls-backend jobs` lists it.")],
) -> None:
    """Try a failed job again at once, without waiting for the end of its pause."""
    from ls_backend.jobs import work  # noqa: PLC0415 - slow to import
    from ls_backend.jobs.queues import Queues  # noqa: PLC0415 - slow to import
    from ls_backend.store import Store  # noqa: PLC0415 - slow to import

    settings = settings_of("cli")
    woken = work.retry(Store(settings.sql_url), Queues.of(settings), kind, project)
    out.print("It is tried again." if woken else "Nothing was woken: it waits or runs already, or nobody asks for it.")


@app.command()
@explained
def problems(project: OneProject = None, as_json: AsJson = False) -> None:
    """List what is wrong, latest first, each with its remedy. Exit status 1 when something is an error."""
    from ls_backend.store import Store  # noqa: PLC0415 - slow to import

    store = Store(settings_of("cli").sql_url)
    found = store.problems.open_anywhere() if project is None else store.problems.open(project)
    if as_json:
        print(json.dumps([plain(item) for item in found], indent=2))  # noqa: T201 - the command's answer
    else:
        for item in found:
            print_finding(item.project_id, item.finding)
        if not found:
            out.print("No open problem. `ls-backend doctor` looks at every known trap now.")
    if any(item.finding.level == "error" for item in found):
        raise typer.Exit(1)


@app.command()
@explained
def models(
    project: ProjectId,
    compare: Annotated[
        tuple[str, str] | None, typer.Option(help="Two versions to put side by side.", metavar="A B")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the model versions of a project with what was measured, newest first, or compare two of them."""
    from ls_backend.engine import versions  # noqa: PLC0415 - slow to import

    context = open_context()
    record = context.project(project)
    if compare is None:
        listing = versions.listed(context.store, record)
        if as_json:
            print(json.dumps(listing.plain(), indent=2))  # noqa: T201 - the command's answer
        else:
            _print_versions(listing)
        return
    made = versions.compare(context.store, project, *compare)
    if as_json:
        print(json.dumps(plain(made), indent=2))  # noqa: T201 - the command's answer
    else:
        _print_comparison(made)


def _print_comparison(made: Comparison) -> None:
    table = Table("", made.first.version_id, made.second.version_id, "difference")
    for name in ("state", "n_labels", "backbone", "created_at"):
        told = [getattr(item, name) for item in (made.first, made.second)]
        words = [f"{item:%Y-%m-%d %H:%M}" if isinstance(item, datetime) else escape(str(item)) for item in told]
        table.add_row(name.removeprefix("n_").replace("_at", ""), *words, "")
    for figure in made.figures:
        table.add_row(
            escape(figure.name.replace("_", " ")) + (" (less is better)" if figure.less_is_better else ""),
            _figure(figure.first, figure.first_interval),
            _figure(figure.second, figure.second_interval),
            "" if figure.difference is None else f"{figure.difference:+.3f}",
        )
    out.print(table)
    for item in (made.first, made.second):
        if item.reason:
            out.print(f"{item.version_id} was refused by the gate: {escape(item.reason)}", highlight=False)
    out.print(escape(made.note), highlight=False)


def _figure(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if interval is None else f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def _print_versions(listing: Listing) -> None:
    table = Table("version", "state", "labels", "accuracy", "log loss", "measured on", "backbone", "made")
    for item in listing.versions:
        name = f"[bold]{item.version_id}[/bold]" if item.version_id == listing.in_force else item.version_id
        state = "pinned" if item.version_id == listing.pinned else item.state
        measured = "" if not item.metrics.n_holdout else ("test set" if item.metrics.test_set else "hold-out")
        table.add_row(
            name,
            state,
            str(item.n_labels),
            "" if item.metrics.accuracy is None else f"{100 * item.metrics.accuracy:.1f} %",
            "" if item.metrics.log_loss is None else f"{item.metrics.log_loss:.3f}",
            f"{measured} ({item.metrics.n_holdout})" if measured else "",
            escape(item.backbone),
            f"{item.created_at:%Y-%m-%d %H:%M}",
        )
    for deep in listing.deep_versions:
        metrics = ", ".join(f"{key} {value:.3f}" for key, value in deep.metrics.items() if isinstance(value, float))
        table.add_row(
            deep.version_id, deep.state, str(deep.n_labels), escape(metrics), "", "", "", escape(deep.control)
        )
    out.print(table)
