"""Tasks and annotations as last read from Label Studio, and what was found out about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    case,
    delete,
    distinct,
    false,
    func,
    insert,
    null,
    or_,
    select,
    true,
    update,
)

from ls_backend.domain import Annotation, Task
from ls_backend.store.database import Database, chunks, replace_rows, upsert
from ls_backend.store.schema import inferences, task_annotations, tasks, test_tasks


@dataclass(frozen=True, slots=True)
class Counts:
    """What the store holds of a project.

    Attributes:
        annotations: Submitted and not cancelled.
        cancelled: Skipped or cancelled annotations.
        labelled: Tasks whose annotations give a label.
        unread: Tasks whose image is still to be read for the first time.
    """

    tasks: int
    annotations: int
    cancelled: int
    labelled: int
    unread: int


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task and the state of its image.

    Attributes:
        image: Reference to the image as the task data has it, or the text itself; None when the task data has none.
        content_hash: Of the image's bytes, or of the text; None while it is unread.
        image_error: Why the image could not be read the last time; None when it was never tried.
    """

    task_id: int
    image: str | None
    content_hash: str | None
    image_error: str | None
    image_error_at: datetime | None


@dataclass(frozen=True, slots=True)
class LabelledTask:
    """A task whose annotations give a label."""

    task_id: int
    label: str
    holdout: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """Who answered a task, and when: an annotation without its result, or a skip.

    Attributes:
        annotator_id: Label Studio's id of the user; 0 when the annotation has none.
        made_at: When it was submitted first.
        changed_at: When it was changed last.
        skipped: Whether it is a skip; Label Studio serves the task on to others.
    """

    task_id: int
    annotator_id: int
    made_at: datetime
    changed_at: datetime
    skipped: bool


@dataclass(frozen=True, slots=True)
class TaskTable:
    """All tasks of a project as columns of equal length n, by task id.

    Attributes:
        task_id: (n,) int64.
        label: (n,) object, str or None.
        holdout: (n,) bool.
        content_hash: (n,) object, str or None while the image is unread.
        n_annotations: (n,) int64, not cancelled ones, as Label Studio counts them.
        n_cancelled: (n,) int64.
        is_labeled: (n,) bool; Label Studio serves such a task no more.
    """

    task_id: npt.NDArray[np.int64]
    label: npt.NDArray[np.object_]
    holdout: npt.NDArray[np.bool_]
    content_hash: npt.NDArray[np.object_]
    n_annotations: npt.NDArray[np.int64]
    n_cancelled: npt.NDArray[np.int64]
    is_labeled: npt.NDArray[np.bool_]


_NEVER_READ = (tasks.c.content_hash.is_(None), tasks.c.image_error_at.is_(None))
_ANNOTATION = tuple(task_annotations.c[item.name] for item in fields(Annotation))
_ROWS_AT_ONCE = 500  # below what sets off the garbage collector: 100,000 row objects alive cost it thrice the reading
_ROW = tuple(tasks.c[item.name] for item in fields(TaskRow))


