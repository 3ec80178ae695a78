"""The commands. Each imports what it needs when it runs, so that `--help` is instant."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from ls_backend import __version__
from ls_backend.cli.terminal import (
    AsJson,
    ProjectId,
    app,
    err,
    explained,
    kick,
    open_context,
    out,
    plain,
    print_finding,
    settings_of,
    user,
)
from ls_backend.errors import QueueError

if TYPE_CHECKING:
    from ls_backend.engine.context import Context
    from ls_backend.engine.replay import Report
    from ls_backend.engine.savings import Interval
    from ls_backend.store import Training


@app.command()
@explained
def start() -> None:
    """Run everything: server, workers, and Redis unless REDIS_URL is set."""
    from ls_backend.jobs.supervisor import Supervisor  # noqa: PLC0415 - slow to import

    Supervisor(settings_of("supervisor"), server=True, redis=True).run()


@app.command()
@explained
def serve() -> None:
    """Run the server alone."""
    from ls_backend.jobs.supervisor import server_command  # noqa: PLC0415 - slow to import

    command = server_command(settings_of("server"))
    os.execv(command[0], command)  # noqa: S606 - becomes the server, so that signals reach it


@app.command()
@explained
def worker() -> None:
    """Run the workers alone, for a server elsewhere that shares Redis, database and data folder."""
    from ls_backend.jobs.supervisor import Supervisor  # noqa: PLC0415 - slow to import

    Supervisor(settings_of("supervisor"), server=False, redis=False).run()


@app.command()
@explained
def connect(
    project: ProjectId,
    title: Annotated[str, typer.Option(help="Name of the ML backend in Label Studio.")] = "ls_backend",
    settings: Annotated[str | None, typer.Option(help="Project settings as JSON; unset keeps those in force.")] = None,
    no_tab: Annotated[
        bool, typer.Option("--no-tab", help="Make no tab in the Data Manager that lists the labelling queue.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Stay until the first order is published, and show how far it is.")
    ] = False,
) -> None:
    """Connect a project: ML backend, webhook, sampling mode, tab, first ranking. Safe to repeat."""
    from ls_backend.engine.connect import connect as run_connect  # noqa: PLC0415 - slow to import
    from ls_backend.settings import ProjectSettings  # noqa: PLC0415 - only here

    extra: dict[str, Any] | None = None
    if settings is not None:
        ProjectSettings.from_extra_params(settings)
        extra = json.loads(settings) if settings else {}
    context = open_context()
    for step in run_connect(context, project, title=title, extra_params=extra, who=user(), tab=not no_tab):
        out.print(f"{step.name}: {escape(step.outcome)}")
    kick(context, project)
    if wait:
        _wait_for_order(context, project)


def _wait_for_order(context: Context, project_id: int) -> None:
    """Show how many images or texts are read until a window is published; Ctrl-C leaves the work to the workers."""
    from rich import progress as bars  # noqa: PLC0415 - slow to import

    counted, left = bars.MofNCompleteColumn(), bars.TimeRemainingColumn()
    with bars.Progress(bars.TextColumn("{task.description}"), bars.BarColumn(), counted, left, console=err) as progress:
        bar = progress.add_task("reading tasks", total=None)
        while (record := context.project(project_id)).window_version is None:
            counts = context.store.tasks.counts(project_id)
            if counts.tasks:
                progress.update(
                    bar, description="embedding", total=counts.tasks, completed=counts.tasks - counts.unread
                )
            time.sleep(0.5)
    out.print(f"window {record.window_version} is in force")


@app.command()
@explained
def doctor(
    project: Annotated[list[int] | None, typer.Option("--project", "-p", help="Look at this project only.")] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Have workers mend what they can; what is found is kept as problems.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look at every known trap and name its remedy. Exit status 1 when something is wrong."""
    from ls_backend.engine.doctor import examine, keep  # noqa: PLC0415 - slow to import
    from ls_backend.jobs import checkup  # noqa: PLC0415 - slow to import

    context = open_context()
    with err.status("looking", spinner="line"):
        looks = [checkup.look(context.settings), *examine(context, project)]
    found = [(look.project_id, finding) for look in looks for finding in (*look.findings, *look.known)]
    if as_json:
        rows = [{"project": project_id, **plain(finding)} for project_id, finding in found]
        print(json.dumps(rows, indent=2))  # noqa: T201 - the command's answer
    else:
        for project_id, finding in found:
            print_finding(project_id, finding)
    if fix:
        keep(context, looks)
        _fix(context, {project_id for project_id, _ in found})
    if any(finding.level == "error" for _, finding in found):
        raise typer.Exit(1)


def _fix(context: Context, project_ids: set[int | None]) -> None:
    """Wake what mends the open problems of projects, and of the deployment."""
    from ls_backend.jobs import mend  # noqa: PLC0415 - slow to import
    from ls_backend.jobs.queues import Queues  # noqa: PLC0415 - slow to import

    queues = Queues.of(context.settings)
    for project_id in project_ids:
        record = None if project_id is None else context.store.projects.get(project_id)
        for problem in context.store.problems.open(project_id):
            found = mend.mender(record, problem.finding)
            if found is not None:
                woken = mend.mend(context.store, queues, project_id, problem.finding.code, problem.finding.subject)
                how = "a worker will do it" if woken else "it is on its way already"
                err.print(f"{escape(problem.finding.subject)}: {found.words}: {how}", highlight=False)


