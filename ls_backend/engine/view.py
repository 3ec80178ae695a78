"""A project's tasks as arrays: what is labelled, what may be ranked, what somebody has open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ls_backend.domain import LabelSchema
from ls_backend.engine import test_set
from ls_backend.engine.context import Context, Features
from ls_backend.engine.held import promised
from ls_backend.engine.retrain import Labelled, Model, digest_of
from ls_backend.store import Project, TaskTable

if TYPE_CHECKING:
    from ls_backend.vision.features import Standardiser


@dataclass(frozen=True)
class View:
    """A project's tasks as arrays.

    Attributes:
        table: Every task.
        embedded: (n,) indices into the table that have an embedding.
        source: Their features.
        standardiser: What made those from the raw embeddings.
        labelled: Those with a usable label.
        pool: (p,) indices into `embedded` of tasks that may be ranked.
        held: (h,) indices into `embedded` of tasks annotators have open now, in the order of the queue.
        test_set: Task ids of the test set that have no label yet, in the order to label them.
        spare: Task ids to serve when the pool runs out: not embedded yet, then skipped ones.
    """

    table: TaskTable
    embedded: NDArray[np.int64]
    source: Features
    standardiser: Standardiser
    labelled: Labelled
    pool: NDArray[np.int64]
    held: NDArray[np.int64]
    test_set: list[int]
    spare: list[int]

    @property
    def features(self) -> NDArray[np.float32]:
        """Features (n, d) of the embedded tasks, standardised."""
        return self.source.values

    def task_ids(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ids of some embedded tasks."""
        return self.table.task_id[self.embedded[rows]]

    def hashes(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the content hashes of some embedded tasks."""
        found: list[str] = self.table.content_hash[self.embedded[rows]].tolist()
        return found


def view(
    context: Context, project: Project, schema: LabelSchema, backbone: str, *, read_again: bool = True
) -> View | None:
    """Lay a project out as arrays; None while no task has an embedding.

    Args:
        context: Store and embeddings.
        project: Which project.
        schema: What is learned.
        backbone: Network whose embeddings are looked at.
        read_again: Whether images that have lost their embedding are to be read again.
    """
    settings = context.project_settings(project)
    table = context.store.tasks.rows(project.id)
    has_content = np.fromiter((value is not None for value in table.content_hash), dtype=bool, count=len(table.task_id))
    read = np.flatnonzero(has_content)
    features = context.features(project.id, backbone, table.content_hash[read].tolist())
    if read_again and not features.found.all():
        # A lost vector store, or images that had gone when this backbone took over.
        context.store.tasks.forget_content(project.id, table.task_id[read[~features.found]].tolist())
    embedded = read[features.found]
    if features.standardiser is None:
        return None
    has = np.zeros(len(table.task_id), dtype=bool)
    has[embedded] = True
    locked = np.array(sorted(test_set.members(context, project)), dtype=np.int64)
    to_measure = np.isin(table.task_id, locked)
    untouched = (table.n_annotations == 0) & ~table.is_labeled
    fresh = untouched & (table.n_cancelled == 0)
    skipped = untouched & (table.n_cancelled > 0)
    ranked = fresh & ~to_measure
    waiting = np.flatnonzero(ranked[embedded])
    waiting_ids = table.task_id[embedded[waiting]].tolist()
    place = {task_id: row for row, task_id in zip(waiting.tolist(), waiting_ids, strict=True)}
    held = [place[task_id] for task_id in promised(context, project.id) if task_id in place]
    return View(
        table=table,
        embedded=embedded,
        source=features,
        standardiser=features.standardiser,
        labelled=_labelled(schema, table, backbone, embedded, features, locked),
        pool=waiting[~np.isin(waiting, held)],
        held=np.array(held, dtype=np.int64),
        test_set=test_set.in_turn(table.task_id[fresh & to_measure].tolist(), settings.seed),
        spare=[*table.task_id[ranked & ~has].tolist(), *table.task_id[skipped].tolist()],
    )


def _labelled(
    schema: LabelSchema,
    table: TaskTable,
    backbone: str,
    embedded: NDArray[np.int64],
    features: Features,
    locked: NDArray[np.int64],
) -> Labelled:
    """Pick the tasks with a usable label, and say which of them are for measuring."""
    targets = targets_of(schema, table.label[embedded].tolist())
    rows = np.flatnonzero((targets >= 0).any(axis=1))
    task_ids = table.task_id[embedded[rows]]
    in_test_set = np.isin(task_ids, locked)
    return Labelled(
        task_ids=task_ids,
        rows=rows,
        targets=targets[rows],
        holdout=in_test_set if len(locked) else table.holdout[embedded[rows]],
        features=features.values[rows],
        hashes=table.content_hash[embedded[rows]].tolist(),
        digest=digest_of(
            task_ids, table.label[embedded[rows]].tolist(), task_ids[in_test_set] if len(locked) else None
        ),
        backbone=backbone,
        locked=len(locked) > 0,
    )


def targets_of(schema: LabelSchema, labels: Sequence[str | None]) -> NDArray[np.int8]:
    """Read what tasks were answered, as `LabelSchema.written` wrote it.

    Returns:
        (n, c) int8: 1 the label holds, 0 it does not, -1 its control was not answered.
    """
    targets = np.full((len(labels), len(schema.classes)), -1, np.int8)
    if schema.is_one_choice:
        index = {label: i for i, label in enumerate(schema.classes)}
        classes = np.fromiter((index.get(label or "", -1) for label in labels), dtype=np.int64, count=len(labels))
        known = np.flatnonzero(classes >= 0)
        targets[known] = 0
        targets[known, classes[known]] = 1
        return targets
    for row in (i for i, label in enumerate(labels) if label is not None):
        answers = schema.read(labels[row] or "")
        for control, columns in schema.spans:
            if control.name in answers:
                targets[row, columns] = [label in answers[control.name] for label in control.classes]
    return targets


def as_fitted(
    context: Context, seen: View, model: Model, rows: NDArray[np.int64], features: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return features of embedded tasks as the head was fitted: an older model has standardised them in its own way."""
    if model.standardiser.equals(seen.standardiser):
        return features
    return model.standardiser.apply(context.raw_embeddings(model.version.backbone, seen.hashes(rows)))
