"""Is it worth it? Labels that are known already are labelled again, in the order of several plans and of chance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ls_backend.engine.backtest import Curve, backtest
from ls_backend.engine.context import Context
from ls_backend.engine.known import Known, Say
from ls_backend.engine.savings import CONFIDENCE, Interval, Metric, Saving, area, area_gain, labels_saved, mean_curve
from ls_backend.errors import PoolInvalid, TooFewLabels
from ls_backend.strategies import Plan, cost_matrix

RANDOM = "random"
TEST_PART = 4
"""One label in four measures."""

MIN_TEST = 20
"""Labels below which a test set cannot tell two models apart."""

MAX_ROUNDS = 20


@dataclass(frozen=True, eq=False)
class Outcome:
    """What replaying one plan gave.

    Attributes:
        name: As it was asked for.
        plan: The plan itself.
        curves: One a seed.
        means: One interval a round.
        area: Area under the learning curve.
        gain: By how much that exceeds random's; None for random itself.
        saving: Labels saved against random; None for random itself.
    """

    name: str
    plan: Plan
    curves: tuple[Curve, ...]
    means: tuple[Interval, ...]
    area: Interval
    gain: Interval | None
    saving: Saving | None


@dataclass(frozen=True, eq=False)
class Report:
    """Several plans replayed on the same tasks, random first.

    Attributes:
        title: What the tasks are called.
        n_pool: Tasks that could be picked in each replay.
        n_test: Tasks that measured.
        n_classes: Classes there are.
        metric: What the figures are.
        outcomes: One a plan.
    """

    title: str
    n_pool: int
    n_test: int
    n_classes: int
    metric: Metric
    outcomes: tuple[Outcome, ...]

    @property
    def n_labels(self) -> tuple[int, ...]:
        """Labels after each round."""
        return tuple(self.outcomes[0].curves[0].n_labels.tolist())

    def plain(self) -> dict[str, Any]:
        """Return everything as JSON can hold it; an endless end of an interval becomes null."""
        return {
            "title": self.title,
            "pool": self.n_pool,
            "test": self.n_test,
            "classes": self.n_classes,
            "metric": self.metric,
            "confidence": CONFIDENCE,
            "n_labels": list(self.n_labels),
            "plans": [_plain_outcome(outcome) for outcome in self.outcomes],
        }


def _plain_outcome(outcome: Outcome) -> dict[str, Any]:
    saving = outcome.saving
    return {
        "name": outcome.name,
        "plan": json.loads(outcome.plan.to_json()),
        "mean": [_plain_interval(interval) for interval in outcome.means],
        "area": _plain_interval(outcome.area),
        "gain": None if outcome.gain is None else _plain_interval(outcome.gain),
        "labels_saved": None if saving is None else {**_plain_interval(saving.share), "sentence": saving.sentence},
        "seeds": [
            {
                "accuracy": curve.accuracy.tolist(),
                "balanced_accuracy": curve.balanced_accuracy.tolist(),
                "log_loss": curve.log_loss.tolist(),
            }
            for curve in outcome.curves
        ],
    }


def _plain_interval(interval: Interval) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in asdict(interval).items()}


def plan_of(text: str) -> Plan:
    """Read a plan as a person writes it: the name of a preset, or project settings as a JSON object.

    Raises:
        SettingsError: If the JSON is wrong.
        StrategyUnknown: If there is no such preset or method.
    """
    return Plan.from_json(text) if text.lstrip().startswith("{") else Plan.preset(text)


def plan_in_force(context: Context, project_id: int) -> Plan:
    """Return the plan of a connected project.

    Raises:
        SettingsError: If it was never connected.
    """
    return Plan.from_settings(context.project_settings(context.project(project_id)))


def replay(
    known: Known,
    plans: Mapping[str, Plan],
    *,
    say: Say,
    batch: int = 10,
    rounds: int | None = None,
    seeds: int = 10,
    metric: Metric = "accuracy",
) -> Report:
    """Replay plans and random order on the same tasks, once a seed, and compare them.

    Each seed locks another quarter of every class away to measure on, the same for all plans. So the intervals cover
    the luck of the split, too.

    Args:
        known: Tasks and labels.
        plans: Name to plan; random order is added in front.
        say: Told how far it is.
        batch: Labels a round, at least 1.
        rounds: Rounds; None plays up to 20, but never more than half of the pool, because all plans meet where
            everything is labelled.
        seeds: Replays of each plan, at least 1; below 5 there are no intervals.
        metric: What is compared.

    Raises:
        TooFewLabels: If there is too little to compare plans on.
        PoolInvalid: If batch, rounds or seeds are out of range, or filters leave a plan nothing.
        StrategyError: If a plan does not fit the tasks.
    """
    for name, value in (("batch", batch), ("seeds", seeds)):
        if value < 1:
            raise PoolInvalid(f"{name} is {value}; expected 1 or more. Correct it.")
    _check_enough(known, batch)
    n_test = len(known.classes) // TEST_PART
    n_pool = len(known.classes) - n_test
    if rounds is None:
        rounds = min(MAX_ROUNDS, n_pool // (2 * batch))
    every = {RANDOM: Plan.preset(RANDOM), **plans}
    curves: dict[str, list[Curve]] = {name: [] for name in every}
    for seed in range(seeds):
        tasks = _split(known, seed)
        for name, plan in every.items():
            say(f"seed {seed + 1} of {seeds}: {name}")
            curves[name].append(tasks.play(plan, batch, rounds, seed))
    cut = _cut(curves)
    return Report(
        title=known.title,
        n_pool=n_pool,
        n_test=n_test,
        n_classes=len(known.class_names),
        metric=metric,
        outcomes=tuple(_outcome(name, plan, cut[name], cut[RANDOM], metric) for name, plan in every.items()),
    )


@dataclass(frozen=True, eq=False)
class _Split:
    """Tasks to pick from and tasks to measure on.

    Attributes:
        embeddings: (p, d) float32, standardised over the pool alone.
        classes: (p,) int64.
        metadata: Field name to (p,) values.
        test_embeddings: (t, d) float32, standardised likewise.
        test_classes: (t,) int64.
        class_names: c labels.
    """

    embeddings: NDArray[np.float32]
    classes: NDArray[np.int64]
    metadata: Mapping[str, NDArray[np.object_]]
    test_embeddings: NDArray[np.float32]
    test_classes: NDArray[np.int64]
    class_names: tuple[str, ...]

    def play(self, plan: Plan, batch: int, rounds: int, seed: int) -> Curve:
        """Replay one plan."""
        return backtest(
            self.embeddings,
            self.classes,
            self.test_embeddings,
            self.test_classes,
            plan,
            batch,
            rounds,
            seed,
            n_classes=len(self.class_names),
            class_names=self.class_names,
            metadata=self.metadata,
            cost_matrix=cost_matrix(plan.objectives.value, self.class_names),
        )


def _check_enough(known: Known, batch: int) -> None:
    needed = max(MIN_TEST * TEST_PART, -(-4 * batch * TEST_PART // (TEST_PART - 1)))
    n, n_labelled = len(known.classes), len(np.unique(known.classes))
    if n < needed or n_labelled < 2:
        raise TooFewLabels(
            f"Too few labels to replay: {known.title} has {n} labels with a readable image, in {n_labelled} classes; "
            f"expected at least {needed} in at least 2 classes, so that {MIN_TEST} or more can measure and 4 batches "
            f"of {batch} are left to choose from.",
            hint="Go on labelling, or take a smaller batch." if n_labelled >= 2 else "Go on labelling.",
            labels=n,
            needed=needed,
        )


def _split(known: Known, seed: int) -> _Split:
    """Lock a quarter of every class away."""
    from ls_backend.vision.features import Standardiser  # noqa: PLC0415 - the server must not import vision
    from ls_backend.vision.heads import stratified_parts  # noqa: PLC0415 - same

    measures = stratified_parts(known.classes, TEST_PART, seed) == TEST_PART - 1
    test, pool = np.flatnonzero(measures), np.flatnonzero(~measures)
    standardiser = Standardiser.fit(known.raw[pool])
    return _Split(
        embeddings=standardiser.apply(known.raw[pool]),
        classes=known.classes[pool],
        metadata={name: column[pool] for name, column in known.metadata.items()},
        test_embeddings=standardiser.apply(known.raw[test]),
        test_classes=known.classes[test],
        class_names=known.class_names,
    )


def _cut(curves: Mapping[str, Sequence[Curve]]) -> dict[str, tuple[Curve, ...]]:
    """Shorten all curves to the rounds they share: the filters of a plan may use its pool up sooner.

    Raises:
        PoolInvalid: If a plan picked nothing at all.
    """
    for name, played in curves.items():
        if not all(len(curve.n_labels) for curve in played):
            raise PoolInvalid(
                f"The plan {name} picked nothing: its metadata filters leave none of the tasks. Widen the filters."
            )
    courses = zip(*(curve.n_labels.tolist() for played in curves.values() for curve in played), strict=False)
    rounds = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, courses))
    return {name: tuple(_first_rounds(curve, rounds) for curve in played) for name, played in curves.items()}


def _first_rounds(curve: Curve, rounds: int) -> Curve:
    return Curve(
        n_labels=curve.n_labels[:rounds],
        accuracy=curve.accuracy[:rounds],
        balanced_accuracy=curve.balanced_accuracy[:rounds],
        log_loss=curve.log_loss[:rounds],
        picked=curve.picked[: int(curve.n_labels[rounds - 1])],
    )


def _outcome(name: str, plan: Plan, curves: Sequence[Curve], random: Sequence[Curve], metric: Metric) -> Outcome:
    return Outcome(
        name=name,
        plan=plan,
        curves=tuple(curves),
        means=mean_curve(curves, metric),
        area=area(curves, metric),
        gain=None if name == RANDOM else area_gain(curves, random, metric),
        saving=None if name == RANDOM else labels_saved(curves, random, metric),
    )
