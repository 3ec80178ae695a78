"""How unsure the model is about one question of a task, from its class probabilities alone.

`questions.doubt` asks question by question; methods marked `all_questions` see the whole pool.
"""

from __future__ import annotations

import numpy as np

from ls_backend.strategies.metadata import rank_fractions
from ls_backend.strategies.pool import Floats, Floats32, Pool
from ls_backend.strategies.questions import distribution
from ls_backend.strategies.registry import scorer


def _probabilities(pool: Pool) -> Floats32:
    assert pool.probabilities is not None  # `needs` is checked before a method is called
    return pool.probabilities


@scorer(
    "margin",
    objective="uncertainty",
    needs={"probabilities"},
    formula="1 - (p1 - p2), p sorted downwards",
    source="Scheffer, Decomain & Wrobel 2001, Active Hidden Markov Models for Information Extraction, IDA",
    cost="O(n c)",
    use_when="Almost always; the safest single measure of doubt.",
    fails_when="Alone it picks near-duplicates; combine it with diversity.",
    words="margin {rest:.2f}",
)
def margin(pool: Pool) -> Floats:
    """Two classes compete: the two most likely ones are close.

    Args:
        pool: n tasks with probabilities (n, c).

    Returns:
        (n,) float64 from 0 (certain) to 1 (a tie).
    Source: Scheffer, Decomain & Wrobel 2001.
    """
    top = np.partition(_probabilities(pool), -2, axis=1)[:, -2:].astype(np.float64)  # (n, 2): second, first
    return np.clip(1.0 - (top[:, 1] - top[:, 0]), 0.0, 1.0)


@scorer(
    "entropy",
    objective="uncertainty",
    needs={"probabilities"},
    formula="-sum_c p_c ln p_c / ln c",
    source="Shannon 1948; Settles 2010, Active Learning Literature Survey, section 3.1",
    cost="O(n c)",
    use_when="Few classes and well calibrated probabilities.",
    fails_when="Many classes: probability spread over classes that are out of question counts as doubt.",
    words="entropy {value:.2f}",
)
def entropy(pool: Pool) -> Floats:
    """The model spreads its belief over many classes.

    Args:
        pool: n tasks with probabilities (n, c).

    Returns:
        (n,) float64 from 0 (certain) to 1 (all classes equal).
    Source: Settles 2010, section 3.1.
    """
    p = np.clip(_probabilities(pool), 0.0, 1.0).astype(np.float64)
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    spread: Floats = np.clip(-np.einsum("ij,ij->i", p, logs) / np.log(p.shape[1]), 0.0, 1.0)
    return spread


@scorer(
    "least_confidence",
    objective="uncertainty",
    needs={"probabilities"},
    formula="(1 - p1) c / (c - 1)",
    source="Lewis & Gale 1994, A Sequential Algorithm for Training Text Classifiers, SIGIR",
    cost="O(n c)",
    use_when="What matters is whether the answer shown to the annotator is right.",
    fails_when="Ignores how the remaining belief is spread; alone it picks near-duplicates.",
    words="doubt {value:.2f}",
)
def least_confidence(pool: Pool) -> Floats:
    """Even the most likely class is not very likely.

    Args:
        pool: n tasks with probabilities (n, c).

    Returns:
        (n,) float64 from 0 (certain) to 1 (all classes equal).
    Source: Lewis & Gale 1994.
    """
    p = _probabilities(pool)
    n_classes = p.shape[1]
    doubt: Floats = np.clip((1.0 - p.max(axis=1).astype(np.float64)) * n_classes / (n_classes - 1), 0.0, 1.0)
    return doubt


@scorer(
    "expected_cost",
    objective="uncertainty",
    needs={"probabilities", "cost_matrix"},
    formula="min_a sum_c p_c R_ca / max R, R_ca the cost of answer a when c is true",
    source="Elkan 2001, The Foundations of Cost-Sensitive Learning, IJCAI, equation 1; Margineantu 2005, Active "
    "Cost-Sensitive Learning, IJCAI",
    cost="O(n c^2)",
    all_questions=True,
    use_when="Wrong answers cost different amounts: a missed defect is worse than a false alarm.",
    fails_when="Badly calibrated probabilities; alone it picks near-duplicates.",
    words="even the best answer may cost {value:.2f} of the worst",
)
def expected_cost(pool: Pool) -> Floats:
    """Even the best answer the model can give is expected to be costly.

    Costs compare across questions: the largest of all is 1.

    Args:
        pool: n tasks with probabilities (n, c) and a cost matrix (c, c).

    Returns:
        (n,) float64 from 0 (a free answer exists) to 1 (every answer has the largest cost), the mean over questions.
    Source: Elkan 2001, equation 1.
    """
    assert pool.cost_matrix is not None  # `needs` is checked before a method is called
    p, total = _probabilities(pool), np.zeros(pool.size)
    blocks = pool.blocks
    largest = max(float(pool.cost_matrix[np.ix_(columns, columns)].max()) for columns in blocks)
    for columns in blocks:
        priced = pool.cost_matrix[np.ix_(columns, columns)]
        if len(columns) == 1:
            priced = priced * (1.0 - np.eye(2))  # no and yes, and what a mistake costs
        costs = distribution(p, columns).astype(np.float64) @ priced  # (n, q) of each answer
        total += np.clip(costs.min(axis=1) / largest, 0.0, 1.0)
    return total / len(blocks)


@scorer(
    "learning_loss",
    objective="uncertainty",
    needs={"probabilities", "predicted_loss"},
    formula="rank of the predicted loss",
    source="Yoo & Kweon 2019, Learning Loss for Active Learning, CVPR, arXiv:1905.03677, with a regressor of "
    "out-of-fold losses in the place of a loss module",
    cost="O(n log n), and one regression",
    all_questions=True,
    use_when="Hundreds of labels, and mistakes that the probabilities do not betray.",
    fails_when="Below about 500 labels the predicted losses are noise.",
    words="the model is expected to be wrong here",
)
def learning_loss(pool: Pool) -> Floats:
    """Tasks like this one were hard for the model.

    Args:
        pool: n tasks with predicted losses (n,).

    Returns:
        (n,) float64 in (0, 1], the rank of the loss; 1 is the largest.
    Source: Yoo & Kweon 2019, section 3.
    """
    assert pool.predicted_loss is not None  # `needs` is checked before a method is called
    return rank_fractions(pool.predicted_loss)
