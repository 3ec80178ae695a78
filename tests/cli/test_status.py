from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from ls_backend.cli import app
from ls_backend.domain import Finding, Task, Window
from ls_backend.jobs import redis_server
from ls_backend.jobs.queues import Queues
from ls_backend.settings import Settings
from ls_backend.store import Store

CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="kind" toName="image">'
    '<Choice value="crack"/><Choice value="none"/></Choices></View>'
)


@pytest.fixture
def redis(tmp_path):
    server = redis_server.start(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def store(tmp_path):
    """Project 7 with 20 tasks, three labels and a window; project 8 with nothing."""
    opened = Store(Settings(data_dir=tmp_path).sql_url)
    for project_id, title in ((7, "bridges [north]"), (8, "")):
        opened.projects.ensure(project_id, label_config=CONFIG)
        opened.projects.set(project_id, title=title)
    now = datetime.now(UTC)
    tasks = [Task(i, {"image": f"/{i}.png"}, now, i <= 3, int(i <= 3), 0) for i in range(1, 21)]
    opened.tasks.upsert(7, tasks, image_field="image")
    opened.tasks.set_labels(7, dict.fromkeys((1, 2, 3), ("crack", None)))
    opened.tasks.set_content(7, {task.task_id: f"{task.task_id:064x}" for task in tasks})
    opened.windows.add(Window("al-cold:1", 7, 1, None, (3, 4, 5), 0))
    opened.windows.flipped(7, "al-cold:1", now)
    yield opened
    opened.dispose()


@pytest.fixture
def run(tmp_path):
    def invoke(*arguments):
        return CliRunner().invoke(app, ["status", *arguments], env={"DATA_DIR": str(tmp_path), "COLUMNS": "160"})

    return invoke


def test_every_project_has_its_row_and_its_sentence(store, redis, run):
    done = run()
    assert done.exit_code == 0, done.output
    row = next(line for line in done.output.splitlines() if "bridges" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "7 bridges [north]", "waiting for labels", "3 of 20", "none yet", "", "2", "never", "none",
    ]  # fmt: skip
    assert "7: 3 of 10 labels that the first model takes." in done.output
    assert "8: There are no tasks yet" in done.output


def test_the_json_holds_the_jobs_too(store, redis, run):
    queues = Queues(redis.url)
    queues.kick(7)
    queues.kick_insights(8)
    queues.record_failure("embed", 7, code="image-server", message="It is away.", hint="Start it.")
    queues.close()
    done = run("--project", "7", "--json")
    (told,) = json.loads(done.stdout)["projects"]
    assert (told["id"], told["name"], told["labels"], told["window_left"]) == (7, "waiting for labels", 3, 2)
    assert [(job["kind"], job["state"]) for job in told["jobs"]["queued"]] == [("update", "queued")]
    assert told["jobs"]["running"] == []
    assert [failure["code"] for failure in told["jobs"]["failed"]] == ["image-server"]
    assert "1 queued, 1 failed" in run("--project", "7").output


def test_a_problem_is_said_and_gives_exit_status_1(store, redis, run):
    store.problems.report(8, Finding("unreachable", "error", "job update", "Label Studio gave no [answer]."))
    done = run()
    assert done.exit_code == 1
    assert "8: job update: Label Studio gave no [answer]." in done.output
    assert run("--project", "7").exit_code == 0


def test_without_redis_everything_else_is_shown(store, run):
    done = run("--json")
    assert done.exit_code == 0
    told = {one["id"]: one for one in json.loads(done.stdout)["projects"]}
    assert (told[7]["labels"], told[7]["jobs"]) == (3, None)
    assert "The jobs cannot be seen" in done.stderr


def test_a_project_that_is_not_connected_is_named(store, redis, run):
    done = run("--project", "99")
    assert done.exit_code == 1
    assert "Project 99 is not connected" in done.stderr
