"""What a plan asks of the model beyond its probabilities, made from head and labels, and only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ls_backend.vision.classifier import Classifier

Floats = NDArray[np.float32]


def beliefs(
    needs: AbstractSet[str],
    *,
    classifier: Classifier,
    features: Floats,
    labelled_features: Floats,
    targets: NDArray[np.int8],
    seed: int,
) -> dict[str, NDArray[Any]]:
    """Compute the fields of a `strategies.Pool` that a plan needs, beyond the probabilities.

    Args:
        needs: Fields of the pool, as `strategies.needs` names them; those not made here are left to the caller.
        classifier: The served heads; everything shares their temperatures.
        features: (n, d) float32 of the pool, as the head was fitted.
        labelled_features: (m, d) float32 of the labelled tasks, likewise.
        targets: (m, c) int8 answers of each labelled task: 1, 0, or -1 for none.
        seed: Decides bootstrap samples, masks and folds.

    Returns:
        Those that are needed of "member_probabilities" (t, n, c), "dropout_probabilities" (t, n, c),
        "labelled_probabilities" (m, c) and "predicted_loss" (n,).

    Raises:
        TooFewLabels: If fewer than two classes are labelled and a committee or losses are needed.
        Diverged: If features are not finite.
    """
    from ls_backend.vision import committee  # noqa: PLC0415 - slow to import
    from ls_backend.vision.classifier import out_of_fold_losses  # noqa: PLC0415 - slow to import

    def members() -> Floats:
        return committee.member_probabilities(classifier.members(labelled_features, targets, seed=seed), features)

    def dropout() -> Floats:
        return committee.member_probabilities(classifier.thinned(features.shape[1], seed=seed), features)

    def losses() -> NDArray[np.float64]:
        own = out_of_fold_losses(classifier, labelled_features, targets, seed=seed)
        return committee.expected_loss(features, labelled_features, own)

    makers: Mapping[str, Callable[[], NDArray[Any]]] = {
        "member_probabilities": members,
        "dropout_probabilities": dropout,
        "labelled_probabilities": lambda: classifier.probabilities(labelled_features),
        "predicted_loss": losses,
    }
    return {name: make() for name, make in makers.items() if name in needs}
