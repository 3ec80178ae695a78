"""Polygons and pixels: the pixels a ring of points encloses, and a ring of points around a mask.

Coordinates are pixels with the origin at the upper left corner of the image, so that the centre of the first pixel is
(0.5, 0.5). A ring is (n, 2) float64, x and y, and closes by itself.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]

_EDGES_AT_ONCE = 1000
_STEPS = (0.5, 0.25)
"""How far a simplified ring may stray from the border, in pixels."""
_MIN_IOU = 0.99
_FINE = 3
"""What a ring encloses is measured on pixels a third as large: a corner it cuts off shows there."""
_LARGE = 1_000_000
"""Pixels from which on that is not worth it: no corner matters any more."""


class Winding(NamedTuple):
    """How often a ring goes round the centre of each pixel.

    Attributes:
        left: Column of the image where `turns` begins.
        top: Row of the image where `turns` begins.
        turns: (h, w) int16, 0 = outside.
    """

    left: int
    top: int
    turns: NDArray[np.int16]

    @property
    def crosses(self) -> bool:
        """Whether the ring crosses itself, as far as pixels show it: some places then lie on neither side."""
        least, most = self.turns.min(initial=0), self.turns.max(initial=0)
        return bool(most - least > 1)


def wind(ring: Ring, width: int, height: int) -> Winding:
    """Count how often a ring goes round the centre of each pixel, without smoothing.

    A canvas, hence Label Studio's editor, fills the places where this is not 0.  O(n rows + pixels of the hull).

    Args:
        ring: (n, 2).
        width: Of the image, pixels; what lies outside is cut off.
        height: Of the image, pixels.
    """
    size = np.array([width, height])
    left, top = np.clip(np.floor(ring.min(axis=0)), 0, size).astype(int).tolist()
    right, bottom = np.clip(np.ceil(ring.max(axis=0)), 0, size).astype(int).tolist()
    turns = np.zeros((bottom - top, right - left + 1), np.int16)
    following = np.roll(ring, -1, axis=0)
    down = following[:, 1] > ring[:, 1]
    # From the upper end to the lower one whatever the direction, so that an edge there and back cancels exactly.
    (x1, y1), (x2, y2) = np.where(down[:, None], ring, following).T, np.where(down[:, None], following, ring).T
    first = np.clip(np.ceil(y1 - 0.5), top, bottom).astype(int)
    n_rows = np.clip(np.ceil(y2 - 0.5), top, bottom).astype(int) - first
    slope = (x2 - x1) / np.where(y2 > y1, y2 - y1, 1.0)
    for start in range(0, len(ring), _EDGES_AT_ONCE):
        counts = n_rows[start : start + _EDGES_AT_ONCE]
        edge = np.repeat(np.arange(start, start + counts.size), counts)
        row = first[edge] + np.arange(edge.size) - np.repeat(np.cumsum(counts) - counts, counts)
        x = x1[edge] + (row + 0.5 - y1[edge]) * slope[edge]
        column = np.clip(np.ceil(x - 0.5), left, right).astype(int)
        np.add.at(turns, (row - top, column - left), np.where(down[edge], 1, -1).astype(np.int16))
    np.cumsum(turns, axis=1, out=turns)
    return Winding(left, top, turns[:, :-1])


def outline(mask: NDArray[np.bool_]) -> Ring:
    """Draw one simplified ring around a mask, with its holes.

    Polygons of Label Studio have no holes. So the ring goes over a bridge of no width to each hole, round it the other
    way and back: any rule of filling leaves the hole out. What the ring encloses has an IoU of about 0.99 or more with
    the mask, at this and at every larger size: of the simplifications that reach it, and the edges of the pixels, which
    always do, the one with the fewest points is taken.

    Args:
        mask: (h, w), one component whose pixels touch, at least by their corners.

    Returns:
        (n, 2) ring in pixels of the mask.
    """
    borders = _borders(mask)
    exact = [_corners(border) for border in borders]
    best = _bridged(exact[0], exact[1:])
    for step in _STEPS:
        rings = [_simplified(border, step) for border in borders]
        if len(rings[0]) > 2:
            ring = _bridged(rings[0], [hole for hole in rings[1:] if len(hole) > 2])
            if len(ring) < len(best) and _fits(ring, mask):
                return ring
    return best


def _borders(mask: NDArray[np.bool_]) -> list[NDArray[np.int32]]:
    """Follow the edges of the pixels round a component, then round each of its holes, one step for each edge.

    OpenCV's contours run through the centres of border pixels. On pixels split in 2 x 2 each of these is next to one
    corner of the undivided pixel, which is on the edge.
    """
    import cv2  # noqa: PLC0415 - needed for predictions only, and slow to load

    split = np.repeat(np.repeat(mask.astype(np.uint8), 2, axis=0), 2, axis=1)
    contours, tree = cv2.findContours(split, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    order = np.argsort(tree[0, :, 3] >= 0, kind="stable")  # the component, which has no parent, before its holes
    corners = [(contours[place][:, 0] + 1) // 2 for place in order]
    return [ring[np.any(ring != np.roll(ring, 1, axis=0), axis=1)] for ring in corners]


def _simplified(border: NDArray[np.int32], step: float) -> Ring:
    """Douglas-Peucker through the middles of the pixels' edges, of which slanting lines are made without stairs."""
    import cv2  # noqa: PLC0415 - see above

    doubled = border + np.roll(border, -1, axis=0)
    return np.asarray(cv2.approxPolyDP(doubled[:, None], 2 * step, closed=True)[:, 0] / 2.0, np.float64)


def _corners(border: NDArray[np.int32]) -> Ring:
    ahead, behind = np.roll(border, -1, axis=0) - border, border - np.roll(border, 1, axis=0)
    return border[np.any(ahead != behind, axis=1)].astype(np.float64)


def _bridged(ring: Ring, holes: list[Ring]) -> Ring:
    """Join holes to a ring, each from its leftmost point to the nearest point there is so far."""
    ring = _directed(ring, 1.0)
    for hole in (_directed(hole, -1.0) for hole in holes):
        around = np.roll(hole, -int(np.argmin(hole[:, 0])), axis=0)
        nearest = int(np.argmin(((ring - around[0]) ** 2).sum(axis=1)))
        ring = np.concatenate([ring[: nearest + 1], around, around[:1], ring[nearest:]])
    return ring


def _directed(ring: Ring, sign: float) -> Ring:
    x, y = ring.T
    area = float(x @ np.roll(y, -1) - y @ np.roll(x, -1))
    return ring if area * sign >= 0 else ring[::-1]


def _fits(ring: Ring, mask: NDArray[np.bool_]) -> bool:
    if mask.size < _LARGE:
        ring, mask = ring * _FINE, np.repeat(np.repeat(mask, _FINE, axis=0), _FINE, axis=1)
    height, width = mask.shape
    found = wind(ring, width, height)
    if found.crosses:
        return False
    inside = found.turns != 0
    rows, columns = inside.shape
    both = np.count_nonzero(inside & mask[found.top : found.top + rows, found.left : found.left + columns])
    return bool(both >= _MIN_IOU * (np.count_nonzero(inside) + np.count_nonzero(mask) - both))
