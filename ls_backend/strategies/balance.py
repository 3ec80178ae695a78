"""How much the likely classes of a task are missing among the labels, and what they are worth."""

from __future__ import annotations

import numpy as np

from ls_backend.errors import StrategyError, StrategyNotReady
from ls_backend.settings import Balance, Value
from ls_backend.strategies.pool import Floats, Floats32, Pool

MIN_SHARE = 1e-6


class ClassDeficit:
    """Expected deficit of a task: sum_c p_c / (1 + n_c / (t_c sum(n))), t the wanted shares.

    With uniform shares n_c is compared with the mean count. Picks count at once, by their probabilities, so that one
    batch does not fill the same gap twice.  O(n c) for each evaluation.
    """

    def __init__(self, counts: Floats, shares: Floats) -> None:
        self._counts = counts.astype(np.float64)
        self._shares = np.maximum(shares, MIN_SHARE)

    def of_classes(self) -> Floats:
        """Return (c,) deficits in (0, 1]; 1 means no label of that class."""
        total = self._counts.sum()
        if total <= 0:
            return np.ones_like(self._counts)
        deficits: Floats = 1.0 / (1.0 + self._counts / (self._shares * total))
        return deficits

    def of_tasks(self, probabilities: Floats32) -> Floats:
        """Return (n,) deficits in (0, 1] for probabilities (n, c)."""
        deficits: Floats = probabilities.astype(np.float64) @ self.of_classes()
        return deficits

    def add(self, probabilities: Floats32) -> None:
        """Count one task by its probabilities (c,)."""
        self._counts += probabilities


def class_deficit(pool: Pool, balance: Balance) -> ClassDeficit:
    """Compare the labels so far with the wanted class shares.

    Args:
        pool: Tasks with probabilities (n, c).
        balance: Target shares.

    Returns:
        The deficit at the start of a batch; classes that are not wanted at all have almost none.

    Raises:
        StrategyError: If the target names a class that does not exist, or wants nothing.
    Source: after Aggarwal, Popescu & Hudelot 2022, arXiv:2202.00390; the weight goes on a coverage gain, not on doubt.
    """
    probabilities = pool.probabilities
    assert probabilities is not None  # only asked for when there is a model
    n_classes = probabilities.shape[1]
    counts = np.zeros(n_classes) if pool.labelled_counts is None else pool.labelled_counts
    shares: Floats
    if balance.target == "input" and pool.size:
        shares = np.asarray(probabilities.mean(axis=0, dtype=np.float64))
    elif isinstance(balance.target, dict):
        shares = by_class(pool, balance.target, 0.0, "balance target")
        if shares.sum() <= 0:
            raise StrategyError("All shares of the balance target are 0; expected one above 0. Raise one.")
        shares = shares / shares.sum()
    else:
        shares = np.full(n_classes, 1.0 / n_classes)
    return ClassDeficit(counts, shares)


def value(pool: Pool, worth: Value) -> Floats:
    """Expected worth of a label: sum_c p_c v_c / max v.  O(n c).

    Args:
        pool: Tasks with probabilities (n, c) and class names.
        worth: Worth of each class; classes not named count 1.

    Returns:
        (n,) float64 in (0, 1].

    Raises:
        StrategyError: If a class does not exist.
    Source: expected cost as in Elkan 2001, The Foundations of Cost-Sensitive Learning, with worth for cost.
    """
    assert pool.probabilities is not None  # only asked for when there is a model
    worths = by_class(pool, worth.classes, 1.0, "value")
    expected: Floats = pool.probabilities.astype(np.float64) @ (worths / worths.max())
    return expected


def by_class(pool: Pool, numbers: dict[str, float], default: float, what: str) -> Floats:
    """Spread numbers given by class name over the class indices; (c,) float64."""
    if pool.class_names is None:
        raise StrategyNotReady(
            f"The {what} names classes {sorted(numbers)}, the pool has no class names. Pass class_names to Pool."
        )
    strangers = sorted(set(numbers) - set(pool.class_names))
    if strangers:
        raise StrategyError(
            f"The {what} names {strangers}, which are no classes; the classes are {list(pool.class_names)}. "
            "Correct the setting."
        )
    return np.array([numbers.get(name, default) for name in pool.class_names], dtype=np.float64)
