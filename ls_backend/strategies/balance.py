"""How much the likely classes of a task are missing among the labels, and what they are worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ls_backend.errors import StrategyError, StrategyNotReady
from ls_backend.settings import Balance, Value
from ls_backend.strategies import registry
from ls_backend.strategies.pool import Floats, Floats32, Indices, Pool
from ls_backend.strategies.questions import groups
from ls_backend.strategies.registry import Balancer, balancer

MIN_SHARE = 1e-6


class ClassDeficit:
    """Expected deficit of a task: sum_c p_c / (1 + n_c / (t_c sum(n))), t the wanted shares.

    With uniform shares n_c is compared with the mean count. Picks count at once, by their probabilities, so that one
    batch does not fill the same gap twice.  O(n c) for each evaluation.
    """

    def __init__(self, counts: Floats, shares: Floats) -> None:
        self._counts = counts.astype(np.float64)
        self._shares = np.maximum(shares, MIN_SHARE)

    def of_classes(self) -> Floats:
        """Return (c,) deficits in (0, 1]; 1 means no label of that class."""
        total = self._counts.sum()
        if total <= 0:
            return np.ones_like(self._counts)
        deficits: Floats = 1.0 / (1.0 + self._counts / (self._shares * total))
        return deficits

    def of_tasks(self, probabilities: Floats32) -> Floats:
        """Return (n,) deficits in (0, 1] for probabilities (n, c)."""
        deficits: Floats = probabilities.astype(np.float64) @ self.of_classes()
        return deficits

    def add(self, probabilities: Floats32) -> None:
        """Count one task by its probabilities (c,)."""
        self._counts += probabilities


class MinorityFirst(ClassDeficit):
    """The same with sharper teeth: the class with fewest labels for its share counts 1, the others in proportion."""

    def of_classes(self) -> Floats:
        """Return (c,) weights in (0, 1]; 1 is the class with the fewest labels for its share."""
        weights: Floats = 1.0 / (1.0 + self._counts / (self._shares * len(self._shares)))
        weights /= weights.max()
        return weights


class Shortfall:
    """How much of what is missing for balance a task fills: (1 + |O|_1 - |O - p|_1) / 2, O the labels missing.

    O_c = t_c (sum(n) + k) - n_c: at the end of a batch of k every class should have its share. A class that has more
    than that already counts against a task. Picks count at once, by their probabilities.  O(n c) for each evaluation.
    """

    def __init__(self, counts: Floats, shares: Floats, k: int) -> None:
        self._missing = shares * (counts.sum() + k) - counts

    def of_classes(self) -> Floats:
        """Return (c,) missing labels over the most of any class, 0 to 1."""
        missing = np.maximum(self._missing, 0.0)
        shares: Floats = missing / max(float(missing.max()), MIN_SHARE)
        return shares

    def of_tasks(self, probabilities: Floats32) -> Floats:
        """Return (n,) from 0 (only classes that have enough) to 1 (only classes that lack labels), for (n, c)."""
        after = np.abs(self._missing - probabilities.astype(np.float64)).sum(axis=1)
        filled: Floats = np.clip((1.0 + np.abs(self._missing).sum() - after) / 2.0, 0.0, 1.0)
        return filled

    def add(self, probabilities: Floats32) -> None:
        """Count one task by its probabilities (c,)."""
        self._missing -= probabilities


class OverQuestions:
    """What labels are worth over several groups of classes, each with a balancer of its own.

    A task is worth what the class with most labels is, and what its likely classes are worth beyond the one with most
    in their group, at most 1. For one question whose probabilities sum to 1 that is sum_c p_c w_c; of yes/no questions
    a task with no label counts as the label with most, many labels do not dilute a rare one, and where all is even all
    tasks are worth the same.  O(n c) for each evaluation.
    """

    def __init__(self, groups: Sequence[tuple[Indices, Balancer]]) -> None:
        self._groups = groups

    def of_classes(self) -> Floats:
        """Return (c,) worth of a label of each class."""
        worth = np.empty(sum(len(columns) for columns, _ in self._groups))
        for columns, state in self._groups:
            worth[columns] = state.of_classes()
        return worth

    def of_tasks(self, probabilities: Floats32) -> Floats:
        """Return (n,) in [0, 1] for probabilities (n, c)."""
        worth = self.of_classes()
        beyond = worth.copy()
        for columns, _ in self._groups:
            beyond[columns] -= worth[columns].min()
        found: Floats = np.clip(worth.min() + probabilities.astype(np.float64) @ beyond, 0.0, 1.0)
        return found

    def add(self, probabilities: Floats32) -> None:
        """Count one task by its probabilities (c,)."""
        for columns, state in self._groups:
            state.add(probabilities[columns])


@balancer(
    "deficit",
    objective="balance",
    needs={"probabilities"},
    formula="sum_c p_c / (1 + n_c / (t_c sum(n))), n follows the picks",
    source="after Aggarwal, Popescu & Hudelot 2022, Minority Class Oriented Active Learning for Imbalanced Datasets, "
    "arXiv:2202.00390",
    cost="O(n c) for each pick",
    use_when="Always, on top of coverage: it costs nothing while classes are balanced.",
    fails_when="On plain doubt instead of coverage it does harm.",
    words="likely of a class that lacks labels",
)
def deficit(counts: Floats, shares: Floats, k: int) -> ClassDeficit:  # noqa: ARG001 - every balancer is told k
    """Classes with fewer labels than their share come first.

    Args:
        counts: (c,) labels so far.
        shares: (c,) wanted shares, sum 1.
        k: Size of the batch; the same for every size here.

    Returns:
        The state of a batch; it judges tasks (n,).
    Source: after Aggarwal, Popescu & Hudelot 2022.
    """
    return ClassDeficit(counts, shares)


@balancer(
    "minority",
    objective="balance",
    needs={"probabilities"},
    formula="sum_c p_c w_c / max w, w_c = 1 / (1 + n_c / (t_c c)), n follows the picks",
    source="Aggarwal, Popescu & Hudelot 2022, Minority Class Oriented Active Learning for Imbalanced Datasets, "
    "arXiv:2202.00390, with probabilities for predictions",
    cost="O(n c) for each pick",
    use_when="Strong imbalance: one label against a hundred counts fully.",
    fails_when="Balanced classes, where it chases small differences of the counts; on plain doubt.",
    words="likely of the class with the fewest labels",
)
def minority(counts: Floats, shares: Floats, k: int) -> MinorityFirst:  # noqa: ARG001 - every balancer is told k
    """The class with the fewest labels comes first, by how many fewer it has.

    Args:
        counts: (c,) labels so far.
        shares: (c,) wanted shares, sum 1; uniform ones compare the counts themselves.
        k: Size of the batch; the same for every size here.

    Returns:
        The state of a batch; it judges tasks (n,).
    Source: Aggarwal, Popescu & Hudelot 2022.
    """
    return MinorityFirst(counts, shares)


@balancer(
    "cbal",
    objective="balance",
    needs={"probabilities"},
    formula="(1 + |O|_1 - |O - p|_1) / 2, O_c = t_c (sum(n) + k) - n_c labels missing, O follows the picks",
    source="Bengar, van de Weijer, Fuentes & Raducanu 2022, Class-Balanced Active Learning for Image Classification, "
    "arXiv:2110.04543, equation 4, greedy and as a factor instead of a term",
    cost="O(n c) for each pick",
    use_when="A batch should even out the classes by its end, and not one by one.",
    fails_when="Small batches under strong imbalance: all rare classes count alike.",
    words="fills what the batch lacks for balance",
)
def cbal(counts: Floats, shares: Floats, k: int) -> Shortfall:
    """The batch as a whole brings every class to its share.

    Args:
        counts: (c,) labels so far.
        shares: (c,) wanted shares, sum 1.
        k: Size of the batch.

    Returns:
        The state of a batch; it judges tasks (n,).
    Source: Bengar et al. 2022, equation 4.
    """
    return Shortfall(counts, shares, k)


def class_deficit(pool: Pool, balance: Balance, k: int) -> Balancer:
    """Compare the labels so far with the wanted class shares.

    Shares are those within a question; all yes/no questions together are one group whose labels are compared.

    Args:
        pool: Tasks with probabilities (n, c).
        balance: Method and target shares. A group that the target does not name is to be even.
        k: Size of the batch.

    Returns:
        The deficit at the start of a batch; classes that are not wanted at all have almost none.

    Raises:
        StrategyError: If the target names a class that does not exist, or wants nothing.
    """
    probabilities = pool.probabilities
    assert probabilities is not None  # only asked for when there is a model
    n_classes = probabilities.shape[1]
    counts = np.zeros(n_classes) if pool.labelled_counts is None else pool.labelled_counts
    shares: Floats = np.full(n_classes, 1.0 / n_classes)
    if balance.target == "input" and pool.size:
        shares = np.asarray(probabilities.mean(axis=0, dtype=np.float64))
    elif isinstance(balance.target, dict):
        shares = by_class(pool, balance.target, 0.0, "balance target")
        if shares.sum() <= 0:
            raise StrategyError("All shares of the balance target are 0; expected one above 0. Raise one.")
        shares = shares / shares.sum()
    function = registry.find("balance", balance.method).function
    if pool.questions is None:
        state: Balancer = function(counts, shares, k)
        return state
    states: list[tuple[Indices, Balancer]] = []
    for columns, is_labels in groups(pool):
        total = float(shares[columns].sum())
        wanted = shares[columns] / total if total > 0 else np.full(len(columns), 1.0 / len(columns))
        n_labels = k  # a choice is one label a task; of other labels a task may hold none or many
        if is_labels and pool.size:
            n_labels = round(k * float(probabilities[:, columns].sum(dtype=np.float64)) / pool.size)
        states.append((columns, function(counts[columns], wanted, n_labels)))
    return OverQuestions(states)


def value(pool: Pool, worth: Value) -> Floats:
    """Expected worth of a label: sum_c p_c v_c / max v.  O(n c).

    Over several questions it is 1 + sum_c p_c (v_c - 1), kept between the least and the largest worth, over max v:
    the same for one question, and a task that holds no label is worth as much as a class that is not named.

    Args:
        pool: Tasks with probabilities (n, c) and class names.
        worth: Worth of each class; classes not named count 1.

    Returns:
        (n,) float64 in (0, 1].

    Raises:
        StrategyError: If a class does not exist.
    Source: expected cost as in Elkan 2001, The Foundations of Cost-Sensitive Learning, with worth for cost.
    """
    assert pool.probabilities is not None  # only asked for when there is a model
    worths = by_class(pool, worth.classes, 1.0, "value")
    if pool.questions is None:
        expected: Floats = pool.probabilities.astype(np.float64) @ (worths / worths.max())
        return expected
    least, most = min(float(worths.min()), 1.0), max(float(worths.max()), 1.0)
    over_all: Floats = np.clip(1.0 + pool.probabilities.astype(np.float64) @ (worths - 1.0), least, most) / most
    return over_all


def cost_matrix(worth: Value, class_names: Sequence[str], questions: Sequence[int] | None = None) -> Floats:
    """Lay out what an answer costs: what the settings name, else 1 for a wrong answer and 0 for the right one.

    Args:
        worth: Costs by true class and then by answer. What a wrong answer to a yes/no question costs, either way, is
            that of the label answered by itself: `{"crack": {"crack": 5}}`.
        class_names: c labels in index order.
        questions: Number of the question that each class answers; None where they all answer one.

    Returns:
        (c, c) float64, a row for each true class and a column for each answer; 0 between two questions.

    Raises:
        StrategyError: If a class does not exist, or truth and answer belong to two questions.
    """
    numbers = np.zeros(len(class_names)) if questions is None else np.asarray(questions)
    same = numbers[:, None] == numbers
    alone = same.sum(axis=0) == 1  # yes/no
    costs: Floats = np.where(same, 1.0 - np.eye(len(class_names)), 0.0) + np.diag(alone.astype(np.float64))
    index = {name: i for i, name in enumerate(class_names)}
    strangers = sorted(worth.priced_classes - set(class_names))
    if strangers:
        raise StrategyError(
            f"The costs of wrong answers name {strangers}, which are no classes; the classes are {list(class_names)}. "
            "Correct the setting."
        )
    for truth, answers in worth.costs.items():
        for answer, cost in answers.items():
            if not same[index[truth], index[answer]]:
                raise StrategyError(
                    f"The costs of wrong answers name {answer!r} for {truth!r}, which is another question; expected "
                    "classes of one question. Correct the setting."
                )
            costs[index[truth], index[answer]] = cost
    return costs


def by_class(pool: Pool, numbers: dict[str, float], default: float, what: str) -> Floats:
    """Spread numbers given by class name over the class indices; (c,) float64."""
    if pool.class_names is None:
        raise StrategyNotReady(
            f"The {what} names classes {sorted(numbers)}, the pool has no class names. Pass class_names to Pool."
        )
    strangers = sorted(set(numbers) - set(pool.class_names))
    if strangers:
        raise StrategyError(
            f"The {what} names {strangers}, which are no classes; the classes are {list(pool.class_names)}. "
            "Correct the setting."
        )
    return np.array([numbers.get(name, default) for name in pool.class_names], dtype=np.float64)
