"""The JSON API: what the dashboard, the command line and people's scripts read."""

from __future__ import annotations

import json
from typing import Any

from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, Field

from ls_backend.domain import plain
from ls_backend.store import Project
from ls_backend.web import advice, insights, models, settings
from ls_backend.web.answers import ProjectPath, project_of
from ls_backend.web.protocol import Backend

TAG = Tag(name="projects", description="Projects as this backend knows them")


class Limit(BaseModel):
    """How many rows."""

    limit: int = Field(default=50, ge=1, le=1000, description="Rows at most")


def blueprint(backend: Backend) -> APIBlueprint:
    """Return the API's routes."""
    door = APIBlueprint("api", __name__, url_prefix="/api", abp_tags=[TAG])
    store = backend.store

    @door.get("/projects", summary="Connected projects")
    def projects() -> dict[str, Any]:
        return {"projects": [_summary(backend, project) for project in store.projects.active()]}

    @door.get("/projects/<int:project_id>", summary="One project: labels, model, window, last updates")
    def project(path: ProjectPath) -> dict[str, Any]:
        found = project_of(store, path)
        return {
            **_summary(backend, found),
            "settings": json.loads(found.settings_json or "{}"),
            "versions": [plain(item) for item in store.versions.list(path.project_id)],
            "runs": [plain(item) for item in store.runs.recent(path.project_id, 20)],
            "deep_versions": [plain(item) for item in store.deep_versions.list(path.project_id)],
            "trainings": [plain(item) for item in store.trainings.recent(path.project_id, 20)],
            "failed_jobs": backend.queues.failed(path.project_id),
        }

    @door.get("/projects/<int:project_id>/problems", summary="What is wrong, newest first, with remedies")
    def problems(path: ProjectPath) -> dict[str, Any]:
        project_of(store, path)
        return {"problems": [plain(item) for item in store.problems.open(path.project_id)]}

    @door.get(
        "/projects/<int:project_id>/queue", summary="What is left of the published window, in order, with reasons"
    )
    def queue(path: ProjectPath, query: Limit) -> dict[str, Any]:
        found = project_of(store, path)
        version = found.window_version
        rows = store.windows.ahead(found.id, version, query.limit) if version else []
        return {"version": version, "tasks": [plain(row) for row in rows]}

    @door.get("/projects/<int:project_id>/windows", summary="Published windows, newest first")
    def windows(path: ProjectPath, query: Limit) -> dict[str, Any]:
        project_of(store, path)
        return {"windows": [plain(item) for item in store.windows.recent(path.project_id, query.limit)]}

    @door.get("/projects/<int:project_id>/runs", summary="Updates, newest first, with the seconds of each step")
    def runs(path: ProjectPath, query: Limit) -> dict[str, Any]:
        project_of(store, path)
        return {"runs": [plain(item) for item in store.runs.recent(path.project_id, query.limit)]}

    insights.routes(door, backend)
    settings.routes(door, backend)
    advice.routes(door, backend)
    models.routes(door, backend)
    return door


def _summary(backend: Backend, project: Project) -> dict[str, Any]:
    store, project_id = backend.store, project.id
    counts = store.tasks.counts(project_id)
    serving = store.versions.in_force(project_id)
    return {
        "id": project_id,
        "title": project.title,
        "active": project.active,
        "tasks": counts.tasks,
        "labels": counts.labelled,
        "unread_images": counts.unread,
        "wanted_generation": project.wanted_generation,
        "done_generation": project.done_generation,
        "window": project.window_version,
        "model_version": serving.version_id if serving else None,
        "pinned": project.pinned_version,
        "problems": store.problems.count(project_id),
    }
