"""What the routes of the JSON API share, and the pages with them."""

from __future__ import annotations

from flask import abort
from pydantic import BaseModel, Field

from ls_backend.store import Project, Store


class ProjectPath(BaseModel):
    """Path of one project."""

    project_id: int = Field(ge=1, description="Label Studio's project id")


def project_of(store: Store, path: ProjectPath) -> Project:
    """Return the project of a path; answers 404 where it is not connected."""
    return connected(store, path.project_id)


def connected(store: Store, project_id: int) -> Project:
    """Return a project; answers 404 where it is not connected."""
    project = store.projects.get(project_id)
    if project is None:
        abort(404, description=f"Project {project_id} is not connected to this backend.")
    return project
