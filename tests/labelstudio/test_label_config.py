from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as some

from ls_backend.domain import Annotation, Control, LabelSchema, Prediction
from ls_backend.errors import ConfigUnsupported, LabelUnknown
from ls_backend.labelstudio.label_config import Resolved, chosen, make_result, parse, read_label, validate

CHOICES = '<Choice value="cat"/><Choice value="dog"/>'
SCHEMA = LabelSchema("image", (Control("label", "choices", "image", ("cat", "dog")),))
START = datetime(2026, 11, 22, tzinfo=UTC)


def view(inner, image='<Image name="image" value="$image"/>'):
    return f"<View>{image}{inner}</View>"


CONFIG = view(f'<Choices name="label" toName="image" choice="single">{CHOICES}</Choices>')


def annotation(number, *labels, minutes=0, cancelled=False, truth=False, control="label"):
    region = {"from_name": control, "to_name": "image", "type": "choices", "value": {"choices": list(labels)}}
    when = START + timedelta(minutes=minutes)
    return Annotation(number, 1, (region,) if labels else (), cancelled, truth, 1, when, when)


def test_a_single_choice_on_an_image_is_learned():
    assert parse(CONFIG) == SCHEMA


def test_choice_is_single_unless_said_otherwise():
    assert parse(CONFIG.replace(' choice="single"', "")) == SCHEMA
    assert parse(CONFIG.replace("single", "single-radio")) == SCHEMA


def test_choices_inside_layout_tags_count():
    config = view(f'<!-- note --><View><Choices name="label" toName="image"><View>{CHOICES}</View></Choices></View>')
    assert parse(config) == SCHEMA


def test_the_order_of_the_config_is_the_order_of_the_classes():
    config = view(
        '<Choices name="c" toName="image"><Choice value="z"/><Choice value="a"/><Choice value="m"/></Choices>'
    )
    assert parse(config).classes == ("z", "a", "m")


def test_aliases_are_the_labels_since_results_hold_them():
    config = view(
        '<Choices name="c" toName="image"><Choice value="Long" alias="l"/><Choice value="Short" alias="s"/></Choices>'
    )
    assert parse(config).classes == ("l", "s")


def test_controls_on_one_image_are_learned_side_by_side():
    config = view(
        '<RectangleLabels name="boxes" toName="image" model_score_threshold="0.3">'
        '<Label value="car" predicted_values="jeep, cab"/><Label value="bus"/></RectangleLabels>'
        f'<Choices name="many" toName="image" choice="multiple">{CHOICES}</Choices>'
        f'<Choices name="one" toName="image">{CHOICES}</Choices>'
        '<TextArea name="note" toName="image"/>'
        '<BrushLabels name="mask" toName="image"><Label value="car"/></BrushLabels>'
    )
    schema = parse(config)
    assert [(control.name, control.kind, control.multiple) for control in schema.controls] == [
        ("boxes", "rectanglelabels", True),
        ("many", "choices", True),
        ("one", "choices", False),
        ("mask", "brushlabels", True),
    ]
    assert schema.controls[0].threshold == 0.3
    assert schema.controls[0].aliases == (("jeep", "car"), ("cab", "car"))
    assert schema.classes[:3] == ("boxes: car", "boxes: bus", "many: cat")
    assert schema.questions == (0, 1, 2, 3, 4, 4, 5)


def test_controls_on_another_image_are_left_alone():
    second = '<Image name="second" value="$other"/>'
    config = view(
        f'{second}<Choices name="label" toName="image">{CHOICES}</Choices>'
        f'<Choices name="else" toName="second">{CHOICES}</Choices>'
    )
    assert parse(config) == SCHEMA


