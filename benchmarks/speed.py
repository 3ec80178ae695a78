"""How fast a ranking is, side by side with lightly-mundig, and how long a label waits for a new order.

    .venv/bin/pip install -e ".[bench]"        # the peer; without it the ratios are left out, and that is said
    .venv/bin/python benchmarks/speed.py [--only kcenter|radius|combined|million|rerank] [--repeat 5] [--json FILE]

Ours is timed whole, from arrays to a ranking with reasons, checks of the arrays included. The peer's time is that of
`run_selection` alone: turning arrays into its lists is not counted. Both take turns in one process, with as many
threads as they choose themselves; figures are medians. Memory is the peak above what the input takes, of a fresh
process.

Data: unit vectors from 200 Gaussian clusters of unequal size (Dirichlet), whose spectrum falls with the square root of
the rank; and, as the hard case, points spread evenly over the sphere, where nothing can be left out for being near.

The exit status is 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ls_backend.domain import Annotation, Control, LabelSchema, Task
from ls_backend.engine import rerank, retrain
from ls_backend.engine.context import Context
from ls_backend.engine.view import view
from ls_backend.settings import DEFAULT_BACKBONE, Settings
from ls_backend.strategies import Plan, Pool, rank

N_POOL = 100_000
N_MILLION = 1_000_000
N_RADIUS = 20_000  # several draws say more about chance than one large one
DIM = 384
DIM_MILLION = 256
K = 1000
N_LABELLED = 100
N_LABELS_OF_HEAD = 500
N_CLASSES = 10
N_CLUSTERS = 200

BAR_KCENTER = 5.0  # the peer's time over ours, at least
BAR_COMBINED = 6.0
BAR_MEMORY_MB = 1024.0
BAR_MILLION = 12.0  # time of 1,000,000 tasks over that of 100,000, at most
BAR_RERANK_S = 3.0
ROUNDING = 1e-6  # share by which a float32 distance may be off
RADIUS_TOLERANCE = 1e-3
"""Farthest-first is chaotic: one pick that is the second farthest, by a hair, changes all that follow. The peer takes
such picks, so its radius is a little larger or smaller than that of the exact greedy, by chance."""


COMBINED = Plan.from_json({"preset": "auto", "objectives": {"balance": {"strength": 1.0}}, "explore": 0.0})
"""The default with all three objectives always in force; by itself it balances only where some class is rare."""


@dataclass(frozen=True)
class Input:
    """What both sides are given.

    Attributes:
        embeddings: (n, d) float32 unit vectors; the first 100 are those of tasks labelled beforehand.
        probabilities: (n, c) float32.
    """

    embeddings: np.ndarray
    probabilities: np.ndarray

    def pool(self, *, with_model: bool) -> Pool:
        """Return all but the labelled tasks as a pool, checked and ready to rank."""
        known = self.probabilities[:N_LABELLED].argmax(axis=1)
        return Pool(
            embeddings=self.embeddings[N_LABELLED:],
            probabilities=self.probabilities[N_LABELLED:] if with_model else None,
            labelled_embeddings=self.embeddings[:N_LABELLED],
            labelled_counts=np.bincount(known, minlength=N_CLASSES),
        )


@dataclass(frozen=True)
class Bar:
    """One line of the table.

    Attributes:
        seconds: Times of ours.
        peer_seconds: Times of the peer, in turns with ours; empty without one.
        figure: What the bar is about: a ratio, a memory, a time.
        bar: Its bound in words.
        holds: Whether it holds; None when it could not be measured.
    """

    name: str
    seconds: list[float]
    peer_seconds: list[float]
    figure: str
    bar: str
    holds: bool | None


def main() -> int:
    """Measure and say whether every bar holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--repeat", type=int, default=5, help="measurements behind each median")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    machine = _machine()
    print(machine)
    bars: list[Bar] = []
    for name in [given.only] if given.only else PARTS:
        for bar in PARTS[name](given.repeat):
            bars.append(bar)
            _print(bar)
    if given.json:
        figures = {"machine": machine, "bars": [asdict(bar) for bar in bars]}
        given.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 1 if any(bar.holds is False for bar in bars) else 0


