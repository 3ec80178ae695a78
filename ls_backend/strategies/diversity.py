"""How far a task is from what is labelled and from what is ahead of it: coverage of the pool, and farthest-first."""

from __future__ import annotations

import numpy as np

from ls_backend.strategies.pool import Floats, Floats32, Indices, Pool
from ls_backend.strategies.registry import gain, picker

N_REFERENCES = 4000
SIGMA_SAMPLE = 2000
MAX_KERNEL_CELLS = 64_000_000  # 256 MB of float32; a search over more candidates makes do with fewer references
BLOCK_ROWS = 512
REFRESH_ROWS = 256
NEAREST_ROWS = 4096
K_CENTER_BLOCK = 2048
CENTRE_SPAN = 512  # few large products: BLAS waits for its threads at each, long when the machine is busy
TAKEN = -1.0  # score of a task that was picked; all others have 0 or more
MIN_SIGMA = 0.02
MAX_DISTANCE = 2.0  # between two points of the unit sphere


class Coverage:
    """Gain of a task: the weighted kernel mass of the pool that it covers better than anything taken so far.

    gain_i = sum_x w_x max(0, k(x, i) - cov_x), cov_x = max of k(x, j) over taken and labelled j, k a Gaussian kernel.
    Submodular, so a gain computed earlier bounds the gain now.
    """

    def __init__(self, references: Floats32, weights: Floats32, candidates: Floats32, sigma: float) -> None:
        self._references = references  # (r, q)
        self._weights = weights  # (r,)
        self._sigma = sigma
        self._covered = np.zeros(len(weights), dtype=np.float32)
        self._kernels = self._kernel(candidates)  # (m, r); kept, because products of a few rows are slow in BLAS
        self.bounds = np.zeros(len(candidates), dtype=np.float64)

    def cover(self, points: Floats32) -> None:
        """Count these points (l, q) as labelled.  O(l r q)."""
        for start in range(0, len(points), BLOCK_ROWS):
            kernel = self._kernel(points[start : start + BLOCK_ROWS])
            np.maximum(self._covered, kernel.max(axis=0), out=self._covered)

    def refresh(self, rows: Indices) -> None:
        """Make the bounds of these candidate rows exact again.  O(r) for each."""
        for start in range(0, len(rows), REFRESH_ROWS):
            block = rows[start : start + REFRESH_ROWS]
            gained = self._kernels[block] - self._covered
            np.maximum(gained, 0.0, out=gained)
            self.bounds[block] = np.einsum("ij,j->i", gained, self._weights)

    def take(self, row: int) -> None:
        """Count this candidate row as labelled.  O(r)."""
        np.maximum(self._covered, self._kernels[row], out=self._covered)

    def _kernel(self, points: Floats32) -> Floats32:
        kernels = np.empty((len(points), len(self._references)), dtype=np.float32)
        for start in range(0, len(points), BLOCK_ROWS):
            squares = squared_distances(points[start : start + BLOCK_ROWS], self._references)
            squares *= np.float32(-0.5 / self._sigma**2)
            np.exp(squares, out=kernels[start : start + BLOCK_ROWS])
        return kernels


