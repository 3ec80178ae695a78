"""JSON about how far a project has come, and what can be seen of its embeddings and heads."""

from __future__ import annotations

from typing import Any

from flask_openapi3.blueprint import APIBlueprint
from pydantic import BaseModel, Field

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
        return progress.report(store, project_of(store, path), query.hours)

    @door.get("/projects/<int:project_id>/insights", summary="What workers have found out, by kind, with its age")
    def insights(path: ProjectPath, query: Kind) -> dict[str, Any]:
        project_of(store, path)
        return {"insights": progress.found_out(store, path.project_id, query.kind and [query.kind])}

    @door.post("/projects/<int:project_id>/insights", summary="Have map, uncertainties and calibration made anew")
    def ask_for_insights(path: ProjectPath) -> tuple[dict[str, Any], int]:
        project_of(store, path)
        return {"added": backend.queues.kick_insights(path.project_id)}, 202
