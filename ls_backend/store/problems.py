"""What is wrong now, once each, however often it was noticed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import RowMapping, delete, func, select

from ls_backend.domain import Finding
from ls_backend.store.database import Database, upsert
from ls_backend.store.schema import problems

_DEPLOYMENT = 0


@dataclass(frozen=True, slots=True)
class Problem:
    """An open problem.

    Attributes:
        project_id: None when it concerns the whole deployment.
        finding: As last reported.
        count: Times it was reported.
    """

    project_id: int | None
    finding: Finding
    count: int
    first_seen: datetime
    last_seen: datetime


class Problems:
    """Records of open problems."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def report(self, project_id: int | None, finding: Finding) -> None:
        """Open a problem, or note that it is still there. A finding of level "ok" resolves it instead.

        Args:
            project_id: None for the whole deployment.
            finding: Code and subject identify the problem; the rest is replaced.
        """
        if finding.level == "ok":
            self.resolve(project_id, finding.code, finding.subject)
            return
        now = datetime.now(UTC)
        shown = {
            "level": finding.level,
            "message": finding.message,
            "remedy": finding.remedy,
            "context": finding.context,
            "last_seen": now,
        }
        with self._database.write() as connection:
            statement = upsert(connection, problems).values(
                project_id=_scope(project_id),
                code=finding.code,
                subject=finding.subject,
                first_seen=now,
                count=1,
                **shown,
            )
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["project_id", "code", "subject"],
                    set_={**shown, "count": problems.c.count + 1},
                )
            )

    def resolve(self, project_id: int | None, code: str, subject: str | None = None) -> int:
        """Close a problem.

        Args:
            project_id: None for the whole deployment.
            code: Which kind of problem.
            subject: About what; None for every subject.

        Returns:
            How many were open.
        """
        statement = delete(problems).where(problems.c.project_id == _scope(project_id), problems.c.code == code)
        if subject is not None:
            statement = statement.where(problems.c.subject == subject)
        with self._database.write() as connection:
            return connection.execute(statement).rowcount

    def open(self, project_id: int | None) -> list[Problem]:
        """Return the open problems of a project, or with None those of the whole deployment; latest first."""
        return self._select(project_id)

    def open_anywhere(self, limit: int | None = None) -> list[Problem]:
        """Return the open problems of every project and of the deployment, latest first; all, or the latest so many."""
        statement = select(problems).order_by(problems.c.last_seen.desc(), problems.c.code, problems.c.subject)
        with self._database.read() as connection:
            return [_problem(row) for row in connection.execute(statement.limit(limit)).mappings()]

    def count(self, project_id: int | None) -> int:
        """Count the open problems of a project, or with None those of the whole deployment."""
        statement = select(func.count()).where(problems.c.project_id == _scope(project_id))
        with self._database.read() as connection:
            number: int = connection.execute(statement).scalar_one()
            return number

    def newest(self, project_id: int | None, *, level: str | None = None, subject: str | None = None) -> Problem | None:
        """Return the open problem that was reported last, None without one.

        Args:
            project_id: None for the whole deployment.
            level: "warning" or "error"; None for any.
            subject: About what; None for anything.
        """
        statement = select(problems).where(problems.c.project_id == _scope(project_id))
        for column, wanted in ((problems.c.level, level), (problems.c.subject, subject)):
            statement = statement if wanted is None else statement.where(column == wanted)
        order = (problems.c.last_seen.desc(), problems.c.code, problems.c.subject)
        with self._database.read() as connection:
            row = connection.execute(statement.order_by(*order).limit(1)).mappings().one_or_none()
        return None if row is None else _problem(row)

    def _select(self, project_id: int | None) -> list[Problem]:
        statement = select(problems).where(problems.c.project_id == _scope(project_id))
        order = (problems.c.last_seen.desc(), problems.c.code, problems.c.subject)
        with self._database.read() as connection:
            return [_problem(row) for row in connection.execute(statement.order_by(*order)).mappings()]


def _scope(project_id: int | None) -> int:
    return _DEPLOYMENT if project_id is None else project_id


def _problem(row: RowMapping) -> Problem:
    return Problem(
        project_id=None if row["project_id"] == _DEPLOYMENT else row["project_id"],
        finding=Finding(
            code=row["code"],
            level=row["level"],
            subject=row["subject"],
            message=row["message"],
            remedy=row["remedy"],
            context=row["context"],
        ),
        count=row["count"],
        first_seen=row["first_seen"],
        last_seen=row["last_seen"],
    )
