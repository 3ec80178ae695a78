"""JSON about how far a project has come, and what can be seen of its embeddings and heads."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flask_openapi3.blueprint import APIBlueprint
from pydantic import BaseModel, Field

from ls_backend.domain import plain
from ls_backend.engine import progress
from ls_backend.web.answers import ProjectPath, project_of
from ls_backend.web.protocol import Backend


class Kind(BaseModel):
    """Which insights."""

    kind: str | None = Field(default=None, description="One kind only, for example map; unset gives all")


class Hours(BaseModel):
    """How far to look back."""

    hours: int = Field(default=24, ge=1, le=720, description="Hours of throughput, the present one included")


def routes(door: APIBlueprint, backend: Backend) -> None:
    """Add the routes."""
    store = backend.store

    @door.get("/projects/<int:project_id>/progress", summary="State, learning curve, throughput and class balance")
    def progress_of(path: ProjectPath, query: Hours) -> dict[str, Any]:
        found = project_of(store, path)
        return {
            "state": plain(progress.state(store, found)),
            "curve": [plain(point) for point in progress.learning_curve(store, found.id)],
            "hours": query.hours,
            "throughput": [plain(one) for one in progress.throughput(store, found.id, query.hours)],
            "balance": [plain(one) for one in progress.class_balance(store, found)],
        }

    @door.get("/projects/<int:project_id>/insights", summary="What workers have found out, by kind, with its age")
    def insights(path: ProjectPath, query: Kind) -> dict[str, Any]:
        project_of(store, path)
        now = datetime.now(UTC)
        kinds = store.insights.ages(path.project_id) if query.kind is None else [query.kind]
        found = [insight for kind in kinds if (insight := store.insights.get(path.project_id, kind)) is not None]
        return {"insights": {one.kind: {**plain(one), "age_s": (now - one.made_at).total_seconds()} for one in found}}

    @door.post("/projects/<int:project_id>/insights", summary="Have map, uncertainties and calibration made anew")
    def ask_for_insights(path: ProjectPath) -> tuple[dict[str, Any], int]:
        project_of(store, path)
        return {"added": backend.queues.kick_insights(path.project_id)}, 202
