"""A plan made concrete for a pool: which factors count, and their values for every task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ls_backend.errors import StrategyError, StrategyNotReady
from ls_backend.settings import Diversity
from ls_backend.strategies import metadata, questions, registry
from ls_backend.strategies.balance import class_deficit, value
from ls_backend.strategies.plan import Plan
from ls_backend.strategies.pool import Floats, Indices, Pool
from ls_backend.strategies.questions import any_doubts
from ls_backend.strategies.regimes import Regime, imbalance, regime_of
from ls_backend.strategies.search import powered

FROM_A_MODEL = frozenset({"probabilities", "member_probabilities", "dropout_probabilities", "predicted_loss"})
REMEDIES = {
    "probabilities": "Label until the first model is trained",
    "member_probabilities": "Pass what a committee of heads, fitted on bootstrap samples of the labels, believes",
    "dropout_probabilities": "Pass what the head believes about the embeddings under a few dropout masks",
    "cost_matrix": "Pass the cost of every answer for every true class",
    "predicted_loss": "Pass the loss that a regressor, fitted on out-of-fold losses of the labels, expects",
}


@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be maximised.

    Attributes:
        view: n tasks as `reduction.view` makes them.
        plan: Where it comes from.
        regime: Phase of labelling, and why.
        diversity: Method of redundancy in force; the cold start may have put it in.
        factors: Name to ((n,) factor in [0, 1], strength), for those that do not change during a search.
        most: (n,) question that is most in doubt, as `questions.Doubt` has it; None where there is one, or no doubt.
        deficits: (n,) class deficits at the start; None without balancing.
        last: (n,) tasks that come after all others.
        k: Size of the batch.
    """

    view: Pool
    plan: Plan
    regime: Regime
    diversity: Diversity
    factors: dict[str, tuple[Floats, float]]
    most: Indices | None
    deficits: Floats | None
    last: NDArray[np.bool_]
    k: int

    @property
    def method(self) -> registry.Strategy | None:
        """The method of redundancy; None when only the factors count."""
        return registry.find("diversity", self.diversity.method) if self.diversity.strength else None

    @property
    def covers(self) -> bool:
        """Whether doubt is the weight of what is covered, instead of a factor of its own."""
        return self.method is not None and self.method.kind == "gain"

    def weights(self) -> Floats:
        """How much it matters that each task (n,) is covered."""
        if "uncertainty" not in self.factors:
            return np.ones(self.view.size)
        return powered(*self.factors["uncertainty"])

    def static(self) -> Floats:
        """Product (n,) of the factors that multiply the priority and do not change."""
        product = np.ones(self.view.size)
        for name, (factor, strength) in self.factors.items():
            if name != "uncertainty" or not self.covers:
                product *= powered(factor, strength)
        return product

    def balanced(self) -> Floats:
        """Class deficits (n,) at the start, raised to their strength; ones without balancing."""
        if self.deficits is None:
            return np.ones(self.view.size)
        return powered(self.deficits, self.plan.objectives.balance.strength)

    def deficit(self) -> registry.Balancer:
        """A fresh count of what is missing, for a search to keep."""
        return class_deficit(self.view, self.plan.objectives.balance, self.k)


def concrete(view: Pool, plan: Plan, k: int) -> Problem:
    """Decide what counts for this pool, and judge every task.

    Args:
        view: n tasks as `reduction.view` makes them.
        plan: Objectives.
        k: Size of the batch.

    Returns:
        The problem. Without probabilities the objectives that ask for a model drop out, except that doubts found
        elsewhere stay; if that leaves no redundancy either, coverage takes their place.

    Raises:
        StrategyNotReady: If a method needs what the pool lacks.
        StrategyError: If plan and pool contradict each other.
    """
    wanted = plan.objectives
    has_model, has_doubts = view.probabilities is not None, any_doubts(view.doubts)
    for method in methods_in_use(plan, has_model=has_model, has_doubts=has_doubts):
        _check_needs(view, method)
    diversity = _diversity(plan, has_model=has_model, has_doubts=has_doubts)
    typicality = None
    if wanted.representativeness.strength or wanted.representativeness.drop_outliers:
        typicality = _scored(view, registry.find("representativeness", wanted.representativeness.method))
    doubt = None
    if (has_model or has_doubts) and wanted.uncertainty.strength:
        method = registry.find("uncertainty", wanted.uncertainty.method)
        doubt = questions.doubt(view, lambda asked: _scored(asked, method), at_once=method.all_questions)
    factors = _factors(view, plan, doubt, typicality)
    deficits = None
    if view.probabilities is not None and wanted.balance.strength and _uneven(view, wanted.balance.above):
        deficits = class_deficit(view, wanted.balance, k).of_tasks(view.probabilities)
    nothing = not factors and not diversity.strength and deficits is None
    return Problem(
        view=view,
        plan=plan,
        regime=regime_of(view, plan, diversity, undecided=nothing, balancing=deficits is not None),
        diversity=diversity,
        factors=factors,
        most=None if doubt is None else doubt.most,
        deficits=deficits,
        last=_outliers(typicality, wanted.representativeness.drop_outliers, view.size),
        k=k,
    )


