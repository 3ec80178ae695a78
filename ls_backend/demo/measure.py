"""How well the loop's models do on the locked tasks, beside the same head trained on random picks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ls_backend.engine import retrain
from ls_backend.engine.context import Context
from ls_backend.errors import TooFewLabels

RANDOM_ORDERS = 5
"""Random orders the control is averaged over: a single one is luck."""


@dataclass(frozen=True)
class _Tasks:
    """The project as the judge sees it.

    Attributes:
        raw: (n, d) raw embeddings.
        features: (n, d) standardised over the project, as the product does.
        truth: (n,) class indices.
        test: (n,) bool, the locked tasks.
    """

    raw: NDArray[np.float32]
    features: NDArray[np.float32]
    truth: NDArray[np.int64]
    test: NDArray[np.bool_]


class Judge:
    """Measures models and the random control on the locked tasks, which nobody labels and no model sees."""

    def __init__(
        self, context: Context, project_id: int, labels: dict[int, int], locked: set[int], *, n_classes: int, seed: int
    ) -> None:
        """Read the embeddings the workers made.

        Args:
            context: The same data folder as the workers'.
            project_id: Which project.
            labels: Task id -> right class index.
            locked: Tasks that measure.
            n_classes: Classes of the label config.
            seed: Decides the random orders.
        """
        from ls_backend.vision.features import Standardiser  # noqa: PLC0415 - torch

        self._context = context
        self._project_id = project_id
        self._n_classes = n_classes
        self._seed = seed
        backbone = context.project_settings(context.project(project_id)).backbone
        table = context.store.tasks.rows(project_id)
        raw = context.raw_embeddings(backbone, table.content_hash.tolist())
        ids = table.task_id.tolist()
        self._tasks = _Tasks(
            raw=raw,
            features=Standardiser.fit(raw).apply(raw),
            truth=np.array([labels[task_id] for task_id in ids], dtype=np.int64),
            test=np.array([task_id in locked for task_id in ids]),
        )
        pool = np.flatnonzero(~self._tasks.test)
        self._orders = [np.random.default_rng((seed, order)).permutation(pool) for order in range(RANDOM_ORDERS)]
        self._random: dict[int, float | None] = {}
        self._models: dict[str, float] = {}

    def model(self, n_labels: int) -> float | None:
        """Return the accuracy of the newest promoted model trained on at most so many labels; None before the first."""
        versions = self._context.store.versions.list(self._project_id)
        usable = [item for item in versions if item.state == "promoted" and item.n_labels <= n_labels]
        if not usable:
            return None
        version = max(usable, key=lambda item: (item.n_labels, item.round))
        if version.version_id not in self._models:
            model = retrain.load(self._context, version)
            features = model.standardiser.apply(self._tasks.raw[self._tasks.test])
            self._models[version.version_id] = self._accuracy(model.classifier.probabilities(features))
        return self._models[version.version_id]

    def random(self, n_labels: int) -> float | None:
        """Return the mean accuracy of the same head trained on so many random picks; None while it cannot be fitted."""
        if n_labels not in self._random:
            scores = [self._control(order[:n_labels]) for order in self._orders]
            known = [score for score in scores if score is not None]
            self._random[n_labels] = float(np.mean(known)) if known else None
        return self._random[n_labels]

    def _control(self, picked: NDArray[np.int64]) -> float | None:
        from ls_backend.vision import heads  # noqa: PLC0415 - torch

        tasks = self._tasks
        try:
            head = heads.fit_head(tasks.features[picked], tasks.truth[picked], self._n_classes)
        except TooFewLabels:
            return None
        return self._accuracy(head.probabilities(tasks.features[tasks.test]))

    def _accuracy(self, probabilities: NDArray[np.float32]) -> float:
        return float((probabilities.argmax(axis=1) == self._tasks.truth[self._tasks.test]).mean())
