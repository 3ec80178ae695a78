"""Somebody else's model in our place: what it learns from, what it says about the pool, what of that is shown.

The project setting `model` names it, and it stands for all controls of the project. In the records of trainings, of
versions and of what versions see it goes by that name, where what we train goes by the name of its control. Our heads
on embeddings go on learning beside it: they balance, and they rank and answer where the model has not.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ls_backend import logs
from ls_backend.domain import Annotation, Control, Finding, LabelSchema
from ls_backend.engine import test_set
from ls_backend.errors import (
    ConfigUnsupported,
    DataError,
    ForeignModelError,
    ForeignModelFailed,
    ForeignModelUnknown,
    LabelUnknown,
    TooFewLabels,
)
from ls_backend.foreign import Answer, Failure, Predictor, judgement
from ls_backend.foreign.answers import score_of
from ls_backend.labelstudio import label_config
from ls_backend.settings import ProjectSettings
from ls_backend.store import DeepVersion, Inference, InferenceTable, Project, Store, TaskRow

if TYPE_CHECKING:
    from ls_backend.engine.context import Context
    from ls_backend.engine.deep import Beat, Work

log = logs.get(__name__)

KIND = "foreign"
"""Kind of the control that stands for the model."""

ANSWER_S = 60.0
"""Seconds the model may take for a batch of tasks."""

LOAD_S = 300.0
"""Seconds it may take to be imported and constructed."""

HURRY_ANSWER_S, HURRY_LOAD_S = 5.0, 20.0
"""The same while somebody waits; the job that asks must end within its time whatever the model does."""

REST = timedelta(seconds=60)
"""How long a model that failed is left alone."""

CHUNK_S = 3.0
"""Seconds after which what it said is stored."""

_AT_ONCE = 32
_BEAT_S = 1.0
_NAMED = 3  # labels or tasks that a message names
_START_TRAINING = "START_TRAINING"


def named(project: Project) -> str | None:
    """Return the setting `model`."""
    return ProjectSettings.model_validate_json(project.settings_json or "{}").model


def stand_in(project: Project) -> Control | None:
    """Return the control that stands for the model in the records; None without a model, or with nothing to learn."""
    path, schema = named(project), _schema(project)
    if path is None or schema is None:
        return None
    return Control(name=path, kind=KIND, obj="", classes=schema.classes, multiple=True)


def learn(work: Work, beat: Beat) -> DeepVersion | None:
    """Have the model learn from the annotated tasks; those of a locked test set stay unknown to it.

    Args:
        work: The training; it has begun.
        beat: Called about every second while the model learns.

    Returns:
        The version it is now; None when somebody cancelled.

    Raises:
        ForeignModelError: It cannot be loaded, raised, took too long or died; what it had learned before stays.
        TooFewLabels: There is nothing to learn from.
    """
    context, project = work.context, work.project
    tasks = _annotated(context, project)
    if not tasks:
        raise TooFewLabels(f"Model {work.control.name} has no annotated task to learn from; expected one or more.")
    predictor = _predictor(context, project, LOAD_S, ANSWER_S)
    predictor.fit_timeout_s = 60.0 * work.settings.training.minutes
    with _Watch(work, predictor, beat) as watch:
        try:
            predictor.fit(tasks, _START_TRAINING)
        except ForeignModelFailed:
            if watch.cancelled:
                return None
            raise
    return _put_in_force(context, project, _must_parse(project), predictor.version, len(tasks))


class Judging:
    """One run of asking the model about tasks.

    Attributes:
        version_id: What its answers are filed under: the name of the model, its state of learning, the label config.
    """

    def __init__(self, context: Context, project: Project, predictor: Predictor) -> None:
        self._context = context
        self._project = project
        self._predictor = predictor
        self._schema = _must_parse(project)
        self._failures: dict[int, Failure] = {}
        self._gave_up: Failure | None = None
        self._unknown: dict[str, None] = {}
        self.version_id = _version_id(predictor.path, predictor.version, self._schema)

    def look(self, waiting: Sequence[TaskRow]) -> tuple[list[Inference], dict[int, DataError], int]:
        """Ask about tasks for a few seconds.

        Returns:
            What it said; nothing, because it reads images itself; and how many tasks it was asked about: 0 when it has
            failed so often that it is not asked again this time.
        """
        found: list[Inference] = []
        tried, deadline = 0, time.monotonic() + CHUNK_S
        while tried < len(waiting) and self._gave_up is None and time.monotonic() < deadline:
            some = [row.task_id for row in waiting[tried : tried + _AT_ONCE]]
            for said in self._predictor.predict(self._tasks(some)):
                if isinstance(said, Failure) and said.kind == "given-up":
                    self._gave_up = said
                    break
                found.append(self._inference(said))
                tried += 1
        return found, {}, tried

    def end(self) -> None:
        """Say what did not go well, and resolve what is well now."""
        store, project_id, subject = self._context.store, self._project.id, _subject(self._predictor.path)
        if self._unknown:
            labels = ", ".join(f"'{label}'" for label in list(self._unknown)[:_NAMED])
            store.problems.report(
                project_id,
                Finding(
                    LabelUnknown.code,
                    "warning",
                    subject,
                    f"Model {self._predictor.path} names labels that the label config lacks, among them {labels}; they "
                    "are left out.",
                    "Put what the model calls a label into predicted_values of that label.",
                ),
            )
        if self._failures or self._gave_up is not None:
            store.problems.report(project_id, self._finding(subject))
            return
        mine = store.inferences.of(project_id, self._predictor.path)
        if not set(mine.task_id[_failed(mine)].tolist()) & store.tasks.available(project_id):
            _settle(store, project_id, subject, kept=LabelUnknown.code if self._unknown else None)

    def _tasks(self, task_ids: Sequence[int]) -> list[dict[str, Any]]:
        data = self._context.store.tasks.data(self._project.id, task_ids)
        return [
            {"id": one, "project": self._project.id, "data": data.get(one, {}), "annotations": [], "predictions": []}
            for one in task_ids
        ]

    def _inference(self, said: Answer | Failure) -> Inference:
        if isinstance(said, Failure):
            self._failures[said.task_id] = said
            log.warning("foreign model failed", task=said.task_id, kind=said.kind, reason=said.message)
            nothing = np.full(len(self._schema.classes), np.nan, np.float32)
            return _inference(said.task_id, self.version_id, math.nan, nothing, ())
        controls = _bare(self._schema).controls
        regions = judgement.shown(said, controls)
        filled = {region["from_name"] for region in regions}
        presence = []
        for control in controls:
            judged = judgement.judge(said, control)
            self._unknown |= dict.fromkeys(judged.unknown)
            presence.append(judged.presence if control.name in filled else np.zeros_like(judged.presence))
        doubt = judgement.uncertainty(said)
        return _inference(said.task_id, self.version_id, doubt, np.concatenate(presence), regions)

    def _finding(self, subject: str) -> Finding:
        path = self._predictor.path
        first = sorted(self._failures)[:_NAMED]
        told = [f"Task {task_id}: {self._failures[task_id].message}" for task_id in first]
        message = f"Model {path} gave no answer for {len(self._failures)} tasks; they are skipped. {' '.join(told)}"
        if self._gave_up is not None:
            message += f" {self._gave_up.message} The rest is asked later."
        about = {"count": len(self._failures), "tasks": first}
        return Finding(ForeignModelFailed.code, "warning", subject, message, ForeignModelFailed.hint, about)


def judging(context: Context, project: Project, *, hurry: bool = False) -> Judging | None:
    """Have the model loaded, as it has learned by now, to ask it about tasks.

    Args:
        context: Store; keeps the model's process.
        project: Whose setting names it.
        hurry: Somebody waits: the model has little time, and one that failed lately is not asked.

    Returns:
        None when it cannot be loaded, which is said as a problem, or may not be asked now.
    """
    schema, path = _must_parse(project), _must_be_named(project)
    recorded = _in_force(context.store, project, schema)
    if hurry and (recorded is None or rests(context, project)):
        return None
    predictor = _predictor(context, project, *((HURRY_LOAD_S, HURRY_ANSWER_S) if hurry else (LOAD_S, ANSWER_S)))
    if recorded is not None and recorded.version_id != _version_id(path, predictor.version, schema):
        predictor.close()  # it may have learned in another process since
    try:
        predictor.predict([])
    except ForeignModelError as error:
        words = f"{error} Our heads rank and pre-annotate meanwhile."
        finding = Finding(error.code, "error", _subject(path), words, error.hint, {"loads": False})
        context.store.problems.report(project.id, finding)
        log.warning("foreign model cannot be loaded", project=project.id, model=path, reason=str(error))
        return None
    if not hurry:
        n_labels, _ = context.store.tasks.answered(project.id)
        _put_in_force(context, project, schema, predictor.version, n_labels)
    return Judging(context, project, predictor)


def version_in_force(context: Context, project: Project) -> str | None:
    """Return the version that judges; None when none has judged for this label config."""
    schema = _schema(project)
    version = None if schema is None else _in_force(context.store, project, schema)
    return None if version is None else version.version_id


def rests(context: Context, project: Project) -> bool:
    """Say whether the model failed lately and is left alone."""
    last_seen = [item.last_seen for item, _ in _open(context.store, project)]
    return any(moment > datetime.now(UTC) - REST for moment in last_seen)


def is_lost(context: Context, project: Project) -> bool:
    """Say whether the model could not be loaded the last time."""
    return any(finding.context.get("loads") is False for _, finding in _open(context.store, project))


def answers(
    store: Store, project_id: int, schema: LabelSchema, task_ids: Collection[int]
) -> dict[int, tuple[dict[str, Any], ...]] | None:
    """Return what the model says about tasks, for annotators; None without a model.

    Returns:
        Task id -> regions above the thresholds of their controls, of the tasks it has answered for this label config.
    """
    project = store.projects.get(project_id)
    path = None if project is None else named(project)
    if path is None:
        return None
    threshold = {control.name: control.threshold for control in schema.controls}
    return {
        task_id: tuple(one for one in seen.result if one.get("score", 1.0) >= threshold[one["from_name"]])
        for task_id, seen in store.inferences.results(project_id, path, task_ids).items()
        if _is_of(seen.version_id, schema) and seen.is_answer
    }


def unseen(store: Store, project_id: int, schema: LabelSchema, task_ids: Collection[int]) -> set[int] | None:
    """Return the tasks that the version in force was never asked about, if it has ever judged; None without a model."""
    project = store.projects.get(project_id)
    if project is None or named(project) is None:
        return None
    if _in_force(store, project, schema) is None:
        return set()
    return set(task_ids) - set(store.inferences.results(project_id, _must_be_named(project), task_ids))


def seen(store: Store, project: Project, schema: LabelSchema) -> tuple[InferenceTable, frozenset[int]] | None:
    """Return what the model said about tasks, and the questions it answers: of the controls it has ever filled."""
    table = store.inferences.of(project.id, _must_be_named(project))
    if not len(table.task_id) or not _is_of(table.version_id[0], schema):
        return None
    named_ever: NDArray[np.bool_] = np.any(table.presence > 0, axis=0)
    questions = [schema.questions[columns] for _, columns in schema.spans if named_ever[columns].any()]
    return table, frozenset(number for some in questions for number in some)


class _Watch:
    """While the model learns: shows that somebody lives, and ends the model's process when that is asked for."""

    def __init__(self, work: Work, predictor: Predictor, beat: Beat) -> None:
        self._work = work
        self._predictor = predictor
        self._beat = beat
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self.cancelled = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        started = time.monotonic()
        budget_s = 60.0 * self._work.settings.training.minutes
        while not self._over.wait(_BEAT_S):
            self._beat()
            seconds = round(time.monotonic() - started, 1)
            progress = {"phase": "learning", "seconds": seconds, "left_s": max(budget_s - seconds, 0.0)}
            if not self._work.context.store.trainings.report(self._work.training.training_id, progress):
                self.cancelled = True
                self._predictor.close()
                return