@gain(
    "coverage",
    objective="diversity",
    needs={"embeddings"},
    formula="sum_x u_x max(0, k(x, i) - max_taken k(x, j)), k Gaussian, its width shrinking with the labelled set",
    source="Bae, Oliveira & Sutherland 2025, Uncertainty Herding, arXiv:2412.20644; MaxHerding, arXiv:2407.12212",
    cost="O(n q + m r q) for r <= 4,000 reference points and m candidates",
    use_when="Almost always: from the first label to thousands, balanced or not.",
    fails_when="The embeddings say nothing about the classes.",
    words="stands for much that no label covers",
)
def coverage(pool: Pool, weights: Floats, candidates: Indices, rng: np.random.Generator) -> Coverage:
    """A task is worth most where many doubtful tasks resemble it and nothing labelled does.

    With equal weights this is MaxHerding, with doubt as weights Uncertainty Herding.

    Args:
        pool: n tasks as `reduction.view` makes them.
        weights: (n,) how much it matters that a task is covered, from 0 to 1.
        candidates: (m,) rows that may be taken.
        rng: Draws the reference points of a large pool.

    Returns:
        The gain of each candidate, exact for now; labelled tasks are covered already.
    Source: Bae, Oliveira & Sutherland 2025, section 4.
    """
    points = pool.embeddings
    n_references = max(1, min(N_REFERENCES, MAX_KERNEL_CELLS // max(1, len(candidates))))
    rows, reference_weights = _references(weights, n_references, rng)
    search = Coverage(points[rows], reference_weights, points[candidates], _sigma(pool))
    if pool.labelled_embeddings is not None:
        search.cover(pool.labelled_embeddings)
    search.refresh(np.arange(len(candidates)))
    return search


def _references(weights: Floats, size: int, rng: np.random.Generator) -> tuple[Indices, Floats32]:
    """Choose reference points, half by chance and half by weight, reweighted so that sums keep their expectation."""
    n = len(weights)
    mean = float(weights.mean()) if n else 0.0
    if mean <= 0:
        weights, mean = np.ones(n), 1.0  # nothing matters more than anything else
    if n <= size:
        return np.arange(n), (weights / (n * mean)).astype(np.float32)
    chances = _chances(0.5 + 0.5 * weights / mean, size)
    order = rng.permutation(n)  # systematic sampling keeps the chances exactly, which drawing one by one would not
    marks = np.floor(np.cumsum(chances[order]) + rng.random())
    rows = np.sort(order[np.diff(marks, prepend=0.0) > 0])
    reweighted = weights[rows] / chances[rows]
    return rows, (reweighted / reweighted.sum()).astype(np.float32)


def _chances(shares: Floats, size: int) -> Floats:
    """Chances (n,) of being drawn, proportional to the shares, at most 1, with the size as their sum."""
    certain = np.zeros(len(shares), dtype=np.bool_)
    while True:
        scale = (size - certain.sum()) / shares[~certain].sum()
        chances = np.where(certain, 1.0, shares * scale)
        if (chances <= 1.0).all():
            return chances
        certain |= chances >= 1.0


def _sigma(pool: Pool) -> float:
    """Width of the kernel: how far labelled tasks are from each other, and never finer than the pool itself.

    Few labels lie far apart, so each stands for a wide surrounding; as they grow dense the width falls to the mean
    distance between neighbours in the pool, and coverage turns from the outline of the pool to its details.
    """
    width = _mean_nearest(pool.embeddings)
    labelled = pool.labelled_embeddings
    if labelled is not None and len(labelled) > 1:
        width = max(width, _mean_nearest(labelled))
    return max(width, MIN_SIGMA)


def _mean_nearest(points: Floats32) -> float:
    if len(points) < 2:
        return 1.0
    spaced = np.linspace(0, len(points) - 1, min(len(points), SIGMA_SAMPLE)).astype(np.int64)
    sample = points[spaced]
    squares = squared_distances(sample, sample)
    np.fill_diagonal(squares, np.inf)
    return float(np.sqrt(squares.min(axis=1)).mean())


def squared_distances(left: Floats32, right: Floats32) -> Floats32:
    """Squared Euclidean distances.  O(a b q).

    Args:
        left: (a, q) float32.
        right: (b, q) float32.

    Returns:
        (a, b) float32, never negative.
    """
    squares = left @ right.T
    squares *= -2.0
    squares += np.einsum("ij,ij->i", left, left)[:, None]
    squares += np.einsum("ij,ij->i", right, right)
    result: Floats32 = np.maximum(squares, 0.0, out=squares)
    return result


@picker(
    "core_set",
    objective="diversity",
    needs={"embeddings"},
    whole_embeddings=True,
    formula="argmax_i u_i min_taken |z_i - z_j|",
    source="Sener & Savarese 2018, Active Learning for Convolutional Neural Networks, arXiv:1708.00489, algorithm 1",
    cost="O(n (m + k) d) at most, as matrix products; in practice a fraction, see the function",
    use_when="Rare classes and odd cases matter more than the average.",
    fails_when="Few labels: it spends them on outliers and is often below random.",
    words="far from everything labelled",
)
def core_set(pool: Pool, utilities: Floats, k: int, rng: np.random.Generator) -> tuple[Indices, Floats, float]:
    """Farthest first: the task that is least like anything labelled or ahead of it.

    Exact greedy k-center on the embeddings as they are, weighted by the other factors. Distances only fall, so one
    computed earlier bounds the one now: the tasks with the largest bounds are brought up to date together, and the
    greedy choice is made among them as long as its best stays above every bound outside. Most tasks are never looked
    at again. Without labels the first pick is the most central task.

    Args:
        pool: n tasks as `reduction.view` makes them, with whole embeddings (n, d).
        utilities: (n,) weights above 0; equal ones give the plain method.
        k: Number of picks.
        rng: Breaks ties.

    Returns:
        (k,) rows, best first; (k,) half the distance of each to the nearest labelled or earlier one, 1 when there is
        none; the median of that over the pool at the start.
    Source: Sener & Savarese 2018, algorithm 1.
    """
    order = rng.permutation(pool.size)  # everything (n,) below is in this order, so the first of equals is a fair draw
    weights = utilities[order]
    picked, values = np.empty(k, dtype=np.int64), np.empty(k)  # positions in the order
    centres = np.empty((k, pool.embeddings.shape[1]), dtype=np.float32)  # embeddings of the picks
    n_done = 0
    labelled = pool.labelled_embeddings
    if labelled is not None and len(labelled):
        nearest = nearest_distances(pool.embeddings, labelled)[order]
    elif k:
        middle = pool.embeddings.mean(axis=0, keepdims=True)
        first = int(np.argmax(weights * (MAX_DISTANCE - nearest_distances(pool.embeddings, middle)[order])))
        picked[0], values[0], n_done = first, MAX_DISTANCE, 1
        centres[0] = pool.embeddings[order[first]]
        nearest = nearest_distances(pool.embeddings, centres[:1])[order]
    else:
        nearest = np.full(pool.size, MAX_DISTANCE)
    typical = float(np.median(nearest)) if pool.size else 0.0
    n_met = np.full(pool.size, n_done)  # nearest knows the picks before this one and bounds what it is with all
    scores = weights * nearest
    scores[picked[:n_done]] = TAKEN
    while n_done < k:
        block, threshold = _most(scores)
        points = pool.embeddings[order[block]]
        nearest[block] = _approached(points, nearest[block], n_met[block], centres[:n_done])
        taken, distances = _farthest_first(points, weights[block], nearest[block], threshold, k - n_done)
        picked[n_done : n_done + len(taken)], values[n_done : n_done + len(taken)] = block[taken], distances
        centres[n_done : n_done + len(taken)] = points[taken]
        n_met[block] = n_done
        n_done += len(taken)
        scores[block] = weights[block] * nearest[block]
        scores[picked[:n_done]] = TAKEN
    return order[picked], values / MAX_DISTANCE, typical / MAX_DISTANCE


def nearest_distances(points: Floats32, centres: Floats32) -> Floats:
    """Distance (n,) of each point (n, d) to the nearest of at least one centre (m, d).  O(n m d)."""
    halves = 0.5 * np.einsum("ij,ij->i", centres, centres)
    nearest = np.empty(len(points))
    for start in range(0, len(points), NEAREST_ROWS):
        block = points[start : start + NEAREST_ROWS]
        closest = np.full(len(block), -np.inf, dtype=np.float32)  # most of z c - |c|^2 / 2, half of |z|^2 - |z - c|^2
        for first in range(0, len(centres), BLOCK_ROWS):
            products = centres[first : first + BLOCK_ROWS] @ block.T
            products -= halves[first : first + BLOCK_ROWS, None]
            np.maximum(closest, products.max(axis=0), out=closest)
        squares = np.einsum("ij,ij->i", block, block) - 2.0 * closest
        nearest[start : start + NEAREST_ROWS] = np.sqrt(np.maximum(squares, 0.0))
    return nearest


def _most(scores: Floats) -> tuple[Indices, float]:
    """Return the positions with the largest scores, and the largest score outside them."""
    if len(scores) <= K_CENTER_BLOCK:
        return np.flatnonzero(scores > TAKEN), TAKEN
    ordered = np.argpartition(-scores, K_CENTER_BLOCK)
    block = np.sort(ordered[:K_CENTER_BLOCK])
    return block[scores[block] > TAKEN], float(scores[ordered[K_CENTER_BLOCK]])


def _approached(points: Floats32, nearest: Floats, n_met: Indices, centres: Floats32) -> Floats:
    """Bring distances (b,) up to date that know only the first so many centres, a span of centres at a time."""
    nearest = nearest.copy()
    for start in range(int(n_met.min(initial=len(centres))) // CENTRE_SPAN * CENTRE_SPAN, len(centres), CENTRE_SPAN):
        behind = np.flatnonzero(n_met < start + CENTRE_SPAN)
        span = nearest_distances(points[behind], centres[start : start + CENTRE_SPAN])
        nearest[behind] = np.minimum(nearest[behind], span)
    return nearest


def _farthest_first(
    points: Floats32, weights: Floats, nearest: Floats, threshold: float, k: int
) -> tuple[list[int], list[float]]:
    """Greedy farthest-first inside a block, while its best score is at least that of everything outside.

    Returns:
        Rows of the block, and the distance of each when it was taken.
    """
    lengths = np.einsum("ij,ij->i", points, points)
    nearest = nearest.copy()
    scores = weights * nearest
    rows: list[int] = []
    distances: list[float] = []
    while len(rows) < min(k, len(points)):
        best = int(np.argmax(scores))
        if scores[best] < threshold:
            break
        rows.append(best)
        distances.append(float(nearest[best]))
        # Not `@`: for so little work, BLAS's threads take ten times as long as one when another process is busy.
        squares = lengths + lengths[best] - 2.0 * np.einsum("ij,j->i", points, points[best])
        np.minimum(nearest, np.sqrt(np.maximum(squares, 0.0)), out=nearest)
        scores = weights * nearest
        scores[rows] = TAKEN
    return rows, distances
