"""Everything but Label Studio's own data lost: it is made again from there."""

from __future__ import annotations

import shutil

import pytest

from ls_backend.engine import publishing
from ls_backend.engine.sync import sync

pytestmark = pytest.mark.e2e


@pytest.fixture
def lived(make_lab, make_context):
    """A project with a history of its own data folder: two models, three windows, labels of people."""
    context = make_context()
    lab = make_lab(14, labelled=5, context=context)
    lab.update()
    for task_id in lab.tasks[5:7]:
        lab.label(task_id)
        lab.update()
    return lab


def lose(lab, make_context, *, what):
    """End the engine, delete files, start it again and connect the project as /setup does."""
    folder, settings = lab.context.settings.data_dir, lab.project.settings_json
    lab.context.close()
    for path in folder.iterdir():
        if any(path.match(pattern) for pattern in what):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    lab.context = make_context(folder)
    lab.context.store.projects.ensure(lab.pid)
    lab.context.store.projects.set(lab.pid, settings_json=settings, webhook_url="http://127.0.0.1:9/webhook")


@pytest.mark.parametrize("what", [["*.sqlite3*"], ["*.sqlite3*", "models", "vectors", "images"]])
def test_a_lost_database_is_rebuilt_from_label_studio(lived, make_context, what):
    lab = lived
    before = lab.latest
    tasks = lab.context.store.tasks.rows(lab.pid)
    lose(lab, make_context, what=what)
    sync(lab.context, lab.pid, rebuild=True)
    counts = lab.context.store.tasks.counts(lab.pid)
    assert (counts.tasks, counts.labelled) == (14, 7)
    lab.update()
    lab.assert_trained_on_what_label_studio_holds()
    assert lab.latest.labels_digest == before.labels_digest
    after = lab.context.store.tasks.rows(lab.pid)
    assert after.task_id.tolist() == tasks.task_id.tolist()
    assert after.label.tolist() == tasks.label.tolist()
    assert after.content_hash.tolist() == tasks.content_hash.tolist()
    assert lab.state().model_version == lab.window.version
    assert lab.queue() == list(lab.window.task_ids), "old predictions must not mix into the new order"
    lab.label(lab.queue()[0])
    lab.reconcile()
    lab.assert_trained_on_what_label_studio_holds()


def test_lost_embeddings_are_made_again(lived, make_context):
    lab = lived
    folder = lab.context.settings.data_dir
    lab.context.close()
    shutil.rmtree(folder / "vectors")
    lab.context = make_context(folder)
    lab.label(lab.tasks[7])
    lab.update()
    lab.update()
    lab.assert_trained_on_what_label_studio_holds()
    assert lab.context.store.tasks.counts(lab.pid).unread == 0


def test_a_lost_model_folder_is_said_and_a_new_model_takes_over(lived, make_context):
    lab = lived
    shutil.rmtree(lab.context.settings.models_path)
    lab.label(lab.tasks[7])
    lab.update()
    lab.assert_trained_on_what_label_studio_holds()
    assert lab.serving == lab.latest


def test_a_rebuild_drops_what_label_studio_no_longer_has(lived):
    lab = lived
    lab.client.delete_tasks(lab.pid, lab.tasks[6:9])
    sync(lab.context, lab.pid, rebuild=True)
    assert lab.context.store.tasks.ids(lab.pid) == {*lab.tasks[:6], *lab.tasks[9:]}
    lab.update()
    lab.assert_trained_on_what_label_studio_holds()


@pytest.mark.parametrize("labelled", [0, 5])
def test_the_names_of_a_lost_life_are_not_used_again(make_lab, make_context, labelled):
    # Label Studio still holds the predictions of the first life; the second must not publish under the same names.
    lab = make_lab(10, labelled=labelled, context=make_context())
    lab.update()
    first = lab.window.version
    lose(lab, make_context, what=["*.sqlite3*"])
    lab.settings(min_labels=4, preset="random", seed=5)  # another order than that of the first life
    lab.update()
    assert lab.window.version != first
    assert lab.state().model_version == lab.window.version
    assert lab.queue() == list(lab.window.task_ids)
    assert len(lab.client.predictions(lab.pid, lab.window.version)) == len(lab.window.task_ids)


def test_predictions_of_a_lost_life_are_collected(make_lab, make_context):
    lab = make_lab(10, labelled=5, context=make_context())
    lab.update()
    first = lab.window.version
    lose(lab, make_context, what=["*.sqlite3*"])
    lab.update()
    publishing.collect(lab.context, lab.project, budget_s=60, force=True)
    lab.reconcile()
    assert first not in lab.client.version_counts(lab.pid)


@pytest.mark.parametrize("new_label", [False, True])
def test_a_lost_model_folder_stops_nothing_even_when_the_gate_would_read_it(make_lab, make_context, new_label):
    lab = make_lab(50, labelled=44, holdout=0.5, context=make_context())
    lab.update()
    assert lab.serving.metrics.n_holdout >= 20
    shutil.rmtree(lab.context.settings.models_path)
    if new_label:
        lab.label(lab.tasks[44])
    lab.context.store.projects.bump(lab.pid)
    lab.update()
    lab.assert_trained_on_what_label_studio_holds()
    assert (lab.context.settings.models_path / str(lab.pid) / lab.serving.version_id).is_dir()
