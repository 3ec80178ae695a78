import json

import numpy as np
import pytest
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from ls_backend.cli import app
from ls_backend.demo.digits import LABEL_CONFIG, digits
from ls_backend.engine.known import Known
from ls_backend.engine.replay import plan_of, replay
from ls_backend.errors import PoolInvalid, StrategyError, StrategyUnknown, TooFewLabels
from ls_backend.strategies import Plan


def silent(_):
    """Take what would be shown while it runs."""


@pytest.fixture(scope="module")
def pixels():
    """600 digits as raw pixels."""
    data = load_digits()
    names = tuple(str(name) for name in data.target_names)
    fields = {"writer": np.array([f"w{i % 3}" for i in range(600)], dtype=object)}
    return Known("digits", data.data[:600].astype(np.float32), data.target[:600].astype(np.int64), names, fields)


def first(known, n):
    """The first n of the tasks."""
    fields = {name: column[:n] for name, column in known.metadata.items()}
    return Known(known.title, known.raw[:n], known.classes[:n], known.class_names, fields)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """100 PNG files of three digits, in a folder for each."""
    root = tmp_path_factory.mktemp("digits")
    for item in [item for item in digits(400, seed=0) if item.label in "012"][:100]:
        (root / item.label).mkdir(exist_ok=True)
        (root / item.label / item.name).write_bytes(item.png)
    return root


def test_the_default_plan_is_shown_to_save_labels_and_random_against_itself_is_not(pixels):
    same = Plan.from_json({"preset": "random", "explore": 0.5})  # random in other words, with other draws
    made = replay(pixels, {"auto": Plan.preset("auto"), "again": same}, say=silent, rounds=4, seeds=5)
    random, auto, again = made.outcomes
    assert (random.name, random.gain, random.saving) == ("random", None, None)
    assert (made.n_pool, made.n_test, made.n_classes) == (450, 150, 10)
    assert made.n_labels == (10, 20, 30, 40)
    assert auto.gain.low > 0
    assert auto.saving.share.low > 0
    assert again.gain.low <= 0 <= again.gain.high
    assert auto.area.value == pytest.approx(np.mean([curve.accuracy.mean() for curve in auto.curves]))


def test_a_replay_again_gives_the_same_report(pixels):
    plans = {"auto": Plan.preset("auto")}
    first, second = (replay(pixels, plans, say=silent, rounds=2, seeds=2).plain() for _ in range(2))
    assert first == second
    assert json.loads(json.dumps(first, allow_nan=False)) == first


def test_every_seed_measures_on_another_quarter_of_each_class(pixels):
    made = replay(first(pixels, 120), {}, say=silent, batch=20, rounds=5, seeds=2)
    one, other = (curve.accuracy[-1] for curve in made.outcomes[0].curves)
    assert one != other  # everything is labelled in both: only the test set differs


def test_half_of_the_pool_is_played_when_no_rounds_are_asked_for(pixels):
    made = replay(pixels, {}, say=silent, batch=40, seeds=1)
    assert made.n_labels == (40, 80, 120, 160, 200)


def test_a_plan_whose_filters_use_the_pool_up_shortens_all_curves(pixels):
    only = Plan.from_json({"objectives": {"metadata": [{"field": "writer", "weights": {"w1": 0, "w2": 0}}]}})
    made = replay(first(pixels, 240), {"filtered": only}, say=silent, batch=20, rounds=4, seeds=2)
    assert made.n_labels == (20, 40)  # about 60 of the 180 are left
    assert [len(curve.n_labels) for outcome in made.outcomes for curve in outcome.curves] == [2] * 4
    nobody = Plan.from_json(
        {"objectives": {"metadata": [{"field": "writer", "weights": dict.fromkeys(("w0", "w1", "w2"), 0)}]}}
    )
    with pytest.raises(PoolInvalid, match="The plan nobody picked nothing"):
        replay(pixels, {"nobody": nobody}, say=silent, seeds=1)


