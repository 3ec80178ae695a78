"""What a task looks like at a glance: the thumbnail of its image, or how its text begins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from flask import Blueprint, Response, send_file, send_from_directory, url_for

from ls_backend.engine import thumbnails
from ls_backend.errors import ConfigUnsupported
from ls_backend.labelstudio import label_config
from ls_backend.store import Project, Store
from ls_backend.web.protocol import Backend

TEXT_SHOWN = 80
"""Characters of a text that are shown in the place of an image."""

NAME_SHOWN = 60

_KEPT_S = 30 * 86_400
"""A thumbnail is named after the content of its image, so a browser may keep it."""

_PLACEHOLDER_KEPT_S = 60
_STATIC = Path(__file__).parent / "static"


@dataclass(frozen=True)
class Glance:
    """A task at a glance.

    Attributes:
        task_id: Whose it is.
        name: File name of its image, or "Task 7" where it has none.
        url: Of the thumbnail or the placeholder; None for a text.
        text: How the text begins; None for an image.
    """

    task_id: int
    name: str
    url: str | None
    text: str | None


def routes(door: Blueprint, backend: Backend) -> None:
    """Add the thumbnails."""
    folder = backend.settings.thumbnails_path

    @door.get("/thumbnails/<content_hash>.jpg")
    def thumbnail(content_hash: str) -> Response:
        path = thumbnails.path_of(folder, content_hash)
        if path is not None and path.is_file():
            return send_file(path, mimetype="image/jpeg", max_age=_KEPT_S)
        return send_from_directory(_STATIC, "no-image.svg", max_age=_PLACEHOLDER_KEPT_S)


def shows_text(project: Project) -> bool:
    """Say whether the tasks of a project are texts."""
    try:
        return label_config.parse(project.label_config or "").modality == "text"
    except ConfigUnsupported:
        return False


def glances(store: Store, project: Project, task_ids: Iterable[int]) -> dict[int, Glance]:
    """Look at some tasks of a project, in one query; unknown ids are left out."""
    as_text = shows_text(project)
    return {
        row.task_id: Glance(
            task_id=row.task_id,
            name=f"Task {row.task_id}" if as_text else _name(row.image) or f"Task {row.task_id}",
            url=None if as_text else _url(row.content_hash),
            text=beginning(row.image or "") if as_text else None,
        )
        for row in store.tasks.images(project.id, task_ids)
    }


def beginning(text: str, most: int = TEXT_SHOWN) -> str:
    """Return how a text begins, in one line of so many characters at most."""
    line = " ".join(text[: 4 * most].split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _url(content_hash: str | None) -> str:
    if content_hash is None:
        return url_for("ui.static", filename="no-image.svg")
    return url_for("ui.thumbnail", content_hash=content_hash)


def _name(reference: str | None) -> str | None:
    """Return the file name at the end of an image's address; None where it has none worth reading."""
    if not reference or reference.startswith("data:"):
        return None
    name = PurePosixPath(unquote(urlsplit(reference).path)).name
    return name[-NAME_SHOWN:] or None
