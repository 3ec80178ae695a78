from __future__ import annotations

import numpy as np
import pytest

from ls_backend.errors import SettingsError, StrategyNotReady
from ls_backend.strategies import Plan, Pool, error_rates, rank, unit_rows

BY_ERRORS = {"preset": "random", "objectives": {"metadata": [{"field": "weather", "weights": "errors"}]}}


def weather(n_sun, wrong_sun, n_rain, wrong_rain):
    values = np.array(["sun"] * n_sun + ["rain"] * n_rain, dtype=object)
    wrong = np.array([i < wrong_sun for i in range(n_sun)] + [i < wrong_rain for i in range(n_rain)], dtype=bool)
    return error_rates(values, wrong)


def make_pool(column, *, probabilities=True, **more):
    n = len(column)
    chances = np.tile([0.6, 0.4], (n, 1)) if probabilities else None
    return Pool(
        unit_rows(np.ones((n, 2))),
        chances,
        metadata={"weather": np.array(column, dtype=object)},
        ids=np.arange(n),
        **more,
    )


def test_with_many_tasks_the_share_is_the_observed_one():
    found = weather(100_000, 5_000, 100_000, 31_000)
    assert found.of(["sun", "rain"]) == pytest.approx([0.05, 0.31], abs=1e-3)
    assert found.counts == {"sun": 100_000, "rain": 100_000}


def test_few_tasks_are_drawn_towards_the_overall_share():
    found = weather(200, 20, 2, 2)
    assert 0.1 < found.rates["rain"] < 0.3
    assert found.rates["sun"] == pytest.approx(0.1, abs=0.005)


def test_the_share_is_the_mean_of_a_beta_posterior():
    # Sampled, not computed: 22 of 202 wrong with a uniform prior, then 2 of 2 under a prior worth ten tasks.
    rng = np.random.default_rng(0)
    overall = rng.beta(1 + 22, 1 + 180, 400_000).mean()
    rain = rng.beta(10 * overall + 2, 10 * (1 - overall), 400_000).mean()
    found = weather(200, 20, 2, 2)
    assert found.overall == pytest.approx(overall, abs=1e-3)
    assert found.rates["rain"] == pytest.approx(rain, abs=1e-3)


def test_tasks_without_the_field_and_values_never_held_out_get_the_overall_share():
    found = error_rates(np.array(["sun", None, "", np.nan], dtype=object), np.array([True, False, False, False]))
    assert found.counts == {"sun": 1}
    assert found.of([None, "fog"]) == pytest.approx([found.overall] * 2)


def test_nothing_held_out_tells_nothing():
    found = error_rates(np.array([], dtype=object), np.zeros(0, bool))
    assert found.overall == 0.5
    assert found.rates == {}


def test_tasks_where_the_model_struggles_come_first_and_are_told_why():
    pool = make_pool(["sun", "rain", "fog", "rain"], error_rates={"weather": weather(180, 9, 18, 12)})
    ranking = rank(pool, Plan.from_json(BY_ERRORS), 4, np.random.default_rng(0))
    assert set(ranking.indices[:2]) == {1, 3}
    assert ranking.indices[-1] == 0
    assert ranking.reasons[0] == "weather 'rain', where the model errs 47% (18 held out)"


def test_the_weights_are_proportional_to_the_errors():
    known = weather(500, 50, 500, 200)
    pool = make_pool(["sun", "rain"], error_rates={"weather": known})
    factors = rank(pool, Plan.from_json(BY_ERRORS), 2, np.random.default_rng(0)).factors["metadata:weather"]
    assert factors == pytest.approx([1.0, known.rates["sun"] / known.rates["rain"]])


def test_errors_that_were_not_measured_are_asked_for_once_there_is_a_model():
    with pytest.raises(StrategyNotReady, match="error_rates"):
        rank(make_pool(["sun", "rain"]), Plan.from_json(BY_ERRORS), 1, np.random.default_rng(0))
    cold = rank(make_pool(["sun", "rain"], probabilities=False), Plan.from_json(BY_ERRORS), 2, np.random.default_rng(0))
    assert len(cold.indices) == 2


def test_other_words_than_errors_are_no_weights():
    with pytest.raises(SettingsError, match="weights"):
        Plan.from_json({"objectives": {"metadata": [{"field": "weather", "weights": "mistakes"}]}})
