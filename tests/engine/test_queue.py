"""The order as Label Studio serves it: windows published, refilled, fenced and collected."""

from __future__ import annotations

import threading

import pytest

from ls_backend.engine import publishing
from ls_backend.engine.configure import save
from ls_backend.engine.sync import sync
from ls_backend.engine.update import update_project
from ls_backend.labelstudio import label_config

pytestmark = pytest.mark.e2e


def publish(lab, task_ids, *, generation):
    """Publish an order of our own choice, as an update does at its end."""
    rows = [publishing.WindowRow(task_id, rank, None, {}, {}, "chosen") for rank, task_id in enumerate(task_ids)]
    schema = label_config.parse(lab.state().label_config)
    return publishing.publish_window(
        lab.context, lab.project, schema, rows, generation=generation, model_version_id=None, n_labels=0
    )


def test_label_studio_serves_our_order_with_a_score_for_each_task(make_lab):
    lab = make_lab(20, labelled=6)
    lab.update()
    head = lab.client.queue_head(lab.pid, 100)
    scores = [score for _, score in head]
    assert [task_id for task_id, _ in head] == list(lab.window.task_ids)
    assert set(lab.window.task_ids) == set(lab.tasks[6:])
    assert scores == sorted(set(scores)), "two tasks of the same score would be served in random order"
    assert all(0 < score < 1 for score in scores)
    assert lab.client.next_task(lab.pid)["id"] == lab.window.task_ids[0]


def test_every_rank_is_kept_with_its_reason(make_lab):
    lab = make_lab(12, labelled=6)
    lab.update()
    rows = lab.context.store.windows.rows(lab.pid, lab.window.version)
    assert [row.task_id for row in rows] == list(lab.window.task_ids)
    assert all(row.reason for row in rows)
    assert all(sum(row.probabilities) == pytest.approx(1, abs=1e-4) for row in rows)


def test_before_the_first_model_the_order_is_ours_already(make_lab):
    lab = make_lab(12)
    lab.update()
    assert lab.latest is None
    assert lab.window.version.startswith("al-cold:")
    assert lab.queue() == list(lab.window.task_ids)
    assert set(lab.queue()) == set(lab.tasks)


def test_an_update_that_changes_nothing_leaves_the_window_alone(make_lab):
    lab = make_lab(12, labelled=6)
    lab.update()
    before = lab.window.version
    assert update_project(lab.context, lab.pid) is None
    assert lab.window.version == before
    assert lab.state().model_version == before


def test_what_somebody_saves_is_published_also_if_the_next_tasks_stay(make_lab):
    lab = make_lab(12, labelled=6)
    lab.update()
    shown, before = lab.queue()[:3], lab.window.version
    wanted = lab.context.project_settings(lab.project).model_copy(update={"prelabel": False})
    save(lab.context.store, lab.context.settings, lab.pid, wanted, source="dashboard")
    lab.update()
    assert lab.queue()[:3] == shown
    assert lab.window.version != before
    assert not any(_answers(lab))
    assert update_project(lab.context, lab.pid) is None


def test_a_window_that_runs_low_is_refilled(make_lab):
    lab = make_lab(20, labelled=4, window=4, retrain_after=100)
    lab.update()
    first = lab.window
    assert len(first.task_ids) == 4
    lab.label(*first.task_ids[:3])
    lab.update()
    assert lab.window.version != first.version
    assert len(lab.queue()) == 4
    assert first.task_ids[3] in lab.tasks
    assert not set(lab.queue()) & set(first.task_ids[:3])


def test_a_window_longer_than_the_pool_holds_the_whole_pool(make_lab):
    lab = make_lab(8, labelled=4, window=100)
    lab.update()
    assert set(lab.queue()) == set(lab.tasks[4:])


def test_the_last_label_leaves_an_empty_queue_without_a_fault(make_lab):
    lab = make_lab(6, labelled=5)
    lab.update()
    lab.label(*lab.tasks[5:])
    lab.update()
    assert lab.queue() == []
    lab.assert_trained_on_what_label_studio_holds()


def test_without_prelabel_the_order_comes_without_answers(make_lab):
    lab = make_lab(10, labelled=5, prelabel=False)
    lab.update()
    assert _answers(lab) == [[]] * 5
    lab.settings(min_labels=4, prelabel=True, seed=1)
    lab.label(lab.queue()[0])
    lab.update()
    assert len(_answers(lab)) == 4
    assert all(_answers(lab))


