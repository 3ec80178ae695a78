from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from ls_backend.strategies import Plan, Pool, rank, strategies, unit_rows
from ls_backend.strategies.clustering import clue, cluster_margin, drop_query
from ls_backend.strategies.committee import batch_bald
from ls_backend.strategies.fisher import _information, bait
from ls_backend.strategies.questions import answered, asked, distribution, doubt, known_doubts
from ls_backend.strategies.sampling import badge, falcun
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


def test_a_settled_question_is_judged_by_the_doubts_alone_and_by_its_probabilities_for_the_rest():
    found = np.random.default_rng(3).random((40, 1))
    pool = make_pool(doubts=found, settled=frozenset({1, 7}))
    open_ones = [margin(asked(pool, columns)) for columns in ([0, 2, 4], [5, 6])]
    np.testing.assert_allclose(doubt(pool, margin).of_tasks, np.mean([*open_ones, found[:, 0]], axis=0), rtol=1e-6)
    everything = make_pool(doubts=found, settled=frozenset({1, 4, 7, 9}))
    np.testing.assert_allclose(doubt(everything, margin).of_tasks, found[:, 0])
    assert "balance" in rank(everything, Plan.preset("minority"), 3, np.random.default_rng(0)).factors


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


def labels_pool(probabilities, **fields):
    p = np.asarray(probabilities, dtype=np.float32)
    return Pool(unit_rows(np.ones((len(p), 2))), p, questions=np.arange(p.shape[1]), **fields)


def test_a_reason_names_the_label_most_in_doubt():
    pool = labels_pool([[0.9, 0.48], [0.99, 0.01], [0.98, 0.03]], class_names=("dirt", "crack"))
    reason = rank(pool, Plan.preset("margin"), 1, np.random.default_rng(0)).reasons[0]
    assert reason == "margin 0.42 (usually 0.95), most about 'crack' 0.48"


def test_a_reason_names_the_likeliest_class_of_the_choice_most_in_doubt_and_what_came_from_elsewhere():
    p = [[0.5, 0.1, 0.4, 0.99], [1, 0, 0, 1]]
    pool = Pool(np.eye(2), p, questions=[0, 0, 0, 1], class_names=("sun", "rain", "fog", "crack"))
    assert "most about 'sun' 0.50" in rank(pool, Plan.preset("margin"), 1, np.random.default_rng(0)).reasons[0]
    doubted = replace(pool, doubts=np.array([[0.95], [0.0]]))
    assert "most of it found elsewhere" in rank(doubted, Plan.preset("margin"), 1, np.random.default_rng(0)).reasons[0]


@pytest.mark.parametrize(("chance", "word"), [(0.7, "likely"), (0.4, "perhaps")])
def test_a_reason_names_the_label_that_lacks_labels(chance, word):
    pool = labels_pool([[0.9, chance]] + [[0.9, 0.0]] * 5, class_names=("dirt", "crack"), labelled_counts=[40, 3])
    plan = Plan.from_json({"preset": "random", "objectives": {"balance": {}}, "explore": 0})
    ranking = rank(pool, plan, 1, np.random.default_rng(0))
    assert ranking.indices[0] == 0
    assert ranking.reasons[0] == f"{word} 'crack', which has 3 labels"


def gradients(pool):
    """Of the loss by the weights of the heads (n, c q), if the likeliest answers were true."""
    rows = []
    for p, z in zip(pool.probabilities, pool.embeddings, strict=True):
        truth = np.zeros(7)
        for columns in ([0, 2, 4], [5, 6]):
            truth[columns[int(np.argmax(p[columns]))]] = 1
        truth[[1, 3]] = np.round(p[[1, 3]])
        rows.append(np.outer(p - truth, z).ravel())
    return np.array(rows)


def test_badge_draws_by_the_distance_of_the_gradients_of_all_heads():
    pool = make_pool()
    rows, values, _ = badge(pool, np.ones(40), 8, np.random.default_rng(0))
    g = gradients(pool)
    lengths = np.linalg.norm(g, axis=1)
    assert rows[0] == np.argmax(lengths)
    for position in range(1, 8):
        nearest = np.linalg.norm(g[rows[:position]] - g[rows[position]], axis=1).min()
        assert values[position] == pytest.approx(min(nearest / (2 * lengths.max()), 1), abs=1e-5)


