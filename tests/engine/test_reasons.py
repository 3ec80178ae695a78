"""Reasons in the task data of a real Label Studio."""

from __future__ import annotations

import pytest

from ls_backend.engine.reasons import due, remove, show_header, shown, write
from ls_backend.engine.rerank import HELD
from ls_backend.labelstudio.reason_header import FIELD, HEADER

pytestmark = pytest.mark.e2e
LONG_S = 60.0


def said(lab):
    """Task id -> reason as Label Studio holds it."""
    data = {task.task_id: task.data for task in lab.client.tasks(lab.pid)}
    return {task_id: fields[FIELD] for task_id, fields in data.items() if FIELD in fields}


def ranked(lab):
    """Task id -> reason as we have it, of the tasks that wait."""
    waiting = lab.context.store.tasks.available(lab.pid)
    rows = lab.context.store.windows.rows(lab.pid, lab.window.version)
    return {row.task_id: row.reason for row in rows if row.task_id in waiting}


def open_now(lab):
    rows = lab.context.store.windows.rows(lab.pid, lab.window.version)
    return {row.task_id for row in rows if row.reason == HELD}


def write_all(lab):
    write(lab.context, lab.pid, budget_s=LONG_S)
    assert not due(lab.context.store, lab.pid)


def test_reasons_are_written_for_the_window_only_and_nothing_else_is_changed(make_lab):
    lab = make_lab(20, labelled=6, window=5, reasons=True)
    lab.client.update_task(lab.tasks[10], {"image": lab.images[lab.tasks[10]], "mine": {"deep": [1, None]}})
    before = {task.task_id: task.data for task in lab.client.tasks(lab.pid)}
    lab.update()
    assert due(lab.context.store, lab.pid)
    write_all(lab)
    assert said(lab) == ranked(lab)
    assert len(said(lab)) == 5
    after = {task.task_id: task.data for task in lab.client.tasks(lab.pid)}
    assert {key: {k: v for k, v in data.items() if k != FIELD} for key, data in after.items()} == before


def test_reasons_follow_the_window_and_leave_labelled_tasks(make_lab):
    lab = make_lab(20, labelled=6, window=5, reasons=True)
    lab.update()
    write_all(lab)
    first = lab.window
    for task_id in first.task_ids[:3]:
        lab.label(task_id)
    lab.context.store.projects.bump(lab.pid)
    lab.update()
    assert lab.window.version != first.version
    assert due(lab.context.store, lab.pid)
    write_all(lab)
    expected = ranked(lab)
    assert not set(said(lab)) & set(first.task_ids[:3])
    assert {key: text for key, text in said(lab).items() if key not in open_now(lab)} == {
        key: text for key, text in expected.items() if text != HELD
    }


def test_what_somebody_has_open_is_left_alone(make_lab):
    lab = make_lab(20, labelled=6, window=5, reasons=True)
    lab.update()
    lab.label(lab.window.task_ids[0])
    lab.context.store.projects.bump(lab.pid)
    lab.update()
    (held,) = open_now(lab)
    write_all(lab)
    assert held not in said(lab)
    assert set(said(lab)) == set(ranked(lab)) - {held}


def test_our_own_writing_asks_for_no_update(make_lab):
    lab = make_lab(20, labelled=6, window=5, reasons=True)
    lab.update()
    lab.reconcile()
    write_all(lab)
    runs = len(lab.context.store.runs.recent(lab.pid, 100))
    version = lab.window.version
    for _ in range(3):
        assert not lab.reconcile()
        assert not due(lab.context.store, lab.pid)
    assert len(lab.context.store.runs.recent(lab.pid, 100)) == runs
    assert lab.window.version == version
    assert not lab.problems("image-unreadable")


