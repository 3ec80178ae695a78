"""Where values lie in a picture: the scales that all charts share, in the units of an SVG view box."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plane:
    """A picture with room for what stands at its axes.

    Attributes:
        across: Values at the left and the right edge; they differ.
        up: Values at the lower and the upper edge; they differ.
        width: Of the view box.
        height: Of the view box.
        left: Room for the texts of the upright axis.
        right: Room on the other side.
        top: Room above.
        bottom: Room for the texts of the other axis.
    """

    across: tuple[float, float] = (0.0, 1.0)
    up: tuple[float, float] = (0.0, 1.0)
    width: int = 640
    height: int = 240
    left: int = 44
    right: int = 12
    top: int = 10
    bottom: int = 28

    @property
    def edges(self) -> tuple[int, int, int, int]:
        """Left, right, upper and lower edge of what is drawn on."""
        return self.left, self.width - self.right, self.top, self.height - self.bottom

    def x(self, value: float) -> float:
        """Return where a value lies from left to right, to a tenth of a unit."""
        low, high = self.across
        return round(self.left + (self.width - self.left - self.right) * (value - low) / (high - low), 1)

    def y(self, value: float) -> float:
        """Return where a value lies from the top, to a tenth of a unit."""
        low, high = self.up
        return round(self.top + (self.height - self.top - self.bottom) * (high - value) / (high - low), 1)


def round_above(value: float) -> int:
    """Return the least of 4, 8, 12, 20, 40, 80, 120, ... that is not below a value: its quarters are whole numbers."""
    step = 4
    while True:
        for factor in (1, 2, 3, 5):
            if step * factor >= value:
                return step * factor
        step *= 10
