"""Fewer dimensions for everything that measures distances: 64 principal directions, unit length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ls_backend.strategies.pool import Floats32, Indices, Pool, subset, unit_rows

DIMENSIONS = 64
SAMPLE_SIZE = 2048
OVERSAMPLING = 16
POWER_STEPS = 2
BLOCK_ROWS = 8192
MIN_LENGTH = 1e-4  # nearer to the mean than this is rounding noise, which must not be blown up to unit length


@dataclass(frozen=True, eq=False)
class Reduction:
    """A centred linear map to at most 64 dimensions.

    Attributes:
        mean: (d,) float32.
        components: (d, q) float32 with orthonormal columns.
    """

    mean: Floats32
    components: Floats32

    def apply(self, embeddings: Floats32, rows: Indices | None = None) -> Floats32:
        """Map rows, block by block so that no large copy is made.  O(n d q).

        Args:
            embeddings: (n, d) float32.
            rows: (m,) int64 rows to map, in that order; None maps all.

        Returns:
            (n, q) or (m, q) float32, rows of unit length; a row of zeros or at the mean becomes zero.
        """
        n = len(embeddings) if rows is None else len(rows)
        reduced = np.empty((n, self.components.shape[1]), dtype=np.float32)
        shift = self.mean @ self.components
        for start in range(0, n, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, n)
            block = embeddings[start:stop] if rows is None else embeddings[rows[start:stop]]
            raw = block @ self.components
            centred = raw - shift
            pointless = ~raw.any(axis=1) | (np.einsum("ij,ij->i", centred, centred) < MIN_LENGTH**2)
            centred[pointless] = 0.0
            reduced[start:stop] = unit_rows(centred)
        return reduced


def fit_reduction(embeddings: Floats32, rows: Indices | None = None) -> Reduction:
    """Find the principal directions of a sample.  O(s d q) for a sample of s rows, at most 2,048.

    Randomised range finder with power steps; the sketch comes from a fixed seed, so the same rows give the same map.

    Args:
        embeddings: (n, d) float32.
        rows: (m,) int64 rows to learn from, None for all; evenly spaced ones are used when there are many.

    Returns:
        A reduction to min(d, 64) dimensions.
    Source: Halko, Martinsson & Tropp 2011, algorithms 4.4 and 5.1.
    """
    d = embeddings.shape[1]
    rows = np.arange(len(embeddings)) if rows is None else rows
    if len(rows) == 0:
        return Reduction(np.zeros(d, np.float32), np.eye(d, min(d, DIMENSIONS), dtype=np.float32))
    spaced = np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE_SIZE)).astype(np.int64)
    sample = embeddings[rows[spaced]]
    mean = sample.mean(axis=0)
    if d <= DIMENSIONS:
        return Reduction(mean, np.eye(d, dtype=np.float32))
    sample = sample - mean
    sketch = np.random.default_rng(0).standard_normal((d, DIMENSIONS + OVERSAMPLING), dtype=np.float32)
    basis = _orthonormal(sketch)
    for _ in range(POWER_STEPS):
        basis = _orthonormal(sample.T @ _orthonormal(sample @ basis))  # (d, 80)
    image = sample @ basis
    _, directions = np.linalg.eigh((image.T @ image).astype(np.float64))  # ascending
    leading = directions[:, ::-1][:, :DIMENSIONS].astype(np.float32)
    return Reduction(mean, np.ascontiguousarray(basis @ leading))


def _orthonormal(columns: Floats32) -> Floats32:
    """Span the same space by orthonormal columns; many times faster than QR of a tall matrix."""
    tall = columns.astype(np.float64)
    values, vectors = np.linalg.eigh(tall.T @ tall)
    values = np.maximum(values, values[-1] * 1e-12 + np.finfo(np.float64).tiny)
    result: Floats32 = (tall @ (vectors / np.sqrt(values))).astype(np.float32)
    return result


def view(pool: Pool, rows: Indices, *, embeddings: Literal["none", "reduced", "whole"]) -> Pool:
    """Return the pool as methods see it: these rows in this order, embeddings only as far as they are looked at.

    Args:
        pool: n tasks.
        rows: (m,) int64 rows to keep.
        embeddings: "none" leaves them out as rows of one zero, "reduced" gives at most 64 dimensions, "whole" all.

    Returns:
        A pool of m tasks, embeddings (m, 1), (m, q) or (m, d), rows of unit length or all zero.
    """
    seen: Floats32 = np.zeros((len(rows), 1), np.float32)
    labelled = None
    in_place = len(rows) == pool.size and bool((rows == np.arange(pool.size)).all())
    if embeddings == "whole":
        seen = pool.embeddings if in_place else pool.embeddings[rows]
        labelled = pool.labelled_embeddings
    elif embeddings == "reduced":
        reduction = fit_reduction(pool.embeddings, rows)
        seen = reduction.apply(pool.embeddings, None if in_place else rows)
        labelled = None if pool.labelled_embeddings is None else reduction.apply(pool.labelled_embeddings)
    return subset(
        pool,
        rows,
        embeddings=seen,
        labelled_embeddings=labelled,
        labelled_probabilities=None if labelled is None else pool.labelled_probabilities,
    )
