"""Two versions side by side: what is compared with what, and when figures say nothing about each other."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from scipy.stats import binomtest

from ls_backend.domain import Metrics, ModelVersion
from ls_backend.engine.versions import compare
from ls_backend.errors import SettingsError
from ls_backend.store import DeepVersion, Store

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HEADS = ModelVersion(
    version_id="a",
    project_id=7,
    round=1,
    backbone="b",
    classes=("cat", "dog"),
    questions=(0, 0),
    n_labels=40,
    labels_digest="0" * 64,
    temperature=1.0,
    metrics=Metrics(20, accuracy=0.6, balanced_accuracy=0.5, log_loss=0.7, ece=0.1),
    state="promoted",
    created_at=NOW,
)
DEEP = DeepVersion(
    version_id="d",
    project_id=7,
    control="box",
    kind="rectanglelabels",
    number=1,
    backbone="b",
    classes=("car", "bus"),
    n_labels=40,
    labels_digest="0" * 64,
    metrics={"map50": 0.25, "map50_95": 0.2, "ap50_1": 0.5},
    state="promoted",
    created_at=NOW,
)


@pytest.fixture
def side_by_side(tmp_path):
    """Record versions, and compare two of them."""
    store = Store(f"sqlite:///{tmp_path}/records.sqlite3")
    store.projects.ensure(7)

    def side(found, first, second):
        for item in found:
            (store.deep_versions if isinstance(item, DeepVersion) else store.versions).add(item)
        return compare(store, 7, first, second)

    yield side
    store.dispose()


def figures(made):
    return {figure.name: figure for figure in made.figures}


def test_differences_are_the_second_less_the_first_and_shares_have_the_interval_of_wilson(side_by_side):
    better = replace(HEADS, version_id="b", metrics=replace(HEADS.metrics, accuracy=0.9, log_loss=0.4))
    made = side_by_side([HEADS, better], "a", "b")
    accuracy = figures(made)["accuracy"]
    assert accuracy.difference == pytest.approx(0.3)
    expected = binomtest(18, 20).proportion_ci(method="wilson")
    assert accuracy.second_interval == pytest.approx((expected.low, expected.high))
    loss = figures(made)["log_loss"]
    assert (loss.difference, loss.less_is_better, loss.first_interval) == (pytest.approx(-0.3), True, None)
    assert made.same_tasks


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"labels_digest": "1" * 64}, False),
        ({"metrics": replace(HEADS.metrics, n_holdout=21)}, False),
        ({"metrics": replace(HEADS.metrics, test_set=True)}, False),
    ],
)
def test_the_same_labels_are_held_out_of_the_same_labels_only(side_by_side, changes, same):
    made = side_by_side([HEADS, replace(HEADS, version_id="b", **changes)], "a", "b")
    assert made.same_tasks is same
    assert ("not directly comparable" in made.note) is not same


def test_a_locked_test_set_is_the_same_whatever_was_learnt(side_by_side):
    locked = replace(HEADS, metrics=replace(HEADS.metrics, test_set=True))
    assert side_by_side([locked, replace(locked, version_id="b", labels_digest="1" * 64)], "a", "b").same_tasks


def test_other_labels_make_figures_that_say_nothing(side_by_side):
    made = side_by_side([HEADS, replace(HEADS, version_id="b", classes=("cat", "mouse"))], "a", "b")
    assert "say nothing about each other" in made.note


def test_a_version_that_was_not_measured_has_no_difference(side_by_side):
    made = side_by_side([HEADS, replace(HEADS, version_id="b", metrics=Metrics(0))], "a", "b")
    assert {figure.difference for figure in made.figures} == {None}
    assert "nothing to compare" in made.note


def test_deep_versions_name_the_labels_they_were_measured_on(side_by_side):
    other = replace(DEEP, version_id="e", metrics={"map50": 0.5, "map50_95": 0.2, "ap50_0": 0.1, "ap50_1": 0.4})
    found = figures(side_by_side([DEEP, other], "d", "e"))
    assert list(found) == ["map50", "map50_95", "ap50 of bus", "ap50 of car"]
    assert found["ap50 of bus"].difference == pytest.approx(-0.1)
    assert found["ap50 of car"].first is None


def test_what_does_different_things_is_not_compared(side_by_side):
    with pytest.raises(SettingsError, match="heads and deep version of box"):
        side_by_side([HEADS, DEEP], "a", "d")
    with pytest.raises(SettingsError, match="deep version of box and deep version of area"):
        side_by_side([replace(DEEP, version_id="e", control="area")], "d", "e")
    with pytest.raises(SettingsError, match="'x' is no model version of project 7; the newest are a"):
        side_by_side([], "a", "x")
