"""Generated photographs of coins, leaves and bolts, with the box and the outline of every object.

For benchmarks and tests of detection and segmentation: nothing to fetch, and the truth is exact. What tells the classes
apart is shape and texture; colours, sizes and lighting are drawn from the same ranges for all of them, and
backgrounds have texture of their own. As in a real pool a third of the scenes are near-duplicates of a few easy ones,
bolts are rare and tend to come together, and some scenes are empty.

A scene depends on its seed and number alone, not on how many others are made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES = ("coin", "leaf", "bolt")
SIDE_PX = 256

MOST_OBJECTS = 6
SHARES = (0.62, 0.32, 0.06)
"""Of the objects of an ordinary scene; with easy and rare scenes it comes to about 60 : 30 : 10 over all."""
KINDS: Mapping[str, float] = {"easy": 0.33, "ordinary": 0.47, "workshop": 0.12, "empty": 0.08}
"""What a scene is drawn as. A workshop has a bolt for certain; easy scenes come in series of near-duplicates."""
SERIES = 6

_REACH = (1.0, 1.3, 1.3)  # half the length of leaf and bolt, which are narrow, beside the radius of a coin
_LEAST_VISIBLE = 0.5  # of an object: with less of it in sight nobody could be asked to label it
_SERIES_STREAM = 1_000_000  # keeps the random numbers of a series apart from those of every scene

Floats = NDArray[np.float64]
Painter = Callable[[Floats, Floats, np.random.Generator], tuple[Floats, Floats]]


@dataclass(frozen=True, eq=False)
class Scene:
    """An image and what is in it, in the order of painting: of overlapping objects the later one is in front.

    Attributes:
        kind: One of `KINDS`.
        image: (h, w, 3) uint8 RGB.
        boxes: (b, 4) float32 left, top, right, bottom in pixels, around what is visible of each object.
        classes: (b,) int64 into `CLASSES`.
        class_map: (h, w) uint8, 0 = nothing, 1 + class elsewhere.
        instance_map: (h, w) uint8, 0 = nothing, 1 + row of `boxes` elsewhere.
    """

    kind: str
    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    class_map: NDArray[np.uint8]
    instance_map: NDArray[np.uint8]


@dataclass(frozen=True)
class _Pose:
    kind: int
    centre: tuple[float, float]
    radius: float
    angle: float
    squeeze: float
    colour: tuple[float, float, float]
    looks: int  # seed of what is random about its shape and texture


def scenes(n: int, *, seed: int, side_px: int = SIDE_PX) -> list[Scene]:
    """Make scenes 0 to n - 1 of a seed.  About 20 ms each at 256 px."""
    return [scene(index, seed=seed, side_px=side_px) for index in range(n)]


def scene(index: int, *, seed: int, side_px: int = SIDE_PX) -> Scene:
    """Make one scene: the same for the same seed, number and side.

    Args:
        index: Number of the scene.
        seed: Of the whole set.
        side_px: Width and height; sizes of objects go with it.

    Returns:
        Image and truth.
    """
    rng = np.random.default_rng([seed, index])
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    if kind == "easy":
        number = int(rng.integers(SERIES))
        series = np.random.default_rng([seed, _SERIES_STREAM + number])
        ground = _background(series, side_px)
        drawn = [_pose(series, side_px, (number + i) % 2) for i in range(int(series.integers(1, 3)))]
        poses = [_nudged(pose, rng, side_px) for pose in drawn]
    else:
        ground = _background(rng, side_px)
        poses = [_pose(rng, side_px, c) for c in _contents(kind, rng)]
    return _photograph(kind, ground, poses, rng)


def _contents(kind: str, rng: np.random.Generator) -> list[int]:
    """Classes of the objects, in the order of painting."""
    if kind == "empty":
        return []
    drawn = rng.choice(len(CLASSES), size=int(rng.integers(1, MOST_OBJECTS + 1)), p=SHARES)
    if kind == "workshop":
        drawn[: int(rng.integers(1, 3))] = CLASSES.index("bolt")
        rng.shuffle(drawn)
    return [int(c) for c in drawn]


def _pose(rng: np.random.Generator, side_px: int, kind: int) -> _Pose:
    return _Pose(
        kind=kind,
        centre=(float(rng.uniform(0.06, 0.94) * side_px), float(rng.uniform(0.06, 0.94) * side_px)),
        radius=float(_REACH[kind] * side_px * np.exp(rng.uniform(np.log(0.065), np.log(0.19)))),
        angle=float(rng.uniform(0, 2 * np.pi)),
        squeeze=float(rng.uniform(0.8, 1.0)),
        colour=_colour(rng),
        looks=int(rng.integers(2**31)),
    )


def _nudged(pose: _Pose, rng: np.random.Generator, side_px: int) -> _Pose:
    """The same object a moment later."""
    x, y = (float(value + rng.normal(0, 0.012 * side_px)) for value in pose.centre)
    angle = pose.angle + float(rng.normal(0, 0.08))
    return _Pose(pose.kind, (x, y), pose.radius, angle, pose.squeeze, pose.colour, pose.looks)


def _colour(rng: np.random.Generator) -> tuple[float, float, float]:
    """Anything from grey over earth to green, in 0 to 1: no class has a colour of its own."""
    earth = np.array([0.62, 0.5, 0.36]) + rng.normal(0, 0.13, 3)
    grey = np.full(3, rng.uniform(0.3, 0.8))
    r, g, b = np.clip(grey + rng.uniform(0, 1) * (earth - grey), 0.12, 0.92)
    return float(r), float(g), float(b)


def _photograph(kind: str, ground: Floats, poses: list[_Pose], rng: np.random.Generator) -> Scene:
    """Paint objects one after another; one that would hide another, or be hidden by the border, is left out."""
    side_px = len(ground)
    picture, instances, kept = ground.copy(), np.zeros((side_px, side_px), np.uint8), list[_Pose]()
    full = list[int]()  # pixels of each kept object when nothing was in front of it
    light_from = rng.uniform(0, 2 * np.pi)
    for pose in poses:
        cover, paint, whole = _painted(pose, side_px)
        own = cover > 0.5
        after = np.where(own, np.uint8(len(kept) + 1), instances)
        seen = np.bincount(after.ravel(), minlength=len(kept) + 2)[1:]
        if (seen < _LEAST_VISIBLE * np.array([*full, whole])).any():
            continue
        step = 0.12 * pose.radius
        shadow = _shifted(cover, step * np.cos(light_from), step * np.sin(light_from))
        picture *= 1.0 - 0.45 * shadow[..., None]
        picture += cover[..., None] * (paint - picture)
        instances = after
        kept.append(pose)
        full.append(whole)
    classes = np.array([pose.kind for pose in kept], np.int64)
    return Scene(
        kind=kind,
        image=_exposed(picture, rng),
        boxes=np.array([_bounds(instances == i + 1) for i in range(len(kept))], np.float32).reshape(-1, 4),
        classes=classes,
        class_map=np.concatenate([[0], classes + 1]).astype(np.uint8)[instances],
        instance_map=instances,
    )


def _bounds(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _shifted(cover: Floats, dx: float, dy: float) -> Floats:
    rolled: Floats = np.roll(cover, (round(dy), round(dx)), axis=(0, 1))
    return rolled


def _exposed(picture: Floats, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Uneven light, exposure and the noise of a sensor."""
    side_px = len(picture)
    y, x = np.mgrid[:side_px, :side_px] / side_px - 0.5
    angle, fall = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.5)
    light = rng.uniform(0.75, 1.2) * (1.0 + fall * (x * np.cos(angle) + y * np.sin(angle)))
    lit = np.clip(picture * light[..., None], 0, 1) ** rng.uniform(0.8, 1.25)
    noisy = 255.0 * lit + rng.normal(0, rng.uniform(2, 8), picture.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


# ---- backgrounds


def _background(rng: np.random.Generator, side_px: int) -> Floats:
    """(side, side, 3) in 0 to 1: a gradient between two colours, noise at several scales, often stripes."""
    y, x = np.mgrid[:side_px, :side_px] / side_px
    first, second = np.array(_colour(rng)), np.array(_colour(rng))
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)
    mix = np.clip(0.5 + along + 0.5 * _noise(rng, side_px, (3, 6)), 0, 1)
    ground: Floats = first + mix[..., None] * (second - first)
    ground += rng.uniform(0.04, 0.14) * _noise(rng, side_px, (8, 16, 32, 64, 128))[..., None]
    if rng.random() < 0.5:
        angle, waves = rng.uniform(0, 2 * np.pi), rng.uniform(4, 28)
        bent = along * 0.2 + 0.03 * _noise(rng, side_px, (4, 8))
        phase = np.cos(angle) * x + np.sin(angle) * y + bent
        ground += rng.uniform(0.03, 0.12) * np.sin(2 * np.pi * waves * phase)[..., None]
    return np.clip(ground, 0, 1)


