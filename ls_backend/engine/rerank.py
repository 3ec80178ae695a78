"""The pool in the order it should be labelled, with reasons."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ls_backend.domain import Finding, LabelSchema
from ls_backend.engine.beliefs import beliefs
from ls_backend.engine.context import Context
from ls_backend.engine.fields import SUBJECT as RULE
from ls_backend.engine.fields import applicable
from ls_backend.engine.held import ACTIVE
from ls_backend.engine.retrain import Model
from ls_backend.engine.sights import sights
from ls_backend.engine.view import View, as_fitted
from ls_backend.errors import StrategyError, TrainingError
from ls_backend.settings import ProjectSettings
from ls_backend.store import Project, WindowRow
from ls_backend.strategies import Plan, Pool, Ranking, cost_matrix, needs, rank

if TYPE_CHECKING:
    from ls_backend.vision.classifier import Classifier

MIN_WINDOW = 60
PER_ANNOTATOR = 20

HELD = "served to somebody already"
TO_MEASURE = "part of the test set"
PLAN = "plan"
"""Subject of the problem that the plan as a whole cannot be applied."""

LAST = "no embedding yet, or skipped before: served last"


@dataclass(frozen=True)
class Ranked:
    """The head of the queue, and how it came about.

    Attributes:
        rows: Tasks to publish, next one first: those somebody has open, the test set, the ranked ones, spare ones.
        regime: Phase of labelling that decided what counts.
        regime_reason: Why it is that phase, in words.
        findings: What of the plan could not be applied, and why.
    """

    rows: list[WindowRow]
    regime: str
    regime_reason: str
    findings: tuple[Finding, ...] = ()


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
    """What the model sees of the tasks, and what it says about them.

    Attributes:
        classifier: The served heads.
        pool: (p, d) float32 of the tasks that may be ranked, as the heads were fitted.
        labelled: (m, d) float32 of the labelled ones it may learn from, likewise.
        probabilities: (p, c) float32.
        held: (h, c) float32, of the tasks annotators have open.
    """

    classifier: Classifier
    pool: NDArray[np.float32]
    labelled: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    held: NDArray[np.float32]


def rerank(context: Context, project: Project, schema: LabelSchema, seen: View, model: Model | None, k: int) -> Ranked:
    """Put the pool in `order`, and say as problems what of the plan could not be applied."""
    ranked = order(context, project, schema, seen, model, k)
    problems = context.store.problems
    found = {(finding.code, finding.subject) for finding in ranked.findings}
    for finding in ranked.findings:
        problems.report(project.id, finding)
    for problem in problems.open(project.id):
        subject = problem.finding.subject
        if (subject == PLAN or subject.startswith(RULE)) and (problem.finding.code, subject) not in found:
            problems.resolve(project.id, problem.finding.code, subject)
    return ranked


def order(context: Context, project: Project, schema: LabelSchema, seen: View, model: Model | None, k: int) -> Ranked:
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
    ranking, findings = _rank(context, project, schema, seen, model, features, judged, n_ranked)
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
    return Ranked(rows[:k], ranking.regime, ranking.regime_reason, tuple(findings))


def _tuple(probabilities: NDArray[np.float32]) -> tuple[float, ...]:
    return tuple(float(p) for p in probabilities)


def _judged(context: Context, seen: View, model: Model, features: NDArray[np.float32]) -> Judged:
    pool = as_fitted(context, seen, model, seen.pool, features)
    held = as_fitted(context, seen, model, seen.held, seen.features[seen.held])
    learnt = seen.labelled.learnt
    return Judged(
        classifier=model.classifier,
        pool=pool,
        labelled=as_fitted(context, seen, model, seen.labelled.rows[learnt], seen.labelled.features[learnt]),
        probabilities=model.classifier.probabilities(pool),
        held=model.classifier.probabilities(held),
    )


def _rank(
    context: Context,
    project: Project,
    schema: LabelSchema,
    seen: View,
    model: Model | None,
    features: NDArray[np.float32],
    judged: Judged | None,
    k: int,
) -> tuple[Ranking, list[Finding]]:
    """Rank by the plan, or by the default one when the plan cannot be applied: a queue in a good order beats none."""
    settings = context.project_settings(project)
    task_ids = seen.task_ids(seen.pool)
    plan, fields, findings = applicable(context, project, seen, model, Plan.from_settings(settings))
    learnt = seen.labelled.learnt  # the model knows nothing of the test set, so nothing of the pool is covered by it
    targets = seen.labelled.targets[learnt]
    seen_deeply = sights(context, project, schema)
    covered = [
        seen_deeply.beside(seen.labelled.features[learnt], seen.labelled.task_ids[learnt]),
        seen_deeply.beside(seen.features[seen.held], seen.task_ids(seen.held)),
    ]
    known: dict[str, Any] = {
        "embeddings": seen_deeply.beside(features, task_ids),
        "probabilities": None if judged is None else judged.probabilities,
        "labelled_embeddings": np.concatenate(covered),
        "labelled_counts": (targets == 1).sum(axis=0).astype(np.float64),
        "metadata": fields.columns,
        "error_rates": fields.error_rates,
        "class_names": schema.classes,
        "questions": None if schema.is_one_choice else np.array(schema.questions),
        **seen_deeply.doubts(task_ids),
        "ids": task_ids,
    }
    rng = np.random.default_rng((settings.seed, project.id, len(seen.labelled.task_ids)))
    try:
        ranking = rank(Pool(**known, **_asked_for(plan, schema, targets, judged, settings.seed)), plan, k, rng)
    except (StrategyError, TrainingError) as error:
        refused = Finding(error.code, "error", PLAN, f"{error} The default plan ranks meanwhile.", error.hint)
        return rank(Pool(**known), Plan.preset("auto"), k, rng), [*findings, refused]
    return ranking, findings


def _asked_for(
    plan: Plan, schema: LabelSchema, targets: NDArray[np.int8], judged: Judged | None, seed: int
) -> dict[str, Any]:
    """Make the fields of the pool that this plan needs beyond the probabilities."""
    wanted = needs(plan, has_model=judged is not None)
    made: dict[str, Any] = {}
    if "cost_matrix" in wanted:
        made["cost_matrix"] = cost_matrix(plan.objectives.value, schema.classes, schema.questions)
    if judged is None:
        return made
    made |= beliefs(
        wanted,
        classifier=judged.classifier,
        features=judged.pool,
        labelled_features=judged.labelled,
        targets=targets,
        seed=seed,
    )
    if "labelled_probabilities" in made:
        made["labelled_probabilities"] = np.concatenate([made["labelled_probabilities"], judged.held])
    return made
