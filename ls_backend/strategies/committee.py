"""Where a committee of models disagrees, beyond what each member doubts by itself."""

from __future__ import annotations

import numpy as np

from ls_backend.strategies.pool import Floats, Floats32, Pool
from ls_backend.strategies.registry import scorer

BLOCK_ROWS = 8192


def members(pool: Pool, start: int = 0, stop: int | None = None) -> Floats:
    """Return what the members believe about some tasks of the pool, (t, b, c) float64 without rounding below 0."""
    assert pool.member_probabilities is not None  # `needs` is checked before a method is called
    return np.clip(pool.member_probabilities[:, start:stop], 0.0, 1.0).astype(np.float64)


def most_information(beliefs: Floats32) -> float:
    """Return the largest disagreement t members over c classes can have, in nats: ln min(t, c)."""
    return float(np.log(min(beliefs.shape[0], beliefs.shape[2])))


def entropies(p: Floats) -> Floats:
    """Return -sum p ln p over the last axis; 0 ln 0 is 0."""
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    spread: Floats = -np.einsum("...c,...c->...", p, logs)
    return spread


@scorer(
    "vote_entropy",
    objective="uncertainty",
    needs={"probabilities", "member_probabilities"},
    formula="-sum_c v_c ln v_c / ln min(t, c), v_c the share of the t members that vote for class c",
    source="Dagan & Engelson 1995, Committee-Based Sampling For Training Probabilistic Classifiers, ICML; after "
    "Seung, Opper & Sompolinsky 1992, Query by Committee, COLT",
    cost="O(t n c), and t fits",
    use_when="The probabilities are badly calibrated: only the answers of the members count.",
    fails_when="Few members: most tasks are tied at 0. Alone it picks near-duplicates.",
    words="the committee disagrees ({value:.2f})",
)
def vote_entropy(pool: Pool) -> Floats:
    """Members of a committee give different answers.

    Args:
        pool: n tasks with member probabilities (t, n, c).

    Returns:
        (n,) float64 from 0 (one answer) to 1 (as many answers as there can be).
    Source: Dagan & Engelson 1995; Settles 2010, section 3.2.
    """
    assert pool.member_probabilities is not None  # `needs` is checked before a method is called
    votes = pool.member_probabilities.argmax(axis=2)  # (t, n)
    n_classes = pool.member_probabilities.shape[2]
    shares = np.stack([(votes == index).mean(axis=0) for index in range(n_classes)], axis=1)  # (n, c)
    return np.clip(entropies(shares) / most_information(pool.member_probabilities), 0.0, 1.0)


@scorer(
    "mean_kl",
    objective="uncertainty",
    needs={"probabilities", "member_probabilities"},
    formula="mean_t sum_c p_tc ln(p_tc / mean_s p_sc) / ln min(t, c)",
    source="McCallum & Nigam 1998, Employing EM and Pool-Based Active Learning for Text Classification, ICML",
    cost="O(t n c), and t fits",
    use_when="A committee whose members differ in how sure they are, not only in their answers.",
    fails_when="Members fitted on almost the same labels agree about everything. Alone it picks near-duplicates.",
    words="the committee is divided ({value:.2f})",
)
def mean_kl(pool: Pool) -> Floats:
    """Members of a committee hold beliefs far from what they believe on average.

    For a committee of equal members this is the mutual information that `bald` computes from entropies.

    Args:
        pool: n tasks with member probabilities (t, n, c).

    Returns:
        (n,) float64 from 0 (one belief) to 1 (certain of as many answers as there can be).
    Source: McCallum & Nigam 1998, section 4.1, equation 7.
    """
    assert pool.member_probabilities is not None  # `needs` is checked before a method is called
    divergence = np.empty(pool.size)
    for start in range(0, pool.size, BLOCK_ROWS):
        p = members(pool, start, start + BLOCK_ROWS)
        ratio = np.divide(p, p.mean(axis=0), out=np.ones_like(p), where=p > 0)
        divergence[start : start + BLOCK_ROWS] = np.einsum("tnc,tnc->n", p, np.log(ratio)) / len(p)
    return np.clip(divergence / most_information(pool.member_probabilities), 0.0, 1.0)


@scorer(
    "bald",
    objective="uncertainty",
    needs={"probabilities", "member_probabilities"},
    formula="(H(mean_t p_t) - mean_t H(p_t)) / ln min(t, c)",
    source="Houlsby, Huszar, Ghahramani & Lengyel 2011, Bayesian Active Learning for Classification and Preference "
    "Learning, arXiv:1112.5745; Gal, Islam & Ghahramani 2017, arXiv:1703.02910",
    cost="O(t n c), and t fits",
    use_when="Noisy classes: what no label can settle does not count as doubt.",
    fails_when="Alone it picks near-duplicates; combine it with diversity, or use batch_bald.",
    words="a label would settle a dispute ({value:.2f})",
)
def bald(pool: Pool) -> Floats:
    """A label would tell which members are right: all are sure, of different answers.

    Args:
        pool: n tasks with member probabilities (t, n, c).

    Returns:
        (n,) float64 from 0 (nothing to learn) to 1 (certain of as many answers as there can be).
    Source: Houlsby et al. 2011, equation 2.
    """
    assert pool.member_probabilities is not None  # `needs` is checked before a method is called
    return np.clip(information(pool) / most_information(pool.member_probabilities), 0.0, 1.0)


def information(pool: Pool) -> Floats:
    """Return the mutual information (n,) in nats between the label of a task and the member that is right."""
    shared = np.empty(pool.size)
    for start in range(0, pool.size, BLOCK_ROWS):
        p = members(pool, start, start + BLOCK_ROWS)
        shared[start : start + BLOCK_ROWS] = entropies(p.mean(axis=0)) - entropies(p).mean(axis=0)
    return np.maximum(shared, 0.0)
