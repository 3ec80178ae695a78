"""The pages under /ui: what the records say, made by the server, renewed every few seconds without a reload.

A page reads the records and Redis, never Label Studio, so it is as quick with 100,000 tasks as with ten, and is there
while Label Studio is away. Everything comes from people or from Label Studio, so all of it is escaped: templates end in
.html, and nothing is marked safe.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, abort, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from ls_backend import __version__
from ls_backend.engine import progress
from ls_backend.engine.outlook import Outlook
from ls_backend.errors import QueueError
from ls_backend.jobs import work
from ls_backend.store import Project, WindowRow
from ls_backend.web.protocol import Backend
from ls_backend.web.ui import curve

QUEUE_SHOWN = 50
VERSIONS_SHOWN = 100

POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
"""What a browser may load for a page: nothing but this server's own files, and no script inside the page."""


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


def blueprint(backend: Backend) -> Blueprint:
    """Return the pages."""
    door = Blueprint(
        "ui", __name__, url_prefix="/ui", template_folder="templates", static_folder="static", static_url_path="/static"
    )
    door.add_app_template_filter(ago, "ago")
    door.add_app_template_filter(per_cent, "per_cent")

    @door.after_request
    def guarded(answer: Response) -> Response:
        answer.headers["Content-Security-Policy"] = POLICY
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["Referrer-Policy"] = "same-origin"
        if answer.mimetype == "text/html":
            answer.headers["Cache-Control"] = "no-store"
        return answer

    _of_projects(door, backend)
    _of_deployment(door, backend)

    @door.errorhandler(QueueError)
    def no_redis(error: QueueError) -> tuple[str, int]:
        return _page("error.html", message=str(error), hint=error.hint, code=error.code), 503

    @door.errorhandler(404)
    def missing(error: Any) -> tuple[str, int]:  # noqa: ANN401 - what Flask hands over
        return _page("error.html", message=error.description, hint="Go back to the projects."), 404

    return door


def _of_projects(door: Blueprint, backend: Backend) -> None:
    store = backend.store

    @door.get("/", strict_slashes=False)
    def projects() -> str:
        found = [(item, progress.state(store, item)) for item in store.projects.active()]
        return _page("projects.html", projects=found, problems=store.problems.open(None))

    @door.get("/projects/<int:project_id>")
    def project(project_id: int) -> str:
        found = _project(backend, project_id)
        points = progress.learning_curve(store, project_id)
        return _page(
            "project.html",
            project=found,
            state=progress.state(store, found),
            curves=curve.drawn(points),
            balance=progress.class_balance(store, found),
            throughput=progress.throughput(store, project_id, 24),
        )

    @door.get("/projects/<int:project_id>/queue")
    def queue(project_id: int) -> str:
        found = _project(backend, project_id)
        version = found.window_version
        rows = store.windows.ahead(project_id, version, QUEUE_SHOWN) if version else []
        return _page(
            "queue.html",
            project=found,
            rows=[(row, bars(row)) for row in rows],
            left=store.windows.left(project_id, version)[0] if version else 0,
            task_url=_task_url(found),
        )

    @door.get("/projects/<int:project_id>/models")
    def models(project_id: int) -> str:
        found = _project(backend, project_id)
        serving = store.versions.in_force(project_id)
        versions = sorted(store.versions.list(project_id), key=lambda item: item.round, reverse=True)
        return _page(
            "models.html",
            project=found,
            serving=None if serving is None else serving.version_id,
            versions=versions[:VERSIONS_SHOWN],
            deep_versions=store.deep_versions.list(project_id)[-VERSIONS_SHOWN:][::-1],
        )


def _of_deployment(door: Blueprint, backend: Backend) -> None:
    store = backend.store

    @door.get("/jobs")
    def jobs() -> str:
        seen = work.look(store, backend.queues)
        titles = {item.id: item.title for item in store.projects.active()}
        return _page("jobs.html", work=seen, titles=titles, done=_done)

    @door.post("/jobs/retry")
    def retry() -> BaseResponse:
        work.retry(store, backend.queues, request.form.get("kind", ""), request.form.get("project", 0, type=int))
        return redirect(url_for("ui.jobs"), 303)

    @door.get("/problems")
    def problems() -> str:
        titles = {item.id: item.title for item in store.projects.active()}
        return _page("problems.html", problems=store.problems.open_anywhere(), titles=titles)

    @door.post("/problems/look")
    def look() -> BaseResponse:
        backend.queues.kick_examine()
        return redirect(url_for("ui.problems"), 303)


def _project(backend: Backend, project_id: int) -> Project:
    found = backend.store.projects.get(project_id)
    if found is None:
        abort(404, description=f"Project {project_id} is not connected to this backend.")
    return found


def _page(template: str, **values: object) -> str:
    return render_template(f"ui/{template}", version=__version__, now=datetime.now(UTC), **values)


def bars(row: WindowRow) -> list[Bar]:
    """Return the factors of a task that are known, the largest first in times of the median."""
    known = [
        Bar(name.replace("_", " "), value, row.ratios.get(name))
        for name, value in row.factors.items()
        if value is not None
    ]
    return sorted(known, key=lambda bar: bar.ratio or 0.0, reverse=True)


def _task_url(project: Project) -> str | None:
    """Return where Label Studio shows a task, up to its id; None for an address no link may lead to."""
    host = (project.hostname or "").rstrip("/")
    if not host.startswith(("http://", "https://")):
        return None
    return f"{host}/projects/{project.id}/data?task="


def _done(outlook: Outlook) -> str:
    """Say how far long work is."""
    share = "" if outlook.share is None else per_cent(outlook.share)
    left = "" if outlook.left_s is None else f"about {_span(outlook.left_s)} left"
    return ", ".join(part for part in (share, left) if part) or "begun"


def ago(moment: datetime | None, now: datetime) -> str:
    """Say how long ago something was, in the largest unit that fits."""
    if moment is None:
        return "never"
    return f"{_span(max((now - moment).total_seconds(), 0.0))} ago"


def _span(seconds: float) -> str:
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size:
            number = round(seconds / size)
            return f"{number} {unit}{'s' if number != 1 else ''}"
    return f"{round(seconds)} s"


def per_cent(share: float | None) -> str:
    """Write a share as per cent; "none" where there is none."""
    return "none" if share is None else f"{100 * share:.1f} %"
