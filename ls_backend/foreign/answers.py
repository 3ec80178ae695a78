"""What a foreign model said about a task, or why it said nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

FailureKind = Literal["raised", "hung", "died", "wrong-count", "wrong-shape", "given-up"]


@dataclass(frozen=True, slots=True)
class Answer:
    """A foreign model's prediction of one task.

    Attributes:
        task_id: Label Studio's id.
        regions: In Label Studio's format, as the model named them; `judgement.shown` makes them fit the label config.
        score: Confidence in the whole prediction, 0 to 1; None when the model gave none.
        model_version: What the model calls itself; "" when it does not say.
    """

    task_id: int
    regions: tuple[dict[str, Any], ...]
    score: float | None
    model_version: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """A task that a foreign model did not predict; it is skipped and counted.

    Attributes:
        task_id: Label Studio's id.
        kind: "raised", "hung" and "died" are what the words say; "wrong-count" and "wrong-shape" are answers that
            nobody can read; "given-up" was not asked, because the model had failed too often in a row.
        message: What happened, in a sentence.
    """

    task_id: int
    kind: FailureKind
    message: str


def read_entry(task_id: int, entry: object) -> Answer | Failure:
    """Read the entry of one task in a model's answer.

    The ecosystem knows three shapes: an object with `result`, an empty object for "nothing", and a list of
    alternatives, of which the one with the highest score is taken.

    Args:
        task_id: The task that was asked for.
        entry: What stands at its place in the answer, as plain JSON.
    """
    if isinstance(entry, list):
        alternatives = [item for item in entry if isinstance(item, dict)]
        if len(alternatives) < len(entry):
            return _unreadable(task_id, "a list that holds more than objects")
        entry = max(alternatives, key=_score_or_below, default={})
    if not isinstance(entry, dict):
        return _unreadable(task_id, f"a {type(entry).__name__}")
    regions = entry.get("result") or []
    if not isinstance(regions, list) or not all(isinstance(region, dict) for region in regions):
        return _unreadable(task_id, "a result that is no list of regions")
    version = entry.get("model_version")
    return Answer(task_id, tuple(regions), score_of(entry), "" if version is None else str(version))


def score_of(thing: dict[str, Any]) -> float | None:
    """Read the `score` of a prediction or a region: a confidence from 0 to 1, as a number or as text.

    Anything else (absent, a logit, a percentage, NaN) is unknown: None.
    """
    value = thing.get("score")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        score = float(value)
    except ValueError:
        return None
    return score if math.isfinite(score) and 0.0 <= score <= 1.0 else None


def _score_or_below(entry: dict[str, Any]) -> float:
    score = score_of(entry)
    return -1.0 if score is None else score


def _unreadable(task_id: int, found: str) -> Failure:
    return Failure(task_id, "wrong-shape", f"The model answered {found}; expected an object with result and score.")
