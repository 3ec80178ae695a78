"""All projects, one project, and its queue."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, redirect, request, url_for
from werkzeug.wrappers import Response

from ls_backend.engine import progress
from ls_backend.errors import QueueError, SettingsError
from ls_backend.jobs import work
from ls_backend.jobs.work import Standing
from ls_backend.store import WindowRow
from ls_backend.web.answers import connected
from ls_backend.web.protocol import Backend
from ls_backend.web.ui import curve, glance, insights
from ls_backend.web.ui.frame import page, task_url

QUEUE_SHOWN = 50
_HIGHEST_NUMBER = 2**31 - 1  # of an id in Label Studio


@dataclass(frozen=True)
class Bar:
    """One factor of a task's priority, as a bar.

    Attributes:
        name: The objective.
        value: The factor itself, in (0, 1].
        ratio: Times the median of the pool; None where that is not known.
    """

    name: str
    value: float
    ratio: float | None


def routes(door: Blueprint, backend: Backend) -> None:
    """Add the pages."""
    store = backend.store

    @door.get("/", strict_slashes=False)
    def projects() -> str:
        found = [(item, progress.state(store, item)) for item in store.projects.active()]
        asked = request.args.get("asked", type=int)
        return page(
            "projects.html",
            projects=found,
            jobs=_jobs(backend, [item.id for item, _ in found]),
            problems=store.problems.open(None),
            connecting=work.connecting(backend.queues),
            asked=next((item for item, _ in found if item.id == asked), None),
        )

    @door.post("/connect")
    def connect() -> Response:
        project_id = _number(request.form.get("project", ""))
        backend.queues.kick_connect(project_id)
        return redirect(url_for("ui.projects", asked=project_id), 303)

    @door.get("/projects/<int:project_id>")
    def project(project_id: int) -> str:
        found = connected(store, project_id)
        points = progress.learning_curve(store, project_id)
        return page(
            "project.html",
            project=found,
            state=progress.state(store, found),
            curves=curve.drawn(points),
            seen=insights.seen(store, project_id),
            lacking=insights.LACKING,
            balance=progress.class_balance(store, found),
            throughput=progress.throughput(store, project_id, 24),
        )

    @door.get("/projects/<int:project_id>/queue")
    def queue(project_id: int) -> str:
        found = connected(store, project_id)
        version = found.window_version
        rows = store.windows.ahead(project_id, version, QUEUE_SHOWN) if version else []
        return page(
            "queue.html",
            project=found,
            rows=[(row, bars(row)) for row in rows],
            glances=glance.glances(store, found, [row.task_id for row in rows]),
            left=store.windows.left(project_id, version)[0] if version else 0,
            task_url=task_url(found),
        )


def _jobs(backend: Backend, project_ids: list[int]) -> dict[int, Standing]:
    """Return the jobs of each project; nothing while Redis does not answer, which the page of jobs explains."""
    try:
        return work.standings(backend.queues, project_ids)
    except QueueError:
        return {}


def _number(text: str) -> int:
    """Read the number of a project as somebody has typed it."""
    if text.strip().isdecimal() and 0 < int(text) <= _HIGHEST_NUMBER:
        return int(text)
    raise SettingsError(
        f"{text[:60]!r} is no number of a project; expected the one behind /projects/ in Label Studio's address.",
        hint="Open the project in Label Studio and look at the address.",
    )


def bars(row: WindowRow) -> list[Bar]:
    """Return the factors of a task that are known, the largest first in times of the median."""
    known = [
        Bar(name.replace("_", " "), value, row.ratios.get(name))
        for name, value in row.factors.items()
        if value is not None
    ]
    return sorted(known, key=lambda bar: bar.ratio or 0.0, reverse=True)
