"""A fresh store for each test: SQLite always, PostgreSQL too where LSB_TEST_POSTGRES_URL names a server."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import uuid
from datetime import UTC, datetime

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from ls_backend.domain import Annotation, Metrics, ModelVersion, Reliability, Task, Window
from ls_backend.store import Store

POSTGRES = os.environ.get("LSB_TEST_POSTGRES_URL")
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture(params=["sqlite", *(["postgresql"] if POSTGRES else [])])
def url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'records.sqlite3'}"
        return
    name = f"test_{uuid.uuid4().hex}"
    server = make_url(POSTGRES).set(drivername="postgresql+psycopg")
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA {name}"))
    own = server.update_query_dict({"options": f"-csearch_path={name}"})
    yield own.render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
    engine.dispose()


@pytest.fixture
def store(url):
    opened = Store(url)
    yield opened
    opened.dispose()


@pytest.fixture
def project(store):
    return store.projects.ensure(1, label_config="<View/>").id


@pytest.fixture
def make_task():
    def make(task_id, *, image="/a.png", at=NOON, annotations=None, **data):
        given = annotations or ()
        return Task(
            task_id=task_id,
            data={"image": image, **data} if image is not None else data,
            updated_at=at,
            is_labeled=bool(given),
            total_annotations=sum(not one.was_cancelled for one in given),
            cancelled_annotations=sum(one.was_cancelled for one in given),
            annotations=annotations,
        )

    return make


@pytest.fixture
def make_annotation():
    def make(annotation_id, task_id, *, cancelled=False, by=1, at=NOON):
        return Annotation(
            annotation_id=annotation_id,
            task_id=task_id,
            result=({"type": "choices", "value": {"choices": ["Riß 木"]}},),
            was_cancelled=cancelled,
            ground_truth=False,
            completed_by=by,
            created_at=at,
            updated_at=at,
        )

    return make


@pytest.fixture
def make_window():
    def make(version, task_ids=(3, 1, 2), project_id=1):
        return Window(version, project_id, generation=1, model_version_id=None, task_ids=task_ids, n_labels=0)

    return make


@pytest.fixture
def make_version():
    def make(round_, *, state="promoted", project_id=1):
        return ModelVersion(
            version_id=f"al-{round_}-0badcafe",
            project_id=project_id,
            round=round_,
            backbone="efficientnet_lite0",
            classes=("crack", "none"),
            questions=(0, 0),
            n_labels=12,
            labels_digest="0" * 64,
            temperature=1.25,
            metrics=Metrics(n_holdout=4, accuracy=0.75, ece=0.1, reliability=(Reliability(0.8, 0.75, 4),)),
            state=state,
            created_at=NOON,
        )

    return make


@pytest.fixture
def processes():
    """Run a piece of Python in several processes at once; answer what each printed."""

    def run(code, *arguments, n=3):
        command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)]
        started = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(n)
        ]
        try:
            finished = [process.communicate(timeout=120) for process in started]
        finally:
            for process in started:
                process.kill()
                process.wait()
        assert [process.returncode for process in started] == [0] * n, "\n".join(error for _, error in finished)
        return [output.strip() for output, _ in finished]

    return run
