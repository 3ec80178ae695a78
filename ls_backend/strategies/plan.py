"""A plan: which objectives make the priority of a task, by which method and how strongly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ls_backend.errors import SettingsError
from ls_backend.settings import MetadataRule, Objectives, ProjectSettings
from ls_backend.strategies import registry

_OFF = {"strength": 0.0}

IMBALANCED = 3.0
"""Times as frequent as the rarest class another one must be before missing classes matter."""

PRESETS: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "auto": (
            "Coverage of doubtful tasks, rare classes first if there are any; coverage alone before the first model.",
            {"balance": {"above": IMBALANCED}},
        ),
        "random": ("No preference: every task is as likely as any other.", {"uncertainty": _OFF, "diversity": _OFF}),
        "margin": ("The two likeliest classes are close.", {"diversity": _OFF}),
        "entropy": (
            "Belief is spread over many classes.",
            {"uncertainty": {"method": "entropy"}, "diversity": _OFF},
        ),
        "least_confidence": (
            "The likeliest class is not very likely.",
            {"uncertainty": {"method": "least_confidence"}, "diversity": _OFF},
        ),
        "vote_entropy": (
            "Members of a committee answer differently.",
            {"uncertainty": {"method": "vote_entropy"}, "diversity": _OFF},
        ),
        "qbc": (
            "Members of a committee hold different beliefs.",
            {"uncertainty": {"method": "mean_kl"}, "diversity": _OFF},
        ),
        "bald": (
            "A label would tell which members of a committee are right.",
            {"uncertainty": {"method": "bald"}, "diversity": _OFF},
        ),
        "expected_cost": (
            "Even the best answer is expected to be costly.",
            {"uncertainty": {"method": "expected_cost"}, "diversity": _OFF},
        ),
        "learning_loss": (
            "The model is expected to be wrong.",
            {"uncertainty": {"method": "learning_loss"}, "diversity": _OFF},
        ),
        "core_set": (
            "Farthest from everything labelled.",
            {"uncertainty": _OFF, "diversity": {"method": "core_set"}},
        ),
        "badge": (
            "Would pull the model hard, each in another direction.",
            {"uncertainty": _OFF, "diversity": {"method": "badge"}},
        ),
        "falcun": (
            "Doubtful, and between other classes than what is ahead.",
            {"uncertainty": _OFF, "diversity": {"method": "falcun"}},
        ),
        "clue": (
            "The middle of each group of doubtful tasks.",
            {"uncertainty": _OFF, "diversity": {"method": "clue"}},
        ),
        "drop_query": (
            "The answer changes when details are blanked out; one task of each group.",
            {"uncertainty": _OFF, "diversity": {"method": "drop_query"}},
        ),
        "typiclust": (
            "The most typical task of each group without labels.",
            {"uncertainty": _OFF, "diversity": {"method": "typiclust"}},
        ),
        "cluster_margin": (
            "The closest calls, from different groups in turns.",
            {"uncertainty": _OFF, "diversity": {"method": "cluster_margin"}},
        ),
        "prob_cover": (
            "Most tasks that nothing labelled is close to are close.",
            {"uncertainty": _OFF, "diversity": {"method": "prob_cover"}},
        ),
        "bait": (
            "Would pin down what the model says about the whole pool.",
            {"uncertainty": _OFF, "diversity": {"method": "bait"}},
        ),
        "batch_bald": (
            "Labels that settle together what a committee disputes.",
            {"uncertainty": _OFF, "diversity": {"method": "batch_bald"}},
        ),
        "minority": (
            "Coverage of doubtful tasks, the class with the fewest labels first.",
            {"balance": {"method": "minority"}},
        ),
        "cbal": (
            "Belief is spread, and the batch brings every class to its share.",
            {"uncertainty": {"method": "entropy"}, "diversity": _OFF, "balance": {"method": "cbal"}},
        ),
        "max_herding": ("Coverage of the pool, without a model.", {"uncertainty": _OFF}),
        "uncertainty_herding": ("Coverage of doubtful tasks.", {}),
    }
)


@dataclass(frozen=True)
class Plan:
    """What a ranking maximises: the product of objectives, each with a method and a strength.

    Attributes:
        name: Preset it started from.
        objectives: Every objective with every field filled in; a metadata rule that only filters gets strength 0.
        explore: Share of the picks drawn at random, 0 to 1. A preset by itself is pure: 0.

    Raises:
        SettingsError: If a share or a range is impossible.
        StrategyUnknown: If a method does not exist.
    """

    name: str
    objectives: Objectives
    explore: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.explore <= 1:
            raise SettingsError(f"explore is {self.explore}; expected a share from 0 to 1. Correct it.")
        object.__setattr__(self, "objectives", _resolved(self.objectives))
        for objective in ("uncertainty", "diversity", "representativeness", "balance"):
            registry.find(objective, getattr(self.objectives, objective).method)

    @property
    def named_classes(self) -> frozenset[str]:
        """Classes the plan speaks of; each must be a label of the project."""
        target = self.objectives.balance.target
        worth = self.objectives.value
        return frozenset((*worth.classes, *worth.priced_classes, *(target if isinstance(target, dict) else ())))

    @classmethod
    def preset(cls, name: str) -> Plan:
        """Return a named plan.

        Raises:
            StrategyUnknown: Names the nearest preset.
        """
        return cls(name, Objectives.model_validate(_preset(name)))

    @classmethod
    def from_json(cls, raw: str | Mapping[str, Any]) -> Plan:
        """Read a plan in the words of the project settings: preset, objectives, explore.

        Args:
            raw: A JSON object, or its text. Other project settings are checked and otherwise not looked at.

        Raises:
            SettingsError: If a key or value is wrong.
            StrategyUnknown: If a preset or method does not exist.
        """
        return cls.from_settings(ProjectSettings.from_extra_params(raw if isinstance(raw, str) else dict(raw)))

    @classmethod
    def from_settings(cls, settings: ProjectSettings) -> Plan:
        """Fill the objectives from the preset; an objective the settings name replaces that of the preset whole.

        Raises:
            SettingsError: If an objective is malformed.
            StrategyUnknown: If a preset or method does not exist.
        """
        objectives = Objectives.model_validate({**_preset(settings.preset), **settings.objectives})
        return cls(settings.preset, objectives, settings.explore)

    def to_json(self) -> str:
        """Return the plan as text that `from_json` reads back to an equal plan."""
        objectives = self.objectives.model_dump(mode="json", exclude_none=True)
        return json.dumps({"preset": self.name, "objectives": objectives, "explore": self.explore}, sort_keys=True)


def presets() -> Mapping[str, str]:
    """Return every preset with a one-line summary."""
    return MappingProxyType({name: summary for name, (summary, _) in PRESETS.items()})


def _preset(name: str) -> dict[str, Any]:
    if name not in PRESETS:
        raise registry.unknown("preset", name, sorted(PRESETS))
    return {"balance": _OFF, **PRESETS[name][1]}


def _resolved(objectives: Objectives) -> Objectives:
    """Make a rule that only filters (min or max, no strength given) have no preference."""
    rules = tuple(_resolved_rule(rule) for rule in objectives.metadata)
    preferring = [rule.field for rule in rules if rule.strength]
    twice = sorted({field for field in preferring if preferring.count(field) > 1})
    if twice:
        raise SettingsError(
            f"Several metadata rules prefer values of {twice}; expected one for each field. Merge them, or give the "
            "others strength 0."
        )
    return objectives.model_copy(update={"metadata": rules})


def _resolved_rule(rule: MetadataRule) -> MetadataRule:
    only_filters = rule.weights is None and (rule.min is not None or rule.max is not None)
    if rule.min is not None and rule.max is not None and rule.min > rule.max:
        raise SettingsError(
            f"Metadata rule {rule.field!r} has min {rule.min:g} above max {rule.max:g}; expected min <= max. Swap them."
        )
    if only_filters and "strength" not in rule.model_fields_set:
        return rule.model_copy(update={"strength": 0.0})
    return rule
