"""Whether to go on labelling: two published criteria, and what another 50 labels should bring.

Both criteria look at models of the past and at tasks nobody needs to have labelled. The forecast follows the learning
curve: earlier models measured on the hold-out of today, which none of them has seen, and a power law through it. None
of them knows what a better model is worth, so they are shown, and a person decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ls_backend.domain import LabelSchema
from ls_backend.engine.advice.agreement import cohen_kappa

KAPPA = 0.99
"""Agreement of successive models from which their predictions count as stable."""

WINDOW = 3
"""Successive comparisons that are averaged."""

EXPECTED_ERROR = 0.05
"""Share of the remaining tasks that the model may expect to get wrong."""

STEP = 10
STEP_SHARE = 0.1
"""Successive models lie this many labels apart, or this share of the labels: the product refits after each label, and
models that differ by one label always agree."""

MOST_MODELS = 16
MIN_MODELS = 5
"""Points of a learning curve below which no trend can be told from noise."""

MIN_HOLDOUT = 20
MORE = 50
"""Labels whose gain is forecast."""

CONFIDENCE = 0.9
_POWERS = (0.25, 0.5, 1.0, 1.5, 2.0)
_GRID = 400

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Criterion:
    """A published stopping criterion.

    Attributes:
        name: Stable kebab-case name.
        value: What was measured; None when it is too early for it.
        threshold: Where it holds.
        holds: Whether it says that labelling may stop.
        sentence: The same in words.
        source: Where it was published.
    """

    name: str
    value: float | None
    threshold: float
    holds: bool
    sentence: str
    source: str


@dataclass(frozen=True, slots=True)
class Forecast:
    """What more labels should bring.

    Attributes:
        more: Labels it is about.
        n_labels: Labels there are.
        accuracy: Of the newest model on the hold-out, 0 to 1; None without one.
        gain: Expected gain in accuracy; None when it is too early, or the labels held out are no test set.
        low: Lower end of its 90 % interval; None when it is too early, 0 where there is no test set.
        high: Upper end; None when it is too early.
        n_models: Points of the learning curve.
        n_holdout: Tasks it was measured on.
        sentence: The same in words.
    """

    more: int
    n_labels: int
    accuracy: float | None
    gain: float | None
    low: float | None
    high: float | None
    n_models: int
    n_holdout: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Whether to go on labelling.

    Attributes:
        verdict: "too-early", "go-on", "near" when one criterion holds, "may-stop" when both do.
        criteria: What each criterion says.
        forecast: What more labels should bring.
        sentence: All of it in words.
    """

    verdict: Literal["too-early", "go-on", "near", "may-stop"]
    criteria: tuple[Criterion, ...]
    forecast: Forecast
    sentence: str


def spaced(n_labels: Sequence[int]) -> list[int]:
    """Choose models far enough apart to be compared, from the newest one back.

    Args:
        n_labels: Labels each model was trained on, newest first.

    Returns:
        Places in the list, newest first, at most 16; neighbours lie 10 labels or 10 % of the labels apart.
    """
    chosen: list[int] = []
    for place, n in enumerate(n_labels):
        if not chosen or n <= n_labels[chosen[-1]] - max(STEP, round(STEP_SHARE * n_labels[chosen[-1]])):
            chosen.append(place)
    return chosen[:MOST_MODELS]


def stopping(
    schema: LabelSchema,
    n_labels: Sequence[int],
    probabilities: Sequence[NDArray[np.float32]],
    pool: NDArray[np.float32],
    right: NDArray[np.bool_],
    *,
    locked: bool,
) -> Stop:
    """Judge whether labelling may stop.

    Args:
        schema: What is asked.
        n_labels: Labels that v models were trained on, oldest first, far enough apart.
        probabilities: Of each of them an array (s, c): what it believes about the same random tasks of the project.
        pool: (p, c) what the newest model believes about tasks nobody has labelled.
        right: (v, h) which hold-out tasks of today each model gets right; it has seen none of them.
        locked: Whether these are a test set drawn by chance.
    """
    criteria = (stabilising_predictions(schema, probabilities), expected_error(schema, pool))
    forecast = forecast_gain(n_labels, right, locked=locked)
    held = sum(one.holds for one in criteria)
    words = " ".join(one.sentence for one in criteria)
    if criteria[0].value is None:
        return Stop("too-early", criteria, forecast, f"Too early to think of stopping. {words} {forecast.sentence}")
    if held == len(criteria):
        advice = "Labelling may stop if this is good enough for you."
        return Stop("may-stop", criteria, forecast, f"{advice} {words} {forecast.sentence}")
    if held:
        return Stop("near", criteria, forecast, f"One of two criteria says stop. {words} {forecast.sentence}")
    return Stop("go-on", criteria, forecast, f"Go on labelling. {words} {forecast.sentence}")