def kcenter(repeat: int) -> list[Bar]:
    """Exact farthest-first, from clusters and from even points."""
    bars = []
    for kind in (clustered, even):
        data = given_input(kind, N_POOL, DIM)
        plan = Plan.preset("core_set")
        ours, theirs, picked = in_turns(data, plan, with_model=False, repeat=repeat)
        name = f"exact k-center, {kind.__name__}, n={N_POOL:,} d={DIM} k={K:,}"
        bars.append(ratio_bar(name, ours, theirs, BAR_KCENTER))
        strays, radii = zip(*(retraced(data, rows) for rows in picked), strict=True)
        figure = f"{strays[0]} of {K:,}" + (f", peer {strays[1]}" if len(strays) > 1 else "")
        bars.append(Bar(f"  picks that were not the farthest, {kind.__name__}", [], [], figure, "none", not strays[0]))
        holds = None if len(radii) < 2 else radii[0] <= radii[1] * (1 + RADIUS_TOLERANCE)
        figure = f"{radii[0]:.6f}" + (f", peer {radii[1]:.6f}" if len(radii) > 1 else "")
        bound = f"at most {1 + RADIUS_TOLERANCE:g} times"
        bars.append(Bar(f"  cover radius, {kind.__name__}", [], [], figure, bound, holds))
    return bars


def radius(repeat: int) -> list[Bar]:
    """Cover radius of farthest-first over that of the peer, on several draws of the data: one alone is chance."""
    bars = []
    for kind in (clustered, even):
        ratios = []
        for seed in range(repeat):
            data = given_input(kind, N_RADIUS, DIM, seed)
            _, _, picked = in_turns(data, Plan.preset("core_set"), with_model=False, repeat=1)
            ours, *theirs = (retraced(data, rows)[1] for rows in picked)
            ratios += [ours / each for each in theirs]
        name = f"cover radius over the peer's, {kind.__name__}, n={N_RADIUS:,}, {repeat} draws"
        figure, holds = "no peer", None
        if ratios:
            mean = statistics.mean(ratios)
            figure = f"{mean:.6f}, {min(ratios):.6f} to {max(ratios):.6f}"
            holds = mean <= 1 + RADIUS_TOLERANCE
        bars.append(Bar(name, [], [], figure, f"at most {1 + RADIUS_TOLERANCE:g}", holds))
    return bars


def combined(repeat: int) -> list[Bar]:
    """The default plan with a model: uncertainty, diversity and balance."""
    bars = []
    for kind in (clustered, even):
        data = given_input(kind, N_POOL, DIM)
        ours, theirs, _ = in_turns(data, COMBINED, with_model=True, repeat=repeat)
        name = f"auto, {kind.__name__}, n={N_POOL:,} d={DIM} k={K:,}"
        bars.append(ratio_bar(name, ours, theirs, BAR_COMBINED))
    bars.append(memory_bar("auto", N_POOL, DIM))
    bars.append(memory_bar("core_set", N_POOL, DIM))
    return bars


def million(repeat: int) -> list[Bar]:
    """The default plan on ten times as many tasks."""
    small = given_input(clustered, N_POOL, DIM_MILLION)
    large = given_input(clustered, N_MILLION, DIM_MILLION)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeat):
        for data, seconds in zip((small, large), times, strict=True):
            seconds.append(timed(lambda data=data: ours_picks(data, COMBINED, with_model=True))[0])
    growth = statistics.median(times[1]) / statistics.median(times[0])
    name = f"auto, clustered, n={N_MILLION:,} d={DIM_MILLION} k={K:,}"
    figure = f"{growth:.1f} x the {statistics.median(times[0]):.2f} s of n={N_POOL:,}"
    bars = [Bar(name, times[1], [], figure, f"at most {BAR_MILLION:g} x", growth <= BAR_MILLION)]
    del small, large
    bars.append(memory_bar("auto", N_MILLION, DIM_MILLION))
    return bars


