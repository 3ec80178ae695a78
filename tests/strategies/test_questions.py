from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from ls_backend.strategies import Plan, Pool, rank, strategies, unit_rows
from ls_backend.strategies.questions import answered, asked, distribution, doubt, known_doubts
from ls_backend.strategies.uncertainty import entropy, margin

MEASURES = [method.name for method in strategies() if method.objective == "uncertainty"]
QUESTIONS = np.array([4, 7, 4, 1, 4, 9, 9])  # a choice of three, one of two, and two labels; not in one run


def beliefs(rng, *shape):
    """What is believed about QUESTIONS, (*shape, 7)."""
    values = np.empty((*shape, 7), dtype=np.float32)
    values[..., [0, 2, 4]] = rng.dirichlet(np.full(3, 0.5), size=shape)
    values[..., [5, 6]] = rng.dirichlet(np.full(2, 0.5), size=shape)
    values[..., [1, 3]] = rng.beta(0.5, 0.5, size=(*shape, 2))
    return values


def make_pool(n=40, seed=0, **fields):
    rng = np.random.default_rng(seed)
    return Pool(
        **{
            "embeddings": unit_rows(rng.normal(size=(n, 20))),
            "probabilities": beliefs(rng, n),
            "member_probabilities": beliefs(rng, 4, n),
            "cost_matrix": rng.random((7, 7)) * 5,
            "predicted_loss": rng.random(n),
            "class_names": tuple("abcdefg"),
            "questions": QUESTIONS,
            **fields,
        }
    )


def plan_of(name):
    return Plan.from_json({"preset": "random", "objectives": {"uncertainty": {"method": name}}, "explore": 0})


def judged(pool, name):
    """What `rank` takes as doubt, by row of the pool."""
    ranking = rank(pool, plan_of(name), pool.size, np.random.default_rng(0))
    return ranking.factors["uncertainty"][np.argsort(ranking.indices)]


def one_by_one(pool):
    """The same tasks, once for each question, with a plain distribution over its answers."""
    n = pool.size
    for columns in ([3], [0, 2, 4], [1], [5, 6]):
        if len(columns) == 1:
            p, members = pool.probabilities[:, columns], pool.member_probabilities[:, :, columns]
            p, members = np.hstack([1 - p, p]), np.concatenate([1 - members, members], axis=2)
        else:
            p, members = pool.probabilities[:, columns], pool.member_probabilities[:, :, columns]
        yield Pool(np.eye(n), p, member_probabilities=members, predicted_loss=pool.predicted_loss)


@pytest.mark.parametrize("name", sorted(set(MEASURES) - {"expected_cost"}))
def test_doubt_is_the_mean_of_what_each_question_has_by_itself(name):
    pool = make_pool()
    alone = [judged(question, name) for question in one_by_one(pool)]
    assert judged(pool, name) == pytest.approx(np.mean(alone, axis=0), abs=1e-6)


def test_mean_entropy_agrees_with_scipy():
    pool, p = make_pool(), make_pool().probabilities
    by_question = [
        scipy.stats.entropy(p[:, [0, 2, 4]], axis=1, base=3),
        scipy.stats.entropy(p[:, [5, 6]], axis=1, base=2),
        scipy.stats.entropy([p[:, 1], 1 - p[:, 1]], base=2),
        scipy.stats.entropy([p[:, 3], 1 - p[:, 3]], base=2),
    ]
    assert judged(pool, "entropy") == pytest.approx(np.mean(by_question, axis=0), abs=1e-5)


def test_expected_cost_compares_what_mistakes_cost_across_questions():
    pool, costs = make_pool(), make_pool().cost_matrix
    largest = max(costs[np.ix_(columns, columns)].max() for columns in ([0, 2, 4], [1], [3], [5, 6]))
    for row, found in zip(pool.probabilities, judged(pool, "expected_cost"), strict=True):
        total = 0.0
        for columns in ([0, 2, 4], [5, 6]):
            total += min(sum(row[truth] * costs[truth, answer] for truth in columns) for answer in columns)
        for column in (1, 3):
            total += min(row[column], 1 - row[column]) * costs[column, column]
        assert found == pytest.approx(total / 4 / largest, abs=1e-6)


