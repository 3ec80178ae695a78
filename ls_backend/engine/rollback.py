"""An earlier model version put in force by hand, and given back to the gate."""

from __future__ import annotations

from ls_backend.domain import ModelVersion
from ls_backend.engine.context import Context
from ls_backend.errors import SettingsError


def rollback(context: Context, project_id: int, to: str | None = None) -> ModelVersion:
    """Pin a model version: it serves until released, whatever retrains bring.

    Args:
        context: Store.
        project_id: A connected project.
        to: Version to pin; None for the promoted one before the one in force.

    Raises:
        SettingsError: No such version, or nothing to go back to.
    """
    versions = [item for item in context.store.versions.list(project_id) if item.state == "promoted"]
    names = [item.version_id for item in versions]
    if to is None:
        serving = context.store.versions.in_force(project_id)
        earlier = [item for item in versions if serving and item.round < serving.round]
        if not earlier:
            raise SettingsError(
                f"Project {project_id} has no promoted model version before "
                f"{serving.version_id if serving else 'the first'}; there is nothing to go back to.",
                hint="List the versions at /api/projects/ID.",
            )
        chosen = max(earlier, key=lambda item: item.round)
    elif to in names:
        chosen = versions[names.index(to)]
    else:
        raise SettingsError(
            f"{to} is not a promoted model version of project {project_id}; expected one of {names[-10:]}.",
            hint="Choose one of those.",
        )
    context.store.projects.set(project_id, pinned_version=chosen.version_id)
    context.store.projects.bump(project_id)
    return chosen


def release(context: Context, project_id: int) -> None:
    """Let the newest promoted version serve again."""
    context.project(project_id)
    context.store.projects.set(project_id, pinned_version=None)
    context.store.projects.bump(project_id)
