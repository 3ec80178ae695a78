from __future__ import annotations

import pytest

from ls_backend.errors import SettingsError, StrategyUnknown
from ls_backend.settings import Balance, MetadataRule, Objectives, ProjectSettings
from ls_backend.strategies import Plan, presets


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_survives_json(name):
    plan = Plan.preset(name)
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.explore == 0


def test_empty_settings_are_the_default_plan_with_the_default_exploration():
    plan = Plan.from_json("{}")
    assert plan.objectives == Plan.preset("auto").objectives
    assert plan.objectives.model_copy(update={"balance": Balance()}) == Objectives()
    assert plan.explore == ProjectSettings().explore == Plan.from_settings(ProjectSettings()).explore


def test_a_named_objective_replaces_that_of_the_preset_and_only_that():
    plan = Plan.from_json({"preset": "random", "objectives": {"uncertainty": {"method": "entropy"}}})
    assert (plan.objectives.uncertainty.method, plan.objectives.uncertainty.strength) == ("entropy", 1.0)
    assert plan.objectives.diversity.strength == plan.objectives.balance.strength == 0


def test_a_rule_that_only_filters_has_no_preference_unless_it_says_so():
    rules = [{"field": "a", "min": 1}, {"field": "b"}, {"field": "c", "max": 2, "strength": 0.5}]
    plan = Plan.from_json({"objectives": {"metadata": rules}})
    assert [rule.strength for rule in plan.objectives.metadata] == [0.0, 1.0, 0.5]
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"preset": "margn"}, "'margn'.*did you mean 'margin'"),
        ({"objectives": {"uncertainty": {"method": "entrpy"}}}, "uncertainty method 'entrpy'.*'entropy'"),
        ({"objectives": {"balance": {"method": "minorty"}}}, "balance method 'minorty'.*'minority'"),
        ({"objectives": {"diversity": {"method": "zzz"}}}, "known: .*core_set, coverage.*; choose one"),
    ],
)
def test_unknown_names_are_errors_with_the_nearest_one(raw, expected):
    with pytest.raises(StrategyUnknown, match=expected):
        Plan.from_json(raw)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ('{"explore": 2}', "explore is 2: .*less than or equal to 1"),
        ("[]", "are a list; expected a JSON object"),
        ("{", "not JSON .*expected an object such as"),
        ('{"objectives": {"uncertainy": {}}}', "objectives.uncertainy is not a setting; did you mean uncertainty"),
        ({"objectives": {"metadata": [{"field": ""}]}}, "metadata.0.field .*at least 1 character"),
        ({"objectives": {"uncertainty": {"strength": 9}}}, "uncertainty.strength is 9: .*less than or equal to 4"),
        ({"objectives": {"balance": {"strength": "much"}}}, "balance.strength is much: .*a valid number"),
        ({"objectives": {"value": {"classes": {"a": 0}}}}, "value.classes.a is 0: .*greater than 0"),
        ({"objectives": {"representativeness": {"drop_outliers": 0.9}}}, "drop_outliers is 0.9: .*equal to 0.5"),
    ],
)
def test_malformed_plans_are_settings_errors_with_value_and_expectation(raw, expected):
    with pytest.raises(SettingsError, match=expected) as caught:
        Plan.from_json(raw)
    assert caught.value.hint.startswith("Correct the setting")


def test_two_preferences_for_one_field_are_refused_and_a_filter_beside_one_is_not():
    rules = [{"field": "light", "min": 3}, {"field": "light"}]
    assert len(Plan.from_json({"objectives": {"metadata": rules}}).objectives.metadata) == 2
    with pytest.raises(SettingsError, match=r"prefer values of \['light'\]; expected one .*Merge them"):
        Plan.from_json({"objectives": {"metadata": [*rules, {"field": "light", "strength": -1}]}})


def test_a_range_the_wrong_way_round_is_refused():
    with pytest.raises(SettingsError, match="min 3 above max 2"):
        Plan("mine", Objectives(metadata=(MetadataRule(field="a", min=3, max=2),)))


def test_an_impossible_share_is_refused():
    with pytest.raises(SettingsError, match=r"explore is 1\.5"):
        Plan("mine", Objectives(), explore=1.5)
