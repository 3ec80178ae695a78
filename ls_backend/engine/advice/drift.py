"""Whether the tasks imported last look like those before them.

A labelled set that a plan has chosen differs from the pool by design, so the newest tasks are compared with all that
were imported before them, labelled or not. How far they are from what is labelled is told beside it.

Source: Lopez-Paz & Oquab 2017, "Revisiting classifier two-sample tests": if a classifier can tell two samples apart, on
tasks that it was not fitted on, they differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ls_backend.strategies import fit_reduction

PARTS = (0.05, 0.1, 0.2, 1 / 3)
"""Shares of the tasks that are tried as "the newest": nothing tells how large the last import was."""

MIN_NEW = 50
MOST_EACH = 1000
"""Tasks of each side that are looked at."""

FOLDS = 5
PERMUTATIONS = 999
SHRINKAGE = 0.1
"""Ridge penalty, as a share of the mean variance of the embeddings."""

SIGNIFICANT = 0.01
NOTABLE = 0.6
"""AUC from which new tasks differ enough to matter; 0.5 is no difference at all, 1 tells every task apart."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Drift:
    """How far the newest tasks differ from those before.

    Attributes:
        verdict: "too-early", "none", "slight" when the difference is real but small, "found".
        n_new: Tasks that were taken for new: those whose difference is most certain.
        first_new: Smallest task id among them; None when it is too early.
        auc: Chance that a classifier finds a new task more likely to be new than an earlier one, 0.5 to 1 but for
            noise.
        error: Its standard deviation when new and earlier tasks are shuffled.
        p_value: Chance of such an AUC without drift, corrected for the sizes that were tried.
        distance_ratio: Median distance from new tasks to the nearest labelled one, over that from earlier tasks without
            a label; 1 means that the labels cover both alike. None without labels.
        sentence: The result in words.
    """

    verdict: Literal["too-early", "none", "slight", "found"]
    n_new: int
    first_new: int | None
    auc: float | None
    error: float | None
    p_value: float | None
    distance_ratio: float | None
    sentence: str


def find_drift(task_ids: NDArray[np.int64], features: Floats, labelled: NDArray[np.bool_], *, seed: int) -> Drift:
    """Compare the newest tasks with those imported before.

    Args:
        task_ids: (n,) int64, ascending: Label Studio numbers tasks as they are imported.
        features: (n, d) float32 of unit length.
        labelled: (n,) bool.
        seed: Decides samples and folds.
    """
    n = len(task_ids)
    sizes = sorted({round(part * n) for part in PARTS if round(part * n) >= MIN_NEW})
    if not sizes:
        needed = int(np.ceil(MIN_NEW / PARTS[-1]))
        words = f"Too early to look for drift: {n} tasks can be compared, {needed} are needed."
        return Drift("too-early", 0, None, None, None, None, None, words)
    rng = np.random.default_rng(seed)
    reduced = fit_reduction(features, rng.permutation(n)[: 2 * MOST_EACH]).apply(features)
    tried = [(size, *_tell_apart(reduced, size, rng)) for size in sizes]
    size, auc, error, chance = min(tried, key=lambda one: (one[3], -one[1]))
    p_value = min(1.0, len(sizes) * chance)
    ratio = _distance_ratio(features, labelled, n - size, rng)
    verdict: Literal["none", "slight", "found"] = "none"
    if p_value < SIGNIFICANT:
        verdict = "found" if auc >= NOTABLE else "slight"
    first_new = int(task_ids[n - size])
    sentence = _sentence(verdict, size, first_new, auc, error, ratio)
    return Drift(verdict, size, first_new, auc, error, p_value, ratio, sentence)


