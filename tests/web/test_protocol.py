"""Label Studio's protocol: every recorded request, and what may go wrong with each kind."""

from __future__ import annotations

import copy
import json
import re
import socket
import threading
import time
from pathlib import Path

import pytest

from ls_backend.domain import Finding
from ls_backend.labelstudio.client import SECRET_HEADER

GOLDEN = Path(__file__).parents[1] / "golden"


def names(kind):
    return sorted(path.stem for path in GOLDEN.glob(f"{kind}*.json"))


def event_of(recorded, name, project=7):
    """A recorded event as if it came from our project."""
    body = copy.deepcopy(recorded[name]["body"])
    body["project"]["id"] = project
    return body


def task(number):
    return {"id": number, "data": {"image": f"/data/upload/7/{number}.png"}}


def ask(backend, *numbers, project="7.1795385194"):
    tasks = [task(number) for number in numbers]
    answer = backend.http.post("/predict", json={"tasks": tasks, "project": project, "label_config": backend.config})
    assert answer.status_code == 200, answer.text
    return answer.get_json()["results"]


# -- health --


@pytest.mark.parametrize("path", ["/", "/health"])
def test_a_probe_is_told_that_the_server_is_up(backend, path):
    answer = backend.http.get(path)
    assert answer.status_code == 200
    assert answer.get_json()["status"] == "UP"


# -- setup --


@pytest.mark.parametrize("name", ["setup"])
def test_a_recorded_set_up_connects_its_project_and_asks_for_a_first_ranking(backend, recorded, name):
    body = {**recorded[name]["body"], "extra_params": {"preset": "margin"}}
    answer = backend.http.post("/setup", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.get_json() == {"model_version": "live:al-cold"}
    project = backend.store.projects.get(1)
    assert (project.active, project.hostname, project.access_token) == (True, body["hostname"], "TOKEN")
    assert project.wanted_generation > project.done_generation
    assert backend.waiting() == ["update-1-a"]


@pytest.mark.parametrize("name", names("setup"))
def test_every_recorded_set_up_is_accepted(backend, recorded, name):
    answer = backend.http.post("/setup", json={**recorded[name]["body"], "extra_params": None})
    assert answer.status_code == 200


def test_a_config_we_cannot_learn_is_refused_in_plain_words(backend, recorded):
    body = {**recorded["setup"]["body"], "extra_params": None}
    body["schema"] = '<View><Audio name="sound" value="$audio"/><TextArea name="note" toName="sound"/></View>'
    answer = backend.http.post("/setup", json=body)
    assert answer.status_code == 400
    reason = answer.status.partition(" ")[2]
    assert "nothing to learn from" in reason
    assert "TextArea note is none of them" in reason
    assert "on an Image tag" in reason
    assert "<" not in reason
    assert answer.get_json()["error"] == "config-unsupported"
    assert "config-unsupported" in backend.codes(int(body["project"].partition(".")[0]))


@pytest.mark.parametrize("sent", [{"window": 30}, '{"window": 30}', '\n {"window": 30} '])
def test_settings_may_come_as_an_object_or_as_text(backend, sent):
    assert backend.set_up(extra_params=sent).status_code == 200
    assert backend.http.get("/api/projects/7").get_json()["settings"]["window"] == 30


@pytest.mark.parametrize("sent", ["", None, {}, "{}"])
def test_no_settings_mean_the_defaults(backend, sent):
    assert backend.set_up(extra_params=sent).status_code == 200
    assert backend.http.get("/api/projects/7").get_json()["settings"]["preset"] == "auto"


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"retrain_aftr": 5}, ["retrain_aftr", "did you mean retrain_after"]),
        ({"objectives": {"uncertainty": {"strengthh": 1}}}, ["strengthh", "did you mean strength"]),
        ({"preset": "margn"}, ["margn", "margin"]),
        ({"backbone": "resnet_18"}, ["resnet_18", "resnet18"]),
        ({"backbone": "timm/../../etc"}, ["timm/../../etc", "unknown"]),
        ({"objectives": {"uncertainty": {"method": "entrpy"}}}, ["entrpy", "entropy"]),
        ({"window": 0}, ["window", "greater than or equal to 1"]),
        ({"window": "many"}, ["window", "many"]),
        ('{"window": 30', ["not JSON"]),
        ("[1]", ["list", "object"]),
        ({"explore": float("nan")}, ["explore"]),
    ],
)
def test_wrong_settings_are_refused_by_name_with_the_nearest_known_one(connected, sent, words):
    before = connected.http.get("/api/projects/7").get_json()["settings"]
    answer = connected.set_up(extra_params=sent)
    assert answer.status_code == 400
    for word in words:
        assert word in answer.status, answer.status
        assert word in answer.get_json()["message"]
    problem = next(item for item in connected.problems() if item["finding"]["code"] == "settings-invalid")
    assert words[0] in problem["finding"]["message"]
    assert problem["finding"]["remedy"]
    assert connected.http.get("/api/projects/7").get_json()["settings"] == before


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "timm/resnet18.a1_in1k"])
def test_any_backbone_that_can_be_had_is_accepted(connected, name):
    assert connected.set_up(extra_params={"backbone": name}).status_code == 200
    assert connected.http.get("/api/projects/7").get_json()["settings"]["backbone"] == name


