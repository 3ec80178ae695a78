"""Routes of the JSON API for what workers advise; the work itself is done elsewhere."""

from __future__ import annotations

from typing import Any

from flask_openapi3.blueprint import APIBlueprint

from ls_backend.domain import plain
from ls_backend.web.answers import ProjectPath, project_of
from ls_backend.web.protocol import Backend


def routes(door: APIBlueprint, backend: Backend) -> None:
    """Add the routes to the API's blueprint."""
    store = backend.store

    @door.get("/projects/<int:project_id>/advice", summary="What to do next, as a worker has found out, and when")
    def advice(path: ProjectPath) -> dict[str, Any]:
        project_of(store, path)
        found = {kind: store.insights.get(path.project_id, kind) for kind in ("advice", "savings")}
        return {kind: None if item is None else plain(item) for kind, item in found.items()}

    @door.post("/projects/<int:project_id>/advice", summary="Have a worker look now")
    def advise(path: ProjectPath) -> tuple[dict[str, Any], int]:
        project_of(store, path)
        return {"added": backend.queues.kick_advice(path.project_id)}, 202

    @door.post("/projects/<int:project_id>/savings", summary="Replay the labels, to see what the plan has saved")
    def savings(path: ProjectPath) -> tuple[dict[str, Any], int]:
        project_of(store, path)
        return {"added": backend.queues.kick_savings(path.project_id)}, 202