def _answers(lab):
    rows = lab.client.get("/api/predictions/", {"project": lab.pid})
    return [row["result"] for row in rows if row["model_version"] == lab.window.version]


def test_a_skipped_task_goes_behind_the_others(make_lab):
    # Label Studio would offer it to the next annotator at once. More than once, because an update may publish for
    # other reasons, too.
    lab = make_lab(12, labelled=4)
    lab.update()
    skipped = set()
    for _ in range(4):
        task_id = lab.queue()[0]
        lab.client.skip(task_id, result=lab.result_of(lab.truth[task_id]))
        skipped.add(task_id)
        lab.update()
        assert set(lab.queue()[-len(skipped) :]) == skipped
        assert set(lab.queue()) == set(lab.tasks[4:])


def test_where_only_skipped_tasks_are_left_an_update_changes_nothing(make_lab):
    lab = make_lab(7, labelled=4)
    for task_id in lab.tasks[4:]:
        lab.client.skip(task_id)
    lab.update()
    before = lab.window.version
    lab.context.store.projects.bump(lab.pid)
    lab.update()
    assert lab.window.version == before
    assert lab.queue() == lab.tasks[4:]


def test_tasks_deleted_between_ranking_and_publishing_are_left_out(make_lab):
    lab = make_lab(10)
    lab.update()
    gone = lab.tasks[2]
    lab.client.delete_tasks(lab.pid, [gone])
    generation = lab.context.store.projects.bump(lab.pid)
    order = lab.tasks[::-1]
    window = publish(lab, order, generation=generation)
    expected = [task_id for task_id in order if task_id != gone]
    assert list(window.task_ids) == expected
    assert lab.queue() == expected
    assert gone not in lab.context.store.tasks.ids(lab.pid)


def test_an_older_update_never_overwrites_a_newer_order(make_lab):
    lab = make_lab(8)
    lab.update()
    older = lab.context.store.projects.bump(lab.pid)
    newer = lab.context.store.projects.bump(lab.pid)
    kept = publish(lab, lab.tasks[::-1], generation=newer)
    for generation in (older, newer):
        with pytest.raises(publishing.Fenced):
            publish(lab, lab.tasks, generation=generation)
    assert lab.state().model_version == kept.version
    assert lab.queue() == lab.tasks[::-1]
    publishing.collect(lab.context, lab.project, budget_s=60, force=True)
    assert set(lab.client.version_counts(lab.pid)) <= {kept.version, "al-kept"}, "the fenced windows were left behind"


def test_two_runs_of_one_update_at_once_publish_one_order(make_lab, make_context):
    lab = make_lab(12, labelled=6)
    lab.update()
    lab.label(lab.queue()[0])
    lab.settings(min_labels=4, preset="random", seed=9)
    lab.context.store.projects.bump(lab.pid)
    twin = make_context(lab.context.settings.data_dir)
    failures = []

    def run(context):
        try:
            update_project(context, lab.pid)
        except Exception as error:  # noqa: BLE001 - shown below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(context,)) for context in (lab.context, twin)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert lab.state().model_version == lab.window.version == lab.project.window_version
    assert lab.queue() == list(lab.window.task_ids)
    known = {window.version for window in lab.context.store.windows.recent(lab.pid, 10)}
    assert set(lab.client.version_counts(lab.pid)) <= known, "a window was imported that nobody will collect"
    lab.assert_trained_on_what_label_studio_holds()


def test_a_submit_that_names_a_prediction_of_an_older_window_is_accepted(make_lab):
    lab = make_lab(20, labelled=6)
    lab.update()
    held = lab.client.next_task(lab.pid)
    old = lab.window
    shown = lab.client.prediction_ids(lab.pid, old.version)
    for _ in range(2):
        publish(lab, lab.tasks[:5:-1], generation=lab.context.store.projects.bump(lab.pid))
    assert publishing.collect(lab.context, lab.project, budget_s=60, force=True) == 2
    assert old.version not in lab.client.version_counts(lab.pid)
    made = lab.label(held["id"], parent_prediction=shown[held["id"]])
    assert made > 0
    assert lab.held_labels()[held["id"]] == lab.truth[held["id"]]


