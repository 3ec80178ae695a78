"""The pool in the order it should be labelled, with reasons."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ls_backend.domain import Finding, LabelSchema
from ls_backend.engine.context import Context
from ls_backend.engine.retrain import Labelled, Model, digest_of
from ls_backend.errors import StrategyError
from ls_backend.settings import ProjectSettings
from ls_backend.store import Project, TaskTable
from ls_backend.strategies import Plan, Pool, Ranking, rank

if TYPE_CHECKING:
    from ls_backend.vision.features import Standardiser

MIN_WINDOW = 60
PER_ANNOTATOR = 20
ACTIVE = timedelta(hours=24)
"""An annotator seen within this time may hold a lock: Label Studio's lock lives that long."""


@dataclass(frozen=True)
class View:
    """A project's tasks as arrays.

    Attributes:
        table: Every task.
        embedded: (n,) indices into the table that have an embedding.
        features: (n, d) float32 of those, standardised.
        standardiser: What made them from the raw embeddings.
        labelled: Those with a usable label.
        pool: (p,) indices into `embedded` of tasks that may be ranked.
        spare: Task ids to serve when the pool runs out: not embedded yet, then skipped ones.
    """

    table: TaskTable
    embedded: NDArray[np.int64]
    features: NDArray[np.float32]
    standardiser: Standardiser
    labelled: Labelled
    pool: NDArray[np.int64]
    spare: list[int]


@dataclass(frozen=True)
class Ranked:
    """An order and why.

    Attributes:
        task_ids: Most valuable first.
        probabilities: (k, c) of the ranked tasks; None during cold start. Spare tasks have none.
        factors: Objective -> (k,) value.
        ratios: Objective -> (k,) value over the pool's median.
        reasons: In words, one a task.
        utilities: (k,) float64.
        regime: What the plan decided to do.
    """

    task_ids: list[int]
    probabilities: NDArray[np.float32] | None
    factors: dict[str, NDArray[np.float64]]
    ratios: dict[str, NDArray[np.float64]]
    reasons: list[str]
    utilities: NDArray[np.float64]
    regime: str


def view(context: Context, project: Project, schema: LabelSchema) -> View | None:
    """Lay a project out as arrays; None while no task has an embedding."""
    settings = context.project_settings(project)
    table = context.store.tasks.rows(project.id)
    has_content = np.fromiter((value is not None for value in table.content_hash), dtype=bool, count=len(table.task_id))
    read = np.flatnonzero(has_content)
    features = context.features(project.id, settings.backbone, table.content_hash[read].tolist())
    if not features.found.all():
        # Another backbone, or a lost vector store: these images are read and embedded again.
        context.store.tasks.forget_content(project.id, table.task_id[read[~features.found]].tolist())
    embedded = read[features.found]
    if features.standardiser is None:
        return None
    hashes = table.content_hash[embedded].tolist()
    has = np.zeros(len(table.task_id), dtype=bool)
    has[embedded] = True
    index = {label: i for i, label in enumerate(schema.classes)}
    classes = np.fromiter((index.get(table.label[i], -1) for i in embedded), dtype=np.int64, count=len(embedded))
    with_label = np.flatnonzero(classes >= 0)
    task_ids = table.task_id[embedded]
    labelled = Labelled(
        task_ids=task_ids[with_label],
        classes=classes[with_label],
        holdout=table.holdout[embedded][with_label],
        features=features.values[with_label],
        hashes=[hashes[i] for i in with_label],
        digest=digest_of(task_ids[with_label], [schema.classes[i] for i in classes[with_label]]),
    )
    untouched = (table.n_annotations == 0) & ~table.is_labeled
    fresh = untouched & (table.n_cancelled == 0)
    skipped = untouched & (table.n_cancelled > 0)
    return View(
        table=table,
        embedded=embedded,
        features=features.values,
        standardiser=features.standardiser,
        labelled=labelled,
        pool=np.flatnonzero(fresh[embedded]),
        spare=[*table.task_id[fresh & ~has].tolist(), *table.task_id[skipped].tolist()],
    )


def window_size(context: Context, project: Project, settings: ProjectSettings) -> int:
    """Return how many tasks to publish ahead.

    A window below the number of locked tasks would answer annotators "no tasks" although there are some, and a short
    one runs dry into random order; a long one costs Label Studio time at every flip.
    """
    if settings.window is not None:
        return settings.window
    annotators = context.store.tasks.annotators(project.id, datetime.now(UTC) - ACTIVE)
    recent = context.store.tasks.labels_since(project.id, datetime.now(UTC) - timedelta(minutes=1))
    return max(MIN_WINDOW, PER_ANNOTATOR * annotators, 3 * recent)


