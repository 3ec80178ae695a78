"""What people can see of a project's embeddings and heads: made now and then in a worker, kept in the records.

    map          where the tasks lie: the labelled, the next and a sample of the rest, in two dimensions
    uncertainty  how unsure the model is about the pool
    calibration  how often it is right when it says that it is sure
    basis        what all of it was made from

A kind that cannot be had, for want of embeddings or of a model, is left out. Everything is made from 2,000 tasks at
most: an exact answer would read every embedding of the project.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ls_backend import logs
from ls_backend.domain import LabelSchema, ModelVersion
from ls_backend.engine import backbones, test_set
from ls_backend.engine.context import Context
from ls_backend.engine.progress import answers
from ls_backend.engine.retrain import Model, serving_model
from ls_backend.engine.sights import sights
from ls_backend.errors import ConfigUnsupported
from ls_backend.labelstudio import label_config
from ls_backend.store import Project, Store, TaskTable
from ls_backend.strategies import Pool, fit_reduction
from ls_backend.strategies.questions import any_doubts, doubt
from ls_backend.strategies.uncertainty import margin

if TYPE_CHECKING:
    from ls_backend.vision.features import Standardiser

log = logs.get(__name__)

POINTS = 2_000
"""Tasks looked at, of a project of any size."""

LABELLED_POINTS = 700
"""Labelled tasks among them at most."""

NEXT_POINTS = 800
"""Tasks of the window in force among them at most; few windows are that long."""

BINS = 20
"""Of the histogram of uncertainties."""

KINDS = ("map", "uncertainty", "calibration")
BASIS = "basis"

LABELLED, NEXT, REST = "labelled", "next", "rest"
_DIGITS = 4  # of a coordinate: a ten-thousandth of the picture


@dataclass(frozen=True, eq=False)
class Chosen:
    """The tasks that are looked at.

    Attributes:
        rows: (n,) int64 rows of the task table.
        states: (n,) object, "labelled", "next" or "rest".
        in_pool: (n,) bool, which of them may be ranked: neither labelled nor skipped nor of the test set.
        drawn: (n,) bool, which of them were drawn by lot from all that are neither labelled nor shown as next.
        n_behind: Tasks of the pool that the drawn ones in it stand for.
    """

    rows: NDArray[np.int64]
    states: NDArray[np.object_]
    in_pool: NDArray[np.bool_]
    drawn: NDArray[np.bool_]
    n_behind: int

    def only(self, kept: NDArray[np.int64]) -> Chosen:
        """Return some of them."""
        return Chosen(self.rows[kept], self.states[kept], self.in_pool[kept], self.drawn[kept], self.n_behind)


def due(store: Store, project_id: int) -> bool:
    """Say whether labels, window or model have changed since the insights were made, or they never were."""
    project = store.projects.get(project_id)
    if project is None:
        return False
    found = store.insights.get(project_id, BASIS)
    if found is None or found.content.get("window") != project.window_version:
        return True
    return found.content != _basis(store, project)


def find_out(context: Context, project_id: int) -> list[str]:
    """Make all insights into a project anew.

    Returns:
        The kinds that could be made; the others are deleted, because what they said is no longer true.

    Raises:
        SettingsError: The project is not connected, or its backbone cannot be had.
        StoreError: Records or embeddings cannot be read.
    """
    project = context.project(project_id)
    basis = _basis(context.store, project)
    made = _made(context, project)
    for kind in KINDS:
        if kind in made:
            context.store.insights.put(project_id, kind, made[kind])
        else:
            context.store.insights.drop(project_id, kind)
    context.store.insights.put(project_id, BASIS, basis)
    log.info("insights", project=project_id, kinds=sorted(made))
    return sorted(made)


def _basis(store: Store, project: Project) -> dict[str, Any]:
    version = store.versions.in_force(project.id)
    return {
        "labels": store.tasks.counts(project.id).labelled,
        "window": project.window_version,
        "model_version": None if version is None else version.version_id,
    }


def _made(context: Context, project: Project) -> dict[str, dict[str, Any]]:
    try:
        schema = label_config.parse(project.label_config or "")
    except ConfigUnsupported:
        return {}
    made: dict[str, dict[str, Any]] = {}
    model = serving_model(context, project.id)
    if model is not None and model.version.answers(schema):
        made |= _calibration(model.version)
    else:
        model = None
    table = context.store.tasks.rows(project.id)
    chosen = choose(context, project, table)
    backbone = backbones.in_force(context, project)
    hashes = table.content_hash[chosen.rows].tolist()
    loaded = context.load_vectors(backbone, hashes)
    if not loaded.found.any():
        return made
    known = np.flatnonzero(loaded.found)
    chosen = chosen.only(known)
    if model is not None and model.version.backbone != backbone:
        model = None  # its backbone is lost, so it cannot judge what another one has embedded
    features = _standardiser(model, loaded.vectors[known]).apply(loaded.vectors[known])
    made["map"] = _map(schema, table, chosen, features)
    return made | _uncertainty(context, project, schema, table, chosen, features, model)


def choose(context: Context, project: Project, table: TaskTable) -> Chosen:
    """Choose the tasks to look at: the window in force, of the labelled ones a sample, and of the rest.

    Who is drawn is decided by a lot for each task that the project's seed makes and that never changes, so that from
    one look to the next most points stay.
    """
    seed = context.project_settings(project).seed
    window = context.store.windows.in_force(project.id)
    locked = np.isin(table.task_id, list(test_set.members(context, project)))
    read = np.fromiter((value is not None for value in table.content_hash), np.bool_, len(table.task_id))
    has_label = np.fromiter((value is not None for value in table.label), np.bool_, len(table.task_id))
    untouched = read & (table.n_annotations == 0) & ~table.is_labeled & ~has_label
    place = {task_id: row for row, task_id in enumerate(table.task_id.tolist())}

    def rows_of(task_ids: Iterable[int]) -> list[int]:
        return [place[task_id] for task_id in task_ids]

    ahead = [] if window is None else [task_id for task_id in window.task_ids if task_id in place]
    coming = [row for row in rows_of(ahead) if untouched[row]][:NEXT_POINTS]
    labelled = rows_of(test_set.in_turn(table.task_id[read & has_label].tolist(), seed)[:LABELLED_POINTS])
    others = untouched.copy()
    others[coming] = False
    drawn = rows_of(test_set.in_turn(table.task_id[others].tolist(), seed)[: POINTS - len(coming) - len(labelled)])
    rows = np.array([*labelled, *drawn, *coming], dtype=np.int64)
    in_window = np.isin(table.task_id[rows], ahead)
    in_pool = untouched & (table.n_cancelled == 0) & ~locked
    return Chosen(
        rows=rows,
        states=np.where(has_label[rows], LABELLED, np.where(in_window, NEXT, REST)).astype(np.object_),
        in_pool=in_pool[rows],
        drawn=others[rows],
        n_behind=int((in_pool & others).sum()),
    )


def flatten(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Lay embeddings out in the plane in which they differ most, each axis scaled to 0..1.

    Principal component analysis; an axis points to where its largest loading is positive, so that the same tasks give
    the same picture, not its mirror image.

    Args:
        features: (n, d) float32, n >= 1.

    Returns:
        (n, 2) float64; 0.5 along an axis on which nothing differs.

    Source: Pearson 1901; the signs as in scikit-learn's svd_flip.
    """
    reduction = fit_reduction(features)
    few = (features - reduction.mean).astype(np.float64) @ reduction.components  # (n, q), q <= 64
    _, directions = np.linalg.eigh(few.T @ few)  # ascending
    axes = reduction.components.astype(np.float64) @ directions[:, ::-1][:, :2]  # (d, 2)
    axes *= np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1.0, 1.0)
    flat = np.zeros((len(features), 2))
    flat[:, : axes.shape[1]] = (features - reduction.mean).astype(np.float64) @ axes
    low, span = flat.min(axis=0), np.ptp(flat, axis=0)
    visible = span > 1e-6  # less is rounding noise, which must not fill the picture
    scaled: NDArray[np.float64] = np.where(visible, (flat - low) / np.where(visible, span, 1.0), 0.5)
    return scaled