def joint_information(beliefs, rows):
    """Mutual information between the joint answers of some tasks and the member that is right, counted out."""
    t, n_answers = len(beliefs), beliefs.shape[2]
    joint = np.array(
        [
            [
                np.prod([beliefs[member, row, answer] for row, answer in zip(rows, answers, strict=True)])
                for member in range(t)
            ]
            for answers in np.ndindex(*(n_answers,) * len(rows))
        ]
    )
    return scipy.stats.entropy(joint.mean(axis=1)) - np.mean([scipy.stats.entropy(joint[:, m]) for m in range(t)])


def test_batch_bald_adds_up_what_the_labels_tell_about_the_members_of_each_head():
    pool = make_pool(n=10)
    members = pool.member_probabilities.astype(float)
    heads = [members[:, :, [0, 2, 4]], members[:, :, [5, 6]]]
    heads += [np.stack([1 - members[:, :, column], members[:, :, column]], axis=2) for column in (1, 3)]
    rows, values, _ = batch_bald(pool, np.ones(10), 3, np.random.default_rng(0))
    most = sum(np.log(min(4, head.shape[2])) for head in heads)
    taken = []
    for row, found in zip(rows.tolist(), values, strict=True):
        gains = [
            sum(
                joint_information(head, [*taken, other]) - (joint_information(head, taken) if taken else 0)
                for head in heads
            )
            if other not in taken
            else -1.0
            for other in range(10)
        ]
        assert row == int(np.argmax(gains))
        assert found == pytest.approx(gains[row] / most, abs=1e-5)
        taken.append(row)


def test_drop_query_asks_where_any_answer_hangs_on_details():
    p = np.full((60, 2), 0.1, dtype=np.float32)
    masked = np.repeat(p[None], 5, axis=0)
    masked[:, :30, 1] = 0.9  # the second label appears in the first half of the tasks
    rng = np.random.default_rng(0)
    points = unit_rows(rng.normal(size=(60, 4)))
    pool = Pool(points, p, questions=[0, 1], dropout_probabilities=masked)
    rows, _, _ = drop_query(pool, np.ones(60), 1, rng)
    assert rows[0] < 30


def test_falcun_measures_yes_and_no_alike():
    rng = np.random.default_rng(0)
    yes = rng.random((50, 2)).astype(np.float32)
    choices = np.stack([1 - yes[:, 0], yes[:, 0], 1 - yes[:, 1], yes[:, 1]], axis=1)
    labels = Pool(np.ones((50, 1)), yes, questions=[0, 1])
    pairs = Pool(np.ones((50, 1)), choices, questions=[0, 0, 1, 1])
    mixed = Pool(np.ones((50, 1)), choices[:, [0, 1, 3]], questions=[0, 0, 1])
    first, *others = (falcun(pool, np.ones(50), 20, np.random.default_rng(3)) for pool in (labels, pairs, mixed))
    for rows, values, _ in others:
        assert rows.tolist() == first[0].tolist()
        assert values == pytest.approx(first[1], abs=1e-5)


def test_bait_weighs_a_task_by_the_mean_over_its_questions():
    yes = np.random.default_rng(0).random((50, 1)).astype(np.float32)
    points = unit_rows(np.random.default_rng(1).normal(size=(50, 5)))
    alone = bait(Pool(points, yes, questions=[0]), np.ones(50), 5, np.random.default_rng(3))
    twice = bait(Pool(points, yes[:, [0, 0]], questions=[0, 1]), np.ones(50), 5, np.random.default_rng(3))
    assert alone[0].tolist() == twice[0].tolist()
    sure = np.concatenate([yes, np.zeros_like(yes)], axis=1)  # a second label nobody doubts halves the information
    halved = _information(sure, (np.array([0]), np.array([1])))
    assert halved == pytest.approx(yes[:, 0] * (1 - yes[:, 0]) / 2, abs=1e-6)


@pytest.mark.parametrize(("picker", "measure"), [(clue, entropy), (cluster_margin, margin)])
def test_batches_of_doubtful_tasks_look_at_all_questions_and_doubts(picker, measure):
    pool = make_pool(doubts=np.random.default_rng(1).random((40, 1)))
    flat = doubt(pool, measure).of_tasks
    assert picker(pool, np.ones(40), 6, np.random.default_rng(0))[0].tolist() == reference(picker, pool, flat)


def reference(picker, pool, doubts):
    """What the picker takes if the doubts are all there is."""
    alone = replace(pool, probabilities=None, doubts=doubts[:, None], member_probabilities=None)
    return picker(alone, np.ones(pool.size), 6, np.random.default_rng(0))[0].tolist()
