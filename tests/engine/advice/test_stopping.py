import itertools
from statistics import NormalDist

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ls_backend.domain import Control, LabelSchema
from ls_backend.engine.advice.stopping import (
    expected_error,
    forecast_gain,
    spaced,
    stabilising_predictions,
    stopping,
)
from ls_backend.strategies import unit_rows
from ls_backend.vision import heads

CHOICE = LabelSchema("image", (Control("animal", "choices", "image", ("cat", "dog", "cow")),))
TAGS = LabelSchema("image", (Control("tags", "choices", "image", ("wet", "big"), multiple=True),))
N_LABELS = [20, 30, 40, 50, 60, 70, 80, 90, 100, 111, 123, 137, 152, 169, 188, 209]


def beliefs(answers, sure=0.9):
    """Probabilities (n, 3) of a model that is so sure of its answers."""
    p = np.full((len(answers), 3), (1 - sure) / 2, np.float32)
    p[np.arange(len(answers)), answers] = sure
    return p


def changed(answers, count, rng):
    other = answers.copy()
    some = rng.permutation(len(answers))[:count]
    other[some] = (other[some] + 1) % 3
    return other


def test_models_that_say_the_same_are_stable():
    answers = np.random.default_rng(0).integers(0, 3, 2000)
    criterion = stabilising_predictions(CHOICE, [beliefs(answers)] * 4)
    assert (criterion.value, criterion.holds) == (1.0, True)


@pytest.mark.parametrize(("share", "stable"), [(0.002, True), (0.03, False)])
def test_stability_goes_by_the_kappa_of_neighbours(share, stable):
    rng = np.random.default_rng(0)
    course = [rng.integers(0, 3, 2000)]
    for _ in range(3):
        course.append(changed(course[-1], int(share * 2000), rng))
    criterion = stabilising_predictions(CHOICE, [beliefs(answers) for answers in course])
    # Of three equally frequent answers a third agrees by chance.
    assert criterion.value == pytest.approx(1 - share * 3 / 2, abs=1e-3)
    assert criterion.holds is stable


def test_only_the_latest_models_count():
    rng = np.random.default_rng(0)
    course = [beliefs(rng.integers(0, 3, 500)) for _ in range(5)]
    assert stabilising_predictions(CHOICE, [*course, *[course[-1]] * 3]).holds


def test_three_models_are_too_early():
    answers = np.zeros(10, np.int64)
    criterion = stabilising_predictions(CHOICE, [beliefs(answers)] * 3)
    assert (criterion.value, criterion.holds) == (None, False)
    assert "3 of the 4 models" in criterion.sentence


def test_each_label_that_holds_or_not_is_an_answer():
    one = np.array([[0.9, 0.2], [0.1, 0.8], [0.7, 0.4], [0.2, 0.1]], np.float32)
    other = one.copy()
    other[0, 1] = 0.6  # one answer of eight: 3 of 8 yes, then 4 of 8
    criterion = stabilising_predictions(TAGS, [one, one, one, other])
    kappa = (7 / 8 - 0.5) / 0.5
    assert criterion.value == pytest.approx((1 + 1 + kappa) / 3)


def test_expected_error_is_what_a_calibrated_model_gets_wrong():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([3, 1, 1], 20_000).astype(np.float32)
    truth = (rng.random((20_000, 1)) > p.cumsum(axis=1)).sum(axis=1).clip(max=2)
    criterion = expected_error(CHOICE, p)
    assert criterion.value == pytest.approx((p.argmax(axis=1) != truth).mean(), abs=0.01)
    assert not criterion.holds


def test_expected_error_of_labels_that_hold_together_counts_every_answer():
    assert expected_error(TAGS, np.array([[0.9, 0.2], [1.0, 0.5]], np.float32)).value == pytest.approx(0.2)


def test_a_sure_model_holds_and_no_task_holds_nothing():
    assert expected_error(CHOICE, beliefs(np.zeros(50, np.int64), sure=0.99)).holds
    assert not expected_error(CHOICE, np.empty((0, 3), np.float32)).holds


def test_models_are_chosen_far_apart_from_the_newest_back():
    n_labels = list(range(200, 0, -1))
    chosen = [n_labels[place] for place in spaced(n_labels)]
    assert chosen[:4] == [200, 180, 162, 146]
    assert all(before - after >= max(10, 0.09 * before) for before, after in itertools.pairwise(chosen))
    assert chosen[-1] >= 1
    assert len(spaced(list(range(100_000, 0, -1)))) == 16
    assert spaced([]) == []


def measured(n_labels, curve, n_holdout, rng, *, luck=0.01):
    """Which of the hold-out each model gets right: hard tasks are hard for all, and labels come by luck."""
    accuracy = (curve(np.asarray(n_labels, float)) + luck * rng.standard_normal(len(n_labels))).clip(0.001, 0.999)
    hard, own = rng.standard_normal(n_holdout), rng.standard_normal((len(n_labels), n_holdout))
    bar = np.array([NormalDist().inv_cdf(value) for value in accuracy])[:, None]
    return np.sqrt(0.8) * hard + np.sqrt(0.2) * own < bar


