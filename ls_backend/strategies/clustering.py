"""Batches that take their tasks from different groups of the pool."""

from __future__ import annotations

import numpy as np

from ls_backend.strategies.diversity import squared_distances
from ls_backend.strategies.kmeans import Clusters, assign, k_means
from ls_backend.strategies.pool import Floats, Floats32, Indices, Pool
from ls_backend.strategies.questions import answered, doubt
from ls_backend.strategies.registry import picker
from ls_backend.strategies.uncertainty import entropy, margin

MAX_CLUSTERS = 500
MAX_GROUPS = 1000
MIN_CLUSTER_SIZE = 5
N_NEIGHBOURS = 20
N_REFERENCES = 1000
CANDIDATES_PER_PICK = 10
DROPOUT_CANDIDATES_PER_PICK = 25
MAX_DISTANCE = 2.0  # between two points of the unit sphere
NO_PICKS = np.zeros(0, dtype=np.int64), np.zeros(0), 0.0


def _in_turns(clusters: Clusters, importance: Floats, closeness: Floats) -> tuple[Indices, Floats]:
    """Order all points: the closest of each group, the most important group first, then the next closest of each.

    Args:
        clusters: Groups of n points.
        importance: (n,) share of each point in the importance of its group.
        closeness: (n,) higher comes first inside a group.

    Returns:
        (n,) rows; (n,) importance of the group over the largest, divided by the turn, by row.
    """
    mass = np.bincount(clusters.labels, weights=importance, minlength=len(clusters.centres))
    inside = np.lexsort((-closeness, clusters.labels))
    sizes = np.bincount(clusters.labels, minlength=len(clusters.centres))
    turn = np.empty(len(inside), dtype=np.int64)
    turn[inside] = np.arange(len(inside)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    values = mass[clusters.labels] / max(float(mass.max()), 1e-30) / (1 + turn)
    return np.lexsort((clusters.labels, -mass[clusters.labels], turn)), values


def _closeness(clusters: Clusters, utilities: Floats) -> Floats:
    return utilities * (1.0 + MAX_DISTANCE - np.sqrt(clusters.squares))


@picker(
    "clue",
    objective="diversity",
    needs={"embeddings", "probabilities"},
    formula="k-means with entropy as weight, k groups; the task nearest to each mean",
    source="Prabhu, Chandrasekaran, Saenko & Hoffman 2021, Active Domain Adaptation via Clustering "
    "Uncertainty-weighted Embeddings, arXiv:2010.08666",
    cost="O(n k q), k <= 1,000 groups fitted on at most 20,000 tasks",
    use_when="Large batches over balanced classes.",
    fails_when="Rare classes are lost in the groups of common ones; it does not know what is labelled.",
    words="in the middle of a group of doubtful tasks",
)
def clue(pool: Pool, utilities: Floats, k: int, rng: np.random.Generator) -> tuple[Indices, Floats, float]:
    """The middle of each group of tasks that the model doubts.

    A batch of more than 1,000 takes several tasks of each group, in turns.

    Args:
        pool: n tasks as `reduction.view` makes them, with probabilities (n, c).
        utilities: (n,) weights above 0, for the groups and inside them.
        k: Number of picks and of groups.
        rng: First means.

    Returns:
        (k,) rows, the group with most doubt first; (k,) doubt of the group over the largest, divided by the turn; the
        median of that over the pool.
    Source: Prabhu et al. 2021, section 3.3.
    """
    if not k:
        return NO_PICKS
    of_tasks = utilities * doubt(pool, entropy).of_tasks
    clusters = k_means(pool.embeddings, min(k, MAX_GROUPS), rng, of_tasks)
    order, values = _in_turns(clusters, of_tasks, _closeness(clusters, utilities))
    return order[:k], values[order[:k]], float(np.median(values))


@picker(
    "drop_query",
    objective="diversity",
    needs={"embeddings", "probabilities", "dropout_probabilities"},
    formula="tasks whose answer changes under most dropout masks of z; k-means with k groups; nearest to each mean",
    source="Gupte, Aklilu, Nirschl & Yeung-Levy 2024, Revisiting Active Learning in the Era of Vision Foundation "
    "Models, arXiv:2401.14555",
    cost="O(t n c + n k q), and t passes of the head",
    use_when="Good embeddings of a large network, few labels, balanced classes.",
    fails_when="Rare classes.",
    words="the answer hangs on details, in a group of its own",
)
def drop_query(pool: Pool, utilities: Floats, k: int, rng: np.random.Generator) -> tuple[Indices, Floats, float]:
    """The answer changes when a part of the embedding is blanked out; one such task of each group.

    With several questions it is enough that the answer to one of them changes.

    Args:
        pool: n tasks as `reduction.view` makes them, with probabilities (n, c) and dropout probabilities (t, n, c).
        utilities: (n,) weights above 0, for the groups and inside them.
        k: Number of picks and of groups.
        rng: First means.

    Returns:
        (k,) rows, the largest group first; (k,) size of the group over the largest, divided by the turn; the median of
        that over the tasks whose answer changes.
    Source: Gupte et al. 2024, algorithm 1; the share of masks is lowered until there are 25 candidates for each pick.
    """
    assert pool.probabilities is not None
    assert pool.dropout_probabilities is not None  # `needs` is checked before a method is called
    if not k:
        return NO_PICKS
    differs = np.zeros(pool.dropout_probabilities.shape[:2], dtype=np.bool_)  # (t, n)
    for columns in pool.blocks:
        differs |= answered(pool.dropout_probabilities, columns) != answered(pool.probabilities, columns)
    changes = differs.sum(axis=0)
    threshold = len(pool.dropout_probabilities) // 2 + 1
    while threshold > 0 and (changes >= threshold).sum() < min(DROPOUT_CANDIDATES_PER_PICK * k, pool.size):
        threshold -= 1
    rows = np.flatnonzero(changes >= threshold)
    clusters = k_means(pool.embeddings[rows], min(k, MAX_GROUPS), rng, utilities[rows])
    order, values = _in_turns(clusters, utilities[rows], _closeness(clusters, utilities[rows]))
    return rows[order[:k]], values[order[:k]], float(np.median(values))


@picker(
    "typiclust",
    objective="diversity",
    needs={"embeddings"},
    formula="k-means, min(m + k, 500) groups; in the groups with fewest labels, largest first: "
    "argmax_i 1 / mean distance to the 20 nearest of the group",
    source="Hacohen, Dekel & Weinshall 2022, Active Learning on a Budget: Opposite Strategies Suit High and Low "
    "Budgets, arXiv:2202.02794, algorithm 1",
    cost="O(n (m + k) q) for the groups, at most 500, and O(s r q) for each pick, s the size of a group, r <= 1,000",
    use_when="The first labels, a few for each class, balanced classes.",
    fails_when="Ten labels for each class and more; rare classes: it does not look at the model.",
    words="typical of a group that lacks labels",
)
def typiclust(pool: Pool, utilities: Floats, k: int, rng: np.random.Generator) -> tuple[Indices, Floats, float]:
    """The most typical task of each group without labels.

    Args:
        pool: n tasks as `reduction.view` makes them.
        utilities: (n,) weights above 0 of the typicality.
        k: Number of picks.
        rng: First means.

    Returns:
        (k,) rows, best first; (k,) 1 / (1 + number of labels and earlier picks in the group); the median of that over
        the pool at the start.
    Source: Hacohen et al. 2022, algorithm 1 and section 3.2; groups below 5 tasks come last.
    """
    if not k:
        return NO_PICKS
    labelled = pool.embeddings[:0] if pool.labelled_embeddings is None else pool.labelled_embeddings
    clusters = k_means(np.concatenate([pool.embeddings, labelled]), min(len(labelled) + k, MAX_CLUSTERS), rng)
    n_groups = len(clusters.centres)
    own = clusters.labels[: pool.size]
    n_labelled = np.bincount(clusters.labels[pool.size :], minlength=n_groups)
    sizes = np.bincount(clusters.labels, minlength=n_groups)
    visits = np.lexsort((-sizes, n_labelled, sizes < MIN_CLUSTER_SIZE))
    inside = np.argsort(own, kind="stable")
    left = np.split(inside, np.cumsum(np.bincount(own, minlength=n_groups))[:-1])  # rows of each group
    rows: list[int] = []
    values: list[float] = []
    turn = 0
    for small in (False, True):
        groups = [group for group in visits.tolist() if (sizes[group] < MIN_CLUSTER_SIZE) == small]
        while groups and len(rows) < k:
            groups = [group for group in groups if len(left[group])]
            for group in groups[: k - len(rows)]:
                members = left[group]
                best = int(np.argmax(utilities[members] * typicality(pool.embeddings[members])))
                rows.append(int(members[best]))
                values.append(1.0 / (1.0 + n_labelled[group] + turn))
                left[group] = np.delete(members, best)
            turn += 1
        turn = 0
    return np.asarray(rows, dtype=np.int64), np.asarray(values), float(np.median(1.0 / (1.0 + n_labelled[own])))


def typicality(points: Floats32) -> Floats:
    """One over the mean distance to the 20 nearest others, or to half of them in a small group.  O(s r q).

    Args:
        points: (s, q) float32 of one group, s >= 1.

    Returns:
        (s,) float64; among more than 1,000 points the neighbours are sought in a sample.
    """
    n_near = max(1, min(N_NEIGHBOURS, len(points) // 2))
    if len(points) == 1:
        return np.ones(1)
    spaced = np.linspace(0, len(points) - 1, min(len(points), N_REFERENCES)).astype(np.int64)
    squares = squared_distances(points, points[spaced])
    squares[spaced, np.arange(len(spaced))] = np.inf
    near = np.sqrt(np.partition(squares, n_near - 1, axis=1)[:, :n_near]).mean(axis=1, dtype=np.float64)
    typical: Floats = 1.0 / (near + 1e-5)
    return typical


@picker(
    "cluster_margin",
    objective="diversity",
    needs={"embeddings", "probabilities"},
    formula="10 k smallest margins; one of each group in turns, the smallest group first; groups by average linkage",
    source="Citovsky et al. 2021, Batch Active Learning at Scale, arXiv:2107.14263, algorithms 1 and 2",
    cost="O(n r q + r^3) for r <= 500 small groups that are merged",
    use_when="Batches of hundreds and more.",
    fails_when="Few labels: it only looks where the model hesitates.",
    words="a close call in a group of its own",
)
def cluster_margin(pool: Pool, utilities: Floats, k: int, rng: np.random.Generator) -> tuple[Indices, Floats, float]:
    """The closest calls, taken from different groups in turns.

    A pool of more than 500 tasks is first split into 500 small groups, and the groups are merged instead of the tasks.

    Args:
        pool: n tasks as `reduction.view` makes them, with probabilities (n, c).
        utilities: (n,) weights above 0 of the doubt.
        k: Number of picks and, up to 500, of groups.
        rng: First means.

    Returns:
        (k,) rows, the group with the fewest candidates first, in a group the closest call first; (k,) doubt of each;
        its median over the pool.
    Source: Citovsky et al. 2021, algorithms 1 and 2; the paper draws inside a group by chance.
    """
    if not k:
        return NO_PICKS
    of_tasks = doubt(pool, margin).of_tasks
    score = utilities * of_tasks
    labels = linked(pool.embeddings, min(k, MAX_CLUSTERS), rng)
    order = rng.permutation(pool.size)
    order = order[np.argsort(-score[order], kind="stable")][: CANDIDATES_PER_PICK * k]
    sizes = np.bincount(labels[order], minlength=int(labels.max()) + 1)
    by_group = np.argsort(labels[order], kind="stable")
    present = sizes[sizes > 0]
    turn = np.empty(len(order), dtype=np.int64)
    turn[by_group] = np.arange(len(order)) - np.repeat(np.cumsum(present) - present, present)
    rows = order[np.lexsort((labels[order], sizes[labels[order]], turn))][:k]
    return rows, of_tasks[rows], float(np.median(of_tasks))


def linked(points: Floats32, n_groups: int, rng: np.random.Generator) -> Indices:
    """Merge the two groups with the least mean distance until n_groups are left.  O(n r q + r^3), r <= 500.

    Args:
        points: (n, q) float32, n >= 1.
        n_groups: Groups wanted.
        rng: First means of the small groups of a large set.

    Returns:
        (n,) int64 group of each point, numbered from 0.
    Source: average linkage, Sokal & Michener 1958.
    """
    n = len(points)
    centres: Floats32 = points
    labels: Indices = np.arange(n)
    if n > MAX_CLUSTERS:
        centres = k_means(points, MAX_CLUSTERS, rng).centres
        labels, _ = assign(points, centres)
    sizes = np.bincount(labels, minlength=len(centres)).astype(np.float64)
    distances = np.sqrt(squared_distances(centres, centres)).astype(np.float64)
    distances[sizes == 0] = distances[:, sizes == 0] = np.inf  # a group that lost all its points
    np.fill_diagonal(distances, np.inf)
    group = np.arange(len(centres))
    for _ in range(int((sizes > 0).sum()) - n_groups):
        one, other = np.unravel_index(int(np.argmin(distances)), distances.shape)
        merged = (sizes[one] * distances[one] + sizes[other] * distances[other]) / (sizes[one] + sizes[other])
        merged[[one, other]] = np.inf
        distances[one] = distances[:, one] = merged
        distances[other] = distances[:, other] = np.inf
        sizes[one] += sizes[other]
        group[group == other] = one
    found: Indices = np.unique(group[labels], return_inverse=True)[1].astype(np.int64)
    return found
