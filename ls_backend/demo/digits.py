"""scikit-learn's 1,797 handwritten digits as PNG files."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SIDE_PX = 96
"""The originals are 8 x 8; a person who tries the demo by hand should see something."""

CLASSES = tuple(str(digit) for digit in range(10))

TEST_SHARE = 0.25

LABEL_CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="digit" toName="image" choice="single" showInLine="true">'
    + "".join(f'<Choice value="{name}"/>' for name in CLASSES)
    + "</Choices></View>"
)


@dataclass(frozen=True)
class Digit:
    """One image to label.

    Attributes:
        name: File name; says nothing about the label.
        png: The file.
        label: What a perfect annotator answers.
        split: "pool", or "test" for the locked tasks that are never labelled and measure every model.
    """

    name: str
    png: bytes
    label: str
    split: str


def digits(n: int, seed: int) -> list[Digit]:
    """Return n digits in a random order, a quarter of them locked away for measuring."""
    data = load_digits()
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(data.target))[:n]
    n_test = round(TEST_SHARE * n)
    test = set(rng.permutation(n)[:n_test].tolist())
    return [
        Digit(
            name=f"digit-{place:04d}.png",
            png=_png(data.images[index]),
            label=CLASSES[int(data.target[index])],
            split="test" if place in test else "pool",
        )
        for place, index in enumerate(chosen.tolist())
    ]


def _png(pixels: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> bytes:
    grey = np.clip(pixels * (255 / 16), 0, 255).astype(np.uint8)
    image = Image.fromarray(grey).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
