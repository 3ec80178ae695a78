"""Label Studio after hundreds of flips: is it as quick as before, and can an old editor still submit?

A real Label Studio, a project of digits, and windows published, flipped and collected by the product's own functions
and rules. Somebody labels every few flips; somebody else's editor has held a task since the first window.

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
from datetime import UTC, datetime
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

SAMPLES = 10
PROBE = "probe"
MAX_OLD_ROWS = 5_000
MAX_SLOWDOWN = 3.0
"""At the end a step may take this many times what it took at the start; a busy machine alone doubles it."""


@dataclass
class Figures:
    """What was measured.

    Attributes:
        start: Step -> median seconds before the flips.
        end: The same after them.
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
    start: dict[str, float] = field(default_factory=dict)
    end: dict[str, float] = field(default_factory=dict)
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
        figures = Bench(Path(folder) / "data", studio, given.annotators, given.shuffle, given.seed).run(given.flips)
    if given.json is not None:
        given.json.write_text(json.dumps(asdict(figures), indent=2) + "\n")
    broken = _broken(figures)
    _print(figures, broken)
    return 1 if broken else 0


class Bench:
    """One project that is flipped over and over."""

    def __init__(self, data_dir: Path, studio: LabelStudioServer, annotators: int, shuffle: float, seed: int) -> None:
        settings = Settings(data_dir=data_dir, label_studio_url=studio.url, label_studio_api_key=studio.token)
        self.context = Context(settings)
        self.client = studio.client()
        people = [
            Client(studio.url, self.client.create_user(f"annotator{number}@example.com", f"secret-word-{number}"))
            for number in range(annotators + 1)
        ]
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

    def run(self, flips: int) -> Figures:
        """Measure, flip, measure again."""
        figures = Figures(flips=flips, labels=0, annotators=len(self.labelling) + 1)
        started = time.perf_counter()
        self.flip()
        opened = self.holder.next_task(self.pid)
        assert opened is not None
        shown = int(opened["predictions"][0]["id"])
        figures.start = self.measure()
        steps: list[dict[str, float]] = []
        for number in range(flips):
            if number % LABEL_EVERY == 0:
                self.label(self.labelling[self.labels % len(self.labelling)])
                sync(self.context, self.pid)
            steps.append(self.flip())
            if number % 50 == 0:
                figures.most_old_rows = max(figures.most_old_rows, self.old_rows()[0])
                print(
                    f"{number} flips, {time.perf_counter() - started:.0f} s, {figures.most_old_rows} old rows at most"
                )
        figures.during = {name: statistics.median(one[name] for one in steps[-30:]) for name in steps[-1]}
        figures.end = self.measure()
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

    def label(self, client: Client) -> None:
        """Submit what Label Studio serves, as its page does."""
        task = client.next_task(self.pid)
        assert task is not None, "Label Studio has no task left"
        shown = next(iter(task["predictions"]), None)
        client.submit(task["id"], self.result_of(task["id"]), parent_prediction=shown and int(shown["id"]))
        client.next_task(self.pid)  # the page asks at once
        self.labels += 1

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
        return label_config.make_result(self.schema, self.truth[task_id], 1.0)

    # -- what is measured --

    def measure(self) -> dict[str, float]:
        """Return the median seconds of each step, tried alone; leaves nothing behind."""
        in_force = self.client.project(self.pid).model_version
        tasks = sorted(self.context.store.tasks.available(self.pid), key=self.value.__getitem__)[:WINDOW]
        seconds: dict[str, list[float]] = {name: [] for name in ("import", "flip", "next", "collect")}
        for number in range(SAMPLES):
            version = f"{PROBE}:{number}"
            rows = [Prediction(t, (), (rank + 0.5) / len(tasks), version) for rank, t in enumerate(tasks)]
            seconds["import"].append(_timed(lambda rows=rows: self.client.import_predictions(self.pid, rows)))
            seconds["flip"].append(_timed(lambda version=version: publish.flip(self.client, self.pid, version)))
            seconds["next"].append(_timed(lambda: self.labelling[0].next_task(self.pid)))
            publish.flip(self.client, self.pid, in_force)
            keep = tasks[:3]
            seconds["collect"].append(
                _timed(lambda version=version, keep=keep: publish.collect(self.client, self.pid, version, keep))
            )
        self._tidy(tasks)
        return {name: statistics.median(values) for name, values in seconds.items()}

    def _tidy(self, tasks: list[int]) -> None:
        """Delete the kept rows of the probes; the product's own are on record."""
        now = datetime.now(UTC)
        ours = {row.prediction_id for row in self.context.store.windows.kept_rows(self.pid, older_than=now)}
        for row in self.client.predictions(self.pid, publish.KEPT_VERSION):
            if row.prediction_id not in ours and row.task_id in tasks:
                self.client.delete_prediction(row.prediction_id)

    def old_rows(self) -> tuple[int, dict[str, int]]:
        """Return how many predictions are not of the version in force, and all counts by version."""
        counts = self.client.version_counts(self.pid)
        in_force = self.client.project(self.pid).model_version
        return sum(count for version, count in counts.items() if version != in_force), counts


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
    for name, before in figures.start.items():
        if figures.end[name] > MAX_SLOWDOWN * before + 0.1:
            reasons.append(f"{name} takes {figures.end[name]:.2f} s at the end, {before:.2f} s at the start")
    return reasons


def _print(figures: Figures, broken: list[str]) -> None:
    print(f"\n{figures.flips} flips and {figures.labels} labels in {figures.seconds:.0f} s; medians in ms")
    print(f"{'':18}{'start':>8}{'end':>8}")
    for name, before in figures.start.items():
        print(f"{name:18}{1000 * before:8.0f}{1000 * figures.end[name]:8.0f}")
    print(", ".join(f"{name} {1000 * value:.0f} ms" for name, value in figures.during.items()) + " (last flips)")
    print(f"old prediction rows: {figures.old_rows} at the end, {figures.most_old_rows} at most (bound {MAX_OLD_ROWS})")
    print(f"kept for editors: {figures.versions.get(publish.KEPT_VERSION, 0)}")
    print(f"held since the first window: row {'there' if figures.held_row_exists else 'GONE'}, ", end="")
    print("submit accepted" if figures.held_submits else f"submit REFUSED {figures.held_error}")
    for reason in broken:
        print(f"BROKEN: {reason}")


if __name__ == "__main__":
    sys.exit(main())