def test_without_leave_to_download_only_backbones_with_a_checkpoint_are_accepted(deploy, tmp_path):
    (tmp_path / "timm").mkdir()
    (tmp_path / "resnet18.pth").touch()
    (tmp_path / "timm" / "test_vit.safetensors").touch()
    backend = deploy(weights_dir=tmp_path, download_weights=False)
    for name in ("efficientnet_lite0", "resnet18", "timm/test_vit"):
        assert backend.set_up(extra_params={"backbone": name}).status_code == 200
    for name in ("resnet34", "timm/test_resnet"):
        answer = backend.set_up(extra_params={"backbone": name})
        assert answer.status_code == 400
        assert "LSB_DOWNLOAD_WEIGHTS" in answer.status


def test_mended_settings_close_the_problem(connected):
    connected.set_up(extra_params={"windw": 5})
    assert connected.codes() == ["settings-invalid"]
    connected.set_up(extra_params={"window": 5})
    assert connected.codes() == []


def test_opening_the_data_manager_again_and_again_starts_nothing(connected):
    # Label Studio calls /setup at every load of the page; the worker has read the config meanwhile.
    connected.store.projects.set(7, label_config=connected.config)
    wanted = connected.store.projects.get(7).wanted_generation
    for _ in range(5):
        connected.set_up()
    assert connected.store.projects.get(7).wanted_generation == wanted
    assert connected.waiting() == []


def test_new_settings_call_for_a_new_ranking(connected):
    connected.store.projects.set(7, label_config=connected.config)
    connected.set_up(extra_params={"preset": "entropy"})
    assert connected.waiting() == ["update-7-a"]


def test_a_project_of_another_label_studio_under_the_same_id_starts_afresh(connected):
    connected.promote()
    connected.set_up("7.1800000000")
    assert connected.store.versions.list(7) == []
    assert connected.store.projects.get(7).origin == "1800000000"


def test_a_config_that_is_not_xml_is_refused(backend):
    answer = backend.set_up(schema="<View><Image")
    assert answer.status_code == 400
    assert "cannot be read" in answer.status
    assert backend.codes() == ["config-unsupported"]


def test_without_any_token_the_remedy_is_named(deploy):
    answer = deploy(label_studio_api_key=None).set_up(access_token=None)
    assert answer.status_code == 400
    assert "LABEL_STUDIO_API_KEY" in answer.status


# -- predict --


