"""Which phase of labelling a pool is in, and what follows from it.

One formula serves every phase that has a model: the kernel of coverage narrows as labels grow dense, which turns
coverage of the outline into coverage of details. Missing classes count where some class is rare; where none is, they
cost accuracy. Switching to another method at some number of labels lost or changed nothing wherever it was measured
(decision 6). So a phase decides what stands in before the first model and whether missing classes count, and tells the
admin where an objective of theirs does harm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ls_backend.settings import Diversity
from ls_backend.strategies.plan import IMBALANCED, Plan
from ls_backend.strategies.pool import Floats, Indices, Pool
from ls_backend.strategies.questions import any_doubts, groups

RANDOM = "random"
COLD_START = "cold start"
LOW_BUDGET = "low budget"
HIGH_BUDGET = "high budget"
IMBALANCE = "imbalance guard"

ENOUGH_LABELS = 5.0  # a class, on average; from here on typicality costs accuracy even where classes are balanced
MIN_FREQUENCY = 1e-3  # of a task; below it a class is not worth a ratio


@dataclass(frozen=True)
class Imbalance:
    """How uneven the classes are.

    Attributes:
        most: Index of the most frequent class.
        least: Index of the rarest.
        ratio: How many times as frequent the one is as the other; 1 where chance may have made the difference.
    """

    most: int
    least: int
    ratio: float


@dataclass(frozen=True)
class Regime:
    """A phase of labelling.

    Attributes:
        name: "random", "cold start", "low budget", "high budget" or "imbalance guard".
        reason: Why, with numbers, and what follows; a clause without a full stop.
    """

    name: str
    reason: str


def regime_of(pool: Pool, plan: Plan, diversity: Diversity, *, undecided: bool, balancing: bool) -> Regime:
    """Tell the phase from what is labelled.

    Args:
        pool: Tasks, and the labels so far; without counts the labelled embeddings are counted.
        plan: Objectives as the admin wants them.
        diversity: Redundancy in force, which may stand in for what the plan asks for.
        undecided: Whether nothing of the plan prefers any task.
        balancing: Whether missing classes count.

    Returns:
        The phase; imbalance goes before the number of labels.
    """
    if undecided:
        return Regime(RANDOM, "nothing is preferred, so chance decides")
    if pool.probabilities is None:
        return Regime(COLD_START, _before_the_first_model(pool, plan, diversity))
    warning = _warning(plan)
    uneven = imbalance(pool)
    if uneven.ratio > IMBALANCED:
        most, least = pool.class_shown(uneven.most), pool.class_shown(uneven.least)
        spread = f"{most} is about {uneven.ratio:.0f} times as frequent as {least}"
        follows = ", so missing classes come first" if balancing and plan.objectives.balance.strength > 0 else ""
        return Regime(IMBALANCE, spread + follows + warning)
    per_class = _n_labels(pool) / pool.probabilities.shape[1]
    covers = diversity.strength > 0 and diversity.method == "coverage"
    labels = f"{per_class:.1f} labels a class"
    if per_class < ENOUGH_LABELS:
        return Regime(LOW_BUDGET, labels + (", so each stands for a wide surrounding" if covers else ""))
    return Regime(HIGH_BUDGET, labels + (", so coverage looks at details" if covers else "") + warning)


def imbalance(pool: Pool) -> Imbalance:
    """Estimate how uneven the classes are, as far as the labels can tell.  O(n c).

    Tasks are counted where labelled and by the model where not. The model knows the classes from its labels only, so
    their shares are compared with equal ones as if counted on that many tasks: among the few labels at the start,
    chance makes some class rare in almost every pool.

    Args:
        pool: Tasks with probabilities (n, c), and the labels so far.

    Returns:
        The most frequent and the rarest class, of the question where they are farthest apart, and their ratio where
        the classes differ more than equal ones would by chance on average: where the statistic G exceeds its
        expectation, c - 1.
    Source: Sokal & Rohlf 2012, Biometry, 4th edition, section 17.2, the G test of goodness of fit.
    """
    assert pool.probabilities is not None  # asked only where there is a model
    counts = pool.labelled_counts
    frequency = pool.probabilities.sum(axis=0, dtype=np.float64) + (0.0 if counts is None else counts)
    found: list[Imbalance] = []
    for columns, _ in groups(pool):
        n_labels = _n_labels(pool) if counts is None else float(counts[columns].sum())
        found.append(_imbalance(columns, frequency[columns], n_labels))
    return max(found, key=lambda one: one.ratio)


def _imbalance(columns: Indices, frequency: Floats, n_labels: float) -> Imbalance:
    most, least = int(np.argmax(frequency)), int(np.argmin(frequency))
    shares = frequency[frequency > 0] / max(float(frequency.sum()), MIN_FREQUENCY)
    deviance = 2.0 * n_labels * float((shares * np.log(shares * len(frequency))).sum())
    differs = deviance > len(frequency) - 1
    ratio = float(frequency[most]) / max(float(frequency[least]), MIN_FREQUENCY) if differs else 1.0
    return Imbalance(int(columns[most]), int(columns[least]), ratio)


def _before_the_first_model(pool: Pool, plan: Plan, diversity: Diversity) -> str:
    wanted = plan.objectives
    if wanted.uncertainty.strength and any_doubts(pool.doubts):
        beside = f", with {diversity.method}" if diversity.strength else ""
        return f"no model of the classes yet, so doubts found elsewhere decide{beside}"
    if not diversity.strength:
        return "no model yet, and nothing asks for one"
    replaced = diversity != wanted.diversity or wanted.uncertainty.strength or wanted.balance.strength
    return f"no model yet, so {diversity.method} decides" + (" in the place of what needs one" if replaced else "")


def _n_labels(pool: Pool) -> float:
    if pool.labelled_counts is not None:
        return float(pool.labelled_counts.sum())
    return 0.0 if pool.labelled_embeddings is None else float(len(pool.labelled_embeddings))


def _warning(plan: Plan) -> str:
    typicality = plan.objectives.representativeness
    if typicality.strength <= 0:
        return ""
    return f"; {typicality.method} has strength {typicality.strength:g} and starves rare classes, 0 is better here"
