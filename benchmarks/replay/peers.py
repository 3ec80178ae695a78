"""Strategies of other libraries, run from their own packages on what ours get: the same features, head and labels.

Every peer keeps its own defaults. It gets the embeddings that `rank` gets, and the served head as a classifier of its
own kind. A peer that needs a model starts with a random batch, as its package's examples do.

Three of scikit-activeml would take 10 to 30 minutes for one curve of MNIST: TypiClust, ProbCover and MaxHerding get the
64 principal directions in which our own strategies measure distances too, and MaxHerding its own package's wrapper that
draws 4,000 candidates a query, as many as ours draws reference points.

Margin and entropy exist in three packages, and all are run: that they pick the same tasks shows that the head reaches
each of them unchanged.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ls_backend.engine.backtest import Chooser, Situation
from ls_backend.strategies import fit_reduction

Indices = NDArray[np.int64]
Ask = Callable[[Situation, int], Any]
"""The situation and the number of tasks wanted; rows of the pool come back."""

MEMBERS = 5
"""Committee members for peers that ask for an ensemble; the number our own committee has."""


@dataclass(frozen=True)
class Peer:
    """A strategy of another library.

    Attributes:
        name: "package:strategy".
        module: What must be importable for it.
        needs_model: Whether it can choose only once there is a head.
        start: Makes it, from a seed; one replay keeps one, as some remember what they measured in the first query.
    """

    name: str
    module: str
    needs_model: bool
    start: Callable[[int], Ask]

    @property
    def package(self) -> str:
        """Name of the package as pip knows it."""
        return self.name.partition(":")[0]

    @property
    def version(self) -> str | None:
        """Installed version of the package, None if it is missing."""
        return metadata.version(self.package) if importlib.util.find_spec(self.module) else None

    def chooser(self, seed: int) -> Chooser:
        """Return what picks the batches of one replay, at random as long as the peer needs a head and there is none."""
        ask = self.start(seed)

        def choose(now: Situation, k: int, rng: np.random.Generator) -> Indices:
            if self.needs_model and now.head is None:
                return rng.choice(now.rest, k, replace=False)
            np.random.seed(rng.integers(2**31))  # noqa: NPY002 - small-text and modAL draw from the global state
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # theirs, about their own dependencies
                rows = np.asarray(ask(now, k), dtype=np.int64)
            assert len(np.union1d(rows, now.picked)) == k + len(now.picked), f"{self.name} picked a row twice"
            return rows

        return choose


# --- scikit-activeml ------------------------------------------------------------------------------------------------


def _skactiveml(
    strategy: str,
    *,
    takes: str | None = None,
    reduced: bool = False,
    candidates: int | None = None,
    **options: Any,  # noqa: ANN401
) -> Callable[[int], Ask]:
    """Query a pool strategy of scikit-activeml.

    Args:
        strategy: Its class.
        takes: How it calls the model it needs: "clf", "estimator" or "ensemble"; None if it needs none.
        reduced: Whether it gets principal directions only.
        candidates: How many random tasks it may choose from; None for all.
        **options: What else its constructor gets.
    """

    def start(seed: int) -> Ask:
        from skactiveml import pool  # noqa: PLC0415 - an optional package, slow to import

        query = getattr(pool, strategy)(random_state=seed, **options)
        if candidates is not None:
            query = pool.SubSamplingWrapper(query, candidates, random_state=seed)

        def ask(now: Situation, k: int) -> Indices:
            labels = np.full(len(now.features), np.nan)
            labels[now.picked] = now.labels
            model: dict[str, Any] = {}
            if takes == "ensemble":
                model = {"ensemble": [_served(head, now.n_classes) for head in _committee(now, seed)]}
            elif takes is not None:
                model = {takes: _served(now.head, now.n_classes)}
            if takes is not None:
                model[f"fit_{takes}"] = False
            places = fit_reduction(now.features).apply(now.features) if reduced else now.features
            return query.query(places.astype(np.float64), labels, batch_size=k, **model)

        return ask

    return start


def _served(head: Any, n_classes: int) -> Any:  # noqa: ANN401 - their base class is imported late
    """Return the fitted head as a classifier of scikit-activeml."""
    from skactiveml.base import SkactivemlClassifier  # noqa: PLC0415 - an optional package, slow to import

    class Served(SkactivemlClassifier):
        def __init__(self, head: Any = None, classes: Any = None, missing_label: float = np.nan) -> None:  # noqa: ANN401
            super().__init__(classes=classes, missing_label=missing_label)
            self.head = head

        def fit(self, _x: Any, _y: Any, _sample_weight: Any = None) -> Served:  # noqa: ANN401
            return self

        def predict_proba(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
            return self.head.probabilities(x.astype(np.float32)).astype(np.float64)

        def predict(self, x: NDArray[np.float64]) -> Indices:
            return self.predict_proba(x).argmax(axis=1)

    served = Served(head, list(range(n_classes)))
    served.classes_ = np.arange(n_classes)
    return served


def _committee(now: Situation, seed: int) -> list[Any]:
    """Fit heads to bootstrap samples of the labels; a sample with one class only is drawn again."""
    from ls_backend.vision import heads  # noqa: PLC0415 - torch

    rng = np.random.default_rng(seed)
    members: list[Any] = []
    while len(members) < MEMBERS:
        drawn = rng.integers(len(now.picked), size=len(now.picked))
        if len(np.unique(now.labels[drawn])) > 1:
            members.append(heads.fit_head(now.features[now.picked[drawn]], now.labels[drawn], now.n_classes))
    return members


# --- small-text -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Embedding:
    """The head as small-text wants a classifier: probabilities, and embeddings that are the features themselves."""

    head: Any

    def predict_proba(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.head.probabilities(features)

    def embed(
        self,
        features: NDArray[np.float32],
        *,
        return_proba: bool,
        pbar: Any = None,  # noqa: ANN401, ARG002
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        assert return_proba
        return features, self.predict_proba(features)


def _small_text(strategy: str, **options: Any) -> Callable[[int], Ask]:  # noqa: ANN401
    def start(_seed: int) -> Ask:
        from small_text import query_strategies  # noqa: PLC0415 - an optional package

        query = getattr(query_strategies, strategy)(**options)
        return lambda now, k: query.query(_Embedding(now.head), now.features, now.rest, now.picked, now.labels, n=k)

    return start


# --- modAL ----------------------------------------------------------------------------------------------------------


@dataclass
class _Estimator:
    """The head as modAL wants an estimator: it is fitted already."""

    head: Any

    def fit(self, _x: Any, _y: Any) -> _Estimator:  # noqa: ANN401
        return self

    def predict_proba(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.head.probabilities(features)


def _modal(module: str, strategy: str) -> Callable[[int], Ask]:
    def start(_seed: int) -> Ask:
        from modAL.models import ActiveLearner  # noqa: PLC0415 - an optional package

        function = getattr(importlib.import_module(f"modAL.{module}"), strategy)

        def ask(now: Situation, k: int) -> Indices:
            learner = ActiveLearner(_Estimator(now.head), function, now.features[now.picked], now.labels)
            rows, *_ = learner.query(now.features[now.rest], n_instances=k)
            return now.rest[rows]

        return ask

    return start


# --- lightly-mundig -------------------------------------------------------------------------------------------------


def _mundig(_seed: int) -> Ask:
    """Lightly's product of margin weights and distance, each with strength 1, as its documentation combines them."""
    import lightly_mundig  # noqa: PLC0415 - an optional package

    def ask(now: Situation, k: int) -> Indices:
        least, most = np.sort(now.head.probabilities(now.features), axis=1)[:, -2:].T
        selection = lightly_mundig.Selection()
        selection.add_diversifying_strategy(now.features.tolist(), 1.0)
        selection.add_weighting_strategy((1.0 - (most - least)).tolist(), 1.0)
        rows = selection.run_selection(now.picked.tolist(), len(now.features), len(now.picked) + k)
        return np.setdiff1d(rows, now.picked)

    return ask