def test_a_control_marked_model_skip_is_left_alone():
    skipped = f'<Choices name="skipped" toName="image" model_skip="true">{CHOICES}</Choices>'
    assert parse(view(skipped + f'<Choices name="label" toName="image">{CHOICES}</Choices>')) == SCHEMA
    with pytest.raises(ConfigUnsupported, match="skipped is left alone"):
        parse(view(skipped))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("", "no label config yet"),
        ("  \n", "no label config yet"),
        ("<View", "cannot be read"),
        ("hello", "cannot be read"),
        ("<View></View>", "no control tag"),
        (view('<RectangleLabels name="b" toName="image"/>'), "RectangleLabels b takes its labels"),
        (view('<TextArea name="note" toName="image"/>'), "TextArea note is none of them"),
        (CONFIG.replace('choice="single"', 'model_score_threshold="often"'), "model_score_threshold 'often'"),
        (CONFIG.replace('choice="single"', 'model_active="false"'), "model_active says"),
        (CONFIG.replace('choice="single"', 'perRegion="true"'), "for each region"),
        (view('<Choices name="c" toName="image" value="$options"/>'), "from the task data"),
        (view('<Choices name="c" toName="image"><Choice value="only"/></Choices>'), "one choice only, only"),
        (
            view('<Choices name="c" toName="image"><Choice value="a"><Choice value="b"/></Choice></Choices>'),
            "nests choices",
        ),
        (CONFIG.replace("<Image ", "<Audio "), "on Audio, not on one Image or Text"),
        (CONFIG.replace("<Image ", '<Text valueType="url" '), "holds addresses"),
        (CONFIG.replace("<Image ", "<Text ").replace("$image", "Hello"), "a Text whose value is not one field"),
        (
            view(
                '<RectangleLabels name="b" toName="t"><Label value="x"/></RectangleLabels>',
                '<Text name="t" value="$t"/>',
            ),
            "on Text, not on one Image",
        ),
        (CONFIG.replace('toName="image"', 'toName="nowhere"'), "on no object"),
        (CONFIG.replace("value=", "valueList=", 1), "not one field"),
        (CONFIG.replace("$image", "http://host/fixed.png"), "not one field"),
    ],
)
def test_other_configs_are_refused_in_words_that_fit_one_line_of_http(config, words):
    with pytest.raises(ConfigUnsupported) as caught:
        parse(config)
    message = str(caught.value)
    assert words in message
    assert not set(message) & set("<>\r\n")


def test_the_label_of_one_annotation_is_read():
    assert read_label(SCHEMA, [annotation(1, "dog")]) == Resolved("dog")


def test_no_annotation_means_no_label_and_no_problem():
    assert read_label(SCHEMA, []) == Resolved(None)


def test_cancelled_annotations_never_count_even_with_a_result():
    assert read_label(SCHEMA, [annotation(1, "dog", cancelled=True)]) == Resolved(None)
    assert read_label(SCHEMA, [annotation(1, "dog", cancelled=True, truth=True), annotation(2, "cat")]).label == "cat"


def test_an_empty_annotation_has_no_vote():
    assert read_label(SCHEMA, [annotation(1), annotation(2, "cat"), annotation(3)]).label == "cat"


def test_another_control_is_not_ours():
    assert read_label(SCHEMA, [annotation(1, "dog", control="quality")]) == Resolved(None)


def test_the_majority_decides():
    votes = [annotation(1, "cat"), annotation(2, "dog", minutes=9), annotation(3, "cat", minutes=1)]
    assert read_label(SCHEMA, votes).label == "cat"


def test_the_latest_decides_a_tie_whatever_the_order():
    votes = [annotation(1, "cat", minutes=5), annotation(2, "dog", minutes=3)]
    assert read_label(SCHEMA, votes).label == read_label(SCHEMA, votes[::-1]).label == "cat"


def test_ground_truth_outvotes_everybody():
    votes = [annotation(1, "cat"), annotation(2, "cat"), annotation(3, "dog", truth=True)]
    assert read_label(SCHEMA, votes).label == "dog"


def test_a_label_the_config_lost_is_named_and_the_others_count():
    resolved = read_label(SCHEMA, [annotation(7, "bird"), annotation(8, "cat")])
    assert resolved.label == "cat"
    assert resolved.problem is not None
    assert "bird" in resolved.problem
    assert "7" in resolved.problem
    assert read_label(SCHEMA, [annotation(7, "bird")]).label is None


def test_two_labels_in_one_annotation_are_a_problem_not_a_label():
    resolved = read_label(SCHEMA, [annotation(7, "cat", "dog")])
    assert resolved.label is None
    assert "2 labels" in (resolved.problem or "")


@pytest.mark.parametrize(
    "region", [{}, {"from_name": "label", "type": "choices"}, {"from_name": "label", "value": None}]
)
def test_malformed_regions_are_no_labels(region):
    odd = Annotation(1, 1, (region,), False, False, None, START, START)
    assert read_label(SCHEMA, [odd]) == Resolved(None)


@given(
    labels=some.lists(some.text(min_size=1).filter(str.strip), min_size=2, max_size=6, unique=True), data=some.data()
)
def test_what_is_written_is_read_again(labels, data):
    schema = LabelSchema("image", (Control("label", "choices", "image", tuple(labels)),))
    label = data.draw(some.sampled_from(labels))
    written = Annotation(1, 1, make_result(schema.controls[0], [label], 0.5), False, False, 1, START, START)
    assert read_label(schema, [written]) == Resolved(label)


def test_a_label_that_does_not_exist_cannot_be_written():
    with pytest.raises(LabelUnknown, match="bird"):
        make_result(SCHEMA.controls[0], ["bird"], 0.5)


def test_what_we_write_is_what_label_studio_accepts():
    assert validate(CONFIG, Prediction(1, make_result(SCHEMA.controls[0], ["cat"], 0.9), 0.25, "al-1-x:1")) == []
    assert validate(CONFIG, Prediction(1, (), 0.25, "al-1-x:1")) == []


