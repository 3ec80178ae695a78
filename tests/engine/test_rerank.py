"""The order an update makes, from the store alone: what plans are given, and what is left out of the pool and why."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from ls_backend.engine.held import held_now, promised
from ls_backend.strategies import presets


@pytest.mark.parametrize("preset", presets())
def test_every_preset_ranks_a_project(make_desk, preset):
    desk = make_desk(120, preset=preset)
    desk.serve(desk.tasks)
    desk.label(*range(1, 41))
    model = desk.train()
    rows = desk.rank(10, model=model).rows
    assert rows[0].task_id == 41, "somebody has it open, which every method is told"
    assert len({row.task_id for row in rows} - set(range(1, 41))) == 10
    assert [row.rank for row in rows] == list(range(10))
    assert all(row.reason and sum(row.probabilities) == pytest.approx(1, abs=1e-4) for row in rows)
    assert [item.finding.subject for item in desk.context.store.problems.open(desk.pid)] == []


def test_a_costly_mistake_comes_before_a_cheap_one(make_desk):
    desk = make_desk(200, preset="expected_cost", explore=0)
    desk.label(*range(1, 61))
    model = desk.train()
    even = desk.rank(140, model=model).rows
    desk.settings(preset="expected_cost", explore=0, objectives={"value": {"costs": {"8": {"1": 50}}}})
    chosen = desk.rank(140, model=model).rows
    # Brute force: the least expected cost over all answers, from the probabilities of the rows themselves.
    costs = np.ones((10, 10)) - np.eye(10)
    costs[8, 1] = 50
    least = [(np.array(row.probabilities) @ costs).min() for row in chosen]
    assert least == pytest.approx(sorted(least, reverse=True), abs=1e-4)
    assert [row.task_id for row in chosen] != [row.task_id for row in even]


def test_costs_of_a_class_that_does_not_exist_are_reported_and_the_default_plan_ranks(make_desk):
    desk = make_desk(80, preset="expected_cost", objectives={"value": {"costs": {"8": {"eleven": 5}}}})
    desk.label(*range(1, 31))
    rows = desk.rank(5, model=desk.train()).rows
    assert len(rows) == 5
    (finding,) = desk.problems("strategy-error").values()
    assert "eleven" in finding.message
    assert finding.subject == "plan"
    desk.settings(preset="expected_cost")
    desk.rank(5, model=desk.train())
    assert desk.problems("strategy-error") == {}


def test_costs_that_make_every_answer_free_are_reported(make_desk):
    free = {truth: dict.fromkeys("0123456789", 0) for truth in "0123456789"}
    desk = make_desk(80, preset="expected_cost", objectives={"value": {"costs": free}})
    desk.label(*range(1, 31))
    assert len(desk.rank(5, model=desk.train()).rows) == 5
    (finding,) = desk.problems("pool-invalid").values()
    assert "at least one of them above 0" in finding.message


def test_the_task_an_annotator_has_open_stays_in_front_and_what_is_like_it_waits(make_desk):
    desk = make_desk(60, preset="core_set", explore=0)
    twin, other = 51, 52
    # Task 60 becomes a copy of task 51, which somebody is about to hold.
    table = desk.context.store.tasks.rows(desk.pid)
    desk.context.store.tasks.set_content(desk.pid, {60: table.content_hash[twin - 1]})
    desk.serve([1, twin, other, *range(2, 51)])
    before = [row.task_id for row in desk.rank(60).rows]
    desk.label(1)
    rows = desk.rank(60).rows
    after = [row.task_id for row in rows]
    assert promised(desk.context, desk.pid) == [twin]
    assert after[0] == twin
    assert "somebody" in rows[0].reason
    assert after[-1] == 60, "its copy adds nothing any more"
    assert set(after) == set(desk.tasks) - {1}
    assert before[-1] in {60, twin}
    assert desk.view().labelled.task_ids.tolist() == [1], "a promise is no label"


def test_each_annotator_holds_a_task_of_his_own(make_desk):
    desk = make_desk(40)
    desk.serve(range(1, 41))
    desk.label(1, by=1)
    desk.label(2, by=2)
    assert promised(desk.context, desk.pid) == [3, 4]
    assert {task_id for _, task_id in held_now(desk.context, desk.pid)} == {3, 4, 5}
    rows = desk.rank(10).rows
    assert [row.task_id for row in rows[:2]] == [3, 4]
    assert len(rows) == 10


def test_labels_from_before_a_window_hold_nothing_of_it(make_desk):
    desk = make_desk(40)
    desk.serve(range(3, 41), flipped=desk.now + timedelta(milliseconds=500))
    desk.label(1, 2)
    assert promised(desk.context, desk.pid) == []
    assert held_now(desk.context, desk.pid), "a row that may be open is kept all the same: clocks differ"


def test_a_held_task_is_predicted_by_the_model_that_ranks(make_desk):
    desk = make_desk(80)
    desk.serve(range(1, 81))
    desk.label(*range(1, 41))
    model = desk.train()
    seen = desk.view()
    rows = desk.rank(10, model=model).rows
    assert rows[0].task_id == 41
    np.testing.assert_allclose(
        rows[0].probabilities, model.classifier.probabilities(seen.features[40:41])[0], rtol=1e-5
    )


def test_what_the_head_of_an_older_standardiser_says_does_not_change(make_desk):
    from ls_backend.engine.retrain import load

    desk = make_desk(80, preset="bait", explore=0)
    desk.label(*range(1, 41))
    model = desk.train()
    again = load(desk.context, model.version)
    assert again.standardiser is not desk.view().standardiser
    first, second = (desk.rank(10, model=each).rows for each in (model, again))
    assert [row.task_id for row in first] == [row.task_id for row in second]
    for one, same in zip(first, second, strict=True):
        np.testing.assert_allclose(one.probabilities, same.probabilities, atol=1e-3)
