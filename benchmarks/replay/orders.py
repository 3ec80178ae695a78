"""Label in the product's order, and in random order, and see how good a model of regions gets.

For models that find boxes or regions: they train for minutes, so a curve has few points, and every point is kept as
soon as it is there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from ls_backend.settings import default_cache_dir
from ls_backend.strategies import Plan, Pool, rank

ORDERS = ("priority", "random")

Indices = NDArray[np.int64]


class Judged(Protocol):
    """What of a model's judgement of an image the ranking takes."""

    @property
    def uncertainty(self) -> float:
        """In [0, 1], higher = label sooner."""

    @property
    def presence(self) -> NDArray[np.float32]:
        """(c,) probability that the image holds each class."""

    @property
    def embedding(self) -> NDArray[np.float32]:
        """(d,) of unit length."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A model trained on some of the pool.

    Attributes:
        score: On a fixed test set.
        judge: Judges images of the pool by their rows.
    """

    score: float
    judge: Callable[[Indices], Sequence[Judged]]


@dataclass(frozen=True, eq=False)
class Labelling:
    """A labelling job to replay.

    Attributes:
        name: In the file of points.
        present: (n, c) bool, which classes each image of the pool holds.
        train: From rows of the pool and a seed to a model.
    """

    name: str
    present: NDArray[np.bool_]
    train: Callable[[Indices, int], Trained]


def replay(
    job: Labelling, *, seeds: Sequence[int], start: int, batch: int, rounds: int, path: Path
) -> Iterator[tuple[str, int, list[float]]]:
    """Replay both orders for each seed; they share the random start and the model trained on it.

    Args:
        job: What is labelled.
        seeds: Of the starts, the orders and the trainings.
        start: Random images labelled at first.
        batch: Images a round.
        rounds: Rounds after the start.
        path: File of the points, one a line of JSON; what it holds is not trained again.

    Yields:
        Order, seed, and the scores after the start and each round.
    """
    points = _Points(path)
    for seed in seeds:
        first = np.random.default_rng(seed).permutation(len(job.present))[:start]
        shared: Trained | None = None
        for order in ORDERS:
            labelled, scores, trained = first, list[float](), shared
            for done in range(rounds + 1):
                key = [job.name, start, batch, order if done else "start", seed, done]
                if done:
                    more = points.labelled(key)
                    if more is None and order == "random":
                        more = _by_chance(job, labelled, batch, seed)
                    elif more is None:
                        more = _by_priority(job, trained or job.train(labelled, seed), labelled, batch, seed)
                    labelled = np.concatenate([labelled, more])
                    trained = None
                found = points.score(key)
                if found is None:
                    trained = trained or job.train(labelled, seed)
                    found = trained.score
                    points.add(key, labelled[-batch:] if done else first, found)
                scores.append(found)
                if not done:
                    shared = trained
            yield order, seed, scores


def arguments(parser: argparse.ArgumentParser, file: str) -> None:
    """Add the options of `compare`.

    Args:
        parser: Of the benchmark.
        file: Name of the file of points, unless another is given.
    """
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to N-1 of the orders; 0 skips them")
    parser.add_argument("--start", type=int, default=20, help="random images at first")
    parser.add_argument("--batch", type=int, default=20, help="images a round")
    parser.add_argument("--rounds", type=int, default=2, help="rounds")
    path = default_cache_dir() / "benchmarks" / file
    parser.add_argument("--json", type=Path, default=path, help="file of the points, one a line")


def compare(job: Labelling, metric: str, given: argparse.Namespace) -> None:
    """Print each curve as it comes, then what the product's order gains over chance.

    Args:
        job: What is labelled.
        metric: Name of the score.
        given: Options of `arguments`.
    """
    marks = [given.start + done * given.batch for done in range(given.rounds + 1)]
    print(f"\n### Orders: {metric} on the test set\n")
    print("| order | seed | " + " | ".join(f"at {mark}" for mark in marks) + " |")
    print("| --- " * (len(marks) + 2) + "|", flush=True)
    curves: dict[str, list[list[float]]] = {order: [] for order in ORDERS}
    found = replay(
        job, seeds=range(given.seeds), start=given.start, batch=given.batch, rounds=given.rounds, path=given.json
    )
    for order, seed, scores in found:
        curves[order].append(scores)
        print(f"| {order} | {seed} | " + " | ".join(f"{score:.3f}" for score in scores) + " |", flush=True)
    if given.seeds < 2:
        return
    ours, theirs = (np.array(curves[order]) for order in ORDERS)
    print()
    for k, mark in enumerate(marks[1:], start=1):
        mean, low, high = gain(ours[:, k].tolist(), theirs[:, k].tolist())
        wins = int((ours[:, k] > theirs[:, k]).sum())
        print(f"At {mark} labels: priority {mean:+.3f} [{low:+.3f}, {high:+.3f}], ahead in {wins} of {given.seeds}.")


def gain(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Mean of the differences of two orders over the seeds, and its 95 % interval.

    Args:
        ours: One figure a seed.
        theirs: One figure a seed, the same seeds in the same order; at least two.

    Returns:
        Mean, lower and upper bound by Student's t.
    """
    differences = np.subtract(ours, theirs)
    mean, n = float(differences.mean()), len(differences)
    half = float(student.ppf(0.975, n - 1) * differences.std(ddof=1) / np.sqrt(n))
    return mean, mean - half, mean + half


def _by_chance(job: Labelling, labelled: Indices, batch: int, seed: int) -> Indices:
    left = np.setdiff1d(np.arange(len(job.present)), labelled)
    return np.random.default_rng([seed, len(labelled)]).choice(left, batch, replace=False)


def _by_priority(job: Labelling, trained: Trained, labelled: Indices, batch: int, seed: int) -> Indices:
    """Pick as the product does: doubts of the model are one question, the presence of each class another."""
    left = np.setdiff1d(np.arange(len(job.present)), labelled)
    judged = list(trained.judge(np.concatenate([left, labelled])))
    embeddings = np.stack([each.embedding for each in judged])
    pool = Pool(
        embeddings[: len(left)],
        probabilities=np.stack([each.presence for each in judged[: len(left)]]),
        labelled_embeddings=embeddings[len(left) :],
        labelled_counts=job.present[labelled].sum(axis=0),
        ids=left,
        questions=np.arange(job.present.shape[1]),
        doubts=np.array([[each.uncertainty] for each in judged[: len(left)]]),
    )
    return left[rank(pool, Plan.preset("auto"), batch, np.random.default_rng([seed, len(labelled)])).indices]


class _Points:
    """Scores in a file, and which images were labelled in each round."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._found = {json.dumps(line["key"]): line for line in map(json.loads, lines)}

    def labelled(self, key: list[object]) -> Indices | None:
        found = self._found.get(json.dumps(key))
        return None if found is None else np.array(found["labelled"], np.int64)

    def score(self, key: list[object]) -> float | None:
        found = self._found.get(json.dumps(key))
        return None if found is None else float(found["score"])

    def add(self, key: list[object], labelled: Indices, score: float) -> None:
        line = {"key": key, "labelled": labelled.tolist(), "score": score}
        self._found[json.dumps(key)] = line
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
