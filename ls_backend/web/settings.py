"""JSON about project settings: what there is, what is in force and since when, other ones tried out and saved."""

from __future__ import annotations

from typing import Any

from flask import request
from flask_openapi3.blueprint import APIBlueprint
from pydantic import BaseModel, Field

from ls_backend.domain import plain
from ls_backend.engine import configure
from ls_backend.settings import ProjectSettings
from ls_backend.store import Revision
from ls_backend.web.answers import ProjectPath, project_of
from ls_backend.web.protocol import Backend


class Wanted(BaseModel):
    """Settings somebody wants to save."""

    settings: dict[str, Any] = Field(description="All settings; what is left out gets its default")
    expected: int | None = Field(
        default=None, ge=0, description="Revision they were made from; unset overwrites whatever is in force"
    )


class Tried(BaseModel):
    """Settings somebody tries out."""

    settings: dict[str, Any] = Field(description="All settings; what is left out gets its default")


class Undo(BaseModel):
    """What to go back to."""

    expected: int = Field(ge=0, description="Revision in force when this was decided")
    to: int | None = Field(default=None, ge=1, description="Revision to go back to; unset takes the one before")


class PreviewPath(ProjectPath):
    """Path of one preview."""

    token: str = Field(max_length=64, description="As the request for the preview was answered")


class Limit(BaseModel):
    """How many revisions."""

    limit: int = Field(default=50, ge=1, le=500, description="Revisions at most")


def user(backend: Backend) -> str:
    """Return the name of who sends this request, as the history of settings has it."""
    if backend.settings.basic_auth_user is None or request.authorization is None:
        return configure.ANONYMOUS  # a name that nobody has checked is none
    return request.authorization.username or configure.ANONYMOUS


def routes(door: APIBlueprint, backend: Backend) -> None:
    """Add the routes."""
    store = backend.store

    @door.get("/settings/schema", summary="JSON schema of project settings: defaults, ranges, help, choices")
    def settings_schema() -> dict[str, Any]:
        return configure.schema()

    @door.get("/projects/<int:project_id>/settings", summary="Settings in force: who said them, where and when")
    def settings(path: ProjectPath) -> dict[str, Any]:
        project_of(store, path)
        return _in_force(backend, path.project_id)

    @door.put("/projects/<int:project_id>/settings", summary="Save settings; 409 if somebody else has saved meanwhile")
    def save_settings(path: ProjectPath, body: Wanted) -> dict[str, Any]:
        project_of(store, path)
        wanted = ProjectSettings.from_extra_params(body.settings)
        configure.save(
            store,
            backend.settings,
            path.project_id,
            wanted,
            source="api",
            who=user(backend),
            expected=body.expected,
        )
        backend.wake(path.project_id)
        return _in_force(backend, path.project_id)

    @door.get("/projects/<int:project_id>/settings/history", summary="Revisions, newest first, and what each changed")
    def settings_history(path: ProjectPath, query: Limit) -> dict[str, Any]:
        project_of(store, path)
        changes = configure.history(store, path.project_id, query.limit)
        return {
            "revisions": [
                {**_said(change.revision), "differences": [plain(item) for item in change.differences]}
                for change in changes
            ]
        }

    @door.post("/projects/<int:project_id>/settings/undo", summary="Put the settings of an earlier revision in force")
    def undo_settings(path: ProjectPath, body: Undo) -> dict[str, Any]:
        project_of(store, path)
        configure.undo(
            store,
            backend.settings,
            path.project_id,
            to=body.to,
            source="api",
            who=user(backend),
            expected=body.expected,
        )
        backend.wake(path.project_id)
        return _in_force(backend, path.project_id)

    @door.post("/projects/<int:project_id>/settings/preview", summary="Have other settings tried out by a worker")
    def try_settings(path: ProjectPath, body: Tried) -> tuple[dict[str, Any], int]:
        project_of(store, path)
        wanted = ProjectSettings.from_extra_params(body.settings)
        token = configure.ask_preview(store, backend.settings, path.project_id, wanted)
        backend.queues.preview(path.project_id, token)
        return {"token": token}, 202

    @door.get(
        "/projects/<int:project_id>/settings/preview/<token>", summary="The head of the queue with the tried settings"
    )
    def settings_preview(path: PreviewPath) -> dict[str, Any]:
        project_of(store, path)
        return configure.previewed(store, path.project_id, path.token)


def _in_force(backend: Backend, project_id: int) -> dict[str, Any]:
    revision, wanted = configure.in_force(backend.store, project_id)
    said = {"revision": 0, "source": None, "who": None, "at": None} if revision is None else _said(revision)
    return {**said, "settings": wanted.model_dump(mode="json"), "objectives": configure.effective(wanted)}


def _said(revision: Revision) -> dict[str, Any]:
    """Return who said settings, where and when, without the settings."""
    return {name: value for name, value in plain(revision).items() if name not in {"project_id", "settings_json"}}
