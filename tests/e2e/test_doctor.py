"""Every trap that lies in Label Studio, set up in a real one: the doctor names it and says what to do.

Our server runs without workers, so that nothing is put right meanwhile; the doctor is asked directly.
"""

from __future__ import annotations

import itertools
import threading

import pytest
from werkzeug.serving import make_server

from ls_backend.demo.digits import LABEL_CONFIG, digits
from ls_backend.demo.label_studio import LabelStudioServer
from ls_backend.domain import MENDED_BY_CONNECTING
from ls_backend.engine import doctor
from ls_backend.engine.connect import connect
from ls_backend.engine.context import Context
from ls_backend.engine.sync import sync
from ls_backend.labelstudio.client import SECRET_HEADER
from ls_backend.settings import Settings
from ls_backend.web.app import create_app

pytestmark = pytest.mark.e2e

CONFIG_WITHOUT_LABELS = '<View><Image name="image" value="$image"/><KeyPointLabels name="eye" toName="image"/></View>'
_titles = itertools.count(1)


@pytest.fixture(scope="module")
def studio(label_studio_executable, tmp_path_factory):
    """A Label Studio of our own: some traps are in how it was started."""
    folder = tmp_path_factory.mktemp("label-studio-with-traps")
    with LabelStudioServer.start(folder, executable=label_studio_executable) as studio:
        yield studio


@pytest.fixture(scope="module")
def client(studio):
    with studio.client() as client:
        yield client