def _noise(rng: np.random.Generator, side_px: int, cells: tuple[int, ...]) -> Floats:
    """Smooth noise of standard deviation about 1: grids of random numbers, enlarged and added up."""
    total = np.zeros((side_px, side_px))
    for n in cells:
        grid = Image.fromarray(rng.normal(size=(n, n)).astype(np.float32))
        total += np.asarray(grid.resize((side_px, side_px), Image.Resampling.BICUBIC), np.float64)
    return total / (total.std() + 1e-9)


# ---- objects: each painter gets coordinates in units of the radius, and returns a signed distance to its outline
# (negative inside, in the same units) and a brightness around 1.


def _painted(pose: _Pose, side_px: int) -> tuple[Floats, Floats, int]:
    """Cover (side, side) in 0 to 1, colours (side, side, 3), and the pixels it would have without a border."""
    reach = int(1.3 * pose.radius) + 2
    left, top = (int(value) - reach for value in pose.centre)
    y, x = np.mgrid[top : top + 2 * reach, left : left + 2 * reach] + 0.5
    dx, dy = (x - pose.centre[0]) / pose.radius, (y - pose.centre[1]) / pose.radius
    u = np.cos(pose.angle) * dx + np.sin(pose.angle) * dy
    v = (np.cos(pose.angle) * dy - np.sin(pose.angle) * dx) / pose.squeeze
    rng = np.random.default_rng(pose.looks)
    distance, brightness = _PAINTERS[CLASSES[pose.kind]](u, v, rng)
    patch = np.clip(0.5 - distance * pose.radius, 0, 1)
    speckle = 1.0 + 0.04 * rng.normal(size=u.shape)
    colours = np.clip(np.array(pose.colour) * (brightness * speckle)[..., None], 0, 1)
    cover, paint = np.zeros((side_px, side_px)), np.zeros((side_px, side_px, 3))
    rows, columns = (
        slice(max(top, 0), min(top + 2 * reach, side_px)),
        slice(max(left, 0), min(left + 2 * reach, side_px)),
    )
    inside = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    cover[rows, columns], paint[rows, columns] = patch[inside], colours[inside]
    return cover, paint, int((patch > 0.5).sum())


