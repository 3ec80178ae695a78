"""How well regions are learnt from few images, and what the order of labelling adds.

    .venv/bin/python benchmarks/segmentation.py [--images 60] [--seeds 5] [--start 20] [--batch 20] [--rounds 2]

First a segmenter learns from 60 random images, on a frozen backbone, and is measured on 120 others. Then the product's
order and random order label a pool of 400 from the same random start, and train after each batch. Images are those of
`replay/scenes.py`, 256 x 256, made on the spot. A training that is done is kept: a run that is cut goes on there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ls_backend.vision import backbones, segment
from ls_backend.vision.deep import Fitted, Recipe
from replay import orders
from replay.scenes import CLASSES, Scene, scenes

POOL, TEST = 400, 120
HOLDOUT = 5
"""Every fifth labelled image is held out, as in the product."""

Indices = NDArray[np.int64]


class Scenes:
    """Scenes as the segmenter reads them."""

    def __init__(self, made: Sequence[Scene]) -> None:
        self.made = made

    def __len__(self) -> int:
        return len(self.made)

    def image(self, i: int) -> NDArray[np.uint8]:
        """Read image i."""
        return self.made[i].image

    def class_map(self, i: int) -> NDArray[np.uint8]:
        """Read its class map."""
        return self.made[i].class_map


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60, help="labelled images of the first measurement; 0 skips it")
    parser.add_argument("--minutes", type=float, default=10.0, help="longest training")
    parser.add_argument("--finetune", action="store_true", help="train the backbone as well")
    orders.arguments(parser, "segmentation.jsonl")
    given = parser.parse_args()
    bench = Bench(seconds=60.0 * given.minutes, finetune=given.finetune)
    if given.images:
        _measure(bench, given.images)
    if given.seeds:
        _compare(bench, given)


class Bench:
    """A pool, a test set and the segmenter."""

    def __init__(self, *, seconds: float, finetune: bool) -> None:
        self.seconds, self.finetune = seconds, finetune
        self.backbone = backbones.load(backbones.DEFAULT, weights_dir=Path("model_weights"), device="auto")

    @property
    def examples(self) -> Scenes:
        """The pool, and the test set behind it."""
        return _made()

    def fit(self, rows: Indices, seed: int) -> Fitted:
        """Train on rows of the pool."""
        recipe = Recipe(
            n_classes=len(CLASSES), finetune=self.finetune, seconds=self.seconds, seed=seed, device=self.backbone.device
        )
        held_out = np.arange(len(rows)) % HOLDOUT == 0
        return segment.fit(self.backbone, self.examples, rows[~held_out], rows[held_out], recipe)

    def model(self, fitted: Fitted) -> segment.Segmenter:
        """Load what was trained."""
        return segment.load(self.backbone, fitted.arrays, len(CLASSES), self.backbone.device)

    def test(self, model: segment.Segmenter) -> dict[str, float]:
        """IoUs on the test set."""
        n, total = len(CLASSES) + 1, np.zeros((len(CLASSES) + 1, len(CLASSES) + 1), np.int64)
        for each in self.examples.made[POOL:]:
            called = model.judge([each.image])[0].class_map
            pairs = each.class_map.astype(np.int64) * n + called
            total += np.bincount(pairs.ravel(), minlength=n * n).reshape(n, n)
        return segment.ious(total)

    def train(self, rows: Indices, seed: int) -> orders.Trained:
        """Train and test, for the comparison of orders."""
        model = self.model(self.fit(rows, seed))
        return orders.Trained(
            self.test(model)["mean_iou"], lambda asked: model.judge([self.examples.image(int(i)) for i in asked])
        )


@cache
def _made() -> Scenes:
    return Scenes(scenes(POOL + TEST, seed=0))


def _measure(bench: Bench, n: int) -> None:
    """Train once on random images; both clocks count the training alone."""
    rows = np.random.default_rng(0).permutation(POOL)[:n]
    _made()  # not part of the training
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    fitted = bench.fit(rows, seed=0)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    found = bench.test(bench.model(fitted))
    print(f"\n### {n} labelled images, {'fine-tuned' if bench.finetune else 'frozen'} backbone\n")
    print("| mean IoU | without background | " + " | ".join(CLASSES) + " | hold-out | wall s | CPU s | stopped |")
    print("| --- " * (len(CLASSES) + 6) + "|")
    figures = [found["mean_iou"], found["mean_iou_classes"], *(found[f"iou_{c}"] for c in range(len(CLASSES)))]
    cells = [*(f"{value:.3f}" for value in figures), f"{fitted.metrics['mean_iou']:.3f}", f"{wall_s:.0f}"]
    print("| " + " | ".join([*cells, f"{cpu_s:.0f}", fitted.stopped]) + " |", flush=True)


def _compare(bench: Bench, given: argparse.Namespace) -> None:
    job = orders.Labelling(
        name=f"segmentation-{POOL}-{TEST}-{'finetuned' if bench.finetune else 'frozen'}",
        present=np.stack([np.isin(np.arange(len(CLASSES)), each.classes) for each in _made().made[:POOL]]),
        train=bench.train,
    )
    orders.compare(job, "mean IoU", given)


if __name__ == "__main__":
    main()
