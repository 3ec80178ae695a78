"""Where a committee of models disagrees, beyond what each member doubts by itself."""

from __future__ import annotations

import numpy as np

from ls_backend.strategies.pool import Floats, Floats32, Indices, Pool
from ls_backend.strategies.questions import distribution
from ls_backend.strategies.registry import picker, scorer

BLOCK_ROWS = 8192
MAX_JOINT = 10
MAX_ANSWERS = 1024
MAX_CANDIDATES = 1000
MIN_CANDIDATES = 50
MAX_CELLS = 20_000_000  # joint answers x candidates x classes of one pick
JOINT_ROWS = 64
TINY = 1e-30  # in the place of 0 below a logarithm


def members(beliefs: Floats32) -> Floats:
    """Return what the members believe about some tasks, (t, b, c) float64 without rounding below 0."""
    return np.clip(beliefs, 0.0, 1.0).astype(np.float64)


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
    words="the committee disagrees by {value:.2f}",
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
    words="the committee is divided by {value:.2f}",
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
        p = members(pool.member_probabilities[:, start : start + BLOCK_ROWS])
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
    words="a label would settle a dispute of {value:.2f}",
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
    return np.clip(information(pool.member_probabilities) / most_information(pool.member_probabilities), 0.0, 1.0)


def information(beliefs: Floats32) -> Floats:
    """Return the mutual information (n,) in nats between the label of a task and the member that is right."""
    n = beliefs.shape[1]
    shared = np.empty(n)
    for start in range(0, n, BLOCK_ROWS):
        p = members(beliefs[:, start : start + BLOCK_ROWS])
        shared[start : start + BLOCK_ROWS] = entropies(p.mean(axis=0)) - entropies(p).mean(axis=0)
    return np.maximum(shared, 0.0)


