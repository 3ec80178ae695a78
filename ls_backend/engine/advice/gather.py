"""A project's records and embeddings, laid out for each part of the advice."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ls_backend import logs
from ls_backend.domain import LabelSchema
from ls_backend.engine import backbones
from ls_backend.engine.advice.disagreement import Disagreement, find_disagreement
from ls_backend.engine.advice.drift import Drift, find_drift
from ls_backend.engine.advice.duplicates import Copies, find_duplicates
from ls_backend.engine.advice.relabel import MIN_LABELS, Relabel, find_suspects
from ls_backend.engine.advice.stopping import Stop, spaced, stopping
from ls_backend.engine.context import Context
from ls_backend.engine.insights import spoken
from ls_backend.engine.known import Say
from ls_backend.engine.retrain import Model, load
from ls_backend.engine.view import View, as_fitted, view
from ls_backend.errors import StoreError
from ls_backend.labelstudio import label_config
from ls_backend.store import Project, Store

KIND = "advice"
"""Under which kind it is kept among the insights."""

STOP_SET = 2000
"""Random tasks on which successive models are compared."""

MOST_OF_POOL = 5000
"""Random tasks without a label on which the newest model's error is estimated."""

PAUSE = timedelta(minutes=10)
MORE_LABELS = 50
MORE_SHARE = 0.1
"""Advice is made again after 10 minutes, or sooner when 50 labels have come since, and a tenth of what there was."""

