import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import ttest_rel

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from replay.orders import ORDERS, Labelling, Trained, gain, replay

N = 80
RARE = np.arange(N) % 8 == 0


class Collector:
    """Scores by the rare images it was trained on, and doubts the others."""

    def __init__(self):
        self.trainings = 0
        directions = np.random.default_rng(0).normal(size=(N, 6))
        self.embeddings = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)

    def train(self, rows, seed):
        self.trainings += 1
        return Trained(float(RARE[rows].mean()), self.judge)

    def judge(self, rows):
        return [
            SimpleNamespace(
                uncertainty=0.9 if RARE[i] else 0.05,
                presence=np.array([0.95, 0.5 if RARE[i] else 0.02], np.float32),
                embedding=self.embeddings[i],
            )
            for i in rows
        ]


def replayed(collector, path, seeds=3):
    job = Labelling("rare", np.column_stack([np.ones(N, bool), RARE]), collector.train)
    found = list(replay(job, seeds=range(seeds), start=10, batch=5, rounds=2, path=path))
    assert [(order, seed) for order, seed, _ in found] == [(order, seed) for seed in range(seeds) for order in ORDERS]
    return {order: [scores for each, _, scores in found if each == order] for order in ORDERS}


def test_priority_finds_what_is_in_doubt_and_both_orders_share_the_start(tmp_path):
    collector = Collector()
    curves = replayed(collector, tmp_path / "points.jsonl")
    assert collector.trainings == 3 * (1 + 2 * 2)
    for ours, theirs in zip(*(curves[order] for order in ORDERS), strict=True):
        assert ours[0] == theirs[0]
        assert ours[-1] > theirs[-1]


def test_a_second_run_trains_only_what_is_missing(tmp_path):
    path = tmp_path / "points.jsonl"
    whole = replayed(Collector(), tmp_path / "whole.jsonl")
    replayed(Collector(), path, seeds=2)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))  # cut off before the last point
    collector = Collector()
    assert replayed(collector, path) == whole
    assert collector.trainings == 1 + 5
    again = Collector()
    assert replayed(again, path) == whole
    assert again.trainings == 0


def test_the_gain_is_that_of_a_paired_t_test():
    ours, theirs = [0.5, 0.62, 0.58, 0.7, 0.61], [0.48, 0.55, 0.6, 0.61, 0.55]
    wanted = ttest_rel(ours, theirs).confidence_interval(0.95)
    mean, low, high = gain(ours, theirs)
    assert mean == pytest.approx(np.mean(ours) - np.mean(theirs))
    assert (low, high) == pytest.approx((wanted.low, wanted.high))
