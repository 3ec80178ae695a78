"""What workers found out about a project for people to look at: the newest of each kind, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, select

from ls_backend.store.database import Database, replace_rows
from ls_backend.store.schema import insights


@dataclass(frozen=True, slots=True)
class Insight:
    """Something a worker found out.

    Attributes:
        kind: What it is: "map", "uncertainty", "calibration", ...
        content: Numbers, texts and lists; every number is finite or None.
        made_at: When it was found out; nothing says that it still holds.
    """

    kind: str
    content: dict[str, Any]
    made_at: datetime


class Insights:
    """Records of what workers found out; one for each project and kind."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, project_id: int, kind: str, content: Mapping[str, Any]) -> None:
        """Store an insight in place of the one before.

        Args:
            project_id: Project it is about.
            kind: What it is.
            content: Anything JSON can hold; NaN and infinity become None.

        Raises:
            StoreError: The project is not known.
        """
        row = {"project_id": project_id, "kind": kind, "made_at": datetime.now(UTC), "content": dict(content)}
        with self._database.write() as connection:
            replace_rows(connection, insights, [row])

    def get(self, project_id: int, kind: str) -> Insight | None:
        """Return the newest insight of a kind, None when there is none."""
        mine = (insights.c.project_id == project_id, insights.c.kind == kind)
        with self._database.read() as connection:
            row = connection.execute(select(insights).where(*mine)).mappings().one_or_none()
        return None if row is None else Insight(row["kind"], row["content"], row["made_at"])

    def ages(self, project_id: int) -> dict[str, datetime]:
        """Return when each kind was found out, without reading what."""
        statement = select(insights.c.kind, insights.c.made_at).where(insights.c.project_id == project_id)
        with self._database.read() as connection:
            return {row.kind: row.made_at for row in connection.execute(statement.order_by(insights.c.kind))}

    def drop(self, project_id: int, kind: str) -> None:
        """Delete an insight that cannot be had any more; one that is not there is dropped already."""
        with self._database.write() as connection:
            connection.execute(delete(insights).where(insights.c.project_id == project_id, insights.c.kind == kind))

    def forget(self, project_id: int) -> None:
        """Delete every insight into a project."""
        with self._database.write() as connection:
            connection.execute(delete(insights).where(insights.c.project_id == project_id))
