"""Deeper training: when it is due, what it learns from, and whether what it made serves.

The records say what is wanted (`store.trainings`); the job layer runs `train` in a process of its own. That process may
die anywhere: the labels it began with and the state of the optimiser lie in a hidden folder beside the versions, and
the next one goes on from there.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ls_backend import logs
from ls_backend.domain import Control, Finding
from ls_backend.engine import backbones, foreign_model, snapshot
from ls_backend.engine.context import Context
from ls_backend.engine.learners import LEARNERS, Judge
from ls_backend.engine.snapshot import Snapshot
from ls_backend.errors import (
    BackbonePending,
    BackendError,
    ConfigUnsupported,
    LabelStudioError,
    SettingsError,
    StoreError,
    TooFewLabels,
    TrainingError,
)
from ls_backend.labelstudio import label_config
from ls_backend.settings import ProjectSettings
from ls_backend.store import DeepVersion, Project, Training

if TYPE_CHECKING:
    from ls_backend.vision.backbones import Backbone
    from ls_backend.vision.deep import Fitted, Progress

log = logs.get(__name__)

MIN_GATE_HOLDOUT = 8
"""Images to measure on below which two versions cannot be told apart and the newer one serves."""

TOLERANCE = 0.01
"""Loss of quality per image, of 1, that is never called worse."""

_BATCH = 8  # images a model looks at in one go
_REPORT_S = 1.0
_FOLDER = ".training-"

Beat = Callable[[], None]
"""Called at least every few seconds while the work goes on: silence means that it hangs."""


@dataclass(frozen=True)
class Work:
    """What one training is about.

    Attributes:
        folder: Where what a killed process leaves lies until the training is over.
    """

    context: Context
    project: Project
    control: Control
    training: Training
    settings: ProjectSettings
    folder: Path


@dataclass(frozen=True, eq=False)
class DeepModel:
    """A deep version, loaded.

    Attributes:
        version: Its record.
        judge: Looks at images.
        learnt: Ids of the tasks it has learnt from.
    """

    version: DeepVersion
    judge: Judge
    learnt: frozenset[int]


def controls(project: Project) -> list[Control]:
    """Return the controls of a project that we learn deeply: none where somebody else's model predicts."""
    if foreign_model.named(project) is not None:
        return []
    try:
        schema = label_config.parse(project.label_config or "")
    except ConfigUnsupported:
        return []
    return [control for control in schema.controls if control.kind in LEARNERS]


def subjects(project: Project) -> list[Control]:
    """Return what is trained and judges: the controls that can be learnt deeply, or what stands for a foreign model."""
    stand_in = foreign_model.stand_in(project)
    return controls(project) if stand_in is None else [stand_in]


def subject_of(project: Project, name: str) -> Control:
    """Return one of the `subjects`.

    Raises:
        TrainingError: There is none of that name.
    """
    for control in subjects(project):
        if control.name == name:
            return control
    raise TrainingError(
        f"{name!r} is no longer the foreign model, or no longer a control that can be trained deeper.",
        hint="Nothing, if it was removed on purpose.",
    )


def due(context: Context, project: Project, control: Control) -> bool:
    """Say whether the annotations call for a deeper training of a control.

    It takes `min_labels` annotated tasks, and then `training.after` that were annotated or corrected since the last
    training, however that ended: one that fails is not repeated on the same labels. Other classes never wait.
    """
    settings = context.project_settings(project)
    n_labels, _ = context.store.tasks.answered(project.id)
    if n_labels < settings.min_labels:
        return False
    last = context.store.trainings.latest(project.id, control.name)
    if last is None or (last.classes != control.classes and not last.is_open):
        return True
    if last.is_open:
        return False
    new, _ = context.store.tasks.answered(project.id, last.labels_until)
    return new >= settings.training.after


