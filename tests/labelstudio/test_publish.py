from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ls_backend.demo.label_studio import LabelStudioServer
from ls_backend.domain import Prediction
from ls_backend.errors import LabelStudioError, Rejected
from ls_backend.labelstudio.label_config import make_result, parse
from ls_backend.labelstudio.publish import KEPT_VERSION, Published, collect, expired, flip, publish

pytestmark = pytest.mark.e2e

CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image">'
    '<Choice value="cat"/><Choice value="dog"/></Choices></View>'
)


@pytest.fixture(scope="module")
def slow_client(label_studio_executable, tmp_path_factory):
    """A Label Studio as most people run it: its older import checks rows and drops bad ones in silence."""
    folder = tmp_path_factory.mktemp("older-import")
    with LabelStudioServer.start(folder, executable=label_studio_executable, fast_import=False) as server:
        yield server.client()


@pytest.fixture(params=["newer import", "older import"])
def studio(request):
    return request.getfixturevalue("client" if request.param == "newer import" else "slow_client")


@pytest.fixture
def pid(studio):
    pid = studio.create_project("publish", CONFIG, sampling="Uncertainty sampling")
    yield pid
    studio.delete_project(pid)


@pytest.fixture
def task_ids(studio, pid):
    return studio.import_tasks(pid, [{"data": {"image": f"http://host/{number}.png"}} for number in range(8)])


def window(version, task_ids, result=()):
    return [Prediction(t, result, (n + 0.5) / len(task_ids), version) for n, t in enumerate(task_ids)]


def test_a_published_window_orders_nothing_until_the_flip(studio, pid, task_ids):
    result = make_result(parse(CONFIG).controls[0], ["cat"], 0.9)
    assert publish(studio, pid, "al-1-x:1", window("al-1-x:1", task_ids, result)) == Published(8, ())
    assert studio.project(pid).model_version == ""
    flip(studio, pid, "al-1-x:1")
    assert studio.project(pid).model_version == "al-1-x:1"
    served = studio.next_task(pid)
    assert served["id"] == task_ids[0]
    assert served["predictions"][0]["result"][0]["value"] == {"choices": ["cat"]}


def test_a_version_without_predictions_cannot_be_flipped_to(studio, pid, task_ids):
    with pytest.raises(Rejected) as caught:
        flip(studio, pid, "al-1-x:1")
    assert caught.value.status == 400


def test_deleted_tasks_cost_only_themselves(studio, pid, task_ids):
    studio.delete_tasks(pid, [task_ids[1], task_ids[6]])
    published = publish(studio, pid, "al-1-x:1", window("al-1-x:1", task_ids))
    assert published == Published(6, (task_ids[1], task_ids[6]))
    assert studio.version_counts(pid) == {"al-1-x:1": 6}


def test_nothing_left_to_publish_is_an_error(studio, pid, task_ids):
    studio.delete_tasks(pid, task_ids)
    with pytest.raises(LabelStudioError, match="none of the 8 predictions"):
        publish(studio, pid, "al-1-x:1", window("al-1-x:1", task_ids))


def test_a_refusal_that_is_not_about_deleted_tasks_is_passed_on(studio, pid, task_ids):
    with pytest.raises(Rejected) as caught:
        publish(studio, 999_999, "al-1-x:1", window("al-1-x:1", task_ids))
    assert caught.value.status == 404


def test_rows_that_did_not_arrive_are_named(client, monkeypatch):
    pid = client.create_project("partly", CONFIG)
    try:
        ids = client.import_tasks(pid, [{"data": {"image": f"http://host/{number}.png"}} for number in range(3)])
        real = client.import_predictions
        monkeypatch.setattr(type(client), "import_predictions", lambda self, pid, rows: real(pid, rows[:2]))
        assert publish(client, pid, "v", window("v", ids)) == Published(2, (ids[2],))
    finally:
        client.delete_project(pid)