@pytest.mark.parametrize("name", names("predict"))
def test_recorded_predictions_get_one_entry_a_task_before_there_is_a_model(backend, recorded, name):
    body = recorded[name]["body"]
    project_id = int(body["project"].partition(".")[0])
    backend.set_up(body["project"])
    answer = backend.http.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    results = answer.get_json()["results"]
    assert [entry["result"] for entry in results] == [[] for _ in body["tasks"]]
    assert all("0 of 10 labels" in entry["diagnosis"]["model"] for entry in results)
    assert backend.store.projects.get(project_id) is not None


@pytest.mark.parametrize("name", ["predict_on_open_task", "predict_test_random", "predict_interactive"])
def test_recorded_predictions_are_answered_from_the_store(backend, recorded, name):
    body = recorded[name]["body"]
    project_id = int(body["project"].partition(".")[0])
    backend.set_up(body["project"])
    classes = tuple(re.findall(r'<Choice value="(\w+)"', body["label_config"]))
    backend.promote(project_id, classes=classes)
    surely_last = (*(0.1 / (len(classes) - 1) for _ in classes[1:]), 0.9)
    backend.store.predictions.put(project_id, "al-1-0123abcd", {item["id"]: surely_last for item in body["tasks"]})
    results = backend.http.post("/predict", json=body).get_json()["results"]
    assert [entry["result"][0]["value"]["choices"] for entry in results] == [[classes[-1]] for _ in body["tasks"]]
    assert [entry["score"] for entry in results] == pytest.approx([0.9] * len(results))


def test_predictions_come_in_the_order_of_the_tasks(connected):
    version = connected.promote()
    connected.store.predictions.put(7, version.version_id, {1: (0.9, 0.1), 2: (0.1, 0.9), 3: (0.7, 0.3)})
    results = ask(connected, 3, 1, 2)
    assert [entry["result"][0]["value"]["choices"] for entry in results] == [["cat"], ["cat"], ["dog"]]
    assert [entry["score"] for entry in results] == pytest.approx([0.7, 0.9, 0.9])


def test_a_prediction_never_carries_the_version_of_a_published_window(connected):
    # Label Studio stores the answer: with a window's version the task would jump into the queue.
    version = connected.promote()
    connected.publish()
    connected.store.predictions.put(7, version.version_id, {1: (0.9, 0.1)})
    published = {window.version for window in connected.store.windows.recent(7, 10)}
    names_given = {entry["model_version"] for entry in ask(connected, 1, 99)}
    assert names_given == {f"live:{version.version_id}"}
    assert not names_given & published
    assert connected.set_up().get_json()["model_version"] not in published


def test_a_task_nobody_knows_is_answered_emptily_in_time_and_the_worker_is_asked(connected):
    version = connected.promote()
    connected.store.predictions.put(7, version.version_id, {1: (0.9, 0.1)})
    started = time.monotonic()
    known, unknown = ask(connected, 1, 2)
    assert 0.3 <= time.monotonic() - started < 3
    assert known["result"]
    assert unknown["result"] == []
    assert "no answer in time" in unknown["diagnosis"]["no_prediction"]
    (job,) = connected.waiting()
    assert job.startswith("predict-7-")


def test_the_answer_of_the_worker_is_given_as_soon_as_it_is_there(deploy):
    backend = deploy(predict_deadline_s=20.0)
    backend.set_up()
    version = backend.promote()

    def worker():
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            for job in backend.waiting():
                if job.startswith("predict-7-"):
                    backend.store.predictions.put(7, version.version_id, {5: (0.25, 0.75)})
                    backend.queues.answer(job, done=True)
                    return
            time.sleep(0.02)

    thread = threading.Thread(target=worker)
    thread.start()
    started = time.monotonic()
    try:
        (entry,) = ask(backend, 5)
    finally:
        thread.join()
    assert entry["result"][0]["value"]["choices"] == ["dog"]
    assert time.monotonic() - started < 10