def rerank_project(repeat: int) -> list[Bar]:
    """One label more in a project of 100,000 tasks: written, read, refitted, scored, ranked; in the real stores."""
    with tempfile.TemporaryDirectory(prefix="ls-backend-speed-") as folder:
        project = Labelling(Path(folder))
        project.label_next()  # the first time reads all embeddings
        steps = [project.label_next() for _ in range(repeat)]
        project.context.close()
    totals = [sum(step.values()) for step in steps]
    middle = {name: statistics.median(step[name] for step in steps) for name in steps[0]}
    name = f"re-rank after a label, n={N_POOL:,} d=1280, {N_LABELS_OF_HEAD} labels, k={K:,}"
    figure = ", ".join(f"{step} {seconds:.2f}" for step, seconds in middle.items())
    holds = statistics.median(totals) <= BAR_RERANK_S
    return [Bar(name, totals, [], figure, f"at most {BAR_RERANK_S:g} s", holds)]


PARTS: dict[str, Callable[[int], list[Bar]]] = {
    "kcenter": kcenter,
    "radius": radius,
    "combined": combined,
    "million": million,
    "rerank": rerank_project,
}


class Labelling:
    """A project of synthetic embeddings with 500 labels, a fifth of them hold-out, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.context = Context(Settings(data_dir=folder))
        classes = tuple(f"class {number}" for number in range(N_CLASSES))
        self.schema = LabelSchema("image", (Control("answer", "choices", "image", classes),))
        self.project_id = 1
        backbone = self.context.backbone(DEFAULT_BACKBONE)
        embeddings, clusters = clustered(N_POOL, backbone.dim, np.random.default_rng(0))
        self.truth = [classes[cluster % N_CLASSES] for cluster in clusters.tolist()]
        hashes = [hashlib.sha256(str(row).encode()).hexdigest() for row in range(N_POOL)]
        store = self.context.store
        store.projects.ensure(self.project_id)
        self.context.vectors.append(backbone.identity, backbone.dim, hashes, embeddings)
        store.tasks.upsert(self.project_id, map(self._task, range(N_POOL)), image_field="image")
        store.tasks.set_content(self.project_id, dict(enumerate(hashes)))
        self.order = np.random.default_rng(1).permutation(N_POOL).tolist()
        for _ in range(N_LABELS_OF_HEAD):
            self._label(self.order.pop())
        labelled = [task.task_id for task in store.tasks.labelled(self.project_id)]
        store.tasks.set_holdout(self.project_id, labelled[::5])

    def label_next(self) -> dict[str, float]:
        """Label one task and return the seconds of each step up to the new order."""
        context, seconds = self.context, {}
        seconds["store"], _ = timed(lambda: self._label(self.order.pop()))
        project = context.project(self.project_id)
        seconds["load"], seen = timed(lambda: view(context, project, self.schema, DEFAULT_BACKBONE))
        seconds["refit"], model = timed(
            lambda: retrain.retrain(context, project, self.schema, seen.labelled, seen.standardiser)
        )
        if model.version.state != "promoted":
            more, model = timed(lambda: retrain.serving_model(context, self.project_id))
            seconds["refit"] += more
        seconds["rank"], _ = timed(lambda: rerank.rerank(context, project, self.schema, seen, model, K))
        return seconds

    def _label(self, task_id: int) -> None:
        store = self.context.store.tasks
        store.upsert(self.project_id, [self._task(task_id, labelled=True)], image_field="image")
        store.set_labels(self.project_id, {task_id: (self.truth[task_id], None)})

    def _task(self, task_id: int, *, labelled: bool = False) -> Task:
        now = datetime.now(UTC)
        choice = {"from_name": "answer", "to_name": "image", "type": "choices"}
        result = ({**choice, "value": {"choices": [self.truth[task_id]]}},)
        made = Annotation(
            annotation_id=task_id,
            task_id=task_id,
            result=result,
            was_cancelled=False,
            ground_truth=False,
            completed_by=1,
            created_at=now,
            updated_at=now,
        )
        data = {"image": f"/data/{task_id}.png"}
        return Task(task_id, data, now, labelled, int(labelled), 0, (made,) if labelled else ())


def clustered(n: int, d: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw unit vectors (n, d) from Gaussian clusters with a falling spectrum, and the cluster (n,) of each."""
    spectrum = 1.0 / np.sqrt(1.0 + np.arange(d))
    spectrum /= np.linalg.norm(spectrum)
    centres = rng.standard_normal((N_CLUSTERS, d)) * spectrum
    clusters = rng.choice(N_CLUSTERS, n, p=rng.dirichlet(np.ones(N_CLUSTERS)))
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0].astype(np.float32)
    points = np.empty((n, d), dtype=np.float32)
    for start in range(0, n, 8192):
        block = centres[clusters[start : start + 8192]]
        block = block + 0.7 * spectrum * rng.standard_normal(block.shape)
        points[start : start + 8192] = _unit(block.astype(np.float32) @ turn)
    return points, clusters


