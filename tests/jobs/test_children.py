"""Trainings in processes of their own: nothing waits for them, and killing anything costs an epoch at most."""

import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ls_backend.jobs import children


@pytest.fixture
def parent(deployment, monkeypatch):
    """This very process in the place of a train worker: real children, no Redis."""
    for name, value in deployment.environment.items():
        monkeypatch.setenv(name, value)
    deployment.connect_project(7)
    deployment.context = SimpleNamespace(settings=deployment.settings, store=deployment.store)
    return deployment


def ask(deployment, project=7):
    return deployment.store.trainings.ask(project, "box", classes=("car",), n_labels=20).training_id


def state(deployment, training_id):
    return deployment.store.trainings.get(training_id).state


def epochs(deployment):
    return [int(what[5:]) for what, *_ in deployment.runs(kind="train") if what.startswith("epoch")]


def pids(deployment):
    return list(dict.fromkeys(pid for what, _, _, pid, _ in deployment.runs(kind="train") if what == "begin"))


def train(deployment, training_id, stopping=None):
    children.train(deployment.context, training_id, stopping or threading.Event())


def test_a_child_trains_and_then_looks_at_the_pool(parent):
    training_id = ask(parent)
    train(parent, training_id)
    assert state(parent, training_id) == "done"
    assert epochs(parent) == [1, 2, 3, 4, 5]
    assert len(parent.runs(event="end", kind="judge")) == 1
    assert pids(parent)[0] != os.getpid()


def test_a_killed_child_is_followed_by_one_that_goes_on(parent):
    training_id = ask(parent)
    parent.tell("train-crash", 4)
    train(parent, training_id)
    assert state(parent, training_id) == "done"
    assert epochs(parent) == [1, 2, 3, 4, 5]
    assert parent.store.trainings.get(training_id).deaths == 2
    assert len(pids(parent)) == 3


def test_a_training_that_kills_every_child_is_given_up_and_told(parent):
    training_id = ask(parent)
    parent.tell("train-crash", 1)
    train(parent, training_id)
    over = parent.store.trainings.get(training_id)
    assert (over.state, over.deaths) == ("failed", 3)
    assert "code -9" in over.error
    (problem,) = parent.store.problems.open(7)
    assert (problem.finding.code, problem.finding.subject) == ("training-error", "training of box")
    assert "memory" in problem.finding.remedy


def test_a_cancelled_training_ends_with_its_epoch(parent, eventually):
    training_id = ask(parent)
    parent.tell("epochs", 10_000)
    worker = threading.Thread(target=train, args=(parent, training_id))
    worker.start()
    eventually(lambda: epochs(parent), within_s=20)
    parent.store.trainings.cancel(7)
    worker.join(60)
    assert state(parent, training_id) == "cancelled"


def test_one_that_does_not_listen_is_killed(parent, monkeypatch, eventually):
    monkeypatch.setattr(children, "CANCEL_S", 0.5)
    training_id = ask(parent)
    parent.tell("train-hang", 2)
    worker = threading.Thread(target=train, args=(parent, training_id))
    worker.start()
    eventually(lambda: epochs(parent) == [1, 2], within_s=20)
    parent.store.trainings.cancel(7)
    worker.join(60)
    assert state(parent, training_id) == "cancelled"
    assert not Path(f"/proc/{pids(parent)[0]}").exists()


def test_a_silent_child_is_taken_to_hang_and_replaced(parent, monkeypatch, eventually):
    training_id = ask(parent)
    parent.tell("train-hang", 2)
    worker = threading.Thread(target=train, args=(parent, training_id))
    worker.start()
    eventually(lambda: epochs(parent) == [1, 2], within_s=20)
    (parent.data_dir / "train-hang").unlink()
    monkeypatch.setattr(children, "SILENT_S", 0.5)  # it has been silent for that long already
    eventually(lambda: parent.store.trainings.get(training_id).deaths, within_s=10)
    monkeypatch.setattr(children, "SILENT_S", 60.0)
    worker.join(60)
    assert state(parent, training_id) == "done"


def test_a_worker_that_has_to_end_leaves_the_training_open_at_once(parent, eventually, within):
    training_id = ask(parent)
    parent.tell("epochs", 10_000)
    stopping = threading.Event()
    worker = threading.Thread(target=train, args=(parent, training_id, stopping))
    worker.start()
    eventually(lambda: epochs(parent), within_s=20)
    started = time.monotonic()
    stopping.set()
    worker.join(60)
    assert within(started, 2)
    assert state(parent, training_id) == "running"
    assert not Path(f"/proc/{pids(parent)[0]}").exists()


def test_an_outage_of_label_studio_is_told_and_the_training_stays_wanted(parent):
    training_id = ask(parent)
    parent.tell("raise", "unreachable")
    with pytest.raises(children.ToldByChild, match="no answer") as told:
        train(parent, training_id)
    assert told.value.code == "label-studio-unreachable"
    assert state(parent, training_id) == "queued"


def test_a_training_that_is_over_is_left_alone(parent):
    training_id = ask(parent)
    parent.store.trainings.cancel(7)
    train(parent, training_id)
    train(parent, 404)
    assert epochs(parent) == []


def test_a_replay_runs_in_a_child_of_its_own(parent):
    children.advise("savings", 7, threading.Event())
    ((_, _, project, pid, _),) = parent.runs(event="end", kind="savings")
    assert project == 7
    assert pid != os.getpid()


