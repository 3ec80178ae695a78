"""What a plan asks of the model beyond its probabilities, made from head and labels, and only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ls_backend.vision.heads import Head

Floats = NDArray[np.float32]


def beliefs(
    needs: AbstractSet[str],
    *,
    head: Head,
    features: Floats,
    labelled_features: Floats,
    classes: NDArray[np.int64],
    n_classes: int,
    seed: int,
) -> dict[str, NDArray[Any]]:
    """Compute the fields of a `strategies.Pool` that a plan needs, beyond the probabilities.

    Args:
        needs: Fields of the pool, as `strategies.needs` names them; those not made here are left to the caller.
        head: The served head; everything shares its temperature.
        features: (n, d) float32 of the pool, as the head was fitted.
        labelled_features: (m, d) float32 of the labelled tasks, likewise.
        classes: (m,) int64 class of each labelled task.
        n_classes: c, labelled or not.
        seed: Decides bootstrap samples, masks and folds.

    Returns:
        Those that are needed of "member_probabilities" (t, n, c), "dropout_probabilities" (t, n, c),
        "labelled_probabilities" (m, c) and "predicted_loss" (n,).

    Raises:
        TooFewLabels: If fewer than two classes are labelled and a committee or losses are needed.
        Diverged: If features are not finite.
    """
    from ls_backend.vision import committee  # noqa: PLC0415 - slow to import

    def members() -> Floats:
        heads = committee.bootstrap_heads(
            labelled_features, classes, n_classes, seed=seed, temperature=head.temperature
        )
        return committee.member_probabilities(heads, features)

    makers: Mapping[str, Callable[[], NDArray[Any]]] = {
        "member_probabilities": members,
        "dropout_probabilities": lambda: committee.dropout_probabilities(head, features, seed=seed),
        "labelled_probabilities": lambda: head.probabilities(labelled_features),
        "predicted_loss": lambda: committee.expected_loss(head, features, labelled_features, classes, seed=seed),
    }
    return {name: make() for name, make in makers.items() if name in needs}
