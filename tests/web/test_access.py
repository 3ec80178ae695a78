"""Who may ask what, and what never leaves the server."""

from __future__ import annotations

import base64

import pytest

USER, PASSWORD = "label-studio", "correct horse: battery"
OPEN = ["/", "/health"]
CLOSED = [("GET", "/versions"), ("GET", "/metrics"), ("GET", "/api/projects"), ("POST", "/setup"), ("POST", "/predict")]


def basic(user, password):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture
def guarded(deploy):
    return deploy(basic_auth_user=USER, basic_auth_pass=PASSWORD)


@pytest.mark.parametrize("path", OPEN)
def test_probes_need_no_password(guarded, path):
    assert guarded.http.get(path).status_code == 200


def test_label_studios_events_need_no_password_because_it_sends_none(guarded):
    answer = guarded.http.post("/webhook", json={"action": "ANNOTATION_CREATED", "project": {"id": 1}})
    assert answer.status_code == 200


@pytest.mark.parametrize(("method", "path"), CLOSED)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic(USER, "wrong"),
        basic("wrong", PASSWORD),
        basic("", ""),
        basic(USER, PASSWORD + "é"),
        {"Authorization": f"Bearer {PASSWORD}"},
        {"Authorization": "Basic !"},
    ],
)
def test_everything_else_is_closed_without_the_right_password(guarded, method, path, headers):
    answer = guarded.http.open(path, method=method, json={} if method == "POST" else None, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic")


def test_who_connects_a_model_without_the_password_is_told_in_the_status_line(guarded):
    without = guarded.http.post("/setup", json={}).status
    assert without.startswith("401 ls_backend was given no user name or password. Choose Basic auth")
    wrong = guarded.http.post("/setup", json={}, headers=basic(USER, "wrong")).status
    assert wrong.startswith("401 ls_backend was given a wrong user name or password.")
    assert "BASIC_AUTH_PASS" in wrong


@pytest.mark.parametrize(("method", "path"), [("GET", "/predict/health"), ("POST", "/api/setup")])
def test_who_gives_an_address_with_a_path_is_told_in_the_status_line(backend, method, path):
    status = backend.http.open(path, method=method, json={} if method == "POST" else None).status
    assert status == f"404 ls_backend has nothing at {path}. Give the address without a path behind the port."


def test_the_right_password_opens(guarded):
    assert guarded.http.get("/api/projects", headers=basic(USER, PASSWORD)).status_code == 200


def test_secrets_are_in_no_answer(connected):
    connected.store.projects.set(7, webhook_secret="secret-of-the-webhook", access_token="token-of-the-owner")
    paths = ["/api/projects", "/api/projects/7", "/api/projects/7/problems", "/metrics", "/versions", "/"]
    answers = "".join(connected.http.get(path).text for path in paths)
    for secret in ("secret-of-the-webhook", "token-of-the-owner", "key-of-the-operator"):
        assert secret not in answers


@pytest.mark.parametrize("path", ["problems", "queue", "windows", "runs"])
def test_every_page_of_a_project_answers(connected, path):
    connected.promote()
    connected.publish()
    run = connected.store.runs.start(7, "update")
    connected.store.runs.finish(run, "done", {"sync": 0.1})
    answer = connected.http.get(f"/api/projects/7/{path}")
    assert answer.status_code == 200
    assert connected.http.get("/api/projects/7").get_json()["versions"][0]["version_id"] == "al-1-0123abcd"


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=100000"])
def test_a_limit_out_of_range_is_refused(connected, query):
    assert connected.http.get(f"/api/projects/7/queue?{query}").status_code == 422
