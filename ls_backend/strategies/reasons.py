"""Why a task is where it is, in words with numbers, for an annotator."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from ls_backend.strategies import registry
from ls_backend.strategies.pool import Floats, Indices
from ls_backend.strategies.problem import Problem
from ls_backend.strategies.questions import answered, groups
from ls_backend.strategies.regimes import RANDOM

MAX_PARTS = 3
NOTABLE_RATIO = 1.1
ORDINARY_RATIO = 1.0  # enough for the strongest factor
LARGE_RATIO = 100.0  # beyond it the median is next to nothing, and the number says little
NUMBER = re.compile(r"\{.*?\}")
BY_CHANCE = "picked at random"
TO_EXPLORE = "picked at random, to see what the model would not ask for"
ORDINARY = "no single factor stands out"


def sentences(
    problem: Problem,
    rows: Indices,
    explore: NDArray[np.bool_],
    factors: dict[str, Floats],
    ratios: dict[str, Floats],
    medians: dict[str, float],
) -> tuple[str, ...]:
    """Say for each pick which factors stand out, the strongest first.

    Args:
        problem: What was maximised.
        rows: (k,) picks, rows of the view.
        explore: (k,) picks made at random.
        factors: Name to (k,) factor at the pick.
        ratios: Name to (k,) factor over its median in the pool.
        medians: Name to that median.

    Returns:
        k sentences such as "far from everything labelled (1.9x the usual), margin 0.04 (usually 0.71), likely 'crack',
        which has 3 labels".
    """
    if problem.regime.name == RANDOM:
        return (BY_CHANCE,) * len(rows)
    chosen = {"diversity"} if problem.method is not None and problem.method.kind == "picker" else frozenset[str]()
    written = []
    for position, row in enumerate(rows.tolist()):
        if explore[position]:
            written.append(TO_EXPLORE)
            continue
        notable = sorted(
            (
                name
                for name in factors
                if _counts(problem, name)
                and (ratios[name][position] >= ORDINARY_RATIO or (name in chosen and factors[name][position] > 0))
            ),
            key=lambda name: -ratios[name][position],
        )
        parts = [
            _words(problem, name, row, factors[name][position], ratios[name][position], medians[name])
            for rank, name in enumerate(notable)
            if rank == 0 or name in chosen or ratios[name][position] >= NOTABLE_RATIO
        ]
        written.append(", ".join(parts[:MAX_PARTS]) or ORDINARY)
    return tuple(written)


def _counts(problem: Problem, name: str) -> bool:
    """Whether a large factor speaks for a task; under a negative strength it does not."""
    if name == "diversity":
        return problem.diversity.strength > 0
    if name == "balance":
        return problem.plan.objectives.balance.strength > 0
    return problem.factors[name][1] > 0


def _words(problem: Problem, name: str, row: int, factor: float, ratio: float, median: float) -> str:
    if name == "balance":
        return _missing_class(problem, row)
    if name == "value":
        return f"worth more than most{_compared(ratio)}"
    if name.startswith("metadata:"):
        return _preferred(problem, name.removeprefix("metadata:"), row, factor, ratio)
    objectives = problem.plan.objectives
    chosen = {
        "uncertainty": objectives.uncertainty.method,
        "diversity": problem.diversity.method,
        "representativeness": objectives.representativeness.method,
    }[name]
    words = registry.find(name, chosen).words
    about = _most_doubtful(problem, row) if name == "uncertainty" else ""
    number = NUMBER.search(words)
    if number is None:
        return words + _compared(ratio) + about
    usual = number[0].format(value=median, rest=1.0 - median)
    return f"{words.format(value=factor, rest=1.0 - factor)} (usually {usual}){about}"


def _most_doubtful(problem: Problem, row: int) -> str:
    """Name the question that is most in doubt, where there are several, by its likeliest answer."""
    view = problem.view
    if problem.most is None:
        return ""
    blocks, number = view.blocks, int(problem.most[row])
    if number >= len(blocks):
        return ", most of it found elsewhere"
    assert view.probabilities is not None  # or there would be no blocks
    columns = blocks[number]
    likeliest = int(columns[np.argmax(view.probabilities[row, columns])])
    return f", most about {view.class_shown(likeliest)} {view.probabilities[row, likeliest]:.2f}"


def _preferred(problem: Problem, field: str, row: int, factor: float, ratio: float) -> str:
    value = problem.view.metadata[field][row]
    known = problem.view.error_rates.get(field)
    if known is not None and str(value) in known.rates:
        count = known.counts[str(value)]
        return f"{field} {str(value)!r}, where the model errs {known.rates[str(value)]:.0%} ({count} held out)"
    shown = f"{field} {_shown(value)}"
    if any(rule.field == field and rule.weights is not None for rule in problem.plan.objectives.metadata):
        return f"{shown} is preferred{_compared(ratio)}"
    return f"{shown} is among the highest {max(1.0 - factor, 0.01):.0%}"


def _compared(ratio: float) -> str:
    return f" (over {LARGE_RATIO:.0f}x the usual)" if ratio > LARGE_RATIO else f" ({ratio:.1f}x the usual)"


def _missing_class(problem: Problem, row: int) -> str:
    view = problem.view
    assert view.probabilities is not None  # balance is a factor only with a model
    worth = problem.deficit().of_classes()
    above = worth.copy()
    for columns, _ in groups(view):
        above[columns] -= worth[columns].min()  # so that a class with many labels is not named for being the best guess
    index = int(np.argmax(view.probabilities[row] * (above if above.any() else worth)))
    n_labels = 0 if view.labelled_counts is None else int(view.labelled_counts[index])
    asked = next(columns for columns in view.blocks if index in columns)
    answer = int(answered(view.probabilities[row], asked))
    chance = "likely" if answer == (1 if len(asked) == 1 else asked.tolist().index(index)) else "perhaps"
    return f"{chance} {view.class_shown(index)}, which has {n_labels} label{'' if n_labels == 1 else 's'}"


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
