from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from ls_backend.strategies import Pool, committee, unit_rows
from ls_backend.strategies.committee import bald, mean_kl, vote_entropy


def pool_of(members):
    members = np.asarray(members, dtype=float)
    return Pool(unit_rows(np.ones((members.shape[1], 2))), members.mean(axis=0), member_probabilities=members)


@pytest.fixture(params=[(3, 5), (6, 4)])
def members(request):
    n_members, n_classes = request.param
    return np.random.default_rng(0).dirichlet(np.full(n_classes, 0.4), size=(n_members, 80))


def test_vote_entropy_is_the_entropy_of_the_answers(members):
    n_members, _, n_classes = members.shape
    measured = vote_entropy(pool_of(members))
    for task, value in enumerate(measured):
        counts = np.bincount(members[:, task].argmax(axis=1), minlength=n_classes)
        assert value == pytest.approx(scipy.stats.entropy(counts) / np.log(min(n_members, n_classes)), abs=1e-6)


def test_mean_kl_is_how_far_the_members_are_from_their_mean(members):
    n_members, _, n_classes = members.shape
    distances = [scipy.stats.entropy(member, members.mean(axis=0), axis=1) for member in members]
    expected = np.mean(distances, axis=0) / np.log(min(n_members, n_classes))
    assert np.allclose(mean_kl(pool_of(members)), expected, atol=1e-5)


def test_bald_is_the_information_a_label_holds_about_which_member_is_right(members):
    n_members, n_tasks, n_classes = members.shape
    expected = np.zeros(n_tasks)
    for task in range(n_tasks):
        joint = members[:, task] / n_members  # of the member and the label
        independent = np.outer(joint.sum(axis=1), joint.sum(axis=0))
        expected[task] = np.sum(joint * np.log(joint / independent)) / np.log(min(n_members, n_classes))
    assert np.allclose(bald(pool_of(members)), expected, atol=1e-5)


def test_blocks_of_tasks_are_judged_as_the_whole(members, monkeypatch):
    whole = bald(pool_of(members)), mean_kl(pool_of(members))
    monkeypatch.setattr(committee, "BLOCK_ROWS", 7)
    assert np.array_equal(whole, (bald(pool_of(members)), mean_kl(pool_of(members))))


def test_what_no_label_can_settle_is_doubt_without_dispute():
    undecided, disputed = np.full((2, 1, 2), 0.5), np.eye(2)[:, None]
    pool = pool_of(np.concatenate([undecided, disputed], axis=1))
    for measure in (bald, mean_kl):
        assert measure(pool) == pytest.approx([0, 1], abs=1e-6)
    assert vote_entropy(pool) == pytest.approx([0, 1], abs=1e-6)
