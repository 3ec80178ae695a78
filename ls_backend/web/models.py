"""JSON about model versions: which there are, two side by side, one put in force by hand."""

from __future__ import annotations

from typing import Any

from flask_openapi3.blueprint import APIBlueprint
from pydantic import BaseModel, Field

from ls_backend.domain import plain
from ls_backend.engine import rollback, versions
from ls_backend.web.answers import ProjectPath, project_of
from ls_backend.web.protocol import Backend


class Two(BaseModel):
    """Which versions to compare."""

    a: str = Field(description="Id of one version")
    b: str = Field(description="Id of another")


class Chosen(BaseModel):
    """Which version is to serve."""

    version: str | None = Field(
        description="Serves until it is released, one that the gate has refused as well; null releases it"
    )


def routes(door: APIBlueprint, backend: Backend) -> None:
    """Add the routes."""
    store = backend.store

    @door.get("/projects/<int:project_id>/models", summary="Model versions, newest first, and which is in force")
    def models(path: ProjectPath) -> dict[str, Any]:
        return versions.listed(store, project_of(store, path)).plain()

    @door.get("/projects/<int:project_id>/models/compare", summary="Two model versions side by side")
    def compare_models(path: ProjectPath, query: Two) -> dict[str, Any]:
        return plain(versions.compare(store, project_of(store, path).id, query.a, query.b))

    @door.put("/projects/<int:project_id>/models/in-force", summary="Put a version in force, or let the newest serve")
    def put_in_force(path: ProjectPath, body: Chosen) -> dict[str, Any]:
        found = project_of(store, path)
        if body.version is None:
            rollback.release(store, found.id)
        else:
            rollback.rollback(store, found.id, body.version)
        backend.wake(found.id)
        return versions.listed(store, project_of(store, path)).plain()
