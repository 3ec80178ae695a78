"""Tasks whose annotators gave different answers, and how far annotators agree at all.

What is compared are answers, question by question: the choice itself, and for labels that may hold together which of
them were given. Of boxes and outlines this is which labels occur; where they lie is not compared.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ls_backend.domain import Annotation, LabelSchema
from ls_backend.engine.advice.agreement import cohen_kappa, krippendorff_alpha
from ls_backend.labelstudio import label_config

MOST = 100
"""Tasks that are listed at most."""

Answers = Mapping[str, tuple[str, ...]]
"""Control to the labels given under it."""


@dataclass(frozen=True, slots=True)
class Disputed:
    """A task that annotators answered differently.

    Attributes:
        control: Whose question it is.
        answers: Answer to the number of annotators who gave it, most frequent first; several labels of one annotator
            are joined by a comma.
        share: Share of the pairs of annotators who differ, above 0 to 1.
        reason: Both in words.
    """

    task_id: int
    control: str
    answers: Mapping[str, int]
    share: float
    reason: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Two annotators and the tasks both of them answered.

    Attributes:
        annotators: Label Studio's ids of the users.
        n_answers: Answers that can be compared; one a task and control.
        agreement: Share of them that are equal.
        kappa: Cohen's kappa; 1 is full agreement, 0 is chance.
    """

    annotators: tuple[int, int]
    n_answers: int
    agreement: float
    kappa: float


@dataclass(frozen=True, slots=True)
class Disagreement:
    """How far the annotators of a project agree.

    Attributes:
        n_tasks: Tasks with answers of two annotators or more.
        n_disputed: Those of them with different answers.
        alpha: Krippendorff's alpha by control; None where it is not defined.
        pairs: Annotators who share tasks, those who agree least first.
        tasks: Disputed answers, worst first, at most 100.
        sentence: The result in words.
    """

    n_tasks: int
    n_disputed: int
    alpha: Mapping[str, float | None]
    pairs: tuple[Pair, ...]
    tasks: tuple[Disputed, ...]
    sentence: str


def find_disagreement(schema: LabelSchema, annotations: Mapping[int, Sequence[Annotation]]) -> Disagreement:
    """Compare the answers that annotators gave to the same tasks.

    The latest annotation of an annotator counts; cancelled ones and those of nobody in particular do not.

    Args:
        schema: What was asked.
        annotations: Task id to its annotations.
    """
    given = {task_id: _by_annotator(schema, made) for task_id, made in annotations.items()}
    shared = {task_id: answers for task_id, answers in given.items() if len(answers) >= 2}
    disputed: list[Disputed] = []
    alpha: dict[str, float | None] = {}
    both: dict[tuple[int, int], list[tuple[str, str]]] = {}
    for control in schema.controls:
        units: list[Counter[str]] = []
        for task_id, answers in shared.items():
            said = {who: ", ".join(one[control.name]) for who, one in answers.items() if control.name in one}
            if len(said) < 2:
                continue
            units.append(Counter(said.values()))
            for pair in itertools.combinations(sorted(said), 2):
                both.setdefault((pair[0], pair[1]), []).append((said[pair[0]], said[pair[1]]))
            if len(units[-1]) > 1:
                disputed.append(_disputed(task_id, control.name, units[-1]))
        alpha[control.name] = _alpha(units)
    disputed.sort(key=lambda one: (-one.share, -sum(one.answers.values()), one.task_id))
    pairs = sorted((_pair(who, said) for who, said in both.items()), key=lambda one: (one.kappa, one.annotators))
    n_disputed = len({one.task_id for one in disputed})
    return Disagreement(
        n_tasks=len(shared),
        n_disputed=n_disputed,
        alpha=alpha,
        pairs=tuple(pairs),
        tasks=tuple(disputed[:MOST]),
        sentence=_sentence(len(shared), n_disputed, alpha),
    )


def _by_annotator(schema: LabelSchema, made: Sequence[Annotation]) -> dict[int, Answers]:
    """Return what each annotator of a task answered last."""
    latest: dict[int, Annotation] = {}
    for one in sorted(made, key=lambda item: (item.updated_at, item.annotation_id)):
        if one.completed_by is not None and not one.was_cancelled:
            latest[one.completed_by] = one
    found: dict[int, Answers] = {}
    for who, one in latest.items():
        label = label_config.read_label(schema, [one]).label
        if label is not None:
            # What occurs is compared, not how often: a class drawn twice is there once.
            found[who] = {name: tuple(sorted(set(labels))) for name, labels in schema.read(label).items()}
    return found


def _disputed(task_id: int, control: str, said: Counter[str]) -> Disputed:
    n = said.total()
    same = sum(count * (count - 1) for count in said.values())
    ordered = dict(sorted(said.items(), key=lambda item: (-item[1], item[0])))
    words = ", ".join(f"{count} said {answer or 'nothing'}" for answer, count in ordered.items())
    return Disputed(task_id, control, ordered, 1.0 - same / (n * (n - 1)), f"Of {n} annotators {words}.")


def _alpha(units: Sequence[Counter[str]]) -> float | None:
    values = sorted({answer for unit in units for answer in unit})
    votes = np.array([[unit[value] for value in values] for unit in units], np.int64).reshape(len(units), len(values))
    alpha = krippendorff_alpha(votes)
    return None if np.isnan(alpha) else alpha


def _pair(who: tuple[int, int], said: Sequence[tuple[str, str]]) -> Pair:
    one, other = (np.array(column) for column in zip(*said, strict=True))
    return Pair(who, len(said), float((one == other).mean()), cohen_kappa(one, other))


def _sentence(n_tasks: int, n_disputed: int, alpha: Mapping[str, float | None]) -> str:
    if n_tasks == 0:
        return "No task has been answered by two annotators, so nothing can be said about how far they agree."
    told = ", ".join(f"{value:.2f} for {name}" for name, value in alpha.items() if value is not None)
    end = f" Krippendorff's alpha: {told} (1 is full agreement, 0 is chance)." if told else ""
    return f"Annotators differ about {n_disputed} of the {n_tasks} tasks that two or more of them answered.{end}"