@picker(
    "batch_bald",
    objective="diversity",
    needs={"probabilities", "member_probabilities"},
    formula="argmax_i I(y_i, y_taken; member) - I(y_taken; member), joint up to 10 picks; after that draws by bald",
    source="Kirsch, van Amersfoort & Gal 2019, BatchBALD, arXiv:1906.08158, algorithm 1; Kirsch, Farquhar et al. "
    "2023, Stochastic Batch Acquisition, arXiv:2106.12059",
    cost="O(t n c + j s t m c) for j <= 10 joint picks, s <= 1,024 joint answers and m <= 1,000 candidates",
    use_when="A committee of many members, small batches.",
    fails_when="Few members: t members are told apart by about ln t / ln c labels, and nothing is left to learn.",
    words="settles a dispute that the tasks ahead leave open",
)
def batch_bald(pool: Pool, utilities: Floats, k: int, rng: np.random.Generator) -> tuple[Indices, Floats, float]:
    """A label would tell which members are right, beyond what the labels of the tasks ahead will tell.

    Joint answers are counted out while there are at most 1,024 of them, then sampled. The candidates are the 1,000
    tasks with the largest `bald`, fewer when there are many classes. Several questions have heads of their own, so what
    their labels tell about the members adds up, and each keeps joint answers of its own.

    Args:
        pool: n tasks with member probabilities (t, n, c).
        utilities: (n,) weights above 0 of the information.
        k: Number of picks.
        rng: Samples joint answers; draws the picks after the tenth.

    Returns:
        (k,) rows, best first; (k,) information beyond the earlier picks over the most a label can hold, for draws that
        of the task alone; the median of that over the pool at the start.
    Source: Kirsch et al. 2019, algorithm 1; Kirsch et al. 2023, section 3, PowerBALD with beta = 1.
    """
    assert pool.member_probabilities is not None  # `needs` is checked before a method is called
    if not k:
        return np.zeros(0, dtype=np.int64), np.zeros(0), 0.0
    beliefs = [distribution(pool.member_probabilities, columns) for columns in pool.blocks]  # (t, n, c) each
    most = sum(most_information(one) for one in beliefs)
    each = [information(one) for one in beliefs]
    alone = each[0] if len(each) == 1 else np.sum(each, axis=0)
    order = rng.permutation(pool.size)
    n_answers = sum(one.shape[2] for one in beliefs)
    n_candidates = min(MAX_CANDIDATES, max(MIN_CANDIDATES, MAX_CELLS // (MAX_ANSWERS * n_answers)))
    candidates = order[np.argsort(-(utilities * alone)[order], kind="stable")][:n_candidates]
    disputes = [Dispute(members(one[:, candidates])) for one in beliefs]
    picked: list[int] = []
    values: list[float] = []
    for _ in range(min(k, MAX_JOINT, len(candidates))):
        gained = disputes[0].gains()
        for dispute in disputes[1:]:
            gained = gained + dispute.gains()
        gained[picked] = -1.0
        best = int(np.argmax(np.where(gained < 0, -1.0, utilities[candidates] * gained)))
        picked.append(best)
        values.append(float(gained[best]))
        for dispute in disputes:
            dispute.settle(best, rng)
    rows = candidates[picked]
    keys = np.log(np.maximum(utilities * alone, TINY)) + rng.gumbel(size=pool.size)  # draws without replacement
    keys[rows] = -np.inf
    drawn = np.argsort(-keys, kind="stable")[: k - len(rows)]
    shares = np.clip(np.concatenate([values, alone[drawn]]) / most, 0.0, 1.0)
    return np.concatenate([rows, drawn]), shares, min(float(np.median(alone)) / most, 1.0)


class Dispute:
    """What labels would tell about the members that answer one question, given the tasks taken so far."""

    def __init__(self, p: Floats) -> None:
        self._p = p  # (t, m, c)
        self._doubt = entropies(p).mean(axis=0)  # what stays open however much is known of the members
        self._answers = Answers(np.ones((1, len(p))), np.ones(1))

    def gains(self) -> Floats:
        """Information (m,) in nats of each candidate beyond the tasks taken."""
        gained: Floats = np.maximum(self._answers.entropy_with(self._p) - self._answers.entropy() - self._doubt, 0.0)
        return gained

    def settle(self, row: int, rng: np.random.Generator) -> None:
        """Count a candidate as labelled."""
        self._answers = self._answers.extended(self._p[:, row], rng)


class Answers:
    """Joint answers to the picks so far, each with its probability for every member.

    Attributes:
        chances: (s, t) probability of each joint answer if a member is right.
        weights: (s,) how many joint answers each row stands for; ones while all of them are listed.
    """

    def __init__(self, chances: Floats, weights: Floats) -> None:
        self.chances = chances
        self.weights = weights

    def entropy(self) -> float:
        """Entropy of the joint answer."""
        return float(self.weights @ entropies(self.chances.mean(axis=1)[:, None]))

    def entropy_with(self, p: Floats) -> Floats:
        """Entropy (m,) of the joint answer with one more task, for member probabilities (t, m, c).  O(s t m c)."""
        n_members, n_tasks, n_classes = p.shape
        joint = np.empty(n_tasks)
        for start in range(0, n_tasks, JOINT_ROWS):
            block = p[:, start : start + JOINT_ROWS]
            both = (self.chances / n_members) @ block.reshape(n_members, -1)  # (s, b c)
            spread = entropies(both.reshape(len(self.chances), -1, n_classes))  # (s, b)
            joint[start : start + JOINT_ROWS] = self.weights @ spread
        return joint

    def extended(self, p: Floats, rng: np.random.Generator) -> Answers:
        """Add the answers to a task with member probabilities (t, c); beyond 1,024 keep an unbiased sample."""
        chances: Floats = (self.chances[:, None, :] * p.T).reshape(-1, self.chances.shape[1])
        weights = np.repeat(self.weights, p.shape[1])
        mass = weights * chances.mean(axis=1)
        if len(mass) > MAX_ANSWERS:
            marks = np.cumsum(mass) / mass.sum() * MAX_ANSWERS + rng.random()
            copies = np.diff(np.floor(marks), prepend=np.floor(marks[0] - mass[0] / mass.sum() * MAX_ANSWERS))
            kept = copies > 0
            weights = copies[kept] * mass.sum() / MAX_ANSWERS / chances[kept].mean(axis=1)
            chances = chances[kept]
        return Answers(chances, weights)