def test_a_child_that_is_done_is_not_taken_for_dead_because_it_takes_long_to_end(parent, monkeypatch):
    monkeypatch.setattr(children, "CANCEL_S", 0.1)
    parent.tell("linger", 1)
    children.advise("savings", 7, threading.Event())
    assert len(parent.runs(event="end", kind="savings")) == 1


def test_what_a_replay_cannot_do_is_told_in_its_words(parent):
    parent.tell("raise", "unreachable")
    with pytest.raises(children.ToldByChild, match="no answer"):
        children.advise("savings", 7, threading.Event())


def test_a_replay_does_not_keep_a_worker_from_ending(parent, eventually, within):
    parent.tell("slow", 600)
    stopping = threading.Event()
    worker = threading.Thread(target=children.advise, args=("savings", 7, stopping))
    worker.start()
    eventually(lambda: parent.runs(event="begin", kind="savings"), within_s=20)
    started = time.monotonic()
    stopping.set()
    worker.join(60)
    assert within(started, 2)
    assert not parent.runs(event="end", kind="savings")


# -- with Redis, workers and a supervisor --


def test_labels_are_covered_while_labels_are_replayed(deployment, eventually):
    deployment.connect_project(1)
    deployment.start_supervisor()
    deployment.tell("slow", 6)
    assert deployment.queues.kick_savings(1)
    eventually(lambda: deployment.runs(event="begin", kind="savings"), within_s=30)
    (deployment.data_dir / "slow").unlink()
    assert not deployment.queues.kick_savings(1), "it runs already"
    deployment.store.projects.bump(1)
    deployment.queues.kick(1)
    eventually(lambda: deployment.runs(event="end", kind="update"), within_s=5)
    assert not deployment.runs(event="end", kind="savings")
    eventually(lambda: deployment.runs(event="end", kind="savings"), within_s=20)
    assert deployment.queues.failed(1) == ()


def test_advice_is_made_in_a_child_after_an_update_that_calls_for_it(deployment, eventually):
    deployment.connect_project(1)
    deployment.start_supervisor()
    deployment.tell("advice-due", "")
    deployment.event(1)
    eventually(lambda: deployment.runs(event="end", kind="advice"), within_s=30)
    ((_, _, project, pid, _),) = deployment.runs(event="end", kind="advice")
    assert (project, pid == deployment.worker_pid("train")) == (1, False)
    deployment.event(1)
    eventually(lambda: len(deployment.runs(event="end", kind="update")) == 2, within_s=10)
    assert len(deployment.runs(event="begin", kind="advice")) == 1, "it is not repeated at once"


def test_advice_that_cannot_be_made_is_a_warning(deployment, eventually):
    deployment.connect_project(1)
    deployment.start_supervisor()
    deployment.tell("raise", "unreachable")
    deployment.queues.kick_advice(1)
    eventually(lambda: deployment.store.problems.open(1), within_s=30)
    (problem,) = deployment.store.problems.open(1)
    assert (problem.finding.level, problem.finding.subject) == ("warning", "job advice")


def test_labels_are_covered_while_a_training_runs(deployment, eventually):
    deployment.connect_project(7)
    deployment.tell("epochs", 10_000)
    deployment.tell("due", "now")
    deployment.start_supervisor()
    deployment.event(7)
    eventually(lambda: epochs(deployment), within_s=30)
    (training,) = deployment.store.trainings.open(7)
    for _ in range(3):
        generation = deployment.event(7)
        assert eventually(lambda asked=generation: deployment.covered(7, asked), within_s=10) < 10
    before = len(epochs(deployment))
    eventually(lambda: len(epochs(deployment)) > before, within_s=10)
    assert state(deployment, training.training_id) == "running"
    deployment.store.trainings.cancel(7)
    eventually(lambda: state(deployment, training.training_id) == "cancelled", within_s=10)


def test_a_training_nobody_was_woken_for_is_found_and_the_queue_is_ordered_anew(deployment, eventually):
    deployment.connect_project(7)
    deployment.start_supervisor()
    training_id = ask(deployment)
    eventually(lambda: state(deployment, training_id) == "done", within_s=20)
    eventually(lambda: deployment.runs(event="end", kind="judge"), within_s=10)
    eventually(lambda: deployment.covered(7) and deployment.runs(event="end", kind="update"), within_s=10)


def test_a_killed_worker_takes_its_child_along_and_the_next_goes_on(deployment, eventually):
    deployment.connect_project(7)
    deployment.tell("epochs", 30)
    deployment.tell("epoch_s", 0.2)
    deployment.start_supervisor()
    training_id = ask(deployment)
    eventually(lambda: len(epochs(deployment)) > 3, within_s=20)
    os.kill(deployment.worker_pid("train"), signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{pids(deployment)[0]}").exists(), within_s=10)
    deployment.tell("epoch_s", 0.01)
    eventually(lambda: state(deployment, training_id) == "done", within_s=40)
    assert len(pids(deployment)) == 2
    done = epochs(deployment)
    assert done == sorted(done)
    assert len(done) <= 31, "an epoch may be lost, no more"


def test_a_stop_does_not_wait_for_the_training(deployment, eventually, within):
    deployment.connect_project(7)
    deployment.tell("epochs", 10_000)
    supervisor = deployment.start_supervisor()
    training_id = ask(deployment)
    eventually(lambda: epochs(deployment), within_s=20)
    started = time.monotonic()
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(30) == 0
    assert within(started, 5)
    assert state(deployment, training_id) == "running"
