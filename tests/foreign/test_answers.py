"""Entries of a model's answer, read one by one."""

from __future__ import annotations

import math

import pytest

from ls_backend.foreign.answers import Answer, Failure, read_entry, score_of


@pytest.mark.parametrize(
    ("value", "score"),
    [
        *((0.5, 0.5), (1, 1.0), (0, 0.0), ("0.25", 0.25)),
        *((odd, None) for odd in (1.7, -3.2, 95, math.nan, math.inf, True, "high", None, [0.5])),
    ],
)
def test_only_a_confidence_is_taken_for_one(value, score):
    assert score_of({"score": value}) == score


def test_of_alternatives_the_surest_is_taken_and_the_first_of_equals():
    entries = [{"result": [], "model_version": "x"}, {"result": [], "score": 0.2, "model_version": "y"}]
    assert read_entry(1, entries).model_version == "y"
    assert read_entry(1, [entries[0], dict(entries[0], model_version="z")]).model_version == "x"
    assert read_entry(1, []) == Answer(1, (), None)


@pytest.mark.parametrize("entry", [None, 3, "text", {"result": "text"}, {"result": [1]}, [[{}]], [None]])
def test_what_cannot_be_read_is_a_failure_of_its_task(entry):
    found = read_entry(5, entry)
    assert isinstance(found, Failure)
    assert (found.task_id, found.kind) == (5, "wrong-shape")
    assert "expected an object" in found.message
