"""What changes in Label Studio behind our back: put right where it is ours, said aloud where it is not."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest

from ls_backend.domain import Finding
from ls_backend.engine import publishing
from ls_backend.engine import reconcile as reconciliation
from ls_backend.engine.reconcile import reconcile
from ls_backend.engine.update import update_project
from ls_backend.errors import Rejected, Unreachable
from ls_backend.labelstudio import label_config

pytestmark = pytest.mark.e2e


def test_nothing_to_do_where_nothing_changed(make_lab):
    lab = make_lab(8, labelled=5)
    lab.update()
    lab.reconcile()
    before = lab.project
    assert not lab.reconcile()
    assert lab.project.wanted_generation == before.wanted_generation
    assert lab.context.store.problems.open(lab.pid) == []


def test_a_sampling_mode_put_back_by_somebody_is_repaired(make_lab):
    lab = make_lab(8, labelled=5)
    lab.update()
    lab.client.update_project(lab.pid, sampling="Sequential sampling")
    lab.reconcile()
    assert lab.state().sampling == "Uncertainty sampling"
    (finding,) = lab.problems("sampling-mode").values()
    assert finding.level == "warning"
    assert "'Sequential sampling'" in finding.message
    assert "put back" in finding.message
    assert lab.client.next_task(lab.pid)["id"] == lab.window.task_ids[0]


def test_a_sampling_mode_of_the_owners_choice_is_only_reported(make_lab):
    lab = make_lab(8, labelled=5, manage_queue=False)
    lab.update()
    lab.client.update_project(lab.pid, sampling="Sequential sampling")
    lab.reconcile()
    assert lab.state().sampling == "Sequential sampling"
    (finding,) = lab.problems("sampling-mode").values()
    assert finding.level == "error"
    assert "manage_queue" in finding.remedy
    lab.client.update_project(lab.pid, sampling="Uncertainty sampling")
    lab.reconcile()
    assert lab.problems("sampling-mode") == {}


def foreign(lab, version):
    """Put predictions of somebody else in force."""
    rows = [{"task": task_id, "result": [], "score": 0.5, "model_version": version} for task_id in lab.tasks]
    lab.client.call("POST", f"/api/projects/{lab.pid}/import/predictions", body=rows)
    lab.client.update_project(lab.pid, model_version=version)


def test_a_foreign_model_version_is_replaced_by_our_window(make_lab):
    lab = make_lab(8, labelled=5)
    lab.update()
    foreign(lab, "somebody-else-1")
    lab.reconcile()
    assert lab.state().model_version == lab.window.version
    assert lab.queue() == [task_id for task_id in lab.window.task_ids if task_id in lab.tasks[5:]]
    (finding,) = lab.problems("model-version").values()
    assert "somebody-else-1" in finding.message
    assert finding.level == "warning"
    assert lab.client.version_counts(lab.pid)["somebody-else-1"] == 8, "what is not ours is never deleted"


def test_a_foreign_model_version_is_only_reported_when_the_queue_is_not_ours(make_lab):
    lab = make_lab(8, labelled=5, manage_queue=False)
    lab.update()
    foreign(lab, "somebody-else-1")
    lab.reconcile()
    assert lab.state().model_version == "somebody-else-1"
    (finding,) = lab.problems("model-version").values()
    assert finding.level == "error"
    assert "manage_queue" in finding.remedy


def test_an_update_leaves_a_foreign_version_alone_when_the_queue_is_not_ours(make_lab):
    lab = make_lab(10, labelled=5, manage_queue=False)
    lab.update()
    foreign(lab, "somebody-else-1")
    lab.label(lab.tasks[5])
    lab.update()
    assert lab.state().model_version == "somebody-else-1"


def test_an_older_window_put_back_by_a_stale_page_is_replaced(make_lab):
    lab = make_lab(10)
    lab.update()
    old = lab.window.version
    rows = [publishing.WindowRow(task_id, rank, None, {}, {}, "") for rank, task_id in enumerate(lab.tasks[::-1])]
    publishing.publish_window(
        lab.context,
        lab.project,
        label_config.parse(lab.project.label_config),
        rows,
        generation=lab.context.store.projects.bump(lab.pid),
        model_version_id=None,
        n_labels=0,
    )
    newer = lab.window.version
    lab.client.update_project(lab.pid, model_version=old)
    reconcile(lab.context, lab.pid)
    assert lab.state().model_version == newer
    assert lab.queue() == lab.tasks[::-1]


def test_predictions_deleted_by_somebody_are_published_again(make_lab):
    lab = make_lab(8, labelled=5)
    lab.update()
    old = lab.window.version
    # As the Predictions page does it, which asks nobody whether they order the queue.
    lab.client.call("DELETE", f"/api/projects/{lab.pid}/model-versions/", body={"model_version": old})
    lab.reconcile()
    assert lab.window.version != old
    assert lab.state().model_version == lab.window.version
    assert set(lab.queue()) == set(lab.tasks[5:])


def test_predictions_switched_off_are_reported_because_the_order_is_lost(make_lab):
    lab = make_lab(8, labelled=5)
    lab.update()
    lab.client.update_project(lab.pid, show_collab_predictions=False)
    lab.reconcile()
    (finding,) = lab.problems("predictions-off").values()
    assert "random order" in finding.message
    assert "Turn it on" in finding.remedy
    lab.client.update_project(lab.pid, show_collab_predictions=True)
    lab.reconcile()
    assert lab.problems("predictions-off") == {}
    assert lab.state().model_version == lab.window.version
    assert set(lab.queue()) == set(lab.tasks[5:])


def test_several_annotations_a_task_are_reported(make_lab):
    lab = make_lab(6)
    lab.client.update_project(lab.pid, maximum_annotations=2)
    lab.reconcile()
    (finding,) = lab.problems("overlap").values()
    assert "2 annotations" in finding.message
    lab.client.update_project(lab.pid, maximum_annotations=1)
    lab.reconcile()
    assert lab.problems("overlap") == {}


def test_a_deleted_webhook_is_made_again_with_its_secret(make_lab):
    lab = make_lab(6)
    lab.reconcile()
    (hook,) = lab.client.webhooks(lab.pid)
    assert hook.headers == {"X-LSB-Secret": "secret"}
    lab.client.delete_webhook(hook.webhook_id)
    lab.label(lab.tasks[0])  # an event that nobody hears
    lab.reconcile()
    (again,) = lab.client.webhooks(lab.pid)
    assert again.webhook_id != hook.webhook_id
    assert again.headers == {"X-LSB-Secret": "secret"}
    assert "webhook-missing" in {item.finding.code for item in lab.context.store.problems.open(lab.pid)}
    assert lab.context.store.tasks.counts(lab.pid).labelled == 1


def test_a_refused_call_stays_in_sight_for_an_hour_and_is_then_over(make_lab, monkeypatch):
    lab = make_lab(6)
    lab.reconcile()
    refused = Finding("webhook-secret", "warning", "webhook", "A webhook call came with no secret header.")
    lab.context.store.problems.report(lab.pid, refused)
    lab.reconcile()
    assert lab.problems("webhook-secret"), "nobody could have read it yet"
    monkeypatch.setattr(reconciliation, "REPAIRED_SHOWN", timedelta(0))
    lab.reconcile()
    assert lab.problems("webhook-secret") == {}


def test_labels_of_events_that_were_lost_are_found(make_lab):
    lab = make_lab(10, labelled=5)
    lab.update()
    lab.label(*lab.tasks[5:8])
    assert lab.reconcile()
    assert lab.latest.n_labels == 8
    lab.assert_trained_on_what_label_studio_holds()


def test_one_task_deleted_and_one_added_is_seen_although_the_counts_agree(make_lab):
    lab = make_lab(8, labelled=5)
    lab.update()
    lab.client.delete_tasks(lab.pid, [lab.tasks[7]])
    (added,) = lab.client.import_tasks(lab.pid, [{"data": {"image": lab.images[lab.tasks[7]]}}])
    lab.reconcile()
    assert lab.context.store.tasks.ids(lab.pid) == {*lab.tasks[:7], added}


def test_a_deleted_project_is_said_and_its_work_stops(make_lab):
    lab = make_lab(6, labelled=4)
    lab.update()
    lab.client.delete_project(lab.pid)
    lab.context.store.projects.bump(lab.pid)
    reconcile(lab.context, lab.pid)
    assert update_project(lab.context, lab.pid) is None
    (finding,) = lab.problems("project-deleted").values()
    assert f"Project {lab.pid} no longer exists" in finding.message
    assert lab.pid not in [project.id for project in lab.context.store.projects.active()]
    assert lab.pid not in lab.context.store.projects.behind()


def test_a_refused_token_changes_nothing_and_is_made_up_for_later(make_lab, make_context):
    lab = make_lab(10, labelled=5)
    lab.update()
    lab.label(lab.tasks[5])
    before = lab.project
    revoked = make_context(lab.context.settings.data_dir, label_studio_api_key="f" * 40)
    for step in (update_project, reconcile):
        with pytest.raises(Rejected) as caught:
            step(revoked, lab.pid)
        assert caught.value.status == 401
        assert "401" in str(caught.value)
        assert "token" in f"{caught.value} {caught.value.hint}".lower()
        assert "f" * 40 not in f"{caught.value} {caught.value.hint}"
    assert lab.project.active
    assert lab.project.window_version == before.window_version
    assert lab.project.wanted_generation > lab.project.done_generation, "the work stays due"
    lab.update()
    lab.assert_trained_on_what_label_studio_holds()


def test_a_label_studio_that_is_down_changes_nothing_and_is_made_up_for_later(make_lab, make_context):
    lab = make_lab(10, labelled=5)
    lab.update()
    lab.label(lab.tasks[5])
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    away = make_context(lab.context.settings.data_dir, label_studio_url=f"http://127.0.0.1:{port}")
    with pytest.raises(Unreachable) as caught:
        update_project(away, lab.pid)
    assert "LABEL_STUDIO_URL" in caught.value.hint
    assert away.store.runs.recent(lab.pid, 1)[0].status == "failed"
    lab.update()
    lab.assert_trained_on_what_label_studio_holds()


def test_predictions_of_an_update_that_died_before_its_record_are_swept_up_and_others_stay(make_lab):
    lab = make_lab(10)
    lab.update()
    row = {"task": lab.tasks[0], "result": [], "score": 0.5}
    for version in ("al-7-0123abcd:99", "somebody-else-1", "al-kept"):
        lab.client.call("POST", f"/api/projects/{lab.pid}/import/predictions", body=[{**row, "model_version": version}])
    publishing.sweep(lab.context, lab.project)
    left = lab.client.version_counts(lab.pid)
    assert set(left) == {lab.window.version, "somebody-else-1", "al-kept"}
