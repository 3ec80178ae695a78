"""The model versions of a project."""

from __future__ import annotations

from flask import Blueprint

from ls_backend.web.protocol import Backend
from ls_backend.web.ui.frame import page, project_of

VERSIONS_SHOWN = 100


def routes(door: Blueprint, backend: Backend) -> None:
    """Add the pages."""
    store = backend.store

    @door.get("/projects/<int:project_id>/models")
    def models(project_id: int) -> str:
        found = project_of(store, project_id)
        serving = store.versions.in_force(project_id)
        versions = sorted(store.versions.list(project_id), key=lambda item: item.round, reverse=True)
        return page(
            "models.html",
            project=found,
            serving=None if serving is None else serving.version_id,
            versions=versions[:VERSIONS_SHOWN],
            deep_versions=store.deep_versions.list(project_id)[-VERSIONS_SHOWN:][::-1],
        )