def test_label_studio_s_objections_are_listed():
    region = make_result(SCHEMA.controls[0], ["cat"], 0.9)[0] | {"value": {"choices": ["bird"]}}
    words = validate(CONFIG, Prediction(1, (region,), 1.5, "al-1-x:1"))
    assert any("Score" in word for word in words)
    assert any("bird" in word for word in words)


@pytest.mark.parametrize(
    ("action", "heavy"),
    [("pass", {"torch", "pandas", "label_studio_sdk"}), ("label_config.warm()", {"torch", "pandas"})],
)
def test_reading_configs_loads_the_sdk_late_and_torch_and_pandas_never(action, heavy):
    code = (
        "from ls_backend.labelstudio import client, images, label_config, publish, wire; import sys; "
        f"{action}; print(sorted({heavy} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


SEVERAL = parse(CONFIG.replace("single", "multiple"))


def test_of_several_choices_each_is_voted_on_and_none_is_an_answer():
    votes = [annotation(1, "dog"), annotation(2, "dog", "cat", minutes=1), annotation(3, "cat", minutes=2)]
    assert SEVERAL.read(read_label(SEVERAL, votes).label) == {"label": ("cat", "dog")}
    assert SEVERAL.read(read_label(SEVERAL, [annotation(1)]).label) == {"label": ()}
    assert read_label(SEVERAL, [annotation(1, "dog", cancelled=True)]) == Resolved(None)
    assert read_label(SEVERAL, []) == Resolved(None)


def test_an_unknown_choice_among_several_is_named_and_the_others_count():
    resolved = read_label(SEVERAL, [annotation(7, "bird", "cat")])
    assert SEVERAL.read(resolved.label) == {"label": ("cat",)}
    assert "'bird'" in resolved.problem


def boxes(number, *labels, **how):
    made = annotation(number, **how)
    regions = tuple(
        {"from_name": "boxes", "to_name": "image", "type": "rectanglelabels", "value": {"rectanglelabels": [label]}}
        for label in labels
    )
    return replace(made, result=made.result + regions)


def test_regions_are_those_of_the_latest_annotation_or_of_the_ground_truth():
    config = view('<RectangleLabels name="boxes" toName="image"><Label value="a"/><Label value="b"/></RectangleLabels>')
    schema = parse(config)
    votes = [boxes(1, "a", "b"), boxes(2, "b", "b", minutes=1), boxes(3, minutes=2, cancelled=True)]
    assert schema.read(read_label(schema, votes).label) == {"boxes": ("b", "b")}
    assert schema.read(read_label(schema, [*votes, boxes(4, truth=True)]).label) == {"boxes": ()}, "nothing here"


def test_what_is_below_the_threshold_is_not_shown():
    schema = parse(CONFIG.replace('choice="single"', 'model_score_threshold="0.7"'))
    assert chosen(schema, (0.4, 0.6)) == ()
    assert [region["value"] for region in chosen(schema, (0.2, 0.8))] == [{"choices": ["dog"]}]


def test_predictions_of_several_controls_are_accepted_by_label_studio():
    config = view(
        f'<Choices name="many" toName="image" choice="multiple">{CHOICES}</Choices>'
        f'<Choices name="one" toName="image">{CHOICES}</Choices>'
    )
    result = chosen(parse(config), (0.9, 0.6, 0.3, 0.7))
    assert [(region["value"]["choices"], region["score"]) for region in result] == [
        (["cat", "dog"], pytest.approx(0.75)),
        (["dog"], 0.7),
    ]
    assert validate(config, Prediction(1, result, 0.5, "al-1-x:1")) == []
    assert chosen(parse(config), (0.2, 0.1, 0.3, 0.7))[0]["from_name"] == "one", "no label, no region"


TEXT = view(f'<Choices name="label" toName="t">{CHOICES}</Choices>', '<Text name="t" value="$review"/>')


def test_choices_on_a_text_are_learned():
    control = Control("label", "choices", "t", ("cat", "dog"))
    assert parse(TEXT) == LabelSchema("review", (control,), "text")
    assert parse(TEXT.replace("<Choices ", '<Choices choice="multiple" ')).controls[0].multiple
    result = chosen(parse(TEXT), (0.2, 0.8))
    assert validate(TEXT, Prediction(1, result, 0.5, "al-1-x:1")) == []


def test_controls_on_another_object_than_the_first_are_left_alone():
    config = view(
        f'<Choices name="one" toName="t">{CHOICES}</Choices><Choices name="two" toName="image">{CHOICES}</Choices>'
        f'<Choices name="three" toName="t">{CHOICES}</Choices>',
        '<Image name="image" value="$x"/><Text name="t" value="$x"/>',
    )
    schema = parse(config)
    assert ([control.name for control in schema.controls], schema.modality) == (["one", "three"], "text")
