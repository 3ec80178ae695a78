"""Project settings as they were saved, one after the other; the newest are in force."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Connection, Select, delete, insert, select, update

from ls_backend.errors import StoreError
from ls_backend.store.database import Database
from ls_backend.store.schema import projects, settings_revisions

REVISIONS_KEPT = 500

Source = Literal["label-studio", "dashboard", "command line", "api", "connect"]
"""Where settings are said."""


@dataclass(frozen=True, slots=True)
class Revision:
    """Settings of a project, as somebody saved them.

    Attributes:
        revision: Counts from 1 for each project, without gaps.
        settings_json: `ProjectSettings` as JSON text.
        source: Where they were said, see `Source`.
        who: Name of the user, "anonymous" where nobody had to say it.
        at: When they were saved.
    """

    project_id: int
    revision: int
    settings_json: str
    source: str
    who: str
    at: datetime


_COLUMNS = tuple(settings_revisions.c[item.name] for item in fields(Revision))


class Revisions:
    """Records of project settings; the latest of each project are kept."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, project_id: int, settings_json: str, *, source: Source, who: str, expected: int | None = None
    ) -> Revision | None:
        """Put settings in force and want an update, in one transaction. Those in force already make no revision.

        Args:
            project_id: Whose settings.
            settings_json: `ProjectSettings` as JSON text.
            source: Where they were said.
            who: Name of the user.
            expected: Revision they were made from, 0 for none; None saves them whatever was saved meanwhile.

        Returns:
            The newest revision now; None, and nothing is changed, when the newest is not the expected one.

        Raises:
            StoreError: The project is not known.
        """
        mine = projects.c.id == project_id
        with self._database.write() as connection:
            project = connection.execute(select(projects.c.settings_json).where(mine).with_for_update()).one_or_none()
            if project is None:
                raise StoreError(
                    f"Project {project_id} is not known here.",
                    hint=f"Connect it with `ls-backend connect --project {project_id}`.",
                    project_id=project_id,
                )
            newest = _newest(connection, project_id)
            if newest is not None and _same(newest.settings_json, settings_json):
                if _same(project.settings_json, settings_json):
                    return newest
            elif expected is not None and expected != (0 if newest is None else newest.revision):
                return None
            made = Revision(
                project_id=project_id,
                revision=1 if newest is None else newest.revision + 1,
                settings_json=settings_json,
                source=source,
                who=who,
                at=datetime.now(UTC),
            )
            connection.execute(insert(settings_revisions).values({name: getattr(made, name) for name in _NAMES}))
            old = settings_revisions.c.revision <= made.revision - REVISIONS_KEPT
            connection.execute(delete(settings_revisions).where(settings_revisions.c.project_id == project_id, old))
            connection.execute(
                update(projects)
                .where(mine)
                .values(
                    settings_json=settings_json,
                    wanted_generation=projects.c.wanted_generation + 1,
                    updated_at=made.at,
                )
            )
        return made

    def newest(self, project_id: int) -> Revision | None:
        """Return the revision in force; None before the first."""
        with self._database.read() as connection:
            return _newest(connection, project_id)

    def get(self, project_id: int, revision: int) -> Revision | None:
        """Return one revision, None when there is none of that number, or no more."""
        chosen = _of(project_id).where(settings_revisions.c.revision == revision)
        with self._database.read() as connection:
            row = connection.execute(chosen).mappings().one_or_none()
        return None if row is None else Revision(**row)

    def list(self, project_id: int, limit: int) -> list[Revision]:
        """Return the latest revisions, newest first."""
        statement = _of(project_id).order_by(settings_revisions.c.revision.desc()).limit(limit)
        with self._database.read() as connection:
            return [Revision(**row) for row in connection.execute(statement).mappings()]


_NAMES = tuple(column.name for column in _COLUMNS)


def _of(project_id: int) -> Select[Any]:
    return select(*_COLUMNS).where(settings_revisions.c.project_id == project_id)


def _newest(connection: Connection, project_id: int) -> Revision | None:
    newest = _of(project_id).order_by(settings_revisions.c.revision.desc()).limit(1)
    row = connection.execute(newest).mappings().one_or_none()
    return None if row is None else Revision(**row)


def _same(one: str | None, other: str) -> bool:
    """Whether two texts say the same, in whatever order."""
    return one is not None and bool(json.loads(one) == json.loads(other))
