"""How typical a task is of the pool."""

from __future__ import annotations

import numpy as np

from ls_backend.strategies.diversity import squared_distances
from ls_backend.strategies.metadata import rank_fractions
from ls_backend.strategies.pool import Floats, Pool
from ls_backend.strategies.registry import scorer

N_REFERENCES = 4000
N_NEIGHBOURS = 20
BLOCK_ROWS = 2048


@scorer(
    "density",
    objective="representativeness",
    needs={"embeddings"},
    formula="rank of 1 / mean distance to the 20 nearest of at most 4,000 reference points",
    source="Hacohen, Dekel & Weinshall 2022, Active Learning on a Budget, arXiv:2202.02794, typicality",
    cost="O(n r q)",
    use_when="A few labels for each class, balanced classes, many odd images.",
    fails_when="Rare classes: it starves them. Off by default.",
    words="typical of the pool",
)
def density(pool: Pool) -> Floats:
    """Many tasks look like this one.

    Args:
        pool: n tasks as `reduction.view` makes them.

    Returns:
        (n,) float64 in (0, 1], the rank of the typicality; 1 is the most typical task.
    Source: Hacohen, Dekel & Weinshall 2022, section 3.2.
    """
    points = pool.embeddings
    n = len(points)
    spaced = np.linspace(0, n - 1, min(n, N_REFERENCES)).astype(np.int64)
    references = points[spaced]
    n_near = min(N_NEIGHBOURS + 1, len(references))
    typicality = np.empty(n)
    for start in range(0, n, BLOCK_ROWS):
        squares = squared_distances(points[start : start + BLOCK_ROWS], references)
        near = np.sqrt(np.partition(squares, n_near - 1, axis=1)[:, :n_near])
        typicality[start : start + BLOCK_ROWS] = -near.mean(axis=1)
    return rank_fractions(typicality)