def _annotated(context: Context, project: Project) -> list[dict[str, Any]]:
    """Return the annotated tasks as Label Studio sends them, the annotation that counts first."""
    hidden = test_set.members(context, project)
    made = context.store.tasks.annotations(project.id)
    counted = {
        task_id: sorted(some, key=lambda one: one is not label_config.standing(some))
        for task_id, given in made.items()
        if task_id not in hidden and (some := [one for one in given if not one.was_cancelled])
    }
    data = context.store.tasks.data(project.id, counted)
    return [
        {"id": task_id, "project": project.id, "data": data[task_id], "annotations": [_plain(one) for one in some]}
        for task_id, some in counted.items()
        if task_id in data
    ]


def _plain(annotation: Annotation) -> dict[str, Any]:
    return {
        "id": annotation.annotation_id,
        "task": annotation.task_id,
        "result": list(annotation.result),
        "was_cancelled": annotation.was_cancelled,
        "ground_truth": annotation.ground_truth,
        "completed_by": annotation.completed_by,
        "created_at": annotation.created_at.isoformat(),
        "updated_at": annotation.updated_at.isoformat(),
    }


def _inference(
    task_id: int, version_id: str, doubt: float, presence: NDArray[np.float32], regions: tuple[dict[str, Any], ...]
) -> Inference:
    scores = [score_of(region) for region in regions]
    return Inference(
        task_id=task_id,
        version_id=version_id,
        uncertainty=doubt,
        presence=presence,
        embedding=np.zeros(0, np.float32),
        scores=tuple(math.nan if score is None else 1.0 - score for score in scores),
        result=regions,
    )


