"""Information about the head: which labels would pin down what it says about the whole pool."""

from __future__ import annotations

import numpy as np

from ls_backend.strategies.pool import Blocks, Floats, Floats32, Indices, Pool
from ls_backend.strategies.questions import distribution
from ls_backend.strategies.registry import picker

RIDGE = 0.01
MIN_CANDIDATES = 8192
OVERSAMPLING = 2
MIN_LEFT = 1e-6


class Trace:
    """Uncertainty of the head about the pool, tr(M^-1 F), as tasks are added to M or taken out.

    M = ridge I + sum over labelled and taken tasks of w z z', F = the mean of w z z' over the pool. What a task adds
    follows from two quadratic forms that are kept for every candidate and change by rank one: no inverse is made anew.
    """

    def __init__(self, points: Floats, information: Floats, start: Floats, pool: Floats) -> None:
        self._points = points  # (m, q)
        self._information = information  # (m,)
        self._inverse = np.linalg.inv(start)
        self._fisher = pool
        both = self._inverse @ pool @ self._inverse
        self._own = np.einsum("ij,ij->i", points @ self._inverse, points)  # z' A z
        self._shared = np.einsum("ij,ij->i", points @ both, points)  # z' A F A z

    def gains(self, sign: float) -> Floats:
        """How much the trace falls (sign 1) or rises (sign -1) if a candidate (m,) is added or taken out."""
        w = self._information
        gained: Floats = w * self._shared / np.maximum(1.0 + sign * w * self._own, MIN_LEFT)
        return gained

    def move(self, row: int, sign: float) -> None:
        """Add a candidate (sign 1) or take it out (sign -1).  O(m q + q^2)."""
        z, w = self._points[row], self._information[row]
        v = self._inverse @ z
        factor = sign * w / max(1.0 + sign * w * float(z @ v), MIN_LEFT)
        u = self._inverse @ (self._fisher @ v)
        along, across = self._points @ v, self._points @ u
        self._shared += factor * along * (factor * float(v @ self._fisher @ v) * along - 2.0 * across)
        self._own -= factor * along**2
        self._inverse -= factor * np.outer(v, v)


@picker(
    "bait",
    objective="diversity",
    needs={"embeddings", "probabilities"},
    uses={"labelled_probabilities"},
    formula="argmin_S tr((0.01 I + sum_(L+S) w z z')^-1 mean_pool w z z'), w = p1 (1 - p1)",
    source="Ash, Goel, Krishnamurthy & Kakade 2021, Gone Fishing, arXiv:2106.09675, algorithm 1; w as in Huseljic, "
    "Herde, Rauch, Hahn & Sick 2024, Fast Fishing, arXiv:2404.08981",
    cost="O(n q^2 + m k q) for m >= 8,192 candidates",
    use_when="Strong at every number of labels, if the embeddings are good.",
    fails_when="Rare classes: it serves the average of the pool.",
    words="would tell the model much about the whole pool",
)
def bait(pool: Pool, utilities: Floats, k: int, rng: np.random.Generator) -> tuple[Indices, Floats, float]:
    """Labels that would pin down what the model says about the whole pool.

    The approximation that keeps it fast: one answer against all others, so that the information of a task is a single
    number times z z', and matrices are q x q instead of c q x c q; with several questions it is the mean of their
    numbers. Twice as many tasks as wanted are taken one by one, then the least needed are given back. Labelled tasks
    weigh by `labelled_probabilities`; where the pool lacks them, as the mean of the pool.

    Args:
        pool: n tasks as `reduction.view` makes them, with probabilities (n, c).
        utilities: (n,) weights above 0 of the gains.
        k: Number of picks.
        rng: Draws half of the candidates of a large pool; breaks ties.

    Returns:
        (k,) rows, in the order they were taken; (k,) fall of the trace at the pick over the largest possible at the
        start; the median of that over the candidates at the start.
    Source: Ash et al. 2021, algorithm 1, with the top-class Fisher information of Huseljic et al. 2024, section 4.
    """
    if not k:
        return np.zeros(0, dtype=np.int64), np.zeros(0), 0.0
    assert pool.probabilities is not None  # `needs` is checked before a method is called
    information = _information(pool.probabilities, pool.blocks)
    fisher = _weighted(pool.embeddings, information) / pool.size
    start: Floats = RIDGE * np.eye(pool.embeddings.shape[1])
    if pool.labelled_embeddings is not None and len(pool.labelled_embeddings):
        known: Floats = np.full(len(pool.labelled_embeddings), float(information.mean()))
        if pool.labelled_probabilities is not None:
            known = _information(pool.labelled_probabilities, pool.blocks)
        start = start + _weighted(pool.labelled_embeddings, known)
    promise = utilities * information
    candidates = _candidates(promise, max(MIN_CANDIDATES // 2, OVERSAMPLING * k), rng)
    trace = Trace(pool.embeddings[candidates].astype(np.float64), information[candidates], start, fisher)
    weights = utilities[candidates]
    gains = trace.gains(1.0)
    unit, typical = max(float(gains.max()), 1e-30), float(np.median(gains))
    taken, values = np.zeros(len(candidates), dtype=np.bool_), {}
    for _ in range(min(OVERSAMPLING * k, len(candidates))):
        gains = trace.gains(1.0)
        best = int(np.argmax(np.where(taken, -1.0, weights * gains)))
        taken[best] = True
        values[best] = min(float(gains[best]) / unit, 1.0)
        trace.move(best, 1.0)
    while len(values) > k:
        losses = weights * trace.gains(-1.0)
        least = int(np.argmin(np.where(taken, losses, np.inf)))
        taken[least] = False
        del values[least]
        trace.move(least, -1.0)
    return candidates[list(values)], np.fromiter(values.values(), dtype=np.float64), min(typical / unit, 1.0)


def _information(probabilities: Floats32, blocks: Blocks) -> Floats:
    """Return p1 (1 - p1) of each task, the mean over its questions."""
    total: Floats = np.zeros(len(probabilities))
    for columns in blocks:
        most = distribution(probabilities, columns).max(axis=1)
        likeliest: Floats = np.clip(most.astype(np.float64), 0.0, 1.0)
        total += likeliest * (1.0 - likeliest)
    return total / len(blocks)


def _weighted(points: Floats32, weights: Floats) -> Floats:
    """Return sum w z z', (q, q)."""
    total: Floats = ((points * weights[:, None].astype(np.float32)).T @ points).astype(np.float64)
    return total


def _candidates(promise: Floats, half: int, rng: np.random.Generator) -> Indices:
    """Rows to search, in random order: all of a small pool, else the most promising and as many random ones."""
    order = rng.permutation(len(promise))
    if len(order) <= 2 * half:
        return order
    chosen = np.zeros(len(order), dtype=np.bool_)
    chosen[:half] = True
    chosen[np.argsort(-promise[order], kind="stable")[:half]] = True
    return order[chosen]
