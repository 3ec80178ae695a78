"""How far each task is from the one most like it: near-duplicates of a large pool in seconds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ls_backend.strategies.pool import Floats32, Indices
from ls_backend.strategies.reduction import DIMENSIONS, fit_reduction

CELL = 512
PROBES = 4
MAX_MEMBERS = 4096
BLOCK_ROWS = 1024


def nearest_distances(embeddings: Floats32) -> NDArray[np.float64]:
    """Measure the cosine distance from each task to the nearest other one, as `nearest_others` finds it."""
    return nearest_others(embeddings)[1]


def nearest_others(embeddings: Floats32) -> tuple[Indices, NDArray[np.float64]]:
    """Find the nearest other task of each, and the cosine distance to it.

    Tasks are dealt to cells around n / 512 of them, spread evenly, and each looks into the four nearest cells. The
    nearest task is found by 64 principal directions; the distance to it is that of the full embeddings. So it is never
    below the true distance, and above it where the nearest task lies in another cell, which near-duplicates hardly do.
    Up to 1,023 tasks are compared with all others, exactly where there are at most 64 dimensions. Of a cell that is
    crowded by copies 4,096 are looked at.
    O(n q CELL PROBES).

    Args:
        embeddings: (n, d) float32, rows of unit length or all zero.

    Returns:
        (n,) int64 rows and (n,) float64 from 0 (a copy) to 2; the row itself and NaN for rows of zeros and where there
        is no other task.
    """
    n = len(embeddings)
    others, distances = np.arange(n), np.full(n, np.nan)
    rows = np.flatnonzero(embeddings.any(axis=1))
    if len(rows) < 2:
        return others, distances
    few = embeddings.shape[1] <= DIMENSIONS
    reduced = embeddings[rows] if few else fit_reduction(embeddings, rows).apply(embeddings, rows)
    nearest = rows[_nearest(reduced)]
    for start in range(0, len(rows), BLOCK_ROWS):
        one, other = rows[start : start + BLOCK_ROWS], nearest[start : start + BLOCK_ROWS]
        likeness = np.einsum("ij,ij->i", embeddings[one], embeddings[other], dtype=np.float64)
        distances[one] = np.clip(1.0 - likeness, 0.0, 2.0)
    others[rows] = nearest
    return others, distances


def _nearest(reduced: Floats32) -> Indices:
    """Index (n,) of the most similar other row, as far as the cells show it."""
    n = len(reduced)
    n_cells = max(1, n // CELL)
    centres = reduced[np.linspace(0, n - 1, n_cells).astype(np.int64)]
    probes = _top(reduced, centres, min(PROBES, n_cells))  # (n, p), the own cell first
    best = np.full(n, -np.inf, np.float32)
    found = (np.arange(n) + 1) % n  # any other task, where none is in reach
    for cell in range(n_cells):
        members = np.flatnonzero(probes[:, 0] == cell)
        if len(members) > MAX_MEMBERS:
            members = members[np.linspace(0, len(members) - 1, MAX_MEMBERS).astype(np.int64)]
        askers = np.flatnonzero((probes == cell).any(axis=1))
        for start in range(0, len(askers) if len(members) else 0, BLOCK_ROWS):
            rows = askers[start : start + BLOCK_ROWS]
            likeness = reduced[rows] @ reduced[members].T
            likeness[rows[:, None] == members] = -np.inf
            places = likeness.argmax(axis=1)
            values = likeness[np.arange(len(rows)), places]
            better = values > best[rows]
            best[rows[better]], found[rows[better]] = values[better], members[places[better]]
    return found


def _top(reduced: Floats32, centres: Floats32, count: int) -> Indices:
    """Indices (n, count) of the most similar centres, best first, block by block."""
    top = np.empty((len(reduced), count), np.int64)
    for start in range(0, len(reduced), BLOCK_ROWS):
        likeness = reduced[start : start + BLOCK_ROWS] @ centres.T
        some = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(likeness, some, axis=1), axis=1, kind="stable")
        top[start : start + BLOCK_ROWS] = np.take_along_axis(some, order, axis=1)
    return top
