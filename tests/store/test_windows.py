from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from ls_backend.errors import StoreError
from ls_backend.store import WindowRow, windows

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def rows_for(task_ids):
    return [
        WindowRow(task_id, rank, 0.9 - rank / 10, {"doubt": 0.5}, {"doubt": 3.1}, "margin 0.04 (3.1x)", (0.25, 0.75))
        for rank, task_id in enumerate(task_ids)
    ]


def test_a_window_comes_back_in_its_order_with_its_reasons(store, project, make_window):
    window = make_window("al-1-0badcafe:1", task_ids=(30, 2, 7))
    store.windows.add(window, rows_for(window.task_ids))
    assert store.windows.get(project, window.version) == window
    assert store.windows.rows(project, window.version) == rows_for(window.task_ids)
    assert store.windows.get(project, "al-none:1") is None


def test_a_window_without_reasons_keeps_its_order(store, project, make_window):
    store.windows.add(make_window("al-cold:1", task_ids=(3, 1)))
    store.windows.add(make_window("al-cold:2", task_ids=()))
    assert [(row.task_id, row.utility) for row in store.windows.rows(project, "al-cold:1")] == [(3, None), (1, None)]
    assert store.windows.get(project, "al-cold:2").task_ids == ()


def test_reasons_for_other_tasks_are_refused(store, project, make_window):
    with pytest.raises(StoreError, match="one reason for each task"):
        store.windows.add(make_window("al-cold:1", task_ids=(1, 2)), rows_for((2, 1)))
    assert store.windows.recent(project, 5) == []


def test_numpy_numbers_and_nan_are_stored_as_json_can_hold_them(store, project, make_window):
    row = WindowRow(3, 0, np.float32(0.5), {"a": math.nan, "b": np.float64(0.1)}, {"b": math.inf}, "", np.array([0.5]))
    store.windows.add(make_window("al-cold:1", task_ids=(3,)), [row])
    (found,) = store.windows.rows(project, "al-cold:1")
    assert (found.utility, found.factors, found.ratios) == (0.5, {"a": None, "b": 0.1}, {"b": None})
    assert found.probabilities == (0.5,)


def test_a_flip_puts_one_window_in_force_and_replaces_every_other(store, project, make_window):
    for number in (1, 2, 3, 4):
        store.windows.add(make_window(f"al-cold:{number}"))
    store.projects.set(project, pending_version="al-cold:3")
    assert store.windows.in_force(project) is None

    store.windows.flipped(project, "al-cold:1", NOON)
    store.windows.flipped(project, "al-cold:3", NOON + timedelta(seconds=5))

    assert store.windows.in_force(project).version == "al-cold:3"
    assert store.windows.in_force(project).flipped_at == NOON + timedelta(seconds=5)
    assert [one.version for one in store.windows.old(project)] == ["al-cold:1", "al-cold:2"], "2 was never flipped"
    assert store.windows.get(project, "al-cold:1").replaced_at == NOON + timedelta(seconds=5)
    assert store.windows.get(project, "al-cold:4").replaced_at is None, "4 may be on its way to Label Studio"
    state = store.projects.get(project)
    assert (state.window_version, state.pending_version) == ("al-cold:3", None)


def test_flipping_back_to_an_older_window_puts_it_in_force_again(store, project, make_window):
    for number in (1, 2):
        store.windows.add(make_window(f"al-cold:{number}"))
        store.windows.flipped(project, f"al-cold:{number}", NOON)
    store.windows.flipped(project, "al-cold:1", NOON)
    assert store.windows.in_force(project).version == "al-cold:1"
    assert [one.version for one in store.windows.old(project)] == ["al-cold:2"]


def test_a_window_that_could_not_be_published_can_be_given_up(store, project, make_window):
    store.windows.add(make_window("al-cold:1"))
    store.windows.replaced(project, "al-cold:1", NOON)
    store.windows.replaced(project, "al-cold:1", NOON + timedelta(seconds=9))
    (old,) = store.windows.old(project)
    assert old.replaced_at == NOON


def test_collected_windows_leave_only_their_kept_rows(store, project, make_window):
    for number, task_ids in ((1, (1, 2, 3)), (2, (4, 5)), (3, (6,))):
        store.windows.add(make_window(f"al-cold:{number}", task_ids=task_ids))
        store.windows.flipped(project, f"al-cold:{number}", NOON)
    assert store.windows.count_old_rows(project) == 5

    store.windows.collected(project, "al-cold:1", {2: 200, 1: 100}, NOON)
    store.windows.collected(project, "al-cold:2", {}, NOON + timedelta(seconds=5))

    assert store.windows.old(project) == []
    assert store.windows.count_old_rows(project) == 2
    assert store.windows.kept_rows(project, NOON) == []
    kept = store.windows.kept_rows(project, NOON + timedelta(seconds=1))
    assert [(row.prediction_id, row.task_id, row.version) for row in kept] == [
        (100, 1, "al-cold:1"),
        (200, 2, "al-cold:1"),
    ]
    store.windows.forget_kept(project, [100, 999])
    assert store.windows.count_old_rows(project) == 1