def ask(context: Context, project_id: int, *, control: str | None = None, force: bool = False) -> list[Training]:
    """Want a training of every control that calls for one.

    Args:
        context: Store.
        project_id: Whose controls.
        control: This one only.
        force: Whether it is due or not.

    Returns:
        The trainings that are open now because of this.

    Raises:
        SettingsError: There is no such control, or none that can be learnt deeply.
    """
    project = context.project(project_id)
    able = subjects(project)
    foreign_model.forget_others(context, project, {item.name for item in able})
    chosen = [item for item in able if control in (None, item.name)]
    if force and not chosen:
        names = ", ".join(item.name for item in able) or "none"
        raise SettingsError(
            f"Project {project_id} has no control "
            + (f"{control!r} " if control else "")
            + f"that can be trained deeper; those that can: {names}.",
            hint="Deeper training is for RectangleLabels, PolygonLabels, BrushLabels, and for the setting model.",
        )
    if not chosen:
        return []
    n_labels, newest = context.store.tasks.answered(project_id)
    return [
        context.store.trainings.ask(project_id, item.name, classes=item.classes, n_labels=n_labels, labels_until=newest)
        for item in chosen
        if force or due(context, project, item)
    ]


def train(context: Context, training_id: int, beat: Beat) -> DeepVersion | None:
    """Carry out a training that is open, or go on with one whose process was killed.

    Args:
        context: Store, images, backbone.
        training_id: Of the records.
        beat: Called about every second.

    Returns:
        The version it made, promoted or rejected; None when it was cancelled, failed, or was over before.

    Raises:
        LabelStudioError: Images cannot be had now; the training stays open.
        StoreError: A database or disk refused; likewise.
        BackbonePending: The weights of the backbone are on their way; likewise.
    """
    training = context.store.trainings.get(training_id)
    if training is None or not training.is_open:
        return None
    project = context.project(training.project_id)
    folder = context.settings.models_path / str(project.id) / f"{_FOLDER}{training_id}"
    version = None
    try:
        control = subject_of(project, training.control)
        work = Work(context, project, control, training, context.project_settings(project), folder)
        if _begin(work):
            is_foreign = control.kind == foreign_model.KIND
            version = foreign_model.learn(work, beat) if is_foreign else _train(work, beat)
    except (LabelStudioError, StoreError, BackbonePending):
        raise
    except BackendError as error:
        _failed(context, training, error)
    except Exception as error:  # whatever a model raises ends its training, is told, and nothing else
        log.exception("deeper training failed", project=project.id, control=training.control)
        words = f"Deeper training of {training.control} failed: {type(error).__name__}: {error}"
        _failed(context, training, TrainingError(words, hint="Read the log of the worker; report it."))
    else:
        _succeeded(context, training, version)
    shutil.rmtree(folder, ignore_errors=True)
    return version


def give_up(context: Context, training_id: int, code: int | None, deaths: int) -> None:
    """Record that a training has killed its process too often.

    Args:
        context: Store.
        training_id: Of the records.
        code: Exit code of the last process; None when it was killed because it hung.
        deaths: How often it happened.
    """
    training = context.store.trainings.get(training_id)
    if training is None:
        return
    how = "hung and was killed" if code is None else f"ended with code {code}"
    words = f"Deeper training of {training.control} {how}, the {deaths}. time; it is not tried again on these labels."
    hint = "Code -9 means that memory was short: set training.image_px lower, or give the worker more memory."
    _failed(context, training, TrainingError(words, hint=hint))


def serving(context: Context, project: Project, control: Control) -> DeepModel | None:
    """Return the version in force, loaded; one whose files are lost is retired, and the one before it serves.

    A version of other classes than the control has now does not serve.
    """
    store = context.store
    while (version := store.deep_versions.in_force(project.id, control.name)) is not None:
        if (version.classes, version.kind) != (control.classes, control.kind):
            return None
        try:
            return _load(context, version)
        except StoreError as error:
            log.warning("deep version lost", project=project.id, version=version.version_id, reason=str(error))
            store.deep_versions.set_state(project.id, version.version_id, "retired")
            subject = f"deep version {version.version_id}"
            remedy = "Keep MODEL_DIR on lasting storage; a new version is trained from the labels."
            store.problems.report(project.id, Finding(error.code, "warning", subject, str(error), remedy))
    return None


def _begin(work: Work) -> bool:
    """Record what is learnt from; answers whether to go on."""
    store, training = work.context.store, work.training
    n_labels, newest = training.n_labels, training.labels_until
    if training.started_at is None:  # one that goes on after a crash knows no later labels
        n_labels, newest = store.tasks.answered(work.project.id)
    _clear(work)
    return store.trainings.begin(
        training.training_id, classes=work.control.classes, n_labels=n_labels, labels_until=newest
    )