@app.command()
@explained
def sync(
    project: ProjectId,
    rebuild: Annotated[
        bool, typer.Option(help="Read everything anew and drop what Label Studio no longer has.")
    ] = False,
) -> None:
    """Read a project from Label Studio now."""
    from ls_backend.engine.sync import sync as run_sync  # noqa: PLC0415 - slow to import

    context = open_context()
    with err.status("reading Label Studio", spinner="line"):
        synced = run_sync(context, project, rebuild=rebuild)
    context.store.projects.bump(project)
    kick(context, project)
    counts = context.store.tasks.counts(project)
    out.print(f"{counts.tasks} tasks, {counts.labelled} labels, {synced.changed} tasks read")


@app.command()
@explained
def rank(
    project: ProjectId,
    limit: Annotated[int, typer.Option(min=1, help="Tasks to print.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Print the order in force, with the factors and the reason of every rank."""
    context = open_context()
    record = context.project(project)
    version = record.window_version
    rows = context.store.windows.ahead(project, version, limit) if version else []
    if as_json:
        answer = {"project": project, "version": version, "tasks": [plain(row) for row in rows]}
        print(json.dumps(answer, indent=2))  # noqa: T201 - the command's answer
        return
    table = Table("rank", "task", "utility", "reason", title=f"{record.title or project}: {record.window_version}")
    for row in rows:
        utility = "" if row.utility is None else f"{row.utility:.4g}"
        table.add_row(str(row.rank), str(row.task_id), utility, escape(row.reason))
    out.print(table)


@app.command()
@explained
def strategies(as_json: AsJson = False) -> None:
    """List the methods of every objective and the presets."""
    from ls_backend.strategies import presets  # noqa: PLC0415 - only here
    from ls_backend.strategies import strategies as registered  # noqa: PLC0415 - only here

    if as_json:
        answer = {"methods": [plain(item) for item in registered()], "presets": presets()}
        print(json.dumps(answer, indent=2, default=str))  # noqa: T201 - the command's answer
        return
    table = Table("objective", "method", "what it prefers", "source")
    for item in registered():
        table.add_row(item.objective, item.name, escape(item.summary), escape(item.source))
    out.print(table)
    for name, summary in presets().items():
        out.print(f"preset [bold]{name}[/bold]: {summary}")


@app.command()
@explained
def backtest(
    project: Annotated[
        int | None, typer.Option("--project", "-p", min=1, help="Replay the labels of this Label Studio project.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Replay a folder of images instead: each sub-folder is a class.")
    ] = None,
    plan: Annotated[
        list[str] | None,
        typer.Option(help="A preset or project settings as JSON; repeat it for several. Unset: the plan in force."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Labels between two rankings.")] = 10,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Batches; unset plays 20, or half of the labels if they are fewer.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Replays of each plan; below 5 there are no intervals.")] = 10,
    balanced: Annotated[bool, typer.Option("--balanced", help="Count every class alike, however rare.")] = False,
    report: Annotated[Path | None, typer.Option("--json", help="Write every curve to this file.")] = None,
) -> None:
    """Label known labels again, in the order of plans and of chance, and say what a plan saves."""
    from ls_backend.engine import known, replay  # noqa: PLC0415 - slow to import

    if (project is None) == (folder is None):
        raise typer.BadParameter("expected either --project or --folder, one of the two.")
    plans = {text: replay.plan_of(text) for text in plan or ([] if folder is None else ["auto"])}
    with err.status("reading", spinner="line") as status:
        if project is not None:
            context = open_context()
            plans = plans or {"plan in force": replay.plan_in_force(context, project)}
            tasks = known.of_project(context, project, plans.values())
        else:
            assert folder is not None  # one of the two is given
            tasks = known.of_folder(settings_of("cli"), folder, say=status.update)
        for line in tasks.unreadable:
            err.print(f"[yellow]left out[/yellow] {escape(line)}", highlight=False)
        metric: Literal["accuracy", "balanced_accuracy"] = "balanced_accuracy" if balanced else "accuracy"
        made = replay.replay(tasks, plans, say=status.update, batch=batch, rounds=rounds, seeds=seeds, metric=metric)
    _print_replay(made, seeds)
    if project is not None:
        out.print("These are labels the labelling queue asked for: read the figures as a comparison of plans on them.")
    if report is not None:
        report.write_text(json.dumps(made.plain(), indent=2) + "\n")


def _print_replay(made: Report, seeds: int) -> None:
    """Print up to eight points of each curve, and what each plan saves."""
    title = f"{made.title}: {made.n_pool} tasks to pick from, {made.n_test} to measure on, {made.n_classes} classes"
    table = Table("labels", *(escape(outcome.name) for outcome in made.outcomes), title=escape(title))
    last = len(made.n_labels) - 1
    for i in sorted({round(part * last / 7) for part in range(8)}):
        table.add_row(str(made.n_labels[i]), *(_points(outcome.means[i]) for outcome in made.outcomes))
    table.add_section()
    table.add_row("mean", *(_points(outcome.area) for outcome in made.outcomes))
    out.print(table)
    name = made.metric.replace("_", " ")
    out.print(f"Test {name} in %, mean of {seeds} seeds and its 95 % interval.", highlight=False)
    for outcome in made.outcomes:
        if outcome.gain is not None and outcome.saving is not None:
            gain = f"{_points(outcome.gain, sign='+')} points above random on average"
            out.print(
                f"[bold]{escape(outcome.name)}[/bold]: {gain}. {escape(outcome.saving.sentence)}", highlight=False
            )


def _points(interval: Interval, sign: str = "") -> str:
    value, low, high = (f"{100 * number:{sign}.1f}" for number in (interval.value, interval.low, interval.high))
    return value if math.isinf(interval.high) else f"{value} {escape(f'[{low}, {high}]')}"


@app.command()
@explained
def train(
    project: ProjectId,
    control: Annotated[str | None, typer.Option(help="Train this control only; unset trains all that can be.")] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="End the trainings that wait or run instead.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Stay until they are over. Exit status 1 when one fails.")
    ] = False,
) -> None:
    """Train deeper now, on the boxes, polygons and brush strokes there are, or cancel that."""
    from ls_backend.engine.deep import ask  # noqa: PLC0415 - slow to import

    context = open_context()
    if cancel:
        context.project(project)
        trainings = context.store.trainings.cancel(project, control)
        out.print(f"{len(trainings)} cancelled: {', '.join(item.control for item in trainings) or 'nothing was open'}")
    else:
        trainings = ask(context, project, control=control, force=True)
        _kick_trainings(context, trainings)
        for item in trainings:
            out.print(f"{escape(item.control)}: {item.state}")
    if wait and not _wait_for_trainings(context, trainings):
        raise typer.Exit(1)


def _kick_trainings(context: Context, trainings: list[Training]) -> None:
    from ls_backend.jobs.queues import Queues  # noqa: PLC0415 - slow to import

    try:
        for item in trainings:
            Queues.of(context.settings).kick_train(item.project_id, item.training_id)
    except QueueError as error:
        err.print(f"[yellow]The worker could not be woken ({error}); it will find the work when it runs.[/yellow]")


def _wait_for_trainings(context: Context, trainings: list[Training]) -> bool:
    """Show how far trainings are until all are over; answers whether none has failed."""
    failed = False
    with err.status("waiting for a train worker", spinner="line") as status:
        for item in trainings:
            while (now := context.store.trainings.get(item.training_id)) is not None and now.is_open:
                words = ", ".join(f"{name} {value}" for name, value in now.progress.items() if value is not None)
                status.update(escape(f"{now.control}: {words or now.state}"))
                time.sleep(1)
            if now is not None:
                about = now.error or now.version_id or ""
                out.print(f"{escape(now.control)}: {now.state} {escape(about)}", highlight=False)
                failed |= now.state == "failed"
    return not failed


@app.command()
@explained
def rollback(
    project: ProjectId,
    to: Annotated[
        str | None, typer.Option(help="Model version, also one that the gate has refused; unset takes the one before.")
    ] = None,
    latest: Annotated[
        bool, typer.Option("--latest", help="Undo: let the newest promoted version serve again.")
    ] = False,
) -> None:
    """Put another model version in force, until it is released with --latest."""
    from ls_backend.engine.rollback import release  # noqa: PLC0415 - slow to import
    from ls_backend.engine.rollback import rollback as run_rollback  # noqa: PLC0415 - slow to import

    context = open_context()
    if latest:
        release(context.store, project)
        out.print("The newest promoted version serves again.")
    else:
        out.print(f"{run_rollback(context.store, project, to).version_id} serves until `ls-backend rollback --latest`.")
    kick(context, project)


@app.command()
@explained
def demo(
    tasks: Annotated[int, typer.Option(min=20, max=1797, help="Digits to upload.")] = 1797,
    labels: Annotated[int, typer.Option(min=1, help="Labels to give.")] = 100,
    annotators: Annotated[int, typer.Option(min=1, max=10, help="People labelling at once.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Decides the tasks and the control run.")] = 0,
    stop: Annotated[bool, typer.Option("--exit", help="Stop at the end even on a terminal.")] = False,
    report: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
) -> None:
    """Run the whole loop on handwritten digits with a real Label Studio, and measure it."""
    from ls_backend.demo import run  # noqa: PLC0415 - slow to import

    stay = sys.stdout.isatty() and not stop
    raise typer.Exit(run.demo(tasks=tasks, labels=labels, annotators=annotators, seed=seed, stay=stay, report=report))


@app.command()
def version() -> None:
    """Print the version."""
    out.print(__version__)
