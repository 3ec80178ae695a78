"""When a model is trained, what it is measured on, and which one serves."""

from __future__ import annotations

from collections import Counter

import pytest

from ls_backend.engine.rollback import release, rollback
from ls_backend.errors import SettingsError

pytestmark = pytest.mark.e2e


def holdout(lab):
    """Class -> hold-out tasks."""
    members = {}
    for task in lab.context.store.tasks.labelled(lab.pid):
        if task.holdout:
            members.setdefault(task.label, set()).add(task.task_id)
    return members


def test_no_model_before_there_are_enough_labels(make_lab):
    lab = make_lab(12, labelled=5, min_labels=6)
    lab.update()
    assert lab.latest is None
    assert lab.queue() == list(lab.window.task_ids)
    lab.label(lab.tasks[5])
    lab.update()
    lab.assert_trained_on_what_label_studio_holds()
    assert lab.latest.n_labels == 6


def test_one_class_alone_is_too_little_and_said_so(make_lab):
    lab = make_lab(12)
    lab.label(*lab.tasks[:5], label="1")
    lab.update()
    (finding,) = lab.problems("too-few-labels").values()
    assert "class" in finding.message
    assert finding.remedy
    assert lab.latest is None
    assert set(lab.queue()) == set(lab.tasks[5:])
    lab.label(lab.tasks[5], label="0")
    lab.update()
    assert lab.problems("too-few-labels") == {}
    lab.assert_trained_on_what_label_studio_holds()


def test_labels_wait_until_there_are_enough_for_a_retrain_and_then_all_count(make_lab):
    lab = make_lab(14, labelled=5, retrain_after=3)
    lab.update()
    first = lab.latest.version_id
    lab.label(*lab.tasks[5:7])
    lab.update()
    assert lab.latest.version_id == first
    assert not set(lab.queue()) & set(lab.tasks[:7]), "labelled tasks leave the queue all the same"
    lab.label(lab.tasks[7])
    lab.update()
    assert lab.latest.n_labels == 8
    lab.assert_trained_on_what_label_studio_holds()


def test_the_same_labels_train_no_second_model(make_lab):
    lab = make_lab(10, labelled=5)
    lab.update()
    lab.context.store.projects.bump(lab.pid)
    lab.update()
    assert len(lab.context.store.versions.list(lab.pid)) == 1


def test_the_holdout_takes_its_share_of_every_class_and_never_gives_back(make_lab):
    lab = make_lab(40, labelled=15, holdout=0.3)
    lab.update()
    before = holdout(lab)
    assert {label: len(tasks) for label, tasks in before.items()} == {"0": 1, "1": 1, "2": 1}  # 5 of each
    lab.label(*lab.tasks[15:27])
    lab.update()
    after = holdout(lab)
    counts = Counter(lab.held_labels().values())
    assert counts == {"0": 9, "1": 9, "2": 9}
    assert {label: len(tasks) for label, tasks in after.items()} == {"0": 2, "1": 2, "2": 2}
    for label, tasks in before.items():
        assert tasks <= after[label]
    assert lab.latest.metrics.n_holdout == 6
    lab.assert_trained_on_what_label_studio_holds()


def test_a_read_of_everything_keeps_the_holdout(make_lab):
    from ls_backend.engine.sync import sync

    lab = make_lab(30, labelled=24, holdout=0.25)
    lab.update()
    before = holdout(lab)
    assert sum(map(len, before.values())) == 6
    sync(lab.context, lab.pid, rebuild=True)
    assert holdout(lab) == before


def test_a_version_that_got_worse_does_not_serve(make_lab):
    lab = make_lab(60, labelled=48, holdout=0.5)
    lab.update()
    good = lab.serving
    assert good.metrics.n_holdout >= 20
    assert good.metrics.accuracy > 0.8, "three classes of digits are easy"
    members = set().union(*holdout(lab).values())
    annotations = lab.client.annotations(lab.pid)
    wrong = {"0": "1", "1": "2", "2": "0"}
    for task_id in sorted(set(lab.tasks[:48]) - members):
        (annotation,) = annotations[task_id]
        lab.client.update_annotation(annotation.annotation_id, result=lab.result_of(wrong[lab.truth[task_id]]))
    lab.update()
    assert lab.latest.state == "rejected"
    assert lab.serving == good
    assert lab.window.model_version_id == good.version_id
    lab.assert_trained_on_what_label_studio_holds()
    for task_id in sorted(set(lab.tasks[:48]) - members):
        (annotation,) = annotations[task_id]
        lab.client.update_annotation(annotation.annotation_id, result=lab.result_of(lab.truth[task_id]))
    lab.label(lab.tasks[48])
    lab.update()
    assert lab.latest.state == "promoted"
    assert lab.serving == lab.latest
    lab.assert_trained_on_what_label_studio_holds()


def test_an_earlier_version_serves_until_it_is_released(make_lab):
    lab = make_lab(16, labelled=5)
    lab.update()
    first = lab.serving.version_id
    lab.label(lab.tasks[5])
    lab.update()
    second = lab.serving.version_id
    assert rollback(lab.context.store, lab.pid).version_id == first
    lab.update()
    assert lab.serving.version_id == first
    lab.label(lab.tasks[6])
    lab.update()
    assert lab.serving.version_id == first
    lab.assert_trained_on_what_label_studio_holds()  # it goes on learning meanwhile
    third = lab.latest.version_id
    assert third not in {first, second}
    release(lab.context.store, lab.pid)
    lab.update()
    assert lab.serving.version_id == third


def test_a_pinned_version_ranks(make_lab):
    lab = make_lab(16, labelled=5)
    lab.update()
    first = lab.serving.version_id
    lab.settings(min_labels=4, preset="random")  # an order that knows no model: it is the same with either
    lab.label(*lab.tasks[5:8])
    lab.update()
    second = lab.serving.version_id
    assert lab.window.version.startswith(f"{second}:")
    rollback(lab.context.store, lab.pid, to=first)
    lab.update()
    assert lab.window.model_version_id == first
    assert lab.window.version.startswith(f"{first}:")
    release(lab.context.store, lab.pid)
    lab.update()
    assert lab.window.version.startswith(f"{second}:")


def test_a_version_that_was_trained_while_another_was_pinned_is_shown_once_that_is_released(make_lab):
    lab = make_lab(16, labelled=5)
    lab.settings(min_labels=4, preset="random")  # an order that knows no model: nothing but the release changes it
    lab.update()
    first = lab.serving.version_id
    rollback(lab.context.store, lab.pid, to=first)
    lab.update()
    lab.label(*lab.tasks[5:8])
    lab.update()
    assert lab.window.version.startswith(f"{first}:")
    release(lab.context.store, lab.pid)
    lab.update()
    assert lab.serving.version_id != first
    assert lab.window.version.startswith(f"{lab.serving.version_id}:")


def test_a_rollback_to_nothing_is_refused_with_what_there_is(make_lab):
    lab = make_lab(10, labelled=5)
    with pytest.raises(SettingsError, match="nothing to go back to"):
        rollback(lab.context.store, lab.pid)
    lab.update()
    with pytest.raises(SettingsError, match=lab.serving.version_id):
        rollback(lab.context.store, lab.pid, to="al-99-00000000")
