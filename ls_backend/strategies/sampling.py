"""Batches drawn by chance, the doubtful and the unlike more often."""

from __future__ import annotations

import numpy as np

from ls_backend.strategies.kmeans import plus_plus
from ls_backend.strategies.pool import Floats, Floats32, Indices, Pool
from ls_backend.strategies.questions import answered, doubt
from ls_backend.strategies.registry import picker
from ls_backend.strategies.uncertainty import margin

SAME = 1e-6  # of the squared lengths; squared distances below are rounding noise
TINY = 1e-30  # in the place of 0 below a fraction


@picker(
    "badge",
    objective="diversity",
    needs={"embeddings", "probabilities"},
    formula="k-means++ draws by |g_x - g_y|^2, g_x = (p - onehot(argmax p)) (x) z",
    source="Ash, Zhang, Krishnamurthy, Langford & Agarwal 2020, Deep Batch Active Learning by Diverse, Uncertain "
    "Gradient Lower Bounds, arXiv:1906.03671, algorithm 1",
    cost="O(n k (q + c)), as matrix products; no gradient is stored",
    use_when="Some labels for each class, and large batches.",
    fails_when="The head is hardly trained; it does not know what is labelled.",
    words="would change the model in its own way",
)
def badge(pool: Pool, utilities: Floats, k: int, rng: np.random.Generator) -> tuple[Indices, Floats, float]:
    """Tasks that would pull the model hard, and each in another direction.

    The gradient of the last layer under the most likely answer is an outer product, so the distance of two gradients
    follows from the distances of their factors, and the c q numbers of a gradient are never made. Several questions
    have a gradient each, and those of a task are laid side by side.

    Args:
        pool: n tasks as `reduction.view` makes them, with probabilities (n, c).
        utilities: (n,) weights above 0 of the draws; equal ones give the plain method.
        k: Number of picks.
        rng: Draws.

    Returns:
        (k,) rows, the first with the longest gradient; (k,) distance of each to the nearest earlier one over the
        largest possible; the median of that over the pool after the first pick.
    Source: Ash et al. 2020, algorithm 1; distances as in section 3 there.
    """
    if not k:
        return np.zeros(0, dtype=np.int64), np.zeros(0), 0.0
    residuals, z = _residuals(pool), pool.embeddings
    lengths = np.einsum("ij,ij->i", residuals, residuals) * np.einsum("ij,ij->i", z, z)  # squared

    def squares(rows: Indices, others: Indices) -> Floats32:
        between = (residuals[rows] @ residuals[others].T) * (z[rows] @ z[others].T)
        reach = lengths[rows, None] + lengths[others]
        distances: Floats32 = reach - 2.0 * between
        distances[distances <= SAME * reach] = 0.0
        return distances

    order = rng.permutation(pool.size)  # so that the first of equals is a fair draw
    first = int(order[np.argmax((utilities * lengths)[order])])
    rows, drawn = plus_plus(squares, utilities, first, k, rng)
    unit = max(2.0 * float(np.sqrt(lengths.max())), TINY)
    typical = float(np.median(np.sqrt(squares(np.arange(pool.size), rows[:1])))) / unit
    values = np.zeros(k)
    values[: len(rows)] = np.minimum(np.sqrt(drawn) / unit, 1.0)
    return _filled(rows, utilities, k, rng), values, min(typical, 1.0)


def _residuals(pool: Pool) -> Floats32:
    """Gradient (n, c) of the loss by the logits, if the most likely answer to each question were the truth."""
    assert pool.probabilities is not None  # `needs` is checked before a method is called
    residuals = pool.probabilities.copy()
    for columns in pool.blocks:
        answers = answered(pool.probabilities, columns)
        if len(columns) == 1:
            residuals[:, columns[0]] -= answers  # the logit of yes
        else:
            residuals[np.arange(pool.size), columns[answers]] -= 1.0
    return residuals


def _filled(rows: Indices, utilities: Floats, k: int, rng: np.random.Generator) -> Indices:
    """Fill up to k rows, where nothing is left that differs, by chance in proportion to the weights."""
    if len(rows) == k:
        return rows
    keys = np.log(utilities) + rng.gumbel(size=len(utilities))  # the largest keys are a draw without replacement
    keys[rows] = -np.inf
    return np.concatenate([rows, np.argsort(-keys, kind="stable")[: k - len(rows)]])


@picker(
    "falcun",
    objective="diversity",
    needs={"probabilities"},
    formula="draw by (u_i + d_i)^10, u = 1 - (p1 - p2), d = least |p_i - p_taken|_1 rescaled to 0..1, at first d = u",
    source="Gilhuber, Beer, Ma & Seidl 2024, FALCUN: A Simple and Efficient Deep Active Learning Strategy, ECML PKDD",
    cost="O(n k c)",
    use_when="Balanced or not, from tens of labels on; embeddings are not looked at, so it is cheap.",
    fails_when="Tasks that look different and confuse the model in the same way count as the same.",
    words="doubtful in its own way",
)
def falcun(pool: Pool, utilities: Floats, k: int, rng: np.random.Generator) -> tuple[Indices, Floats, float]:
    """The model hesitates, and between other classes than for the tasks ahead.

    Distances add up over the answers to all questions.

    Args:
        pool: n tasks with probabilities (n, c).
        utilities: (n,) weights above 0 of the draws; equal ones give the plain method.
        k: Number of picks.
        rng: Draws.

    Returns:
        (k,) rows, best first; (k,) half of doubt + distance at the pick; the median of that over the pool at the start.
    Source: Gilhuber et al. 2024, equations 2 to 5, gamma = 10.
    """
    assert pool.probabilities is not None  # `needs` is checked before a method is called
    of_tasks = doubt(pool, margin).of_tasks
    columns = np.ascontiguousarray(pool.probabilities.T)  # (c, n): long rows add up fast
    for asked in pool.blocks:
        if len(asked) == 1:
            columns[asked] *= 2.0  # "no" differs by as much as "yes"
    distance = of_tasks.copy()
    left = np.ones(pool.size, dtype=np.bool_)
    rows, values = np.empty(k, dtype=np.int64), np.empty(k)
    for position in range(k):
        relevance = (of_tasks + distance) / 2.0
        chances = np.where(left, utilities * _tenth(relevance), 0.0)
        if not chances.any():  # certain everywhere
            chances = np.where(left, utilities, 0.0)
        cumulative = np.cumsum(chances)
        row = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
        if row >= pool.size or not left[row]:  # rounding at the very end of the sums
            row = int(np.argmax(chances))
        rows[position], values[position] = row, relevance[row]
        left[row] = False
        distance = np.minimum(
            distance, np.abs(columns - columns[:, [row]]).sum(axis=0)
        )  # 0 for the row itself, so only the top moves
        distance /= max(float(distance.max()), TINY)
    return rows, np.clip(values, 0.0, 1.0), float(np.median(of_tasks)) if pool.size else 0.0


def _tenth(values: Floats) -> Floats:
    """Raise to the power of 10 by products, many times faster than a power."""
    square = values * values
    fourth = square * square
    return fourth * fourth * square
