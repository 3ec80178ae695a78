"""What the admin knows about tasks beforehand: filters and preferences on fields of the task data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ls_backend.errors import StrategyError, StrategyNotReady
from ls_backend.settings import MetadataRule
from ls_backend.strategies.pool import Floats, Pool


def admitted(pool: Pool, rules: Sequence[MetadataRule]) -> NDArray[np.bool_]:
    """Tell which tasks may be picked at all.  O(n) for each rule.

    A task below `min`, above `max` or with a value of weight 0 is out. A task that lacks the field stays in: nothing
    speaks against it.

    Args:
        pool: n tasks with metadata.
        rules: Rules of the plan.

    Returns:
        (n,) bool.

    Raises:
        StrategyNotReady: If no task has the field.
        StrategyError: If a field to be compared or ordered does not hold numbers.
    """
    keep = np.ones(pool.size, dtype=np.bool_)
    for rule in rules:
        column = _column(pool, rule)
        if isinstance(rule.weights, dict):
            keep &= _looked_up(column, rule.weights) > 0
        if rule.min is not None or rule.max is not None:
            numbers = _as_numbers(column, rule)
            keep &= ~(numbers < (-np.inf if rule.min is None else rule.min))
            keep &= ~(numbers > (np.inf if rule.max is None else rule.max))
    return keep


def preference(pool: Pool, rule: MetadataRule) -> Floats:
    """Turn one field into a factor.  O(n log n).

    Categories: their weight over the largest weight given; values not listed weigh 1. By errors: the share of wrong
    answers over the largest share. Numbers: their rank, so that scale and outliers do not matter; ties share a rank. A
    task that lacks the field is in the middle.

    Args:
        pool: n tasks with metadata.
        rule: Field and weights.

    Returns:
        (n,) float64 in (0, 1], higher means label sooner.

    Raises:
        StrategyNotReady: If no task has the field, or its errors are not known.
        StrategyError: If the field holds no numbers and the rule gives no weights.
    """
    column = _column(pool, rule)
    if rule.weights == "errors":
        if rule.field not in pool.error_rates:
            raise StrategyNotReady(
                f"The metadata rule on {rule.field!r} weighs by errors, and error_rates has "
                f"{sorted(pool.error_rates) or 'no field'}. Measure them with ls_backend.strategies.error_rates on "
                "tasks held out, or give weights."
            )
        known = pool.error_rates[rule.field]
        return known.of(column) / max(known.overall, *known.rates.values())
    if rule.weights is not None:
        weights = _looked_up(column, rule.weights)
        return weights / max(1.0, *rule.weights.values())
    return rank_fractions(_as_numbers(column, rule))


def rank_fractions(numbers: Floats) -> Floats:
    """Ranks from 1/n to 1, the largest number gets 1; equal numbers share the mean rank, NaN gets 1/2.  O(n log n)."""
    known = ~np.isnan(numbers)
    fractions = np.full(len(numbers), 0.5)
    if known.any():
        _, inverse, counts = np.unique(numbers[known], return_inverse=True, return_counts=True)
        last = np.cumsum(counts)
        fractions[known] = ((last - (counts - 1) / 2.0) / known.sum())[inverse]
    return fractions


def _column(pool: Pool, rule: MetadataRule) -> NDArray[Any]:
    if rule.field not in pool.metadata:
        raise StrategyNotReady(
            f"No task has the metadata field {rule.field!r}; known fields: {sorted(pool.metadata) or 'none'}. "
            "Correct the rule, or add the field to the task data."
        )
    return pool.metadata[rule.field]


def _looked_up(column: NDArray[Any], weights: dict[str, float]) -> Floats:
    return np.array([weights.get(str(value), 1.0) for value in column.tolist()], dtype=np.float64)


def _as_numbers(column: NDArray[Any], rule: MetadataRule) -> Floats:
    if column.dtype.kind in "biuf":
        return column.astype(np.float64)
    numbers = np.empty(len(column))
    for row, value in enumerate(column.tolist()):
        try:
            numbers[row] = np.nan if value is None or value == "" else float(value)
        except (TypeError, ValueError) as error:
            raise StrategyError(
                f"Metadata field {rule.field!r} holds {value!r}; expected numbers. Give weights for its values instead."
            ) from error
    return numbers