def _train(work: Work, beat: Beat) -> DeepVersion | None:
    """Return the new version; None when somebody cancelled."""
    project, control = work.project, work.control
    report = _Reporter(work, beat)
    learner = LEARNERS[control.kind]
    shown = snapshot.take(work.context, project, control, learner, work.folder / "labels", report.reading)
    if shown is None:
        return None
    if len(shown.learn) < 2 or not shown.shows_something():
        raise TooFewLabels(
            f"Control {control.name} has {len(shown.learn)} annotated images to learn from; expected two or more, and "
            "a region in one of them."
        )
    backbone = work.context.backbone(backbones.in_force(work.context, project))
    fitted = _fit(work, shown, backbone, report)
    if fitted.stopped == "cancelled":
        return None
    return _keep(work, shown, fitted, backbone, report)


def _fit(work: Work, shown: Snapshot, backbone: Backbone, report: _Reporter) -> Fitted:
    from ls_backend.vision.deep import Recipe  # noqa: PLC0415 - brings torch

    training = work.settings.training
    recipe = Recipe(
        n_classes=len(work.control.classes),
        finetune=training.depth == "finetune",
        seconds=60.0 * training.minutes,
        seed=work.settings.seed,
        device=backbone.device,
    )
    module = LEARNERS[work.control.kind].load_module()
    folder = work.folder / f"model-{shown.digest[:8]}"  # what another snapshot was learnt from cannot be gone on with
    return module.fit(backbone, shown, shown.learn, shown.measured, recipe, folder=folder, report=report.learning)


def _keep(work: Work, shown: Snapshot, fitted: Fitted, backbone: Backbone, report: _Reporter) -> DeepVersion:
    """Keep what was trained for ever, and promote it unless it is worse than the version in force."""
    from ls_backend.vision import checkpoints  # noqa: PLC0415 - slow to import

    store, project, control = work.context.store, work.project, work.control
    content = _content(fitted.arrays, shown.digest)
    for known in store.deep_versions.list(project.id, control.name):
        if known.version_id.endswith(f"-{content[:8]}") and known.state != "retired":
            return known  # recorded by a process that died right afterwards
    number = store.deep_versions.next_number(project.id)
    version = DeepVersion(
        version_id=f"deep-{number}-{content[:8]}",
        project_id=project.id,
        control=control.name,
        kind=control.kind,
        number=number,
        backbone=backbone.name,
        classes=control.classes,
        n_labels=len(shown),
        labels_digest=shown.digest,
        metrics={name: float(value) for name, value in fitted.metrics.items()},
        state="promoted",
        created_at=datetime.now(UTC),
    )
    judge = LEARNERS[control.kind].load_module().load(backbone, fitted.arrays, len(control.classes), backbone.device)
    learnt = shown.task_ids[shown.learn].tolist()
    reason = _gate(work, shown, judge, report)
    if reason is not None:
        version = replace(version, state="rejected", reason=reason)
    folder = folder_of(work.context, version)
    if not folder.exists():  # else a process that died before it was recorded has saved the very same
        card = {**asdict(version), "created_at": version.created_at.isoformat(), "learnt": learnt}
        checkpoints.save(folder, card, fitted.arrays)
    before = store.deep_versions.in_force(project.id, control.name)
    if reason is None and before and (before.classes, before.backbone) != (version.classes, version.backbone):
        store.inferences.forget(project.id, control.name)  # its columns mean something else, or have another length
    store.deep_versions.add(version)
    log.info(
        "deep version",
        project=project.id,
        version=version.version_id,
        state=version.state,
        reason=reason,
        stopped=fitted.stopped,
        **version.metrics,
    )
    return version


def _gate(work: Work, shown: Snapshot, candidate: Judge, report: _Reporter) -> str | None:
    """Return why a candidate must not serve, or None.

    Candidate and version in force look at today's hold-out, as far as the version in force has not learnt from it. The
    candidate is refused when its quality per image is lower by more than one standard error of the paired differences,
    and by more than `TOLERANCE`: worse beyond what so few images could produce by chance.
    """
    old = serving(work.context, work.project, work.control)
    if old is None:
        return None
    fair = [i for i in shown.measured.tolist() if int(shown.task_ids[i]) not in old.learnt]
    if len(fair) < MIN_GATE_HOLDOUT:
        return None
    quality = LEARNERS[work.control.kind].quality
    pairs = []
    for start in range(0, len(fair), _BATCH):
        some = fair[start : start + _BATCH]
        images = [shown.image(i) for i in some]
        for i, new, before in zip(some, candidate.judge(images), old.judge.judge(images), strict=True):
            truth = shown.truth(i)
            pairs.append((quality(new, truth), quality(before, truth)))
        report.comparing(start + len(some), len(fair))
    worse = np.array(pairs) @ [-1.0, 1.0]
    error = float(worse.std(ddof=1) / np.sqrt(len(worse)))
    if float(worse.mean()) > max(error, TOLERANCE):
        name = old.version.version_id
        return f"its quality on {len(worse)} hold-out images is {worse.mean():.3f} below that of {name}"
    return None


