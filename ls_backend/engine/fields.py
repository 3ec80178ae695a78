"""The columns that metadata rules speak of: from the task data, measured on images, or on the embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ls_backend.domain import Finding, ImageFacts
from ls_backend.engine.context import Context
from ls_backend.engine.retrain import Model
from ls_backend.engine.view import View, as_fitted
from ls_backend.settings import MEASURED, MetadataRule
from ls_backend.store import Project
from ls_backend.strategies import ErrorRates, Plan, error_rates

NEAREST = "image.near_duplicate_distance"

SUBJECT = "metadata rule on "
"""How the subject of a problem with a rule begins; the field follows."""

_ON_IMAGES: Mapping[str, Callable[[ImageFacts], float]] = {
    "image.width": attrgetter("width"),
    "image.height": attrgetter("height"),
    "image.aspect": attrgetter("aspect"),
    "image.bytes": attrgetter("n_bytes"),
    "image.sharpness": attrgetter("sharpness"),
    "image.luminance": attrgetter("luminance"),
    "image.contrast": attrgetter("contrast"),
}


@dataclass(frozen=True)
class Fields:
    """What the rules of a plan need to know.

    Attributes:
        columns: Field to (p,) values of the tasks that may be ranked.
        error_rates: Field to how often the model errs, for rules weighted by errors.
    """

    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    error_rates: dict[str, ErrorRates] = field(default_factory=dict)


def applicable(
    context: Context, project: Project, seen: View, model: Model | None, plan: Plan
) -> tuple[Plan, Fields, list[Finding]]:
    """Return the plan without the rules that cannot have an effect, what the others need, and what is wrong with those.

    A misspelt field would otherwise stop the whole queue, or do nothing in silence. A rule by errors waits for the
    first labels that are held out.

    Args:
        context: Store and embeddings.
        project: Whose tasks and settings.
        seen: The project as arrays.
        model: Whose errors count; None during cold start.
        plan: With all its rules.
    """
    fields = Fields()
    kept: list[MetadataRule] = []
    findings: list[Finding] = []
    judged = None
    columns = _columns(context, project, seen, {rule.field for rule in plan.objectives.metadata}, seen.pool)
    for rule in plan.objectives.metadata:
        column = columns[rule.field]
        problem = _problem(context, project, rule, column)
        if problem is not None:
            findings.append(replace(problem, subject=f"{SUBJECT}{rule.field}"))
            continue
        if rule.weights == "errors":
            judged = judged or _judged(context, project, seen, model)
            rows, wrong = judged
            if not len(rows):
                continue
            values = _columns(context, project, seen, {rule.field}, rows)[rule.field]
            fields.error_rates[rule.field] = error_rates(values, wrong)
        fields.columns[rule.field] = column
        kept.append(rule)
    plan = replace(plan, objectives=plan.objectives.model_copy(update={"metadata": tuple(kept)}))
    return plan, fields, findings


def _columns(
    context: Context, project: Project, seen: View, names: AbstractSet[str], rows: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Return the values (r,) of fields for some embedded tasks, everything read once; None or NaN where one is missing.

    Args:
        context: Store.
        project: Owner of the tasks.
        seen: The project as arrays.
        names: Fields of the task data, or measured ones.
        rows: (r,) indices of embedded tasks.
    """
    columns: dict[str, NDArray[Any]] = {}
    columns |= context.store.tasks.columns(project.id, seen.task_ids(rows).tolist(), names - set(MEASURED))
    on_images = names & _ON_IMAGES.keys()
    if on_images:
        hashes = seen.hashes(rows)
        facts = context.store.images.get(hashes)
        for name in on_images:
            read = _ON_IMAGES[name]
            columns[name] = np.array([float(read(facts[one])) if one in facts else np.nan for one in hashes])
    if NEAREST in names:
        columns[NEAREST] = seen.source.nearest[rows]
    return columns


def _problem(context: Context, project: Project, rule: MetadataRule, column: NDArray[Any]) -> Finding | None:
    """Say why a rule cannot have an effect, whatever is labelled; None when it can."""
    if rule.weights == "errors" and rule.field in MEASURED:
        return _finding(
            f"The rule on '{rule.field}' weighs by errors, which takes a field with few distinct values; the rule has "
            "no effect.",
            "Leave out the weights, or choose a field with categories.",
        )
    settings = context.project_settings(project)
    if rule.weights == "errors" and not (settings.holdout or settings.test_set):
        return _finding(
            f"The rule on '{rule.field}' weighs by errors on labels held out, and none are; the rule has no effect.",
            "Set holdout above 0.",
        )
    missing = (
        np.isnan(column) if column.dtype.kind == "f" else np.array([value is None for value in column], dtype=bool)
    )
    if not len(column) or not missing.all():
        return None
    if rule.field in MEASURED:
        return _finding(
            f"'{rule.field}' is known of none of the {len(column)} tasks that wait: their images were read before it "
            "was measured. The rule has no effect.",
            "New images are measured as they are read.",
        )
    known = f" Measured fields are {', '.join(MEASURED)}." if rule.field.startswith("image.") else ""
    return _finding(
        f"None of the {len(column)} tasks that wait has the field '{rule.field}'; the rule has no effect.{known}",
        "Correct the name of the field in the project settings, or import tasks that have it.",
    )


def _finding(message: str, remedy: str) -> Finding:
    return Finding("metadata-field", "warning", "", message, remedy)


def _judged(
    context: Context, project: Project, seen: View, model: Model | None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return labelled tasks (embedded rows) that a head has judged without knowing their label, and where it was wrong.

    They are those of the hold-out. A locked test set is not looked at, for what steers the choice of tasks cannot
    measure its outcome; there every label is judged by a head that was fitted on the other folds.
    """
    from ls_backend.vision.classifier import out_of_fold_wrong  # noqa: PLC0415 - the server must not import vision

    labelled = seen.labelled
    if model is None:
        return np.zeros(0, np.int64), np.zeros(0, np.bool_)
    if labelled.locked:
        chosen = labelled.learnt
        seed = context.project_settings(project).seed
        features, targets = labelled.features[chosen], labelled.targets[chosen]
        judged, wrong = out_of_fold_wrong(model.classifier, features, targets, seed=seed)
        chosen, wrong = chosen[judged], wrong[judged]
    else:
        chosen = np.flatnonzero(
            labelled.holdout if model.version.metrics.n_holdout else np.zeros_like(labelled.holdout)
        )
        features = as_fitted(context, seen, model, labelled.rows[chosen], labelled.features[chosen])
        wrong = model.evaluation.wrong(features, labelled.targets[chosen])
    return labelled.rows[chosen], wrong
