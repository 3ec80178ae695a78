"""What a plan saves against random labels, and how sure that is: pure functions of replayed curves.

Every figure is a mean over seeds. Its 95 % interval comes from a bootstrap of the seeds, paired: a resample takes the
same seeds from both plans. With few seeds the percentiles of a bootstrap lie too close together, so they are taken
farther out, by as much as Student's t lies beyond the normal distribution. Below 5 seeds an interval is endless: even
the range from the lowest seed to the highest one holds the truth less often than in 93 of 100 cases, 1 - 2^(1 - seeds).

The intervals speak of the luck of the draw on these tasks and this test set, not of other images.

Source: Hesterberg 2014, arXiv:1411.5279, "What teachers should know about the bootstrap": expanded percentiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ls_backend.engine.backtest import Curve
from ls_backend.errors import PoolInvalid

RESAMPLES = 10_000
MIN_SEEDS = 5
CONFIDENCE = 0.95

Metric = Literal["accuracy", "balanced_accuracy"]
Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and the 95 % interval around it.

    Attributes:
        value: The figure itself.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Saving:
    """How many labels a plan saves on the way to where random labels end.

    Attributes:
        share: 1 - labels of the plan / labels of random; below 0 when the plan needs more, -inf where it never gets
            there.
        target: What random reaches in the end, the mean over seeds.
        reached: What the plan reaches in the end, likewise.
        labels: Labels the plan needs for the target; None when it never gets there.
        random_labels: Labels random needs for it.
        n_labels: Labels at the end of the curves.
    """

    share: Interval
    target: float
    reached: float
    labels: float | None
    random_labels: float
    n_labels: int

    @property
    def sentence(self) -> str:
        """The result in words, for a person who decides by it."""
        goal = f"the {_percent(self.target, 1)} that random labels reach with {self.n_labels}"
        if self.labels is None:
            end = _percent(self.reached, 1)
            return f"Labels saved against random: none shown. The plan ends at {end} and never reaches {goal}."
        if np.isinf(self.share.high):
            share = _percent(self.share.value)
            return f"Labels saved against random: {share}. Nothing is proven by fewer than {MIN_SEEDS} seeds."
        low = "no end" if np.isinf(self.share.low) else _percent(self.share.low)
        saved = f"Labels saved against random: {_percent(self.share.value)} [{low}, {_percent(self.share.high)}]"
        if self.share.low > 0:
            return f"{saved}: {self.labels:.0f} labels, not {self.random_labels:.0f}, for {goal}."
        if self.share.high < 0:
            return f"{saved}: the plan needs more labels than random, {self.labels:.0f} for {goal}."
        return f"{saved}. Nothing is proven, because the interval includes 0: replay more seeds, or more labels."


def mean_curve(curves: Sequence[Curve], metric: Metric = "accuracy") -> tuple[Interval, ...]:
    """Average curves over seeds: one interval a round.

    Args:
        curves: One a seed, with the same rounds.
        metric: Which of their arrays.

    Raises:
        PoolInvalid: If there is no curve, or they differ in their rounds.
    """
    values, _ = _stacked(curves, metric)
    return tuple(_interval(lambda means: means[:, 0], values[:, [i]]) for i in range(values.shape[1]))


def area(curves: Sequence[Curve], metric: Metric = "accuracy") -> Interval:
    """Return the area under the learning curve (AULC): the mean over rounds.

    Args:
        curves: One a seed, with the same rounds.
        metric: Which of their arrays.

    Raises:
        PoolInvalid: If there is no curve, or they differ in their rounds.
    """
    values, _ = _stacked(curves, metric)
    return _interval(lambda means: means.mean(axis=1), values)


def area_gain(plan: Sequence[Curve], random: Sequence[Curve], metric: Metric = "accuracy") -> Interval:
    """Return by how much the area under a plan's curve exceeds that of another one.

    Args:
        plan: One a seed.
        random: One a seed, the same seeds in the same order.
        metric: Which of their arrays.

    Raises:
        PoolInvalid: If the two do not pair, or their rounds differ.
    """
    ours, theirs, _ = _paired(plan, random, metric)
    return _interval(lambda means: means.mean(axis=1), ours - theirs)


def labels_saved(plan: Sequence[Curve], random: Sequence[Curve], metric: Metric = "accuracy") -> Saving:
    """Return the share of labels a plan saves on the way to what random reaches in the end.

    The labels a curve needs are read off where its mean over seeds first crosses the target, by straight lines between
    the rounds. A measured curve goes down now and then by noise; its first crossing is that of its running maximum,
    which never falls and has one crossing only. The same is done to random, so a lucky peak counts for both. Nothing
    is known before the first round: whoever is above the target there needs at most that many labels.

    Args:
        plan: One curve a seed.
        random: One a seed, the same seeds in the same order.
        metric: Which of their arrays.

    Raises:
        PoolInvalid: If the two do not pair, or their rounds differ.
    """
    ours, theirs, n_labels = _paired(plan, random, metric)
    rounds = len(n_labels)

    def needed(means: Floats) -> tuple[Floats, Floats]:
        """Labels (b,) that plan and random need, given both mean curves (b, 2 r) side by side."""
        plans, randoms, target = means[:, :rounds], means[:, rounds:], means[:, -1]
        return _first_crossing(n_labels, plans, target), _first_crossing(n_labels, randoms, target)

    def share(means: Floats) -> Floats:
        labels, random_labels = needed(means)
        saved: Floats = 1.0 - labels / random_labels
        return saved

    both = np.hstack([ours, theirs])  # (s, 2 r)
    labels, random_labels = (float(value[0]) for value in needed(both.mean(axis=0)[None]))
    return Saving(
        share=_interval(share, both),
        target=float(theirs[:, -1].mean()),
        reached=float(ours[:, -1].mean()),
        labels=None if np.isinf(labels) else labels,
        random_labels=random_labels,
        n_labels=int(n_labels[-1]),
    )


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"


def _stacked(curves: Sequence[Curve], metric: Metric) -> tuple[Floats, Floats]:
    """Values (s, r) of the seeds, and the labels (r,) of the rounds."""
    rounds = {tuple(curve.n_labels.tolist()) for curve in curves}
    if len(rounds) != 1 or not next(iter(rounds)):
        raise PoolInvalid(
            f"{len(curves)} curves have {len(rounds)} different courses of labels; expected at least one curve, and "
            "all with the same rounds, one or more. Replay them with the same pool, batch and rounds."
        )
    return np.array([getattr(curve, metric) for curve in curves]), curves[0].n_labels.astype(np.float64)


def _paired(plan: Sequence[Curve], random: Sequence[Curve], metric: Metric) -> tuple[Floats, Floats, Floats]:
    (ours, n_labels), (theirs, n_random) = _stacked(plan, metric), _stacked(random, metric)
    if ours.shape != theirs.shape or (n_labels != n_random).any():
        raise PoolInvalid(
            f"The plan has {ours.shape[0]} seeds of {ours.shape[1]} rounds, random has {theirs.shape[0]} of "
            f"{theirs.shape[1]}; expected the same seeds and rounds. Replay both alike."
        )
    return ours, theirs, n_labels


def _interval(statistic: Statistic, values: Floats) -> Interval:
    """Bootstrap a statistic, of means (b, r) to figures (b,), over the seeds of values (s, r)."""
    n_seeds = len(values)
    value = float(statistic(values.mean(axis=0)[None])[0])
    if n_seeds < MIN_SEEDS:
        return Interval(value, -np.inf, np.inf)
    drawn = np.random.default_rng(0).multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=RESAMPLES)
    figures = statistic(drawn @ values / n_seeds)
    tail = NormalDist().cdf(-np.sqrt(n_seeds / (n_seeds - 1)) * _student_t(n_seeds - 1))
    low, high = np.quantile(figures, [tail, 1 - tail], method="closest_observation")  # no mean with -inf
    return Interval(value, float(low), float(high))


def _student_t(freedom: int) -> float:
    """Quantile that bounds the confidence on both sides; from 4 degrees of freedom on it is right to 0.3 %.

    Source: Abramowitz & Stegun 1964, 26.7.5.
    """
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return float(sum(term / freedom**power for power, term in enumerate(terms)))


def _first_crossing(n_labels: Floats, means: Floats, target: Floats) -> Floats:
    """Labels (b,) at which each curve (b, r) first reaches its target (b,); inf where it never does."""
    above = means >= target[:, None]
    first = above.argmax(axis=1)
    before = np.maximum(first - 1, 0)
    rows = np.arange(len(means))
    low, high = means[rows, before], means[rows, first]
    part = np.divide(target - low, high - low, out=np.ones_like(low), where=first > 0)
    crossing = n_labels[before] + part * (n_labels[first] - n_labels[before])
    return np.where(above.any(axis=1), crossing, np.inf)