def rerank(context: Context, project: Project, schema: LabelSchema, seen: View, model: Model | None, k: int) -> Ranked:
    """Rank the pool by the project's plan and fill up with spare tasks.

    Args:
        context: Store and embeddings.
        project: Whose settings and plan apply.
        schema: Class names for the reasons.
        seen: The project as arrays.
        model: Makes the probabilities; None during cold start.
        k: Tasks wanted.
    """
    settings = context.project_settings(project)
    task_ids = seen.table.task_id[seen.embedded]
    probabilities = None if model is None else _probabilities(context, seen, model, seen.pool)
    plan, metadata = _applicable(context, project, Plan.from_settings(settings), task_ids[seen.pool])
    counts = np.bincount(seen.labelled.classes, minlength=len(schema.classes)).astype(np.float64)
    pool = Pool(
        embeddings=seen.features[seen.pool],
        probabilities=probabilities,
        labelled_embeddings=seen.labelled.features,
        labelled_counts=counts,
        metadata=metadata,
        class_names=schema.classes,
        ids=task_ids[seen.pool],
    )
    rng = np.random.default_rng((settings.seed, project.id, len(seen.labelled.task_ids)))
    ranking = _rank(context, project, pool, plan, min(k, len(seen.pool)), rng)
    ordered = task_ids[seen.pool][ranking.indices].tolist()
    return Ranked(
        task_ids=[*ordered, *seen.spare[: k - len(ordered)]],
        probabilities=None if probabilities is None else probabilities[ranking.indices],
        factors=dict(ranking.factors),
        ratios=dict(ranking.ratios),
        reasons=list(ranking.reasons),
        utilities=ranking.utilities,
        regime=ranking.regime,
    )


def _probabilities(context: Context, seen: View, model: Model, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    if model.standardiser is seen.standardiser:
        return model.head.probabilities(seen.features[rows])
    hashes = [seen.table.content_hash[i] for i in seen.embedded[rows]]
    raw = context.raw_embeddings(model.version.backbone, hashes)
    return model.head.probabilities(model.standardiser.apply(raw))


def _applicable(
    context: Context, project: Project, plan: Plan, task_ids: NDArray[np.int64]
) -> tuple[Plan, dict[str, NDArray[np.object_]]]:
    """Return the plan without metadata rules on fields no task has, and the columns of the others.

    A misspelt field would otherwise stop the whole queue, or do nothing in silence.
    """
    rules = plan.objectives.metadata
    data = context.store.tasks.data(project.id, task_ids.tolist()) if rules else {}
    columns: dict[str, NDArray[np.object_]] = {}
    for name in {rule.field for rule in rules}:
        values = [data.get(task_id, {}).get(name) for task_id in task_ids.tolist()]
        subject = f"metadata rule on {name}"
        if values and all(value is None for value in values):
            context.store.problems.report(
                project.id,
                Finding(
                    "metadata-field",
                    "warning",
                    subject,
                    f"None of the {len(values)} tasks that wait has the field '{name}'; the rule has no effect.",
                    "Correct the name of the field in the project settings, or import tasks that have it.",
                ),
            )
        else:
            context.store.problems.resolve(project.id, "metadata-field", subject)
            columns[name] = np.array(values, dtype=object)
    kept = tuple(rule for rule in rules if rule.field in columns)
    return replace(plan, objectives=plan.objectives.model_copy(update={"metadata": kept})), columns


def _rank(context: Context, project: Project, pool: Pool, plan: Plan, k: int, rng: np.random.Generator) -> Ranking:
    """Rank by the plan, or by the default one when the plan cannot be applied: a queue in a good order beats none."""
    try:
        ranking = rank(pool, plan, k, rng)
    except StrategyError as error:
        context.store.problems.report(
            project.id, Finding(error.code, "error", "plan", f"{error} The default plan ranks meanwhile.", error.hint)
        )
        return rank(pool, Plan.preset("auto"), k, rng)
    for problem in context.store.problems.open(project.id):
        if problem.finding.subject == "plan":
            context.store.problems.resolve(project.id, problem.finding.code, "plan")
    return ranking
