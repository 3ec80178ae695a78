"""How far a project has come, from its records alone: cheap enough for every load of a page, also in the server."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from ls_backend.domain import LabelSchema, Metrics, ModelVersion, plain
from ls_backend.errors import ConfigUnsupported
from ls_backend.labelstudio import label_config
from ls_backend.settings import ProjectSettings
from ls_backend.store import Counts, DeepVersion, Project, Store, Throughput

MeasuredOn = Literal["hold-out", "test set"]

CURVE_POINTS = 400
"""Heads on a learning curve at most."""

_HEADLINES = ("map50", "mean_iou_classes", "mean_iou")  # of a deep version: what is said of it in one number
_RUNS_LOOKED_AT = 20
_Z = 1.959963984540054  # the normal quantile of 95 % in the middle


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """How good one model version is, at so many labels.

    Attributes:
        version_id: The model version.
        control: Control of a deep version; None for the heads, which answer all controls.
        n_labels: Labels it was trained with.
        metric: What was measured: "accuracy", or of deep versions "map50" or "mean_iou_classes".
        value: 0 to 1.
        low: Lower end of the 95 % interval; None where the metric is no share of tasks.
        high: Upper end.
        n_measured: Tasks it was measured on; None where that is not known.
        measured_on: Which tasks those are.
        state: "promoted", "rejected" or "retired".
        made_at: When it was trained.
    """

    version_id: str
    control: str | None
    n_labels: int
    metric: str
    value: float
    low: float | None
    high: float | None
    n_measured: int | None
    measured_on: MeasuredOn
    state: str
    made_at: datetime


@dataclass(frozen=True, slots=True)
class ClassCount:
    """How many tasks have a label.

    Attributes:
        control: Name of the control tag.
        label: One of its labels.
        n: Tasks.
    """

    control: str
    label: str
    n: int


@dataclass(frozen=True, slots=True)
class State:
    """Where a project stands.

    Attributes:
        name: "problem" while something is wrong that stops it, "waiting for labels" before the first model, else
            "learning".
        sentence: Why, in words.
        tasks: Tasks known.
        labels: Tasks with a label.
        unread: Tasks whose image or text is still to be embedded.
        model_version: The one in force; None before the first.
        accuracy: Of that one; None where nothing was held out.
        low: Lower end of the 95 % interval of the accuracy.
        high: Upper end.
        n_measured: Tasks it was measured on.
        measured_on: Which tasks those are; None without a model.
        window: Published window in force; None before the first.
        window_left: Tasks of it that nobody has labelled or skipped.
        updated_at: When the labelling queue was last brought up to date; None when it never was.
        problems: Open problems.
    """

    name: Literal["learning", "waiting for labels", "problem"]
    sentence: str
    tasks: int
    labels: int
    unread: int
    model_version: str | None
    accuracy: float | None
    low: float | None
    high: float | None
    n_measured: int
    measured_on: MeasuredOn | None
    window: str | None
    window_left: int
    updated_at: datetime | None
    problems: int


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share among n independent trials, n >= 1.

    Source: Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference, JASA 22.
    """
    middle = share + _Z**2 / (2 * n)
    reach = _Z * math.sqrt(share * (1.0 - share) / n + _Z**2 / (4 * n**2))
    scale = 1.0 + _Z**2 / n
    return max((middle - reach) / scale, 0.0), min((middle + reach) / scale, 1.0)


def learning_curve(store: Store, project_id: int) -> list[CurvePoint]:
    """Return how good model versions were measured to be, oldest first; those that were not measured are left out.

    There may be a version for each label: of many, as many as a picture has room for are taken, evenly, with the
    newest. The hold-out grows with the labels and holds what the plan asked for, so two points are compared on
    different tasks.
    """
    heads = [
        _point(version)
        for version in store.versions.spread(project_id, CURVE_POINTS)
        if version.metrics.accuracy is not None
    ]
    deep = [_deep_point(version) for version in store.deep_versions.list(project_id) if _headline(version)]
    return sorted([*heads, *deep], key=lambda point: point.made_at)


def throughput(store: Store, project_id: int, hours: int) -> list[Throughput]:
    """Return what each annotator did in each hour, of the present hour and those before it, by hour and annotator.

    Args:
        store: The records.
        project_id: Which project.
        hours: How many hours, at least 1.
    """
    present = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    return store.tallies.throughput(project_id, present - timedelta(hours=hours - 1))


def class_balance(store: Store, project: Project) -> list[ClassCount]:
    """Count the tasks of each label, in the order of the label config; labels without a task count 0.

    A task counts for each of its labels. What is no longer in the label config is left out.
    """
    try:
        schema = label_config.parse(project.label_config or "")
    except ConfigUnsupported:
        return []
    counted = {(control.name, label): 0 for control in schema.controls for label in control.classes}
    for written, n in store.tallies.labels(project.id).items():
        for key in ((name, label) for name, labels in answers(schema, written).items() for label in labels):
            if key in counted:
                counted[key] += n
    return [ClassCount(*key, n) for key, n in counted.items()]


def answers(schema: LabelSchema, written: str) -> dict[str, tuple[str, ...]]:
    """Read what a task was answered, by control; nothing where it was written for the label config before this one.

    That is so for a moment: the next update writes all answers anew.
    """
    try:
        return schema.read(written)
    except (ValueError, AttributeError):  # not JSON, or JSON of something else
        return {}


