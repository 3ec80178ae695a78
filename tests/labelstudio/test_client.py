from __future__ import annotations

import io
import itertools
from datetime import UTC, datetime, timedelta

import pytest
from PIL import Image

from ls_backend.domain import Prediction
from ls_backend.errors import Rejected
from ls_backend.labelstudio import client as client_module
from ls_backend.labelstudio import records
from ls_backend.labelstudio.client import SECRET_HEADER, Client

pytestmark = pytest.mark.e2e

CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image">'
    '<Choice value="cat"/><Choice value="dog"/></Choices></View>'
)
CAT = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["cat"]}}
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
NUMBER = itertools.count()


@pytest.fixture
def pid(client):
    pid = client.create_project("client", CONFIG, sampling="Uncertainty sampling")
    yield pid
    client.delete_project(pid)


@pytest.fixture
def task_ids(client, pid):
    return client.import_tasks(pid, [{"data": {"image": f"http://host/{number}.png"}} for number in range(6)])


def user(client):
    email = f"annotator{next(NUMBER)}@example.com"
    return email, client.create_user(email, "password-123")


def publish(client, pid, version, task_ids):
    """Scores rise along `task_ids`, so that the first is served first."""
    rows = [Prediction(t, (), (n + 0.5) / len(task_ids), version) for n, t in enumerate(task_ids)]
    return client.import_predictions(pid, rows)


def test_the_server_says_who_and_what_it_is(client, label_studio):
    assert client.whoami()["email"] == label_studio.email
    assert client.version().count(".") == 2


def test_a_personal_access_token_works_for_everything_a_legacy_one_does(client, label_studio, pid):
    email, _ = user(client)
    token = client.personal_access_token(email, "password-123")
    with Client(label_studio.url, token) as personal:
        assert personal.whoami()["email"] == email
        assert personal.project(pid).project_id == pid
        assert personal.update_project(pid, title="renamed").title == "renamed"


def test_a_wrong_password_gives_no_token(client, label_studio):
    with pytest.raises(Rejected, match="form"):
        client.personal_access_token(label_studio.email, "wrong")


def test_a_project_is_read_as_it_is(client, pid, task_ids):
    client.submit(task_ids[0], [CAT])
    client.skip(task_ids[1])
    state = client.project(pid)
    assert (state.sampling, state.model_version, state.label_config) == ("Uncertainty sampling", "", CONFIG)
    assert (state.task_count, state.annotation_count, state.skipped_count) == (6, 1, 1)
    assert pid in {each.project_id for each in client.projects()}


def test_a_project_that_is_gone_is_rejected_with_404(client):
    with pytest.raises(Rejected) as caught:
        client.project(999_999)
    assert caught.value.status == 404


def test_all_tasks_are_read_in_stretches(client, pid, task_ids, monkeypatch):
    monkeypatch.setattr(client_module, "_STRETCH", 4)
    assert [task.task_id for task in client.tasks(pid)] == task_ids
    monkeypatch.setattr(client_module, "_STRETCH", 3)
    assert client.task_ids(pid) == set(task_ids)


def test_task_data_is_read_raw(client, pid):
    (task_id,) = client.import_tasks(pid, [{"data": {"image": "s3://bucket/a.png", "place": "A"}}])
    (task,) = client.tasks(pid)
    assert (task.task_id, task.data, task.annotations) == (task_id, {"image": "s3://bucket/a.png", "place": "A"}, None)


def test_an_empty_project_has_no_tasks(client, pid):
    assert list(client.tasks(pid)) == []
    assert client.changed_tasks(pid, EPOCH) == []
    assert client.annotations(pid) == {}
    assert client.queue_head(pid, 5) == []


def test_changed_tasks_come_with_all_annotations(client, pid, task_ids):
    since = max(task.updated_at for task in client.tasks(pid))
    first = client.submit(task_ids[2], [CAT])
    second = client.submit(task_ids[2], [])
    skipped = client.skip(task_ids[3], result=[CAT])
    changed = {task.task_id: task for task in client.changed_tasks(pid, since)}
    assert set(changed) == set(task_ids[2:4])
    one, two = changed[task_ids[2]].annotations
    assert (one.annotation_id, two.annotation_id) == (first, second)
    assert one.result[0]["value"] == {"choices": ["cat"]}
    assert (one.was_cancelled, one.ground_truth, one.completed_by) == (False, False, client.whoami()["id"])
    assert changed[task_ids[2]].is_labeled
    (skip,) = changed[task_ids[3]].annotations
    assert (skip.annotation_id, skip.was_cancelled) == (skipped, True)
    assert changed[task_ids[3]].cancelled_annotations == 1
    assert client.annotations(pid) == {task_id: task.annotations for task_id, task in changed.items()}