def test_collecting_twice_is_harmless(store, project, make_window):
    store.windows.add(make_window("al-cold:1"))
    for _ in range(2):
        store.windows.collected(project, "al-cold:1", {1: 100}, NOON)
    assert store.windows.count_old_rows(project) == 1


def test_recent_windows_come_newest_first_with_their_tasks(store, project, make_window):
    for number in range(1, 13):
        store.windows.add(make_window(f"al-cold:{number}", task_ids=(number,)))
    recent = store.windows.recent(project, 3)
    assert [(one.version, one.task_ids) for one in recent] == [
        ("al-cold:12", (12,)),
        ("al-cold:11", (11,)),
        ("al-cold:10", (10,)),
    ]


def test_reasons_of_windows_long_gone_are_dropped_and_the_history_stays(store, project, make_window, monkeypatch):
    monkeypatch.setattr(windows, "REASONS_KEPT", 2)
    for number in range(1, 6):
        store.windows.add(make_window(f"al-cold:{number}"))
    for number in (1, 2, 4):
        store.windows.collected(project, f"al-cold:{number}", {}, NOON)
    left = {number: len(store.windows.rows(project, f"al-cold:{number}")) for number in range(1, 6)}
    assert left == {1: 0, 2: 0, 3: 3, 4: 3, 5: 3}
    assert len(store.windows.recent(project, 9)) == 5


def test_two_projects_may_use_the_same_version_string(store, project, make_window):
    store.projects.ensure(2)
    store.windows.add(make_window("al-cold:1", task_ids=(1,)))
    store.windows.add(make_window("al-cold:1", task_ids=(8, 9), project_id=2))
    store.windows.flipped(2, "al-cold:1", NOON)
    assert store.windows.in_force(project) is None
    assert store.windows.in_force(2).task_ids == (8, 9)


def test_a_version_is_published_once(store, project, make_window):
    store.windows.add(make_window("al-cold:1"))
    with pytest.raises(StoreError, match="refused"):
        store.windows.add(replace(make_window("al-cold:1"), generation=2))


@pytest.mark.parametrize("call", ["flipped", "replaced", "collected"])
def test_an_unknown_window_is_named(store, project, call):
    extra = ({},) if call == "collected" else ()
    with pytest.raises(StoreError, match="no window al-cold:9"):
        getattr(store.windows, call)(project, "al-cold:9", *extra, NOON)


def test_places_and_what_is_left_are_told_without_reading_the_whole_window(
    store, project, make_window, make_task, make_annotation
):
    window = make_window("al-1-0badcafe:1", task_ids=(30, 2, 7, 9))
    store.windows.add(window, rows_for(window.task_ids))
    labelled = make_task(2, annotations=(make_annotation(5, 2),))
    skipped = make_task(7, annotations=(make_annotation(6, 7, cancelled=True),))
    store.tasks.upsert(project, [make_task(30), labelled, skipped], image_field="image")
    reasons = {row.task_id: row.reason for row in rows_for(window.task_ids)}
    assert store.windows.places(project, window.version, [7, 30, 4]) == {7: (2, reasons[7]), 30: (0, reasons[30])}
    assert store.windows.places(project, "al-none:1", [7]) == {}
    assert store.windows.left(project, window.version) == (1, 4), "9 is gone, 2 is labelled, 7 was skipped"
    assert store.windows.left(project, "al-none:1") == (0, 0)


def test_what_is_ahead_comes_in_order_without_what_is_labelled_skipped_or_gone(
    store, project, make_window, make_task, make_annotation
):
    window = make_window("al-1-0badcafe:1", task_ids=(30, 2, 7, 9, 4))
    rows = rows_for(window.task_ids)
    store.windows.add(window, rows)
    labelled = make_task(2, annotations=(make_annotation(5, 2),))
    skipped = make_task(7, annotations=(make_annotation(6, 7, cancelled=True),))
    store.tasks.upsert(project, [make_task(30), labelled, skipped, make_task(4), make_task(8)], image_field="image")
    assert store.windows.ahead(project, window.version, 10) == [
        row for row in store.windows.rows(project, window.version) if row.task_id in (30, 4)
    ]
    assert [row.task_id for row in store.windows.ahead(project, window.version, 1)] == [30]
    assert store.windows.ahead(project, "al-none:1", 10) == []
