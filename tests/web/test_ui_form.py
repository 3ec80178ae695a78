"""A form of settings keeps what it was given, whatever that is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ls_backend.engine import configure
from ls_backend.errors import SettingsError
from ls_backend.settings import Objectives, ProjectSettings
from ls_backend.strategies import presets, strategies
from ls_backend.web.ui import fields
from ls_backend.web.ui.form import Filled, Form

CLASSES = ("cat", "dog", "<b>", 'a "b"\n c')
names = st.text(min_size=1, max_size=6)
classes = st.one_of(st.sampled_from(CLASSES), names)
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
shares = st.floats(min_value=0, allow_infinity=False)
numbers = st.floats(allow_nan=False, allow_infinity=False)
strengths = st.one_of(st.integers(-4, 4), st.floats(-4, 4))
methods = {item.objective: [] for item in strategies()}
for item in strategies():
    methods[item.objective].append(item.name)


def objective(name, **more):
    parts = {"method": st.sampled_from(methods[name]), "strength": strengths, **more}
    return st.fixed_dictionaries({}, optional=parts)


rules = st.fixed_dictionaries(
    {"field": names},
    optional={
        "strength": strengths,
        "weights": st.one_of(st.none(), st.just("errors"), st.dictionaries(names, shares, max_size=3)),
        "min": st.one_of(st.none(), numbers),
        "max": st.one_of(st.none(), numbers),
    },
)
costs = st.dictionaries(classes, st.dictionaries(classes, shares, max_size=3), max_size=3)
objectives = st.fixed_dictionaries(
    {},
    optional={
        "uncertainty": objective("uncertainty"),
        "diversity": objective("diversity"),
        "balance": objective(
            "balance",
            target=st.one_of(st.sampled_from(["uniform", "input"]), st.dictionaries(classes, shares, max_size=3)),
            above=st.floats(min_value=1, allow_infinity=False),
        ),
        "representativeness": objective("representativeness", drop_outliers=st.floats(0, 0.5)),
        "metadata": st.lists(rules, max_size=3),
        "value": st.fixed_dictionaries(
            {},
            optional={
                "classes": st.dictionaries(classes, positive, max_size=3),
                "costs": costs,
                "strength": strengths,
            },
        ),
    },
)
settings = st.builds(
    ProjectSettings,
    preset=st.sampled_from(sorted(presets())),
    objectives=objectives,
    explore=st.floats(0, 1),
    window=st.one_of(st.none(), st.integers(1, 100_000)),
    retrain_after=st.integers(1, 100_000),
    min_labels=st.integers(2, 100_000),
    prelabel=st.booleans(),
    reasons=st.booleans(),
    manage_queue=st.booleans(),
    backbone=st.text(max_size=6),
    holdout=st.floats(0, 0.5),
    test_set=st.integers(0, 100_000),
    test_set_by=st.one_of(st.none(), names),
    test_set_target=st.one_of(st.none(), st.dictionaries(names, shares, max_size=3)),
    training=st.fixed_dictionaries(
        {
            "depth": st.sampled_from(["frozen", "finetune"]),
            "after": st.integers(1, 100_000),
            "minutes": st.floats(0, 10_000, exclude_min=True),
            "image_px": st.integers(32, 4096),
            "box_uncertainty": st.sampled_from(["mean", "max", "sum"]),
        }
    ),
    model=st.one_of(st.none(), st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*\Z")),
    seed=st.integers(0, 2**31 - 1),
)


def good(_wanted):
    """Everything that is named exists."""


def sent(form, values):
    """What a browser makes of texts: boxes that are not ticked are not sent, lines end in CRLF."""
    flags = {"prelabel", "reasons", "manage_queue", *(f"objectives.{name}" for name in Objectives.model_fields)}
    kept = {name: text.replace("\n", "\r\n") for name, text in values.items() if text or name not in flags}
    return form.tidied(kept)


@given(settings)
def test_what_is_not_touched_stays_as_it_was_to_the_letter(wanted):
    form = Form(CLASSES)
    read = form.read(sent(form, form.written(wanted)), wanted, wanted.preset, good)
    assert read.errors == {}
    assert read.settings.model_dump(mode="json") == wanted.model_dump(mode="json")


@given(settings, settings, st.sampled_from([CLASSES, (), tuple(map(str, range(13)))]))
def test_a_form_filled_in_from_one_end_to_the_other_says_just_that(before, wanted, known):
    form = Form(known)
    read = form.read(sent(form, form.written(wanted)), before, wanted.preset, good)
    assert read.errors == {}
    plain = {"objectives": {}}
    assert read.settings.model_copy(update=plain) == wanted.model_copy(update=plain)
    assert read.settings.objectives.keys() == wanted.objectives.keys()
    found, meant = (Objectives.model_validate(one.objectives) for one in (read.settings, wanted))
    assert found == meant
    assert [rule.get("strength") for rule in read.settings.objectives.get("metadata", ())] == [
        rule.get("strength") for rule in wanted.objectives.get("metadata", ())
    ]  # without one a rule may be a filter


def test_every_setting_has_its_field_once_with_its_help():
    described = configure.schema()["properties"]
    found = [field for section in fields.sections() for field in section.fields]
    assert sorted(field.path for field in found) == sorted(described)
    assert all(field.about == described[field.path]["description"] for field in found)
    parts = {field.path: field for field in fields.parts().values()}
    assert [path for path in parts if path.startswith("objectives.")] == [
        f"objectives.{name}" for name in Objectives.model_fields
    ]
    assert all(field.about for field in parts.values())


def test_a_setting_nobody_has_placed_stands_under_the_last_heading(monkeypatch):
    schema = configure.schema()
    schema["properties"]["brand_new"] = {"type": "object", "description": "New."}
    monkeypatch.setattr(configure, "schema", lambda: schema)
    last = fields.sections.__wrapped__()[-1]
    assert [(field.path, field.kind) for field in last.fields] == [("brand_new", "json")]


def test_a_touched_objective_is_said_by_the_project_and_the_others_stay_with_the_preset():
    form, base = Form(()), ProjectSettings()
    values = form.written(base) | {"objectives.uncertainty.strength": "2.5"}
    read = form.read(sent(form, values), base, "auto", good)
    assert read.settings.objectives == {"uncertainty": {"method": "margin", "strength": 2.5}}


def test_an_objective_can_be_said_as_the_preset_says_it_and_be_given_back():
    form, base = Form(()), ProjectSettings()
    ticked = form.written(base) | {"objectives.balance": "on"}
    own = form.read(sent(form, ticked), base, "auto", good).settings
    assert own.objectives["balance"]["above"] == 3.0
    cleared = form.written(own) | {"objectives.balance": ""}
    assert form.read(sent(form, cleared), own, "auto", good).settings == base


def test_another_preset_alone_takes_no_values_of_the_last_one_with_it():
    form, base = Form(()), ProjectSettings()
    values = form.written(base) | {"preset": "margin"}
    assert form.read(sent(form, values), base, "auto", good).settings == ProjectSettings(preset="margin")


def test_what_another_preset_says_is_filled_in_where_nobody_has_touched_anything():
    form, base = Form(()), ProjectSettings(objectives={"representativeness": {"strength": 1}})
    values = form.written(base) | {"preset": "random", "objectives.uncertainty.strength": "0.5"}
    filled = form.filled_from(sent(form, values), base, "auto", "random")
    assert filled["objectives.diversity.strength"] == "0"  # random's
    assert filled["objectives.uncertainty.strength"] == "0.5"  # touched
    assert filled["objectives.representativeness.strength"] == "1"  # the project's
    read = form.read(form.tidied(filled), base, "random", good).settings
    assert read.preset == "random"
    assert read.objectives.keys() == {"representativeness", "uncertainty"}


def test_an_objective_that_is_given_back_shows_what_the_preset_says():
    form, base = Form(()), ProjectSettings(objectives={"uncertainty": {"method": "entropy", "strength": 3}})
    values = form.written(base) | {"objectives.uncertainty": ""}
    filled = form.filled_from(sent(form, values), base, "auto", "auto")
    assert (filled["objectives.uncertainty.method"], filled["objectives.uncertainty.strength"]) == ("margin", "1")
    assert form.read(form.tidied(filled), base, "auto", good).settings == ProjectSettings()


def test_a_cost_matrix_is_a_table_as_long_as_it_fits_and_json_beyond():
    small, large = Form(CLASSES[:2]), Form([str(number) for number in range(13)])
    wanted = ProjectSettings(objectives={"value": {"costs": {"cat": {"dog": 20}}}})
    filled = Filled(small.written(wanted), {}, "auto")
    cell = filled.matrix("objectives.value.costs")["cat"]["dog"]
    assert filled.value(cell) == "20"
    assert large.written(wanted)["objectives.value.costs"] == '{"cat": {"dog": 20.0}}'
    assert filled.cells("objectives.value.classes").keys() == {"cat", "dog"}


@pytest.mark.parametrize(
    ("objective", "part", "value"),
    [
        ("value", "costs", {"cat": {}}),
        ("value", "costs", {"cow": {"cat": 1.0}}),
        ("value", "costs", {"cat": {"cow": 1.0}}),
        ("value", "classes", {"cow": 2.0}),
        ("balance", "target", {"cow": 0.5}),
    ],
)
def test_what_a_table_of_the_labels_cannot_hold_is_json(objective, part, value):
    form, name = Form(CLASSES[:2]), f"objectives.{objective}.{part}"
    wanted = ProjectSettings(objectives={objective: {part: value}})
    texts = form.written(wanted)
    assert json.loads(texts[name]) == value
    read = form.read(sent(form, texts), ProjectSettings(), "auto", good)
    assert read.settings.objectives[objective][part] == value


@pytest.mark.parametrize(
    ("name", "typed", "at", "words"),
    [
        ("explore", "7", "explore", "explore is 7: Input should be less than or equal to 1"),
        ("explore", "much", "explore", "explore is much: Input should be a valid number"),
        ("explore", "", "explore", "explore is empty"),
        ("explore", "nan", "explore", "explore is nan"),
        ("explore", "1e999", "explore", "finite"),
        ("window", "2.5", "window", "window is 2.5"),
        ("preset", "margn", "preset", "did you mean 'margin'"),
        ("backbone", "resnet51", "backbone", "Did you mean resnet50"),
        ("model", "not a model", "model", "model is not a model"),
        ("training.minutes", "0", "training.minutes", "training.minutes is 0"),
        ("test_set_target", "{1", "test_set_target", "not JSON"),
        ("test_set_target", "[" * 100_000, "test_set_target", "not JSON"),
        ("objectives.uncertainty.method", "magin", "objectives.uncertainty", "did you mean 'margin'"),
        ("objectives.uncertainty.strength", "5", "objectives.uncertainty.strength", "is 5"),
        ('objectives.value.classes/["cat"]', "-1", 'objectives.value.classes/["cat"]', "is -1"),
        ('objectives.value.classes/["cow"]', "1", "objectives.value", "cow is not a label"),
        ('objectives.value.costs/["cat", "dog"]', "x", 'objectives.value.costs/["cat", "dog"]', "is x"),
        ("objectives.metadata.0.min", "3", "objectives.metadata.0.field", "field is empty"),
        ("objectives.metadata.0.weights", "many", "objectives.metadata.0.weights", "or errors"),
        ("explor", "1", "explor", "explor is not a field of this form"),
        ('objectives.value.costs/["cat"]', "1", 'objectives.value.costs/["cat"]', "is not a field"),
        ('objectives.value.classes/["cat", "dog"]', "", 'objectives.value.classes/["cat", "dog"]', "is not a field"),
        ('explore/["cat"]', "1", 'explore/["cat"]', "is not a field"),
        ("objectives.metadata.0.way", "1", "objectives.metadata.0.way", "is not a field"),
        ("objectives.uncertainty.way", "1", "objectives.uncertainty.way", "is not a field"),
    ],
)
def test_what_is_wrong_is_said_at_its_field(name, typed, at, words, tmp_path):
    from ls_backend.labelstudio.label_config import parse
    from ls_backend.settings import Settings

    schema = parse(
        '<View><Image name="image" value="$image"/><Choices name="label" toName="image" choice="single">'
        '<Choice value="cat"/><Choice value="dog"/></Choices></View>'
    )
    deployment = Settings(data_dir=tmp_path)
    form, base = Form(schema.classes), ProjectSettings()
    read = form.read(
        sent(form, form.written(base) | {name: typed}),
        base,
        "auto",
        lambda wanted: configure.check(deployment, schema, wanted),
    )
    assert read.settings is None
    assert words in read.errors[at]


def test_a_cell_of_shares_is_blamed_and_not_its_whole_table():
    form, base = Form(CLASSES[:2]), ProjectSettings()
    typed = {"objectives.balance.target": "{}", 'objectives.balance.target/["dog"]': "-1"}
    read = form.read(sent(form, form.written(base) | typed), base, "auto", good)
    assert list(read.errors) == ['objectives.balance.target/["dog"]']


def test_settings_that_are_wrong_only_together_are_refused_all_the_same():
    def check(wanted):
        if wanted.test_set and wanted.explore > 0.05:
            raise SettingsError("Not both.")

    form, base = Form(()), ProjectSettings(explore=0)
    values = form.written(base) | {"explore": "0.1", "test_set": "5"}
    assert form.read(sent(form, values), base, "auto", check).errors == {"": "Not both."}


def test_rules_are_added_in_the_empty_row_and_dropped_by_emptying_theirs():
    form = Form(())
    base = ProjectSettings(
        objectives={"metadata": [{"field": "lux", "min": 3}, {"field": "site", "weights": "errors"}]}
    )
    values = form.written(base)
    values |= {"objectives.metadata.0.field": "", "objectives.metadata.0.min": "", "objectives.metadata.2.field": "fog"}
    read = form.read(sent(form, values), base, "auto", good)
    assert read.settings.objectives["metadata"] == [{"field": "site", "weights": "errors"}, {"field": "fog"}]
    shown = Filled(sent(form, values), {}, "auto")
    assert shown.rows("objectives.metadata") == [0, 1, 2]