class Tasks:
    """Records of tasks and annotations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def upsert(self, project_id: int, given: Iterable[Task], *, image_field: str) -> None:
        """Store tasks as Label Studio has them now.

        A task older than the stored one is ignored with its annotations: answers may arrive out of order. A changed
        image reference makes the image unread again. Annotations are replaced as a set where they were read.

        Args:
            project_id: Project they belong to.
            given: Tasks, at most once each.
            image_field: Key of the task data that holds the image or the text.

        Raises:
            StoreError: The project is not known.
        """
        for batch in chunks(given):
            with self._database.write() as connection:
                stored = _updated_at(connection, project_id, [task.task_id for task in batch])
                fresh = [task for task in batch if not _is_older(task, stored)]
                _write_tasks(connection, project_id, fresh, image_field)
                _write_annotations(connection, project_id, [task for task in fresh if task.annotations is not None])

    def delete(self, project_id: int, task_ids: Iterable[int]) -> None:
        """Delete tasks with their annotations; unknown ids are no error."""
        with self._database.write() as connection:
            for batch in chunks(task_ids):
                for table in (task_annotations, test_tasks, inferences, tasks):
                    connection.execute(
                        delete(table).where(table.c.project_id == project_id, table.c.task_id.in_(batch))
                    )

    def ids(self, project_id: int) -> set[int]:
        """Return the ids of all tasks."""
        with self._database.read() as connection:
            return set(connection.scalars(select(tasks.c.task_id).where(tasks.c.project_id == project_id)))

    def counts(self, project_id: int) -> Counts:
        """Count what is stored, to compare with Label Studio's own counts."""
        with self._database.read() as connection:
            n_tasks, labelled, unread = connection.execute(
                select(
                    func.count(),
                    func.count(tasks.c.label),
                    func.coalesce(func.sum(case((and_(*_NEVER_READ), 1), else_=0)), 0),
                ).where(tasks.c.project_id == project_id)
            ).one()
            n_annotations, n_cancelled = connection.execute(
                select(
                    func.coalesce(func.sum(case((task_annotations.c.was_cancelled, 0), else_=1)), 0),
                    func.coalesce(func.sum(case((task_annotations.c.was_cancelled, 1), else_=0)), 0),
                ).where(task_annotations.c.project_id == project_id)
            ).one()
        return Counts(
            tasks=n_tasks,
            annotations=int(n_annotations),
            cancelled=int(n_cancelled),
            labelled=labelled,
            unread=int(unread),
        )

    def newest_annotation(self, project_id: int) -> datetime | None:
        """Return when the newest annotation was made or changed, by Label Studio's clock; None before the first."""
        newest = select(func.max(task_annotations.c.updated_at)).where(task_annotations.c.project_id == project_id)
        with self._database.read() as connection:
            found: datetime | None = connection.scalar(newest)
            return found

    def set_labels(self, project_id: int, labels: Mapping[int, tuple[str | None, str | None]]) -> None:
        """Set the label of tasks.

        Args:
            project_id: Project they belong to.
            labels: Task id -> (label, problem); a problem says in words why there is no label.
        """
        rows = [{"task": key, "text": label, "why": problem} for key, (label, problem) in labels.items()]
        statement = _one_task(project_id).values(label=bindparam("text"), label_problem=bindparam("why"))
        with self._database.write() as connection:
            if rows:
                connection.execute(statement, rows)

    def label_problems(self, project_id: int) -> dict[int, str]:
        """Return the tasks whose annotations give no usable label, and why."""
        statement = select(tasks.c.task_id, tasks.c.label_problem).where(
            tasks.c.project_id == project_id, tasks.c.label_problem.is_not(None)
        )
        with self._database.read() as connection:
            return {row.task_id: row.label_problem for row in connection.execute(statement.order_by(tasks.c.task_id))}

    def set_holdout(self, project_id: int, task_ids: Iterable[int]) -> None:
        """Make exactly these tasks the hold-out."""
        mine = tasks.c.project_id == project_id
        with self._database.write() as connection:
            connection.execute(update(tasks).where(mine, tasks.c.holdout).values(holdout=false()))
            for batch in chunks(task_ids):
                connection.execute(update(tasks).where(mine, tasks.c.task_id.in_(batch)).values(holdout=true()))

    def lock_test_set(self, project_id: int, task_ids: Iterable[int]) -> None:
        """Put tasks into the test set, for good; only deleted tasks leave it.

        Args:
            project_id: Project they belong to.
            task_ids: At least one; none of them in it already.
        """
        with self._database.write() as connection:
            given = [{"project_id": project_id, "task_id": task_id} for task_id in task_ids]
            connection.execute(insert(test_tasks), given)

    def test_set(self, project_id: int) -> set[int]:
        """Return the tasks of the test set; none before it is drawn."""
        with self._database.read() as connection:
            return set(connection.scalars(select(test_tasks.c.task_id).where(test_tasks.c.project_id == project_id)))

    def set_content(
        self, project_id: int, hashes: Mapping[int, str], *, references: Mapping[int, str] | None = None
    ) -> None:
        """Record which image content tasks have; an earlier image error is over.

        Args:
            project_id: Project they belong to.
            hashes: Task id -> SHA-256 of the image bytes.
            references: Task id -> image reference the bytes were read from. A task that shows another image by now
                stays unread.
        """
        references = references or {}
        rows = [{"task": key, "hash": value, "reference": references.get(key)} for key, value in hashes.items()]
        reference = bindparam("reference", type_=tasks.c.image.type)
        still = or_(reference.is_(None), tasks.c.image == reference)
        statement = _one_task(project_id).where(still)
        with self._database.write() as connection:
            if rows:
                connection.execute(
                    statement.values(content_hash=bindparam("hash"), image_error=null(), image_error_at=null()), rows
                )

    def set_image_error(self, project_id: int, task_id: int, message: str | None) -> None:
        """Record why the image of a task could not be read, to be tried again later; None forgets it: try now."""
        with self._database.write() as connection:
            connection.execute(
                update(tasks)
                .where(tasks.c.project_id == project_id, tasks.c.task_id == task_id)
                .values(image_error=message, image_error_at=None if message is None else _now())
            )

    def unread(self, project_id: int, limit: int, *, retry_s: float = 3600.0) -> list[TaskRow]:
        """Return tasks whose image is still to be read, never tried ones first.

        Args:
            project_id: Project they belong to.
            limit: At most so many.
            retry_s: Seconds before an image that failed is tried again.
        """
        due = or_(tasks.c.image_error_at.is_(None), tasks.c.image_error_at < _now() - timedelta(seconds=retry_s))
        waiting = select(*_ROW).where(tasks.c.project_id == project_id, tasks.c.content_hash.is_(None), due)
        order = (tasks.c.image_error_at.is_not(None), tasks.c.image_error_at, tasks.c.task_id)
        with self._database.read() as connection:
            return [TaskRow(*row) for row in connection.execute(waiting.order_by(*order).limit(limit))]

    def failed_again(self, project_id: int, *, retry_s: float = 3600.0) -> set[int]:
        """Return tasks whose image was read once and could not be read a second time, while it is not tried again.

        Args:
            project_id: Project they belong to.
            retry_s: Seconds before an image that failed is tried again.
        """
        lately = tasks.c.image_error_at >= _now() - timedelta(seconds=retry_s)
        mine = (tasks.c.project_id == project_id, tasks.c.content_hash.is_not(None))
        with self._database.read() as connection:
            return set(connection.scalars(select(tasks.c.task_id).where(*mine, lately)))

    def unreadable(self, project_id: int, limit: int) -> list[TaskRow]:
        """Return tasks whose image could not be read, latest failure first."""
        failed = select(*_ROW).where(tasks.c.project_id == project_id, tasks.c.image_error_at.is_not(None))
        with self._database.read() as connection:
            rows = connection.execute(failed.order_by(tasks.c.image_error_at.desc(), tasks.c.task_id).limit(limit))
            return [TaskRow(*row) for row in rows]

    def rows(self, project_id: int) -> TaskTable:
        """Return every task of a project as columns, by task id."""
        statement = select(
            tasks.c.task_id,
            tasks.c.label,
            tasks.c.holdout,
            tasks.c.content_hash,
            tasks.c.total_annotations,
            tasks.c.cancelled_annotations,
            tasks.c.is_labeled,
        ).where(tasks.c.project_id == project_id)
        columns: tuple[list[Any], ...] = tuple([] for _ in fields(TaskTable))
        with self._database.read() as connection:
            for some in connection.execute(statement.order_by(tasks.c.task_id)).partitions(_ROWS_AT_ONCE):
                for column, values in zip(columns, zip(*some, strict=True), strict=True):
                    column.extend(values)
        return TaskTable(
            task_id=np.array(columns[0], dtype=np.int64),
            label=_objects(columns[1]),
            holdout=np.array(columns[2], dtype=np.bool_),
            content_hash=_objects(columns[3]),
            n_annotations=np.array(columns[4], dtype=np.int64),
            n_cancelled=np.array(columns[5], dtype=np.int64),
            is_labeled=np.array(columns[6], dtype=np.bool_),
        )

    def labelled(self, project_id: int) -> list[LabelledTask]:
        """Return the labelled tasks in the order in which they got their first annotation."""
        first = func.min(task_annotations.c.annotation_id)
        statement = (
            select(tasks.c.task_id, tasks.c.label, tasks.c.holdout)
            .join(
                task_annotations,
                and_(
                    task_annotations.c.project_id == tasks.c.project_id,
                    task_annotations.c.task_id == tasks.c.task_id,
                    ~task_annotations.c.was_cancelled,
                ),
            )
            .where(tasks.c.project_id == project_id, tasks.c.label.is_not(None))
            .group_by(tasks.c.task_id, tasks.c.label, tasks.c.holdout)
            .order_by(first)
        )
        with self._database.read() as connection:
            return [LabelledTask(*row) for row in connection.execute(statement)]

    def images(self, project_id: int, task_ids: Iterable[int]) -> list[TaskRow]:
        """Return the state of the images of some tasks; unknown ids are left out."""
        found: list[TaskRow] = []
        with self._database.read() as connection:
            for batch in chunks(task_ids):
                some = select(*_ROW).where(tasks.c.project_id == project_id, tasks.c.task_id.in_(batch))
                found += [TaskRow(*row) for row in connection.execute(some)]
        return found

    def forget_content(self, project_id: int, task_ids: Iterable[int]) -> None:
        """Make images unread again, because their embeddings are missing."""
        with self._database.write() as connection:
            for batch in chunks(task_ids):
                connection.execute(
                    update(tasks)
                    .where(tasks.c.project_id == project_id, tasks.c.task_id.in_(batch))
                    .values(content_hash=null(), image_error=null(), image_error_at=null())
                )

    def available(self, project_id: int, *, with_skipped: bool = False) -> set[int]:
        """Return the tasks nobody has labelled or skipped yet; those skipped, too, which Label Studio serves on."""
        statement = select(tasks.c.task_id).where(
            tasks.c.project_id == project_id, ~tasks.c.is_labeled, tasks.c.total_annotations == 0
        )
        if not with_skipped:
            statement = statement.where(tasks.c.cancelled_annotations == 0)
        with self._database.read() as connection:
            return set(connection.scalars(statement))

    def answers_since(self, project_id: int, since: datetime) -> list[Answer]:
        """Return the annotations, skipped ones included, made or changed since a moment, in the order of making."""
        table = task_annotations.c
        by = func.coalesce(table.completed_by, 0)
        statement = select(table.task_id, by, table.created_at, table.updated_at, table.was_cancelled)
        statement = statement.where(table.project_id == project_id, table.updated_at >= since)
        with self._database.read() as connection:
            return [Answer(*row) for row in connection.execute(statement.order_by(table.created_at))]

    def latest_answers(self, project_id: int, since: datetime) -> dict[int, datetime]:
        """Return when each annotator who answered a task since a moment did so last; changes do not count."""
        by = func.coalesce(task_annotations.c.completed_by, 0)
        latest = func.max(task_annotations.c.created_at)
        mine = (task_annotations.c.project_id == project_id, task_annotations.c.created_at >= since)
        with self._database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(select(by, latest).where(*mine).group_by(by))}

    def annotations(self, project_id: int, task_ids: Iterable[int] | None = None) -> dict[int, tuple[Annotation, ...]]:
        """Return the annotations of tasks, cancelled ones included, in the order they were made.

        Args:
            project_id: Project they belong to.
            task_ids: Tasks to look at; None for all. A task without annotations is not in the answer.
        """
        statement = select(*_ANNOTATION).where(task_annotations.c.project_id == project_id)
        statement = statement.order_by(
            task_annotations.c.task_id, task_annotations.c.created_at, task_annotations.c.annotation_id
        )
        wanted = [None] if task_ids is None else list(chunks(task_ids))
        grouped: dict[int, list[Annotation]] = {}
        with self._database.read() as connection:
            for batch in wanted:
                part = statement if batch is None else statement.where(task_annotations.c.task_id.in_(batch))
                for row in connection.execute(part).mappings():
                    one = Annotation(**{**row, "result": tuple(row["result"])})
                    grouped.setdefault(one.task_id, []).append(one)
        return {task_id: tuple(found) for task_id, found in grouped.items()}

    def data(self, project_id: int, task_ids: Iterable[int]) -> dict[int, dict[str, Any]]:
        """Return the task data of the given tasks; unknown ids are left out."""
        found: dict[int, dict[str, Any]] = {}
        with self._database.read() as connection:
            for batch in chunks(task_ids):
                statement = select(tasks.c.task_id, tasks.c.data).where(
                    tasks.c.project_id == project_id, tasks.c.task_id.in_(batch)
                )
                found.update((row.task_id, row.data) for row in connection.execute(statement))
        return found

    def texts(self, project_id: int, name: str) -> dict[int, str]:
        """Return a field of the task data, as text, of every task that has it; the lowest task id first."""
        value = tasks.c.data[name].as_string()
        statement = select(tasks.c.task_id, value).where(tasks.c.project_id == project_id, value.is_not(None))
        with self._database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(statement.order_by(tasks.c.task_id))}

    def set_text(self, project_id: int, task_id: int, name: str, text: str | None) -> None:
        """Note that a field of the task data was changed in Label Studio by us; None takes the field out."""
        mine = (tasks.c.project_id == project_id, tasks.c.task_id == task_id)
        with self._database.write() as connection:
            data = connection.scalar(select(tasks.c.data).where(*mine).with_for_update())
            if data is None:
                return  # deleted meanwhile
            rest = {key: value for key, value in data.items() if key != name}
            changed = rest if text is None else {**rest, name: text}
            connection.execute(update(tasks).where(*mine).values(data=changed))

    def columns(
        self, project_id: int, task_ids: Sequence[int], names: Iterable[str]
    ) -> dict[str, npt.NDArray[np.object_]]:
        """Return fields of the task data, each as (n,) values in the order of the ids; None where a task lacks it."""
        names = list(names)
        data = self.data(project_id, task_ids) if names else {}
        found: dict[str, npt.NDArray[np.object_]] = {}
        for name in names:
            found[name] = np.empty(len(task_ids), dtype=object)
            found[name][:] = [data.get(task_id, {}).get(name) for task_id in task_ids]
        return found

    def answered(self, project_id: int, since: datetime | None = None) -> tuple[int, datetime | None]:
        """Count the tasks with an annotation that was not cancelled, made or changed after a moment; None counts all.

        Returns:
            How many, and when the newest of those annotations was made or changed; None without one.
        """
        table = task_annotations.c
        mine = [table.project_id == project_id, ~table.was_cancelled]
        if since is not None:
            mine.append(table.updated_at > since)
        with self._database.read() as connection:
            number, newest = connection.execute(
                select(func.count(distinct(table.task_id)), func.max(table.updated_at)).where(*mine)
            ).one()
            return number, newest

    def annotators(self, project_id: int, since: datetime) -> int:
        """Count the people who submitted, changed or skipped something since a moment."""
        return self._count(
            func.count(distinct(task_annotations.c.completed_by)), project_id, task_annotations.c.updated_at >= since
        )

    def labels_since(self, project_id: int, since: datetime) -> int:
        """Count the annotations submitted since a moment, skipped ones not included."""
        return self._count(
            func.count(), project_id, and_(task_annotations.c.created_at >= since, ~task_annotations.c.was_cancelled)
        )

    def _count(self, what: ColumnElement[int], project_id: int, condition: ColumnElement[bool]) -> int:
        mine = task_annotations.c.project_id == project_id
        with self._database.read() as connection:
            number: int = connection.execute(select(what).where(mine, condition)).scalar_one()
            return number


