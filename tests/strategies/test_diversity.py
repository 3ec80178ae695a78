from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import pairwise_distances
from sklearn.metrics.pairwise import rbf_kernel

from ls_backend.strategies import Plan, Pool, diversity, rank, unit_rows
from ls_backend.strategies.balance import ClassDeficit
from ls_backend.strategies.diversity import Coverage, core_set, coverage, squared_distances
from ls_backend.strategies.search import Balancing, greedy


def points(n, d=8, seed=0):
    return unit_rows(np.random.default_rng(seed).normal(size=(n, d)))


def brute_herding(z, weights, static, labelled, k, sigma, probabilities=None, counts=None):
    """Every gain anew for each pick, from sklearn's kernel."""
    kernel = rbf_kernel(z.astype(float), gamma=1 / (2 * sigma**2))
    covered = rbf_kernel(z.astype(float), labelled, gamma=1 / (2 * sigma**2)).max(axis=1) if len(labelled) else 0.0
    picks, counts = [], None if counts is None else counts.astype(float)
    for _ in range(k):
        gains = np.array([np.sum(weights * np.maximum(0, kernel[:, i] - covered)) for i in range(len(z))]) * static
        if counts is not None:
            gains = gains * (probabilities / (1 + counts / counts.mean())).sum(axis=1)
        gains[picks] = -1
        picks.append(int(np.argmax(gains)))
        covered = np.maximum(covered, kernel[:, picks[-1]])
        if counts is not None:
            counts += probabilities[picks[-1]]
    return picks


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 60), m=st.integers(0, 5), balanced=st.booleans())
def test_lazy_search_picks_what_computing_everything_anew_picks(seed, n, m, balanced):
    rng = np.random.default_rng(seed)
    z, weights, static = points(n, seed=seed), rng.random(n), rng.random(n) + 0.1
    labelled = points(m, seed=seed + 1) if m else np.zeros((0, 8), np.float32)
    probabilities, counts = rng.dirichlet(np.ones(3), size=n).astype(np.float32), rng.integers(1, 9, size=3)
    gain = Coverage(z, weights.astype(np.float32), z, 0.6)
    gain.cover(labelled)
    gain.refresh(np.arange(n))
    picks = greedy(
        static,
        n,
        last=np.zeros(n, bool),
        gain=gain,
        gain_strength=1.0,
        balancing=Balancing(ClassDeficit(counts, np.full(3, 1 / 3)), probabilities, 1.0) if balanced else None,
        explore=np.zeros(n, bool),
    )
    given_balance = {"probabilities": probabilities, "counts": counts} if balanced else {}
    expected = brute_herding(z, weights, static, labelled, n, 0.6, **given_balance)
    assert picks.rows[: n // 2 + 1].tolist() == expected[: n // 2 + 1]  # the tail is ties of almost nothing
    assert sorted(picks.rows.tolist()) == list(range(n))


def test_what_is_labelled_is_not_asked_for_again():
    crowd = unit_rows(np.array([[1, 0.01 * i] for i in range(20)]))
    alone = unit_rows(np.array([[-1.0, 0.0]]))
    pool = Pool(np.concatenate([crowd, alone]), labelled_embeddings=crowd[::4])
    gain = coverage(pool, np.ones(21), np.arange(21), np.random.default_rng(0))
    assert np.argmax(gain.bounds) == 20


def test_gains_only_fall_as_tasks_are_taken():
    z = points(80)
    gain = coverage(Pool(z), np.ones(80), np.arange(80), np.random.default_rng(0))
    for row in (3, 50, 7):
        before = gain.bounds.copy()
        gain.take(row)
        gain.refresh(np.arange(80))
        assert (gain.bounds <= before + 1e-6).all()
        assert gain.bounds[row] == pytest.approx(0, abs=1e-6)


def test_a_sample_of_reference_points_estimates_the_gains_of_all(monkeypatch):
    z, weights = points(3000, d=4), np.random.default_rng(1).random(3000) ** 8
    pool = Pool(z, labelled_embeddings=points(3, d=4, seed=4))  # few labels, so a wide kernel
    exact = coverage(pool, weights, np.arange(100), np.random.default_rng(0)).bounds
    monkeypatch.setattr(diversity, "N_REFERENCES", 600)
    sampled = coverage(pool, weights, np.arange(100), np.random.default_rng(0)).bounds
    assert np.corrcoef(exact, sampled)[0, 1] > 0.9
    assert sampled.mean() == pytest.approx(exact.mean(), rel=0.1)


def test_the_kernel_narrows_as_labels_grow_dense():
    pool = points(400, d=6)
    widths = [diversity._sigma(Pool(pool, labelled_embeddings=points(m, d=6, seed=5))) for m in (2, 20, 300)]
    assert widths[0] > widths[1] > widths[2]


def brute_k_center(z, weights, centres, k):
    picks = []
    while len(picks) < k:
        nearest = pairwise_distances(z, np.concatenate([centres, z[picks]])).min(axis=1) * weights
        nearest[picks] = -1
        picks.append(int(np.argmax(nearest)))
    return picks


@pytest.mark.parametrize(("block", "span"), [(4, 1), (32, 8), (32, 128), (1024, 128)])
@pytest.mark.parametrize("weighted", [False, True])
def test_lazy_farthest_first_equals_the_plain_greedy(monkeypatch, block, span, weighted):
    monkeypatch.setattr(diversity, "K_CENTER_BLOCK", block)
    monkeypatch.setattr(diversity, "CENTRE_SPAN", span)
    z, centres = points(400, d=5), points(6, d=5, seed=9)
    weights = np.random.default_rng(2).random(400) + 0.2 if weighted else np.ones(400)
    rows, values, typical = core_set(Pool(z, labelled_embeddings=centres), weights, 120, np.random.default_rng(0))
    assert rows.tolist() == brute_k_center(z, weights, centres, 120)
    assert typical == pytest.approx(np.median(pairwise_distances(z, centres).min(axis=1)) / 2, rel=1e-4)
    assert values[0] == pytest.approx(pairwise_distances(z, centres).min(axis=1)[rows[0]] / 2, rel=1e-4)


@pytest.mark.parametrize("labels", [0, 6])
def test_farthest_first_measures_whole_embeddings(labels):
    z, centres = points(300, d=200), points(6, d=200, seed=9)[:labels]
    plan = Plan.preset("core_set")
    picked = rank(Pool(z, labelled_embeddings=centres), plan, 60, np.random.default_rng(0)).indices.tolist()
    first = [] if labels else picked[:1]
    assert first + brute_k_center(z, np.ones(300), np.concatenate([centres, z[first]]), 60 - len(first)) == picked


def test_farthest_first_takes_equals_by_the_draw_of_the_generator(monkeypatch):
    monkeypatch.setattr(diversity, "K_CENTER_BLOCK", 8)
    z = np.concatenate([unit_rows([[1.0, 0.0]]).repeat(40, axis=0), unit_rows([[-1.0, 0.0]])])
    pool = Pool(z, labelled_embeddings=z[-1:])
    firsts = {int(core_set(pool, np.ones(41), 1, np.random.default_rng(seed))[0][0]) for seed in range(200)}
    assert firsts == set(range(40))


def test_without_labels_farthest_first_begins_at_the_centre_and_takes_everything_once():
    z = points(50, d=3)
    rows, _, _ = core_set(Pool(z), np.ones(50), 50, np.random.default_rng(0))
    assert rows[0] == np.argmin(pairwise_distances(z, z.mean(axis=0, keepdims=True)))
    assert sorted(rows.tolist()) == list(range(50))


def test_duplicates_are_taken_last_by_farthest_first():
    z = np.repeat(points(5, d=4), 3, axis=0)
    rows, _, _ = core_set(Pool(z), np.ones(15), 15, np.random.default_rng(0))
    assert len({int(row) // 3 for row in rows[:5]}) == 5


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 6))
def test_squared_distances_agree_with_sklearn(seed, a, b):
    left, right = points(a, seed=seed), points(b, seed=seed + 1)
    expected = pairwise_distances(left.astype(float), right.astype(float), metric="sqeuclidean")
    assert np.allclose(squared_distances(left, right), expected, atol=1e-5)


def test_reference_points_carry_weight_in_the_proportion_of_the_whole_pool():
    weights = np.where(np.arange(4000) < 200, 1.0, 0.1)
    exact = 200 / weights.sum()
    shares = []
    for seed in range(40):
        rows, carried = diversity._references(weights, 400, np.random.default_rng(seed))
        shares.append(carried[rows < 200].sum())
    assert np.mean(shares) == pytest.approx(exact, rel=0.05)
