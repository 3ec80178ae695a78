from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from ls_backend.errors import Diverged
from ls_backend.vision.deep import Course, Schedule, Watch, fingerprint, seeded

ROWS = np.arange(10, dtype=np.int64)


class Killed(Exception):
    pass


def course(folder=None, *, report=lambda progress: True, epochs=6, budget_s=600.0, identity="a", **changes) -> Course:
    """A line fitted to ten noisy points, with noise drawn anew in every batch."""
    with seeded(0):
        line = nn.Linear(1, 1)
        x = torch.randn(10, 1)

    def loss_of(batch, rng):
        noise = torch.from_numpy(rng.normal(size=(len(batch), 1)).astype(np.float32))
        return nn.functional.mse_loss(line(x[batch]), 3 * x[batch] + 1 + 0.1 * noise)

    parts = {
        "network": line,
        "optimizer": torch.optim.AdamW(line.parameters(), lr=0.1),
        "loss_of": loss_of,
        "measure": None,
        "learn": ROWS,
        "schedule": Schedule(epochs=epochs, batch=4, patience=100),
        "seed": 7,
        "watch": Watch(budget_s, report),
        "identity": identity,
        "folder": folder,
    }
    return Course(**(parts | changes))


def weights(one: Course) -> list[float]:
    return [value for parameter in one.network.parameters() for value in parameter.flatten().tolist()]


def test_it_learns_and_tells_its_progress():
    told = []
    one = course(epochs=80, report=lambda progress: told.append(progress) or True)
    assert one.run() == "done"
    np.testing.assert_allclose(weights(one), [3, 1], atol=0.1)
    assert [progress.epoch for progress in told] == list(range(81))
    assert told[0].loss is None
    assert told[-1].loss < 0.1 < told[1].loss
    assert all(progress.epochs == 80 for progress in told)


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not():
    first, same, other = course(), course(), course(seed=8)
    for one in (first, same, other):
        one.run()
    assert weights(first) == weights(same) != weights(other)


@pytest.mark.parametrize("epoch", [1, 4])
def test_a_killed_training_ends_where_an_uninterrupted_one_does(tmp_path, epoch):
    def die(progress):
        if progress.epoch == epoch:
            raise Killed
        return True

    whole = course()
    whole.run()
    with pytest.raises(Killed):
        course(tmp_path, report=die).run()
    again = []
    second = course(tmp_path, report=lambda progress: again.append(progress) or True)
    assert second.run() == "done"
    assert weights(second) == weights(whole)
    assert min(1, epoch - 1) <= again[0].epoch < epoch  # the first checkpoint is always written, not every later one


def test_a_finished_training_is_not_repeated(tmp_path):
    first = course(tmp_path)
    first.run()
    told = []
    second = course(tmp_path, report=lambda progress: told.append(progress) or True)
    assert second.run() == "done"
    assert weights(second) == weights(first)
    assert told == []


def test_another_training_does_not_go_on_from_this_checkpoint(tmp_path):
    course(tmp_path, epochs=3).run()
    told = []
    other = course(tmp_path, identity="b", report=lambda progress: told.append(progress.epoch) or True)
    other.run()
    assert told[0] == 0


@pytest.mark.parametrize("rubbish", [b"", b"not a checkpoint", bytes(100)])
def test_a_damaged_checkpoint_is_learnt_again(tmp_path, rubbish):
    (tmp_path / "training.safetensors").write_bytes(rubbish)
    one, whole = course(tmp_path), course()
    assert one.run() == whole.run() == "done"
    assert weights(one) == weights(whole)


def test_somebody_cancels():
    one = course(report=lambda progress: progress.epoch < 2)
    two = course(epochs=6, report=lambda progress: True)
    two.run()
    assert one.run() == "cancelled"
    assert weights(one) != weights(two)


def test_a_cancelled_training_can_go_on(tmp_path):
    assert course(tmp_path, report=lambda progress: progress.epoch < 2).run() == "cancelled"
    second, whole = course(tmp_path), course()
    assert second.run() == whole.run() == "done"
    assert weights(second) == weights(whole)


def test_the_time_is_up_before_it_begins():
    one = course(budget_s=0.0)
    before = weights(one)
    assert one.run() == "time"
    assert weights(one) == before


def test_the_plan_shrinks_to_what_the_time_holds():
    told = []
    one = course(epochs=10**6, budget_s=1.0, report=lambda progress: told.append(progress.epochs) or True)
    assert one.run() == "time"
    assert max(told[5:]) < 10**6
    assert one.watch.seconds < 3.0


def test_the_weights_that_were_best_on_the_holdout_are_kept():
    figures = iter([0.1, 0.5, 0.3, 0.2, 0.4])
    kept = {}

    def measure():
        figure = next(figures)
        kept[figure] = weights(one)
        return figure

    one = course(measure=measure, schedule=Schedule(epochs=50, batch=4, patience=3))
    assert one.run() == "early"
    assert weights(one) == kept[0.5]


def test_best_weights_and_patience_survive_a_kill(tmp_path):
    def trained(folder, deadly):
        figures = [0.1, 0.5, 0.3, 0.2, 0.4]
        one = course(folder, schedule=Schedule(epochs=50, batch=4, patience=3))

        def report(progress):
            if progress.epoch == deadly:
                raise Killed
            return True

        one.watch = Watch(600.0, report)
        one.measure = lambda: figures[one._state.epoch - 1]
        return one

    whole = trained(None, None)
    whole.run()
    with pytest.raises(Killed):
        trained(tmp_path, 4).run()
    second = trained(tmp_path, None)
    assert second.run() == "early"
    assert weights(second) == weights(whole)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_training(value):
    one = course()
    one.loss_of = lambda batch, rng: sum(p.sum() for p in one.network.parameters()) * value
    with pytest.raises(Diverged, match="in epoch 1; expected a finite number"):
        one.run()


def test_fingerprints_tell_trainings_apart():
    first = fingerprint(learn=np.arange(3), depth="frozen")
    assert first == fingerprint(depth="frozen", learn=np.arange(3))
    assert first != fingerprint(learn=np.arange(4), depth="frozen")
    assert first != fingerprint(learn=np.arange(3), depth="finetune")


def test_the_global_generator_is_left_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    with seeded(5):
        inside = torch.rand(1)
    assert torch.equal(torch.rand(1), expected)
    with seeded(5):
        assert torch.equal(torch.rand(1), inside)
