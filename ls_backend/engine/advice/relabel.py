"""Labels that are probably wrong, as cleanlab finds them: the one module that imports it.

Each label is judged by the product's own head, fitted without it: five folds, with the temperature under which the
labels are most likely. A single choice is one question, a label that holds or not by itself is a yes/no question.

Source: Northcutt, Jiang & Chuang 2021, "Confident learning: estimating uncertainty in dataset labels".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ls_backend.domain import Control, LabelSchema

if TYPE_CHECKING:
    from ls_backend.vision.heads import Floats

MIN_LABELS = 20
"""Labels of a question below which no head can contradict one of them."""

MIN_OF_CLASS = 3
"""Labels a class must have to be judged: below, leaving one out leaves next to nothing."""

MOST = 100
"""Labels that are listed at most."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A label that is probably wrong.

    Attributes:
        control: Whose question it answers.
        given: What the annotators said.
        suggested: What the model holds for likelier.
        quality: How far the model agrees with what was given, 0 to 1; lowest first.
        reason: The same in words.
    """

    task_id: int
    control: str
    given: str
    suggested: str
    quality: float
    reason: str


@dataclass(frozen=True, slots=True)
class Relabel:
    """Labels to look at once more.

    Attributes:
        n_checked: Answers that could be judged.
        n_suspects: Those that are probably wrong.
        suspects: The worst of them, at most 100, worst first.
        sentence: The result in words, also of what could not be judged yet.
    """

    n_checked: int
    n_suspects: int
    suspects: tuple[Suspect, ...]
    sentence: str


def find_suspects(
    schema: LabelSchema, task_ids: NDArray[np.int64], features: Floats, targets: NDArray[np.int8], *, seed: int
) -> Relabel:
    """Judge every label by heads that did not see it.

    Args:
        schema: What was asked.
        task_ids: (m,) labelled tasks.
        features: (m, d) float32 of those, standardised.
        targets: (m, c) int8 answers: 1, 0, or -1 where the question was not answered.
        seed: Decides the folds.

    Raises:
        Diverged: If features are not finite.
    """
    from ls_backend.vision.classifier import answered_rows  # noqa: PLC0415 - torch

    suspects: list[Suspect] = []
    too_early: list[str] = []
    n_checked = 0
    for control, columns in schema.spans:
        rows, truth = answered_rows(targets[:, columns])
        judge = _of_labels if control.multiple else _of_choice
        if len(rows) < MIN_LABELS:
            too_early.append(f"{control.name} has {len(rows)} labels, {MIN_LABELS} are needed")
            continue
        found, checked, left_out = judge(control, task_ids[rows], features[rows], truth, seed)
        suspects += found
        n_checked += checked
        if left_out:
            few = "tasks with or without" if control.multiple else "labels for"
            too_early.append(f"{control.name}: fewer than {MIN_OF_CLASS} {few} {', '.join(left_out)}")
    suspects.sort(key=lambda one: (one.quality, one.task_id, one.suggested))
    return Relabel(n_checked, len(suspects), tuple(suspects[:MOST]), _sentence(n_checked, len(suspects), too_early))


_Found = tuple[list[Suspect], int, list[str]]


def _of_choice(
    control: Control, task_ids: NDArray[np.int64], features: Floats, truth: NDArray[np.bool_], seed: int
) -> _Found:
    """Judge a single choice; returns suspects, how many answers were judged, and classes too rare for it."""
    from ls_backend.vision import heads  # noqa: PLC0415 - torch

    counts = truth.sum(axis=0)
    usable = np.flatnonzero(counts >= MIN_OF_CLASS)
    rows = np.flatnonzero(truth[:, usable].any(axis=1))
    able = len(usable) >= 2 and len(rows) >= MIN_LABELS
    left_out = [control.classes[i] for i, count in enumerate(counts) if count < MIN_OF_CLASS and (count or not able)]
    if not able:
        return [], 0, left_out
    classes = truth[np.ix_(rows, usable)].argmax(axis=1).astype(np.int64)
    logits = heads.out_of_fold_logits(features[rows], classes, len(usable), seed).astype(np.float64)
    names = [control.classes[i] for i in usable]
    probabilities = _softmax(logits / heads.fit_temperature(logits, classes))
    suspects = []
    for i, quality in _ranked(classes, probabilities):
        best = int(probabilities[i].argmax())
        given, suggested = names[classes[i]], names[best]
        reason = (
            f"A model that had not seen this label holds {suggested} for likelier ({probabilities[i, best]:.2f}) "
            f"than {given} ({probabilities[i, classes[i]]:.2f})."
        )
        suspects.append(Suspect(int(task_ids[rows[i]]), control.name, given, suggested, quality, reason))
    return suspects, len(rows), left_out


def _of_labels(
    control: Control, task_ids: NDArray[np.int64], features: Floats, truth: NDArray[np.bool_], seed: int
) -> _Found:
    """Judge labels that hold or not by themselves, one at a time; returns what `_of_choice` does."""
    from ls_backend.vision import heads, multilabel  # noqa: PLC0415 - torch

    yes = truth.sum(axis=0)
    usable = np.flatnonzero(np.minimum(yes, len(truth) - yes) >= MIN_OF_CLASS)
    left_out = [name for i, name in enumerate(control.classes) if i not in usable]
    if not len(usable):
        return [], 0, left_out
    logits = multilabel.out_of_fold_logits(features, truth, seed).astype(np.float64)
    suspects = []
    checked = 0
    for column in usable:
        rows = np.flatnonzero(np.isfinite(logits[:, column]))  # some folds may have lacked a rare label
        if len(np.unique(truth[rows, column])) < 2:
            continue
        checked += len(rows)
        pairs = np.column_stack([np.zeros(len(rows)), logits[rows, column]])
        classes = truth[rows, column].astype(np.int64)
        probabilities = _softmax(pairs / heads.fit_temperature(pairs, classes))
        label = control.classes[column]
        for i, quality in _ranked(classes, probabilities):
            given, suggested = (label, f"not {label}") if classes[i] else (f"not {label}", label)
            was = "given" if classes[i] else "not given"
            reason = (
                f"A model that had not seen this task finds {label} {probabilities[i, 1]:.2f} likely; it was {was}."
            )
            suspects.append(Suspect(int(task_ids[rows[i]]), control.name, given, suggested, quality, reason))
    return suspects, checked, left_out


def _ranked(classes: NDArray[np.int64], probabilities: NDArray[np.float64]) -> list[tuple[int, float]]:
    """Return the rows that are probably wrong, worst first, with their quality."""
    from cleanlab.filter import find_label_issues  # noqa: PLC0415 - five seconds
    from cleanlab.rank import get_label_quality_scores  # noqa: PLC0415 - same

    issues = find_label_issues(classes, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    quality = get_label_quality_scores(classes, probabilities, method="self_confidence")
    return [(int(i), float(quality[i])) for i in issues if probabilities[i].argmax() != classes[i]]


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _sentence(n_checked: int, n_suspects: int, too_early: list[str]) -> str:
    early = f" Too early for the rest: {'; '.join(too_early)}." if too_early else ""
    if n_checked == 0:
        return f"Too early to look for wrong labels: {'; '.join(too_early) or 'nothing is labelled yet'}."
    if n_suspects == 0:
        return f"None of {n_checked} labels looks wrong to a model that had not seen it.{early}"
    return (
        f"{n_suspects} of {n_checked} labels look wrong to a model that had not seen them; look at them again.{early}"
    )
