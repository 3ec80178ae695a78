"""Coverage by balls: which tasks have most of the pool close by."""

from __future__ import annotations

import numpy as np

from ls_backend.strategies.diversity import nearest_distances, squared_distances
from ls_backend.strategies.kmeans import k_means
from ls_backend.strategies.pool import Floats, Indices, Pool
from ls_backend.strategies.registry import picker

N_REFERENCES = 4000
MIN_CANDIDATES = 8192
MAX_CELLS = 64_000_000  # bytes of the table of who covers whom
BLOCK_ROWS = 2048
RADIUS_SAMPLE = 2000
RADIUS_ROWS = 20_000
PURITY = 0.95
USUAL_CLASSES = 10  # where the pool does not say how many there are


@picker(
    "prob_cover",
    objective="diversity",
    needs={"embeddings"},
    formula="argmax_i |{x not yet covered: |z_x - z_i| <= delta}|, delta the largest with 95 % of the balls pure",
    source="Yehuda, Dekel, Hacohen & Weinshall 2022, Active Learning Through a Covering Lens, arXiv:2205.11320",
    cost="O(m r q) for r <= 4,000 points to cover and m >= 8,192 candidates",
    use_when="The first labels of balanced classes that form dense groups.",
    fails_when="Sensitive to the radius; rare classes and sparse embeddings.",
    words="many tasks without labels are close to it",
)
def prob_cover(pool: Pool, utilities: Floats, k: int, rng: np.random.Generator) -> tuple[Indices, Floats, float]:
    """Most tasks that nothing labelled is close to are close to this one.

    Once everything is covered the other factors and chance decide.

    Args:
        pool: n tasks as `reduction.view` makes them.
        utilities: (n,) weights above 0 of the number covered.
        k: Number of picks.
        rng: Samples of a large pool; breaks ties.

    Returns:
        (k,) rows, best first; (k,) points newly covered over the most at the start; the median of that over the
        candidates at the start.
    Source: Yehuda et al. 2022, algorithm 1; radius as in section 4.1 there, with k-means groups as classes.
    """
    if not k:
        return np.zeros(0, dtype=np.int64), np.zeros(0), 0.0
    delta = radius(pool, rng)
    order = rng.permutation(pool.size)
    candidates = order[: max(MIN_CANDIDATES, k)]
    weights = utilities[candidates]
    n_references = max(1, min(N_REFERENCES, MAX_CELLS // len(candidates)))
    references = pool.embeddings[np.sort(rng.permutation(pool.size)[:n_references])]
    if pool.labelled_embeddings is not None and len(pool.labelled_embeddings):
        references = references[nearest_distances(references, pool.labelled_embeddings) > delta]
    covers = np.empty((len(candidates), len(references)), dtype=np.bool_)  # (m, r)
    for start in range(0, len(candidates), BLOCK_ROWS):
        block = pool.embeddings[candidates[start : start + BLOCK_ROWS]]
        covers[start : start + BLOCK_ROWS] = squared_distances(block, references) <= delta**2
    counts = covers.sum(axis=1)
    most, typical = max(int(counts.max()), 1), float(np.median(counts))
    open_points = np.ones(len(references), dtype=np.bool_)
    picked, values = np.empty(k, dtype=np.int64), np.empty(k)
    left = np.ones(len(candidates), dtype=np.bool_)
    for position in range(k):
        score = weights * counts if (counts * left).any() else weights
        best = int(np.argmax(np.where(left, score, -1.0)))
        picked[position], values[position] = candidates[best], counts[best] / most
        left[best] = False
        newly = np.flatnonzero(covers[best] & open_points)  # each point is closed once, so this adds up to O(m r)
        open_points[newly] = False
        if len(newly):
            counts = counts - covers[:, newly].sum(axis=1)
    return picked, values, typical / most


def radius(pool: Pool, rng: np.random.Generator) -> float:
    """Return the largest distance at which 95 % of the balls hold points of one k-means group only.

    A ball is pure as long as its radius is below the distance of its centre to the nearest point of another group, so
    the answer is a quantile of those distances, without a search.  O(s n q), s <= 2,000 balls over 20,000 points.

    Args:
        pool: n >= 1 tasks; the number of groups is that of the classes, 10 if the pool does not say it.
        rng: Samples; first means.

    Returns:
        A distance; 0 if all points are the same.
    """
    rows = np.sort(rng.permutation(pool.size)[:RADIUS_ROWS])
    points = pool.embeddings[rows]
    groups = k_means(points, n_classes(pool), rng).labels
    centres = rng.permutation(len(points))[:RADIUS_SAMPLE]
    foreign = np.full(len(centres), np.inf)
    for start in range(0, len(points), BLOCK_ROWS):
        squares = squared_distances(points[centres], points[start : start + BLOCK_ROWS])
        squares[groups[centres][:, None] == groups[start : start + BLOCK_ROWS]] = np.inf
        np.minimum(foreign, squares.min(axis=1), out=foreign)
    if np.isinf(foreign).all():  # one group only
        return 0.0
    # Just below the distance to the nearest stranger, which must stay outside.
    return float(np.sqrt(np.quantile(foreign, 1.0 - PURITY, method="lower"))) * (1.0 - 1e-4)


def n_classes(pool: Pool) -> int:
    """Return the number of classes as far as the pool tells it; a lone label makes two, yes and no."""
    for known in (pool.class_names, pool.labelled_counts):
        if known is not None:
            return max(2, len(known))
    return USUAL_CLASSES if pool.probabilities is None else max(2, pool.probabilities.shape[1])
