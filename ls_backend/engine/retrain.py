"""Labels become a model version; the gate decides whether it serves."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ls_backend import logs
from ls_backend.domain import Finding, LabelSchema, ModelVersion
from ls_backend.engine.context import Context
from ls_backend.errors import BackendError, Diverged, StoreError, TooFewLabels, TrainingError
from ls_backend.store import Project

if TYPE_CHECKING:
    from ls_backend.vision.classifier import Classifier
    from ls_backend.vision.features import Standardiser

log = logs.get(__name__)

MIN_GATE_HOLDOUT = 20
"""Hold-out labels below which two versions cannot be told apart and the newer one serves."""


@dataclass(frozen=True)
class Labelled:
    """The labelled tasks that have an embedding.

    Attributes:
        task_ids: (m,) int64.
        rows: (m,) int64 indices into the embedded tasks.
        targets: (m, c) int8 by class of the schema: 1 the label holds, 0 it does not, -1 not answered.
        holdout: (m,) bool; the locked test set where there is one.
        locked: Whether the hold-out is a test set, so that no head learns from it.
        features: (m, d) float32, standardised.
        hashes: Content hash of each.
        digest: SHA-256 over the sorted (task id, label) pairs, and over what of them is a test set.
        backbone: Network that made the features.
    """

    task_ids: NDArray[np.int64]
    rows: NDArray[np.int64]
    targets: NDArray[np.int8]
    holdout: NDArray[np.bool_]
    features: NDArray[np.float32]
    hashes: list[str]
    digest: str
    backbone: str
    locked: bool = False

    @property
    def learnt(self) -> NDArray[np.int64]:
        """Rows of the labels the served head learns from: all of them, but for those of a test set."""
        return np.flatnonzero(~self.holdout) if self.locked else np.arange(len(self.holdout))


@dataclass(frozen=True)
class Model:
    """A model version, loaded.

    Attributes:
        version: Its record.
        classifier: Fitted on every label; the one that predicts.
        evaluation: Fitted without the hold-out; the one that is measured.
        standardiser: Of the raw embeddings it was trained on.
    """

    version: ModelVersion
    classifier: Classifier
    evaluation: Classifier
    standardiser: Standardiser


def digest_of(task_ids: NDArray[np.int64], labels: list[str], test_set: NDArray[np.int64] | None = None) -> str:
    """Return what identifies a set of labels: SHA-256 over its sorted (task id, label) pairs.

    With a test set the ids of its labelled tasks count, too: the same labels teach another head once some are locked.
    """
    pairs = sorted(zip(task_ids.tolist(), labels, strict=True))
    told = repr(pairs) if test_set is None else repr((pairs, sorted(test_set.tolist())))
    return hashlib.sha256(told.encode()).hexdigest()


def due(
    context: Context, project: Project, schema: LabelSchema, labelled: Labelled, serving: ModelVersion | None
) -> bool:
    """Say whether the labels call for a new model version.

    Fewer new labels than `retrain_after` wait; a changed or withdrawn label and another set of classes never do.
    """
    settings = context.project_settings(project)
    if len(labelled.learnt) < settings.min_labels:
        return False
    latest = context.store.versions.latest(project.id, labelled.backbone)
    if latest is None or latest.state == "retired" or not latest.answers(schema):
        return True
    if latest.labels_digest == labelled.digest:
        return False
    new = len(labelled.task_ids) - latest.n_labels
    return serving is None or new <= 0 or new >= settings.retrain_after


def retrain(
    context: Context, project: Project, schema: LabelSchema, labelled: Labelled, standardiser: Standardiser
) -> Model | None:
    """Fit heads on all labels, measure their siblings on the hold-out, keep it for ever, promote it unless it is worse.

    Returns:
        The new model, promoted or rejected; None when there is too little to learn from, which is said as a problem.
    """
    from ls_backend.vision import checkpoints, classifier  # noqa: PLC0415 - slow to import

    settings = context.project_settings(project)
    problems = context.store.problems
    try:
        trained = classifier.train(
            labelled.features,
            labelled.targets,
            labelled.holdout,
            [(len(control.classes), control.multiple) for control in schema.controls],
            seed=settings.seed,
            locked=labelled.locked,
        )
    except TooFewLabels as error:
        problems.report(project.id, Finding(error.code, "warning", "training", str(error), error.hint))
        return None
    except TrainingError as error:
        problems.report(project.id, Finding(error.code, "error", "training", str(error), error.hint))
        log.exception("training failed", project=project.id)
        return None
    for code in (TooFewLabels.code, TrainingError.code, Diverged.code):
        problems.resolve(project.id, code, "training")
    weights = b"".join(head.weights.tobytes() for head in trained.classifier.heads)
    content = hashlib.sha256(weights + labelled.digest.encode()).hexdigest()
    kept = set(checkpoints.names(context.settings.models_path / str(project.id)))
    number = context.store.projects.next_round(project.id)
    while f"al-{number}-{content[:8]}" in kept:  # the database is younger than the models
        number = context.store.projects.next_round(project.id)
    version = ModelVersion(
        version_id=f"al-{number}-{content[:8]}",
        project_id=project.id,
        round=number,
        backbone=labelled.backbone,
        classes=schema.classes,
        questions=schema.questions,
        n_labels=len(labelled.task_ids),
        labels_digest=labelled.digest,
        temperature=trained.classifier.heads[0].temperature,
        metrics=trained.metrics,
        state="promoted",
        created_at=datetime.now(UTC),
    )
    model = Model(version, trained.classifier, trained.evaluation, standardiser)
    reason = _gate(context, project, model, labelled)
    if reason:
        model = replace(model, version=replace(version, state="rejected", reason=reason))
        log.info("version rejected", project=project.id, version=version.version_id, reason=reason)
    _save(context, model)
    context.store.versions.add(model.version)
    serving = context.store.versions.in_force(project.id)
    context.store.predictions.keep_only(project.id, [serving.version_id] if serving else [])
    return model


def _gate(context: Context, project: Project, candidate: Model, labelled: Labelled) -> str | None:
    """Return why a candidate must not serve, or None.

    Both evaluation heads are measured on today's hold-out, which neither has seen. The candidate is refused when its
    log loss is worse by more than one standard error of the paired differences: worse beyond what so few labels
    could produce by chance. They may stand on different backbones: each judges the same images by its own features.
    """
    serving = context.store.versions.in_force(project.id)
    members = labelled.holdout
    if serving is None or int(members.sum()) < MIN_GATE_HOLDOUT:
        return None
    if (serving.classes, serving.questions) != (candidate.version.classes, candidate.version.questions):
        return None  # other classes make another task; nothing to compare
    if serving.metrics.test_set != labelled.locked:
        return None  # one of the two may have learnt from what the other is measured on
    old = load(context, serving)
    seen = labelled.features[members], labelled.features[members]
    if not old.standardiser.equals(candidate.standardiser):
        try:
            raw = context.raw_embeddings(serving.backbone, [labelled.hashes[i] for i in np.flatnonzero(members)])
        except BackendError:  # its backbone cannot be loaded any more, or its embeddings are lost
            return None
        seen = seen[0], old.standardiser.apply(raw)
    truth = labelled.targets[members]
    losses = [model.evaluation.losses(features, truth) for model, features in zip((candidate, old), seen, strict=True)]
    worse = losses[0] - losses[1]
    error = float(worse.std(ddof=1) / np.sqrt(len(worse)))
    if float(worse.mean()) > max(error, 1e-3):
        where = "test set" if labelled.locked else "hold-out"
        return f"log loss on {len(worse)} labels of the {where} is {worse.mean():.3f} above {serving.version_id}"
    return None


def serving_model(context: Context, project_id: int) -> Model | None:
    """Return the model in force, loaded; one whose files are lost is retired, and the one before it serves."""
    store = context.store
    while (version := store.versions.in_force(project_id)) is not None:
        try:
            return load(context, version)
        except StoreError as error:
            log.warning("model version lost", project=project_id, version=version.version_id, reason=str(error))
            store.versions.set_state(project_id, version.version_id, "retired")
            if context.project(project_id).pinned_version == version.version_id:
                store.projects.pin(project_id, None)
            subject = f"model version {version.version_id}"
            remedy = "Keep MODEL_DIR on lasting storage; a new version is trained from the labels."
            store.problems.report(project_id, Finding(error.code, "warning", subject, str(error), remedy))
    return None


def folder_of(context: Context, version: ModelVersion) -> Path:
    """Return where a model version lies."""
    return context.settings.models_path / str(version.project_id) / version.version_id


def _save(context: Context, model: Model) -> None:
    from ls_backend.vision import checkpoints  # noqa: PLC0415 - slow to import

    version = model.version
    arrays = {
        f"{part}.{key}": value
        for part, item in (
            ("head", model.classifier),
            ("evaluation", model.evaluation),
            ("standardiser", model.standardiser),
        )
        for key, value in item.arrays().items()
    }
    card = {
        "version": version.version_id,
        "project": version.project_id,
        "round": version.round,
        "backbone": version.backbone,
        "classes": list(version.classes),
        "questions": list(version.questions),
        "n_labels": version.n_labels,
        "labels_digest": version.labels_digest,
        "temperature": version.temperature,
        "metrics": asdict(version.metrics),
        "created_at": version.created_at.isoformat(),
    }
    checkpoints.save(folder_of(context, version), card, arrays)


def load(context: Context, version: ModelVersion) -> Model:
    """Load a model version from its folder.

    Raises:
        StoreError: The folder is missing or damaged.
    """
    from ls_backend.vision import checkpoints  # noqa: PLC0415 - slow to import
    from ls_backend.vision.classifier import Classifier  # noqa: PLC0415 - slow to import
    from ls_backend.vision.features import Standardiser  # noqa: PLC0415 - slow to import

    _, arrays = checkpoints.load(folder_of(context, version))
    parts: dict[str, dict[str, NDArray[Any]]] = {}
    for name, value in arrays.items():
        part, _, key = name.partition(".")
        parts.setdefault(part, {})[key] = value
    return Model(
        version,
        Classifier.from_arrays(parts["head"]),
        Classifier.from_arrays(parts["evaluation"]),
        Standardiser.from_arrays(parts["standardiser"]),
    )
