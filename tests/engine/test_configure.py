"""Settings as people save them: checked, one after the other, taken back."""

from __future__ import annotations

import json

import pytest

from ls_backend.engine import configure
from ls_backend.errors import SettingsConflict, SettingsError, StrategyUnknown
from ls_backend.settings import Objectives, ProjectSettings, Settings
from ls_backend.store import Store
from ls_backend.strategies import Plan

CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="kind" toName="image">'
    '<Choice value="crack"/><Choice value="none"/></Choices></View>'
)


class Office:
    """A project and the people who configure it."""

    def __init__(self, folder):
        self.settings = Settings(data_dir=folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.store = Store(self.settings.sql_url)
        self.store.projects.ensure(7, label_config=CONFIG)

    def save(self, who="ana", *, source="dashboard", expected=None, **words):
        wanted = ProjectSettings.from_extra_params(words)
        return configure.save(self.store, self.settings, 7, wanted, source=source, who=who, expected=expected)

    def undo(self, **how):
        return configure.undo(self.store, self.settings, 7, source="dashboard", who="ana", **how)

    def hear(self, extra_params):
        return configure.hear(self.store, self.settings, 7, extra_params)

    @property
    def in_force(self):
        return configure.in_force(self.store, 7)[1]

    @property
    def wanted(self):
        return self.store.projects.get(7).wanted_generation


@pytest.fixture
def office(tmp_path):
    opened = Office(tmp_path / "data")
    yield opened
    opened.store.dispose()


def test_what_is_saved_is_in_force_and_the_queue_is_to_follow(office):
    before = office.wanted
    made = office.save(preset="margin")
    assert (made.revision, made.who, made.source) == (1, "ana", "dashboard")
    assert office.in_force == ProjectSettings(preset="margin")
    assert office.wanted == before + 1
    office.save(preset="margin")
    assert office.wanted == before + 1, "nothing has changed"


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ({"preset": "margn"}, StrategyUnknown, "margin"),
        ({"objectives": {"diversity": {"method": "coverag"}}}, StrategyUnknown, "did you mean 'coverage'"),
        ({"objectives": {"value": {"classes": {"crak": 2}}}}, SettingsError, "did you mean crack"),
        ({"backbone": "resnet_18"}, SettingsError, "Did you mean resnet18"),
        ({"explore": 2}, SettingsError, "explore is 2: .*less than or equal to 1"),
        ({"objectives": {"uncertainty": {"strength": 9}}}, SettingsError, "objectives.*uncertainty.strength is 9"),
        ({"retrain_aftr": 2}, SettingsError, "did you mean retrain_after"),
    ],
)
def test_what_does_not_exist_is_refused_with_the_nearest_name_and_changes_nothing(office, words, error, message):
    office.save(seed=3)
    before = office.wanted
    with pytest.raises(error, match=message):
        office.save(**words)
    assert office.in_force.seed == 3
    assert office.wanted == before


def test_without_a_label_config_any_class_may_be_named(office):
    office.store.projects.set(7, label_config=None)
    office.save(objectives={"value": {"classes": {"anything": 2}}})
    assert office.in_force.objectives["value"]["classes"] == {"anything": 2}


def test_the_second_of_two_admins_is_told_who_changed_what(office):
    base = office.save(explore=0.1).revision
    office.save("ben", explore=0.2, preset="margin", expected=base)
    with pytest.raises(SettingsConflict) as caught:
        office.save("cyn", explore=0.3, expected=base)
    assert "ben (dashboard) has saved revision 2 at 20" in str(caught.value)
    assert "explore from 0.1 to 0.2" in str(caught.value)
    assert 'preset from "auto" to "margin"' in str(caught.value)
    assert "make your change again" in caught.value.hint
    assert office.in_force == ProjectSettings(explore=0.2, preset="margin")
    assert office.save("cyn", explore=0.3, expected=2).revision == 3


def test_an_undo_takes_the_last_change_back_and_can_be_undone(office):
    for seed in (1, 2, 3):
        office.save(seed=seed)
    made = office.undo()
    assert (made.revision, office.in_force.seed) == (4, 2)
    assert office.undo().revision == 5
    assert office.in_force.seed == 3
    office.undo(to=1)
    assert office.in_force.seed == 1


def test_an_undo_decided_on_older_settings_is_refused(office):
    office.save(seed=1)
    office.save(seed=2)
    office.save("ben", seed=3)
    with pytest.raises(SettingsConflict, match="ben"):
        office.undo(expected=2)
    assert office.in_force.seed == 3