def stabilising_predictions(schema: LabelSchema, probabilities: Sequence[NDArray[np.float32]]) -> Criterion:
    """Compare successive models on tasks drawn at random: once they say the same, more labels change little.

    Cohen's kappa between the answers of neighbours, averaged over the last 3 comparisons, and over the controls; it
    holds from 0.99 on.

    Args:
        schema: What is asked.
        probabilities: By model, oldest first, each (s, c).

    Source: Bloodgood & Vijay-Shanker 2009, "A method for stopping active learning based on stabilizing predictions and
    the need for user-adjustable stopping", CoNLL.
    """
    source = "Bloodgood & Vijay-Shanker 2009"
    latest = list(probabilities)[-(WINDOW + 1) :]
    if len(latest) <= WINDOW or not len(latest[-1]):
        needed = (
            f"Stable predictions: {len(latest)} of the {WINDOW + 1} models needed, each {STEP} labels or "
            f"{STEP_SHARE:.0%} of the labels apart."
        )
        return Criterion("stable-predictions", None, KAPPA, False, needed, source)
    answers = [_answers(schema, one) for one in latest]
    kappas = [
        np.mean([cohen_kappa(one, other) for one, other in zip(before, after, strict=True)])
        for before, after in itertools.pairwise(answers)
    ]
    kappa = float(np.mean(kappas))
    holds = kappa >= KAPPA
    state = "hardly change any more" if holds else "still change"
    sentence = (
        f"Predictions {state}: the last {WINDOW + 1} models agree with a kappa of {kappa:.3f} about {len(latest[-1])} "
        f"tasks, {KAPPA} is stable."
    )
    return Criterion("stable-predictions", kappa, KAPPA, holds, sentence, source)


def expected_error(schema: LabelSchema, pool: NDArray[np.float32]) -> Criterion:
    """Estimate how often the model is wrong about what is left: 1 - p of its likeliest answer, the mean over the pool.

    It is as honest as the probabilities, which is why heads are calibrated.

    Args:
        schema: What is asked.
        pool: (p, c) probabilities of the tasks nobody has labelled.

    Source: Zhu, Wang & Hovy 2008, "Learning a stopping criterion for active learning for word sense disambiguation and
    text classification", IJCNLP: minimum expected error.
    """
    source = "Zhu, Wang & Hovy 2008"
    if not len(pool):
        words = "Expected error: there is no model, or no task left to judge."
        return Criterion("expected-error", None, EXPECTED_ERROR, False, words, source)
    confidence: list[Floats] = []
    for control, columns in schema.spans:
        p = pool[:, columns].astype(np.float64)
        confidence += list(np.maximum(p, 1.0 - p).T) if control.multiple else [p.max(axis=1)]
    error = float(1.0 - np.mean(confidence))
    holds = error <= EXPECTED_ERROR
    sentence = (
        f"The model expects to be wrong about {100 * error:.1f} % of the answers that are left; "
        f"{100 * EXPECTED_ERROR:.0f} % or less is taken as good."
    )
    return Criterion("expected-error", error, EXPECTED_ERROR, holds, sentence, source)