def test_every_kind_of_change_of_a_label_is_noticed(client, pid, task_ids):
    annotation_id = client.submit(task_ids[0], [CAT])

    def changes(action):
        since = max(task.updated_at for task in client.tasks(pid))
        action()
        return [task.task_id for task in client.changed_tasks(pid, since)]

    assert changes(lambda: client.update_annotation(annotation_id, result=[])) == [task_ids[0]]
    assert changes(lambda: client.update_annotation(annotation_id, ground_truth=True)) == [task_ids[0]]
    assert changes(lambda: client.delete_annotation(annotation_id)) == [task_ids[0]]
    assert changes(lambda: client.update_task(task_ids[1], {"image": "http://host/new.png"})) == [task_ids[1]]
    assert changes(lambda: None) == []


def test_changed_tasks_are_read_in_stretches_even_when_many_share_one_instant(client, pid, task_ids, monkeypatch):
    monkeypatch.setattr(client_module, "_CHANGED_STRETCH", 2)
    for task_id in task_ids:
        client.submit(task_id, [CAT])
    changed = [task.task_id for task in client.changed_tasks(pid, EPOCH)]
    assert sorted(changed) == task_ids
    one_instant = datetime.now(UTC)
    rows = [
        {"id": number, "data": {}, "is_labeled": False, "updated_at": records.moment_text(one_instant)}
        for number in range(9)
    ]
    monkeypatch.setattr(Client, "_task_page", lambda self, pid, conditions, ordering, size, fields: rows[:size])
    assert len(client.changed_tasks(pid, one_instant - timedelta(seconds=1))) == 9


def test_old_predictions_are_not_read_along_with_changes(client, pid, task_ids, monkeypatch):
    publish(client, pid, "al-1-x:1", task_ids)
    client.submit(task_ids[0], [CAT])
    pages = []
    read = Client._task_page
    monkeypatch.setattr(Client, "_task_page", lambda *args: pages.append(read(*args)) or pages[-1])
    client.changed_tasks(pid, EPOCH)
    assert all("predictions" not in row for page in pages for row in page)


def test_the_queue_is_what_annotators_get(client, pid, task_ids):
    order = task_ids[::-1]
    publish(client, pid, "al-1-x:1", order)
    assert client.queue_head(pid, 10) == []  # published is not yet in force
    client.update_project(pid, model_version="al-1-x:1")
    assert [task_id for task_id, _ in client.queue_head(pid, 3)] == order[:3]
    for expected in order[:3]:
        task = client.next_task(pid)
        assert task["id"] == expected
        client.submit(task["id"], [CAT], parent_prediction=task["predictions"][0]["id"])
    assert [task_id for task_id, _ in client.queue_head(pid, 10)] == order[3:]


def test_several_annotators_get_different_tasks_in_order(client, label_studio, pid, task_ids):
    publish(client, pid, "al-1-x:1", task_ids)
    client.update_project(pid, model_version="al-1-x:1")
    annotators = [Client(label_studio.url, user(client)[1]) for _ in range(2)]
    assert [each.next_task(pid)["id"] for each in annotators] == task_ids[:2]


def test_the_queue_keeps_tasks_that_want_a_second_annotation(client, pid, task_ids):
    client.update_project(pid, maximum_annotations=2)
    publish(client, pid, "al-1-x:1", task_ids)
    client.update_project(pid, model_version="al-1-x:1")
    client.submit(task_ids[0], [CAT])
    assert client.queue_head(pid, 1)[0][0] == task_ids[0]


def test_no_task_is_none(client, pid):
    assert client.next_task(pid) is None


