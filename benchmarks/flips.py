"""Label Studio after hundreds of flips: is it as quick as before, and can an old editor still submit?

A real Label Studio, a project of digits, and windows published, flipped and collected by the product's own functions
and rules. Somebody labels every few flips; somebody else's editor has held a task since the first window. At the end
each step is timed in that project and, in turns, in a new one with the same tasks and labels and a single window.

    .venv/bin/python benchmarks/flips.py --flips 500 --json flips.json

The exit status is 1 when a bound is broken.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ls_backend.demo.digits import CLASSES, LABEL_CONFIG, Digit, digits
from ls_backend.demo.label_studio import LabelStudioServer
from ls_backend.domain import LabelSchema, Prediction
from ls_backend.engine import publishing
from ls_backend.engine.context import Context
from ls_backend.engine.sync import sync
from ls_backend.errors import Rejected
from ls_backend.labelstudio import label_config, publish
from ls_backend.labelstudio.client import Client
from ls_backend.settings import Settings
from ls_backend.store import WindowRow

TASKS = 400
WINDOW = 60
LABEL_EVERY = 5
"""Flips between two labels. In real use there is about one flip a label: this is harder on what must be kept."""

SAMPLES = 30
PROBE = "probe"
MAX_OLD_ROWS = 5_000
MAX_SLOWDOWN = 1.5
"""A step may take this many times what it takes in a new project, beyond 20 ms."""


@dataclass
class Figures:
    """What was measured.

    Attributes:
        fresh: Step -> median seconds in a new project.
        used: The same in the project that was flipped so often.
        during: Step -> median seconds of the last flips, collection included.
        old_rows: Predictions left of versions that are not in force.
        most_old_rows: The most there were when counted on the way.
        held_row_exists: Whether the prediction an editor has shown since the first window is still there.
        held_submits: Whether that editor's submit is accepted.
    """

    flips: int
    labels: int
    annotators: int
    seconds: float = 0.0
    fresh: dict[str, float] = field(default_factory=dict)
    used: dict[str, float] = field(default_factory=dict)
    during: dict[str, float] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    old_rows: int = 0
    most_old_rows: int = 0
    held_row_exists: bool = False
    held_submits: bool = False
    held_error: str = ""


def main() -> int:
    """Run it and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--annotators", type=int, default=1, help="who label, besides the one with the old editor")
    parser.add_argument("--shuffle", type=float, default=3.0, help="ranks by which a task moves from flip to flip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="ls-backend-flips-", ignore_cleanup_errors=True) as folder,
        LabelStudioServer.start(Path(folder) / "label-studio") as studio,
    ):
        settings = Settings(
            data_dir=Path(folder) / "data", label_studio_url=studio.url, label_studio_api_key=studio.token
        )
        people = [
            Client(studio.url, studio.client().create_user(f"annotator{number}@example.com", f"secret-word-{number}"))
            for number in range(given.annotators + 1)
        ]
        used, fresh = (Bench(Context(settings), studio.client(), people, given.shuffle, given.seed) for _ in range(2))
        figures = used.run(given.flips, fresh)
    if given.json is not None:
        given.json.write_text(json.dumps(asdict(figures), indent=2) + "\n")
    broken = _broken(figures)
    _print(figures, broken)
    return 1 if broken else 0


