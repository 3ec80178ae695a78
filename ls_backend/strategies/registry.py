"""The one table of methods: a method is a decorated function, and everything that lists methods reads this table.

Four kinds. A *scorer* judges each task by itself: `(pool) -> (n,) utilities in [0, 1]`, higher means label sooner. One
of uncertainty is given a pool of one question, once for each question, and need not know that there are several. A
*gain* is a scorer that knows redundancy: it hands the greedy search an object whose bounds fall as tasks are taken. A
*picker* chooses a whole batch by itself: `(pool, utilities (n,), k, rng) -> (rows (k,), values (k,), median)`, its own
factor from 0 to 1 at each pick and the median of that factor over the pool. A *balancer* is given label counts (c,),
wanted shares (c,) and k, and hands out an object that judges tasks by their probabilities alone. All others see the
pool after `reduction.view`: filtered, in order of task id, at most 64 dimensions unless a method in use asks for whole
embeddings.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from ls_backend.errors import StrategyError, StrategyUnknown
from ls_backend.strategies.pool import Floats, Floats32, Indices, Pool

Kind = Literal["scorer", "gain", "picker", "balancer"]
ENTRY_POINT_GROUP = "ls_backend.strategies"


class Gain(Protocol):
    """What taking a task would add, given the tasks taken so far. It may only fall as tasks are taken.

    Attributes:
        bounds: (m,) float64, at least the true gain of each candidate.
    """

    bounds: Floats

    def refresh(self, rows: Indices) -> None:
        """Make the bounds of these candidate rows exact again."""

    def take(self, row: int) -> None:
        """Count this candidate row as labelled."""


class Balancer(Protocol):
    """What labels of each class are worth for balance, given the tasks taken so far; all values from 0 to 1."""

    def of_classes(self) -> Floats:
        """Return the worth (c,) of a label of each class."""

    def of_tasks(self, probabilities: Floats32) -> Floats:
        """Return the worth (n,) of tasks with probabilities (n, c)."""

    def add(self, probabilities: Floats32) -> None:
        """Count one task by its probabilities (c,)."""


Scorer = Callable[[Pool], Floats]
GainFactory = Callable[[Pool, Floats, Indices, np.random.Generator], Gain]
Picker = Callable[[Pool, Floats, int, np.random.Generator], tuple[Indices, Floats, float]]
Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True)
class Strategy:
    """One method, as documentation, command line and search know it.

    Attributes:
        name: Stable public id; a changed formula gets a new name.
        kind: What the function is given and returns, see the module.
        objective: Objective of the project settings it is a method of.
        function: The method itself.
        needs: Optional fields of `Pool` it cannot do without.
        uses: Optional fields of `Pool` it does better with.
        whole_embeddings: Whether 64 principal directions are not enough for it.
        all_questions: Whether a scorer of uncertainty judges all questions of a task by itself, as their mean.
        summary: One line for an annotator.
        formula: What is computed, in ASCII.
        source: Paper it follows.
        cost: Order of the work, for n tasks, c classes, k picks, r reference points.
        use_when: When to choose it.
        fails_when: When not to.
        words: Phrase of a reason; `{value}` is the factor, `{rest}` is 1 minus it, at most one of them. A phrase that
            shows neither is followed by how the factor compares with the median of the pool.
    """

    name: str
    kind: Kind
    objective: str
    function: Callable[..., Any]
    needs: frozenset[str]
    uses: frozenset[str]
    whole_embeddings: bool
    all_questions: bool
    summary: str
    formula: str
    source: str
    cost: str
    use_when: str
    fails_when: str
    words: str


_TABLE: dict[tuple[str, str], Strategy] = {}


def register(
    name: str,
    *,
    kind: Kind,
    objective: str,
    formula: str,
    source: str,
    cost: str,
    use_when: str,
    fails_when: str,
    words: str,
    needs: AbstractSet[str] = frozenset(),
    uses: AbstractSet[str] = frozenset(),
    whole_embeddings: bool = False,
    all_questions: bool = False,
) -> Callable[[Method], Method]:
    """Enter the decorated function in the table; fields as in `Strategy`, the summary is its docstring's first line.

    Raises:
        StrategyError: If the objective has a method of that name already.
    """

    def enter(function: Method) -> Method:
        if (objective, name) in _TABLE:
            raise StrategyError(
                f"A method {name!r} of {objective} is registered already; expected a new name. Rename one of the two."
            )
        _TABLE[objective, name] = Strategy(
            name=name,
            kind=kind,
            objective=objective,
            function=function,
            needs=frozenset(needs),
            uses=frozenset(uses),
            whole_embeddings=whole_embeddings,
            all_questions=all_questions,
            summary=(function.__doc__ or "").strip().partition("\n")[0],
            formula=formula,
            source=source,
            cost=cost,
            use_when=use_when,
            fails_when=fails_when,
            words=words,
        )
        return function

    return enter


scorer = partial(register, kind="scorer")
gain = partial(register, kind="gain")
picker = partial(register, kind="picker")
balancer = partial(register, kind="balancer")


@cache
def _load_plugins() -> None:
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            entry.load()
        except Exception as error:
            raise StrategyError(
                f"The strategies of {entry.value!r} cannot be loaded: {error}. Repair or uninstall that package."
            ) from error


def find(objective: str, name: str) -> Strategy:
    """Return the method of an objective by name; packages of third parties are loaded only when it is not built in.

    Raises:
        StrategyUnknown: Names the nearest known method.
    """
    if (objective, name) not in _TABLE:
        _load_plugins()
    try:
        return _TABLE[objective, name]
    except KeyError:
        known = sorted(known_name for known_objective, known_name in _TABLE if known_objective == objective)
        raise unknown(f"{objective} method", name, known) from None


def strategies() -> tuple[Strategy, ...]:
    """Return every registered method, those of third parties included, by objective and name."""
    _load_plugins()
    return tuple(_TABLE[key] for key in sorted(_TABLE))


def table() -> Mapping[tuple[str, str], Strategy]:
    """Return the live table, (objective, name) to method, read-only."""
    return MappingProxyType(_TABLE)


def unknown(what: str, name: str, known: list[str]) -> StrategyUnknown:
    """Make the error for a name that is not known, with the nearest one that is."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f"did you mean {near[0]!r}?" if near else "choose one of them."
    return StrategyUnknown(f"There is no {what} {name!r}; known: {', '.join(known)}; {guess}", name=name)
