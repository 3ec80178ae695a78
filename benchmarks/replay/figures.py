"""Curves in a file, and the table of what they say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ls_backend.engine.backtest import Curve
from ls_backend.engine.savings import Interval, Metric, area, area_gain, labels_saved

BASE = "random"
MARKS = (50, 100)
"""Numbers of labels, beside the last, at which the table says how good the model was."""


@dataclass(frozen=True, order=True)
class Key:
    """What was replayed.

    Attributes:
        data: Name of the data set.
        batch: Labels a round.
        plan: A preset, or "package:strategy".
        seed: Of the split and of everything random after it.
    """

    data: str
    batch: int
    plan: str
    seed: int


@dataclass(frozen=True, eq=False)
class Record:
    """A curve and how it was made.

    Attributes:
        curve: The replay.
        seconds: What it took.
        version: Of the package the strategy comes from.
    """

    curve: Curve
    seconds: float
    version: str


class Runs:
    """Curves in a file of JSON lines, added one by one, so that a benchmark that is cut goes on where it was.

    Attributes:
        path: The file; it need not exist.
        records: What it holds; of two lines for one key the later one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[Key, Record] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            found = json.loads(line)
            self.records[Key(*found["key"])] = Record(_curve(found), found["seconds"], found["version"])

    def add(self, key: Key, record: Record) -> None:
        """Append a record to the file."""
        self.records[key] = record
        found = {
            "key": [key.data, key.batch, key.plan, key.seed],
            **{name: values.tolist() for name, values in vars(record.curve).items()},
            "seconds": round(record.seconds, 2),
            "version": record.version,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(found) + "\n")

    def holds(self, key: Key, rounds: int) -> bool:
        """Say whether a curve of at least so many rounds is there."""
        return key in self.records and len(self.records[key].curve.n_labels) >= rounds

    def of(self, data: str, batch: int, rounds: int, plans: Sequence[str]) -> dict[str, dict[int, Record]]:
        """Return plan to seed to record, of exactly so many rounds: the first of those that have more."""
        found: dict[str, dict[int, Record]] = {}
        for key in sorted(self.records):
            if (key.data, key.batch) == (data, batch) and key.plan in plans and self.holds(key, rounds):
                record = self.records[key]
                found.setdefault(key.plan, {})[key.seed] = replace(record, curve=_beginning(record.curve, rounds))
        return found


def _curve(found: Mapping[str, Any]) -> Curve:
    whole = {name: np.array(found[name], dtype=np.int64) for name in ("n_labels", "picked")}
    parts = {name: np.array(found[name]) for name in ("accuracy", "balanced_accuracy", "log_loss")}
    return Curve(**whole, **parts)


def _beginning(curve: Curve, rounds: int) -> Curve:
    n = int(curve.n_labels[rounds - 1])
    return Curve(**{name: values[: n if name == "picked" else rounds] for name, values in vars(curve).items()})


def table(found: Mapping[str, Mapping[int, Record]], metric: Metric, versus: str) -> str:
    """Compare plans in a Markdown table, the largest area under the learning curve (AULC) first.

    Args:
        found: Plan to seed to record, at least one, all with the same rounds.
        metric: What the area is of.
        versus: The plan all are compared with, on the seeds both have.

    Returns:
        A row a plan: seeds; mean AULC and its standard error; the metric along the way; labels needed for what random
        labels reach in the end; how far the AULC of `versus` lies above, with a 95 % interval paired by seed, and on
        how many of the seeds it does; median seconds of a replay.
    """
    curves = {plan: {seed: record.curve for seed, record in records.items()} for plan, records in found.items()}
    areas = {plan: area(list(each.values()), metric).value for plan, each in curves.items()}
    n_labels = next(iter(next(iter(curves.values())).values())).n_labels.tolist()
    marks = [n for n in (*MARKS, n_labels[-1]) if n in n_labels]
    heads = ["plan", "seeds", "AULC", *(f"at {n}" for n in marks), f"labels for {BASE}'s end"]
    rows = [[*heads, f"{versus} minus it", "wins", "seconds"]]
    rows += [["---"] * len(rows[0])]
    for plan in sorted(areas, key=lambda name: -areas[name]):
        own = np.array([getattr(curve, metric) for curve in curves[plan].values()])  # (s, r)
        spread = own.mean(axis=1).std(ddof=1) / np.sqrt(len(own)) if len(own) > 1 else np.nan
        rows.append(
            [plan, str(len(own)), f"{areas[plan]:.4f} ± {spread:.4f}"]
            + [f"{own[:, n_labels.index(n)].mean():.3f}" for n in marks]
            + [_needed(curves[plan], curves.get(BASE, {}), metric)]
            + _lead(curves.get(versus, {}), curves[plan], metric)
            + [f"{np.median([record.seconds for record in found[plan].values()]):.0f}"]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _needed(curves: Mapping[int, Curve], base: Mapping[int, Curve], metric: Metric) -> str:
    seeds = sorted(curves.keys() & base.keys())
    if not seeds:
        return ""
    saving = labels_saved([curves[seed] for seed in seeds], [base[seed] for seed in seeds], metric)
    return "never" if saving.labels is None else f"{saving.labels:.0f}"


def _lead(ours: Mapping[int, Curve], theirs: Mapping[int, Curve], metric: Metric) -> list[str]:
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds or ours == theirs:
        return ["", ""]
    pairs = [ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]
    gain: Interval = area_gain(*pairs, metric)
    wins = sum(getattr(a, metric).mean() > getattr(b, metric).mean() for a, b in zip(*pairs, strict=True))
    between = f" [{gain.low:+.4f}, {gain.high:+.4f}]" if np.isfinite(gain.low) else ""
    return [f"{gain.value:+.4f}{between}", f"{wins} of {len(seeds)}"]
