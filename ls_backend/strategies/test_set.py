"""Which tasks make the test set: drawn by chance, before anything is learnt, so that estimates on it are unbiased."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ls_backend.errors import PoolInvalid, StrategyError
from ls_backend.strategies.pool import Floats, Indices

ROUNDING = 1e-9


def choose(
    n: int,
    k: int,
    rng: np.random.Generator,
    *,
    strata: ArrayLike | None = None,
    target: Mapping[str, float] | None = None,
) -> Indices:
    """Draw k of n tasks by chance.

    Plain: every set of k tasks is equally likely. With strata each value of a field gets its share of the k, rounded
    up or down by chance, so that every task still has the chance k / n: the plain mean over the drawn tasks is an
    unbiased estimate of the mean over all, however small a stratum is. (Rounding to the largest remainder would never
    draw from the smallest strata.) Values of a numeric field are spread in order, so every task may have its own.

    With a target the k follow the given shares instead, and the mean estimates that of a population with those shares.
    A stratum with too few tasks is taken whole and the others make up for it, in proportion to their shares.

    O(n log n).

    Args:
        n: Number of tasks.
        k: Number of tasks wanted, 0 to n.
        rng: Source of the draws.
        strata: (n,) values of a field, words or numbers; NaN, None and "" are one stratum, of the tasks that lack it.
        target: Wanted share of each value, by its text ("" for the tasks that lack the field), in any unit; values not
            listed are not drawn. Needs strata.

    Returns:
        (k,) int64 distinct rows in random order, so that those labelled first are a sample too.

    Raises:
        PoolInvalid: If k is not between 0 and n, if the strata are not one for each task, or if fewer than k tasks have
            a value that is wanted.
        StrategyError: If a share is impossible, or of a value that no task has.
    Source: systematic sampling with random rounding of the quotas, Cochran 1977, Sampling Techniques, chapters 5 and 8.
    """
    if not 0 <= k <= n:
        raise PoolInvalid(
            f"A test set of {k} tasks is asked for, there are {n}; expected 0 to {n}. Ask for fewer, or import more.",
            k=k,
            pool_size=n,
        )
    if strata is None:
        if target is not None:
            raise StrategyError(
                f"The test set has a target {dict(target)} and no field it speaks of; expected both or none. "
                "Name the field whose values the shares belong to."
            )
        return rng.permutation(n)[:k]
    names, groups = _strata(strata, n)
    sizes = np.bincount(groups, minlength=len(names))
    shares = sizes.astype(np.float64) if target is None else _shares(target, names, sizes, k)
    counts = _rounded(_quotas(shares, sizes, k), sizes, rng)
    order = rng.permutation(n)
    order = order[np.argsort(groups[order], kind="stable")]  # by stratum, in random order inside each
    place = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return rng.permutation(order[place < np.repeat(counts, sizes)])


def _strata(values: ArrayLike, n: int) -> tuple[list[str], Indices]:
    """Return the distinct values as text, and the index (n,) of the value of each task."""
    column: NDArray[Any] = np.asarray(values)
    if column.shape != (n,):
        raise PoolInvalid(
            f"The strata of the test set have shape {column.shape}; expected ({n},), one value for each task. "
            "Use None where a task lacks the field."
        )
    if column.dtype.kind not in "biuf":
        column = np.array(["" if _missing(value) else str(value) for value in column.tolist()], dtype=np.str_)
    distinct, groups = np.unique(column, return_inverse=True)
    return ["" if _missing(value) else str(value) for value in distinct.tolist()], groups.astype(np.int64)


def _missing(value: object) -> bool:
    return value is None or value == "" or value != value  # noqa: PLR0124 - only NaN differs from itself


def _shares(target: Mapping[str, float], names: list[str], sizes: Indices, k: int) -> Floats:
    strangers = sorted(set(target) - set(names))
    if strangers:
        raise StrategyError(
            f"The target of the test set names {strangers}, which no task has; the values are {names[:20]}. "
            "Correct the target."
        )
    shares = np.array([target.get(name, 0.0) for name in names], dtype=np.float64)
    if not (np.isfinite(shares) & (shares >= 0)).all() or (k and not shares.any()):
        raise StrategyError(
            f"The target of the test set is {dict(target)}; expected shares of 0 or more, at least one above 0. "
            "Correct the target."
        )
    n_wanted = int(sizes[shares > 0].sum())
    if n_wanted < k:
        raise PoolInvalid(
            f"A test set of {k} tasks is asked for, {n_wanted} have a value the target wants; expected at least {k}. "
            "Ask for fewer, or give other values a share.",
            k=k,
            pool_size=n_wanted,
        )
    return shares


def _quotas(shares: Floats, sizes: Indices, k: int) -> Floats:
    """Part k (s,) in proportion to the shares, at most the size of each stratum; the others make up for the rest."""
    whole = np.zeros(len(sizes), dtype=np.bool_)
    while True:
        open_shares = np.where(whole, 0.0, shares)
        left = k - int(sizes[whole].sum())
        quotas = np.where(whole, sizes, open_shares * (left / (float(open_shares.sum()) or 1.0)))
        over = ~whole & (quotas >= sizes - ROUNDING)
        if not over.any():
            return quotas
        whole |= over


def _rounded(quotas: Floats, sizes: Indices, rng: np.random.Generator) -> Indices:
    """Round each quota up or down, up with the chance of its fraction, and keep their sum."""
    whole = quotas >= sizes
    marks = np.cumsum(np.where(whole, 0.0, quotas))
    marks[-1:] = np.round(marks[-1:])
    counts = np.diff(np.floor(marks + rng.random()), prepend=0.0).astype(np.int64)
    return np.where(whole, sizes, counts)
