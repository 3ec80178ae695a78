"""The demo: the whole loop against a real Label Studio, measured while it runs."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from ls_backend import logs
from ls_backend.demo import annotators as people
from ls_backend.demo.digits import CLASSES, LABEL_CONFIG, Digit, digits
from ls_backend.demo.label_studio import LabelStudioServer
from ls_backend.demo.measure import Judge
from ls_backend.demo.stack import Stack
from ls_backend.engine.context import Context
from ls_backend.errors import BackendError
from ls_backend.labelstudio.client import Client
from ls_backend.settings import Settings

EVERY = 5
"""Labels between two measurements."""

MIN_TOP_SHARE = 0.5
"""Share of served tasks that must have been the top of the window for the loop to count as working."""

LOCKED_OUT = {"metadata": [{"field": "split", "weights": {"test": 0}}]}
"""The locked tasks never enter the queue: a weight of 0 keeps them out."""

console = Console(soft_wrap=True)


@dataclass(frozen=True)
class Project:
    """The demo's project in Label Studio.

    Attributes:
        truth: Task id -> right label.
        locked: Tasks that are never labelled.
    """

    project_id: int
    truth: dict[int, str]
    locked: set[int]


def demo(*, tasks: int, labels: int, annotators: int, seed: int, stay: bool, report: Path | None) -> int:
    """Run the loop and return the exit status: 0 when it worked.

    Args:
        tasks: Digits to upload.
        labels: Labels to give in all.
        annotators: People at once.
        seed: Decides tasks, order of the control and everything random.
        stay: Keep running at the end, until Ctrl-C.
        report: File for the figures as JSON; None writes none.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    with ExitStack() as running:
        try:
            return _run(running, tasks, labels, annotators, seed, stay=stay, report=report)
        except BackendError as error:
            console.print(f"[red]The demo stopped: {escape(str(error))}[/red]\n{escape(error.hint)}", highlight=False)
            return 1
        except KeyboardInterrupt:
            console.print("Stopping everything.")
            return 0 if stay else 130


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _run(
    running: ExitStack, tasks: int, labels: int, annotators: int, seed: int, *, stay: bool, report: Path | None
) -> int:
    folder = Path(
        running.enter_context(tempfile.TemporaryDirectory(prefix="ls-backend-demo-", ignore_cleanup_errors=True))
    )
    started = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - started:5.0f} s[/dim]  {text}", highlight=False)

    say("starting a real Label Studio (the first start ever takes half a minute more)")
    studio = running.enter_context(LabelStudioServer.start(folder / "label-studio"))
    say(f"Label Studio answers at {studio.url}; starting ls_backend")
    stack = running.enter_context(Stack(folder / "ls-backend", studio.url, studio.token))
    client = studio.client()
    say(f"ls_backend answers at {stack.url}; uploading {tasks} digits")
    project = _project(client, digits(tasks, seed))
    say(f"{len(project.truth)} tasks, {len(project.locked)} of them locked away for measuring; connecting")
    extra = json.dumps({"objectives": LOCKED_OUT, "seed": seed})
    stack.command("connect", "--project", str(project.project_id), "--settings", extra)
    stack.settled(project.project_id, timeout_s=300)
    say("every image is read and embedded, and the first order is in force")
    settings = Settings.model_validate({"DATA_DIR": folder / "ls-backend", "LABEL_STUDIO_URL": studio.url})
    logs.configure(settings.model_copy(update={"log_level": "ERROR"}), process="demo")
    judge = Judge(
        Context(settings),
        project.project_id,
        {task_id: CLASSES.index(label) for task_id, label in project.truth.items()},
        project.locked,
        n_classes=len(CLASSES),
        seed=seed,
    )
    clients = [client]
    for number in range(1, annotators):
        token = client.create_user(f"annotator{number}@example.com", f"annotator-password-{number}")
        clients.append(Client(studio.url, token))
    served, errors = _label(clients, project, judge, labels)
    labelled = len({one.task_id for one in served})  # on SQLite two people may be given one task
    stack.settled(project.project_id, labels=labelled, timeout_s=60)
    figures = _figures(stack, project, judge, served, seed=seed, annotators=annotators)
    if report is not None:
        report.write_text(json.dumps(figures, indent=2) + "\n")
    reasons = [*errors, *_failures(figures, labels)]
    _print_gain(figures, reasons)
    if stay:
        console.print(
            f"\nLabel Studio is at [bold]{studio.url}/projects/{project.project_id}/data[/bold], "
            f"login {studio.email}, password {studio.password}.\n"
            f"ls_backend is at {stack.url}/api/projects/{project.project_id}. Ctrl-C stops everything.",
            highlight=False,
        )
        threading.Event().wait()
    return 1 if reasons else 0


def _project(client: Client, items: list[Digit]) -> Project:
    project_id = client.create_project("Digits, ordered by ls_backend", LABEL_CONFIG)
    references = client.upload_files(project_id, {item.name: item.png for item in items})
    task_ids = client.import_tasks(
        project_id, [{"data": {"image": references[item.name], "split": item.split}} for item in items]
    )
    truth = {task_id: item.label for task_id, item in zip(task_ids, items, strict=True)}
    locked = {task_id for task_id, item in zip(task_ids, items, strict=True) if item.split == "test"}
    return Project(project_id, truth, locked)


