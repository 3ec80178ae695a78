from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats

from ls_backend.strategies import Pool, committee, unit_rows
from ls_backend.strategies.committee import bald, batch_bald, mean_kl, vote_entropy


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


def joint_information(members, rows):
    """Information of the joint answer about the member, by listing every answer."""
    n_members, _, n_classes = members.shape
    total = 0.0
    for answer in itertools.product(range(n_classes), repeat=len(rows)):
        chances = np.ones(n_members)
        for row, label in zip(rows, answer, strict=True):
            chances = chances * members[:, row, label]
        joint = chances / n_members
        total += np.sum(joint * np.log(np.maximum(joint, 1e-300) / (joint.sum() / n_members)))
    return total


def test_batch_bald_picks_what_listing_every_joint_answer_picks():
    members = np.random.default_rng(4).dirichlet(np.full(3, 0.5), size=(4, 12))
    weights = np.random.default_rng(5).random(12) + 0.5
    rows, values, typical = batch_bald(pool_of(members), weights, 4, np.random.default_rng(0))
    taken = []
    for row, value in zip(rows.tolist(), values, strict=True):
        gains = [joint_information(members, [*taken, other]) - joint_information(members, taken) for other in range(12)]
        gains = np.where(np.isin(np.arange(12), taken), -1, weights * gains)
        assert row == np.argmax(gains)
        assert value == pytest.approx(gains[row] / weights[row] / np.log(3), abs=1e-5)
        taken.append(row)
    assert typical == pytest.approx(np.median([joint_information(members, [row]) for row in range(12)]) / np.log(3))


def test_sampled_joint_answers_estimate_the_information_of_all(monkeypatch):
    members = np.random.default_rng(4).dirichlet(np.full(3, 0.5), size=(6, 8))
    exact = joint_information(members, range(6))
    doubt = sum(scipy.stats.entropy(members[:, row], axis=1).mean() for row in range(6))
    monkeypatch.setattr(committee, "MAX_ANSWERS", 60)
    estimates = []
    for seed in range(30):
        rng, answers = np.random.default_rng(seed), committee.Answers(np.ones((1, 6)), np.ones(1))
        for row in range(6):
            before = answers.entropy_with(members[:, [row]])[0]
            answers = answers.extended(members[:, row], rng)
        assert len(answers.weights) <= 61
        estimates.append(before - doubt)
    assert np.mean(estimates) == pytest.approx(exact, abs=0.06)


def test_batch_bald_does_not_ask_for_what_the_first_label_tells():
    twins = np.repeat(np.eye(2)[:, None], 5, axis=1)  # two certain members that disagree about five tasks alike
    other = np.array([[[0.7, 0.3]], [[0.3, 0.7]]])
    rows, values, _ = batch_bald(
        pool_of(np.concatenate([twins, other], axis=1)), np.ones(6), 6, np.random.default_rng(0)
    )
    assert values[0] == pytest.approx(1)
    assert values[1:] == pytest.approx(np.zeros(5), abs=1e-6)
    assert sorted(rows.tolist()) == list(range(6))


def test_after_the_joint_picks_batch_bald_draws_by_the_information_of_each_task(monkeypatch):
    monkeypatch.setattr(committee, "MAX_JOINT", 0)
    pool = pool_of(np.random.default_rng(4).dirichlet(np.full(3, 0.5), size=(4, 6)))
    firsts = [int(batch_bald(pool, np.ones(6), 2, np.random.default_rng(seed))[0][0]) for seed in range(2000)]
    expected = bald(pool) / bald(pool).sum() * 2000
    assert scipy.stats.chisquare(np.bincount(firsts, minlength=6), expected).pvalue > 1e-3
