"""The pool in the order it should be labelled, with reasons."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ls_backend.domain import Finding, LabelSchema
from ls_backend.engine import test_set
from ls_backend.engine.beliefs import beliefs
from ls_backend.engine.context import Context
from ls_backend.engine.held import ACTIVE, promised
from ls_backend.engine.retrain import Labelled, Model, digest_of
from ls_backend.errors import StrategyError, TrainingError
from ls_backend.settings import ProjectSettings
from ls_backend.store import Project, TaskTable, WindowRow
from ls_backend.strategies import Plan, Pool, Ranking, cost_matrix, needs, rank

if TYPE_CHECKING:
    from ls_backend.vision.features import Standardiser
    from ls_backend.vision.heads import Head

MIN_WINDOW = 60
PER_ANNOTATOR = 20

HELD = "served to somebody already"
TO_MEASURE = "part of the test set"
LAST = "no embedding yet, or skipped before: served last"


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
        held: (h,) indices into `embedded` of tasks annotators have open now, in the order of the queue.
        test_set: Task ids of the test set that have no label yet, in the order to label them.
        spare: Task ids to serve when the pool runs out: not embedded yet, then skipped ones.
    """

    table: TaskTable
    embedded: NDArray[np.int64]
    features: NDArray[np.float32]
    standardiser: Standardiser
    labelled: Labelled
    pool: NDArray[np.int64]
    held: NDArray[np.int64]
    test_set: list[int]
    spare: list[int]

    def task_ids(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ids of some embedded tasks."""
        return self.table.task_id[self.embedded[rows]]

    def hashes(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the content hashes of some embedded tasks."""
        found: list[str] = self.table.content_hash[self.embedded[rows]].tolist()
        return found


@dataclass(frozen=True)
class Ranked:
    """The head of the queue, and how it came about.

    Attributes:
        rows: Tasks to publish, next one first: those somebody has open, the test set, the ranked ones, spare ones.
        regime: What the plan decided to do.
    """

    rows: list[WindowRow]
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
    locked = np.array(sorted(test_set.members(context, project)), dtype=np.int64)
    to_measure = np.isin(table.task_id, locked)
    names = [schema.classes[i] for i in classes[with_label]]
    labelled = Labelled(
        task_ids=task_ids[with_label],
        classes=classes[with_label],
        holdout=(to_measure if len(locked) else table.holdout)[embedded][with_label],
        features=features.values[with_label],
        hashes=[hashes[i] for i in with_label],
        digest=digest_of(
            task_ids[with_label], names, np.intersect1d(task_ids[with_label], locked) if len(locked) else None
        ),
        locked=len(locked) > 0,
    )
    untouched = (table.n_annotations == 0) & ~table.is_labeled
    fresh = untouched & (table.n_cancelled == 0)
    skipped = untouched & (table.n_cancelled > 0)
    ranked = fresh & ~to_measure
    waiting = np.flatnonzero(ranked[embedded])
    place = {task_id: row for row, task_id in zip(waiting.tolist(), task_ids[waiting].tolist(), strict=True)}
    held = [place[task_id] for task_id in promised(context, project.id) if task_id in place]
    return View(
        table=table,
        embedded=embedded,
        features=features.values,
        standardiser=features.standardiser,
        labelled=labelled,
        pool=waiting[~np.isin(waiting, held)],
        held=np.array(held, dtype=np.int64),
        test_set=test_set.in_turn(table.task_id[fresh & to_measure].tolist(), settings.seed),
        spare=[*table.task_id[ranked & ~has].tolist(), *table.task_id[skipped].tolist()],
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


@dataclass(frozen=True)
class Judged:
    """What the head sees of the tasks, and what it says about them.

    Attributes:
        head: The served one.
        pool: (p, d) float32 of the tasks that may be ranked, as the head was fitted.
        labelled: (m, d) float32 of the labelled ones it may learn from, likewise.
        probabilities: (p, c) float32.
        held: (h, c) float32, of the tasks annotators have open.
    """

    head: Head
    pool: NDArray[np.float32]
    labelled: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    held: NDArray[np.float32]


def rerank(context: Context, project: Project, schema: LabelSchema, seen: View, model: Model | None, k: int) -> Ranked:
    """Rank the pool by the project's plan and fill up with spare tasks.

    A task that somebody has open counts as covered, though not as a label: what is like it can wait. It is not ranked,
    for it would cover itself, yet it stays in front. Its holder finds it with today's prediction when he reloads;
    Label Studio skips it for everybody else; and if nobody has it open after all, what was once found most valuable
    comes next instead of last.

    Then comes what the test set lacks, without predictions: an annotator who is shown the model's answer tends to agree
    with it, and the model is what the test set judges.

    Args:
        context: Store and embeddings.
        project: Whose settings and plan apply.
        schema: Class names for the reasons.
        seen: The project as arrays.
        model: Makes the probabilities; None during cold start.
        k: Tasks wanted.
    """
    features = seen.features[seen.pool]
    judged = None if model is None else _judged(context, seen, model, features)
    n_ranked = min(max(k - len(seen.held) - len(seen.test_set), 0), len(seen.pool))
    ranking = _rank(context, project, schema, seen, features, judged, n_ranked)
    rows = [
        WindowRow(task_id, place, None, {}, {}, HELD, None if judged is None else _tuple(judged.held[place]))
        for place, task_id in enumerate(seen.task_ids(seen.held).tolist())
    ]
    rows += [WindowRow(task_id, len(rows) + i, None, {}, {}, TO_MEASURE) for i, task_id in enumerate(seen.test_set)]
    for place, (row, task_id) in enumerate(
        zip(ranking.indices, seen.task_ids(seen.pool[ranking.indices]), strict=True)
    ):
        rows.append(
            WindowRow(
                task_id=int(task_id),
                rank=len(rows),
                utility=float(ranking.utilities[place]),
                factors={name: float(values[place]) for name, values in ranking.factors.items()},
                ratios={name: float(values[place]) for name, values in ranking.ratios.items()},
                reason=ranking.reasons[place],
                probabilities=None if judged is None else _tuple(judged.probabilities[row]),
            )
        )
    rows += [WindowRow(task_id, len(rows) + i, None, {}, {}, LAST) for i, task_id in enumerate(seen.spare)]
    return Ranked(rows[:k], ranking.regime)


def _tuple(probabilities: NDArray[np.float32]) -> tuple[float, ...]:
    return tuple(float(p) for p in probabilities)


def _judged(context: Context, seen: View, model: Model, features: NDArray[np.float32]) -> Judged:
    pool = _for_head(context, seen, model, features, seen.hashes(seen.pool))
    held = _for_head(context, seen, model, seen.features[seen.held], seen.hashes(seen.held))
    learnt = seen.labelled.learnt
    hashes = [seen.labelled.hashes[row] for row in learnt]
    return Judged(
        head=model.head,
        pool=pool,
        labelled=_for_head(context, seen, model, seen.labelled.features[learnt], hashes),
        probabilities=model.head.probabilities(pool),
        held=model.head.probabilities(held),
    )


def _for_head(
    context: Context, seen: View, model: Model, features: NDArray[np.float32], hashes: list[str]
) -> NDArray[np.float32]:
    """Return features as the head was fitted: an older model has standardised the embeddings in its own way."""
    if model.standardiser is seen.standardiser:
        return features
    return model.standardiser.apply(context.raw_embeddings(model.version.backbone, hashes))


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


def _rank(
    context: Context,
    project: Project,
    schema: LabelSchema,
    seen: View,
    features: NDArray[np.float32],
    judged: Judged | None,
    k: int,
) -> Ranking:
    """Rank by the plan, or by the default one when the plan cannot be applied: a queue in a good order beats none."""
    settings = context.project_settings(project)
    task_ids = seen.task_ids(seen.pool)
    plan, metadata = _applicable(context, project, Plan.from_settings(settings), task_ids)
    learnt = seen.labelled.learnt  # the model knows nothing of the test set, so nothing of the pool is covered by it
    classes = seen.labelled.classes[learnt]
    known: dict[str, Any] = {
        "embeddings": features,
        "probabilities": None if judged is None else judged.probabilities,
        "labelled_embeddings": np.concatenate([seen.labelled.features[learnt], seen.features[seen.held]]),
        "labelled_counts": np.bincount(classes, minlength=len(schema.classes)).astype(np.float64),
        "metadata": metadata,
        "class_names": schema.classes,
        "ids": task_ids,
    }
    rng = np.random.default_rng((settings.seed, project.id, len(seen.labelled.task_ids)))
    try:
        ranking = rank(Pool(**known, **_asked_for(plan, schema, classes, judged, settings.seed)), plan, k, rng)
    except (StrategyError, TrainingError) as error:
        context.store.problems.report(
            project.id, Finding(error.code, "error", "plan", f"{error} The default plan ranks meanwhile.", error.hint)
        )
        return rank(Pool(**known), Plan.preset("auto"), k, rng)
    for problem in context.store.problems.open(project.id):
        if problem.finding.subject == "plan":
            context.store.problems.resolve(project.id, problem.finding.code, "plan")
    return ranking


def _asked_for(
    plan: Plan, schema: LabelSchema, classes: NDArray[np.int64], judged: Judged | None, seed: int
) -> dict[str, Any]:
    """Make the fields of the pool that this plan needs beyond the probabilities."""
    wanted = needs(plan, has_model=judged is not None)
    made: dict[str, Any] = {}
    if "cost_matrix" in wanted:
        made["cost_matrix"] = cost_matrix(plan.objectives.value, schema.classes)
    if judged is None:
        return made
    made |= beliefs(
        wanted,
        head=judged.head,
        features=judged.pool,
        labelled_features=judged.labelled,
        classes=classes,
        n_classes=len(schema.classes),
        seed=seed,
    )
    if "labelled_probabilities" in made:
        made["labelled_probabilities"] = np.concatenate([made["labelled_probabilities"], judged.held])
    return made
