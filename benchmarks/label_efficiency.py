"""How good the model gets for how many labels: our plans and other libraries' strategies, side by side.

    .venv/bin/python benchmarks/label_efficiency.py [--data mnist] [--plans auto random] [--seeds 20] [--batch 10]

Every strategy labels the same pools, drawn by the same seeds, and trains the product's own head, measured on the same
locked test sets. Each curve is kept as soon as it is there: a run that is cut goes on where it was, and more plans,
data sets or seeds only add what is missing. Peers come with `pip install -e .[bench]`; missing ones are named and left
out. The first run embeds MNIST, which takes minutes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path

from ls_backend import __version__
from ls_backend.engine.backtest import backtest
from ls_backend.strategies import Plan, presets
from replay import mnist
from replay.datasets import DATASETS, Split
from replay.figures import Key, Record, Runs, table
from replay.peers import PEERS

NOT_COMPARABLE = {"expected_cost"}
"""Presets that need to be told something about the project."""

LONG = {
    "batch_bald",
    "scikit-activeml:batch_bald",
    "scikit-activeml:clue",
    "scikit-activeml:max_herding",
    "small-text:contrastive",
}
"""Left out unless named: many minutes for a curve of MNIST."""


def main() -> int:
    """Replay what is missing and print the tables."""
    ours = [name for name in presets() if name not in NOT_COMPARABLE]
    every = [*ours, *PEERS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=DATASETS, default=list(DATASETS), help="data sets")
    parser.add_argument("--plans", nargs="+", choices=every, help="presets and peers; default: all")
    parser.add_argument("--batch", type=int, default=10, help="labels a round")
    parser.add_argument("--labels", type=int, help="labels at the end; default: of the data set")
    parser.add_argument("--seeds", type=int, default=20, help="seeds 0 to N-1")
    parser.add_argument("--jobs", type=int, default=1, help="processes; one thread each if more than one")
    parser.add_argument("--again", nargs="+", choices=every, default=[], help="plans to replay although they are there")
    parser.add_argument("--versus", choices=every, default="auto", help="plan that the others are compared with")
    parser.add_argument("--tables", action="store_true", help="print the tables of what is there, replay nothing")
    parser.add_argument(
        "--json", type=Path, default=mnist.folder() / "label_efficiency.jsonl", help="file of the curves, one a line"
    )
    given = parser.parse_args()
    runs = Runs(given.json)
    plans = given.plans or [name for name in every if name not in LONG]
    failed = [] if given.tables else _replay_missing(runs, _wanted(given, _installed(plans)), given)
    for data in given.data:
        metric = DATASETS[data].metric
        print(f"\n### {DATASETS[data].title}, batch {given.batch}: {metric.replace('_', ' ')}\n")
        found = runs.of(data, given.batch, _rounds(given, data), given.plans or every)
        print(table(found, metric, given.versus) if found else "No curves yet.")
    for key, error in failed:
        print(f"FAILED: {key.data} {key.plan} seed {key.seed}: {error}", file=sys.stderr)
    return 1 if failed else 0


def _installed(plans: Sequence[str]) -> list[str]:
    """Leave out what is not installed, loudly."""
    missing = [name for name in plans if name in PEERS and PEERS[name].version is None]
    if missing:
        packages = sorted({PEERS[name].package for name in missing})
        print(f"NOT INSTALLED, LEFT OUT: {', '.join(packages)}. Install them: pip install -e .[bench]", file=sys.stderr)
    return [name for name in plans if name not in missing]


def _wanted(given: argparse.Namespace, plans: Sequence[str]) -> list[tuple[Key, int]]:
    """Everything asked for, with its number of rounds; seeds outermost, so that all plans grow together."""
    return [
        (Key(data, given.batch, plan, seed), _rounds(given, data))
        for seed in range(given.seeds)
        for data in given.data
        for plan in plans
    ]


def _rounds(given: argparse.Namespace, data: str) -> int:
    return int((given.labels or DATASETS[data].budget) // given.batch)


def _replay_missing(
    runs: Runs, wanted: Sequence[tuple[Key, int]], given: argparse.Namespace
) -> list[tuple[Key, Exception]]:
    """Add what is missing to the file; return what failed, which stops nothing else."""
    todo = [task for task in wanted if not runs.holds(*task) or task[0].plan in given.again]
    failed = []
    for done, (key, result) in enumerate(_replays(todo, given.jobs), start=1):
        if isinstance(result, Exception):
            failed.append((key, result))
            said = f"FAILED: {result}"
        else:
            runs.add(key, result)
            said = f"{result.seconds:.0f} s"
        print(f"{done}/{len(todo)} {key.data} {key.plan} seed {key.seed}: {said}", file=sys.stderr)
    return failed


def _replays(todo: Sequence[tuple[Key, int]], jobs: int) -> Iterator[tuple[Key, Record | Exception]]:
    if jobs == 1:
        yield from map(_replay, todo)
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the processes when they start
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_replay, todo)


def _replay(task: tuple[Key, int]) -> tuple[Key, Record | Exception]:
    """Make one curve. A peer's own failure is a result too: hours of other curves must not end with it."""
    key, rounds = task
    try:
        return key, _record(key, rounds)
    except Exception as error:
        if key.plan not in PEERS:
            raise
        return key, error


def _record(key: Key, rounds: int) -> Record:
    split = _split(key.data, key.seed)
    peer = PEERS.get(key.plan)
    chooser = Plan.preset(key.plan) if peer is None else peer.chooser(key.seed)
    started = time.perf_counter()
    curve = backtest(
        split.embeddings,
        split.labels,
        split.test_embeddings,
        split.test_labels,
        chooser,
        key.batch,
        rounds,
        key.seed,
        n_classes=10,
    )
    seconds = time.perf_counter() - started
    return Record(curve, seconds, __version__ if peer is None else str(peer.version))


@lru_cache(maxsize=1)
def _split(data: str, seed: int) -> Split:
    return DATASETS[data].split(seed)


if __name__ == "__main__":
    sys.exit(main())