def test_a_model_of_another_set_of_classes_is_not_shown(connected):
    version = connected.promote(classes=("cat", "dog", "hen"))
    connected.store.predictions.put(7, version.version_id, {1: (0.1, 0.1, 0.8)})
    (entry,) = ask(connected, 1)
    assert entry["result"] == []
    assert "labelling interface has changed" in entry["diagnosis"]["no_prediction"]


def test_predictions_for_an_unknown_project_are_empty_and_say_so(backend):
    (entry,) = ask(backend, 1, project="4711.1")
    assert entry["result"] == []
    assert "not connected" in entry["diagnosis"]["no_prediction"]


@pytest.mark.parametrize("project", [None, 7, "7"])
def test_the_project_of_a_prediction_may_be_missing_or_a_number(connected, project):
    assert len(ask(connected, 1, 2, project=project)) == 2


def test_no_tasks_no_answers(connected):
    assert ask(connected) == []


# -- webhook --

WAKING = [name for name in names("webhook") if "project_updated" not in name]


@pytest.mark.parametrize("name", WAKING)
def test_every_recorded_event_wakes_the_worker_and_is_noted(connected, recorded, name):
    wanted = connected.store.projects.get(7).wanted_generation
    answer = connected.http.post("/webhook", json=event_of(recorded, name))
    assert answer.status_code == 201, answer.text
    assert connected.store.projects.get(7).wanted_generation == wanted + 1
    assert connected.store.projects.events(7, 1)[0].action == recorded[name]["body"]["action"]
    assert "update-7-a" in connected.waiting()


@pytest.mark.parametrize("name", [name for name in names("webhook") if "_deleted" in name])
def test_a_deletion_calls_for_a_comparison_because_a_read_of_changes_cannot_see_it(connected, recorded, name):
    connected.http.post("/webhook", json=event_of(recorded, name))
    assert "reconcile-7" in connected.waiting()


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"null", b"[]", b'"text"', b"3"])
@pytest.mark.parametrize("path", ["/setup", "/predict", "/webhook"])
def test_a_body_that_is_no_json_object_is_refused(backend, path, body):
    answer = backend.http.post(path, data=body, content_type="application/json")
    assert answer.status_code == 400
    assert answer.get_json()["error"] == "data-error"
    assert "not a JSON object" in answer.get_json()["message"]


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("/setup", {"schema": "<View/>"}, "project"),
        ("/setup", {"project": "seven"}, "project"),
        ("/predict", {"project": "7"}, "tasks"),
        ("/predict", {"tasks": [{"data": {}}], "project": "7"}, "tasks.0.id"),
        ("/webhook", {"project": {"id": 7}}, "action"),
        ("/webhook", {"action": ["X"], "project": {"id": 7}}, "action"),
        ("/webhook", {"action": "ANNOTATION_CREATED", "project": {"id": True}}, "project"),
    ],
)
def test_a_body_of_another_shape_is_refused_with_the_place(backend, path, body, place):
    answer = backend.http.post(path, json=body)
    assert answer.status_code == 400
    assert place in answer.get_json()["message"]


@pytest.mark.parametrize(("sent", "word"), [({}, "no secret"), ({SECRET_HEADER: "guess"}, "wrong secret")])
def test_an_event_without_the_secret_is_refused_and_shown(connected, recorded, sent, word):
    connected.store.projects.set(7, webhook_secret="the-secret")
    wanted = connected.store.projects.get(7).wanted_generation
    answer = connected.http.post("/webhook", json=event_of(recorded, "webhook_annotation_created"), headers=sent)
    assert answer.status_code == 401
    assert connected.store.projects.get(7).wanted_generation == wanted
    assert connected.waiting() == []
    (problem,) = connected.problems()
    assert problem["finding"]["code"] == "webhook-secret"
    assert word in problem["finding"]["message"]
    assert "ls-backend connect --project 7" in problem["finding"]["remedy"]
    assert "the-secret" not in json.dumps(problem)