class Bench:
    """One project that is flipped over and over."""

    def __init__(self, context: Context, client: Client, people: list[Client], shuffle: float, seed: int) -> None:
        self.context = context
        self.client = client
        self.holder, self.labelling = people[0], people[1:]
        self.shuffle = shuffle
        self.rng = np.random.default_rng(seed)
        self.schema: LabelSchema = label_config.parse(LABEL_CONFIG)
        self.pid = self.client.create_project("Flips", LABEL_CONFIG, sampling="Uncertainty sampling")
        self.truth = self._upload(digits(TASKS, seed))
        self.context.store.projects.ensure(self.pid)
        sync(self.context, self.pid)
        self.value = dict(zip(self.truth, self.rng.permutation(TASKS).astype(float), strict=True))
        self.labels = 0

    def _upload(self, items: list[Digit]) -> dict[int, str]:
        references = self.client.upload_files(self.pid, {item.name: item.png for item in items})
        task_ids = self.client.import_tasks(self.pid, [{"data": {"image": references[item.name]}} for item in items])
        return {task_id: item.label for task_id, item in zip(task_ids, items, strict=True)}

    def run(self, flips: int, fresh: Bench) -> Figures:
        """Flip, then measure beside a new project in which as much is labelled."""
        figures = Figures(flips=flips, labels=0, annotators=len(self.labelling) + 1)
        started = time.perf_counter()
        self.flip()
        opened = self.holder.next_task(self.pid)
        assert opened is not None
        shown = int(opened["predictions"][0]["id"])
        steps: list[dict[str, float]] = []
        for number in range(flips):
            if number % LABEL_EVERY == 0:
                self.label()
            steps.append(self.flip())
            if number % 50 == 0:
                figures.most_old_rows = max(figures.most_old_rows, self.old_rows()[0])
                print(
                    f"{number} flips, {time.perf_counter() - started:.0f} s, {figures.most_old_rows} old rows at most",
                    flush=True,
                )
        figures.during = {name: statistics.median(one[name] for one in steps[-30:]) for name in steps[-1]}
        fresh.flip()
        for _ in range(self.labels):
            fresh.label()
        fresh.flip()
        figures.fresh, figures.used = measure_in_turns(fresh, self)
        figures.old_rows, figures.versions = self.old_rows()
        figures.most_old_rows = max(figures.most_old_rows, figures.old_rows)
        figures.labels = self.labels
        held = self.client.get("/api/predictions/", {"task": opened["id"]})
        figures.held_row_exists = shown in {int(row["id"]) for row in held}
        try:
            self.holder.submit(opened["id"], self.result_of(opened["id"]), parent_prediction=shown)
            figures.held_submits = True
        except Rejected as error:
            figures.held_error = str(error)
        figures.seconds = time.perf_counter() - started
        return figures

    # -- what happens between two flips --

    def label(self) -> None:
        """Submit what Label Studio serves, as its page does."""
        client = self.labelling[self.labels % len(self.labelling)]
        task = client.next_task(self.pid)
        assert task is not None, "Label Studio has no task left"
        shown = next(iter(task["predictions"]), None)
        client.submit(task["id"], self.result_of(task["id"]), parent_prediction=shown and int(shown["id"]))
        client.next_task(self.pid)  # the page asks at once
        self.labels += 1
        sync(self.context, self.pid)

    def flip(self) -> dict[str, float]:
        """Publish a new order as an update does, flip to it and collect; return the seconds of each."""
        project = self.context.project(self.pid)
        with_order = _timed(lambda: self._publish(self.rows()))
        collected = _timed(lambda: publishing.collect(self.context, project, budget_s=1.0))
        return {"publish and flip": with_order, "collect": collected}

    def _publish(self, rows: list[WindowRow]) -> None:
        generation = self.context.store.projects.bump(self.pid)
        publishing.publish_window(
            self.context,
            self.context.project(self.pid),
            self.schema,
            rows,
            generation=generation,
            model_version_id=None,
            n_labels=self.labels,
        )

    def rows(self) -> list[WindowRow]:
        """Return the next window: every task's rank has moved a little, as after a new label."""
        for task_id in self.value:
            self.value[task_id] += float(self.rng.normal(0.0, self.shuffle))
        available = self.context.store.tasks.available(self.pid)
        chosen = sorted(available, key=self.value.__getitem__)[:WINDOW]
        probabilities = self.rng.dirichlet(np.ones(len(CLASSES)), size=len(chosen))
        return [
            WindowRow(task_id, rank, 0.0, {}, {}, "benchmark", tuple(probabilities[rank].tolist()))
            for rank, task_id in enumerate(chosen)
        ]

    def result_of(self, task_id: int) -> tuple[dict[str, Any], ...]:
        """Return the true answer of a task."""
        return label_config.make_result(self.schema.controls[0], [self.truth[task_id]], 1.0)

    # -- what is measured --

    def probe(self, number: int) -> dict[str, float]:
        """Return the seconds of each step, tried alone; leaves nothing behind."""
        in_force = self.client.project(self.pid).model_version
        tasks = sorted(self.context.store.tasks.available(self.pid), key=self.value.__getitem__)[:WINDOW]
        version = f"{PROBE}:{number}"
        rows = [Prediction(t, (), (rank + 0.5) / len(tasks), version) for rank, t in enumerate(tasks)]
        seconds = {
            "import": _timed(lambda: self.client.import_predictions(self.pid, rows)),
            "flip": _timed(lambda: publish.flip(self.client, self.pid, version)),
            "next": _timed(lambda: self.labelling[0].next_task(self.pid)),
        }
        publish.flip(self.client, self.pid, in_force)
        seconds["collect"] = _timed(lambda: publish.collect(self.client, self.pid, version, set()))
        return seconds

    def old_rows(self) -> tuple[int, dict[str, int]]:
        """Return how many predictions are not of the version in force, and all counts by version."""
        counts = self.client.version_counts(self.pid)
        in_force = self.client.project(self.pid).model_version
        return sum(count for version, count in counts.items() if version != in_force), counts