def forecast_gain(n_labels: Sequence[int], right: NDArray[np.bool_], *, locked: bool, more: int = MORE) -> Forecast:
    """Follow the learning curve a bit farther.

    The curve is a - b n^-c with b >= 0: labels do not harm. For each of several c, a and b follow from least squares,
    and the error of b from two kinds of noise: that of the hold-out, which points share as far as models err about the
    same tasks (measured), and the luck of which labels came (what the points scatter beyond that). The interval mixes
    the shapes by how well they fit, so it is wide where the points cannot tell them apart.

    Args:
        n_labels: Labels that v models were trained on, ascending.
        right: (v, h) which hold-out tasks each of them gets right.
        locked: Whether these are a test set drawn by chance. Otherwise they are what the plan asked for, among it tasks
            that earlier models found hard: those look worse than they were, and the curve steeper than it is. Only
            the upper end is told then.
        more: Labels to look ahead.

    Source: power laws of learning curves as in Viering & Loog 2023, "The shape of learning curves: a review".
    """
    n = np.asarray(n_labels, np.float64)
    v, h = right.shape
    now, newest = (int(n[-1]), float(right[-1].mean())) if v and h else (int(n[-1]) if len(n) else 0, None)

    def early(what: str) -> Forecast:
        words = f"Too early to say what another {more} labels should bring: {what}."
        return Forecast(more, now, newest, None, None, None, v, h, words)

    if h < MIN_HOLDOUT:
        return early(f"{h} labels are held out to measure on, {MIN_HOLDOUT} are needed")
    if v < MIN_MODELS:
        return early(f"the learning curve has {v} points far enough apart, {MIN_MODELS} are needed")
    means, noise = _curve(right)
    room = 1.0 - float(means[-1]) + 2.0 * float(np.sqrt(noise[-1, -1]))  # accuracy ends at 1
    gain, low, high = (min(max(end, 0.0), room) for end in _summary(*_fits(n, means, noise, more)))
    measured = f"{CONFIDENCE:.0%} interval, from {v} models measured on {h} labels"
    if not locked:
        sentence = (
            f"Another {more} labels should bring at most {_points(high)} points of accuracy ({measured}). It may be "
            "much less: these are labels the queue asked for, some of them as earlier models found them hard. With "
            "a test set, drawn by chance, more could be said."
        )
        return Forecast(more, now, newest, None, 0.0, high, v, h, sentence)
    sentence = (
        f"Another {more} labels should bring {_points(low)} to {_points(high)} points of accuracy, most likely about "
        f"{_points(gain)} ({measured})."
    )
    return Forecast(more, now, newest, gain, low, high, v, h, sentence)


def _answers(schema: LabelSchema, probabilities: NDArray[np.float32]) -> list[NDArray[np.int64]]:
    """Return what a model answers, one array for each control."""
    found: list[NDArray[np.int64]] = []
    for control, columns in schema.spans:
        p = probabilities[:, columns]
        found.append((p >= 0.5).astype(np.int64).ravel() if control.multiple else p.argmax(axis=1).astype(np.int64))
    return found


def _curve(right: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return accuracies (v,) and their covariance (v, v), as if half a task more were right and half a task wrong.

    Models that agree about every task would seem to lie on the curve without any noise; half a task of their own is
    added to each.
    """
    v, h = right.shape
    seen = right.astype(np.float64)
    means = (seen.sum(axis=1) + 0.5) / (h + 1.0)
    return means, np.atleast_2d(np.cov(seen)) / h + np.eye(v) * (0.5 / (h + 1.0)) ** 2


def _fits(n: Floats, means: Floats, noise: Floats, more: int) -> tuple[Floats, Floats, Floats]:
    """Return for each shape the gain it foresees (k,), its standard error (k,), and how likely the shape is (k,)."""
    weight = 1.0 / (means * (1.0 - means))
    few = (len(n) - 2.0) / (len(n) - 4.0)  # the variance of Student's t: the luck is estimated from v - 2 freedoms
    gains, errors, misfits = [], [], []
    for power in _POWERS:
        shape = -(n**-power)
        design = np.column_stack([np.ones(len(n)), shape])
        solve = np.linalg.solve(design.T * weight @ design, design.T * weight)  # (2, v): points to a and b
        rest = means - design @ (solve @ means)
        luck = max(0.0, float(weight @ np.square(rest)) / (len(n) - 2) / weight.mean() - _own(noise))
        ahead = -((n[-1] + more) ** -power) - shape[-1]
        variance = float(solve[1] @ noise @ solve[1]) + luck * float(solve[1] @ solve[1])
        gains.append(ahead * float(solve[1] @ means))
        errors.append(ahead * np.sqrt(variance * few))
        misfits.append(float(weight @ np.square(rest)))
    scale = min(misfits) / (len(n) - 2) + 1e-12
    return np.array(gains), np.array(errors), np.exp(-0.5 * (np.array(misfits) - min(misfits)) / scale)


def _own(noise: Floats) -> float:
    """Return the part of the noise that neighbouring points of the curve do not share."""
    steps = np.diag(noise)[1:] + np.diag(noise)[:-1] - 2.0 * np.diag(noise, 1)
    return float(steps.mean()) / 2.0


def _summary(gains: Floats, errors: Floats, weights: Floats) -> tuple[float, float, float]:
    """Return the middle and both ends of the interval of a mixture of normal distributions."""
    steps = np.array([NormalDist().inv_cdf(share) for share in (np.arange(_GRID) + 0.5) / _GRID])
    values = (gains[:, None] + errors[:, None] * steps).ravel()
    order = np.argsort(values, kind="stable")
    shares = np.cumsum(np.repeat(weights, _GRID)[order]) / (weights.sum() * _GRID)
    places = np.searchsorted(shares, (0.5, 0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2)).clip(max=len(order) - 1)
    middle, low, high = values[order[places]].tolist()
    return middle, low, high


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"
