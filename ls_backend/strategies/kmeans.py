"""Groups of points: draws that keep their distance (k-means++), and k-means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ls_backend.strategies.diversity import squared_distances
from ls_backend.strategies.pool import Floats, Floats32, Indices

FIT_ROWS = 20_000
BLOCK_ROWS = 4096
MAX_STEPS = 25
MAX_PENDING = 64
LAG = 4  # one draw in so many may await its turn to bring the distances up to date
MAX_REFUSED = 16
SAME = 1e-6  # squared distances of unit vectors below this are rounding noise

Squares = Callable[[Indices, Indices], Floats32]
"""Squared distances (a, b) between rows a and rows b; exactly 0 where they are only rounding noise."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """A partition of points.

    Attributes:
        centres: (j, q) float32 means; fewer than asked for when there are fewer distinct points.
        labels: (n,) int64 nearest centre of each point; a centre may have no point.
        squares: (n,) float32 squared distance to it.
    """

    centres: Floats32
    labels: Indices
    squares: Floats32


def plus_plus(
    squares: Squares, weights: Floats, first: int, k: int, rng: np.random.Generator
) -> tuple[Indices, Floats]:
    """Draw points one by one, by weight x squared distance to the nearest point drawn already.

    Distances only fall, so a distance computed earlier is too large at most: a draw by such a distance is kept with the
    chance exact / earlier and repeated otherwise. That gives exactly the chances of computing everything anew, while
    all points are brought up to date only now and then, by matrix products.  O(n k) distances.

    Args:
        squares: Distances between points, given by their rows.
        weights: (n,) above 0.
        first: Row taken without a draw.
        k: Number of draws wanted, the first one included, at least 1.
        rng: Source of the draws.

    Returns:
        (l,) rows in order, distinct, l <= k: fewer when no other point is left at any distance; (l,) squared distance
        of each to the nearest earlier one, infinite for the first.
    Source: Arthur & Vassilvitskii 2007, k-means++: The Advantages of Careful Seeding, SODA, section 2.2.
    """
    rows, drawn = [first], [np.inf]
    pending = [first]
    nearest = np.full(len(weights), np.inf)
    cumulative = np.zeros(0)
    refused = 0
    while len(rows) < k:
        if not len(cumulative) or len(pending) >= min(MAX_PENDING, 1 + len(rows) // LAG) or refused > MAX_REFUSED:
            _approach(nearest, squares, np.asarray(pending))
            nearest[pending] = 0.0
            cumulative = np.cumsum(weights * nearest)
            pending, refused = [], 0
            if not cumulative[-1] > 0:
                break
        row = min(int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")), len(nearest) - 1)
        exact = nearest[row]
        if row in pending:
            exact = 0.0
        elif pending:
            exact = min(exact, float(squares(np.array([row]), np.asarray(pending)).min()))
        if rng.random() * nearest[row] < exact:
            rows.append(row)
            drawn.append(exact)
            pending.append(row)
        else:
            refused += 1
    return np.asarray(rows, dtype=np.int64), np.asarray(drawn)


def _approach(nearest: Floats, squares: Squares, centres: Indices) -> None:
    for start in range(0, len(nearest), BLOCK_ROWS):
        rows = np.arange(start, min(start + BLOCK_ROWS, len(nearest)))
        np.minimum(nearest[rows], squares(rows, centres).min(axis=1), out=nearest[start : start + BLOCK_ROWS])


def k_means(points: Floats32, k: int, rng: np.random.Generator, weights: Floats | None = None) -> Clusters:
    """Split points into groups around their means.  O(s k q) for each of at most 25 steps, s <= 20,000, and O(n k q).

    Args:
        points: (n, q) float32, n >= 1, of about unit length.
        k: Number of groups wanted, at least 1.
        rng: Draws the first centres, and the sample that a large set is fitted on.
        weights: (n,) how much each point counts, 0 or more; None counts all alike.

    Returns:
        The groups; every point is with its nearest centre.
    Source: Lloyd 1982; first centres by `plus_plus`.
    """
    n = len(points)
    sample = np.arange(n) if n <= FIT_ROWS else np.sort(rng.choice(n, FIT_ROWS, replace=False))
    fitted = points[sample]
    mass = np.ones(len(sample)) if weights is None else weights[sample].astype(np.float64)
    mass = mass / mass.max() if mass.max() > 0 else np.ones(len(sample))
    mass = np.maximum(mass, np.finfo(np.float32).eps)

    def squares(rows: Indices, others: Indices) -> Floats32:
        between = squared_distances(fitted[rows], fitted[others])
        between[between < SAME] = 0.0
        return between

    first = int(rng.choice(len(sample), p=mass / mass.sum()))
    seeds, _ = plus_plus(squares, mass, first, min(k, len(sample)), rng)
    centres = fitted[seeds]
    labels, _ = assign(fitted, centres)
    for _ in range(MAX_STEPS):
        centres = _means(fitted, mass, labels, centres)
        before, (labels, _) = labels, assign(fitted, centres)
        if np.array_equal(before, labels):
            break
    return Clusters(centres, *assign(points, centres))


def assign(points: Floats32, centres: Floats32) -> tuple[Indices, Floats32]:
    """Return the nearest centre (n,) of each point, the first of equals, and the squared distance (n,).  O(n j q)."""
    labels = np.empty(len(points), dtype=np.int64)
    squares = np.empty(len(points), dtype=np.float32)
    for start in range(0, len(points), BLOCK_ROWS):
        block = squared_distances(points[start : start + BLOCK_ROWS], centres)
        labels[start : start + BLOCK_ROWS] = nearest = block.argmin(axis=1)
        squares[start : start + BLOCK_ROWS] = np.take_along_axis(block, nearest[:, None], axis=1)[:, 0]
    return labels, squares


def _means(points: Floats32, mass: Floats, labels: Indices, centres: Floats32) -> Floats32:
    """Weighted means of the groups; a group without points keeps its centre."""
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    sums = np.add.reduceat(points[order] * mass[order, None], starts, axis=0)
    means = centres.copy()
    means[present] = sums / np.add.reduceat(mass[order], starts)[:, None]
    return means
