"""What a foreign model's answer means in our words: probabilities, uncertainty, presence, and regions to show.

A foreign model names labels and says at most one confidence for each region and one for the whole prediction. So its
probabilities are made of that one number; what it does not say is NaN, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ls_backend.domain import Control
from ls_backend.foreign.answers import Answer, score_of


@dataclass(frozen=True, eq=False)
class Judgement:
    """One answer as the ranking reads it, for one control with c classes.

    Attributes:
        probabilities: (c,) float32. One choice of several: a row that sums to 1. Otherwise each class by itself: how
            likely it occurs. NaN where the model gave no confidence.
        uncertainty: In [0, 1], the mean over the regions of 1 - confidence; NaN when the model gave no confidence.
        presence: (c,) float32, how likely each class occurs; without a confidence 1 for what was named, else 0.
        unknown: Labels the model named that the control does not have, in order, each once.
    """

    probabilities: NDArray[np.float32]
    uncertainty: float
    presence: NDArray[np.float32]
    unknown: tuple[str, ...]


def judge(answer: Answer, control: Control) -> Judgement:
    """Read an answer for one control.  O(regions).

    A region without a confidence takes that of the whole prediction. A single choice has probability s, at least 1/c
    because it is the likeliest, and the other classes share the rest. Where several classes may hold, an answer with
    confidence s says that the named ones hold with s and, for choices, that the others hold with 1 - s; classes
    without a region of their own do not occur.

    Args:
        answer: What the model said.
        control: Where its regions belong; regions of other controls are not looked at.

    Returns:
        A `Judgement` with arrays of shape (c,).
    """
    regions = [region for region in answer.regions if _belongs(region, control)]
    named: dict[int, float] = {}  # class -> highest confidence of a region that names it, NaN where there is none
    unknown: dict[str, None] = {}
    for region in regions:
        for label in _labels(region, control):
            place = _place(label, control)
            if place is None:
                unknown[label] = None
            else:
                named[place] = _higher(named.get(place, math.nan), _confidence(region, answer))
    probabilities = _probabilities(named, answer, control)
    certain = np.zeros(len(control.classes), np.float32)
    certain[list(named)] = 1.0
    return Judgement(
        probabilities=probabilities,
        uncertainty=_uncertainty(regions, answer),
        presence=np.where(np.isnan(probabilities), certain, probabilities).astype(np.float32),
        unknown=tuple(unknown),
    )


def uncertainty(answer: Answer) -> float:
    """How unsure a model is of its whole answer: the mean over all regions of 1 - confidence, in [0, 1].

    Returns:
        NaN when it gave no confidence at all; an answer without regions is as unsure as its own score says.
    """
    return _uncertainty(answer.regions, answer)


def shown(answer: Answer, controls: Sequence[Control]) -> tuple[dict[str, Any], ...]:
    """Return the regions an annotator may see, in the words of the label config.

    Labels are put into those of the config (`predicted_values`, else the same name whatever its case). Regions of
    other controls, with labels the config lacks, or with a confidence below the control's threshold are left out.

    Args:
        answer: What the model said.
        controls: Controls that may be filled.
    """
    by_name = {control.name: control for control in controls}
    found: list[dict[str, Any]] = []
    for region in answer.regions:
        control = by_name.get(str(region.get("from_name")))
        if control is None or not _belongs(region, control):
            continue
        places = [_place(label, control) for label in _labels(region, control)]
        labels = list(dict.fromkeys(control.classes[place] for place in places if place is not None))
        confidence = _confidence(region, answer)
        if not labels or confidence < control.threshold:  # an unknown confidence, NaN, is never below
            continue
        given = {} if math.isnan(confidence) else {"score": confidence}
        value = {**region["value"], control.kind: labels}
        found.append({**region, "type": control.kind, "to_name": control.obj, "value": value, **given})
    return tuple(found)


def _probabilities(named: dict[int, float], answer: Answer, control: Control) -> NDArray[np.float32]:
    c = len(control.classes)
    row = np.full(c, np.nan, np.float32)
    places, confidences = list(named), list(named.values())
    if not control.draws and not control.multiple:
        scored = {place: s for place, s in named.items() if not math.isnan(s)}
        if scored:
            best = max(scored, key=scored.__getitem__)
            s = max(scored[best], 1.0 / c)
            row[:] = (1.0 - s) / max(c - 1, 1)
            row[best] = s
        return row
    known = [s for s in confidences if not math.isnan(s)] or ([] if answer.score is None else [answer.score])
    if not known:
        return row
    row[:] = 0.0 if control.draws else 1.0 - sum(known) / len(known)
    row[places] = confidences
    return row


def _uncertainty(regions: Sequence[dict[str, Any]], answer: Answer) -> float:
    own = [s for s in map(score_of, regions) if s is not None]
    scores = own or ([] if answer.score is None else [answer.score])
    return 1.0 - sum(scores) / len(scores) if scores else math.nan


def _belongs(region: dict[str, Any], control: Control) -> bool:
    return (
        region.get("from_name") == control.name
        and str(region.get("type", "")).lower() == control.kind
        and isinstance(region.get("value"), dict)
    )


def _labels(region: dict[str, Any], control: Control) -> list[str]:
    labels = region["value"].get(control.kind)
    return [str(label) for label in labels] if isinstance(labels, list) else []


def _place(label: str, control: Control) -> int | None:
    """Index of the class a model means: `predicted_values` first, then the name, then the name in any case."""
    label = dict(control.aliases).get(label, label)
    if label in control.classes:
        return control.classes.index(label)
    folded = [name.casefold() for name in control.classes]
    return folded.index(label.casefold()) if label.casefold() in folded else None


def _confidence(region: dict[str, Any], answer: Answer) -> float:
    own = score_of(region)
    score = answer.score if own is None else own
    return math.nan if score is None else score


def _higher(one: float, other: float) -> float:
    """Return the greater number; NaN only if both are."""
    return other if math.isnan(one) else one if math.isnan(other) else max(one, other)
