"""What the routes of the JSON API share."""

from __future__ import annotations

from flask import abort
from pydantic import BaseModel, Field

from ls_backend.store import Project, Store


class ProjectPath(BaseModel):
    """Path of one project."""

    project_id: int = Field(ge=1, description="Label Studio's project id")


def project_of(store: Store, path: ProjectPath) -> Project:
    """Return the project of a path; answers 404 where it is not connected."""
    project = store.projects.get(path.project_id)
    if project is None:
        abort(404, description=f"Project {path.project_id} is not connected to this backend.")
    return project
