"""Deep versions, immutable but for their state, and what they see in the tasks of the pool."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sqlalchemy import ColumnElement, RowMapping, and_, delete, func, insert, select, update

from ls_backend.errors import StoreError
from ls_backend.store.database import Database, chunks, replace_rows
from ls_backend.store.schema import deep_versions, inferences

DeepState = Literal["promoted", "rejected", "retired"]


@dataclass(frozen=True, slots=True)
class DeepVersion:
    """A model of the deep tier for one control.

    Attributes:
        version_id: "deep-<number>-<hash8>".
        control: Name of the control tag.
        kind: Type of its results, as in the label config's control.
        number: Counts the deep versions of the project, from 1.
        backbone: Network it is built on.
        classes: Labels of the control, in index order.
        n_labels: Annotated tasks it was trained for; every one was used, to learn or to measure.
        labels_digest: SHA-256 over them and their regions.
        metrics: Quality on tasks it has not learnt from, by name.
        state: "promoted", "rejected" by the gate, or "retired".
        reason: Why the gate refused it; None otherwise.
    """

    version_id: str
    project_id: int
    control: str
    kind: str
    number: int
    backbone: str
    classes: tuple[str, ...]
    n_labels: int
    labels_digest: str
    metrics: dict[str, float]
    state: str
    created_at: datetime
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class Inference:
    """What a deep version sees in one task.

    Attributes:
        uncertainty: 0 to 1, of the whole task; NaN where the model does not say.
        presence: (c,) float32, probability that the class is there; NaN where the model gave no answer.
        embedding: (d,) float32 of unit length, of the regions that were found; kept at half precision. Of length 0
            where the model makes none.
        scores: One number for each region of the result: what it contributes to the uncertainty; NaN where unknown.
        result: Regions in Label Studio's format.
    """

    task_id: int
    version_id: str
    uncertainty: float
    presence: npt.NDArray[np.float32]
    embedding: npt.NDArray[np.float32]
    scores: tuple[float, ...]
    result: tuple[dict[str, Any], ...]

    @property
    def is_answer(self) -> bool:
        """Whether the model has answered; what it failed on is recorded, too, so that it is not asked again."""
        return not np.isnan(self.presence).any()


@dataclass(frozen=True, eq=False)
class InferenceTable:
    """What deep versions see in the tasks of a control, as columns of equal length n, by task id.

    Attributes:
        task_id: (n,) int64.
        version_id: (n,) object, the version that judged the task.
        uncertainty: (n,) float32, NaN where unknown.
        presence: (n, c) float32, NaN where there is no answer.
        embedding: (n, d) float32.
    """

    task_id: npt.NDArray[np.int64]
    version_id: npt.NDArray[np.object_]
    uncertainty: npt.NDArray[np.float32]
    presence: npt.NDArray[np.float32]
    embedding: npt.NDArray[np.float32]


_VERSION = tuple(deep_versions.c[item.name] for item in fields(DeepVersion))
_INFERENCE = tuple(inferences.c[item.name] for item in fields(Inference))


class DeepVersions:
    """Records of deep versions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, version: DeepVersion) -> None:
        """Record a new version.

        Raises:
            StoreError: The project is not known, has a version of that id already, or the state is none of ours.
        """
        with self._database.write() as connection:
            connection.execute(insert(deep_versions).values(**{**asdict(version), "classes": list(version.classes)}))

    def next_number(self, project_id: int) -> int:
        """Number a new version, from 1; only one that is added takes its number."""
        highest = select(func.coalesce(func.max(deep_versions.c.number), 0))
        with self._database.read() as connection:
            return int(connection.scalar(highest.where(deep_versions.c.project_id == project_id)) or 0) + 1

    def get(self, project_id: int, version_id: str) -> DeepVersion | None:
        """Return one version, None when there is none of that id."""
        found = self._select(project_id, deep_versions.c.version_id == version_id)
        return found[0] if found else None

    def list(self, project_id: int, control: str | None = None, limit: int | None = None) -> list[DeepVersion]:
        """Return the versions of a project, or of one control, newest first; all of them, or the newest so many."""
        mine = [] if control is None else [deep_versions.c.control == control]
        return [*self._select(project_id, *mine, limit=limit)]

    def in_force(self, project_id: int, control: str) -> DeepVersion | None:
        """Return the version that judges: the newest promoted one; None before the first."""
        mine = (deep_versions.c.control == control, deep_versions.c.state == "promoted")
        found = self._select(project_id, *mine, limit=1)
        return found[0] if found else None

    def set_state(self, project_id: int, version_id: str, state: DeepState) -> None:
        """Promote, reject or retire a version.

        Raises:
            StoreError: There is no such version, or the state is none of ours.
        """
        mine = and_(deep_versions.c.project_id == project_id, deep_versions.c.version_id == version_id)
        with self._database.write() as connection:
            if connection.execute(update(deep_versions).where(mine).values(state=state)).rowcount == 0:
                raise StoreError(f"Project {project_id} has no deep version {version_id}.", project_id=project_id)

    def _select(
        self, project_id: int, *conditions: ColumnElement[bool], limit: int | None = None
    ) -> Sequence[DeepVersion]:
        statement = select(*_VERSION).where(deep_versions.c.project_id == project_id, *conditions)
        order = (deep_versions.c.number.desc(), deep_versions.c.created_at.desc())
        with self._database.read() as connection:
            rows = connection.execute(statement.order_by(*order).limit(limit)).mappings()
            return [DeepVersion(**{**row, "classes": tuple(row["classes"])}) for row in rows]


