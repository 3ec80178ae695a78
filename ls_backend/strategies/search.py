"""The greedy search: take the task with the highest priority, count it as labelled, repeat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ls_backend.strategies.pool import Floats, Floats32, Indices
from ls_backend.strategies.registry import Balancer, Gain

REFRESH_ROWS = 16
MAX_SEARCHED = 5000
MIN_FACTOR = 1e-9


@dataclass(frozen=True, eq=False)
class Balancing:
    """Class deficits that follow the picks.

    Attributes:
        deficit: State, changed by the search.
        probabilities: (m, c) of the candidates.
        strength: Exponent.
    """

    deficit: Balancer
    probabilities: Floats32
    strength: float


@dataclass(frozen=True, eq=False)
class Picks:
    """What a search took, in order.

    Attributes:
        rows: (k,) candidate rows.
        utilities: (k,) priority at the moment of the pick.
        gains: (k,) gain at that moment; None without a gain.
        deficits: (k,) class deficit at that moment; None without balancing.
    """

    rows: Indices
    utilities: Floats
    gains: Floats | None
    deficits: Floats | None


def powered(factor: Floats, strength: float) -> Floats:
    """Raise a factor in [0, 1] to a strength; a negative strength prefers small values, so it powers the complement."""
    if strength == 0:
        return np.ones_like(factor)
    base = factor if strength > 0 else 1.0 - factor
    result: Floats = np.maximum(base, MIN_FACTOR) ** abs(strength)
    return result


def greedy(
    static: Floats,
    k: int,
    *,
    last: NDArray[np.bool_],
    gain: Gain | None,
    gain_strength: float,
    balancing: Balancing | None,
    explore: NDArray[np.bool_],
) -> Picks:
    """Pick k candidates, each the best given those before it.

    The priority of a candidate is static x gain^strength x deficit^strength. Gains are kept as upper bounds and
    made exact only for the few candidates at the top, until the best one is exact: the same picks as from computing
    everything anew, at a fraction of the work. Priorities that cannot change are sorted instead, and so are those left
    after 5,000 picks: so far ahead every order is provisional.

    Args:
        static: (m,) product of the factors that do not change; first of equals wins.
        k: Number of picks, at most m.
        last: (m,) candidates that come after all others.
        gain: Redundancy, or None.
        gain_strength: Exponent of the gain; below 0 every gain is computed anew for each pick.
        balancing: Class deficits, or None.
        explore: (k,) picks to be made at random, which takes the first candidate left.

    Returns:
        The picks in order.
    """
    m = len(static)
    taken = np.zeros(m, dtype=np.bool_)
    rows, utilities = np.empty(k, dtype=np.int64), np.empty(k)
    gains = None if gain is None else np.empty(k)
    deficits = None if balancing is None else np.empty(k)
    unit = 1.0 if gain is None or not m else max(float(gain.bounds.max()), MIN_FACTOR)
    chance = iter(range(m))
    weight: Floats = static
    deficit: Floats = np.ones(m)
    n_first = m - int(last.sum())
    n_searched = 0 if gain is None and balancing is None else min(k, MAX_SEARCHED)
    for position in range(n_searched):
        if balancing is not None:
            deficit = balancing.deficit.of_tasks(balancing.probabilities)
            weight = static * powered(deficit, balancing.strength)
        if explore[position]:
            row = next(candidate for candidate in chance if not taken[candidate])
            if gain is not None:
                gain.refresh(np.array([row]))
        else:
            row = _best(weight, taken | last if position < n_first else taken, gain, gain_strength, unit)
        taken[row] = True
        rows[position] = row
        utilities[position] = weight[row]
        if gain is not None and gains is not None:
            gains[position] = gain.bounds[row] / unit
            utilities[position] *= float(powered(gains[position : position + 1], gain_strength)[0])
            gain.take(row)
        if balancing is not None and deficits is not None:
            deficits[position] = deficit[row]
            balancing.deficit.add(balancing.probabilities[row])
    share = np.ones(m) if gain is None else np.minimum(gain.bounds / unit, 1.0)
    priority = weight * powered(share, gain_strength)
    tail = rows[n_searched:]
    tail[:] = _in_order(priority, taken, last, explore[n_searched:], chance)
    utilities[n_searched:] = priority[tail]
    if gains is not None:
        gains[n_searched:] = share[tail]
    if deficits is not None:
        deficits[n_searched:] = deficit[tail]
    return Picks(rows, utilities, gains, deficits)


def _in_order(
    priority: Floats,
    taken: NDArray[np.bool_],
    last: NDArray[np.bool_],
    explore: NDArray[np.bool_],
    chance: Iterator[int],
) -> list[int]:
    """The rows not yet taken by falling priority, the first of equals first, with random ones where marked."""
    queue = iter(np.lexsort((-priority, last)).tolist()) if len(explore) else iter(())
    rows = []
    for by_chance in explore.tolist():
        row = next(candidate for candidate in (chance if by_chance else queue) if not taken[candidate])
        taken[row] = True
        rows.append(row)
    return rows


def _best(weight: Floats, barred: NDArray[np.bool_], gain: Gain | None, strength: float, unit: float) -> int:
    if gain is None:
        return int(np.argmax(np.where(barred, -1.0, weight)))
    exact = barred.copy()
    if strength < 0:  # a stale gain then understates the priority and bounds nothing
        gain.refresh(np.flatnonzero(~exact))
        exact[:] = True
    score = weight * powered(np.minimum(gain.bounds / unit, 1.0), strength)
    score[barred] = -1.0
    while not exact[best := int(np.argmax(score))]:
        top = np.argpartition(-score, min(REFRESH_ROWS, len(score)) - 1)[:REFRESH_ROWS]
        top = np.union1d(top[~exact[top]], [best])
        gain.refresh(top)
        exact[top] = True
        score[top] = weight[top] * powered(np.minimum(gain.bounds[top] / unit, 1.0), strength)
    return best
