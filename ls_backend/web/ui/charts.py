"""What workers have found out, as pictures: how unsure the model is, how honest, and where the tasks lie."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ls_backend.web.ui.plane import Plane, round_above

STATES = ("rest", "labelled", "next")
"""Of the points of a map, in the order in which they are drawn: what comes next lies on top."""

_LARGEST = 11.0  # radius of the bin with most answers
_SMALLEST = 2.5


@dataclass(frozen=True)
class Column:
    """One bin of a histogram.

    Attributes:
        x: Left edge.
        y: Upper edge.
        width: In units of the picture.
        height: Likewise; 0 where nothing is.
        low: Smallest value of the bin.
        high: Largest.
        count: Tasks in it.
    """

    x: float
    y: float
    width: float
    height: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Histogram:
    """How many tasks have which value.

    Attributes:
        plane: Where it is drawn: values across, tasks up.
        columns: From the smallest values to the largest.
        n: Tasks in all of them.
        levels: Numbers of tasks that are written at the side.
    """

    plane: Plane
    columns: tuple[Column, ...]
    n: int
    levels: tuple[int, ...]

    @property
    def median_bin(self) -> Column | None:
        """The bin with the middle task in it; None without any task."""
        seen = 0
        for column in self.columns:
            seen += column.count
            if self.n and 2 * seen >= self.n:
                return column
        return None


@dataclass(frozen=True)
class Disc:
    """Answers of similar confidence.

    Attributes:
        x: By their mean confidence.
        y: By the share of them that are right.
        r: The area goes with the number of answers, but for the smallest.
        confidence: 0 to 1.
        accuracy: 0 to 1.
        n: Answers.
    """

    x: float
    y: float
    r: float
    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy: on the diagonal the model is as often right as it says.

    Attributes:
        plane: Where it is drawn: confidence across, accuracy up.
        discs: By confidence.
        n: Answers in all of them.
    """

    plane: Plane
    discs: tuple[Disc, ...]
    n: int


@dataclass(frozen=True)
class Point:
    """A task in the map.

    Attributes:
        x: Whole units of the picture.
        y: Likewise.
        label: What it was answered as; None where it was not.
        content_hash: Of its image or text.
        text: How its text begins; None for an image.
    """

    x: int
    y: int
    task_id: int
    label: str | None
    content_hash: str
    text: str | None

    @property
    def code(self) -> str:
        """The hash in 43 characters, not 64: written 2,000 times, it is half of the page."""
        return base64.urlsafe_b64encode(bytes.fromhex(self.content_hash)).decode().rstrip("=")


@dataclass(frozen=True)
class Map:
    """Where the tasks lie: near is alike.

    Attributes:
        plane: Where it is drawn; its directions have no meaning of their own.
        points: By state, in the order of `STATES`.
        labels: How many of the labelled ones have which label, most frequent first.
    """

    plane: Plane
    points: Mapping[str, tuple[Point, ...]]
    labels: tuple[tuple[str, int], ...]

    @property
    def n(self) -> int:
        """Tasks in it."""
        return sum(len(points) for points in self.points.values())


def histogram(content: Mapping[str, Any]) -> Histogram:
    """Lay out the insight "uncertainty"."""
    edges, counts = content["edges"], content["counts"]
    plane = Plane(across=(edges[0], edges[-1]), up=(0, round_above(max(counts))))
    floor = plane.y(0)
    columns = tuple(
        Column(
            x=plane.x(low),
            y=plane.y(count),
            width=round(plane.x(high) - plane.x(low) - 1, 1),  # a gap between neighbours
            height=round(floor - plane.y(count), 1),
            low=low,
            high=high,
            count=count,
        )
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    )
    top = round_above(max(counts))
    return Histogram(plane, columns, sum(counts), tuple(top * quarter // 4 for quarter in range(5)))


def reliability(content: Mapping[str, Any]) -> Reliability:
    """Lay out the insight "calibration"."""
    plane = Plane(width=390, height=346, right=46, top=14)  # room for the discs in the corner, and their numbers
    most = max(one["n"] for one in content["bins"])
    discs = tuple(
        Disc(
            x=plane.x(one["confidence"]),
            y=plane.y(one["accuracy"]),
            r=round(max(_LARGEST * math.sqrt(one["n"] / most), _SMALLEST), 1),
            **one,
        )
        for one in content["bins"]
    )
    return Reliability(plane, discs, sum(disc.n for disc in discs))


def map_of(content: Mapping[str, Any], texts: Mapping[int, str]) -> Map:
    """Lay out the insight "map"; whole units are fine enough for 2,000 points.

    Args:
        content: Of the insight.
        texts: How the texts of tasks begin, by task id; none for images.
    """
    plane = Plane(width=960, height=600, left=12, right=12, top=12, bottom=12)
    found: dict[str, list[Point]] = {state: [] for state in STATES}
    columns = (content[name] for name in ("points", "task_ids", "states", "labels", "hashes"))
    for (across, up), task_id, state, label, content_hash in zip(*columns, strict=True):
        point = Point(round(plane.x(across)), round(plane.y(up)), task_id, label, content_hash, texts.get(task_id))
        found[state].append(point)
    labels = Counter(point.label for point in found["labelled"] if point.label is not None)
    return Map(plane, {state: tuple(points) for state, points in found.items()}, tuple(labels.most_common()))
