"""The pages under /ui as one blueprint: made by the server, renewed every few seconds without a reload.

frame     what all pages share
projects  all projects, one project, its queue
insights  what workers have found out about a project: the map
advice    what to do next in a project
settings  the settings of a project: `fields` of its schema, their texts as a `form`
models    the model versions of a project
jobs      what runs, waits and failed
problems  what is wrong, and what to do about it
glance    thumbnails of tasks
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from ls_backend.errors import BackendError, QueueError
from ls_backend.web.protocol import Backend
from ls_backend.web.ui import advice, glance, insights, jobs, models, problems, projects, settings
from ls_backend.web.ui.frame import ago, page, per_cent

POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
"""What a browser may load for a page: nothing but this server's own files, and no script inside the page."""


def blueprint(backend: Backend) -> Blueprint:
    """Return the pages."""
    door = Blueprint(
        "ui", __name__, url_prefix="/ui", template_folder="templates", static_folder="static", static_url_path="/static"
    )
    door.add_app_template_filter(ago, "ago")
    door.add_app_template_filter(per_cent, "per_cent")
    for module in (projects, insights, settings, models, advice, jobs, problems, glance):
        module.routes(door, backend)

    @door.after_request
    def guarded(answer: Response) -> Response:
        answer.headers["Content-Security-Policy"] = POLICY
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["Referrer-Policy"] = "same-origin"
        if answer.mimetype == "text/html":
            answer.headers["Cache-Control"] = "no-store"
        return answer

    @door.errorhandler(QueueError)
    def no_redis(error: QueueError) -> tuple[str, int]:
        return page("error.html", message=str(error), hint=error.hint, code=error.code), 503

    @door.errorhandler(BackendError)
    def refused(error: BackendError) -> tuple[str, int]:
        return page("error.html", message=str(error), hint=error.hint, code=error.code), 400

    @door.errorhandler(404)
    def missing(error: Any) -> tuple[str, int]:  # noqa: ANN401 - what Flask hands over
        return page("error.html", message=error.description, hint="Go back to the projects."), 404

    return door
