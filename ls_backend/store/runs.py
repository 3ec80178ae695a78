"""What the workers did, when, how long each part took and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime

from sqlalchemy import delete, insert, select, update

from ls_backend.errors import StoreError
from ls_backend.store.database import Database
from ls_backend.store.schema import runs

RUNS_KEPT = 1_000
RUNNING = "running"
LOST = "lost"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a job for a project.

    Attributes:
        kind: Job, for example "update" or "embed".
        status: "running", "lost" when its worker was killed, else what the job said.
        seconds: Part of the work -> seconds it took.
    """

    run_id: int
    project_id: int
    kind: str
    status: str
    started_at: datetime
    finished_at: datetime | None
    seconds: dict[str, float]
    error: str | None
    n_labels: int | None
    window_version: str | None


_COLUMNS = tuple(runs.c[item.name] for item in fields(Run))


class Runs:
    """Records of runs; the latest of each project are kept."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start(self, project_id: int, kind: str) -> int:
        """Record that a run begins.

        A run of the same kind that never finished is marked as lost: jobs are single flight, so its worker was killed.

        Returns:
            Id of the run.

        Raises:
            StoreError: The project is not known.
        """
        unfinished = (runs.c.project_id == project_id, runs.c.kind == kind, runs.c.status == RUNNING)
        oldest = (
            select(runs.c.run_id)
            .where(runs.c.project_id == project_id)
            .order_by(runs.c.run_id.desc())
            .offset(RUNS_KEPT - 1)
            .limit(1)
            .scalar_subquery()
        )
        with self._database.write() as connection:
            connection.execute(update(runs).where(*unfinished).values(status=LOST))
            connection.execute(delete(runs).where(runs.c.project_id == project_id, runs.c.run_id <= oldest))
            begun = insert(runs).values(
                project_id=project_id, kind=kind, status=RUNNING, started_at=datetime.now(UTC), seconds={}
            )
            run_id: int = connection.execute(begun.returning(runs.c.run_id)).scalar_one()
            return run_id

    def finish(
        self,
        run_id: int,
        status: str,
        seconds: Mapping[str, float],
        *,
        error: str | None = None,
        n_labels: int | None = None,
        window_version: str | None = None,
    ) -> None:
        """Record how a run ended.

        Args:
            run_id: From `start`.
            status: One word, for example "done" or "failed".
            seconds: Part of the work -> seconds it took.
            error: In words, when it failed.
            n_labels: Labels it worked with.
            window_version: Window it published.

        Raises:
            StoreError: There is no such run.
        """
        with self._database.write() as connection:
            found = connection.execute(
                update(runs)
                .where(runs.c.run_id == run_id)
                .values(
                    status=status,
                    seconds={name: float(value) for name, value in seconds.items()},
                    error=error,
                    n_labels=n_labels,
                    window_version=window_version,
                    finished_at=datetime.now(UTC),
                )
            )
            if found.rowcount == 0:
                raise StoreError(f"There is no run {run_id}.", run_id=run_id)

    def recent(self, project_id: int, limit: int) -> list[Run]:
        """Return the latest runs, newest first."""
        statement = select(*_COLUMNS).where(runs.c.project_id == project_id)
        with self._database.read() as connection:
            found = connection.execute(statement.order_by(runs.c.run_id.desc()).limit(limit)).mappings()
            return [Run(**row) for row in found]
