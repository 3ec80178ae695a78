"""What deep versions, or a foreign model, have seen in tasks, as arrays for a ranking: doubts, and looks of regions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ls_backend.domain import LabelSchema
from ls_backend.engine import foreign_model
from ls_backend.engine.context import Context
from ls_backend.store import InferenceTable, Project
from ls_backend.strategies import unit_rows


@dataclass(frozen=True)
class Sights:
    """What the versions in force have seen; rows of earlier versions say what they doubted, too.

    Attributes:
        tables: By control, or for the foreign model, where anything was seen.
        versions: Version in force, likewise.
        questions: Questions of the label config that this answers.
    """

    tables: Mapping[str, InferenceTable]
    versions: Mapping[str, str]
    questions: Mapping[str, frozenset[int]]

    def doubts(self, task_ids: NDArray[np.int64]) -> dict[str, Any]:
        """Return what versions doubt about tasks (p,), NaN where none has looked yet, and the questions this settles.

        A version that knows no doubt about any of the tasks settles nothing: the doubts of our heads order them.

        Returns:
            The fields "doubts" (p, q) and "settled" of a `strategies.Pool`; nothing where nothing was seen.
        """
        columns: list[NDArray[np.float32]] = []
        settled: frozenset[int] = frozenset()
        for name, table in self.tables.items():
            place, known = _places(table, task_ids)
            column = np.where(known, table.uncertainty[place], np.float32(np.nan))
            if not np.isnan(column).all():
                columns.append(column)
                settled |= self.questions[name]
        return {"doubts": np.column_stack(columns), "settled": settled} if columns else {}

    def beside(self, features: NDArray[np.float32], task_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Put what the regions of tasks look like beside the image as a whole, each of them counting the same.

        Two images of one place are alike, and so are two images of one kind of defect in different places. A task that
        the version in force has not looked at goes by its image alone.

        Args:
            features: (p, d) float32 of the images, rows of unit length.
            task_ids: (p,) whose images these are.

        Returns:
            (p, d + regions) float32, rows of unit length; the features themselves where no version is in force.
        """
        parts = [features]
        for name, table in self.tables.items():
            place, known = _places(table, task_ids)
            known &= table.version_id[place] == self.versions.get(name)
            parts.append(np.where(known[:, None], table.embedding[place], np.float32(0)))
        return features if len(parts) == 1 else unit_rows(np.concatenate(parts, axis=1))


def sights(context: Context, project: Project, schema: LabelSchema) -> Sights:
    """Read what deep versions, or the foreign model in their place, have seen in the tasks of a project."""
    path = foreign_model.named(project)
    if path is not None:
        said = foreign_model.seen(context.store, project, schema)
        return Sights({}, {}, {}) if said is None else Sights({path: said[0]}, {}, {path: said[1]})
    tables: dict[str, InferenceTable] = {}
    versions: dict[str, str] = {}
    questions: dict[str, frozenset[int]] = {}
    for control, span in schema.spans:
        table = context.store.inferences.of(project.id, control.name) if control.draws else None
        if table is not None and len(table.task_id):
            tables[control.name] = table
            questions[control.name] = frozenset(schema.questions[span])
            version = context.store.deep_versions.in_force(project.id, control.name)
            versions |= {control.name: version.version_id} if version else {}
    return Sights(tables, versions, questions)


def _places(table: InferenceTable, task_ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the row of each task, and whether it has one."""
    place = np.clip(np.searchsorted(table.task_id, task_ids), 0, len(table.task_id) - 1)
    return place, table.task_id[place] == task_ids
