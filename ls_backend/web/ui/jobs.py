"""What runs, waits and failed."""

from __future__ import annotations

from flask import Blueprint, redirect, request, url_for
from werkzeug.wrappers import Response

from ls_backend.engine.outlook import Outlook
from ls_backend.jobs import work
from ls_backend.web.protocol import Backend
from ls_backend.web.ui.frame import page, per_cent, span, titles


def routes(door: Blueprint, backend: Backend) -> None:
    """Add the pages."""
    store = backend.store

    @door.get("/jobs")
    def jobs() -> str:
        return page("jobs.html", work=work.look(store, backend.queues), titles=titles(store), done=_done)

    @door.post("/jobs/retry")
    def retry() -> Response:
        work.retry(store, backend.queues, request.form.get("kind", ""), request.form.get("project", 0, type=int))
        return redirect(url_for("ui.jobs"), 303)


def _done(outlook: Outlook) -> str:
    """Say how far long work is."""
    share = "" if outlook.share is None else per_cent(outlook.share)
    left = "" if outlook.left_s is None else f"about {span(outlook.left_s)} left"
    return ", ".join(part for part in (share, left) if part) or "begun"