@pytest.fixture(scope="module")
def listening(studio, tmp_path_factory):
    """Our server, in a thread; Redis is away, which costs the events their wake-ups and nothing else."""
    folder = tmp_path_factory.mktemp("server") / "data"
    given = {"label_studio_url": studio.url, "label_studio_api_key": studio.token, "redis_url": "redis://127.0.0.1:1"}
    servers = []

    def listen(port=0):
        server = make_server("127.0.0.1", port, create_app(Settings(data_dir=folder, **given)), threaded=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    server = listen()
    settings = Settings(data_dir=folder, backend_url=f"http://127.0.0.1:{server.port}", device="cpu", **given)
    yield settings, server, listen
    for one in servers:
        one.shutdown()
        one.server_close()


@pytest.fixture(scope="module")
def context(listening):
    made = Context(listening[0])
    yield made
    made.close()


@pytest.fixture(scope="module", autouse=True)
def _no_torch():
    """The pair of packages is no matter of Label Studio's, and seconds to load."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "_torch", lambda: doctor._ok("torch-pair", "torch", "not looked at"))
        yield


@pytest.fixture
def pid(client, context):
    """A connected project of four digits."""
    pid = client.create_project(f"trap {next(_titles)}", LABEL_CONFIG)
    images = digits(4, seed=5)
    references = client.upload_files(pid, {item.name: item.png for item in images})
    client.import_tasks(pid, [{"data": {"image": references[item.name]}} for item in images])
    connect(context, pid)
    sync(context, pid)
    return pid


@pytest.fixture
def told(context, pid):
    """What is wrong with the project: code -> finding."""

    def ask(code):
        (*_, look) = doctor.examine(context, [pid])
        found = {finding.code: finding for finding in look.findings if finding.level != "ok"}
        assert code in found, f"not told; what is told is {[item.message for item in found.values()]}"
        assert found[code].remedy
        return found[code]

    return ask


def test_a_project_in_order_only_waits_for_its_first_window(context, pid, told):
    (around, look) = doctor.examine(context, [pid])
    assert [finding for finding in around.findings if finding.level != "ok"] == []
    assert [finding.code for finding in look.findings if finding.level != "ok"] == ["no-window"]
    assert "No order has been published yet" in told("no-window").message


def test_a_project_nobody_has_connected(context):
    (*_, look) = doctor.examine(context, [987_654])
    (finding,) = look.findings
    assert (finding.code, finding.level) == ("not-connected", "error")
    assert "Project 987654 is not connected" in finding.message
    assert "ls-backend connect --project 987654" in finding.remedy


def test_another_sampling_mode(client, pid, told):
    client.update_project(pid, sampling="Sequential sampling")
    finding = told("sampling-mode")
    assert "The sampling mode is 'Sequential sampling'; our order needs 'Uncertainty sampling'" in finding.message
    assert f"ls-backend connect --project {pid}" in finding.remedy


def test_another_model_version(context, pid, told):
    context.store.projects.set(pid, window_version="al-cold:1")
    assert "not our window al-cold:1; tasks come in another order" in told("model-version").message


def test_several_annotations_for_each_task(client, pid, told):
    client.update_project(pid, maximum_annotations=3)
    assert "Each task wants 3 annotations; started tasks come first" in told("overlap").message


def test_prelabelling_switched_off(client, pid, told):
    client.update_project(pid, show_collab_predictions=False)
    finding = told("predictions-off")
    assert "'Use predictions to prelabel tasks' is off, so the order is random" in finding.message
    assert "prelabel to false" in finding.remedy


def test_training_inside_every_submit(client, pid, told):
    client.update_project(pid, start_training_on_annotation_update=True)
    finding = told("training-in-submit")
    assert "every submit waits for one more call" in finding.message
    assert "Settings, Model" in finding.remedy


def test_predictions_asked_for_at_every_page(client, pid, told):
    client.update_project(pid, evaluate_predictions_automatically=True)
    assert "a page of the Data Manager waits for predictions of all its tasks" in told("predictions-on-load").message


def test_nothing_to_learn_in_the_labelling_interface(client, pid, told):
    client.update_project(pid, label_config=CONFIG_WITHOUT_LABELS)
    assert "KeyPointLabels eye is none of them" in told("config-unsupported").message


def test_the_ml_backend_was_removed(client, pid, told):
    (row,) = client.ml_backends(pid)
    client.call("DELETE", f"/api/ml/{row.backend_id}")
    finding = told("ml-backend-missing")
    assert "No ML backend of the project has the address http://127.0.0.1" in finding.message
    assert f"ls-backend connect --project {pid}" in finding.remedy


def test_a_second_ml_backend(client, context, pid, told):
    other = context.settings.public_url.replace("127.0.0.1", "localhost")
    client.put_ml_backend(pid, other, "the other one")
    finding = told("ml-backend-several")
    assert "The project has 2 ML backends" in finding.message
    assert "the other one" in finding.message


def test_label_studio_cannot_reach_us(listening, client, pid, told):
    settings, server, listen = listening
    server.shutdown()
    server.server_close()
    try:
        finding = told("ml-backend-state")
    finally:
        listen(server.port)
    assert f"Label Studio cannot reach {settings.public_url}" in finding.message
    assert "From inside a container localhost is the container itself" in finding.remedy
    assert "ML_BLOCK_LOCAL_IP=false" in finding.remedy


def change_webhook(client, pid, **changes):
    (hook,) = client.webhooks(pid)
    body = {"url": hook.url, "is_active": True, "send_payload": True, "send_for_all_actions": True}
    client.call("PATCH", f"/api/webhooks/{hook.webhook_id}/", body={**body, "headers": hook.headers, **changes})


def test_the_webhook_was_removed(client, pid, told):
    (hook,) = client.webhooks(pid)
    client.call("DELETE", f"/api/webhooks/{hook.webhook_id}/")
    finding = told("webhook-missing")
    assert "There is no webhook to http://127.0.0.1" in finding.message
    assert "SSRF_PROTECTION_ENABLED" in finding.message


@pytest.mark.parametrize("change", [{"is_active": False}, {"send_payload": False}])
def test_the_webhook_says_less_than_everything(client, pid, told, change):
    change_webhook(client, pid, **change)
    assert "The webhook is off or sends only some events" in told("webhook-narrowed").message


def test_the_webhook_has_lost_its_secret(client, pid, told):
    change_webhook(client, pid, headers={SECRET_HEADER: "somebody else's"})
    finding = told("webhook-secret")
    assert "The webhook lacks our secret header" in finding.message
    assert "somebody else's" not in finding.message


def without_webhook(client, pid):
    (hook,) = client.webhooks(pid)
    client.call("DELETE", f"/api/webhooks/{hook.webhook_id}/")


def narrow_the_webhook(client, pid):
    change_webhook(client, pid, is_active=False)


def spoil_the_secret(client, pid):
    change_webhook(client, pid, headers={SECRET_HEADER: "somebody else's"})


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (without_webhook, "webhook-missing"),
        (narrow_the_webhook, "webhook-narrowed"),
        (spoil_the_secret, "webhook-secret"),
    ],
)
def test_connecting_once_more_mends_what_it_is_said_to_mend(client, context, pid, spoil, code):
    def wrong():
        (*_, look) = doctor.examine(context, [pid])
        doctor.keep(context, [look])
        return {problem.finding.code for problem in context.store.problems.open(pid)}

    spoil(client, pid)
    client.update_project(pid, sampling="Sequential sampling", show_collab_predictions=False)
    (row,) = client.ml_backends(pid)
    client.call("DELETE", f"/api/ml/{row.backend_id}")
    broken = {code, "sampling-mode", "predictions-off", "ml-backend-missing"}
    assert wrong() >= broken
    assert broken <= MENDED_BY_CONNECTING
    connect(context, pid)
    assert {problem.finding.code for problem in context.store.problems.open(pid)} == {"no-window"}
    assert wrong() == {"no-window"}


def test_an_image_that_cannot_be_fetched(client, context, pid, told):
    client.delete_tasks(pid, client.task_ids(pid))
    client.import_tasks(pid, [{"data": {"image": "http://127.0.0.1:9/there-is-none.png"}}])
    sync(context, pid, rebuild=True)
    finding = told("image-unreadable")
    assert "there-is-none.png" in finding.message or "127.0.0.1:9" in finding.message


def test_a_wrong_token(listening):
    wrong = Context(
        listening[0].model_copy(update={"label_studio_api_key": type(listening[0].label_studio_api_key)("f" * 40)})
    )
    try:
        around, *_ = doctor.examine(wrong, [])
    finally:
        wrong.close()
    (finding,) = [item for item in around.findings if item.code == "token"]
    assert "401" in finding.message
    assert "f" * 40 not in finding.message
    assert "Account & Settings" in finding.remedy


def test_webhooks_dropped_by_the_protection_of_private_addresses(studio, client, context, pid, told, monkeypatch):
    monkeypatch.setattr(doctor, "SILENCE", doctor.timedelta(0))
    first, second, *_ = sorted(client.task_ids(pid))
    answer = [{"from_name": "digit", "to_name": "image", "type": "choices", "value": {"choices": ["1"]}}]
    client.submit(first, answer)
    assert context.store.projects.events(pid, 1), "the event came while private addresses were allowed"
    before = studio._environment
    studio.stop()
    studio._environment = {**before, "SSRF_PROTECTION_ENABLED": "true"}
    studio.restart()
    try:
        client.submit(second, answer)
        sync(context, pid)
        finding = told("webhook-silent")
    finally:
        studio.stop()
        studio._environment = before
        studio.restart()
    assert "came without an event" in finding.message
    assert "SSRF_PROTECTION_ENABLED=false" in finding.remedy


def test_legacy_tokens_switched_off(studio, context):
    studio._refuse_legacy_token()
    around, *_ = doctor.examine(context, [])
    (finding,) = [item for item in around.findings if item.code == "token"]
    assert "legacy token authentication has been disabled" in finding.message
    assert "legacy tokens work only where the organization allows them" in finding.remedy