def _updated_at(connection: Connection, project_id: int, task_ids: list[int]) -> dict[int, datetime]:
    statement = select(tasks.c.task_id, tasks.c.updated_at).where(
        tasks.c.project_id == project_id, tasks.c.task_id.in_(task_ids)
    )
    return {row.task_id: row.updated_at for row in connection.execute(statement.with_for_update())}


def _is_older(task: Task, stored: Mapping[int, datetime]) -> bool:
    known = stored.get(task.task_id)
    return known is not None and task.updated_at < known


def _write_tasks(connection: Connection, project_id: int, given: list[Task], image_field: str) -> None:
    if not given:
        return
    statement = upsert(connection, tasks)
    new = statement.excluded
    same_image = new.image.is_not_distinct_from(tasks.c.image)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["project_id", "task_id"],
            set_={
                "updated_at": new.updated_at,
                "is_labeled": new.is_labeled,
                "total_annotations": new.total_annotations,
                "cancelled_annotations": new.cancelled_annotations,
                "image": new.image,
                "data": new.data,
                "content_hash": case((same_image, tasks.c.content_hash), else_=null()),
                "image_error": case((same_image, tasks.c.image_error), else_=null()),
                "image_error_at": case((same_image, tasks.c.image_error_at), else_=null()),
            },
        ),
        [
            {
                "project_id": project_id,
                "task_id": task.task_id,
                "updated_at": task.updated_at,
                "is_labeled": task.is_labeled,
                "total_annotations": task.total_annotations,
                "cancelled_annotations": task.cancelled_annotations,
                "image": _reference(task, image_field),
                "data": task.data,
            }
            for task in given
        ],
    )