def test_an_answered_task_keeps_its_row_so_that_the_answer_can_be_corrected(make_lab):
    lab = make_lab(20, labelled=6)
    lab.update()
    old = lab.window
    shown = lab.client.prediction_ids(lab.pid, old.version)
    answered = lab.client.next_task(lab.pid)["id"]
    lab.label(answered, parent_prediction=shown[answered])
    lab.update()
    publish(lab, lab.tasks[:6:-1], generation=lab.context.store.projects.bump(lab.pid))
    publishing.collect(lab.context, lab.project, budget_s=60, force=True)
    kept = lab.client.prediction_ids(lab.pid, "al-kept")
    assert kept[answered] == shown[answered]


def test_a_held_task_shown_again_from_the_middle_of_a_later_window_can_be_submitted(make_lab):
    lab = make_lab(30, labelled=6)
    lab.update()
    lab.label(lab.client.next_task(lab.pid)["id"])
    held = lab.client.next_task(lab.pid)["id"]
    lab.update()
    others = [task_id for task_id in lab.queue() if task_id != held]
    publish(lab, [*others[:12], held, *others[12:]], generation=lab.context.store.projects.bump(lab.pid))
    reloaded = lab.client.next_task(lab.pid)
    assert reloaded["id"] == held
    for _ in range(2):
        publish(lab, [*others, held], generation=lab.context.store.projects.bump(lab.pid))
    publishing.collect(lab.context, lab.project, budget_s=60, force=True)
    assert lab.label(held, parent_prediction=reloaded["predictions"][0]["id"]) > 0


def test_kept_rows_never_pile_up_beyond_their_bound_except_those_of_held_tasks(make_lab, monkeypatch):
    lab = make_lab(30, labelled=6)
    lab.update()
    lab.label(lab.client.next_task(lab.pid)["id"])
    held = lab.client.next_task(lab.pid)
    lab.update()
    monkeypatch.setattr(publishing, "KEPT_ROWS", 4)
    others = [task_id for task_id in lab.queue() if task_id != held["id"]]
    for turn in range(5):
        order = [*others[turn:], *others[:turn], held["id"]]
        publish(lab, order, generation=lab.context.store.projects.bump(lab.pid))
        publishing.collect(lab.context, lab.project, budget_s=60, force=True)
    assert lab.client.version_counts(lab.pid)["al-kept"] <= 4 + 4, "two rows are served last, in two windows at most"
    assert lab.label(held["id"], parent_prediction=held["predictions"][0]["id"]) > 0


def test_what_somebody_opened_long_ago_outlives_rows_of_answered_tasks(make_lab, monkeypatch):
    lab = make_lab(40, labelled=6)
    lab.update()
    opened = lab.client.next_task(lab.pid)  # by somebody who has not answered anything
    monkeypatch.setattr(publishing, "KEPT_ROWS", 60)
    for turn in range(12):
        rest = [task_id for task_id in lab.queue() if task_id != opened["id"]]
        lab.label(rest[turn % 3])
        sync(lab.context, lab.pid)
        publish(lab, [*rest, opened["id"]], generation=lab.context.store.projects.bump(lab.pid))
        publishing.collect(lab.context, lab.project, budget_s=60, force=True)
    assert lab.client.version_counts(lab.pid)["al-kept"] == 60, "more were kept, and the surplus is gone"
    assert lab.label(opened["id"], parent_prediction=opened["predictions"][0]["id"]) > 0


def test_old_windows_wait_for_their_grace(make_lab):
    lab = make_lab(10)
    lab.update()
    old = lab.window.version
    publish(lab, lab.tasks[::-1], generation=lab.context.store.projects.bump(lab.pid))
    assert publishing.collect(lab.context, lab.project, budget_s=60) == 0
    assert lab.client.version_counts(lab.pid)[old] == 10


def test_an_old_window_the_owner_put_back_in_force_is_not_collected(make_lab):
    lab = make_lab(8, manage_queue=False)
    lab.update()
    old = lab.window.version
    order = list(lab.window.task_ids)
    publish(lab, lab.tasks[::-1], generation=lab.context.store.projects.bump(lab.pid))
    lab.client.update_project(lab.pid, model_version=old)
    assert publishing.collect(lab.context, lab.project, budget_s=60, force=True) == 0
    assert lab.queue() == order