def test_there_is_nothing_before_the_first_revision(office):
    office.save(seed=1)
    with pytest.raises(SettingsError, match="no revision before the one in force") as caught:
        office.undo()
    assert "settings history" in caught.value.hint
    with pytest.raises(SettingsError, match="no revision number 9"):
        office.undo(to=9)


def test_a_class_that_is_gone_does_not_come_back_by_an_undo(office):
    office.save(objectives={"value": {"classes": {"crack": 2}}})
    office.save(seed=1)
    office.store.projects.set(7, label_config=CONFIG.replace("crack", "dent"))
    with pytest.raises(SettingsError, match="crack is not a label"):
        office.undo()


def test_a_project_nobody_has_configured_has_no_history(office):
    assert configure.history(office.store, 7) == []


def test_the_history_says_what_each_revision_changed(office):
    office.save(seed=1)
    office.save("ben", seed=1, objectives={"uncertainty": {"strength": 2}})
    newest, first = configure.history(office.store, 7)
    assert [str(item) for item in newest.differences] == ["objectives.uncertainty.strength from unset to 2"]
    assert (newest.revision.who, first.revision.who) == ("ben", "ana")
    assert first.differences == ()
    assert len(configure.history(office.store, 7, 1)) == 1
    assert configure.history(office.store, 7, 1)[0].differences == newest.differences


# -- what Label Studio says --


@pytest.mark.parametrize("sent", ["", None, {}, "{}"])
def test_a_first_empty_field_means_the_defaults(office, sent):
    assert office.hear(sent)
    first = office.store.revisions.newest(7)
    assert (first.revision, first.source) == (1, "label-studio")
    assert office.in_force == ProjectSettings()


def test_what_label_studio_repeats_does_not_undo_what_was_saved_elsewhere(office):
    office.hear({"preset": "margin", "seed": 1})
    office.save(preset="entropy")
    assert not office.hear('{"seed": 1,  "preset": "margin"}')
    assert office.in_force.preset == "entropy"


def test_what_label_studio_says_anew_holds_wherever_the_settings_came_from(office):
    office.hear({"preset": "margin"})
    office.save(preset="entropy")
    assert office.hear({"preset": "bald"})
    assert office.in_force.preset == "bald"
    assert office.hear("")
    assert office.in_force.preset == "auto", "an emptied field says: the defaults"


def test_an_empty_field_says_nothing_where_settings_were_saved_before_label_studio_ever_called(office):
    office.save(preset="entropy")
    assert not office.hear("")
    assert office.in_force.preset == "entropy"
    assert office.hear({"preset": "margin"})


def test_what_was_refused_was_not_said(office):
    office.hear({"preset": "margin"})
    for _ in range(2):
        with pytest.raises(StrategyUnknown):
            office.hear({"preset": "margn"})
    office.save(preset="entropy")
    assert not office.hear({"preset": "margin"})
    assert office.in_force.preset == "entropy"


def test_markup_in_a_value_is_only_stored(office):
    office.save(objectives={"metadata": [{"field": "<script>alert(1)</script>"}]})
    assert office.in_force.objectives["metadata"][0]["field"] == "<script>alert(1)</script>"


# -- changes by path, and the schema --


def test_a_changed_strength_keeps_the_method_of_the_preset(office):
    made = configure.amended(ProjectSettings(), {"objectives.uncertainty.strength": 2, "preset": "entropy"})
    objectives = Plan.from_settings(made).objectives
    assert (objectives.uncertainty.method, objectives.uncertainty.strength) == ("entropy", 2)
    assert objectives.diversity == Plan.preset("entropy").objectives.diversity


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("explor", 1, "did you mean explore"),
        ("explore.much", 1, "explore.much leads into a setting that has no parts"),
        ("objectives.uncertanty.strength", 1, "did you mean uncertainty"),
        ("explore", 2, "less than or equal to 1"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(path, value, message):
    with pytest.raises(SettingsError, match=message):
        configure.amended(ProjectSettings(), {path: value})


def test_the_schema_knows_every_setting_with_its_range_help_and_choices():
    schema = configure.schema()
    json.dumps(schema)
    assert set(schema["properties"]) == set(ProjectSettings.model_fields)
    assert set(schema["properties"]["objectives"]["properties"]) == set(Objectives.model_fields)
    explore = schema["properties"]["explore"]
    assert (explore["minimum"], explore["maximum"], explore["default"]) == (0, 1, 0.05)
    assert all(field.get("description") for field in schema["properties"].values())
    methods = {
        item["const"]: item["description"] for item in schema["$defs"]["Diversity"]["properties"]["method"]["oneOf"]
    }
    assert {"coverage", "core_set", "badge"} <= set(methods)
    assert all(methods.values())
    assert {"auto", "margin"} <= {item["const"] for item in schema["properties"]["preset"]["oneOf"]}