def area_under_curve(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the chance that a positive scores above a negative, ties counting half, of b classifiers at once.

    O(b n log n).

    Args:
        scores: (n, b).
        positive: (n, b) bool, in each column some true and some not.

    Returns:
        (b,).
    """
    # Ties are ranked in the order of the rows, and in its reverse; the mean of both is what each of them deserves.
    ranks = 1.0 + 0.5 * (_places(scores) + _places(scores[::-1])[::-1])
    ones = positive.sum(axis=0)
    areas: NDArray[np.float64] = ((ranks * positive).sum(axis=0) - ones * (ones + 1) / 2) / (
        ones * (len(scores) - ones)
    )
    return areas


def _places(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    return scores.argsort(axis=0, kind="stable").argsort(axis=0)


def _tell_apart(features: Floats, size: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """Return the AUC of a classifier of the last tasks, its error without drift, and the chance of it without drift.

    The classifier is a ridge regression, judged on five folds it was not fitted on. What it says of a fold is linear in
    the labels of the others, so a thousand permutations cost little more than one fit. Labels are permuted inside the
    folds, which keeps the sizes of all samples.
    """
    n = len(features)
    rows = np.concatenate([rng.permutation(n - size)[:MOST_EACH], n - size + rng.permutation(size)[:MOST_EACH]])
    is_new = rows >= n - size
    fold = np.empty(len(rows), np.int64)
    for side in (np.flatnonzero(is_new), np.flatnonzero(~is_new)):
        fold[rng.permutation(side)] = np.arange(len(side)) % FOLDS
    truths = np.repeat(is_new[:, None], PERMUTATIONS + 1, axis=1)  # the first column is what is so
    for k in range(FOLDS):
        inside = np.flatnonzero(fold == k)
        truths[inside, 1:] = rng.permuted(truths[inside, 1:], axis=0)
    areas = np.zeros(PERMUTATIONS + 1)
    for k in range(FOLDS):
        learn, judge = features[rows[fold != k]].astype(np.float64), features[rows[fold == k]].astype(np.float64)
        middle = learn.mean(axis=0)
        learn -= middle
        products = learn.T @ learn
        products[np.diag_indices_from(products)] += SHRINKAGE * np.trace(products) / len(products) + 1e-12
        answers = truths[fold != k].astype(np.float64)
        weights = np.linalg.solve(products, learn.T @ (answers - answers.mean(axis=0)))
        areas += area_under_curve((judge - middle) @ weights, truths[fold == k]) / FOLDS
    chance = (1 + int((areas[1:] >= areas[0]).sum())) / (PERMUTATIONS + 1)
    return float(areas[0]), float(areas[1:].std()), chance


def _distance_ratio(
    features: Floats, labelled: NDArray[np.bool_], n_before: int, rng: np.random.Generator
) -> float | None:
    known = np.flatnonzero(labelled)
    known = known[rng.permutation(len(known))[:MOST_EACH]]
    old, new = (np.flatnonzero(~labelled & side) for side in _sides(len(labelled), n_before))
    if not len(known) or not len(old) or not len(new):
        return None
    medians = [
        float(np.median(1.0 - (features[rows[rng.permutation(len(rows))[:MOST_EACH]]] @ features[known].T).max(axis=1)))
        for rows in (old, new)
    ]
    return medians[1] / medians[0] if medians[0] > 0 else None


def _sides(n: int, n_before: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    before = np.arange(n) < n_before
    return before, ~before


def _sentence(verdict: str, size: int, first_new: int, auc: float, error: float, ratio: float | None) -> str:
    measured = (
        f"a classifier tells the {size} newest tasks (from task {first_new} on) from earlier ones with an AUC of "
    )
    measured += f"{auc:.2f} ± {error:.2f}, where 0.50 is no difference"
    far = "" if ratio is None else f" They lie {ratio:.2f} times as far from the labelled tasks as earlier ones do."
    if verdict == "none":
        return f"No drift found: {measured}."
    if verdict == "slight":
        return f"New tasks differ a little: {measured}.{far}"
    return f"New tasks look different: {measured}.{far} Label some of them, and see that they belong to the project."
