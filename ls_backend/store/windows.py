"""Published windows, the reasons of their order, and the old predictions that still lie in Label Studio."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    and_,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from ls_backend.domain import Window
from ls_backend.errors import StoreError
from ls_backend.store.database import Database, chunks, replace_rows
from ls_backend.store.schema import kept_predictions, projects, tasks, window_rows, windows

REASONS_KEPT = 200  # windows whose tasks and reasons stay after their rows have left Label Studio

_WAITS = and_(~tasks.c.is_labeled, tasks.c.total_annotations == 0, tasks.c.cancelled_annotations == 0)
_SAME_TASK = and_(tasks.c.project_id == window_rows.c.project_id, tasks.c.task_id == window_rows.c.task_id)


@dataclass(frozen=True, slots=True)
class WindowRow:
    """Why one task stands where it stands.

    Attributes:
        rank: From 0, most valuable first.
        utility: Value of the whole product; None when not judged.
        factors: Objective -> value of its factor; None when not finite.
        ratios: Objective -> value divided by the pool's median.
        reason: In words, for an annotator.
        probabilities: Of the classes in the order of the model version; None during cold start.
    """

    task_id: int
    rank: int
    utility: float | None
    factors: Mapping[str, float | None]
    ratios: Mapping[str, float | None]
    reason: str
    probabilities: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class KeptRow:
    """A prediction of an old window left in Label Studio because somebody may still hold its task.

    Attributes:
        version: Window it was published with.
    """

    prediction_id: int
    task_id: int
    version: str
    kept_at: datetime


class Windows:
    """Records of windows. Version strings of cold-start windows repeat between projects: a project is always named."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, window: Window, rows: Sequence[WindowRow] = ()) -> None:
        """Record a window before it is published.

        Args:
            window: Its task ids are the order.
            rows: Reasons, one for each task in the same order; without them only the order is kept.

        Raises:
            StoreError: The rows name other tasks than the window, the version exists, or the project is not known.
        """
        if rows and tuple(row.task_id for row in rows) != window.task_ids:
            raise StoreError(
                f"Window {window.version} has {len(window.task_ids)} tasks and {len(rows)} reasons for other tasks or "
                "in another order; expected one reason for each task, in order.",
                project_id=window.project_id,
            )
        given = rows or [WindowRow(task_id, rank, None, {}, {}, "") for rank, task_id in enumerate(window.task_ids)]
        with self._database.write() as connection:
            connection.execute(insert(windows).values(**_window_values(window), ordinal=_next(window.project_id)))
            if given:
                connection.execute(
                    insert(window_rows), [_row_values(window, rank, row) for rank, row in enumerate(given)]
                )

    def flipped(self, project_id: int, version: str, at: datetime) -> None:
        """Record that Label Studio serves this window now.

        In the same transaction it becomes the project's `window_version`, nothing is pending any more, and every other
        window that was in force, or was left unpublished before this one, counts as replaced.

        Raises:
            StoreError: There is no such window.
        """
        with self._database.write() as connection:
            ordinal = connection.scalar(select(windows.c.ordinal).where(_is(project_id, version)).with_for_update())
            if ordinal is None:
                raise _unknown(project_id, version)
            connection.execute(update(windows).where(_is(project_id, version)).values(flipped_at=at, replaced_at=None))
            superseded = and_(
                windows.c.project_id == project_id,
                windows.c.version != version,
                windows.c.replaced_at.is_(None),
                or_(windows.c.flipped_at.is_not(None), windows.c.ordinal < ordinal),
            )
            connection.execute(update(windows).where(superseded).values(replaced_at=at))
            connection.execute(
                update(projects).where(projects.c.id == project_id).values(window_version=version, pending_version=None)
            )

    def replaced(self, project_id: int, version: str, at: datetime) -> None:
        """Give a window up: its predictions are to be collected. The moment of an earlier call stays.

        Raises:
            StoreError: There is no such window.
        """
        with self._database.write() as connection:
            found = connection.execute(
                update(windows)
                .where(_is(project_id, version))
                .values(replaced_at=func.coalesce(windows.c.replaced_at, at))
            )
            if found.rowcount == 0:
                raise _unknown(project_id, version)

    def get(self, project_id: int, version: str) -> Window | None:
        """Return one window, None when there is none of that version."""
        found = self._select(select(windows).where(_is(project_id, version)))
        return found[0] if found else None

    def in_force(self, project_id: int) -> Window | None:
        """Return the window Label Studio serves, None before the first flip."""
        serving = and_(windows.c.flipped_at.is_not(None), windows.c.replaced_at.is_(None))
        found = self._select(_of(project_id).where(serving).order_by(windows.c.ordinal.desc()).limit(1))
        return found[0] if found else None

    def serving(self, project_id: int, since: datetime, until: datetime) -> list[Window]:
        """Return the windows that were in force at some moment between two, oldest first."""
        then = and_(windows.c.flipped_at <= until, or_(windows.c.replaced_at.is_(None), windows.c.replaced_at >= since))
        return self._select(_of(project_id).where(then).order_by(windows.c.ordinal))

    def old(self, project_id: int) -> list[Window]:
        """Return the replaced windows whose predictions still lie in Label Studio, oldest first."""
        waiting = and_(windows.c.replaced_at.is_not(None), windows.c.collected_at.is_(None))
        return self._select(_of(project_id).where(waiting).order_by(windows.c.ordinal))

    def recent(self, project_id: int, limit: int) -> list[Window]:
        """Return the latest windows, newest first; those long gone have lost their task ids."""
        return self._select(_of(project_id).order_by(windows.c.ordinal.desc()).limit(limit))

    def rows(self, project_id: int, version: str) -> list[WindowRow]:
        """Return the tasks of a window with their reasons, in order."""
        statement = select(window_rows).where(window_rows.c.project_id == project_id, window_rows.c.version == version)
        with self._database.read() as connection:
            found = connection.execute(statement.order_by(window_rows.c.rank)).mappings()
            return [_row(row) for row in found]

    def ahead(self, project_id: int, version: str, limit: int) -> list[WindowRow]:
        """Return the first tasks of a window that nobody has labelled or skipped yet, in order."""
        statement = (
            select(window_rows)
            .select_from(window_rows.join(tasks, _SAME_TASK))
            .where(window_rows.c.project_id == project_id, window_rows.c.version == version, _WAITS)
            .order_by(window_rows.c.rank)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [_row(row) for row in connection.execute(statement).mappings()]

    def places(self, project_id: int, version: str, task_ids: Iterable[int]) -> dict[int, tuple[int, str]]:
        """Return (rank, reason) of some tasks, by task id; those that are not in the window are left out."""
        columns = (window_rows.c.task_id, window_rows.c.rank, window_rows.c.reason)
        mine = (window_rows.c.project_id == project_id, window_rows.c.version == version)
        found: dict[int, tuple[int, str]] = {}
        with self._database.read() as connection:
            for batch in chunks(task_ids):
                for row in connection.execute(select(*columns).where(*mine, window_rows.c.task_id.in_(batch))):
                    found[row.task_id] = (row.rank, row.reason)
        return found

    def left(self, project_id: int, version: str) -> tuple[int, int]:
        """Return how many tasks of a window nobody has labelled or skipped yet, and how many it has."""
        statement = (
            select(func.coalesce(func.sum(case((_WAITS, 1), else_=0)), 0), func.count())
            .select_from(window_rows.outerjoin(tasks, _SAME_TASK))
            .where(window_rows.c.project_id == project_id, window_rows.c.version == version)
        )
        with self._database.read() as connection:
            left, whole = connection.execute(statement).one()
        return int(left), int(whole)

    def collected(self, project_id: int, version: str, kept: Mapping[int, int], at: datetime) -> None:
        """Record that the predictions of an old window have left Label Studio, except the kept ones.

        Args:
            project_id: Project of the window.
            version: The window.
            kept: Task id -> id of the prediction that stays for now.
            at: When.

        Raises:
            StoreError: There is no such window.
        """
        with self._database.write() as connection:
            done = connection.execute(
                update(windows).where(_is(project_id, version)).values(collected_at=at).returning(windows.c.ordinal)
            ).scalar_one_or_none()
            if done is None:
                raise _unknown(project_id, version)
            replace_rows(
                connection,
                kept_predictions,
                [
                    {
                        "project_id": project_id,
                        "prediction_id": prediction_id,
                        "task_id": task_id,
                        "version": version,
                        "kept_at": at,
                    }
                    for task_id, prediction_id in kept.items()
                ],
            )
            _prune(connection, project_id, done)

    def kept_rows(self, project_id: int, older_than: datetime) -> list[KeptRow]:
        """Return the kept predictions from before a moment, oldest first."""
        table = kept_predictions
        statement = select(table.c.prediction_id, table.c.task_id, table.c.version, table.c.kept_at).where(
            table.c.project_id == project_id, table.c.kept_at < older_than
        )
        with self._database.read() as connection:
            found = connection.execute(statement.order_by(table.c.kept_at, table.c.prediction_id))
            return [KeptRow(*row) for row in found]

    def forget_kept(self, project_id: int, prediction_ids: Iterable[int]) -> None:
        """Record that kept predictions have left Label Studio."""
        table = kept_predictions
        with self._database.write() as connection:
            for batch in chunks(prediction_ids):
                connection.execute(
                    delete(table).where(table.c.project_id == project_id, table.c.prediction_id.in_(batch))
                )

    def count_old_rows(self, project_id: int) -> int:
        """Count our predictions in Label Studio that no window in force needs: of replaced windows, and kept ones."""
        waiting = select(func.coalesce(func.sum(windows.c.n_tasks), 0)).where(
            windows.c.project_id == project_id, windows.c.replaced_at.is_not(None), windows.c.collected_at.is_(None)
        )
        kept = select(func.count()).where(kept_predictions.c.project_id == project_id)
        with self._database.read() as connection:
            return int(connection.scalar(waiting) or 0) + int(connection.scalar(kept) or 0)

    def _select(self, statement: Select[tuple[object, ...]]) -> list[Window]:
        with self._database.read() as connection:
            found = connection.execute(statement).mappings().all()
            order = _task_ids(connection, found)
        return [_window(row, order.get(row["version"], ())) for row in found]


def _is(project_id: int, version: str) -> ColumnElement[bool]:
    return and_(windows.c.project_id == project_id, windows.c.version == version)


def _of(project_id: int) -> Select[tuple[object, ...]]:
    return select(windows).where(windows.c.project_id == project_id)


def _next(project_id: int) -> ColumnElement[int]:
    highest = select(func.coalesce(func.max(windows.c.ordinal), 0) + 1).where(windows.c.project_id == project_id)
    return highest.scalar_subquery()


def _task_ids(connection: Connection, found: Sequence[RowMapping]) -> dict[str, tuple[int, ...]]:
    order: dict[str, list[int]] = {}
    for batch in chunks(found):
        statement = select(window_rows.c.version, window_rows.c.task_id).where(
            window_rows.c.project_id == batch[0]["project_id"],
            window_rows.c.version.in_([row["version"] for row in batch]),
        )
        for version, task_id in connection.execute(statement.order_by(window_rows.c.rank)):
            order.setdefault(version, []).append(task_id)
    return {version: tuple(task_ids) for version, task_ids in order.items()}


def _prune(connection: Connection, project_id: int, ordinal: int) -> None:
    """Drop the tasks and reasons of windows that left Label Studio long ago; the windows themselves stay."""
    gone = select(windows.c.version).where(
        windows.c.project_id == project_id,
        windows.c.collected_at.is_not(None),
        windows.c.ordinal <= ordinal - REASONS_KEPT,
    )
    connection.execute(
        delete(window_rows).where(window_rows.c.project_id == project_id, window_rows.c.version.in_(gone))
    )


def _window_values(window: Window) -> dict[str, object]:
    return {
        "project_id": window.project_id,
        "version": window.version,
        "generation": window.generation,
        "model_version_id": window.model_version_id,
        "n_labels": window.n_labels,
        "n_tasks": len(window.task_ids),
        "created_at": datetime.now(UTC),
        "flipped_at": window.flipped_at,
        "replaced_at": window.replaced_at,
    }


def _row_values(window: Window, rank: int, row: WindowRow) -> dict[str, object]:
    return {
        "project_id": window.project_id,
        "version": window.version,
        "task_id": row.task_id,
        "rank": rank,
        "utility": None if row.utility is None or not math.isfinite(row.utility) else float(row.utility),
        "reason": row.reason,
        "factors": dict(row.factors),
        "ratios": dict(row.ratios),
        "probabilities": None if row.probabilities is None else [float(value) for value in row.probabilities],
    }


def _window(row: RowMapping, task_ids: tuple[int, ...]) -> Window:
    return Window(
        version=row["version"],
        project_id=row["project_id"],
        generation=row["generation"],
        model_version_id=row["model_version_id"],
        task_ids=task_ids,
        n_labels=row["n_labels"],
        flipped_at=row["flipped_at"],
        replaced_at=row["replaced_at"],
    )


def _row(row: RowMapping) -> WindowRow:
    probabilities = row["probabilities"]
    return WindowRow(
        task_id=row["task_id"],
        rank=row["rank"],
        utility=row["utility"],
        factors=row["factors"],
        ratios=row["ratios"],
        reason=row["reason"],
        probabilities=None if probabilities is None else tuple(probabilities),
    )


def _unknown(project_id: int, version: str) -> StoreError:
    return StoreError(f"Project {project_id} has no window {version}.", project_id=project_id)
