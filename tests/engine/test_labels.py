"""Labels as people make them: whatever happened, a model is trained on exactly what Label Studio holds afterwards."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

pytestmark = pytest.mark.e2e


def test_every_label_counts_with_the_next_update(make_lab):
    lab = make_lab(12, labelled=4)
    lab.update()
    for task_id in lab.tasks[4:7]:
        lab.label(task_id)
        lab.update()
        lab.assert_trained_on_what_label_studio_holds()


def test_a_corrected_label_counts_at_once(make_lab):
    lab = make_lab(10)
    annotation = lab.label(*lab.tasks[:6], label="1")
    lab.update()
    lab.client.update_annotation(annotation, result=lab.result_of("0"))
    lab.update()
    assert lab.held_labels()[lab.tasks[5]] == "0"
    lab.assert_trained_on_what_label_studio_holds()


def test_a_withdrawn_label_is_forgotten(make_lab):
    lab = make_lab(10, labelled=5)
    annotation = lab.label(lab.tasks[5])
    lab.update()
    lab.client.delete_annotation(annotation)
    lab.reconcile()
    assert lab.latest.n_labels == 5
    lab.assert_trained_on_what_label_studio_holds()
    assert lab.tasks[5] in lab.queue()


def test_imported_annotations_count(make_lab):
    lab = make_lab(10, labelled=7)
    lab.update()
    assert lab.latest.n_labels == 7
    lab.assert_trained_on_what_label_studio_holds()


def test_tasks_imported_later_join_with_their_labels(make_lab):
    lab = make_lab(8, labelled=5)
    lab.update()
    image = next(iter(lab.images.values()))
    lab.client.import_tasks(lab.pid, [{"data": {"image": image}, "annotations": [{"result": lab.result_of("2")}]}])
    lab.update()
    assert lab.latest.n_labels == 6
    lab.assert_trained_on_what_label_studio_holds()


def test_an_empty_annotation_is_no_label(make_lab):
    lab = make_lab(10, labelled=5)
    lab.client.submit(lab.tasks[5], [])
    lab.update()
    assert lab.latest.n_labels == 5
    lab.assert_trained_on_what_label_studio_holds()
    assert lab.tasks[5] not in lab.queue()


def test_a_skip_that_carries_the_predicted_answer_is_never_learned(make_lab):
    lab = make_lab(10, labelled=5)
    lab.update()
    skipped = lab.queue()[0]
    (shown,) = [
        row["result"]
        for row in lab.client.get("/api/predictions/", {"project": lab.pid})
        if row["task"] == skipped and row["model_version"] == lab.window.version
    ]
    assert shown, "the editor shows a predicted answer"
    lab.client.skip(skipped, result=shown)
    lab.update()
    assert lab.latest.n_labels == 5
    lab.assert_trained_on_what_label_studio_holds()
    assert skipped not in lab.context.store.tasks.available(lab.pid)


def test_an_answer_that_is_skipped_afterwards_is_withdrawn(make_lab):
    lab = make_lab(10, labelled=5)
    annotation = lab.label(lab.tasks[5])
    lab.update()
    assert lab.latest.n_labels == 6
    lab.client.update_annotation(annotation, was_cancelled=True)
    lab.reconcile()
    assert lab.latest.n_labels == 5
    lab.assert_trained_on_what_label_studio_holds()


def test_of_several_annotations_the_majority_counts_and_ground_truth_beats_it(make_lab):
    lab = make_lab(10, labelled=5)
    disputed = lab.tasks[5]
    minority = lab.label(disputed, label="0")
    lab.label(disputed, label="1")
    lab.label(disputed, label="1")
    lab.update()
    assert lab.held_labels()[disputed] == "1"
    lab.assert_trained_on_what_label_studio_holds()
    lab.client.update_annotation(minority, ground_truth=True)
    lab.update()
    assert lab.held_labels()[disputed] == "0"
    lab.assert_trained_on_what_label_studio_holds()


def test_of_two_annotations_that_disagree_the_later_counts(make_lab):
    lab = make_lab(10, labelled=5)
    lab.label(lab.tasks[5], label="0")
    lab.label(lab.tasks[5], label="2")
    lab.update()
    assert lab.held_labels()[lab.tasks[5]] == "2"
    lab.assert_trained_on_what_label_studio_holds()


@pytest.fixture
def reduced(make_lab):
    """A project whose labelling interface lost the class "2" although tasks carry it."""
    lab = make_lab(12, labelled=5)
    lab.orphan = lab.label(lab.tasks[5])
    lab.update()
    assert lab.truth[lab.tasks[5]] == "2"
    lab.configure(("0", "1"))
    lab.update()
    return lab


def test_a_label_the_config_lost_is_named_and_left_out(reduced):
    lab = reduced
    finding = lab.problems("label-unknown")[f"task {lab.tasks[5]}"]
    assert f"Annotation {lab.orphan} holds the label '2'" in finding.message
    assert "Add the label to the labelling interface again" in finding.remedy
    assert lab.latest.classes == ("0", "1")
    lab.assert_trained_on_what_label_studio_holds(classes=("0", "1"))
    assert lab.queue(), "the others are served on"


def test_a_label_that_came_back_counts_again(reduced):
    lab = reduced
    lab.configure()
    lab.update()
    assert lab.problems("label-unknown") == {}
    lab.assert_trained_on_what_label_studio_holds()


def test_a_withdrawn_unknown_label_closes_its_problem(reduced):
    lab = reduced
    lab.client.delete_annotation(lab.orphan)
    lab.reconcile()
    assert f"task {lab.tasks[5]}" not in lab.problems("label-unknown")


def test_a_new_class_makes_a_new_model_at_once(make_lab):
    lab = make_lab(12, labelled=6, retrain_after=50)
    lab.update()
    lab.configure(("0", "1", "2", "3"))
    lab.update()
    assert lab.serving.classes == ("0", "1", "2", "3")
    lab.assert_trained_on_what_label_studio_holds()
    rows = lab.context.store.windows.rows(lab.pid, lab.window.version)
    assert {len(row.probabilities) for row in rows} == {4}, "the order is not the one of a cold start"
    lab.label(lab.tasks[6], label="3")
    lab.settings(min_labels=4)
    lab.update()
    lab.assert_trained_on_what_label_studio_holds(classes=("0", "1", "2", "3"))


def test_a_config_that_cannot_be_learned_is_explained_and_stops_nothing_for_good(make_lab):
    lab = make_lab(12, labelled=5)
    lab.update()
    window = lab.window.version
    labels = '<KeyPointLabels name="eye" toName="image"><Label value="0"/></KeyPointLabels>'
    choices = lab.label_config().removesuffix("</View>").removeprefix("<View>")
    choices = choices.replace("<Choices ", '<Choices perRegion="true" ')
    unsupported = f"<View>{choices}{labels}</View>"
    lab.client.update_project(lab.pid, label_config=unsupported)
    lab.update()
    finding = lab.problems("config-unsupported")["labelling interface"]
    assert "digit is asked for each region" in finding.message
    assert finding.remedy
    assert lab.state().model_version == window, "the order that was published stays"
    lab.label(lab.tasks[6])
    lab.configure()
    lab.update()
    assert lab.problems("config-unsupported") == {}
    lab.assert_trained_on_what_label_studio_holds()


def test_another_image_field_makes_the_images_be_read_again(make_lab):
    lab = make_lab(6)
    others = dict(zip(lab.tasks, [lab.images[task_id] for task_id in reversed(lab.tasks)], strict=True))
    for task_id in lab.tasks:
        lab.client.update_task(task_id, {"image": lab.images[task_id], "photo": others[task_id]})
    lab.update()
    before = {row.task_id: row.content_hash for row in lab.context.store.tasks.images(lab.pid, lab.tasks)}
    # As if all this were long ago: no task has changed since, only the interface has.
    lab.context.store.projects.set(lab.pid, synced_until=datetime.now(UTC) + timedelta(minutes=1))
    lab.configure(field="photo")
    lab.update()
    after = {row.task_id: row.content_hash for row in lab.context.store.tasks.images(lab.pid, lab.tasks)}
    assert after == dict(zip(lab.tasks, [before[task_id] for task_id in reversed(lab.tasks)], strict=True))


def test_deleted_tasks_are_forgotten_with_their_labels(make_lab):
    lab = make_lab(10, labelled=7)
    lab.update()
    lab.client.delete_tasks(lab.pid, lab.tasks[5:8])
    lab.reconcile()
    assert lab.latest.n_labels == 5
    lab.assert_trained_on_what_label_studio_holds()
    assert set(lab.queue()) == set(lab.tasks[8:])
