"""How far two or more judges agree beyond chance: models that follow each other, or people."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def cohen_kappa(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Measure how far two judges agree beyond what their habits alone would bring about.

    kappa = (p_o - p_e) / (1 - p_e), p_o the share of equal answers, p_e that of judges who answer independently, each
    with the frequencies of their own.  O(n log n).

    Args:
        one: (n,) answers of one judge, of any kind that can be compared.
        other: (n,) answers of the other one.

    Returns:
        At most 1; 0 is chance. 1 where both give the same answer to everything. NaN when n = 0.

    Source: Cohen 1960, "A coefficient of agreement for nominal scales".
    """
    n = len(one)
    if n == 0:
        return float("nan")
    values, codes = np.unique(np.concatenate([one, other]), return_inverse=True)
    counts = [np.bincount(part, minlength=len(values)) / n for part in (codes[:n], codes[n:])]
    expected = float(counts[0] @ counts[1])
    if expected >= 1.0:
        return 1.0
    return (float((codes[:n] == codes[n:]).mean()) - expected) / (1.0 - expected)


def krippendorff_alpha(votes: NDArray[np.int64]) -> float:
    """Measure how far any number of judges agree beyond chance, with gaps, for answers without an order.

    alpha = 1 - D_o / D_e, D_o the disagreement inside the units, D_e the one between any two answers.  O(u v).

    Args:
        votes: (u, v) how many judges gave answer v to unit u; units with fewer than two answers are left out.

    Returns:
        At most 1; 0 is chance. NaN where it is not defined: no unit with two answers, or one answer everywhere.

    Source: Krippendorff 2011, "Computing Krippendorff's alpha-reliability", the nominal case.
    """
    pairable = votes[votes.sum(axis=1) >= 2].astype(np.float64)
    size = pairable.sum(axis=1)
    totals = pairable.sum(axis=0)
    n = float(totals.sum())
    chance = n * n - float(totals @ totals)
    if chance == 0.0:
        return float("nan")
    inside = (size * size - np.square(pairable).sum(axis=1)) / np.maximum(size - 1.0, 1.0)
    return 1.0 - (n - 1.0) * float(inside.sum()) / chance