def test_a_change_by_the_owner_is_kept_and_still_asks_for_an_update(make_lab):
    lab = make_lab(20, labelled=6, window=5, reasons=True)
    lab.update()
    lab.reconcile()
    first, last = lab.window.task_ids[0], lab.window.task_ids[-1]
    lab.client.update_task(first, {"image": lab.images[first], "site": "changed behind our back"})
    write_all(lab)
    data = lab.client.some_tasks(lab.pid, [first])[first].data
    assert data == {"image": lab.images[first], "site": "changed behind our back", FIELD: ranked(lab)[first]}
    assert lab.reconcile(), "the owner's change was taken for ours"
    assert lab.context.store.tasks.data(lab.pid, [first])[first]["site"] == "changed behind our back"
    lab.client.submit(last, lab.result_of(lab.truth[last]))
    assert lab.reconcile(), "a label was taken for a change of ours"


def test_a_run_that_is_cut_short_has_done_the_next_tasks_and_is_due_again(make_lab):
    lab = make_lab(20, labelled=6, window=5, reasons=True)
    lab.update()
    for n in (1, 2):
        assert write(lab.context, lab.pid, budget_s=0.0) == 1
        assert set(said(lab)) == set(lab.window.task_ids[:n])
        assert due(lab.context.store, lab.pid)
    write_all(lab)
    assert said(lab) == ranked(lab)


def test_a_reason_that_a_late_read_has_hidden_is_found_by_a_comparison(make_lab):
    lab = make_lab(20, labelled=6, window=5, reasons=True)
    lab.update()
    late = lab.tasks[-1] if lab.tasks[-1] not in lab.window.task_ids else lab.tasks[-2]
    write_all(lab)
    lab.client.update_task(late, {"image": lab.images[late], FIELD: "of an earlier window"})
    lab.reconcile()
    assert due(lab.context.store, lab.pid)
    write_all(lab)
    assert late not in said(lab)
    lab.reconcile()
    assert not due(lab.context.store, lab.pid)


def test_turning_the_setting_off_takes_every_reason_back(make_lab):
    lab = make_lab(20, labelled=6, window=5, reasons=True)
    lab.update()
    write_all(lab)
    lab.settings(min_labels=4, window=5)
    assert due(lab.context.store, lab.pid)
    write_all(lab)
    assert said(lab) == {}


def test_without_the_setting_no_task_is_touched(make_lab):
    lab = make_lab(20, labelled=6, window=5)
    lab.update()
    assert not due(lab.context.store, lab.pid)


def test_reasons_removed_for_an_export_stay_away_until_the_next_update(make_lab):
    lab = make_lab(20, labelled=6, window=5, reasons=True)
    lab.update()
    write_all(lab)
    assert remove(lab.context, lab.pid) == 5
    assert said(lab) == {}
    lab.reconcile()
    assert not due(lab.context.store, lab.pid)
    exported = lab.client.get(f"/api/projects/{lab.pid}/export", {"exportType": "JSON", "download_all_tasks": "true"})
    assert [sorted(task["data"]) for task in exported] == [["image"]] * 20
    lab.context.store.projects.bump(lab.pid)
    lab.update()
    assert due(lab.context.store, lab.pid)


def test_the_header_is_put_in_on_request_and_missed_when_reasons_are_on(make_lab):
    lab = make_lab(12, labelled=6, window=5, reasons=True)
    config = lab.state().label_config
    lab.update()
    lab.reconcile()
    (finding,) = lab.problems("reasons-no-header").values()
    assert finding.level == "warning"
    assert "--add-header" in finding.remedy
    assert lab.state().label_config == config
    assert show_header(lab.context, lab.pid, wanted=True)
    assert not show_header(lab.context, lab.pid, wanted=True)
    assert lab.state().label_config.replace(HEADER, "") == config
    version = lab.serving.version_id
    lab.reconcile()
    assert lab.problems("reasons-no-header") == {}
    assert lab.serving.version_id == version, "the header made another model"
    assert shown(lab.context, lab.pid).header
    assert show_header(lab.context, lab.pid, wanted=False)
    assert lab.state().label_config == config


def test_tasks_deleted_meanwhile_stop_nobody(make_lab):
    lab = make_lab(20, labelled=6, window=5, reasons=True)
    lab.update()
    gone, *rest = lab.window.task_ids
    lab.client.delete_tasks(lab.pid, [gone])
    write_all(lab)
    assert set(said(lab)) == set(rest)
