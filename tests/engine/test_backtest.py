import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss

from ls_backend.engine.backtest import backtest
from ls_backend.errors import PoolInvalid, StrategyNotReady
from ls_backend.strategies import Plan, presets, unit_rows
from ls_backend.vision.heads import L2, SCALE

BATCH = 10
ROUNDS = 6
N_TEST = 400


@pytest.fixture(scope="module")
def digits():
    """(embeddings, labels, test_embeddings, test_labels) of the raw pixels."""
    data = load_digits()
    rows, labels = unit_rows(data.data), data.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(rows))
    test, pool = order[:N_TEST], order[N_TEST:]
    return rows[pool], labels[pool], rows[test], labels[test]


def replay(digits, name="auto", *, batch=BATCH, rounds=ROUNDS, seed=0, **words):
    return backtest(*digits, Plan.preset(name), batch, rounds, seed, **words)


def oracle(digits, picked):
    """Test accuracies (plain, balanced) of scikit-learn's regression under the same decay, fitted on these picks."""
    embeddings, labels, test_embeddings, test_labels = digits
    model = LogisticRegression(C=1 / (L2 * len(picked)), tol=1e-8, max_iter=5000)
    model.fit(SCALE * embeddings[picked], labels[picked])
    predicted = model.predict(SCALE * test_embeddings)
    return accuracy_score(test_labels, predicted), balanced_accuracy_score(test_labels, predicted)


def test_every_point_of_the_curve_is_what_an_independent_fit_on_the_same_picks_measures(digits):
    curve = replay(digits)
    assert curve.n_labels.tolist() == [10, 20, 30, 40, 50, 60]
    assert len(set(curve.picked.tolist())) == 60
    for i, n in enumerate(curve.n_labels):
        plain, balanced = oracle(digits, curve.picked[:n])
        assert curve.accuracy[i] == pytest.approx(plain, abs=1.5 / N_TEST)  # a tie may fall either way
        assert curve.balanced_accuracy[i] == pytest.approx(balanced, abs=0.005)


def test_the_default_plan_learns_faster_than_random_by_figures_we_did_not_compute(digits):
    seeds = range(3)
    areas = {
        name: [
            np.mean([oracle(digits, curve.picked[:n])[0] for n in curve.n_labels])
            for curve in (replay(digits, name, rounds=4, seed=seed) for seed in seeds)
        ]
        for name in ("auto", "random")
    }
    assert min(areas["auto"]) > max(areas["random"])
    assert np.mean(areas["auto"]) > np.mean(areas["random"]) + 0.05


def test_the_same_seed_gives_the_same_curve_and_another_seed_another(digits):
    first, again, other = (replay(digits, "auto", rounds=3, seed=seed) for seed in (1, 1, 0))
    assert first.picked.tolist() == again.picked.tolist()
    assert first.log_loss.tolist() == again.log_loss.tolist()
    assert first.picked.tolist() != other.picked.tolist()


def test_fewer_rounds_are_the_beginning_of_more(digits):
    short, long = replay(digits, rounds=2), replay(digits, rounds=4)
    assert short.picked.tolist() == long.picked[: len(short.picked)].tolist()
    assert short.accuracy.tolist() == long.accuracy[:2].tolist()


def test_a_pool_that_is_used_up_ends_the_curve(digits):
    embeddings, labels, test_embeddings, test_labels = digits
    small = embeddings[:25], labels[:25], test_embeddings, test_labels
    curve = replay(small, rounds=9)
    assert curve.n_labels.tolist() == [10, 20, 25]
    assert sorted(curve.picked.tolist()) == list(range(25))


def test_while_one_class_is_labelled_the_curve_is_that_of_always_answering_it(digits):
    embeddings, labels, test_embeddings, test_labels = digits
    only = np.flatnonzero(labels == 3)[:8]
    curve = replay((embeddings[only], labels[only], test_embeddings, test_labels), batch=4, rounds=3, n_classes=10)
    assert curve.n_labels.tolist() == [4, 8]
    assert curve.accuracy == pytest.approx(np.mean(test_labels == 3))
    assert curve.balanced_accuracy == pytest.approx(0.1)
    constant = np.full(10, 1 / 14)
    constant[3] = 5 / 14
    expected = log_loss(test_labels, np.tile(constant, (N_TEST, 1)), labels=range(10))
    assert curve.log_loss[0] == pytest.approx(expected)


