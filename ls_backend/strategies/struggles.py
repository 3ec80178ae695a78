"""Where the model struggles: how often it errs on tasks with each value of a field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

PRIOR = 10.0
"""Every value starts as if so many tasks had erred at the overall rate: two mistakes in two tasks prove little."""


@dataclass(frozen=True, eq=False)
class ErrorRates:
    """Shares of wrong answers by the value of a field, shrunk towards the overall share.

    Attributes:
        overall: Share of wrong answers among all tasks, above 0 and below 1.
        rates: Value as text to share, likewise.
        counts: Value as text to the number of tasks it was measured on.
    """

    overall: float
    rates: Mapping[str, float]
    counts: Mapping[str, int]

    def of(self, values: ArrayLike) -> NDArray[np.float64]:
        """Return the share for each of (n,) values; values never measured, and tasks without one, get the overall."""
        return np.array([self.rates.get(str(value), self.overall) for value in np.asarray(values).tolist()])


def error_rates(values: ArrayLike, wrong: NDArray[np.bool_]) -> ErrorRates:
    """Measure how often answers were wrong for each value of a field.  O(m).

    overall = (w + 1) / (m + 2) for w wrong answers of m, Laplace's rule; a value with w_v wrong answers of m_v gets
    (w_v + 10 overall) / (m_v + 10).

    Args:
        values: (m,) values of the field; None, "" and NaN count in the overall share only.
        wrong: (m,) bool, whether a model that has not seen the label answered otherwise.

    Source: the posterior mean under a beta prior, Gelman et al. 2013, Bayesian Data Analysis, section 2.4.
    """
    overall = (float(wrong.sum()) + 1.0) / (len(wrong) + 2.0)
    totals: dict[str, tuple[int, int]] = {}
    for value, is_wrong in zip(np.asarray(values).tolist(), wrong.tolist(), strict=True):
        if value is None or value == "" or value != value:  # noqa: PLR0124 - only NaN differs from itself
            continue
        count, errors = totals.get(str(value), (0, 0))
        totals[str(value)] = count + 1, errors + int(is_wrong)
    return ErrorRates(
        overall=overall,
        rates=MappingProxyType(
            {name: (errors + PRIOR * overall) / (count + PRIOR) for name, (count, errors) in totals.items()}
        ),
        counts=MappingProxyType({name: count for name, (count, _) in totals.items()}),
    )