def measure_in_turns(*benches: Bench) -> list[dict[str, float]]:
    """Return step -> median seconds for each project, probed one after the other so that all see the same machine."""
    samples: list[list[dict[str, float]]] = [[] for _ in benches]
    for number in range(SAMPLES):
        for bench, taken in zip(benches, samples, strict=True):
            taken.append(bench.probe(number))
    return [{name: statistics.median(one[name] for one in taken) for name in taken[0]} for taken in samples]


def _timed(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def _broken(figures: Figures) -> list[str]:
    """Return the bounds that do not hold."""
    reasons = []
    if figures.most_old_rows > MAX_OLD_ROWS:
        reasons.append(f"{figures.most_old_rows} old prediction rows lay in Label Studio; at most {MAX_OLD_ROWS} may")
    if not figures.held_row_exists:
        reasons.append("the prediction that an editor has shown since the first window is gone")
    if not figures.held_submits:
        reasons.append(f"that editor could not submit: {figures.held_error}")
    for name, fresh in figures.fresh.items():
        if figures.used[name] > MAX_SLOWDOWN * fresh + 0.02:
            reasons.append(f"{name} takes {1000 * figures.used[name]:.0f} ms, {1000 * fresh:.0f} ms in a new project")
    return reasons


def _print(figures: Figures, broken: list[str]) -> None:
    print(f"\n{figures.flips} flips and {figures.labels} labels in {figures.seconds:.0f} s; medians in ms")
    print(f"{'':18}{'new':>8}{'used':>8}{'ratio':>8}")
    for name, fresh in figures.fresh.items():
        used = figures.used[name]
        print(f"{name:18}{1000 * fresh:8.0f}{1000 * used:8.0f}{used / fresh:8.2f}")
    print(", ".join(f"{name} {1000 * value:.0f} ms" for name, value in figures.during.items()) + " (last flips)")
    print(f"old prediction rows: {figures.old_rows} at the end, {figures.most_old_rows} at most (bound {MAX_OLD_ROWS})")
    print(f"kept for editors: {figures.versions.get(publish.KEPT_VERSION, 0)}")
    print(f"held since the first window: row {'there' if figures.held_row_exists else 'GONE'}, ", end="")
    print("submit accepted" if figures.held_submits else f"submit REFUSED {figures.held_error}")
    for reason in broken:
        print(f"BROKEN: {reason}")


if __name__ == "__main__":
    sys.exit(main())
