"""A model version put in force by hand, and given back to the gate. Importable without PyTorch: the server does it."""

from __future__ import annotations

from ls_backend.domain import ModelVersion
from ls_backend.engine import versions
from ls_backend.errors import ConfigUnsupported, SettingsError
from ls_backend.labelstudio import label_config
from ls_backend.store import Project, Store


def rollback(store: Store, project_id: int, to: str | None = None) -> ModelVersion:
    """Pin a model version: it serves until released, whatever retrains bring.

    Wake the project's update afterwards.

    Args:
        store: Records.
        project_id: A connected project.
        to: Version to pin, one that the gate has refused as well; None for the promoted one before the one in force.

    Raises:
        SettingsError: No such version, one that cannot serve, or nothing to go back to.
    """
    project = store.projects.connected(project_id)
    chosen = _before(store, project_id) if to is None else store.versions.get(project_id, to)
    if chosen is None:
        raise versions.unknown(store, project_id, to or "")
    if why := hindrance(project, chosen):
        raise SettingsError(
            f"{chosen.version_id} cannot be put in force: {why}", hint="Choose another model version, or none."
        )
    store.projects.pin(project_id, chosen.version_id)
    store.projects.bump(project_id)
    return chosen


def release(store: Store, project_id: int) -> None:
    """Let the newest promoted version serve again. Wake the project's update afterwards.

    Raises:
        SettingsError: The project is not connected.
    """
    store.projects.connected(project_id)
    store.projects.pin(project_id, None)
    store.projects.bump(project_id)


def hindrance(project: Project, version: ModelVersion) -> str | None:
    """Return why a version cannot be put in force, as a sentence; None if it can."""
    if version.state == "retired":
        return "its files are lost."
    if project.label_config is None:  # not read yet
        return None
    try:
        schema = label_config.parse(project.label_config)
    except ConfigUnsupported:
        return "the labelling interface has nothing that can be learnt."
    if not version.answers(schema):
        return "it was trained for other labels than the labelling interface has now."
    return None


def _before(store: Store, project_id: int) -> ModelVersion:
    """Return the promoted version before the one in force."""
    serving = store.versions.in_force(project_id)
    earlier = [
        item
        for item in store.versions.list(project_id)
        if item.state == "promoted" and serving and item.round < serving.round
    ]
    if not earlier:
        raise SettingsError(
            f"Project {project_id} has no promoted model version before "
            f"{serving.version_id if serving else 'the first'}; there is nothing to go back to.",
            hint=f"List the versions with `ls-backend models --project {project_id}`.",
        )
    return max(earlier, key=lambda item: item.round)