@pytest.mark.parametrize("name", MEASURES)
def test_doubts_found_elsewhere_are_further_questions_and_unknown_ones_are_ordinary(name):
    pool = make_pool()
    doubts = np.random.default_rng(5).random((40, 2))
    doubts[[3, 8], 0] = np.nan
    filled = doubts.copy()
    filled[[3, 8], 0] = np.median(np.delete(doubts[:, 0], [3, 8]))
    expected = (4 * judged(pool, name) + filled.sum(axis=1)) / 6
    assert judged(replace(pool, doubts=doubts), name) == pytest.approx(expected, abs=1e-6)


def test_a_column_of_doubts_that_nobody_knows_changes_nothing():
    pool = make_pool()
    assert judged(replace(pool, doubts=np.full((40, 1), np.nan)), "margin") == pytest.approx(judged(pool, "margin"))
    assert known_doubts(replace(pool, doubts=np.full((40, 3), np.nan))).shape == (40, 0)


@pytest.mark.parametrize("name", MEASURES)
def test_doubts_decide_alone_where_there_is_no_model(name):
    doubts = np.random.default_rng(5).permutation(30)[:, None] / 30
    pool = Pool(np.eye(30), doubts=doubts)
    ranking = rank(pool, plan_of(name), 30, np.random.default_rng(0))
    assert ranking.indices.tolist() == np.argsort(-doubts[:, 0]).tolist()
    assert ranking.regime == "cold start"
    assert "doubts" in ranking.regime_reason


def test_doubts_weigh_what_is_covered_where_there_is_no_model():
    points = unit_rows(np.repeat(np.eye(2), 30, axis=0) + np.random.default_rng(0).normal(size=(60, 2)) * 0.01)
    pool = Pool(points, doubts=np.repeat([[0.05], [0.9]], 30, axis=0))
    assert rank(pool, Plan.preset("auto"), 1, np.random.default_rng(0)).indices[0] >= 30


@pytest.mark.parametrize("name", MEASURES)
def test_one_number_for_all_columns_is_one_question(name):
    rng = np.random.default_rng(0)
    fields = {
        "embeddings": np.eye(30),
        "probabilities": rng.dirichlet(np.ones(3), size=30),
        "member_probabilities": rng.dirichlet(np.ones(3), size=(5, 30)),
        "cost_matrix": rng.random((3, 3)),
        "predicted_loss": rng.random(30),
    }
    plain, numbered = Pool(**fields), Pool(**fields, questions=[2, 2, 2])
    assert numbered.questions is None
    assert np.array_equal(judged(plain, name), judged(numbered, name))


@pytest.mark.parametrize("measure", [margin, entropy])
def test_a_yes_or_no_question_is_a_choice_of_two(measure):
    yes = np.random.default_rng(0).random(50)
    alone = Pool(np.eye(50), yes[:, None], questions=[0])
    choice = Pool(np.eye(50), np.stack([1 - yes, yes], axis=1))
    assert doubt(alone, measure).of_tasks == pytest.approx(doubt(choice, measure).of_tasks, abs=1e-6)


def test_the_most_doubtful_question_is_known():
    pool = make_pool(doubts=np.random.default_rng(1).random((40, 1)))
    alone = [margin(question) for question in one_by_one(pool)]  # questions 1, 4, 7, 9
    assert doubt(pool, margin).most.tolist() == np.argmax([*alone, pool.doubts[:, 0]], axis=0).tolist()


def test_a_question_keeps_what_belongs_to_it():
    pool = make_pool(labelled_counts=np.arange(7))
    choice, label = asked(pool, np.array([0, 2, 4])), asked(pool, np.array([1]))
    assert choice.class_names == ("a", "c", "e")
    assert choice.labelled_counts.tolist() == [0, 2, 4]
    assert choice.cost_matrix.tolist() == pool.cost_matrix[[0, 2, 4]][:, [0, 2, 4]].tolist()
    assert choice.questions is None
    assert label.probabilities == pytest.approx(np.stack([1 - pool.probabilities[:, 1], pool.probabilities[:, 1]], 1))
    assert pool.class_names == tuple("abcdefg")


def test_answers_are_the_likeliest_ones():
    values = np.array([[[0.2, 0.7, 0.8], [0.6, 0.5, 0.4]]], dtype=np.float32)
    assert answered(values, np.array([0, 2])).tolist() == [[1, 0]]
    assert answered(values, np.array([1])).tolist() == [[1, 0]]
    assert distribution(values, np.array([1]))[0] == pytest.approx(np.array([[0.3, 0.7], [0.5, 0.5]]))
