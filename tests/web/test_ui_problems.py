"""The problems page: a button where this backend can mend, a link where Label Studio shows it, else the remedy."""

from __future__ import annotations

import pytest

from ls_backend.domain import Finding
from ls_backend.store import Store
from ls_backend.web.ui.problems import PROBLEMS_SHOWN

OURS = {"Sec-Fetch-Site": "same-origin"}
EVIL = '"><script>alert(1)</script>'
MISSING = Finding("webhook-missing", "error", "webhook", "There is none.", "Connect the project.")
OVERLAP = Finding("overlap", "warning", "annotation settings", "Two annotations a task.", "Set it to 1.")
UNREADABLE = Finding("image-unreadable", "warning", "task 12", "404.", "Open the task.")
DISK = Finding("disk", "error", "DATA_DIR", "It is full.", "Make room.")


@pytest.fixture
def troubled(connected):
    for finding in (MISSING, OVERLAP, UNREADABLE):
        connected.store.problems.report(7, finding)
    connected.store.problems.report(None, DISK)
    return connected


def fix(backend, finding, project="7", headers=OURS):
    sent = {"project": project, "code": finding.code, "subject": finding.subject}
    return backend.http.post("/ui/problems/fix", data=sent, headers=headers)


def test_only_what_can_be_mended_has_a_button(troubled):
    text = troubled.http.get("/ui/problems").text
    assert text.count(">Fix: ") == 2
    assert ">Fix: Connect the project again<" in text
    assert ">Fix: Read the image again<" in text


def test_thousands_of_problems_are_not_a_page(connected):
    for number in range(PROBLEMS_SHOWN + 1):
        connected.store.problems.report(7, Finding("image-unreadable", "warning", f"task {number}", "404.", "Open it."))
    text = connected.http.get("/ui/problems").text
    assert text.count(">Fix: ") == PROBLEMS_SHOWN
    assert f"These are the latest {PROBLEMS_SHOWN}" in text
    assert f"task {PROBLEMS_SHOWN}:" in text
    assert "task 0:" not in text


def test_the_button_wakes_what_mends_and_says_so_until_the_problem_is_over(troubled):
    answer = fix(troubled, MISSING)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/ui/problems")
    assert troubled.waiting() == ["connect-7"]
    text = troubled.http.get("/ui/problems").text
    assert "A worker is at it." in text
    assert ">Fix: Connect the project again<" not in text
    troubled.store.problems.resolve(7, "webhook-missing")
    assert "There is none." not in troubled.http.get("/ui/problems").text


def test_the_page_links_to_where_label_studio_shows_it(troubled):
    text = troubled.http.get("/ui/problems").text
    for path in ("settings/annotation", "settings/webhooks", "data?task=12"):
        assert f'href="http://localhost:8080/projects/7/{path}"' in text, path
    troubled.store.projects.set(7, hostname="javascript:alert(1)//")
    assert "javascript:" not in troubled.http.get("/ui/problems").text


@pytest.mark.parametrize(("finding", "project"), [(OVERLAP, "7"), (DISK, ""), (MISSING, "8"), (MISSING, "x")])
def test_what_cannot_be_mended_is_refused_in_words(troubled, finding, project):
    answer = fix(troubled, finding, project)
    assert answer.status_code == 400
    assert "That did not work" in answer.text
    assert troubled.waiting() == []


@pytest.mark.parametrize("origin", ["cross-site", "same-site"])
@pytest.mark.parametrize("path", ["/ui/problems/fix", "/api/problems/fix"])
def test_another_site_mends_nothing(troubled, path, origin):
    sent = {"project": 7, "code": MISSING.code, "subject": MISSING.subject}
    assert troubled.http.post(path, json=sent, headers={"Sec-Fetch-Site": origin}).status_code == 403
    assert troubled.waiting() == []


def test_what_stands_in_a_problem_is_escaped(connected):
    connected.store.problems.report(7, Finding("webhook-missing", "error", EVIL, EVIL, EVIL))
    assert EVIL not in connected.http.get("/ui/problems").text
    assert EVIL not in fix(connected, Finding("webhook-missing", "error", EVIL + "2", "")).text


def test_without_redis_the_page_is_there_and_the_button_says_why_nothing_happens(deploy):
    alone = deploy(redis_url="redis://127.0.0.1:1/0")
    alone.store.projects.ensure(7)
    alone.store.problems.report(7, MISSING)
    assert ">Fix: Connect the project again<" in alone.http.get("/ui/problems").text
    assert fix(alone, MISSING).status_code == 503


def test_the_same_over_http(troubled):
    rows = troubled.http.get("/api/problems").get_json()["problems"]
    assert {row["finding"]["code"]: row["mended_by"] for row in rows} == {
        "webhook-missing": "connect",
        "image-unreadable": "embed",
        "overlap": None,
        "disk": None,
    }
    sent = {"project": 7, "code": MISSING.code, "subject": MISSING.subject}
    answer = troubled.http.post("/api/problems/fix", json=sent)
    assert (answer.status_code, answer.get_json()) == (202, {"woken": True})
    assert troubled.waiting() == ["connect-7"]
    refused = troubled.http.post("/api/problems/fix", json={"code": DISK.code, "subject": DISK.subject})
    assert (refused.status_code, refused.get_json()["hint"]) == (400, "Make room.")


@pytest.mark.browser
@pytest.mark.usefixtures("_empty_queues")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_person_presses_fix_and_axe_finds_nothing_serious(serve, browser, flaws, scheme):
    server = serve()
    store = Store(server.settings.sql_url)
    store.projects.ensure(7, hostname="http://localhost:8080")
    for finding in (MISSING, OVERLAP, UNREADABLE):
        store.problems.report(7, finding)
    with browser.new_context(color_scheme=scheme) as context:
        page = context.new_page()
        said = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(f"http://127.0.0.1:{server.port}/ui/problems")
        page.get_by_role("button", name="Fix: Read the image again").press("Enter")
        page.get_by_text("A worker is at it.").wait_for()
        assert flaws(page) == []
        assert said == []
    store.dispose()