@pytest.mark.parametrize(("n", "batch", "needed"), [(79, 10, 80), (80, 20, 107), (0, 1, 80)])
def test_too_few_labels_are_counted_and_what_is_needed_is_said(pixels, n, batch, needed):
    with pytest.raises(TooFewLabels, match=rf"has {n} labels .*expected at least {needed} "):
        replay(first(pixels, n), {}, say=silent, batch=batch)


def test_what_is_said_to_be_enough_is_enough(pixels):
    assert replay(first(pixels, 107), {}, say=silent, batch=20, seeds=1).n_labels == (20, 40)


def test_costs_of_answers_are_known_and_a_class_that_does_not_exist_is_not(pixels):
    priced = {"preset": "expected_cost", "objectives": {"value": {"costs": {"8": {"1": 9}}}}}
    replay(pixels, {"priced": plan_of(json.dumps(priced))}, say=silent, rounds=2, seeds=1)
    stranger = {**priced, "objectives": {"value": {"costs": {"8": {"eleven": 9}}}}}
    with pytest.raises(StrategyError, match="eleven"):
        replay(pixels, {"stranger": plan_of(json.dumps(stranger))}, say=silent, rounds=2, seeds=1)


def test_labels_of_one_class_are_too_few(pixels):
    one = Known("digits", pixels.raw[:200], np.full(200, 3), pixels.class_names)
    with pytest.raises(TooFewLabels, match="in 1 classes"):
        replay(one, {}, say=silent)


def test_a_plan_is_a_preset_or_json():
    assert plan_of("margin") == Plan.preset("margin")
    assert plan_of(' {"preset": "margin", "explore": 0}').objectives == Plan.preset("margin").objectives
    with pytest.raises(StrategyUnknown, match="did you mean 'margin'"):
        plan_of("margn")


def test_the_command_replays_a_folder_and_says_what_is_saved(folder, tmp_path):
    arguments = ["--folder", folder, "--plan", "auto", "--plan", "margin", "--batch", "5", "--rounds", "3"]
    arguments += ["--seeds", "2", "--json", tmp_path / "report.json"]
    done = CliRunner().invoke(app, ["backtest", *map(str, arguments)], env={"DEVICE": "cpu", "COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    words = " ".join(done.output.split())
    assert "75 tasks to pick from, 25 to measure on, 3 classes" in words
    assert "auto:" in words
    assert "margin:" in words
    assert "fewer than 5 seeds" in words
    report = json.loads((tmp_path / "report.json").read_text())
    assert [plan["name"] for plan in report["plans"]] == ["random", "auto", "margin"]
    assert report["n_labels"] == [5, 10, 15]
    assert len(report["plans"][1]["seeds"]) == 2


def test_the_command_says_how_many_labels_there_are_when_they_are_too_few(tmp_path):
    for item in digits(40, seed=0):
        (tmp_path / item.label).mkdir(exist_ok=True)
        (tmp_path / item.label / item.name).write_bytes(item.png)
    done = CliRunner().invoke(app, ["backtest", "--folder", str(tmp_path)], env={"DEVICE": "cpu", "COLUMNS": "120"})
    words = " ".join(done.output.split())
    assert done.exit_code == 1
    assert "too-few-labels" in words
    assert "has 40 labels" in words
    assert "expected at least 80" in words


def test_the_command_knows_a_project_from_the_records_alone(make_desk):
    desk = make_desk(20)
    desk.context.store.projects.ensure(desk.pid, label_config=LABEL_CONFIG)
    desk.label(*range(1, 11))
    environment = {"DATA_DIR": str(desk.context.settings.data_dir), "DEVICE": "cpu", "COLUMNS": "120"}
    done = CliRunner().invoke(app, ["backtest", "--project", str(desk.pid)], env=environment)
    words = " ".join(done.output.split())
    assert done.exit_code == 1
    assert "too-few-labels" in words
    assert "has 0 labels with a readable image" in words  # its embeddings are of no backbone the command has


@pytest.mark.parametrize("arguments", [[], ["--project", "1", "--folder", "."]])
def test_the_command_wants_a_project_or_a_folder(arguments):
    done = CliRunner().invoke(app, ["backtest", *arguments], env={"COLUMNS": "120"})
    assert done.exit_code == 2
    assert "either --project or --folder" in done.output