def test_an_event_with_the_secret_is_taken(connected, recorded):
    connected.store.projects.set(7, webhook_secret="the-secret")
    body = event_of(recorded, "webhook_annotation_created")
    answer = connected.http.post("/webhook", json=body, headers={SECRET_HEADER: "the-secret"})
    assert answer.status_code == 201


def test_the_same_event_twice_waits_as_one_job(connected, recorded):
    for _ in range(2):
        connected.http.post("/webhook", json=event_of(recorded, "webhook_annotation_created"))
    # One more may wait behind one that runs, never more.
    assert set(connected.waiting()) <= {"update-7-a", "update-7-b"}
    assert connected.store.projects.behind() == [7]


def test_events_in_any_order_leave_the_same_work(connected, recorded):
    order = ["webhook_annotations_deleted", "webhook_annotation_updated", "webhook_annotation_created"]
    wanted = connected.store.projects.get(7).wanted_generation
    for name in order:
        assert connected.http.post("/webhook", json=event_of(recorded, name)).status_code == 201
    assert connected.store.projects.get(7).wanted_generation == wanted + 3
    assert connected.store.tasks.counts(7).labelled == 0  # nothing is taken from an event


def test_events_of_many_threads_are_all_counted(connected, recorded):
    body = event_of(recorded, "webhook_annotation_created")
    wanted = connected.store.projects.get(7).wanted_generation
    application = connected.http.application

    def annotator():
        client = application.test_client()
        for _ in range(10):
            assert client.post("/webhook", json=body).status_code == 201

    threads = [threading.Thread(target=annotator) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert connected.store.projects.get(7).wanted_generation == wanted + 50


def test_events_of_unknown_projects_are_ignored(connected, recorded):
    answer = connected.http.post("/webhook", json=event_of(recorded, "webhook_annotation_created", project=4711))
    assert answer.status_code == 200
    assert "not connected" in answer.get_json()["message"]
    assert connected.waiting() == []


def test_an_event_without_payload_is_ignored_with_the_reason(connected):
    answer = connected.http.post("/webhook", json={"action": "ANNOTATION_CREATED"})
    assert answer.status_code == 200
    assert "send_payload" in answer.get_json()["message"]


def test_unknown_actions_are_ignored(connected, recorded):
    body = {**event_of(recorded, "webhook_annotation_created"), "action": "PLANET_ALIGNED"}
    assert connected.http.post("/webhook", json=body).status_code == 200
    assert connected.waiting() == []


def test_unknown_actions_do_not_grow_the_metrics(connected, recorded):
    # The webhook is open to the network: a name a stranger chose must not become a time series.
    for number in range(3):
        connected.http.post("/webhook", json={"action": f"INVENTED_{number}", "project": {"id": 7}})
    assert "INVENTED" not in connected.http.get("/metrics").text


@pytest.mark.parametrize("when", ["window_version", "pending_version"])
def test_our_own_flip_is_not_taken_for_a_change(connected, recorded, when):
    connected.store.projects.set(7, label_config=connected.config, **{when: "al-1-0123abcd:5"})
    wanted = connected.store.projects.get(7).wanted_generation
    body = event_of(recorded, "webhook_project_updated")
    body["project"] |= {
        "label_config": connected.config,
        "model_version": "al-1-0123abcd:5",
        "sampling": "Uncertainty sampling",
    }
    assert connected.http.post("/webhook", json=body).status_code == 200
    assert connected.waiting() == []
    assert connected.store.projects.get(7).wanted_generation == wanted


@pytest.mark.parametrize(
    "change", [{"model_version": "somebody-else"}, {"model_version": ""}, {"sampling": "Sequential sampling"}]
)
def test_a_change_of_the_order_by_somebody_else_calls_for_a_comparison(connected, recorded, change):
    connected.store.projects.set(7, label_config=connected.config, window_version="al-1-0123abcd:5")
    body = event_of(recorded, "webhook_project_updated")
    ours = {"model_version": "al-1-0123abcd:5", "sampling": "Uncertainty sampling", "label_config": connected.config}
    body["project"] |= {**ours, **change}
    assert connected.http.post("/webhook", json=body).status_code == 200
    assert connected.waiting() == ["reconcile-7"]


def test_a_new_labelling_interface_calls_for_an_update(connected, recorded):
    connected.store.projects.set(7, label_config=connected.config, window_version="al-1-0123abcd:5")
    body = event_of(recorded, "webhook_project_updated_label_config")
    body["project"] |= {"model_version": "al-1-0123abcd:5", "sampling": "Uncertainty sampling"}
    connected.http.post("/webhook", json=body)
    assert "update-7-a" in connected.waiting()


def test_an_event_is_noted_even_when_redis_is_gone(deploy, recorded, tmp_path):
    backend = deploy(redis_url=f"unix://{tmp_path}/nobody.sock")
    assert backend.set_up().status_code == 200
    wanted = backend.store.projects.get(7).wanted_generation
    started = time.monotonic()
    answer = backend.http.post("/webhook", json=event_of(recorded, "webhook_annotation_created"))
    assert answer.status_code == 201
    assert time.monotonic() - started < 1.0  # Label Studio hangs up after one second
    assert backend.store.projects.get(7).wanted_generation == wanted + 1


def test_an_event_is_acknowledged_in_time_even_when_redis_hangs(deploy, recorded):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never says a word
        backend = deploy(redis_url=f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        backend.set_up()
        wanted = backend.store.projects.get(7).wanted_generation
        started = time.monotonic()
        answer = backend.http.post("/webhook", json=event_of(recorded, "webhook_tasks_deleted"))
        took_s = time.monotonic() - started
    assert answer.status_code == 201
    assert backend.store.projects.get(7).wanted_generation == wanted + 1
    assert took_s < 1.0, f"Label Studio hangs up after one second; the answer took {took_s:.1f} s"


# -- the rest --


def test_versions_are_the_promoted_ones(connected):
    version = connected.promote()
    connected.promote(version_id="al-2-0123abcd")
    connected.store.versions.set_state(7, "al-2-0123abcd", "rejected")
    assert connected.http.get("/versions").get_json() == {"versions": [version.version_id]}


def test_metrics_count_events(connected, recorded):
    def count():
        lines = connected.http.get("/metrics").text.splitlines()
        found = [line for line in lines if line.startswith('lsb_webhooks_total{action="ANNOTATION_CREATED"}')]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    before = count()
    connected.http.post("/webhook", json=event_of(recorded, "webhook_annotation_created"))
    assert count() == before + 1


@pytest.mark.parametrize("path", ["/train", "/validate", "/job_status", "/delete", "/duplicate_model"])
@pytest.mark.parametrize("body", [{}, {"project": "7.1"}, None])
def test_calls_of_older_label_studios_do_no_harm(connected, path, body):
    answer = connected.http.post(path, json=body)
    assert answer.status_code in {200, 201}
    assert connected.waiting() == []


def test_a_path_that_does_not_exist_is_answered_in_json(backend):
    answer = backend.http.get("/nothing")
    assert answer.status_code == 404
    assert answer.get_json()["error"] == "http"


def test_problems_of_an_unknown_project_are_not_found(backend):
    assert backend.http.get("/api/projects/4711/problems").status_code == 404


def test_open_problems_are_listed_with_their_remedies(connected):
    connected.store.problems.report(7, Finding("overlap", "warning", "annotation settings", "what", "do this"))
    (problem,) = connected.problems()
    assert problem["finding"]["remedy"] == "do this"
    assert problem["count"] == 1


def test_a_start_compares_every_project_with_label_studio(deploy):
    first = deploy()
    first.set_up()
    again = deploy(database_url=first.settings.sql_url)
    assert "reconcile-7" in again.waiting()