class Inferences:
    """Records of what deep versions see. A task has one row for each control; a newer version replaces it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, project_id: int, control: str, given: Iterable[Inference]) -> None:
        """Store what a version saw; it replaces what an earlier one saw in the same tasks.

        Raises:
            StoreError: The project is not known.
        """
        rows = [
            {
                "project_id": project_id,
                "control": control,
                "task_id": one.task_id,
                "version_id": one.version_id,
                "uncertainty": None if np.isnan(one.uncertainty) else float(one.uncertainty),
                "presence": [float(value) for value in one.presence],
                "embedding": np.asarray(one.embedding, dtype=np.float16).tobytes(),
                "scores": [float(value) for value in one.scores],
                "result": list(one.result),
            }
            for one in given
        ]
        with self._database.write() as connection:
            replace_rows(connection, inferences, rows)

    def of(self, project_id: int, control: str) -> InferenceTable:
        """Return what is known of the tasks of a control as columns, by task id.

        All rows have the classes of the version in force: see `forget`.
        """
        columns = ("task_id", "version_id", "uncertainty", "presence", "embedding")
        statement = select(*(inferences.c[name] for name in columns)).where(_of(project_id, control))
        with self._database.read() as connection:
            rows = connection.execute(statement.order_by(inferences.c.task_id)).all()
        n = len(rows)
        versions = np.empty(n, dtype=object)
        versions[:] = [row.version_id for row in rows]
        return InferenceTable(
            task_id=np.array([row.task_id for row in rows], dtype=np.int64),
            version_id=versions,
            uncertainty=np.array([row.uncertainty for row in rows], dtype=np.float32),
            presence=np.array([row.presence for row in rows], dtype=np.float32).reshape(n, -1 if n else 0),
            embedding=np.array([_vector(row.embedding) for row in rows], dtype=np.float32).reshape(n, -1 if n else 0),
        )

    def results(self, project_id: int, control: str, task_ids: Iterable[int]) -> dict[int, Inference]:
        """Return everything that is known of some tasks; those that were never judged are left out."""
        found: dict[int, Inference] = {}
        with self._database.read() as connection:
            for batch in chunks(task_ids):
                some = select(*_INFERENCE).where(_of(project_id, control), inferences.c.task_id.in_(batch))
                found.update((row["task_id"], _inference(row)) for row in connection.execute(some).mappings())
        return found

    def judged_by(self, project_id: int, control: str, version_id: str) -> set[int]:
        """Return the tasks whose row is of a version."""
        statement = select(inferences.c.task_id).where(_of(project_id, control), inferences.c.version_id == version_id)
        with self._database.read() as connection:
            return set(connection.scalars(statement))

    def controls(self, project_id: int) -> list[str]:
        """Return the names of which anything is known."""
        mine = select(inferences.c.control).where(inferences.c.project_id == project_id).distinct()
        with self._database.read() as connection:
            return list(connection.scalars(mine.order_by(inferences.c.control)))

    def forget(self, project_id: int, control: str) -> None:
        """Delete what is known of a control, because its classes are others now or nobody asks for it."""
        with self._database.write() as connection:
            connection.execute(delete(inferences).where(_of(project_id, control)))


def _of(project_id: int, control: str) -> ColumnElement[bool]:
    return and_(inferences.c.project_id == project_id, inferences.c.control == control)


def _number(stored: float | None) -> float:
    return float("nan") if stored is None else stored


def _vector(stored: bytes) -> npt.NDArray[np.float32]:
    return np.frombuffer(stored, dtype=np.float16).astype(np.float32)


def _inference(row: RowMapping) -> Inference:
    return Inference(
        task_id=row["task_id"],
        version_id=row["version_id"],
        uncertainty=_number(row["uncertainty"]),
        presence=np.array(row["presence"], dtype=np.float32),
        embedding=_vector(row["embedding"]),
        scores=tuple(_number(score) for score in row["scores"]),
        result=tuple(row["result"]),
    )
