"""Learning curves as pictures: what was measured of a project's models, and what a replay of its labels gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ls_backend.engine.progress import CurvePoint
from ls_backend.web.ui.plane import Plane

POINTS_DRAWN = 200  # more are closer together than a pixel


@dataclass(frozen=True)
class Dot:
    """One model version in the picture.

    Attributes:
        x: Of the point and its interval.
        y: Of the value.
        low: y of the lower end of the interval; None without one.
        high: y of the upper end.
        point: What it stands for.
    """

    x: float
    y: float
    low: float | None
    high: float | None
    point: CurvePoint


@dataclass(frozen=True)
class Drawn:
    """One curve.

    Attributes:
        title: What was measured, and of what.
        plane: Where it is drawn: labels across, shares up.
        dots: Promoted versions, by labels.
        path: The line through them, as the `points` of a polyline.
        ticks: Labels that are written along the bottom.
    """

    title: str
    plane: Plane
    dots: tuple[Dot, ...]
    path: str
    ticks: tuple[int, ...]


@dataclass(frozen=True)
class Round:
    """One round of a replay: the mean over its seeds, and its interval where it has one."""

    n_labels: int
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Line:
    """The course of one plan in a replay.

    Attributes:
        name: Of the plan.
        rounds: By labels.
        path: The line through the means, as the `points` of a polyline.
        band: The intervals around it, as the `points` of a polygon; "" without any.
    """

    name: str
    rounds: tuple[Round, ...]
    path: str
    band: str


@dataclass(frozen=True)
class Replayed:
    """A replay of the labels of a project: in random order, and in that of its plan.

    Attributes:
        metric: What was measured.
        plane: Where it is drawn: labels across, shares up.
        lines: One a plan, the random one first.
        ticks: Labels that are written along the bottom.
    """

    metric: str
    plane: Plane
    lines: tuple[Line, ...]
    ticks: tuple[int, ...]


def drawn(points: Sequence[CurvePoint]) -> list[Drawn]:
    """Lay out one picture for each control and metric, of the versions that were put in force.

    Args:
        points: Any order; from `engine.progress.learning_curve`.
    """
    groups: dict[tuple[str, str], list[CurvePoint]] = {}
    for point in points:
        if point.state != "rejected":
            groups.setdefault((point.control or "", point.metric), []).append(point)
    return [_draw(control, metric, group) for (control, metric), group in groups.items()]


def replayed(content: Mapping[str, Any]) -> Replayed | None:
    """Lay out what a replay gave; None where it was refused.

    Args:
        content: Of the insight "savings", as `engine.advice.replay_savings` keeps it.
    """
    if content["refused"] is not None:
        return None
    n_labels: list[int] = content["n_labels"]
    plane = Plane(across=(0, n_labels[-1]))
    lines = tuple(_line(plane, one["name"], n_labels, one["mean"]) for one in content["plans"])
    return Replayed(content["metric"].replace("_", " "), plane, lines, _ticks(n_labels[-1]))


def _line(plane: Plane, name: str, n_labels: Sequence[int], means: Sequence[Mapping[str, Any]]) -> Line:
    rounds = tuple(Round(n, one["value"], one["low"], one["high"]) for n, one in zip(n_labels, means, strict=True))
    ends = [(one.n_labels, one.low) for one in rounds] + [(one.n_labels, one.high) for one in reversed(rounds)]
    band = [f"{plane.x(n)},{plane.y(end)}" for n, end in ends if end is not None]
    return Line(
        name=name,
        rounds=rounds,
        path=" ".join(f"{plane.x(one.n_labels)},{plane.y(one.value)}" for one in rounds),
        band=" ".join(band) if len(band) == len(ends) else "",
    )


def _draw(control: str, metric: str, group: list[CurvePoint]) -> Drawn:
    ordered = sorted(group, key=lambda point: (point.n_labels, point.made_at))
    step = -(-len(ordered) // POINTS_DRAWN)
    shown = ordered[::-step][::-1]  # the newest is always there
    most = max(point.n_labels for point in shown) or 1
    plane = Plane(across=(0, most))
    dots = tuple(
        Dot(
            plane.x(point.n_labels),
            plane.y(point.value),
            None if point.low is None else plane.y(point.low),
            None if point.high is None else plane.y(point.high),
            point,
        )
        for point in shown
    )
    name = metric.replace("_", " ")
    return Drawn(
        title=f"{control}: {name}" if control else name,
        plane=plane,
        dots=dots,
        path=" ".join(f"{dot.x},{dot.y}" for dot in dots),
        ticks=_ticks(most),
    )


def _ticks(most: int) -> tuple[int, ...]:
    return tuple(sorted({0, most // 2, most}))