def _label(clients: list[Client], project: Project, judge: Judge, budget: int) -> tuple[list[people.Served], list[str]]:
    """Let the people label while a table shows how it goes; without a terminal a line every few labels."""
    tops = 0

    def showing(show: Callable[..., None]) -> tuple[list[people.Served], list[str]]:
        def on_served(one: people.Served) -> None:
            nonlocal tops
            tops += one.top
            if one.number % EVERY == 0 or one.number == budget:
                show(
                    str(one.number),
                    f"{one.task_id} is a {one.label}",
                    f"{tops} of {one.number}",
                    _percent(judge.model(one.number)),
                    _percent(judge.random(one.number)),
                )

        return people.label(clients, project.project_id, project.truth, budget, on_served)

    columns = ("labels", "served task", "top of the queue", "this model", "random order")
    if not console.is_terminal:
        console.print(" | ".join(columns))
        return showing(lambda *cells: console.print(" | ".join(cells), highlight=False))
    table = Table(*columns, title="Accuracy on the locked tasks")
    with Live(table, console=console, refresh_per_second=4):
        return showing(table.add_row)


def _figures(
    stack: Stack, project: Project, judge: Judge, served: list[people.Served], *, seed: int, annotators: int
) -> dict[str, Any]:
    runs = [
        run
        for run in stack.get(f"/api/projects/{project.project_id}/runs?limit=1000")["runs"]
        if run["status"] == "done" and run["n_labels"]
    ]
    waits = []
    labelled: set[int] = set()
    for one in served:
        labelled.add(one.task_id)
        covering = [_time(run["finished_at"]) for run in runs if run["n_labels"] >= len(labelled)]
        after = [at for at in covering if at >= one.submitted_at]
        if after:
            waits.append(min(after) - one.submitted_at)
    compute = [sum(run["seconds"].get(step, 0.0) for step in ("load", "refit", "rank")) for run in runs]
    marks = sorted({*range(EVERY, len(served) + 1, EVERY), len(served)} - {0})
    return {
        "seed": seed,
        "tasks": len(project.truth),
        "labels": len(served),
        "annotators": annotators,
        "accuracy": [{"labels": mark, "model": judge.model(mark), "random": judge.random(mark)} for mark in marks],
        "served": {
            "total": len(served),
            "top": sum(one.top for one in served),
            "shared": sum(one.shared for one in served),
        },
        "seconds": {"submit_to_flip": _quantiles(waits), "compute": _quantiles(compute)},
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("ls_backend", "torch", "rq", "numpy")},
            "models": len({run["window_version"] for run in runs if run["window_version"]}),
        },
    }


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _quantiles(values: list[float]) -> dict[str, float | None]:
    if not values:
        return {"p50": None, "p95": None}
    return {"p50": round(float(np.quantile(values, 0.5)), 3), "p95": round(float(np.quantile(values, 0.95)), 3)}


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _failures(figures: dict[str, Any], budget: int) -> list[str]:
    """Return why the loop did not work; nothing when it did."""
    reasons = []
    served = figures["served"]
    if served["total"] < budget:
        reasons.append(f"only {served['total']} of {budget} labels could be given")
    if served["total"] and served["top"] < MIN_TOP_SHARE * served["total"]:
        reasons.append(f"only {served['top']} of {served['total']} served tasks were the top of the queue")
    if figures["accuracy"] and figures["labels"] >= 20 and figures["accuracy"][-1]["model"] is None:
        reasons.append("no model was trained")
    if figures["seconds"]["submit_to_flip"]["p50"] is None:
        reasons.append("no label reached the queue")
    return reasons


def _print_gain(figures: dict[str, Any], reasons: list[str]) -> None:
    seconds = figures["seconds"]
    last = figures["accuracy"][-1] if figures["accuracy"] else {"model": None, "random": None}
    console.print()
    if last["model"] is not None and last["random"] is not None:
        gain = 100 * (last["model"] - last["random"])
        console.print(
            f"After {figures['labels']} labels the model is right on [bold]{_percent(last['model'])}[/bold] of the "
            f"locked tasks; with labels in random order it would be {_percent(last['random'])} "
            f"([bold]{gain:+.1f} points[/bold]).",
            highlight=False,
        )
        reached = next((item["labels"] for item in figures["accuracy"] if (item["model"] or 0) >= last["random"]), None)
        if reached is not None and reached < figures["labels"]:
            console.print(f"It was as good after {reached} labels already.", highlight=False)
    console.print(
        f"{figures['served']['top']} of {figures['served']['total']} served tasks were the top of the queue, "
        f"{figures['served']['shared']} were held by somebody else. From submit to the new order: "
        f"{seconds['submit_to_flip']['p50']} s (median), {seconds['submit_to_flip']['p95']} s (95 %); "
        f"our own part {seconds['compute']['p50']} s.",
        highlight=False,
    )
    for reason in reasons:
        console.print(f"[red]It did not work: {escape(reason)}[/red]", highlight=False)
