"""A test set that is drawn once, labelled first, and known to no model that is measured on it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from ls_backend.engine.retrain import due
from ls_backend.engine.test_set import draw, in_turn, members

WORDS = {"min_labels": 4, "explore": 0}


@pytest.fixture
def make_drawn(make_desk):
    def make(n, **words):
        desk = make_desk(n, **{**WORDS, **words})
        draw(desk.context, desk.project)
        return desk

    return make


def locked(desk):
    return desk.context.store.tasks.test_set(desk.pid)


def test_it_is_drawn_once_and_stays(make_drawn):
    desk = make_drawn(100, test_set=30)
    first = locked(desk)
    assert len(first) == 30
    assert first <= set(desk.tasks)
    desk.settings(**WORDS, test_set=30, seed=5)
    draw(desk.context, desk.project)
    assert locked(desk) == first
    other = make_drawn(100, test_set=30, seed=5)
    assert locked(other) != first, "another seed draws other tasks"
    assert desk.problems("test-set") == {}


def test_it_is_not_drawn_unless_it_is_asked_for(make_drawn):
    desk = make_drawn(40)
    assert locked(desk) == set()
    assert members(desk.context, desk.project) == set()


def test_it_has_every_value_of_a_field_in_its_share(make_desk):
    desk = make_desk(150)
    desk.describe(weather={task_id: "rain" if task_id % 3 == 0 else "sun" for task_id in desk.tasks})
    desk.settings(test_set=30, test_set_by="weather")
    draw(desk.context, desk.project)
    assert Counter("rain" if task_id % 3 == 0 else "sun" for task_id in locked(desk)) == {"rain": 10, "sun": 20}


def test_it_follows_a_target(make_desk):
    desk = make_desk(150)
    desk.describe(weather={task_id: "rain" if task_id % 3 == 0 else "sun" for task_id in desk.tasks})
    desk.settings(test_set=30, test_set_by="weather", test_set_target={"rain": 1, "sun": 1})
    draw(desk.context, desk.project)
    assert Counter("rain" if task_id % 3 == 0 else "sun" for task_id in locked(desk)) == {"rain": 15, "sun": 15}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"test_set": 51}, "51 tasks is asked for, the project has 100"),
        ({"test_set": 20, "test_set_by": "wetter"}, "None of the 100 tasks has the field 'wetter'"),
        ({"test_set": 20, "test_set_by": "digit", "test_set_target": {"eleven": 1}}, "eleven"),
        ({"test_set": 20, "test_set_target": {"3": 1}}, "no field"),
    ],
)
def test_one_that_cannot_be_drawn_is_a_problem_until_it_can(make_drawn, words, expected):
    desk = make_drawn(100, **words)
    (finding,) = desk.problems("test-set").values()
    assert expected in finding.message
    assert finding.remedy
    assert locked(desk) == set()
    desk.label(*range(1, 81))
    assert desk.train().version.metrics.n_holdout > 0, "the hold-out is measured on meanwhile"
    desk.settings(test_set=20)
    draw(desk.context, desk.project)
    assert desk.problems("test-set") == {}
    assert len(locked(desk)) == 20


def test_one_that_should_grow_later_stays_as_it_is_and_says_so(make_drawn):
    desk = make_drawn(100, test_set=10)
    first = locked(desk)
    desk.settings(test_set=20)
    draw(desk.context, desk.project)
    assert locked(desk) == first
    (finding,) = desk.problems("test-set").values()
    assert finding.remedy == "Set test_set to 10."


def test_its_tasks_are_served_first_by_lot_and_without_an_answer(make_drawn):
    desk = make_drawn(60, test_set=12)
    rest = sorted(set(desk.tasks) - locked(desk))
    desk.label(*rest[:20])
    rows = desk.rank(30, model=desk.train()).rows
    first, then = rows[:12], rows[12:]
    assert {row.task_id for row in first} == locked(desk)
    assert [row.task_id for row in first] != sorted(locked(desk))
    assert {row.reason for row in first} == {"part of the test set"}
    assert all(row.probabilities is None for row in first)
    assert len(then) == 18
    assert not {row.task_id for row in then} & locked(desk)
    assert [row.rank for row in rows] == list(range(30))
    desk.label(first[0].task_id)
    again = desk.rank(30).rows
    assert [row.task_id for row in again[:11]] == [row.task_id for row in first[1:]], "the order of the others holds"


def test_the_order_by_lot_is_no_order_of_the_ids():
    # The rank correlation of a fair lot of 2,000 stays within four standard errors.
    places = np.argsort(in_turn(range(2000), seed=0))
    assert abs(np.corrcoef(places, np.arange(2000))[0, 1]) < 4 / np.sqrt(2000)
    assert in_turn(range(50), seed=0) != in_turn(range(50), seed=1)


def test_no_head_knows_its_labels(make_drawn):
    desk = make_drawn(300, test_set=60)
    rest = sorted(set(desk.tasks) - locked(desk))[:80]
    desk.label(*rest, *locked(desk))
    honest = desk.train()
    desk.label(*locked(desk), label="0")
    fooled = desk.train()
    np.testing.assert_array_equal(honest.classifier.heads[0].weights, fooled.classifier.heads[0].weights)
    assert honest.classifier.heads[0].temperature == fooled.classifier.heads[0].temperature
    assert honest.evaluation.heads[0] is honest.classifier.heads[0]
    assert honest.classifier.heads[0].counts.sum() == 80
    assert fooled.version.metrics.accuracy < honest.version.metrics.accuracy


def test_the_metrics_are_those_of_the_served_head_on_it(make_drawn):
    desk = make_drawn(300, test_set=60)
    rest = sorted(set(desk.tasks) - locked(desk))[:80]
    desk.label(*rest, *locked(desk))
    metrics = desk.train().version.metrics
    model = desk.train()
    seen = desk.view()
    rows = np.flatnonzero(np.isin(seen.labelled.task_ids, list(locked(desk))))
    answers = model.classifier.probabilities(seen.labelled.features[rows]).argmax(axis=1)
    assert metrics.n_holdout == 60
    assert metrics.test_set
    assert metrics.accuracy == pytest.approx(accuracy_score(seen.labelled.targets[rows].argmax(axis=1), answers))
    assert desk.context.store.versions.latest(desk.pid).metrics == metrics


def test_an_estimate_of_part_of_it_is_there_before_all_is_labelled(make_drawn):
    desk = make_drawn(200, test_set=40)
    rest = sorted(set(desk.tasks) - locked(desk))[:30]
    desk.label(*rest, *in_turn(locked(desk), 0)[:10])
    assert desk.train().version.metrics.n_holdout == 10


def test_switching_it_on_or_off_calls_for_a_new_model_that_the_gate_does_not_compare(make_desk):
    desk = make_desk(300, **WORDS)
    desk.label(*range(1, 121))
    before = desk.train()
    assert not before.version.metrics.test_set
    assert not wants_a_model(desk, before)
    desk.settings(**WORDS, test_set=100)
    draw(desk.context, desk.project)
    assert any(task_id <= 120 for task_id in locked(desk)), "it is drawn from the labelled tasks, too"
    assert wants_a_model(desk, before)
    after = desk.train()
    assert after.version.state == "promoted"
    assert after.version.metrics.test_set
    assert after.classifier.heads[0].counts.sum() == 120 - sum(task_id <= 120 for task_id in locked(desk))
    desk.settings(**WORDS)
    assert wants_a_model(desk, after)
    again = desk.train()
    assert again.version.state == "promoted"
    assert again.classifier.heads[0].counts.sum() == 120


def wants_a_model(desk, serving):
    return due(desk.context, desk.project, desk.schema, desk.view().labelled, serving.version)


def test_its_labels_do_not_count_towards_the_first_model_nor_as_known_to_it(make_drawn):
    desk = make_drawn(100, test_set=20, preset="core_set", min_labels=10)
    desk.label(*locked(desk))
    labelled = desk.view().labelled
    assert len(labelled.task_ids) == 20
    assert len(labelled.learnt) == 0
    assert not due(desk.context, desk.project, desk.schema, labelled, None)
    bare = make_drawn(100, test_set=20, preset="core_set", min_labels=10)
    assert [row.task_id for row in desk.rank(10).rows] == [row.task_id for row in bare.rank(30).rows][20:]


def test_a_deleted_task_leaves_it(make_drawn):
    desk = make_drawn(60, test_set=10)
    gone = min(locked(desk))
    desk.context.store.tasks.delete(desk.pid, [gone])
    assert len(locked(desk)) == 9
    assert gone not in locked(desk)
