import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from ls_backend.engine.advice.agreement import cohen_kappa, krippendorff_alpha


@pytest.mark.parametrize("seed", range(5))
def test_kappa_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    one = rng.integers(0, 4, 60)
    other = np.where(rng.random(60) < 0.6, one, rng.integers(0, 5, 60))
    assert cohen_kappa(one, other) == pytest.approx(cohen_kappa_score(one, other))


def test_kappa_takes_words():
    one, other = np.array(["cat", "dog", "cat", "cow"]), np.array(["cat", "cat", "cat", "cow"])
    assert cohen_kappa(one, other) == pytest.approx(cohen_kappa_score(one, other))


def test_kappa_of_judges_who_give_one_answer_only_is_full_agreement():
    assert cohen_kappa(np.zeros(5), np.zeros(5)) == 1.0


def test_kappa_of_nothing_is_not_defined():
    assert np.isnan(cohen_kappa(np.zeros(0), np.zeros(0)))


def votes_of(ratings):
    values = sorted({value for row in ratings for value in row if value is not None})
    units = range(len(ratings[0]))
    return np.array([[sum(row[u] == value for row in ratings) for value in values] for u in units], np.int64)


def test_alpha_is_the_published_one():
    # Krippendorff 2011, "Computing Krippendorff's alpha-reliability", example C: four observers, gaps, alpha = .743.
    gap = None
    ratings = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, gap, gap, gap],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, gap, 3],
        [gap, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, gap],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, gap],
    ]
    assert krippendorff_alpha(votes_of(ratings)) == pytest.approx(0.743, abs=5e-4)


def test_alpha_of_two_observers_is_the_published_one():
    # Ibidem, example B: two observers, five values, no gaps, alpha = .692.
    one, two = list("aabbdcccedda"), list("babbbccceddd")
    assert krippendorff_alpha(votes_of([one, two])) == pytest.approx(0.692, abs=5e-4)


def test_alpha_is_not_defined_without_two_answers_or_two_values():
    assert np.isnan(krippendorff_alpha(np.array([[1, 0], [0, 1]])))
    assert np.isnan(krippendorff_alpha(np.array([[2, 0], [3, 0]])))
    assert np.isnan(krippendorff_alpha(np.zeros((0, 0), np.int64)))
