"""What to do next in a project, as a worker has found out: stop or go on, look again, and what the plan has saved."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flask import Blueprint, redirect, url_for
from werkzeug.wrappers import Response

from ls_backend.errors import QueueError
from ls_backend.jobs.queues import Queues
from ls_backend.jobs.sights import JobSeen
from ls_backend.web.answers import connected
from ls_backend.web.protocol import Backend
from ls_backend.web.ui import curve
from ls_backend.web.ui.frame import page, task_url
from ls_backend.web.ui.glance import glances

ROWS_SHOWN = 50
"""Rows of each list; the JSON API has all of them."""

GROUPS_SHOWN = 20
COPIES_SHOWN = 6

VERDICTS = {
    "too-early": "Too early to think of stopping",
    "go-on": "Go on labelling",
    "near": "One of two criteria says stop",
    "may-stop": "Labelling may stop, if this is good enough for you",
}


def routes(door: Blueprint, backend: Backend) -> None:
    """Add the pages."""
    store = backend.store

    @door.get("/projects/<int:project_id>/advice")
    def advice(project_id: int) -> str:
        found = connected(store, project_id)
        made = store.insights.get(project_id, "advice")
        savings = store.insights.get(project_id, "savings")
        jobs, queue_error = _jobs(backend.queues, project_id)
        return page(
            "advice.html",
            project=found,
            made=made,
            labels=store.tasks.counts(project_id).labelled,
            verdicts=VERDICTS,
            savings=savings,
            replayed=None if savings is None else curve.replayed(savings.content),
            glances=glances(store, found, set() if made is None else _tasks(made.content)),
            task_url=task_url(found),
            jobs=jobs,
            queue_error=queue_error,
            rows_shown=ROWS_SHOWN,
            groups_shown=GROUPS_SHOWN,
            copies_shown=COPIES_SHOWN,
        )

    @door.post("/projects/<int:project_id>/advice")
    def renew_advice(project_id: int) -> Response:
        connected(store, project_id)
        backend.queues.kick_advice(project_id)
        return redirect(url_for("ui.advice", project_id=project_id), 303)

    @door.post("/projects/<int:project_id>/savings")
    def replay(project_id: int) -> Response:
        connected(store, project_id)
        backend.queues.kick_savings(project_id)
        return redirect(url_for("ui.advice", project_id=project_id), 303)


def _jobs(queues: Queues, project_id: int) -> tuple[dict[str, JobSeen], str | None]:
    """Return the latest job of each kind, one that runs before one that failed, and why nothing is known of them."""
    try:
        return {job.kind: job for job in reversed(queues.jobs(project_id))}, None
    except QueueError as error:
        return {}, str(error)


def _tasks(content: dict[str, Any]) -> Iterable[int]:
    """Return the tasks that the page shows."""
    for name in ("relabel", "disagreement"):
        yield from (one["task_id"] for one in content[name][:ROWS_SHOWN])
    for group in content["duplicates"][:GROUPS_SHOWN]:
        yield from group["task_ids"][:COPIES_SHOWN]
