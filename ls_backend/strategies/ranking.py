"""The one entry: a pool and a plan in, the best order out, with the reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ls_backend.errors import PoolInvalid
from ls_backend.strategies import metadata, reasons, reduction
from ls_backend.strategies.plan import Plan
from ls_backend.strategies.pool import Floats, Indices, Pool, subset
from ls_backend.strategies.problem import Problem, concrete, methods_in_use
from ls_backend.strategies.questions import any_doubts
from ls_backend.strategies.registry import Strategy
from ls_backend.strategies.search import MAX_SEARCHED, MIN_FACTOR, Balancing, greedy, powered

MIN_CANDIDATES = 8192
MAX_RATIO = 1000.0


@dataclass(frozen=True, eq=False)
class Ranking:
    """An order of tasks, and why.

    Attributes:
        indices: (k,) int64 rows of the pool, label the first one first.
        utilities: (k,) float64 priority of each at the moment it was picked, given everything before it. Comparable
            inside one ranking; it mostly falls, yet a random pick is low and a class that has become the rarest rises.
        factors: Name to (k,) float64 in [0, 1], at the moment of the pick.
        ratios: Name to (k,) float64, factor over its median in the pool at the start, at most 1,000.
        reasons: k sentences for an annotator.
        regime: Phase of labelling: "cold start" (no model yet), "low budget", "high budget", "imbalance guard", or
            "random" where nothing is preferred.
        regime_reason: Why it is that phase, with numbers, and what follows, such as "3.2 labels a class".
    """

    indices: Indices
    utilities: Floats
    factors: dict[str, Floats]
    ratios: dict[str, Floats]
    reasons: tuple[str, ...]
    regime: str
    regime_reason: str


@dataclass(frozen=True, eq=False)
class _Batch:
    """Picks in order.

    Attributes:
        rows: (k,) rows of the view.
        utilities: (k,) priorities.
        gains: (k,) redundancy factor at the pick, 0 to 1; None when redundancy does not count.
        typical_gain: Its median over the pool at the start.
        deficits: (k,) class deficit at the pick; None without balancing.
    """

    rows: Indices
    utilities: Floats
    gains: Floats | None
    typical_gain: float
    deficits: Floats | None


def rank(pool: Pool, plan: Plan, k: int, rng: np.random.Generator) -> Ranking:
    """Pick the k tasks whose labels would add most, best first.

    Greedy: each pick counts the earlier ones as labelled. Without probabilities every plan that asks for a model falls
    back to plain coverage (regime "cold start"). The same generator state gives the same answer, and the order of
    the rows does not matter when the pool has ids. A pool larger than 8,192 is searched among its most promising tasks
    and as many random ones.

    Args:
        pool: n tasks.
        plan: Objectives.
        k: Number of tasks wanted, 0 to n.
        rng: Source of everything random.

    Returns:
        k picks; fewer when metadata filters leave fewer tasks.

    Raises:
        PoolInvalid: If k is not between 0 and n.
        StrategyNotReady: If the plan needs a field, class names or a metadata column that the pool lacks.
        StrategyError: If the plan and the pool contradict each other.
    """
    if not 0 <= k <= pool.size:
        raise PoolInvalid(
            f"{k} tasks are asked for, the pool has {pool.size}; expected 0 to {pool.size}. Ask for fewer.",
            k=k,
            pool_size=pool.size,
        )
    keep = metadata.admitted(pool, plan.objectives.metadata)
    order = np.arange(pool.size) if pool.ids is None else np.argsort(pool.ids)
    rows = order[keep[order]]
    k = min(k, len(rows))
    has_doubts = any_doubts(None if pool.doubts is None else pool.doubts[rows])
    in_use = methods_in_use(plan, has_model=pool.probabilities is not None, has_doubts=has_doubts)
    problem = concrete(reduction.view(pool, rows, embeddings=_looked_at(in_use)), plan, k)
    explore = _explored(plan.explore, k, rng)
    by_picker = problem.method is not None and problem.method.kind == "picker"
    batch = (_by_picker if by_picker else _by_search)(problem, k, explore, rng)
    factors, medians = _factors_of(problem, batch)
    ratios = {name: _ratio(factors[name], medians[name]) for name in factors}
    return Ranking(
        indices=rows[batch.rows],
        utilities=batch.utilities,
        factors=factors,
        ratios=ratios,
        reasons=reasons.sentences(problem, batch.rows, explore, factors, ratios, medians),
        regime=problem.regime.name,
        regime_reason=problem.regime.reason,
    )


def _looked_at(methods: list[Strategy]) -> Literal["none", "reduced", "whole"]:
    """How much of the embeddings any of these methods looks at."""
    if any(method.whole_embeddings for method in methods):
        return "whole"
    return "reduced" if any("embeddings" in method.needs for method in methods) else "none"


def _explored(share: float, k: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Spread the random picks evenly: of any run of 1/share positions one is random."""
    marks = np.floor(np.arange(k + 1) * share + rng.random())
    return np.diff(marks) > 0


