"""Model versions: immutable but for their state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from sqlalchemy import RowMapping, func, insert, select, update

from ls_backend.domain import Metrics, ModelVersion, Reliability
from ls_backend.errors import StoreError
from ls_backend.store.database import Database
from ls_backend.store.schema import projects, versions

VersionState = Literal["promoted", "rejected", "retired"]

_NEWEST_FIRST = (versions.c.round.desc(), versions.c.created_at.desc())


class Versions:
    """Records of model versions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, version: ModelVersion) -> None:
        """Record a new version.

        Raises:
            StoreError: The project is not known, has a version of that id already, or the state is none of ours.
        """
        row = {**asdict(version), "classes": list(version.classes), "questions": list(version.questions)}
        with self._database.write() as connection:
            connection.execute(insert(versions).values(**row))

    def get(self, project_id: int, version_id: str) -> ModelVersion | None:
        """Return one version, None when there is none of that id."""
        statement = select(versions).where(versions.c.project_id == project_id, versions.c.version_id == version_id)
        with self._database.read() as connection:
            row = connection.execute(statement).mappings().one_or_none()
        return None if row is None else _version(row)

    def spread(self, project_id: int, most: int) -> list[ModelVersion]:
        """Return at most so many versions, newest first: the newest, and from it back every second, third, ... one."""
        place = func.row_number().over(order_by=_NEWEST_FIRST) - 1
        mine = versions.c.project_id == project_id
        with self._database.read() as connection:
            n = connection.scalar(select(func.count()).select_from(versions).where(mine)) or 0
            placed = select(versions.c.version_id, place.label("place")).where(mine).subquery()
            chosen = select(placed.c.version_id).where(placed.c.place % max(1, -(-n // most)) == 0)
            statement = select(versions).where(mine, versions.c.version_id.in_(chosen)).order_by(*_NEWEST_FIRST)
            return [_version(row) for row in connection.execute(statement).mappings()]

    def list(self, project_id: int, limit: int | None = None) -> list[ModelVersion]:
        """Return the versions of a project, newest first; a large project has one for each label."""
        statement = select(versions).where(versions.c.project_id == project_id).order_by(*_NEWEST_FIRST)
        with self._database.read() as connection:
            return [_version(row) for row in connection.execute(statement.limit(limit)).mappings()]

    def latest(self, project_id: int, backbone: str | None = None) -> ModelVersion | None:
        """Return the newest version, promoted or not, on one backbone or on any; None before the first."""
        statement = select(versions).where(versions.c.project_id == project_id)
        if backbone is not None:
            statement = statement.where(versions.c.backbone == backbone)
        with self._database.read() as connection:
            row = connection.execute(statement.order_by(versions.c.round.desc()).limit(1)).mappings().one_or_none()
        return None if row is None else _version(row)

    def in_force(self, project_id: int) -> ModelVersion | None:
        """Return the version that predicts: the pinned one, else the latest promoted one; None during cold start."""
        pinned = select(projects.c.pinned_version).where(projects.c.id == project_id).scalar_subquery()
        is_pinned = versions.c.version_id == pinned
        statement = (
            select(versions)
            .where(versions.c.project_id == project_id, is_pinned.is_(True) | (versions.c.state == "promoted"))
            .order_by(is_pinned.is_(True).desc(), *_NEWEST_FIRST)
            .limit(1)
        )
        with self._database.read() as connection:
            row = connection.execute(statement).mappings().one_or_none()
        return None if row is None else _version(row)

    def set_state(self, project_id: int, version_id: str, state: VersionState) -> None:
        """Promote, reject or retire a version.

        Raises:
            StoreError: There is no such version, or the state is none of ours.
        """
        statement = update(versions).where(versions.c.project_id == project_id, versions.c.version_id == version_id)
        with self._database.write() as connection:
            found = connection.execute(statement.values(state=state))
            if found.rowcount == 0:
                raise StoreError(f"Project {project_id} has no model version {version_id}.", project_id=project_id)


def _version(row: RowMapping) -> ModelVersion:
    tuples = {name: tuple(row[name]) for name in ("classes", "questions")}
    return ModelVersion(**{**row, **tuples, "metrics": _metrics(row["metrics"])})


def _metrics(stored: Mapping[str, Any]) -> Metrics:
    bins = tuple(Reliability(**one) for one in stored.get("reliability", ()))
    return Metrics(**{**stored, "reliability": bins})
