import numpy as np
import pytest
from scipy import stats

from ls_backend.engine.backtest import Curve
from ls_backend.engine.savings import area, area_gain, labels_saved, mean_curve
from ls_backend.errors import PoolInvalid

N_LABELS = np.arange(10, 201, 10)


def curves(values, n_labels=N_LABELS):
    """Curves with these accuracies (s, r)."""
    nothing = np.zeros(len(n_labels))
    return [Curve(n_labels, np.asarray(row), nothing, nothing, np.zeros(0, np.int64)) for row in values]


def straight(slope, n_seeds=5):
    return np.tile(0.5 + slope * N_LABELS, (n_seeds, 1))


def measured(rng, slope, n_seeds, *, luck, noise):
    """Straight curves whose seeds differ by luck (s, 1) that the plans share, and by noise of their own."""
    return straight(slope, n_seeds) + luck + rng.normal(0, noise, (n_seeds, len(N_LABELS)))


def test_a_plan_that_learns_twice_as_fast_saves_half_of_the_labels():
    saving = labels_saved(curves(straight(0.002)), curves(straight(0.001)))
    assert (saving.share.value, saving.share.low, saving.share.high) == pytest.approx((0.5, 0.5, 0.5))
    assert (saving.labels, saving.random_labels, saving.n_labels) == (pytest.approx(100), 200, 200)
    assert (saving.target, saving.reached) == (pytest.approx(0.7), pytest.approx(0.9))
    assert saving.sentence == (
        "Labels saved against random: 50 % [50 %, 50 %]: 100 labels, not 200, for the 70.0 % that random labels reach "
        "with 200."
    )


def test_labels_are_read_off_between_the_rounds_at_the_first_crossing():
    n_labels = np.array([10, 20, 30, 40])
    plan = curves([[0.2, 0.6, 0.4, 0.9]] * 2, n_labels)
    random = curves([[0.1, 0.2, 0.3, 0.5]] * 2, n_labels)
    assert labels_saved(plan, random).labels == pytest.approx(17.5)  # 0.5 lies 3/4 of the way from 0.2 to 0.6


def test_a_plan_that_starts_above_the_target_needs_at_most_the_first_batch():
    assert labels_saved(curves(straight(0.002) + 0.4), curves(straight(0.001))).labels == 10


def test_a_plan_that_never_gets_there_saves_nothing_and_says_where_it_ends():
    saving = labels_saved(curves(straight(0.0005)), curves(straight(0.001)))
    assert saving.labels is None
    assert saving.share.value == saving.share.low == -np.inf
    assert saving.sentence == (
        "Labels saved against random: none shown. The plan ends at 60.0 % and never reaches the 70.0 % that random "
        "labels reach with 200."
    )


def test_a_plan_that_sometimes_never_gets_there_has_an_interval_without_end():
    half = np.vstack([straight(0.0015, 3), straight(0.0001, 3)])
    saving = labels_saved(curves(half + 0.04), curves(straight(0.001, 6)))
    assert saving.labels is not None
    assert saving.share.low == -np.inf
    assert "[no end," in saving.sentence
    assert "Nothing is proven" in saving.sentence


def test_random_against_random_proves_nothing():
    rng = np.random.default_rng(0)
    draws = [measured(rng, 0.001, 10, luck=0.0, noise=0.01) for _ in range(2)]
    saving = labels_saved(*map(curves, draws))
    gain = area_gain(*map(curves, draws))
    assert saving.share.low <= 0 <= saving.share.high
    assert gain.low <= 0 <= gain.high
    assert "none shown" in saving.sentence


@pytest.mark.parametrize("n_seeds", [1, 4])
def test_a_few_seeds_have_an_interval_without_end(n_seeds):
    plan, random = curves(straight(0.002, n_seeds)), curves(straight(0.001, n_seeds))
    gain = area_gain(plan, random)
    assert (gain.low, gain.high) == (-np.inf, np.inf)
    assert gain.value == pytest.approx(0.105)
    assert labels_saved(plan, random).sentence == (
        "Labels saved against random: 50 %. Nothing is proven by fewer than 5 seeds."
    )


@pytest.mark.parametrize("n_seeds", [5, 20])
def test_the_interval_of_the_area_is_about_that_of_students_t(n_seeds):
    rng = np.random.default_rng(1)
    luck = rng.normal(0, 0.05, (n_seeds, 1))
    plan = measured(rng, 0.002, n_seeds, luck=luck, noise=0.02)
    random = measured(rng, 0.001, n_seeds, luck=luck, noise=0.02)
    gain = area_gain(curves(plan), curves(random))
    differences = (plan - random).mean(axis=1)
    low, high = stats.t.interval(0.95, n_seeds - 1, differences.mean(), stats.sem(differences))
    assert gain.value == pytest.approx(differences.mean())
    assert (gain.high - gain.low) == pytest.approx(high - low, rel=0.15)
    alone = area(curves(plan))
    assert alone.value == pytest.approx(plan.mean())
    assert alone.high - alone.low > 2 * (gain.high - gain.low)  # shared luck cancels where seeds are paired


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(2)
    held_saving = held_gain = 0
    for _ in range(100):
        luck = rng.normal(0, 0.03, (8, 1))
        plan = curves(measured(rng, 0.002, 8, luck=luck, noise=0.01))
        random = curves(measured(rng, 0.001, 8, luck=luck, noise=0.01))
        share, gain = labels_saved(plan, random).share, area_gain(plan, random)
        held_saving += share.low <= 0.5 <= share.high
        held_gain += gain.low <= 0.105 <= gain.high
    assert held_saving >= 88
    assert 88 <= held_gain < 100


def test_the_mean_curve_has_an_interval_for_every_round():
    values = np.array([[0.1, 0.4], [0.3, 0.4], [0.2, 0.4], [0.2, 0.4], [0.2, 0.4]])
    first, second = mean_curve(curves(values, np.array([10, 20])))
    assert first.value == pytest.approx(0.2)
    assert first.low < 0.2 < first.high
    assert (second.value, second.low, second.high) == pytest.approx((0.4, 0.4, 0.4))


def test_curves_that_do_not_pair_are_refused_in_words():
    with pytest.raises(PoolInvalid, match="5 seeds of 20 rounds, random has 3 of 20; expected the same seeds"):
        area_gain(curves(straight(0.002)), curves(straight(0.001, 3)))
    with pytest.raises(PoolInvalid, match="0 curves have 0 different courses"):
        area([])
    with pytest.raises(PoolInvalid, match="2 curves have 2 different courses"):
        area([*curves(straight(0.002, 1)), *curves([[0.5]], np.array([10]))])