def test_predictions_are_found_moved_and_deleted(client, pid, task_ids):
    assert publish(client, pid, "a", task_ids[:3]) == 3
    assert publish(client, pid, "b", task_ids[:2]) == 2
    found = client.prediction_ids(pid, "a")
    assert set(found) == set(task_ids[:3])
    client.retag_prediction(found[task_ids[0]], "c")
    client.delete_prediction(found[task_ids[1]])
    client.delete_prediction(found[task_ids[1]])  # gone already
    assert client.version_counts(pid) == {"a": 1, "b": 2, "c": 1}
    assert client.prediction_ids(pid, "c") == {task_ids[0]: found[task_ids[0]]}


def test_uploads_become_tasks_in_the_order_of_the_files(client, pid, monkeypatch):
    monkeypatch.setattr(client_module, "_UPLOADS_AT_ONCE", 3)
    files = {}
    for number, kind in enumerate(["PNG", "JPEG", "PNG", "BMP", "JPEG"]):
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4), (number, 0, 0)).save(buffer, kind)
        files[f"picture{number}.{kind.lower()}"] = buffer.getvalue()
    task_ids = client.upload_images(pid, files)
    data = {task.task_id: task.data["image"] for task in client.tasks(pid)}
    assert [data[task_id].rpartition("-")[2] for task_id in task_ids] == list(files)


def test_deleted_tasks_are_gone(client, pid, task_ids):
    client.delete_tasks(pid, task_ids[:4])
    assert client.task_ids(pid) == set(task_ids[4:])


def test_a_webhook_is_made_once_and_mended_when_changed(client, pid):
    url = "http://127.0.0.1:9/webhook"
    assert client.ensure_webhook(pid, url, "first") == "created"
    assert client.ensure_webhook(pid, url, "first") == "kept"
    assert client.ensure_webhook(pid, url, "second") == "updated"
    (hook,) = client.webhooks(pid)
    assert hook.headers == {SECRET_HEADER: "second"}
    broken = {"is_active": False, "send_payload": False, "send_for_all_actions": False, "headers": {"X-Theirs": "1"}}
    body = {**broken, "url": url, "actions": ["TASKS_CREATED"]}
    client.call("PATCH", f"/api/webhooks/{hook.webhook_id}/", body=body)
    assert client.ensure_webhook(pid, url, "second") == "updated"
    (hook,) = client.webhooks(pid)
    assert hook.is_active
    assert hook.send_payload
    assert hook.send_for_all_actions
    assert hook.headers == {"X-Theirs": "1", SECRET_HEADER: "second"}
    assert hook.actions == ("TASKS_CREATED",)
    client.delete_webhook(hook.webhook_id)
    assert client.webhooks(pid) == []


def test_a_few_tasks_are_read_as_they_are_now(client, pid, task_ids):
    client.update_task(task_ids[1], {"image": "http://host/new.png", "mine": 1})
    found = client.some_tasks(pid, [task_ids[1], task_ids[3], task_ids[-1] + 1000])
    assert set(found) == {task_ids[1], task_ids[3]}
    assert found[task_ids[1]].data == {"image": "http://host/new.png", "mine": 1}
    assert client.some_tasks(pid, []) == {}


def test_the_tab_of_the_queue_lists_what_is_in_force_in_order(client, pid, task_ids):
    assert client.ensure_order_tab(pid, "image") == "created"
    assert client.ensure_order_tab(pid, "image") == "kept"
    first, tab = client.get("/api/dm/views/", {"project": pid})
    assert (first["data"]["title"], tab["data"]["title"]) == ("Default", "Labelling order")
    listed = lambda: [row["id"] for row in client.get("/api/tasks/", {"project": pid, "view": tab["id"]})["tasks"]]  # noqa: E731
    for version, order in (("one", task_ids[4:1:-1]), ("two", task_ids[:2])):
        publish(client, pid, version, order)
        client.update_project(pid, model_version=version)
        assert listed() == order
    client.submit(task_ids[0], [CAT])
    assert listed() == [task_ids[1]]


def test_a_tab_beside_others_makes_no_default_one(client, pid):
    client.call("POST", "/api/dm/views/", body={"project": pid, "data": {"title": "Mine"}})
    client.ensure_order_tab(pid, "image")
    assert [row["data"]["title"] for row in client.get("/api/dm/views/", {"project": pid})] == [
        "Mine",
        "Labelling order",
    ]
