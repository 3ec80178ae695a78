"""Traps of the machine and of the addresses, and how what was found becomes problems."""

from __future__ import annotations

import http.server
import json
import shutil
import sys
import threading
from types import SimpleNamespace

import pytest

from ls_backend.domain import Finding
from ls_backend.engine import doctor
from ls_backend.engine.context import Context
from ls_backend.engine.doctor import Looked
from ls_backend.settings import Settings

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def make(tmp_path):
    made = []

    def of(**settings):
        given = {"label_studio_url": NOBODY, "label_studio_api_key": "token-7f3a9c", "backend_url": NOBODY, **settings}
        context = Context(Settings(data_dir=tmp_path / "data", device="cpu", **given))
        made.append(context)
        return context

    yield of
    for context in made:
        context.close()


@pytest.fixture
def context(make):
    return make()


def test_a_full_disk(context, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100 * 2**20))
    found = list(doctor._disk(context))
    assert {(item.code, item.level) for item in found} == {("disk", "error")}
    assert found[0].message.startswith("100 MiB are free in ")
    assert found[0].remedy == "Make room: 1 GiB at least."


def test_a_folder_that_cannot_be_written(context, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    found = list(doctor._disk(context))
    assert [item.code for item in found] == ["disk", "disk"]
    assert "cannot be written" in found[0].message
    assert found[0].remedy == "Give this user write access to DATA_DIR."


def test_torch_and_torchvision_that_do_not_fit(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'RuntimeError: operator torchvision::nms does not exist' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    finding = doctor._torch()
    assert (finding.code, finding.level) == ("torch-pair", "error")
    assert "do not load together: RuntimeError: operator torchvision::nms does not exist" in finding.message
    assert "--force-reinstall torch torchvision" in finding.remedy


def test_nobody_answers_at_our_address(context):
    finding = doctor._own_address(context)
    assert (finding.code, finding.level) == ("backend-address", "error")
    assert f"does not answer at {NOBODY}/health" in finding.message
    assert "LSB_BACKEND_URL" in finding.remedy


def test_somebody_else_answers_at_our_address(make):
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps({"status": "UP"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        finding = doctor._own_address(make(backend_url=f"http://127.0.0.1:{server.server_port}"))
        server.shutdown()
        thread.join()
    assert (finding.code, finding.level) == ("backend-address", "error")
    assert "Something else answers at" in finding.message


@pytest.mark.parametrize(
    ("theirs", "ours", "level"),
    [
        ("http://label-studio:8080", "http://localhost:9090", "warning"),
        ("https://labels.example.com", "http://127.0.0.1:9090", "warning"),
        ("http://localhost:8080", "http://localhost:9090", "ok"),
        ("http://label-studio:8080", "http://ls-backend:9090", "ok"),
    ],
)
def test_label_studio_elsewhere_is_told_to_call_localhost(make, theirs, ours, level):
    (finding,) = doctor._local_address(make(label_studio_url=theirs, backend_url=ours))
    assert (finding.code, finding.level) == ("address-local", level)
    if level != "ok":
        assert f"is told to call this server at {ours}: that is Label Studio's own" in finding.message
        assert "LSB_BACKEND_URL" in finding.remedy


def test_label_studio_does_not_answer(context):
    reachable, finding = doctor._label_studio(context)
    assert not reachable
    assert (finding.code, finding.level) == ("label-studio-unreachable", "error")
    assert NOBODY in finding.message
    assert "LABEL_STUDIO_URL" in finding.remedy


def test_without_an_address_the_setting_is_named(make):
    _, finding = doctor._label_studio(make(label_studio_url=None))
    assert (finding.code, finding.level) == ("settings-invalid", "error")
    assert "LABEL_STUDIO_URL is not set" in finding.message


def wrong(code, subject="webhook"):
    return Finding(code, "error", subject, "It is wrong.", "Mend it.")


def codes(context, project_id):
    return {problem.finding.code for problem in context.store.problems.open(project_id)}


def test_what_is_found_becomes_problems_and_goes_when_it_is_over(context):
    context.store.projects.ensure(7)
    doctor.keep(context, [Looked(None, (wrong("disk"),)), Looked(7, (wrong("overlap"), wrong("webhook-missing")))])
    assert codes(context, None) == {"disk"}
    assert codes(context, 7) == {"overlap", "webhook-missing"}
    doctor.keep(context, [Looked(None, ()), Looked(7, (wrong("overlap"),))])
    assert codes(context, None) == set()
    assert codes(context, 7) == {"overlap"}


def test_a_look_that_was_broken_off_closes_nothing(context):
    context.store.projects.ensure(7)
    doctor.keep(context, [Looked(7, (wrong("overlap"),))])
    doctor.keep(context, [Looked(7, (wrong("label-studio-unreachable", "project"),), complete=False)])
    assert codes(context, 7) == {"overlap", "label-studio-unreachable"}


def test_problems_of_the_work_itself_are_left_to_it(context):
    context.store.projects.ensure(7)
    context.store.problems.report(7, wrong("image-unreadable", "task 3"))
    doctor.keep(context, [Looked(7, ())])
    assert codes(context, 7) == {"image-unreadable"}


def test_two_looks_at_the_deployment_are_one(context):
    doctor.keep(context, [Looked(None, (wrong("no-worker"),)), Looked(None, (wrong("disk"),))])
    assert codes(context, None) == {"no-worker", "disk"}


def test_the_doctor_tells_what_the_work_has_found_too(context, monkeypatch):
    monkeypatch.setattr(doctor, "_torch", lambda: Finding("torch-pair", "ok", "torch", "not looked at"))
    context.store.projects.ensure(7)
    context.store.problems.report(7, wrong("image-unreadable", "task 3"))
    _, look = doctor.examine(context, [7])
    assert [finding.subject for finding in look.known] == ["task 3"]