def state(store: Store, project: Project) -> State:
    """Say where a project stands, in a word and a sentence."""
    counts = store.tasks.counts(project.id)
    serving = store.versions.in_force(project.id)
    metrics = Metrics(0) if serving is None else serving.metrics
    low, high = (None, None) if metrics.accuracy is None else wilson(metrics.accuracy, metrics.n_holdout)
    name, sentence = _judged(store, project, counts, serving)
    left = 0 if project.window_version is None else store.windows.left(project.id, project.window_version)[0]
    return State(
        name=name,
        sentence=sentence,
        tasks=counts.tasks,
        labels=counts.labelled,
        unread=counts.unread,
        model_version=None if serving is None else serving.version_id,
        accuracy=metrics.accuracy,
        low=low,
        high=high,
        n_measured=metrics.n_holdout,
        measured_on=None if serving is None else measured_on(metrics),
        window=project.window_version,
        window_left=left,
        updated_at=_updated_at(store, project.id),
        problems=store.problems.count(project.id),
    )


def report(store: Store, project: Project, hours: int) -> dict[str, Any]:
    """Return state, learning curve, throughput and class balance as JSON can hold them.

    Args:
        store: The records.
        project: Which project.
        hours: Of throughput, at least 1.
    """
    return {
        "state": plain(state(store, project)),
        "curve": [plain(point) for point in learning_curve(store, project.id)],
        "hours": hours,
        "throughput": [plain(one) for one in throughput(store, project.id, hours)],
        "balance": [plain(one) for one in class_balance(store, project)],
    }


def found_out(store: Store, project_id: int, kinds: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
    """Return what workers have found out about a project as JSON can hold it, by kind, with its age in seconds.

    Args:
        store: The records.
        project_id: Which project.
        kinds: Those wanted; what has not been found out is left out. None for all there are.
    """
    now = datetime.now(UTC)
    wanted = store.insights.ages(project_id) if kinds is None else kinds
    found = [insight for kind in wanted if (insight := store.insights.get(project_id, kind)) is not None]
    return {one.kind: {**plain(one), "age_s": (now - one.made_at).total_seconds()} for one in found}


def _point(version: ModelVersion) -> CurvePoint:
    metrics = version.metrics
    assert metrics.accuracy is not None  # the caller looks
    return CurvePoint(
        version_id=version.version_id,
        control=None,
        n_labels=version.n_labels,
        metric="accuracy",
        value=metrics.accuracy,
        low=(interval := wilson(metrics.accuracy, metrics.n_holdout))[0],
        high=interval[1],
        n_measured=metrics.n_holdout,
        measured_on=measured_on(metrics),
        state=version.state,
        made_at=version.created_at,
    )


def _deep_point(version: DeepVersion) -> CurvePoint:
    metric = _headline(version)
    assert metric is not None  # the caller looks
    return CurvePoint(
        version_id=version.version_id,
        control=version.control,
        n_labels=version.n_labels,
        metric=metric,
        value=version.metrics[metric],
        low=None,
        high=None,
        n_measured=None,
        measured_on="hold-out",
        state=version.state,
        made_at=version.created_at,
    )


def _headline(version: DeepVersion) -> str | None:
    return next((name for name in _HEADLINES if name in version.metrics), None)


def measured_on(metrics: Metrics) -> MeasuredOn:
    """Return which tasks a version was measured on."""
    return "test set" if metrics.test_set else "hold-out"


def _updated_at(store: Store, project_id: int) -> datetime | None:
    runs = store.runs.recent(project_id, _RUNS_LOOKED_AT)
    return next((run.finished_at for run in runs if run.kind == "update" and run.status == "done"), None)


def _judged(
    store: Store, project: Project, counts: Counts, serving: ModelVersion | None
) -> tuple[Literal["learning", "waiting for labels", "problem"], str]:
    broken = store.problems.newest(project.id, level="error")
    if broken is not None:
        return "problem", f"{broken.finding.subject}: {broken.finding.message}"
    if serving is not None:
        return "learning", _learnt(counts, serving)
    return "waiting for labels", _lacking(store, project, counts)


def _lacking(store: Store, project: Project, counts: Counts) -> str:
    """Say what the first model waits for."""
    if counts.tasks == 0:
        return "There are no tasks yet: import some in Label Studio."
    if counts.unread == counts.tasks:
        return f"None of {counts.tasks} tasks has been read yet; the embed worker is to do that."
    needed = ProjectSettings.model_validate_json(project.settings_json or "{}").min_labels
    if counts.labelled < needed:
        return f"{counts.labelled} of {needed} labels that the first model takes."
    refused = store.problems.newest(project.id, subject="training")
    if refused is not None:
        return refused.finding.message
    return f"{counts.labelled} labels; the next update trains the first model."


def _learnt(counts: Counts, serving: ModelVersion) -> str:
    metrics = serving.metrics
    if counts.labelled >= counts.tasks > 0:
        return f"All {counts.tasks} tasks are labelled."
    learnt = f"{serving.version_id} has learnt from {serving.n_labels} labels"
    if metrics.accuracy is None:
        return f"{learnt}; none of them is held out yet to measure it."
    low, high = (f"{100 * end:.0f}" for end in wilson(metrics.accuracy, metrics.n_holdout))
    where = f"{metrics.n_holdout} labels of the {measured_on(metrics)}"
    return f"{learnt}; {100 * metrics.accuracy:.0f} % of {where} are right (95 % interval {low} to {high} %)."
