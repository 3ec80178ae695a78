"""Deeper trainings: which are wanted or under way, how far they are, how they ended.

A training is wanted in the records and not in the job queue, so that no crash loses it. At most one of a control is
open, that is queued or running.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, RowMapping, and_, case, delete, select, update

from ls_backend.store.database import Database, upsert
from ls_backend.store.schema import trainings

TRAININGS_KEPT = 200

QUEUED, RUNNING = "queued", "running"
Outcome = Literal["done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Training:
    """One deeper training of a control.

    Attributes:
        control: Name of the control tag.
        state: "queued", "running", "done", "failed" or "cancelled".
        classes: Labels of the control, in index order.
        n_labels: Annotated tasks it is for: when it was asked for, then when it began.
        labels_until: When the newest of their annotations was made or changed, by Label Studio's clock.
        reported_at: When the process that trains last said how far it is.
        deaths: Times that process died without being asked to.
        progress: As last reported: "phase" and, by phase, "epoch", "epochs", "loss", "metric", "seconds", "left_s".
        version_id: Version it made, promoted or not; None before, and when it made none.
        error: In words, when it failed.
    """

    training_id: int
    project_id: int
    control: str
    state: str
    classes: tuple[str, ...]
    n_labels: int
    labels_until: datetime | None
    asked_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    reported_at: datetime | None
    deaths: int
    cancel_requested: bool
    progress: dict[str, Any]
    version_id: str | None
    error: str | None

    @property
    def is_open(self) -> bool:
        """Whether it waits or runs."""
        return self.state in (QUEUED, RUNNING)


_COLUMNS = tuple(trainings.c[item.name] for item in fields(Training))
_OPEN = trainings.c.state.in_([QUEUED, RUNNING])


class Trainings:
    """Records of deeper trainings; the latest of each project are kept."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ask(
        self,
        project_id: int,
        control: str,
        *,
        classes: Sequence[str],
        n_labels: int,
        labels_until: datetime | None = None,
    ) -> Training:
        """Want a training of a control, and answer the open one: the one that was open already where there is one.

        Raises:
            StoreError: The project is not known.
        """
        mine = trainings.c.project_id == project_id
        oldest = select(trainings.c.training_id).where(mine).order_by(trainings.c.training_id.desc())
        last = oldest.offset(TRAININGS_KEPT - 1).limit(1).scalar_subquery()
        with self._database.write() as connection:
            connection.execute(delete(trainings).where(mine, ~_OPEN, trainings.c.training_id <= last))
            connection.execute(
                upsert(connection, trainings)
                .values(
                    project_id=project_id,
                    control=control,
                    state=QUEUED,
                    classes=list(classes),
                    n_labels=n_labels,
                    labels_until=labels_until,
                    asked_at=_now(),
                    progress={},
                )
                .on_conflict_do_nothing()
            )
            found = select(*_COLUMNS).where(mine, trainings.c.control == control, _OPEN)
            return _training(connection.execute(found).mappings().one())

    def get(self, training_id: int) -> Training | None:
        """Return one training, None when there is none of that id."""
        found = self._select(trainings.c.training_id == training_id, limit=1)
        return found[0] if found else None

    def latest(self, project_id: int, control: str) -> Training | None:
        """Return the newest training of a control, however it ended; None before the first."""
        found = self._select(trainings.c.project_id == project_id, trainings.c.control == control, limit=1)
        return found[0] if found else None

    def recent(self, project_id: int, limit: int) -> list[Training]:
        """Return the latest trainings of a project, newest first."""
        return self._select(trainings.c.project_id == project_id, limit=limit)

    def open(self, project_id: int | None = None) -> list[Training]:
        """Return the trainings that wait or run, of one project or of all, oldest first."""
        mine = [] if project_id is None else [trainings.c.project_id == project_id]
        return self._select(_OPEN, *mine)[::-1]

    def begin(self, training_id: int, *, classes: Sequence[str], n_labels: int, labels_until: datetime | None) -> bool:
        """Record that a process has read the labels and begins, or begins again after a crash.

        Returns:
            Whether it may go on; False when the training is over or somebody wants it cancelled.
        """
        values = {
            "state": RUNNING,
            "classes": list(classes),
            "n_labels": n_labels,
            "labels_until": labels_until,
            "started_at": case((trainings.c.started_at.is_(None), _now()), else_=trainings.c.started_at),
            "reported_at": _now(),
        }
        return self._go_on(training_id, values)

    def report(self, training_id: int, progress: Mapping[str, Any]) -> bool:
        """Record how far a training is.

        Args:
            training_id: From `ask`.
            progress: Anything JSON can hold, see `Training`.

        Returns:
            Whether it should go on; False when somebody wants it cancelled or it is over.
        """
        return self._go_on(training_id, {"progress": dict(progress), "reported_at": _now()})

    def cancel(self, project_id: int, control: str | None = None) -> list[Training]:
        """Have the open trainings of a project, or of one control, end without a version.

        One that waits is over at once. One that runs is told when it next reports; until then it stays open.

        Returns:
            Those it concerns, as they were before.
        """
        mine = and_(trainings.c.project_id == project_id, _OPEN)
        if control is not None:
            mine = and_(mine, trainings.c.control == control)
        waits = trainings.c.state == QUEUED
        with self._database.write() as connection:
            found = connection.execute(select(*_COLUMNS).where(mine).with_for_update()).mappings().all()
            connection.execute(update(trainings).where(mine).values(cancel_requested=True))
            connection.execute(update(trainings).where(mine, waits).values(state="cancelled", finished_at=_now()))
        return [_training(row) for row in found]

    def died(self, training_id: int) -> int:
        """Record that the process that trains has died; answer how often that has happened."""
        statement = update(trainings).where(trainings.c.training_id == training_id)
        counted = statement.values(deaths=trainings.c.deaths + 1).returning(trainings.c.deaths)
        with self._database.write() as connection:
            return connection.scalar(counted) or 0

    def finish(
        self, training_id: int, state: Outcome, *, version_id: str | None = None, error: str | None = None
    ) -> bool:
        """Record how a training ended.

        Returns:
            Whether it was open; what is over stays as it is.

        Raises:
            StoreError: The state is none of ours.
        """
        mine = and_(trainings.c.training_id == training_id, _OPEN)
        values = {"state": state, "version_id": version_id, "error": error, "finished_at": _now()}
        with self._database.write() as connection:
            return connection.execute(update(trainings).where(mine).values(**values)).rowcount == 1

    def _go_on(self, training_id: int, values: Mapping[str, Any]) -> bool:
        mine = and_(trainings.c.training_id == training_id, _OPEN)
        with self._database.write() as connection:
            asked = update(trainings).where(mine).values(**values).returning(trainings.c.cancel_requested)
            return connection.scalar(asked) is False

    def _select(self, *conditions: ColumnElement[bool], limit: int | None = None) -> list[Training]:
        statement = select(*_COLUMNS).where(*conditions).order_by(trainings.c.training_id.desc()).limit(limit)
        with self._database.read() as connection:
            return [_training(row) for row in connection.execute(statement).mappings()]


def _training(row: RowMapping) -> Training:
    return Training(**{**row, "classes": tuple(row["classes"])})


def _now() -> datetime:
    return datetime.now(UTC)