def _uneven(view: Pool, above: float) -> bool:
    """Whether the most frequent class is more than so many times as frequent as the rarest; with 1, always."""
    return above <= 1 or imbalance(view).ratio > above


def _factors(
    view: Pool, plan: Plan, doubt: questions.Doubt | None, typicality: Floats | None
) -> dict[str, tuple[Floats, float]]:
    wanted = plan.objectives
    has_model = view.probabilities is not None
    factors: dict[str, tuple[Floats, float]] = {}
    if doubt is not None:
        factors["uncertainty"] = doubt.of_tasks, wanted.uncertainty.strength
    if typicality is not None and wanted.representativeness.strength:
        factors["representativeness"] = typicality, wanted.representativeness.strength
    for rule in wanted.metadata:
        if rule.strength and (has_model or rule.weights != "errors"):
            factors[f"metadata:{rule.field}"] = metadata.preference(view, rule), rule.strength
    if has_model and wanted.value.strength and wanted.value.classes:
        factors["value"] = value(view, wanted.value), wanted.value.strength
    return factors


def methods_in_use(plan: Plan, *, has_model: bool, has_doubts: bool = False) -> list[registry.Strategy]:
    """The methods that decide, for a pool with or without probabilities, and doubts found elsewhere."""
    wanted = plan.objectives
    methods = []
    if has_model and wanted.uncertainty.strength:
        methods.append(registry.find("uncertainty", wanted.uncertainty.method))
    if wanted.representativeness.strength or wanted.representativeness.drop_outliers:
        methods.append(registry.find("representativeness", wanted.representativeness.method))
    if has_model and wanted.balance.strength:
        methods.append(registry.find("balance", wanted.balance.method))
    diversity = _diversity(plan, has_model=has_model, has_doubts=has_doubts)
    if diversity.strength:
        methods.append(registry.find("diversity", diversity.method))
    return methods


def needs(plan: Plan, *, has_model: bool) -> frozenset[str]:
    """Name the optional fields of `Pool` that a plan asks for, so that nothing else has to be computed.

    Args:
        plan: Objectives.
        has_model: Whether the pool has probabilities; before the first model other methods decide.
    """
    methods = methods_in_use(plan, has_model=has_model)
    return frozenset(name for method in methods for name in method.needs | method.uses)


def _diversity(plan: Plan, *, has_model: bool, has_doubts: bool) -> Diversity:
    """The redundancy in force: coverage steps in where a plan asks for a model that is not there yet."""
    wanted = plan.objectives
    method = registry.find("diversity", wanted.diversity.method)
    if not has_model:
        asks_model = wanted.uncertainty.strength != 0 or wanted.balance.strength != 0
        if wanted.diversity.strength:
            asks_model = bool(method.needs & FROM_A_MODEL)
        elif has_doubts and wanted.uncertainty.strength:
            asks_model = False  # doubts that come from elsewhere decide
        if asks_model:
            return Diversity()
    if wanted.diversity.strength < 0 and method.kind == "picker":
        raise StrategyError(
            f"Diversity by {method.name!r} has strength {wanted.diversity.strength:g}; expected 0 or more, because "
            "that method cannot be inverted. Use the method 'coverage'."
        )
    return wanted.diversity


def _outliers(typicality: Floats | None, share: float, n: int) -> NDArray[np.bool_]:
    last = np.zeros(n, dtype=np.bool_)
    if typicality is not None:
        last[np.argsort(typicality, kind="stable")[: int(share * n)]] = True
    return last


def _scored(view: Pool, method: registry.Strategy) -> Floats:
    utilities: Floats = np.asarray(method.function(view), dtype=np.float64)
    if utilities.shape != (view.size,) or not ((utilities >= 0) & (utilities <= 1)).all():
        raise StrategyError(
            f"The method {method.name!r} of {method.objective} returned shape {utilities.shape} or values outside 0 to "
            f"1; expected ({view.size},) utilities from 0 to 1. Mend the method."
        )
    return utilities


def _check_needs(view: Pool, method: registry.Strategy) -> None:
    missing = sorted(name for name in method.needs if getattr(view, name, None) is None)
    if missing:
        remedy = "; ".join(REMEDIES.get(name, f"Pass {name} to Pool") for name in missing)
        raise StrategyNotReady(
            f"The method {method.name!r} of {method.objective} needs {', '.join(missing)}, which the pool lacks. "
            f"{remedy}, or choose another method."
        )
