from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
import pytest

from ls_backend.errors import StoreError
from ls_backend.store.insights import Insight


def test_an_insight_comes_back_with_the_moment_it_was_made(store, project):
    before = datetime.now(UTC)
    store.insights.put(project, "map", {"points": [[0.0, 1.0]], "labels": ["Riß 木", None]})
    found = store.insights.get(project, "map")
    assert isinstance(found, Insight)
    assert (found.kind, found.content) == ("map", {"points": [[0.0, 1.0]], "labels": ["Riß 木", None]})
    assert before <= found.made_at <= datetime.now(UTC)
    assert store.insights.get(project, "calibration") is None


def test_a_newer_insight_takes_the_place_of_the_older_one(store, project):
    for number in (1, 2):
        store.insights.put(project, "map", {"number": number})
    assert store.insights.get(project, "map").content == {"number": 2}
    assert list(store.insights.ages(project)) == ["map"]


def test_numbers_json_has_no_word_for_become_null(store, project):
    store.insights.put(project, "map", {"a": math.nan, "b": [np.float32(0.5), math.inf]})
    assert store.insights.get(project, "map").content == {"a": None, "b": [0.5, None]}


def test_the_ages_name_every_kind_there_is(store, project):
    for kind in ("uncertainty", "map", "preview:0badcafe"):
        store.insights.put(project, kind, {})
    ages = store.insights.ages(project)
    assert list(ages) == ["map", "preview:0badcafe", "uncertainty"]
    assert ages["map"] == store.insights.get(project, "map").made_at


def test_projects_keep_apart_and_are_forgotten_apart(store, project):
    other = store.projects.ensure(2).id
    for project_id in (project, other):
        for kind in ("map", "uncertainty"):
            store.insights.put(project_id, kind, {"of": project_id})
    store.insights.drop(project, "map")
    store.insights.drop(project, "no such kind")
    assert list(store.insights.ages(project)) == ["uncertainty"]
    store.insights.forget(project)
    assert store.insights.ages(project) == {}
    assert store.insights.get(other, "map").content == {"of": other}


def test_a_forgotten_project_takes_its_insights_along(store, project):
    store.insights.put(project, "map", {})
    store.projects.forget(project)
    store.projects.ensure(project)
    assert store.insights.ages(project) == {}


def test_an_insight_into_an_unknown_project_is_refused(store):
    with pytest.raises(StoreError, match="refused"):
        store.insights.put(99, "map", {})
