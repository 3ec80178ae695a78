"""What workers have found out about a project: how unsure and how honest its model is, and where its tasks lie."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import Blueprint, redirect, url_for
from werkzeug.wrappers import Response

from ls_backend.engine.insights import BASIS
from ls_backend.store import Project, Store
from ls_backend.web.answers import connected
from ls_backend.web.protocol import Backend
from ls_backend.web.ui import charts, curve, glance
from ls_backend.web.ui.charts import Histogram, Map, Reliability
from ls_backend.web.ui.curve import Replayed
from ls_backend.web.ui.frame import page, task_url

NEXT_LISTED = 50
"""Tasks that the table beside the map lists."""

TEXT_IN_MAP = 40
"""Characters of a text in the map, which has 2,000 of them."""

LACKING = {
    "map": "No image or text of this project has been embedded yet. Jobs shows how far the reading is.",
    "uncertainty": "It takes a model, and tasks that nobody has labelled. Label a few of each class.",
    "calibration": "It takes a model that was measured on labels held out. Label a few more of each class.",
}
"""What to do where an insight could not be made."""


@dataclass(frozen=True)
class Age:
    """What an insight was made from, and when.

    Attributes:
        made_at: The moment.
        labels: Labels there were.
        model_version: Model in force then; None before the first.
    """

    made_at: datetime
    labels: int
    model_version: str | None


@dataclass(frozen=True)
class Seen:
    """What the overview of a project shows of its insights.

    Attributes:
        age: None when no worker has looked yet.
        histogram: Uncertainty of the pool.
        reliability: Calibration of the model.
        calibration: The insight itself, for its error and what it was measured on.
        replayed: Back-tested savings; None unless somebody has asked for them.
        replayed_at: When that was.
    """

    age: Age | None
    histogram: Histogram | None
    reliability: Reliability | None
    calibration: dict[str, Any] | None
    replayed: Replayed | None
    replayed_at: datetime | None


def routes(door: Blueprint, backend: Backend) -> None:
    """Add the pages."""
    store = backend.store

    @door.get("/projects/<int:project_id>/map")
    def project_map(project_id: int) -> str:
        found = connected(store, project_id)
        drawn = _map(store, found)
        ahead = [point.task_id for point in drawn.points["next"][:NEXT_LISTED]] if drawn else []
        looks = glance.glances(store, found, ahead)
        return page(
            "map.html",
            project=found,
            age=age(store, project_id),
            map=drawn,
            listed=[looks[task_id] for task_id in ahead if task_id in looks],
            task_url=task_url(found),
            lacking=LACKING,
        )

    @door.post("/projects/<int:project_id>/insights")
    def renew_insights(project_id: int) -> Response:
        connected(store, project_id)
        backend.queues.kick_insights(project_id)
        return redirect(url_for("ui.project", project_id=project_id), 303)


def seen(store: Store, project_id: int) -> Seen:
    """Read what the overview shows, but for the map, which is heavy."""
    uncertainty, calibration, savings = (
        store.insights.get(project_id, kind) for kind in ("uncertainty", "calibration", "savings")
    )
    return Seen(
        age=age(store, project_id),
        histogram=None if uncertainty is None else charts.histogram(uncertainty.content),
        reliability=None if calibration is None else charts.reliability(calibration.content),
        calibration=None if calibration is None else calibration.content,
        replayed=None if savings is None else curve.replayed(savings.content),
        replayed_at=None if savings is None else savings.made_at,
    )


def age(store: Store, project_id: int) -> Age | None:
    """Return what the insights were made from; None before any was."""
    basis = store.insights.get(project_id, BASIS)
    return None if basis is None else Age(basis.made_at, basis.content["labels"], basis.content["model_version"])


def _map(store: Store, project: Project) -> Map | None:
    found = store.insights.get(project.id, "map")
    if found is None:
        return None
    texts = {}
    if glance.shows_text(project):
        rows = store.tasks.images(project.id, found.content["task_ids"])
        texts = {row.task_id: glance.beginning(row.image or "", TEXT_IN_MAP) for row in rows}
    return charts.map_of(found.content, texts)
