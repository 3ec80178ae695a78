"""What there is of a project, counted by the database: nothing here reads 100,000 rows into Python."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, case, func, select

from ls_backend.store.database import Database
from ls_backend.store.schema import task_annotations, tasks


@dataclass(frozen=True, slots=True)
class Throughput:
    """What one annotator did in one hour.

    Attributes:
        hour: Its beginning.
        annotator_id: Label Studio's id of the user; 0 for annotations that have none.
        labels: Annotations submitted for the first time.
        skipped: Tasks skipped.
    """

    hour: datetime
    annotator_id: int
    labels: int
    skipped: int


class Tallies:
    """Counts over tasks and annotations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def throughput(self, project_id: int, since: datetime) -> list[Throughput]:
        """Count what each annotator did in each hour since a moment, by hour and annotator; idle hours are left out."""
        table = task_annotations.c
        hour, by = self._hour(table.created_at), func.coalesce(table.completed_by, 0)
        skipped = func.sum(case((table.was_cancelled, 1), else_=0))
        statement = (
            select(hour, by, func.count() - skipped, skipped)
            .where(table.project_id == project_id, table.created_at >= since)
            .group_by(hour, by)
            .order_by(hour, by)
        )
        with self._database.read() as connection:
            return [
                Throughput(datetime.strptime(row[0], "%Y-%m-%d %H").replace(tzinfo=UTC), row[1], row[2], row[3])
                for row in connection.execute(statement)
            ]

    def labels(self, project_id: int) -> dict[str, int]:
        """Count the tasks of each label, written as `LabelSchema.written` does."""
        mine = (tasks.c.project_id == project_id, tasks.c.label.is_not(None))
        statement = select(tasks.c.label, func.count()).where(*mine).group_by(tasks.c.label)
        with self._database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(statement.order_by(tasks.c.label))}

    def _hour(self, moment: ColumnElement[datetime]) -> ColumnElement[str]:
        """Write the hour of a moment, in UTC, as "2026-03-01 12"."""
        if self._database.dialect.name == "sqlite":
            return func.strftime("%Y-%m-%d %H", moment)
        return func.to_char(func.timezone("UTC", moment), "YYYY-MM-DD HH24")