def _coin(u: Floats, v: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """A disk with a raised rim, a ring of strokes like letters, and a smooth middle."""
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    rim = np.exp(-(((radius - 0.9) / 0.05) ** 2))
    strokes = (np.abs(radius - 0.68) < 0.1) * (np.sin(rng.integers(9, 16) * angle + rng.uniform(0, 6)) > 0.2)
    relief = np.sin(rng.uniform(4, 7) * radius + rng.uniform(0, 6)) * (radius < 0.5)
    return radius - 1.0, 1.0 + 0.3 * rim - 0.35 * strokes + 0.12 * relief


def _leaf(u: Floats, v: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """A pointed ellipse with a toothed edge, a midrib and slanting veins."""
    inside = np.clip(1.0 - u**2, 0, None)
    teeth = 1.0 + 0.08 * np.sin(rng.uniform(14, 24) * u + rng.uniform(0, 6))
    half = rng.uniform(0.4, 0.6) * inside * teeth * (1.0 - rng.uniform(0, 0.35) * u)
    bend = rng.uniform(-0.25, 0.25) * (1.0 - u**2)
    off = np.abs(v - bend)
    distance = np.where(np.abs(u) < 1.0, off - half, 1.0)
    midrib = np.exp(-((off / 0.05) ** 2))
    veins = np.sin(rng.uniform(16, 24) * (u - 0.8 * off)) > 0.55
    return distance, 0.95 + 0.4 * midrib + 0.25 * veins - 0.2 * off


def _bolt(u: Floats, v: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """A head with flat facets and a threaded shank: a polygon of eight corners."""
    neck, tall, thin = rng.uniform(-0.55, -0.4), rng.uniform(0.5, 0.65), rng.uniform(0.2, 0.28)
    head = np.maximum(np.abs(u - (neck - 1.0) / 2) - (neck + 1.0) / 2, np.abs(v) - tall)
    shank = np.maximum(np.abs(u - (neck + 1.0) / 2) - (1.0 - neck) / 2, np.abs(v) - thin)
    facets = np.where(np.abs(v) < 0.4 * tall, 1.3, np.where(v > 0, 0.7, 0.95))
    thread = 1.0 + 0.35 * np.sign(np.sin(rng.uniform(24, 32) * u + 4.0 * v)) - 0.5 * np.abs(v) / thin
    return np.minimum(head, shank), np.where(head < 0, facets, thread)


_PAINTERS: Mapping[str, Painter] = {"coin": _coin, "leaf": _leaf, "bolt": _bolt}
