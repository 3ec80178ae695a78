"""Learning curves as pictures: where the points and intervals of each go, in the units of an SVG view box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ls_backend.engine.progress import CurvePoint

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 28
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
        dots: Promoted versions, by labels.
        path: The line through them, as the `points` of a polyline.
        ticks: (x, labels) along the bottom.
        levels: (y, share) up the side.
    """

    title: str
    dots: tuple[Dot, ...]
    path: str
    ticks: tuple[tuple[float, int], ...]
    levels: tuple[tuple[float, float], ...]


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


def _draw(control: str, metric: str, group: list[CurvePoint]) -> Drawn:
    ordered = sorted(group, key=lambda point: (point.n_labels, point.made_at))
    step = -(-len(ordered) // POINTS_DRAWN)
    shown = ordered[::-step][::-1]  # the newest is always there
    most = max(point.n_labels for point in shown) or 1

    def x(labels: int) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * labels / most, 1)

    def y(share: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - share), 1)

    dots = tuple(
        Dot(
            x(point.n_labels),
            y(point.value),
            None if point.low is None else y(point.low),
            None if point.high is None else y(point.high),
            point,
        )
        for point in shown
    )
    name = metric.replace("_", " ")
    return Drawn(
        title=f"{control}: {name}" if control else name,
        dots=dots,
        path=" ".join(f"{dot.x},{dot.y}" for dot in dots),
        ticks=tuple((x(labels), labels) for labels in sorted({0, most // 2, most})),
        levels=tuple((y(share), share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)),
    )