CURVES = {
    "steep": lambda n: 0.95 - 2.0 * n**-0.8,
    "slow": lambda n: 0.9 - 1.5 * n**-0.5,
    "to the top": lambda n: 1.0 - 1.2 * n**-0.4,
    "flat": lambda n: 0.9 - 0.0 * n,
    "over": lambda n: 0.85 - 10.0 * n**-1.5,
}


@pytest.mark.parametrize("n_holdout", [25, 200])
@pytest.mark.parametrize("points", [6, 16])
@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_the_interval_holds_the_true_gain_about_as_often_as_it_says(curve, points, n_holdout):
    rng = np.random.default_rng(5)
    n_labels = N_LABELS[-points:]
    truth = curve(np.array(259.0)) - curve(np.array(209.0))
    made = [forecast_gain(n_labels, measured(n_labels, curve, n_holdout, rng), locked=True) for _ in range(60)]
    held = np.mean([one.low - 1e-4 <= truth <= one.high + 1e-4 for one in made])
    assert held >= 0.78  # of 90 %; 60 runs come out lower by chance once in 300 times


def test_more_tasks_to_measure_on_make_the_interval_narrow():
    rng = np.random.default_rng(0)
    few, many = (forecast_gain(N_LABELS, measured(N_LABELS, CURVES["slow"], h, rng), locked=True) for h in (30, 3000))
    assert many.high - many.low < 0.5 * (few.high - few.low)
    assert many.gain == pytest.approx(0.0106, abs=0.004)


def test_the_forecast_is_a_sentence_in_points_with_its_caveat():
    right = measured(N_LABELS, CURVES["slow"], 200, np.random.default_rng(0))
    honest, biased = (forecast_gain(N_LABELS, right, locked=locked) for locked in (True, False))
    assert honest.sentence.startswith(
        f"Another 50 labels should bring {100 * honest.low:+.1f} to {100 * honest.high:+.1f}"
    )
    assert "16 models measured on 200 labels" in honest.sentence
    assert biased.sentence.startswith(f"Another 50 labels should bring at most {100 * honest.high:+.1f}")
    assert (biased.low, biased.gain, biased.high) == (0.0, None, honest.high)


def test_a_model_that_is_always_right_cannot_gain():
    forecast = forecast_gain(N_LABELS, np.ones((16, 300), dtype=bool), locked=True)
    assert forecast.high < 0.01


@pytest.mark.parametrize(
    ("points", "n_holdout", "words"), [(4, 100, "4 points"), (16, 19, "19 labels are held out"), (0, 0, "0 labels are")]
)
def test_too_little_is_too_early(points, n_holdout, words):
    forecast = forecast_gain(N_LABELS[:points], np.ones((points, n_holdout), dtype=bool), locked=True)
    assert (forecast.gain, forecast.low, forecast.high) == (None, None, None)
    assert words in forecast.sentence


@pytest.mark.parametrize(
    ("n_models", "stable", "sure", "verdict"),
    [
        (3, True, True, "too-early"),
        (5, False, False, "go-on"),
        (5, True, False, "near"),
        (5, False, True, "near"),
        (5, True, True, "may-stop"),
    ],
)
def test_the_verdict_goes_by_both_criteria(n_models, stable, sure, verdict):
    rng = np.random.default_rng(0)
    same = rng.integers(0, 3, 500)
    course = [beliefs(same if stable else rng.integers(0, 3, 500)) for _ in range(n_models)]
    pool = beliefs(same, sure=0.99 if sure else 0.7)
    right = np.ones((n_models, 50), dtype=bool)
    stop = stopping(CHOICE, N_LABELS[:n_models], course, pool, right, locked=True)
    assert stop.verdict == verdict
    assert all(one.sentence in stop.sentence for one in stop.criteria)
    assert stop.forecast.sentence in stop.sentence


def test_what_is_held_out_of_an_active_choice_bounds_the_gain_from_above_only():
    # The hold-out is every fifth label of those that margin sampling asked for; the truth is measured on 600 others.
    pixels, digit = load_digits(return_X_y=True)
    features = unit_rows(((pixels - pixels.mean(axis=0)) / (pixels.std(axis=0) + 1e-3)).astype(np.float32))
    order = np.random.default_rng(0).permutation(len(digit))
    test, pool = order[:600], order[600:]
    labelled, course, models = pool[:20], [], []
    while len(labelled) <= 350:
        learn, held = np.delete(labelled, np.s_[4::5]), labelled[4::5]
        models.append(heads.fit_head(features[learn], digit[learn], 10))
        course.append((len(labelled), held))
        rest = np.setdiff1d(pool, labelled)
        p = np.sort(models[-1].probabilities(features[rest]), axis=1)
        labelled = np.concatenate([labelled, rest[np.argsort(p[:, -1] - p[:, -2])[:10]]])
    score = [float((model.logits(features[test]).argmax(axis=1) == digit[test]).mean()) for model in models]
    now = len(models) - 6  # 50 labels before the end
    points = [now - place for place in spaced([n for n, _ in course[now::-1]])][::-1]
    held = course[now][1]
    right = np.array([models[i].logits(features[held]).argmax(axis=1) == digit[held] for i in points])
    bounded = forecast_gain([course[i][0] for i in points], right, locked=False)
    naive = forecast_gain([course[i][0] for i in points], right, locked=True)
    truth = score[-1] - score[now]
    assert bounded.low <= max(truth, 0) <= bounded.high
    assert naive.gain > 2 * truth, "the bias is real"