def test_more_dimensions_than_distances_need_are_all_seen_by_the_head():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    rows = rng.normal(size=(200, 300))
    rows[:, 0] += 8 * labels
    rows = unit_rows(rows - rows.mean(axis=0))
    data = rows[:120], labels[:120], rows[120:], labels[120:]
    curve = replay(data, batch=20, rounds=2)
    assert curve.accuracy[-1] == pytest.approx(oracle(data, curve.picked)[0], abs=1.5 / 80)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch": 0}, "batch is 0; expected 1 or more"),
        ({"rounds": 0}, "rounds is 0; expected 1 or more"),
        ({"seed": -1}, "seed is -1; expected 0 or more"),
        ({"n_classes": 2}, r"of labels is class \d .*expected 0 to 1"),
    ],
)
def test_a_number_out_of_range_is_refused_in_words(digits, change, words):
    with pytest.raises(PoolInvalid, match=words):
        replay(digits, **change)


def nan_row(values):
    return np.where(np.arange(len(values))[:, None] == 7, np.nan, values)


@pytest.mark.parametrize(
    ("place", "spoil", "words"),
    [
        (0, nan_row, "^embeddings cannot be used: Row 7"),
        (2, nan_row, "^test_embeddings cannot be used: Row 7"),
        (0, lambda values: 3 * values, "unit_rows"),
        (1, lambda values: values[:-1], r"labels have shape \(1396,\)"),
        (1, lambda values: values - 1, "class -1"),
        (1, lambda values: values.astype(float), "float64; expected"),
        (3, lambda values: values[:, None], r"test_labels have shape \(400, 1\)"),
        (2, lambda values: values[:, :5] / np.linalg.norm(values[:, :5], axis=1)[:, None].clip(1e-9), "dimensions"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused_in_words(digits, place, spoil, words):
    spoiled = list(digits)
    spoiled[place] = spoil(spoiled[place])
    with pytest.raises(PoolInvalid, match=words):
        replay(spoiled)


def test_a_test_set_without_tasks_is_refused(digits):
    embeddings, labels, test_embeddings, test_labels = digits
    with pytest.raises(PoolInvalid, match="at least one row"):
        replay((embeddings, labels, test_embeddings[:0], test_labels[:0]))


def test_a_plan_that_needs_more_than_it_is_given_says_what(digits):
    with pytest.raises(StrategyNotReady, match="cost_matrix"):
        replay(digits, "expected_cost")


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_can_be_replayed_beyond_its_cold_start(digits, name):
    embeddings, labels, test_embeddings, test_labels = digits
    small = embeddings[:120], labels[:120], test_embeddings, test_labels
    curve = replay(small, name, batch=12, rounds=3, cost_matrix=1.0 - np.eye(10))
    assert curve.n_labels.tolist() == [12, 24, 36]
    assert np.isfinite(curve.log_loss).all()


def test_metadata_rules_and_named_classes_apply_as_in_a_project(digits):
    embeddings, labels, test_embeddings, test_labels = digits
    wet = np.where(np.arange(len(labels)) % 2 == 0, "wet", "dry")
    rule = {"field": "road", "weights": {"dry": 0}}
    plan = Plan.from_json({"objectives": {"metadata": [rule], "value": {"classes": {"nine": 3}}}})
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    curve = backtest(
        embeddings, labels, test_embeddings, test_labels, plan, 10, 2, 0, metadata={"road": wet}, class_names=names
    )
    assert set(wet[curve.picked]) == {"wet"}
    with pytest.raises(StrategyNotReady, match="road"):
        backtest(embeddings, labels, test_embeddings, test_labels, plan, 10, 2, 0, class_names=names)


def test_a_function_chooses_in_the_place_of_a_plan(digits):
    seen = []

    def last_first(now, k, _rng):
        seen.append((now.picked.tolist(), now.labels.tolist(), now.head is None, now.n_classes))
        return now.rest[::-1][:k]

    curve = backtest(*digits, last_first, 10, 3, 0)
    n = len(digits[1])
    assert curve.picked.tolist() == list(range(n - 1, n - 31, -1))
    assert [len(picked) for picked, *_ in seen] == [0, 10, 20]
    assert seen[1][:3] == (curve.picked[:10].tolist(), digits[1][curve.picked[:10]].tolist(), False)
    assert seen[0][2:] == (True, 10)
    assert curve.accuracy[2] == pytest.approx(oracle(digits, curve.picked)[0], abs=1.5 / N_TEST)