def test_rows_the_older_import_objects_to_do_not_pass_unnoticed(slow_client):
    pid = slow_client.create_project("objections", CONFIG)
    try:
        ids = slow_client.import_tasks(pid, [{"data": {"image": f"http://host/{number}.png"}} for number in range(3)])
        bad = make_result(parse(CONFIG).controls[0], ["cat"], 0.9)[0] | {"value": {"choices": ["bird"]}}
        rows = window("v", ids)
        rows[1] = Prediction(ids[1], (bad,), 0.5, "v")
        assert publish(slow_client, pid, "v", rows) == Published(2, (ids[1],))
    finally:
        slow_client.delete_project(pid)


@pytest.mark.parametrize(("score", "version"), [(0.0, "v"), (1.0, "v"), (-0.1, "v"), (float("nan"), "v"), (0.5, "w")])
def test_rows_that_would_break_the_order_are_never_sent(client, score, version):
    with pytest.raises(ValueError, match="task 1 "):
        publish(client, 1, "v", [Prediction(1, (), score, version)])


def test_an_open_editor_can_submit_after_its_window_was_collected(studio, pid, task_ids):
    publish(studio, pid, "al-1-x:1", window("al-1-x:1", task_ids))
    flip(studio, pid, "al-1-x:1")
    opened = studio.next_task(pid)
    shown = opened["predictions"][0]["id"]
    publish(studio, pid, "al-2-y:2", window("al-2-y:2", task_ids[::-1]))
    flip(studio, pid, "al-2-y:2")

    assert collect(studio, pid, "al-1-x:1", {opened["id"], 999_999}) == {opened["id"]: shown}

    assert studio.version_counts(pid) == {"al-2-y:2": 8, KEPT_VERSION: 1}
    assert studio.project(pid).model_version == "al-2-y:2"
    studio.submit(opened["id"], [], parent_prediction=shown)
    assert studio.next_task(pid)["id"] == task_ids[-1]
    studio.delete_prediction(shown)
    assert studio.version_counts(pid) == {"al-2-y:2": 8}


def test_without_the_row_an_open_editor_could_not_submit(studio, pid, task_ids):
    """The trap that `collect` avoids; if this ever passes, keeping rows can go."""
    publish(studio, pid, "al-1-x:1", window("al-1-x:1", task_ids))
    publish(studio, pid, "al-2-y:2", window("al-2-y:2", task_ids))
    flip(studio, pid, "al-2-y:2")
    shown = studio.prediction_ids(pid, "al-1-x:1")[task_ids[0]]
    assert collect(studio, pid, "al-1-x:1", ()) == {}
    with pytest.raises(Rejected, match="object does not exist"):
        studio.submit(task_ids[0], [], parent_prediction=shown)


def test_kept_rows_expire_by_the_time_they_were_kept(studio, pid, task_ids):
    publish(studio, pid, "al-1-x:1", window("al-1-x:1", task_ids))
    publish(studio, pid, "al-2-y:2", window("al-2-y:2", task_ids))
    flip(studio, pid, "al-2-y:2")
    before = datetime.now(UTC)
    kept = collect(studio, pid, "al-1-x:1", task_ids[:2])
    assert expired(studio, pid, before) == []
    assert sorted(expired(studio, pid, datetime.now(UTC))) == sorted(kept.values())


def test_collecting_twice_is_harmless(studio, pid, task_ids):
    publish(studio, pid, "al-1-x:1", window("al-1-x:1", task_ids))
    publish(studio, pid, "al-2-y:2", window("al-2-y:2", task_ids))
    flip(studio, pid, "al-2-y:2")
    kept = collect(studio, pid, "al-1-x:1", task_ids[:2])
    assert set(kept) == set(task_ids[:2])
    assert collect(studio, pid, "al-1-x:1", task_ids[:2]) == {}
    assert studio.prediction_ids(pid, KEPT_VERSION) == kept


def test_the_version_in_force_cannot_be_collected(studio, pid, task_ids):
    publish(studio, pid, "al-1-x:1", window("al-1-x:1", task_ids))
    flip(studio, pid, "al-1-x:1")
    with pytest.raises(LabelStudioError, match="order the queue"):
        collect(studio, pid, "al-1-x:1", ())
    assert studio.version_counts(pid) == {"al-1-x:1": 8}
