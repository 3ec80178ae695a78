"""Tasks that show the same picture, or nearly: of each group one label is enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ls_backend.strategies import nearest_others

NEAR = 0.05
"""Cosine distance of standardised embeddings up to which two tasks are nearly the same. An image that was saved again
or scaled lies closer than that, two different ones hardly ever do."""

MOST = 100
"""Groups that are listed at most."""

MOST_IDS = 20
"""Tasks of a group that are listed at most."""


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Tasks that show nearly the same.

    Attributes:
        task_ids: By id, labelled or not; the first 20.
        n_tasks: How many there are.
        labels: Labels that were given to some of them, each once.
        n_unlabelled: Those nobody has labelled.
        distance: Largest cosine distance along the chain that links them; 0 for copies.
        identical: Whether all have the same content, byte for byte.
        reason: The same in words.
    """

    task_ids: tuple[int, ...]
    n_tasks: int
    labels: tuple[str, ...]
    n_unlabelled: int
    distance: float
    identical: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Copies:
    """All near-duplicates of a project.

    Attributes:
        n_checked: Tasks that were compared.
        n_groups: Groups of near-duplicates.
        n_spare: Tasks without a label that have a labelled near-duplicate, or one before them in their group.
        groups: At most 100: those with contradicting labels first, then the largest.
        sentence: The result in words.
    """

    n_checked: int
    n_groups: int
    n_spare: int
    groups: tuple[Duplicates, ...]
    sentence: str


def find_duplicates(
    task_ids: NDArray[np.int64], hashes: Sequence[str], labels: Sequence[str | None], features: NDArray[np.float32]
) -> Copies:
    """Group tasks with the same content, and those whose embeddings lie within a distance of 0.05.

    Each task is linked to the one most like it, as `strategies.nearest_others` finds it in a large pool; chains of
    links are groups.

    Args:
        task_ids: (n,) int64.
        hashes: Content hash of each.
        labels: What each was labelled as; None where it was not.
        features: (n, d) float32 of unit length.
    """
    nearest, distances = nearest_others(features)
    _, content = np.unique(np.array(hashes, dtype=object).astype(str), return_inverse=True)
    first = np.full(len(task_ids), -1)
    links: list[tuple[int, int, float]] = []
    for row in np.flatnonzero(np.bincount(content, minlength=1)[content] > 1) if len(task_ids) else ():
        if first[content[row]] >= 0:
            links.append((int(row), int(first[content[row]]), 0.0))
        else:
            first[content[row]] = row
    links += [(int(row), int(nearest[row]), float(distances[row])) for row in np.flatnonzero(distances <= NEAR)]
    groups = [_group(rows, distance, task_ids, content, labels) for rows, distance in _chains(len(task_ids), links)]
    groups.sort(key=lambda one: (len(one.labels) < 2, -one.n_unlabelled, -one.n_tasks, one.task_ids[0]))
    n_spare = sum(one.n_unlabelled - (not one.labels) for one in groups)
    return Copies(len(task_ids), len(groups), n_spare, tuple(groups[:MOST]), _sentence(len(task_ids), groups, n_spare))


def _chains(n: int, links: Sequence[tuple[int, int, float]]) -> list[tuple[list[int], float]]:
    """Return the rows of each connected group, ascending, and the longest link in it."""
    parent = list(range(n))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for one, other, _ in links:
        parent[max(root(one), root(other))] = min(root(one), root(other))
    members: dict[int, set[int]] = {}
    longest: dict[int, float] = {}
    for one, other, distance in links:
        home = root(one)
        members.setdefault(home, set()).update((one, other))
        longest[home] = max(longest.get(home, 0.0), distance)
    return [(sorted(rows), longest[home]) for home, rows in members.items()]


def _group(
    rows: list[int],
    distance: float,
    task_ids: NDArray[np.int64],
    content: NDArray[np.int64],
    labels: Sequence[str | None],
) -> Duplicates:
    given = [labels[row] for row in rows]
    different = tuple(sorted({label for label in given if label is not None}))
    n_unlabelled = given.count(None)
    identical = len({int(content[row]) for row in rows}) == 1
    how = "have the same content" if identical else f"look nearly the same (distance {distance:.3f})"
    if len(different) > 1:
        end = f"they were labelled differently: {', '.join(different)}"
    elif different and n_unlabelled:
        end = f"{len(rows) - n_unlabelled} of them labelled, as {different[0]}"
    elif different:
        end = f"all labelled {different[0]}"
    else:
        end = "none of them labelled"
    ids = tuple(int(task_ids[row]) for row in rows[:MOST_IDS])
    reason = f"{len(rows)} tasks {how}; {end}."
    return Duplicates(ids, len(rows), different, n_unlabelled, distance, identical, reason)


def _sentence(n: int, groups: Sequence[Duplicates], n_spare: int) -> str:
    if not groups:
        return f"No near-duplicates among {n} tasks."
    clash = sum(len(one.labels) > 1 for one in groups)
    what = "group" if len(groups) == 1 else "groups"
    contradict = f" In {clash} of them the labels contradict each other." if clash else ""
    spare = f" {n_spare} tasks without a label need none of their own." if n_spare else ""
    return f"{len(groups)} {what} of near-duplicates among {n} tasks.{contradict}{spare}"