def _failed(table: InferenceTable) -> NDArray[np.bool_]:
    failed: NDArray[np.bool_] = np.any(np.isnan(table.presence), axis=1)
    return failed


def _predictor(context: Context, project: Project, load_s: float, answer_s: float) -> Predictor:
    predictor = context.predictor(project, _must_be_named(project))
    predictor.load_timeout_s, predictor.timeout_s = load_s, answer_s
    return predictor


def _put_in_force(context: Context, project: Project, schema: LabelSchema, state: str, n_labels: int) -> DeepVersion:
    """Record which version the model is now.

    It may be one that was before: its folder is lost, or the label config is an old one again. Then what that version
    said once is forgotten, for it may have learned from other labels now.
    """
    store, path = context.store, _must_be_named(project)
    version_id = _version_id(path, state, schema)
    current = store.deep_versions.in_force(project.id, path)
    if current is not None and current.version_id == version_id:
        return current
    known = store.deep_versions.list(project.id, path)
    before = next((version for version in known if version.version_id == version_id), None)
    if before is not None or (current is not None and not _is_of(current.version_id, schema)):
        store.inferences.forget(project.id, path)
    if before is not None:
        for version in known:
            if version.number > before.number and version.state == "promoted":
                store.deep_versions.set_state(project.id, version.version_id, "retired")
        store.deep_versions.set_state(project.id, version_id, "promoted")
        return before
    made = DeepVersion(
        version_id=version_id,
        project_id=project.id,
        control=path,
        kind=KIND,
        number=store.deep_versions.next_number(project.id),
        backbone="",
        classes=schema.classes,
        n_labels=n_labels,
        labels_digest="",
        metrics={},
        state="promoted",
        created_at=datetime.now(UTC),
    )
    store.deep_versions.add(made)
    log.info("foreign model", project=project.id, version=version_id)
    return made


