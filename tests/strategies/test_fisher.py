from __future__ import annotations

import numpy as np
import pytest

from ls_backend.strategies import Pool, fisher, unit_rows
from ls_backend.strategies.fisher import RIDGE, bait


def make(n=40, d=5, m=6, seed=0):
    rng = np.random.default_rng(seed)
    z, labelled = unit_rows(rng.normal(size=(n, d))), unit_rows(rng.normal(size=(m, d)))
    p, known = rng.dirichlet(np.full(3, 0.7), size=n), rng.dirichlet(np.full(3, 0.3), size=m)
    return Pool(z, p, labelled, labelled_probabilities=known)


def information(p):
    return p.astype(float).max(axis=1) * (1 - p.astype(float).max(axis=1))


def summed(z, w):
    return sum(weight * np.outer(row, row) for weight, row in zip(w, z.astype(float), strict=True))


def brute(pool, weights, k):
    """Every inverse anew, forwards to 2 k and back."""
    z, w = pool.embeddings.astype(float), information(pool.probabilities)
    goal = summed(z, w) / len(z)
    start = RIDGE * np.eye(z.shape[1]) + summed(pool.labelled_embeddings, information(pool.labelled_probabilities))

    def trace(rows):
        return np.trace(np.linalg.inv(start + summed(z[rows], w[rows])) @ goal)

    taken, falls = [], []
    for _ in range(min(2 * k, len(z))):
        now = trace(taken)
        gains = [-1.0 if row in taken else weights[row] * (now - trace([*taken, row])) for row in range(len(z))]
        taken.append(int(np.argmax(gains)))
        falls.append(now - trace(taken))
    while len(taken) > k:
        losses = [weights[row] * (trace([other for other in taken if other != row]) - trace(taken)) for row in taken]
        del falls[int(np.argmin(losses))], taken[int(np.argmin(losses))]
    return taken, np.array(falls) / max(trace([]) - trace([row]) for row in range(len(z)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weighted", [False, True])
def test_bait_picks_what_inverting_everything_anew_picks(seed, weighted):
    pool = make(seed=seed)
    weights = np.random.default_rng(seed).random(40) + 0.5 if weighted else np.ones(40)
    rows, values, _ = bait(pool, weights, 5, np.random.default_rng(0))
    expected, falls = brute(pool, weights, 5)
    assert rows.tolist() == expected
    assert values == pytest.approx(falls, rel=1e-3)


def test_labelled_tasks_of_unknown_probabilities_weigh_as_the_mean_of_the_pool():
    pool = make()
    mean = information(pool.probabilities).mean()
    likeliest = (1 + np.sqrt(1 - 4 * mean)) / 2  # p (1 - p) = mean
    known = np.tile([likeliest, 1 - likeliest, 0], (6, 1))
    told = Pool(pool.embeddings, pool.probabilities, pool.labelled_embeddings, labelled_probabilities=known)
    untold = Pool(pool.embeddings, pool.probabilities, pool.labelled_embeddings)
    answers = [bait(each, np.ones(40), 8, np.random.default_rng(0))[0].tolist() for each in (told, untold)]
    assert answers[0] == answers[1]


def test_a_large_pool_is_searched_among_its_most_promising_tasks(monkeypatch):
    monkeypatch.setattr(fisher, "MIN_CANDIDATES", 20)
    p = np.tile([0.99, 0.01], (2000, 1))
    p[[5, 900]] = 0.5
    z = unit_rows(np.random.default_rng(0).normal(size=(2000, 2)))
    z[[5, 900]] = np.eye(2)
    rows, _, _ = bait(Pool(z, p), np.ones(2000), 2, np.random.default_rng(0))
    assert set(rows.tolist()) == {5, 900}


def test_everything_may_be_taken_and_nothing():
    pool = make()
    rows, _, _ = bait(pool, np.ones(40), 40, np.random.default_rng(0))
    assert sorted(rows.tolist()) == list(range(40))
    assert len(bait(pool, np.ones(40), 0, np.random.default_rng(0))[0]) == 0
