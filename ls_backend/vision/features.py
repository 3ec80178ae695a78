"""From raw pooled features to embeddings a linear head and a distance can work with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ls_backend.errors import Diverged

_STD_FLOOR = 0.01  # of the median deviation: a nearly constant feature must not be blown up into noise
_SMALLEST = float(np.finfo(np.float32).tiny)  # a deviation below it would be 0 in float32, or lose its digits
_BLOCK_ROWS = 8192  # rows turned into float64 at once: bounds the memory of a fit


@dataclass(frozen=True, eq=False)
class Standardiser:
    """Mean and deviation of the pool's raw features, and the step to unit-length rows.

    Attributes:
        mean: (d,) float32.
        std: (d,) float32, positive.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    @classmethod
    def fit(cls, raw: NDArray[np.floating[Any]]) -> Standardiser:
        """Measure mean and deviation of each feature over the pool.  O(n d).

        Args:
            raw: (n, d) finite features, n >= 1.

        Returns:
            A standardiser; deviations are at least a hundredth of the median one, and all 1 where every row is equal.

        Raises:
            Diverged: If a feature is NaN or infinite.
        """
        n, d = raw.shape
        assert n > 0, "a standardiser needs at least one row"
        mean = sum((block.sum(axis=0) for block in _blocks(raw)), np.zeros(d)) / n
        # Two passes: the one-pass formula cancels where the mean is large beside the deviation.
        variance = sum((np.square(block - mean).sum(axis=0) for block in _blocks(raw)), np.zeros(d)) / n
        if not np.isfinite(variance).all():
            bad = int(np.flatnonzero(~np.isfinite(variance))[0])
            raise Diverged(f"Feature {bad} of {d} is not finite over {n} images; expected finite embeddings.")
        std = np.sqrt(variance)
        positive = std[std > _SMALLEST]
        std = np.maximum(std, max(_STD_FLOOR * np.median(positive), _SMALLEST)) if positive.size else np.ones(d)
        return cls(mean=mean.astype(np.float32), std=std.astype(np.float32))

    def apply(self, raw: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Standardise rows and scale them to unit length; a row equal to the mean stays zero.  O(n d).

        Args:
            raw: (n, d) finite features; not changed.

        Returns:
            (n, d) float32 rows of length 1, or 0 where a row has no direction.

        Raises:
            Diverged: If a row is NaN or infinite.
        """
        rows = raw.astype(np.float32)
        rows -= self.mean
        rows /= self.std
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        if not np.isfinite(lengths).all():
            bad = int(np.flatnonzero(~np.isfinite(lengths))[0])
            raise Diverged(f"Row {bad} of {len(rows)} is not finite; expected finite embeddings.")
        rows /= np.where(lengths > 0, lengths, 1)[:, None]
        return rows

    def equals(self, other: Standardiser) -> bool:
        """Whether it gives the same rows: fitted on the same features, perhaps saved and loaded since.  O(d)."""
        return np.array_equal(self.mean, other.mean) and np.array_equal(self.std, other.std)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return {"mean": (d,), "std": (d,)} for a checkpoint."""
        return {"mean": self.mean, "std": self.std}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Standardiser:
        """Read back what `arrays` returned: "mean" and "std", both (d,); other keys are left alone."""
        return cls(mean=arrays["mean"].astype(np.float32), std=arrays["std"].astype(np.float32))


def _blocks(raw: NDArray[np.floating[Any]]) -> Iterator[NDArray[np.float64]]:
    return (raw[start : start + _BLOCK_ROWS].astype(np.float64) for start in range(0, len(raw), _BLOCK_ROWS))
