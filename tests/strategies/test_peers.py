"""The same answers as scikit-activeml, where it is installed and follows the same formula."""

from __future__ import annotations

import numpy as np
import pytest

from ls_backend.strategies import Plan, Pool, diversity, rank, unit_rows
from ls_backend.strategies.balls import prob_cover
from ls_backend.strategies.committee import batch_bald, mean_kl, most_information, vote_entropy
from ls_backend.strategies.diversity import core_set
from ls_backend.strategies.uncertainty import entropy, expected_cost, least_confidence, margin

peers = pytest.importorskip("skactiveml.pool", reason="scikit-activeml is not installed")

N, D, C, M = 80, 6, 4, 5


class Unreduced:
    """Leaves embeddings as they are, as the peer does."""

    def apply(self, embeddings, rows=None):
        return embeddings if rows is None else embeddings[rows]


@pytest.fixture
def pool():
    rng = np.random.default_rng(0)
    members = rng.dirichlet(np.full(C, 0.5), size=(5, N))
    return Pool(
        embeddings=unit_rows(rng.normal(size=(N, D))),
        probabilities=members.mean(axis=0),
        labelled_embeddings=unit_rows(rng.normal(size=(M, D))),
        member_probabilities=members,
        cost_matrix=rng.random((C, C)) * (1 - np.eye(C)),
    )


def seen(pool):
    """All points, and the labels they have: none for the pool, class 0 for the labelled ones."""
    points = np.concatenate([pool.embeddings, pool.labelled_embeddings]).astype(float)
    return points, np.concatenate([np.full(N, np.nan), np.zeros(M)])


@pytest.mark.parametrize(
    ("ours", "theirs", "scale"),
    [
        (margin, "margin_sampling", 1.0),
        (entropy, "entropy", 1 / np.log(C)),
        (least_confidence, "least_confident", C / (C - 1)),
    ],
)
def test_doubt(pool, ours, theirs, scale):
    expected = peers.uncertainty_scores(pool.probabilities.astype(float), method=theirs) * scale
    assert np.allclose(ours(pool), expected, atol=1e-5)


def test_expected_cost(pool):
    costs = peers.uncertainty_scores(pool.probabilities.astype(float), pool.cost_matrix, method="least_confident")
    assert np.allclose(expected_cost(pool) * pool.cost_matrix.max(), costs, atol=1e-5)


def test_committees(pool):
    members = pool.member_probabilities.astype(float)
    divergence = peers.average_kl_divergence(members)
    assert np.allclose(mean_kl(pool) * most_information(pool.member_probabilities), divergence, atol=1e-4)
    votes = peers.vote_entropy(members.argmax(axis=2).T, classes=np.arange(C))
    assert np.allclose(vote_entropy(pool) / vote_entropy(pool).max(), votes / votes.max(), atol=1e-6)


def test_batch_bald(pool):
    gains = peers.batch_bald(pool.member_probabilities.astype(float), 4, n_MC_samples=2000, random_state=0)
    rows, _, _ = batch_bald(pool, np.ones(N), 4, np.random.default_rng(0))
    assert rows.tolist() == np.nanargmax(gains, axis=1).tolist()


def test_core_set(pool):
    points, labels = seen(pool)
    expected = peers.CoreSet(random_state=0).query(points, labels, batch_size=25)
    rows, _, _ = core_set(pool, np.ones(N), 25, np.random.default_rng(0))
    assert rows.tolist() == expected.tolist()


def test_max_herding(pool, monkeypatch):
    points, labels = seen(pool)
    monkeypatch.setattr(diversity, "_sigma", lambda _: 0.7)
    kernel = {"gamma": 1 / (2 * 0.7**2)}
    expected = peers.MaxHerding(metric="rbf", metric_dict=kernel, random_state=0).query(points, labels, batch_size=12)
    monkeypatch.setattr("ls_backend.strategies.reduction.fit_reduction", lambda *_: Unreduced())
    assert rank(pool, Plan.preset("max_herding"), 12, np.random.default_rng(0)).indices.tolist() == expected.tolist()


@pytest.mark.filterwarnings("ignore:The maximum purity")  # the radius is given, so nothing is measured
def test_prob_cover(pool, monkeypatch):
    points, labels = seen(pool)
    monkeypatch.setattr("ls_backend.strategies.balls.radius", lambda *_: 0.8)
    rows, _, _ = prob_cover(pool, np.ones(N), 1, np.random.default_rng(0))
    method = peers.ProbCover(n_classes=C, deltas=[0.8], random_state=0)
    _, utilities = method.query(points, labels, batch_size=1, return_utilities=True)
    degrees = utilities[0][:N]
    assert degrees[rows[0]] == np.nanmax(degrees)