def _in_force(store: Store, project: Project, schema: LabelSchema) -> DeepVersion | None:
    version = store.deep_versions.in_force(project.id, _must_be_named(project))
    return version if version is not None and _is_of(version.version_id, schema) else None


def _version_id(path: str, state: str, schema: LabelSchema) -> str:
    return f"{path}:{state}:{_digest(schema)}"


def _is_of(version_id: str, schema: LabelSchema) -> bool:
    return version_id.endswith(f":{_digest(schema)}")


def _digest(schema: LabelSchema) -> str:
    return hashlib.sha256(repr(_bare(schema)).encode()).hexdigest()[:8]


def _bare(schema: LabelSchema) -> LabelSchema:
    """Return the label config without thresholds: they may change without the model being asked again."""
    return replace(schema, controls=tuple(replace(control, threshold=0.0) for control in schema.controls))


def _schema(project: Project) -> LabelSchema | None:
    try:
        return label_config.parse(project.label_config or "")
    except ConfigUnsupported:
        return None


def _must_parse(project: Project) -> LabelSchema:
    return label_config.parse(project.label_config or "")


def _must_be_named(project: Project) -> str:
    path = named(project)
    assert path is not None, "who comes here has asked for the model's stand-in"
    return path


def _subject(path: str) -> str:
    return f"foreign model {path}"


def _open(store: Store, project: Project) -> list[tuple[Any, Finding]]:
    subject = _subject(_must_be_named(project))
    codes = {ForeignModelUnknown.code, ForeignModelFailed.code}
    found = [(item, item.finding) for item in store.problems.open(project.id)]
    return [(item, finding) for item, finding in found if finding.subject == subject and finding.code in codes]


def _settle(store: Store, project_id: int, subject: str, *, kept: str | None) -> None:
    for problem in store.problems.open(project_id):
        if problem.finding.subject == subject and problem.finding.code != kept:
            store.problems.resolve(project_id, problem.finding.code, subject)


def forget_others(context: Context, project: Project, names: Mapping[str, object] | Collection[str]) -> None:
    """Forget what versions saw that nobody asks for any more, and what was wrong with models that are gone.

    Args:
        context: Store.
        project: Whose settings or label config have changed.
        names: Controls, or the model, whose versions judge now.
    """
    store = context.store
    for name in store.inferences.controls(project.id):
        if name not in names:
            store.inferences.forget(project.id, name)
    mine = {_subject(name) for name in names}
    for problem in store.problems.open(project.id):
        finding = problem.finding
        if finding.subject.startswith(_subject("")) and finding.subject not in mine:
            store.problems.resolve(project.id, finding.code, finding.subject)
