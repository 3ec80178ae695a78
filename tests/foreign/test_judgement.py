"""What other people's answers mean for the ranking and for annotators."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ls_backend.domain import Control
from ls_backend.foreign import Answer
from ls_backend.foreign.judgement import judge, shown, uncertainty

NAN = math.nan
PETS = Control("label", "choices", "image", ("Cat", "Dog", "Emu"), aliases=(("tabby", "Cat"), ("Dog", "Dog")))
TAGS = Control("tags", "choices", "image", ("sunny", "windy", "cold"), multiple=True)
BOXES = Control(
    "box", "rectanglelabels", "image", ("car", "bus"), multiple=True, threshold=0.3, aliases=(("taxi", "car"),)
)


def region(labels, score=None, control=PETS):
    more = {} if score is None else {"score": score}
    value = {control.kind: list(labels), "x": 1.0}
    return {"from_name": control.name, "to_name": "image", "type": control.kind, "value": value, **more}


def answer(*regions, score=None):
    return Answer(1, regions, score)


@pytest.mark.parametrize(
    ("given_answer", "row"),
    [
        (answer(region(["Dog"]), score=0.8), [0.1, 0.8, 0.1]),
        (answer(region(["Dog"], 0.6), score=0.9), [0.2, 0.6, 0.2]),  # a region's own word counts before the whole's
        (answer(region(["tabby"]), score=0.5), [0.5, 0.25, 0.25]),
        (answer(region(["emu"]), score=1.0), [0.0, 0.0, 1.0]),
        (answer(region(["Cat"], 0.2), region(["Emu"], 0.7)), [0.15, 0.15, 0.7]),
        (answer(region(["Cat"]), score=0.1), [1 / 3, 1 / 3, 1 / 3]),  # the named one is never less likely than others
        (answer(region(["Cat"])), [NAN] * 3),
        (answer(region(["Horse"]), score=0.9), [NAN] * 3),
        (answer(score=0.9), [NAN] * 3),
        (answer(region(["Cat"], control=TAGS), score=0.9), [NAN] * 3),
    ],
)
def test_a_single_choice_is_a_row_of_probabilities(given_answer, row):
    judgement = judge(given_answer, PETS)
    np.testing.assert_allclose(judgement.probabilities, row, atol=1e-6)
    assert (judgement.probabilities.dtype, judgement.presence.dtype) == (np.float32, np.float32)


@pytest.mark.parametrize(
    ("given_answer", "row"),
    [
        (answer(region(["sunny", "cold"], control=TAGS), score=0.9), [0.9, 0.1, 0.9]),
        (answer(region(["sunny"], 0.9, TAGS), region(["cold"], 0.7, TAGS)), [0.9, 0.2, 0.7]),
        (answer(score=0.75), [0.25, 0.25, 0.25]),
        (answer(), [NAN] * 3),
        (answer(region(["cold"], control=TAGS)), [NAN] * 3),
    ],
)
def test_several_choices_are_a_question_each(given_answer, row):
    np.testing.assert_allclose(judge(given_answer, TAGS).probabilities, row, atol=1e-6)


@pytest.mark.parametrize(
    ("given_answer", "row"),
    [
        (answer(region(["car"], 0.4, BOXES), region(["taxi"], 0.8, BOXES)), [0.8, 0.0]),
        (answer(region(["bus"], control=BOXES), score=0.5), [0.0, 0.5]),
        (answer(score=0.9), [0.0, 0.0]),
        (answer(region(["bus"], control=BOXES)), [NAN, NAN]),
        (answer(), [NAN, NAN]),
    ],
)
def test_regions_say_which_classes_occur(given_answer, row):
    np.testing.assert_allclose(judge(given_answer, BOXES).probabilities, row, atol=1e-6)


def test_presence_is_known_even_where_no_confidence_is():
    named = answer(region(["bus"], control=BOXES))
    np.testing.assert_array_equal(judge(named, BOXES).presence, [0.0, 1.0])
    np.testing.assert_array_equal(judge(answer(), BOXES).presence, [0.0, 0.0])
    np.testing.assert_array_equal(judge(answer(region(["Dog"])), PETS).presence, [0.0, 1.0, 0.0])
    scored = judge(answer(region(["bus"], 0.4, BOXES), region(["car"], control=BOXES)), BOXES)
    np.testing.assert_allclose(scored.presence, [1.0, 0.4], atol=1e-6)


@pytest.mark.parametrize(
    ("given_answer", "expected"),
    [
        (answer(region(["car"], 0.5, BOXES), region(["car"], 0.75, BOXES), score=0.1), 0.375),
        (answer(region(["car"], control=BOXES), region(["car"], 0.75, BOXES)), 0.25),
        (answer(region(["car"], control=BOXES), score=0.9), 0.1),
        (answer(score=0.25), 0.75),
        (answer(region(["car"], control=BOXES)), NAN),
        (answer(region(["car"], 17, BOXES)), NAN),  # a logit is no confidence
        (answer(), NAN),
    ],
)
def test_uncertainty_is_what_the_regions_lack_of_confidence(given_answer, expected):
    assert uncertainty(given_answer) == pytest.approx(expected, nan_ok=True)
    assert judge(given_answer, BOXES).uncertainty == pytest.approx(expected, nan_ok=True)


def test_the_uncertainty_of_a_control_is_that_of_its_own_regions():
    mixed = answer(region(["Cat"], 0.9), region(["car"], 0.5, BOXES))
    assert uncertainty(mixed) == pytest.approx(0.3)
    assert judge(mixed, PETS).uncertainty == pytest.approx(0.1)
    assert judge(mixed, BOXES).uncertainty == pytest.approx(0.5)


def test_labels_the_config_lacks_are_named_once():
    judgement = judge(answer(region(["horse", "Cat"], 0.5), region(["horse"], 0.9), region(["cow"])), PETS)
    assert judgement.unknown == ("horse", "cow")


def test_an_annotator_sees_the_labels_of_the_config_and_nothing_doubtful():
    regions = [
        region(["taxi"], 0.9, BOXES),
        region(["CAR", "taxi", "tram"], 0.8, BOXES),
        region(["car"], 0.2, BOXES),
        region(["tram"], 0.9, BOXES),
        region(["car"], control=BOXES),
        region(["sunny"], 0.9, TAGS),
        {
            "from_name": "box",
            "type": "RectangleLabels",
            "value": {"rectanglelabels": ["bus"]},
            "id": "x",
            "score": "0.7",
        },
        {"from_name": "box", "type": "rectanglelabels", "value": None},
        {"from_name": "box", "type": "rectanglelabels", "value": {"rectanglelabels": "car"}},
    ]
    given_answer = answer(*regions)
    found = shown(given_answer, [PETS, BOXES])
    assert [item["value"]["rectanglelabels"] for item in found] == [["car"], ["car"], ["car"], ["bus"]]
    assert [item.get("score") for item in found] == [0.9, 0.8, None, 0.7]
    assert found[0]["value"]["x"] == 1.0
    assert (found[3]["type"], found[3]["to_name"], found[3]["id"]) == ("rectanglelabels", "image", "x")
    assert regions[0] == region(["taxi"], 0.9, BOXES), "what the model said is not changed"


anything = st.sampled_from(
    [
        None,
        True,
        0.5,
        1,
        -1,
        1e300,
        math.nan,
        "",
        "0.25",
        "Cat",
        [],
        ["Cat"],
        ["car", "car"],
        [None],
        [["Cat"]],
        [{}],
        {},
    ]
)
regions_of_any_kind = st.fixed_dictionaries(
    {
        "from_name": st.sampled_from(["label", "box", "tags", None]),
        "type": st.sampled_from(["choices", "rectanglelabels", 3]),
        "value": anything | st.fixed_dictionaries({"choices": anything, "rectanglelabels": anything}),
        "score": anything,
    }
)


@given(st.lists(regions_of_any_kind, max_size=4), st.none() | st.floats(0, 1))
def test_whatever_a_model_says_is_read_without_an_error_and_within_its_range(regions, score):
    said = Answer(1, tuple(regions), score)
    for control in (PETS, TAGS, BOXES):
        judgement = judge(said, control)
        c = len(control.classes)
        assert judgement.probabilities.shape == judgement.presence.shape == (c,)
        assert ((judgement.presence >= 0) & (judgement.presence <= 1)).all()
        known = judgement.probabilities[~np.isnan(judgement.probabilities)]
        assert ((known >= 0) & (known <= 1)).all()
        if control is PETS and known.size:
            assert known.sum() == pytest.approx(1.0, abs=1e-5)
        assert math.isnan(judgement.uncertainty) or 0 <= judgement.uncertainty <= 1
    assert len(shown(said, [PETS, BOXES])) <= len(regions)