log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do next, in words and numbers.

    Attributes:
        n_labels: Labelled tasks with an embedding when it was made.
        stop: Whether to go on labelling.
        relabel: Labels to look at once more.
        disagreement: Tasks whose annotators differ.
        duplicates: Tasks that show nearly the same.
        drift: Whether the newest tasks differ from those before.
    """

    n_labels: int
    stop: Stop
    relabel: Relabel
    disagreement: Disagreement
    duplicates: Copies
    drift: Drift

    def plain(self) -> dict[str, Any]:
        """Return everything as JSON can hold it: lists under their names, what is said of them under "sentences"."""
        parts = {name: asdict(getattr(self, name)) for name in ("relabel", "disagreement", "duplicates")}
        return {
            "n_labels": self.n_labels,
            "stop": asdict(self.stop),
            "relabel": parts["relabel"].pop("suspects"),
            "disagreement": parts["disagreement"].pop("tasks"),
            "duplicates": parts["duplicates"].pop("groups"),
            "drift": asdict(self.drift),
            "sentences": {
                "stop": self.stop.sentence,
                **{name: part.pop("sentence") for name, part in parts.items()},
                "drift": self.drift.sentence,
            },
            "numbers": parts,
        }


def due(store: Store, project_id: int) -> bool:
    """Say whether workers should make advice again: it takes a minute of a processor, so neither early nor often."""
    n_labels = store.tasks.counts(project_id).labelled
    if n_labels < MIN_LABELS:
        return False
    made = store.insights.get(project_id, KIND)
    if made is None:
        return True
    before: int = made.content["n_labels"]
    changed = n_labels != before
    return (changed and datetime.now(UTC) - made.made_at >= PAUSE) or (
        n_labels - before >= max(MORE_LABELS, MORE_SHARE * before)
    )


def renew(context: Context, project_id: int, *, say: Say) -> None:
    """Make advice and keep it as the insight "advice"; raises what `advise` raises."""
    context.store.insights.put(project_id, KIND, advise(context, project_id, say=say).plain())


def advise(context: Context, project_id: int, *, say: Say = lambda _: None) -> Advice:
    """Look at a project from all sides. Nothing is read from Label Studio and nothing is written.

    Args:
        context: Store and embeddings.
        project_id: A connected project.
        say: Told how far it is.

    Raises:
        SettingsError: If it was never connected, or its backbone cannot be had.
        ConfigUnsupported: If its label config has nothing to learn.
        BackbonePending: If its backbone is on its way.
        Diverged: If embeddings are not finite.
    """
    project = context.project(project_id)
    schema = label_config.parse(project.label_config or "")
    seed = context.project_settings(project).seed
    say("reading embeddings")
    seen = view(context, project, schema, backbones.in_force(context, project), read_again=False)
    say("comparing annotators")
    table = context.store.tasks.rows(project_id) if seen is None else seen.table
    several = table.task_id[table.n_annotations >= 2].tolist()
    disagreement = find_disagreement(schema, context.store.tasks.annotations(project_id, several))
    if seen is None:
        return _without_embeddings(schema, disagreement)
    say("comparing models")
    stop = _stop(context, project, schema, seen, seed)
    say("looking for wrong labels")
    learnt = seen.labelled.learnt  # nothing may learn from the labels of a test set
    relabel = find_suspects(
        schema, seen.labelled.task_ids[learnt], seen.labelled.features[learnt], seen.labelled.targets[learnt], seed=seed
    )
    say("looking for near-duplicates")
    everything = np.arange(len(seen.embedded))
    task_ids = seen.task_ids(everything)
    labels = [None if label is None else spoken(schema, label) for label in table.label[seen.embedded]]
    duplicates = find_duplicates(task_ids, seen.hashes(everything), labels, seen.features)
    say("comparing the newest tasks with those before")
    labelled = np.array([label is not None for label in labels], dtype=np.bool_)
    drift = find_drift(task_ids, seen.features, labelled, seed=seed)
    return Advice(len(seen.labelled.task_ids), stop, relabel, disagreement, duplicates, drift)


def _without_embeddings(schema: LabelSchema, disagreement: Disagreement) -> Advice:
    """Say of everything that it is too early."""
    none, nowhere = np.empty(0, np.int64), np.empty((0, 1), np.float32)
    c = len(schema.classes)
    return Advice(
        n_labels=0,
        stop=stopping(schema, [], [], np.empty((0, c), np.float32), np.empty((0, 0), np.bool_), locked=False),
        relabel=find_suspects(schema, none, nowhere, np.empty((0, c), np.int8), seed=0),
        disagreement=disagreement,
        duplicates=find_duplicates(none, [], [], nowhere),
        drift=find_drift(none, nowhere, np.empty(0, np.bool_), seed=0),
    )


def _stop(context: Context, project: Project, schema: LabelSchema, seen: View, seed: int) -> Stop:
    """Have models of the past judge tasks of today."""
    models = _models(context, project, schema, seen)
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.permutation(len(seen.embedded))[:STOP_SET])
    holdout = np.flatnonzero(seen.labelled.holdout)
    asked = np.concatenate([sample, seen.labelled.rows[holdout]])
    raw = context.raw_embeddings(seen.labelled.backbone, seen.hashes(asked)) if models else None
    probabilities: list[NDArray[np.float32]] = []
    right = np.zeros((len(models), len(holdout)), dtype=np.bool_)
    for i, model in enumerate(models):
        assert raw is not None
        features = model.standardiser.apply(raw)  # each has standardised embeddings in its own way
        probabilities.append(model.classifier.probabilities(features[: len(sample)]))
        right[i] = ~model.evaluation.wrong(features[len(sample) :], seen.labelled.targets[holdout])
    pool: NDArray[np.float32] = np.empty((0, len(schema.classes)), np.float32)
    if models:
        rows = np.sort(seen.pool[rng.permutation(len(seen.pool))[:MOST_OF_POOL]])
        pool = models[-1].classifier.probabilities(as_fitted(context, seen, models[-1], rows, seen.features[rows]))
    locked = seen.labelled.locked
    return stopping(schema, [model.version.n_labels for model in models], probabilities, pool, right, locked=locked)


def _models(context: Context, project: Project, schema: LabelSchema, seen: View) -> list[Model]:
    """Load models of the past that can be compared, oldest first; those that were rejected are on the curve, too."""
    labelled = seen.labelled
    versions = [
        version
        for version in context.store.versions.list(project.id)
        if version.state != "retired"
        and version.backbone == labelled.backbone
        and version.answers(schema)
        and version.metrics.test_set == labelled.locked  # or it may have learnt from what it is measured on
    ]
    loaded: list[Model] = []
    for place in reversed(spaced([version.n_labels for version in versions])):
        try:
            loaded.append(load(context, versions[place]))
        except StoreError as error:
            log.warning("model version left out", project=project.id, reason=str(error))
    return loaded