class _Reporter:
    """Writes how far a training is, once a second and with each phase, and reads whether somebody cancelled it."""

    def __init__(self, work: Work, beat: Beat) -> None:
        self._trainings = work.context.store.trainings
        self._training_id = work.training.training_id
        self._budget_s = 60.0 * work.settings.training.minutes
        self._beat = beat
        self._phase = ""
        self._told_at = 0.0
        self._goes_on = True

    def reading(self, done: int, of: int) -> bool:
        """Images read; answers whether to go on."""
        return self._tell({"phase": "reading", "images": done, "of": of})

    def learning(self, progress: Progress) -> bool:
        """Epochs done; answers whether to go on."""
        left_s = self._budget_s - progress.seconds
        if progress.epoch:
            left_s = min(left_s, progress.seconds / progress.epoch * (progress.epochs - progress.epoch))
        return self._tell({"phase": "learning", **asdict(progress), "left_s": round(max(left_s, 0.0), 1)})

    def comparing(self, done: int, of: int) -> bool:
        """Images of the hold-out that both versions have looked at."""
        return self._tell({"phase": "comparing", "images": done, "of": of})

    def _tell(self, progress: dict[str, Any]) -> bool:
        if progress["phase"] != self._phase or time.monotonic() - self._told_at >= _REPORT_S:
            self._phase, self._told_at = progress["phase"], time.monotonic()
            self._beat()
            self._goes_on = self._trainings.report(self._training_id, progress)
        return self._goes_on


def folder_of(context: Context, version: DeepVersion) -> Path:
    """Return where a deep version lies."""
    return context.settings.models_path / str(version.project_id) / version.version_id


def _load(context: Context, version: DeepVersion) -> DeepModel:
    """Load a deep version from its folder.

    Raises:
        StoreError: The folder is missing or damaged.
    """
    from ls_backend.vision import checkpoints  # noqa: PLC0415 - slow to import

    card, arrays = checkpoints.load(folder_of(context, version))
    backbone = context.backbone(version.backbone)
    module = LEARNERS[version.kind].load_module()
    judge = module.load(backbone, arrays, len(version.classes), backbone.device)
    return DeepModel(version, judge, frozenset(card["learnt"]))


def _content(arrays: Mapping[str, NDArray[Any]], digest: str) -> str:
    """Digest what a training has made, and from what."""
    made = hashlib.sha256(digest.encode())
    for name in sorted(arrays):
        made.update(name.encode())
        made.update(np.ascontiguousarray(arrays[name]).tobytes())
    return made.hexdigest()


def _clear(work: Work) -> None:
    """Remove what trainings that are over have left because their process died at the very end."""
    still = {f"{_FOLDER}{training.training_id}" for training in work.context.store.trainings.open()}
    for path in work.folder.parent.glob(f"{_FOLDER}*"):
        if path.name not in still:
            shutil.rmtree(path, ignore_errors=True)


def _subject(training: Training) -> str:
    return f"training of {training.control}"


def _failed(context: Context, training: Training, error: BackendError) -> None:
    context.store.trainings.finish(training.training_id, "failed", error=str(error))
    level = "warning" if isinstance(error, TooFewLabels) else "error"
    finding = Finding(error.code, level, _subject(training), str(error), error.hint)
    context.store.problems.report(training.project_id, finding)
    log.warning("deeper training failed", project=training.project_id, control=training.control, error=str(error))


def _succeeded(context: Context, training: Training, version: DeepVersion | None) -> None:
    if version is None:
        context.store.trainings.finish(training.training_id, "cancelled")
        return
    context.store.trainings.finish(training.training_id, "done", version_id=version.version_id)
    for problem in context.store.problems.open(training.project_id):
        if problem.finding.subject == _subject(training):
            context.store.problems.resolve(training.project_id, problem.finding.code, _subject(training))
