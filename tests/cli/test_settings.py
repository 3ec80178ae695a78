"""`ls-backend settings`: what is printed, saved and refused."""

from __future__ import annotations

import getpass
import json

import pytest
from typer.testing import CliRunner

from ls_backend.cli import app
from ls_backend.engine import configure
from ls_backend.settings import ProjectSettings, Settings
from ls_backend.store import Store


@pytest.fixture
def store(tmp_path):
    opened = Store(Settings(data_dir=tmp_path).sql_url)
    opened.projects.ensure(7)
    yield opened
    opened.dispose()


@pytest.fixture
def run(tmp_path, store):
    def invoke(*arguments):
        environment = {"DATA_DIR": str(tmp_path), "COLUMNS": "200"}
        return CliRunner().invoke(app, ["settings", *arguments], env=environment)

    return invoke


def in_force(store):
    return configure.in_force(store, 7)[1]


def test_set_changes_single_values_and_get_shows_them_with_who_and_when(store, run):
    done = run("set", "--project", "7", "explore=0.2", "preset=entropy", "objectives.uncertainty.strength=2", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["revision"], found["source"], found["who"]) == (1, "command line", getpass.getuser())
    assert found["settings"]["explore"] == 0.2
    assert found["objectives"]["uncertainty"] == {"method": "entropy", "strength": 2}
    assert json.loads(run("get", "-p", "7", "--json").stdout) == found
    assert "revision 1, command line" in run("get", "-p", "7").stdout


def test_all_settings_may_be_given_at_once(store, run):
    run("set", "-p", "7", "explore=0.2")
    assert run("set", "-p", "7", "--settings", '{"seed": 3}', "window=50").exit_code == 0
    assert in_force(store) == ProjectSettings(seed=3, window=50)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["explor=1"], "did you mean explore"),
        (["explore=2"], "less than or equal to 1"),
        (["explore"], "is not PATH=VALUE"),
        ([], "Nothing to set"),
        (["--settings", "{"], "not JSON"),
        (["preset=margn"], "did you mean 'margin'"),
        (["explore=0.3", "--expected", "0"], "settings-conflict"),
    ],
)
def test_what_is_wrong_is_refused_with_status_1_and_changes_nothing(store, run, arguments, words):
    run("set", "-p", "7", "seed=1")
    done = run("set", "-p", "7", *arguments)
    assert done.exit_code == 1
    assert words in " ".join(done.output.split())
    assert in_force(store) == ProjectSettings(seed=1)


def test_a_project_that_is_not_connected_has_no_settings(run):
    done = run("get", "-p", "99")
    assert done.exit_code == 1
    assert "ls-backend connect --project 99" in done.output


def test_history_and_undo(store, run):
    run("set", "-p", "7", "seed=1")
    run("set", "-p", "7", "seed=2")
    told = json.loads(run("history", "-p", "7", "--json").stdout)["revisions"]
    assert [item["revision"] for item in told] == [2, 1]
    assert told[0]["differences"] == [{"path": "seed", "before": "1", "after": "2"}]
    assert "seed from 1 to 2" in run("history", "-p", "7").stdout
    assert run("undo", "-p", "7").exit_code == 0
    assert in_force(store).seed == 1
    assert run("undo", "-p", "7", "--to", "9").exit_code == 1


def test_the_schema_names_every_setting(run):
    assert set(json.loads(run("schema", "--json").stdout)["properties"]) == set(ProjectSettings.model_fields)
    assert all(name in run("schema").stdout for name in ProjectSettings.model_fields)


def test_a_preview_without_redis_says_so_and_saves_nothing(store, run):
    done = run("set", "-p", "7", "seed=5", "--preview")
    assert done.exit_code == 1
    assert "queue-error" in done.output
    assert in_force(store).seed == 0
