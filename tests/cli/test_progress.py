from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from ls_backend.cli import app
from ls_backend.domain import Annotation, Metrics, ModelVersion, Task
from ls_backend.settings import Settings
from ls_backend.store import Store

CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="kind" toName="image">'
    '<Choice value="crack"/><Choice value="[none]"/></Choices></View>'
)
MEASURED = Metrics(20, accuracy=0.8, balanced_accuracy=0.8, log_loss=0.5, ece=0.1)


@pytest.fixture
def store(tmp_path):
    """Project 7: two of three tasks labelled by annotator 3, a model version, and what a worker has found out."""
    opened = Store(Settings(data_dir=tmp_path).sql_url)
    opened.projects.ensure(7, label_config=CONFIG)
    now = datetime.now(UTC)
    answer = [Annotation(i, i, (), False, False, 3, now, now) for i in (1, 2)]
    tasks = [Task(i, {"image": f"/{i}.png"}, now, True, 1, 0, annotations=(answer[i - 1],)) for i in (1, 2)]
    opened.tasks.upsert(7, [*tasks, Task(3, {"image": "/3.png"}, now, False, 0, 0)], image_field="image")
    opened.tasks.set_labels(7, dict.fromkeys((1, 2), ("crack", None)))
    version = ModelVersion(
        "al-1-0123abcd", 7, 1, "efficientnet_lite0", ("crack", "[none]"), (0, 0), 2, "0" * 64, 1.0, MEASURED,
        "promoted", now,
    )  # fmt: skip
    opened.versions.add(version)
    opened.insights.put(7, "uncertainty", {"method": "margin", "edges": [0.0, 0.5, 1.0], "counts": [40, 2]})
    bins = [{"confidence": 0.9, "accuracy": 0.75, "n": 20}]
    opened.insights.put(7, "calibration", {"bins": bins, "ece": 0.15, "measured_on": "hold-out"})
    yield opened
    opened.dispose()


@pytest.fixture
def run(tmp_path):
    def invoke(*arguments):
        return CliRunner().invoke(app, ["progress", *arguments], env={"DATA_DIR": str(tmp_path), "COLUMNS": "160"})

    return invoke


def rows(output):
    """The rows of all tables, as their cells."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if "│" in line]


def test_all_that_the_overview_shows_is_printed(store, run):
    done = run("--project", "7")
    assert done.exit_code == 0, done.output
    printed = rows(done.output)
    assert ["2", "al-1-0123abcd", "accuracy", "80.0 %", "58.4 % to 91.9 %", "promoted"] in printed
    assert ["kind", "crack", "2"] in printed
    assert ["kind", "[none]", "0"] in printed
    assert ["3", "2", "0"] in [row[1:] for row in printed]
    assert ["0.50 to 1.00", "2"] in printed
    assert ["90.0 %", "75.0 %", "20"] in printed
    assert "calibration error 15.0 % on the hold-out" in done.output


def test_the_json_is_what_the_server_answers(store, run):
    told = json.loads(run("--project", "7", "--hours", "2", "--json").stdout)
    assert told["state"]["labels"] == 2
    assert told["hours"] == 2
    assert [(one["annotator_id"], one["labels"]) for one in told["throughput"]] == [(3, 2)]
    assert told["insights"].keys() == {"uncertainty", "calibration"}
    assert told["insights"]["uncertainty"]["content"]["counts"] == [40, 2]


def test_a_project_that_is_not_connected_is_named(run):
    done = run("--project", "99")
    assert done.exit_code == 1
    assert "Project 99 is not connected" in done.stderr