def even(n: int, d: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw unit vectors (n, d) evenly over the sphere, and a group (n,) for each that means nothing."""
    return _unit(rng.standard_normal((n, d), dtype=np.float32)), rng.integers(0, N_CLUSTERS, n)


def _unit(points: np.ndarray) -> np.ndarray:
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def given_input(kind: Callable[..., tuple[np.ndarray, np.ndarray]], n: int, d: int, seed: int = 0) -> Input:
    """Draw embeddings, and what a model of fair quality might believe about them."""
    rng = np.random.default_rng(seed)
    embeddings, clusters = kind(n, d, rng)
    logits = rng.standard_normal((n, N_CLASSES), dtype=np.float32)
    logits[np.arange(n), clusters % N_CLASSES] += 2.5
    probabilities = np.exp(logits)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return Input(embeddings, probabilities)


def ours_picks(data: Input, plan: Plan, *, with_model: bool) -> np.ndarray:
    """Make the pool, rank it and return the rows picked."""
    return N_LABELLED + rank(data.pool(with_model=with_model), plan, K, np.random.default_rng(0)).indices


def peer(data: Input, *, with_model: bool) -> Callable[[], Callable[[], list[int]]] | None:
    """Return what hands the input to lightly-mundig and returns what runs the selection; None if not installed.

    A selection that has run once remembers its picks, so every run needs a fresh one.
    """
    try:
        from lightly_mundig import Selection  # noqa: PLC0415 - an extra
    except ImportError:
        print(
            '!! lightly-mundig is NOT INSTALLED: no ratio is measured. Run: pip install -e ".[bench]"', file=sys.stderr
        )
        return None
    top = np.sort(data.probabilities, axis=1)[:, -2:]
    margins = (1.0 - (top[:, 1] - top[:, 0])).tolist()
    embeddings, probabilities = data.embeddings.tolist(), data.probabilities.tolist()
    before = list(range(N_LABELLED))

    def fresh() -> Callable[[], list[int]]:
        selection = Selection()
        selection.add_diversifying_strategy(embeddings, 1.0)
        if with_model:
            selection.add_weighting_strategy(margins, 1.0)
            selection.add_balancing_strategy(probabilities, [1.0 / N_CLASSES] * N_CLASSES, 1.0)
        return lambda: selection.run_selection(before, len(embeddings), N_LABELLED + K)

    return fresh


def in_turns(
    data: Input, plan: Plan, *, with_model: bool, repeat: int
) -> tuple[list[float], list[float], list[np.ndarray]]:
    """Time both sides in turns; return the seconds of each and the rows each has picked."""
    theirs = peer(data, with_model=with_model)
    seconds: tuple[list[float], list[float]] = ([], [])
    picked: list[Any] = []
    for _ in range(repeat):
        spent, rows = timed(lambda: ours_picks(data, plan, with_model=with_model))
        seconds[0].append(spent)
        picked = [rows]
        if theirs is not None:
            spent, everything = timed(theirs())
            seconds[1].append(spent)
            picked.append(np.array([row for row in everything if row >= N_LABELLED]))
    return *seconds, picked


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds some work took, and what it returned."""
    started = time.perf_counter()
    made = work()
    return time.perf_counter() - started, made


def retraced(data: Input, picked: np.ndarray) -> tuple[int, float]:
    """Follow picks in float64: how many were not the farthest row at their turn, and the cover radius in the end."""
    points = data.embeddings.astype(np.float64)
    lengths = np.einsum("ij,ij->i", points, points)
    nearest = np.full(len(points), np.inf)
    strays = 0
    order = np.concatenate([np.arange(N_LABELLED), picked])
    for start in range(0, len(order), 100):
        centres = order[start : start + 100]
        squares = lengths[centres, None] + lengths - 2.0 * (points[centres] @ points.T)  # (100, n)
        for position, (row, distances) in enumerate(zip(centres, squares, strict=True), start):
            if position >= N_LABELLED:
                strays += nearest[row] < nearest.max() * (1 - ROUNDING) ** 2
            np.minimum(nearest, np.maximum(distances, 0.0), out=nearest)
    return int(strays), float(np.sqrt(nearest.max()))


def ratio_bar(name: str, ours: list[float], theirs: list[float], bound: float) -> Bar:
    """Judge how many times faster than the peer it was."""
    words = f"at least {bound:g} x faster"
    if not theirs:
        return Bar(name, ours, [], "no peer", words, None)
    ratio = statistics.median(theirs) / statistics.median(ours)
    return Bar(name, ours, theirs, f"{ratio:.1f} x faster", words, ratio >= bound)


def memory_bar(preset: str, n: int, d: int) -> Bar:
    """Judge the memory of a ranking above that of its input, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as process:
        peak = process.apply(peak_memory_mb, (preset, n, d))
    words = f"at most {BAR_MEMORY_MB:g} MB"
    name = f"  peak memory above the input, {preset}, n={n:,} d={d}"
    return Bar(name, [], [], f"{peak:.0f} MB", words, peak <= BAR_MEMORY_MB)


def peak_memory_mb(preset: str, n: int, d: int) -> float:
    """Rank once and return how far the resident memory of this process rose above that with the pool in place."""
    pool = given_input(clustered, n, d).pool(with_model=True)
    before = _status_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    rank(pool, COMBINED if preset == "auto" else Plan.preset(preset), K, np.random.default_rng(0))
    return _status_mb("VmHWM") - before


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


def _machine() -> str:
    names = ("numpy", "scikit-learn", "torch", "lancedb", "sqlalchemy", "lightly-mundig")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} missing")
    cores = len(os.sched_getaffinity(0))
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return (
        f"{cores} cores of {model}, load {os.getloadavg()[0]:.1f} at the start; Python {platform.python_version()}, "
        + ", ".join(versions)
    )


def _print(bar: Bar) -> None:
    verdict = {True: "holds", False: "MISSED", None: "NOT MEASURED"}[bar.holds]
    times = f"{statistics.median(bar.seconds):7.2f} s" if bar.seconds else " " * 9
    theirs = f"{statistics.median(bar.peer_seconds):7.2f} s" if bar.peer_seconds else " " * 9
    print(f"{bar.name:<62} {times} {theirs}  {bar.figure:<28} {bar.bar:<22} {verdict}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
