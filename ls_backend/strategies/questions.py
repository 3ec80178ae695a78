"""Several questions a task: each is judged by itself, and what was found belongs to the task."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ls_backend.strategies.pool import Floats, Floats32, Indices, Pool

BELIEFS = ("probabilities", "member_probabilities", "dropout_probabilities", "labelled_probabilities")


@dataclass(frozen=True, eq=False)
class Doubt:
    """How doubtful tasks are.

    Attributes:
        of_tasks: (n,) float64 in [0, 1], the mean over the questions.
        most: (n,) int64 number of the most doubtful question, as `blocks` of the pool counts them; after those the
            columns of `doubts`. None where there is one question.
    """

    of_tasks: Floats
    most: Indices | None = None


def doubt(pool: Pool, measure: Callable[[Pool], Floats], *, at_once: bool = False) -> Doubt:
    """Measure doubt question by question, and take the mean.

    All questions of a task are answered together, so what a label settles is the sum of their doubts, for entropies at
    most their joint entropy.  As many calls of the measure as there are questions.

    Args:
        pool: n tasks with probabilities, doubts found elsewhere, or both.
        measure: Turns a pool of one question into (n,) doubts in [0, 1].
        at_once: Whether the measure is the mean over all questions already.

    Returns:
        The measure itself where there is one question and nothing else.
    """
    elsewhere = known_doubts(pool)
    blocks = pool.blocks
    if pool.questions is None and not elsewhere.shape[1]:
        return Doubt(measure(pool))
    total, largest = np.zeros(pool.size), np.full(pool.size, -1.0)
    most = np.zeros(pool.size, dtype=np.int64)
    open_ones = [i for i, number in enumerate(_numbers(pool)) if number not in pool.settled]
    if at_once and open_ones:
        total += len(open_ones) * measure(pool)
    for number in [] if at_once else open_ones:
        found = measure(asked(pool, blocks[number]))
        total += found
        most[found > largest] = number
        largest = np.maximum(found, largest)
    for number, found in enumerate(elsewhere.T, start=len(blocks)):
        total += found
        most[found > largest] = number
        largest = np.maximum(found, largest)
    mean = np.clip(total / max(len(open_ones) + elsewhere.shape[1], 1), 0.0, 1.0)
    return Doubt(mean, None if at_once else most)


def _numbers(pool: Pool) -> list[int]:
    """Return the numbers of the questions in the order of the pool's blocks."""
    if pool.questions is None or not pool.blocks:
        return list(range(len(pool.blocks)))
    return [int(number) for number in np.unique(pool.questions)]


def asked(pool: Pool, columns: Indices) -> Pool:
    """Return the pool as if one question were asked: its columns, or "no" and "yes" where there is one column.

    Args:
        pool: n tasks with several questions.
        columns: Columns of one of them.
    """
    labels = None if pool.class_names is None else tuple(pool.class_names[column] for column in columns)
    changes: dict[str, Any] = {"questions": None, "doubts": None}
    for name in BELIEFS:
        values = getattr(pool, name)
        changes[name] = None if values is None else distribution(values, columns)
    if len(columns) == 1:  # counts, costs and names are those of "yes"
        changes |= {"labelled_counts": None, "cost_matrix": None, "class_names": None}
    else:
        costs = None if pool.cost_matrix is None else pool.cost_matrix[np.ix_(columns, columns)]
        counts = None if pool.labelled_counts is None else pool.labelled_counts[columns]
        changes |= {"labelled_counts": counts, "cost_matrix": costs, "class_names": labels}
    one = copy.copy(pool)  # what is taken from a checked pool is not checked again, for each of many questions
    for name, value in changes.items():
        object.__setattr__(one, name, value)
    return one


def groups(pool: Pool) -> list[tuple[Indices, bool]]:
    """Return the columns whose classes compare with each other, and whether those are yes/no questions.

    The classes of a choice compare with each other, and so do all labels that hold or not by themselves.
    """
    choices = [columns for columns in pool.blocks if len(columns) > 1]
    labels = [columns for columns in pool.blocks if len(columns) == 1]
    found = [(columns, False) for columns in choices]
    return [*found, (np.sort(np.concatenate(labels)), True)] if labels else found


def distribution(values: Floats32, columns: Indices) -> Floats32:
    """Return the distribution (..., q) over the answers to one question; a lone column p becomes 1 - p and p."""
    answers: Floats32 = values if len(columns) == values.shape[-1] else values.take(columns, axis=-1)
    return np.concatenate([1.0 - answers, answers], axis=-1) if len(columns) == 1 else answers


def answered(values: Floats32, columns: Indices) -> Indices:
    """Return the likeliest answer (...) to one question, counted as `distribution` has them."""
    if len(columns) == 1:
        return (values[..., columns[0]] > 0.5).astype(np.int64)
    likeliest: Indices = distribution(values, columns).argmax(axis=-1)
    return likeliest


def any_doubts(doubts: Floats | None) -> bool:
    """Whether anything is known of doubts (n, q) found elsewhere."""
    return doubts is not None and not bool(np.isnan(doubts).all())


def known_doubts(pool: Pool) -> Floats:
    """Return the doubts (n, q) found elsewhere, unknown ones as the median; columns nobody knows are left out."""
    if pool.doubts is None:
        return np.zeros((pool.size, 0))
    unknown = np.isnan(pool.doubts)
    doubts = pool.doubts[:, ~unknown.all(axis=0)]
    medians = np.nanmedian(doubts, axis=0) if doubts.size else np.zeros(doubts.shape[1])
    filled: Floats = np.where(np.isnan(doubts), medians, doubts)
    return filled