def _reference(task: Task, image_field: str) -> str | None:
    value = task.data.get(image_field)
    return None if value is None or value == "" else str(value)


def _write_annotations(connection: Connection, project_id: int, given: list[Task]) -> None:
    """Replace the annotations of tasks as a set."""
    task_ids = [task.task_id for task in given]
    connection.execute(
        delete(task_annotations).where(
            task_annotations.c.project_id == project_id, task_annotations.c.task_id.in_(task_ids)
        )
    )
    replace_rows(
        connection,
        task_annotations,
        [
            {
                "project_id": project_id,
                "annotation_id": one.annotation_id,
                "task_id": task.task_id,
                "was_cancelled": one.was_cancelled,
                "ground_truth": one.ground_truth,
                "completed_by": one.completed_by,
                "created_at": one.created_at,
                "updated_at": one.updated_at,
                "result": list(one.result),
            }
            for task in given
            for one in task.annotations or ()
        ],
    )


def _one_task(project_id: int) -> Any:  # noqa: ANN401 - SQLAlchemy's Update has no public generic form
    return update(tasks).where(
        tasks.c.project_id == project_id, tasks.c.task_id == bindparam("task", type_=tasks.c.task_id.type)
    )


def _objects(values: list[Any]) -> npt.NDArray[np.object_]:
    column = np.empty(len(values), dtype=np.object_)
    column[:] = values
    return column


def _now() -> datetime:
    return datetime.now(UTC)