def histogram(values: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[list[float], list[int]]:
    """Count values of 0 to 1 in 20 bins of equal width; returns 21 edges and 20 counts, whole tasks.

    Args:
        values: (n,) uncertainties; the last bin has both its ends.
        weights: (n,) tasks that each value stands for.
    """
    counts, edges = np.histogram(values, bins=BINS, range=(0.0, 1.0), weights=weights)
    return edges.round(_DIGITS).tolist(), np.rint(counts).astype(int).tolist()


def _standardiser(model: Model | None, raw: NDArray[np.float32]) -> Standardiser:
    """Return how the heads see raw embeddings; before the first model, what the sample makes."""
    from ls_backend.vision.features import Standardiser  # noqa: PLC0415 - brings torch

    return Standardiser.fit(raw) if model is None else model.standardiser


def _map(schema: LabelSchema, table: TaskTable, chosen: Chosen, features: NDArray[np.float32]) -> dict[str, Any]:
    return {
        "points": flatten(features).round(_DIGITS).tolist(),
        "task_ids": table.task_id[chosen.rows].tolist(),
        "states": chosen.states.tolist(),
        "labels": [None if text is None else spoken(schema, text) for text in table.label[chosen.rows].tolist()],
        "hashes": table.content_hash[chosen.rows].tolist(),
    }


def spoken(schema: LabelSchema, written: str) -> str:
    """Return what a task was answered as people read it: "rust", or "weather: rain; where: crack, hole"."""
    if schema.is_one_choice:
        return written
    said = {name: ", ".join(sorted(set(labels))) or "nothing" for name, labels in answers(schema, written).items()}
    return "; ".join(said.values() if len(schema.controls) == 1 else (f"{name}: {text}" for name, text in said.items()))


def _uncertainty(
    context: Context,
    project: Project,
    schema: LabelSchema,
    table: TaskTable,
    chosen: Chosen,
    features: NDArray[np.float32],
    model: Model | None,
) -> dict[str, dict[str, Any]]:
    """Measure doubt as the ranking does; the tasks of the window count once, those drawn stand for all the others."""
    members = np.flatnonzero(chosen.in_pool)
    task_ids = table.task_id[chosen.rows[members]]
    doubts = sights(context, project, schema).doubts(task_ids)
    if len(members) == 0 or (model is None and not any_doubts(doubts.get("doubts"))):
        return {}
    pool = Pool(
        embeddings=features[members],
        probabilities=None if model is None else model.classifier.probabilities(features[members]),
        questions=None if schema.is_one_choice or model is None else np.array(schema.questions),
        ids=task_ids,
        **doubts,
    )
    drawn = chosen.drawn[members]
    weights = np.where(drawn, chosen.n_behind / max(int(drawn.sum()), 1), 1.0)
    edges, counts = histogram(doubt(pool, margin).of_tasks, weights)
    return {"uncertainty": {"method": "margin", "edges": edges, "counts": counts, "n_looked_at": len(members)}}


def _calibration(version: ModelVersion) -> dict[str, dict[str, Any]]:
    metrics = version.metrics
    if not metrics.reliability or metrics.ece is None:
        return {}
    return {
        "calibration": {
            "bins": [asdict(one) for one in metrics.reliability],
            "ece": metrics.ece,
            "measured_on": "test set" if metrics.test_set else "hold-out",
            "model_version": version.version_id,
        }
    }