def _by_search(problem: Problem, k: int, explore: NDArray[np.bool_], rng: np.random.Generator) -> _Batch:
    candidates = _candidates(problem, k, rng)
    gain, typical_gain = None, 0.0
    if problem.covers and problem.method is not None:
        gain = problem.method.function(problem.view, problem.weights(), candidates, rng)
        typical_gain = float(np.median(gain.bounds) / max(gain.bounds.max(), MIN_FACTOR)) if len(candidates) else 0.0
    balancing = None
    if problem.deficits is not None and problem.view.probabilities is not None:
        strength = problem.plan.objectives.balance.strength
        balancing = Balancing(problem.deficit(), problem.view.probabilities[candidates], strength)
    picks = greedy(
        problem.static()[candidates],
        k,
        last=problem.last[candidates],
        gain=gain,
        gain_strength=problem.diversity.strength,
        balancing=balancing,
        explore=explore,
    )
    return _Batch(candidates[picks.rows], picks.utilities, picks.gains, typical_gain, picks.deficits)


def _candidates(problem: Problem, k: int, rng: np.random.Generator) -> Indices:
    """Choose the rows to search, in random order so that the first of equals is a fair draw.

    Those drawn at random come first, so that a random pick from the head of the candidates is one from the whole view.
    """
    order = _shuffled(problem, rng)
    half = max(MIN_CANDIDATES // 2, k)
    if len(order) <= 2 * half:
        return order
    promise = problem.static() * problem.balanced()
    if problem.covers:
        promise *= problem.weights()
    promise = np.where(problem.last, -1.0, promise)[order]
    chosen = np.zeros(len(order), dtype=np.bool_)
    chosen[:half] = True
    chosen[np.argsort(-promise, kind="stable")[:half]] = True
    return order[chosen]


def _shuffled(problem: Problem, rng: np.random.Generator) -> Indices:
    """All rows of the view in random order, except that those to be left for last are at the end."""
    order = rng.permutation(problem.view.size)
    return np.concatenate([order[~problem.last[order]], order[problem.last[order]]])


def _by_picker(problem: Problem, k: int, explore: NDArray[np.bool_], rng: np.random.Generator) -> _Batch:
    assert problem.method is not None  # it is the picker
    weights = problem.static() * problem.balanced()
    among = np.flatnonzero(~problem.last)  # a group of tasks left for last must not be visited in its turn
    pool = problem.view if len(among) == problem.view.size else subset(problem.view, among)
    n_by_chance = int(explore.sum())
    n_picked = k - n_by_chance
    n_searched = min(n_picked, MAX_SEARCHED, max(len(among) - n_by_chance, 0))  # so far ahead all is provisional
    tempered = _tempered(weights[among], problem.diversity.strength)
    rows, values, typical = problem.method.function(pool, tempered, n_searched, rng)
    rows = among[rows]
    order = _shuffled(problem, rng)
    spare = order[~np.isin(order, rows)]
    by_chance, rest = spare[:n_by_chance], spare[n_by_chance:]
    tail = rest[np.lexsort((-weights[rest], problem.last[rest]))][: n_picked - n_searched]
    picked, gains = np.empty(k, dtype=np.int64), np.zeros(k)
    picked[~explore], picked[explore] = np.concatenate([rows, tail]), by_chance
    gains[np.flatnonzero(~explore)[:n_searched]] = values
    utilities = weights[picked] * powered(gains, problem.diversity.strength)
    return _Batch(picked, utilities, gains, typical, None if problem.deficits is None else problem.deficits[picked])


def _tempered(weights: Floats, strength: float) -> Floats:
    """Weights (n,) that count against a picker's own factor as the plan wants it.

    A picker maximises weight x factor; the plan wants weight x factor^strength, whose order is that of
    weight^(1 / strength) x factor.
    """
    relative = weights / max(float(weights.max(initial=0.0)), MIN_FACTOR)
    tempered: Floats = np.maximum(relative ** (1.0 / strength), MIN_FACTOR)
    return tempered


def _factors_of(problem: Problem, batch: _Batch) -> tuple[dict[str, Floats], dict[str, float]]:
    """Factors (k,) of the picks, and the median of each in the pool."""
    factors: dict[str, Floats] = {}
    medians: dict[str, float] = {}
    for name, (factor, _) in problem.factors.items():
        factors[name] = factor[batch.rows]
        medians[name] = float(np.median(factor)) if len(factor) else 0.0
    if batch.gains is not None:
        factors["diversity"], medians["diversity"] = batch.gains, batch.typical_gain
    if batch.deficits is not None and problem.deficits is not None:
        factors["balance"] = batch.deficits
        medians["balance"] = float(np.median(problem.deficits)) if len(problem.deficits) else 0.0
    return factors, medians


def _ratio(factor: Floats, median: float) -> Floats:
    return np.minimum(factor / max(median, MIN_FACTOR), MAX_RATIO)
