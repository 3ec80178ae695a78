"""Deeper trainings: one of a control at a time, and never lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ls_backend.errors import StoreError
from ls_backend.store import trainings

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def ask(store, control="box", n_labels=20, project_id=1):
    return store.trainings.ask(project_id, control, classes=("car", "bus"), n_labels=n_labels, labels_until=NOON)


def begin(store, training, n_labels=20):
    return store.trainings.begin(training.training_id, classes=("car",), n_labels=n_labels, labels_until=NOON)


def test_a_training_is_wanted_once_however_often_it_is_asked_for(store, project):
    first = ask(store)
    assert (first.state, first.classes, first.n_labels, first.labels_until) == ("queued", ("car", "bus"), 20, NOON)
    assert ask(store, n_labels=30) == first
    other = ask(store, "mask")
    assert other.training_id != first.training_id
    assert store.trainings.open() == store.trainings.open(project) == [first, other]
    assert store.trainings.open(2) == []


def test_processes_that_ask_at_once_get_the_same_training(url, store, project, processes):
    code = """
        import sys
        from ls_backend.store import Store
        store = Store(sys.argv[1])
        print(store.trainings.ask(1, "box", classes=["car"], n_labels=1).training_id)
        store.dispose()
    """
    assert len(set(processes(code, url, n=4))) == 1
    assert len(store.trainings.open()) == 1


def test_a_training_runs_from_its_begin_to_its_end(store, project):
    training = ask(store)
    assert begin(store, training, n_labels=25)
    assert store.trainings.report(training.training_id, {"epoch": 1, "loss": float("nan")})
    found = store.trainings.get(training.training_id)
    assert (found.state, found.n_labels, found.classes) == ("running", 25, ("car",))
    assert found.progress == {"epoch": 1, "loss": None}
    assert found.started_at <= found.reported_at
    assert begin(store, training), "again, after a crash"
    assert store.trainings.get(training.training_id).started_at == found.started_at
    assert store.trainings.finish(training.training_id, "done", version_id="deep-1-0badcafe")
    over = store.trainings.latest(project, "box")
    assert (over.state, over.version_id, over.is_open) == ("done", "deep-1-0badcafe", False)
    assert store.trainings.open() == []
    assert ask(store).training_id > training.training_id


def test_what_is_over_stays_as_it_is(store, project):
    training = ask(store)
    store.trainings.finish(training.training_id, "failed", error="No.")
    assert not store.trainings.finish(training.training_id, "done")
    assert not begin(store, training)
    assert not store.trainings.report(training.training_id, {"epoch": 9})
    over = store.trainings.get(training.training_id)
    assert (over.state, over.error, over.progress) == ("failed", "No.", {})


def test_a_training_that_waits_is_cancelled_at_once_and_one_that_runs_is_told(store, project):
    waiting, running = ask(store, "box"), ask(store, "mask")
    begin(store, running)
    assert {one.control for one in store.trainings.cancel(project)} == {"box", "mask"}
    assert store.trainings.get(waiting.training_id).state == "cancelled"
    told = store.trainings.get(running.training_id)
    assert (told.state, told.cancel_requested) == ("running", True)
    assert not store.trainings.report(running.training_id, {"epoch": 2})
    assert not begin(store, running), "nor does the next process go on with it"
    store.trainings.finish(running.training_id, "cancelled")
    assert store.trainings.cancel(project) == []


def test_one_control_is_cancelled_and_the_other_goes_on(store, project):
    box, mask = ask(store, "box"), ask(store, "mask")
    assert [one.training_id for one in store.trainings.cancel(project, "box")] == [box.training_id]
    assert store.trainings.open() == [mask]


def test_deaths_are_counted(store, project):
    training = ask(store)
    assert [store.trainings.died(training.training_id) for _ in range(2)] == [1, 2]
    assert store.trainings.get(training.training_id).deaths == 2


def test_a_state_that_is_none_of_ours_and_a_project_that_is_not_there_are_refused(store, project):
    training = ask(store)
    with pytest.raises(StoreError):
        store.trainings.finish(training.training_id, "great")
    with pytest.raises(StoreError):
        ask(store, project_id=404)


def test_only_the_latest_trainings_are_kept_and_open_ones_always(store, project, monkeypatch):
    monkeypatch.setattr(trainings, "TRAININGS_KEPT", 3)
    waiting = ask(store, "mask")
    for _ in range(5):
        store.trainings.finish(ask(store).training_id, "done")
    ask(store)
    kept = [one.training_id for one in store.trainings.recent(project, 10)]
    assert waiting.training_id in kept
    assert len(kept) <= 5
    store.projects.forget(project)
    assert store.trainings.recent(project, 10) == []


def test_answered_tasks_are_counted_after_a_moment(store, project, make_task, make_annotation):
    assert store.tasks.answered(project) == (0, None)
    later = NOON + timedelta(minutes=5)
    given = [
        make_task(1, annotations=(make_annotation(1, 1), make_annotation(2, 1, at=later))),
        make_task(2, annotations=(make_annotation(3, 2),)),
        make_task(3, annotations=(make_annotation(4, 3, cancelled=True, at=later),)),
    ]
    store.tasks.upsert(project, given, image_field="image")
    assert store.tasks.answered(project) == (2, later)
    assert store.tasks.answered(project, NOON) == (1, later)
    assert store.tasks.answered(project, later) == (0, None)
