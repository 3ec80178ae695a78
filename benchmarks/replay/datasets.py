"""The image sets of the benchmark: what is drawn for a seed, and at which balance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from ls_backend.engine.savings import Metric
from ls_backend.vision.features import Standardiser
from replay import mnist

MNIST_POOL, MNIST_TEST = 12_000, 4_000
DIGITS_TEST = 397  # leaves 1,400 to label
RARE = range(5, 10)
"""The classes that are made rare."""

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """A pool to label and a locked test set, as the product would see them.

    Attributes:
        embeddings: (n, d) float32 of the pool, standardised over the pool, rows of unit length.
        labels: (n,) int64.
        test_embeddings: (t, d) float32.
        test_labels: (t,) int64.
    """

    embeddings: NDArray[np.float32]
    labels: Indices
    test_embeddings: NDArray[np.float32]
    test_labels: Indices


@dataclass(frozen=True)
class Dataset:
    """A set of labelled images that a seed draws a split from.

    Attributes:
        title: For people.
        metric: "accuracy" or, with rare classes, "balanced_accuracy".
        budget: Labels at the end.
        split: Draws one.
    """

    title: str
    metric: Metric
    budget: int
    split: Callable[[int], Split]


def _mnist(seed: int, keep: Callable[[Indices], Indices]) -> Split:
    images = _all_of_mnist()
    rng = np.random.default_rng(seed)
    pool = rng.choice(len(images.labels), MNIST_POOL, replace=False)
    test = rng.choice(len(images.test_labels), MNIST_TEST, replace=False)
    pool = pool[keep(images.labels[pool])]
    return _split(images.features[pool], images.labels[pool], images.test_features[test], images.test_labels[test])


_all_of_mnist = cache(mnist.load)


def _digits(seed: int, keep: Callable[[Indices], Indices]) -> Split:
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    test, pool = order[:DIGITS_TEST], order[DIGITS_TEST:]
    pool = pool[keep(labels[pool])]
    return _split(pixels[pool], labels[pool], pixels[test], labels[test])


def _split(raw: NDArray[np.floating], labels: Indices, test_raw: NDArray[np.floating], test_labels: Indices) -> Split:
    standardiser = Standardiser.fit(raw)
    return Split(
        standardiser.apply(raw), labels.astype(np.int64), standardiser.apply(test_raw), test_labels.astype(np.int64)
    )


def _everything(labels: Indices) -> Indices:
    return np.arange(len(labels))


def _one_in(ratio: int) -> Callable[[Indices], Indices]:
    """Keep one in so many of each rare class; the classes of both sets are about equal before."""

    def keep(labels: Indices) -> Indices:
        rows = [np.flatnonzero(labels == c) for c in range(10)]
        kept = [each[: len(each) // ratio] if c in RARE else each for c, each in enumerate(rows)]
        return np.sort(np.concatenate(kept))

    return keep


DATASETS: Mapping[str, Dataset] = {
    "mnist": Dataset("MNIST", "accuracy", 200, lambda seed: _mnist(seed, _everything)),
    "mnist-10to1": Dataset("MNIST, 5 to 9 rare 10:1", "balanced_accuracy", 200, lambda seed: _mnist(seed, _one_in(10))),
    "digits": Dataset("Digits", "accuracy", 150, lambda seed: _digits(seed, _everything)),
    "digits-10to1": Dataset(
        "Digits, 5 to 9 rare 10:1", "balanced_accuracy", 150, lambda seed: _digits(seed, _one_in(10))
    ),
    "digits-20to1": Dataset(
        "Digits, 5 to 9 rare 20:1", "balanced_accuracy", 150, lambda seed: _digits(seed, _one_in(20))
    ),
}