_CLF = {"takes": "clf"}
_ENSEMBLE = {"takes": "ensemble"}

_ALL = (
    *(
        Peer(f"scikit-activeml:{name}", "skactiveml", "takes" in options, _skactiveml(strategy, **options))
        for name, strategy, options in (
            ("margin", "UncertaintySampling", {**_CLF, "method": "margin_sampling"}),
            ("entropy", "UncertaintySampling", {**_CLF, "method": "entropy"}),
            ("least_confident", "UncertaintySampling", {**_CLF, "method": "least_confident"}),
            ("query_by_committee", "QueryByCommittee", _ENSEMBLE),
            ("bald", "GreedyBALD", _ENSEMBLE),
            ("batch_bald", "BatchBALD", _ENSEMBLE),
            ("core_set", "CoreSet", {}),
            ("typiclust", "TypiClust", {"reduced": True}),
            ("prob_cover", "ProbCover", {"reduced": True, "n_classes": 10}),
            ("max_herding", "MaxHerding", {"reduced": True, "candidates": 4000}),
            ("badge", "Badge", _CLF),
            ("falcun", "Falcun", _CLF),
            ("clue", "Clue", {"takes": "estimator"}),
            ("drop_query", "DropQuery", _CLF),
            ("contrastive", "ContrastiveAL", _CLF),
        )
    ),
    *(
        Peer(f"small-text:{name}", "small_text", needs_model=True, start=_small_text(strategy, **options))
        for name, strategy, options in (
            ("breaking_ties", "BreakingTies", {}),
            ("embedding_kmeans", "EmbeddingKMeans", {}),
            ("greedy_coreset", "GreedyCoreset", {}),
            ("lightweight_coreset", "LightweightCoreset", {}),
            ("contrastive", "ContrastiveActiveLearning", {"pbar": None}),
        )
    ),
    *(
        Peer(f"modAL-python:{name}", "modAL", needs_model=True, start=_modal(module, strategy))
        for name, module, strategy in (
            ("margin", "uncertainty", "margin_sampling"),
            ("entropy", "uncertainty", "entropy_sampling"),
            ("ranked_batch", "batch", "uncertainty_batch_sampling"),
        )
    ),
    Peer("lightly-mundig:margin_x_diversity", "lightly_mundig", needs_model=True, start=_mundig),
)

PEERS: Mapping[str, Peer] = {peer.name: peer for peer in _ALL}
