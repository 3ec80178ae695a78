"""What is wrong, what to do about it, and a button where this backend can do it."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, redirect, request, url_for
from werkzeug.wrappers import Response

from ls_backend.jobs import mend, work
from ls_backend.jobs.mend import Mender
from ls_backend.store import Problem, Project
from ls_backend.web.protocol import Backend
from ls_backend.web.ui.frame import page, place_url

PROBLEMS_SHOWN = 200


@dataclass(frozen=True)
class Row:
    """One problem as the page shows it.

    Attributes:
        problem: What is wrong.
        title: What the project is called; None for the deployment.
        mender: What mends it; None where only a person can.
        is_mending: Whether that is on its way.
        url: Where in Label Studio it can be looked at; None where that is not known.
    """

    problem: Problem
    title: str | None
    mender: Mender | None
    is_mending: bool
    url: str | None


def routes(door: Blueprint, backend: Backend) -> None:
    """Add the pages."""
    store = backend.store

    @door.get("/problems")
    def problems() -> str:
        projects = {item.id: item for item in store.projects.active()}
        busy = work.on_its_way(backend.queues)
        found = store.problems.open_anywhere(PROBLEMS_SHOWN + 1)
        rows = [_row(problem, projects.get(problem.project_id or 0), busy) for problem in found[:PROBLEMS_SHOWN]]
        return page("problems.html", rows=rows, more=len(found) > PROBLEMS_SHOWN)

    @door.post("/problems/look")
    def look() -> Response:
        backend.queues.kick_examine()
        return redirect(url_for("ui.problems"), 303)

    @door.post("/problems/fix")
    def fix() -> Response:
        sent = request.form
        project_id = sent.get("project", type=int)
        mend.mend(store, backend.queues, project_id, sent.get("code", ""), sent.get("subject", ""))
        return redirect(url_for("ui.problems"), 303)


def _row(problem: Problem, project: Project | None, busy: frozenset[tuple[str, int]]) -> Row:
    found = mend.mender(project, problem.finding)
    return Row(
        problem=problem,
        title=None if problem.project_id is None else (project and project.title) or f"Project {problem.project_id}",
        mender=found,
        is_mending=found is not None and (found.kind, problem.project_id or 0) in busy,
        url=None if project is None else place_url(project, problem.finding.subject),
    )
