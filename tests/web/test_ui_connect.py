"""Projects connected from the dashboard: what the form asks of a worker, and where a failure is told."""

from __future__ import annotations

import pytest

from ls_backend.jobs.queues import Queues

OURS = {"Sec-Fetch-Site": "same-origin"}
EVIL = "<script>alert(1)</script>"


def ask(backend, number, headers=OURS):
    return backend.http.post("/ui/connect", data={"project": number}, headers=headers)


def refuse(queues, project=12, message="404 Not found."):
    queues.started("connect", project)
    queues.record_failure("connect", project, code="label-studio-rejected", message=message, hint="Check the number.")


def test_the_form_has_a_worker_connect_a_project(backend):
    text = backend.http.get("/ui/").text
    assert 'action="/ui/connect"' in text
    assert "The number behind /projects/ in the address" in text
    answer = ask(backend, "12")
    assert answer.status_code == 303
    assert backend.waiting() == ["connect-12"]
    assert "Project 12 waits for a worker to connect it" in backend.http.get(answer.headers["Location"]).text
    assert ask(backend, " 12 ").status_code == 303
    assert backend.waiting() == ["connect-12"], "twice is once"


def test_what_was_connected_is_said_to_be(connected):
    connected.store.projects.set(7, title="Cracks")
    assert "Cracks is connected." in connected.http.get("/ui/?asked=7").text
    assert "is connected." not in connected.http.get("/ui/?asked=8").text


def test_a_failure_is_told_with_its_remedy_on_both_pages_and_tried_again_by_a_button(backend):
    refuse(backend.queues)
    text = backend.http.get("/ui/").text
    assert "Project 12 could not be connected" in text
    assert "404 Not found. Check the number." in text
    assert "Connect project 12 again" in text
    assert "Try connect again" in backend.http.get("/ui/jobs").text
    backend.http.post("/ui/jobs/retry", data={"kind": "connect", "project": "12"}, headers=OURS)
    assert backend.waiting() == ["connect-12"]


@pytest.mark.parametrize("number", ["", "0", "-3", "1.5", "twelve", "²", "99999999999", EVIL, "7 or 8"])
def test_what_is_no_number_is_refused_in_words(backend, number):
    answer = ask(backend, number)
    assert answer.status_code == 400
    assert "is no number of a project" in answer.text
    assert EVIL not in answer.text
    assert backend.waiting() == []


@pytest.mark.parametrize("origin", ["cross-site", "same-site"])
@pytest.mark.parametrize("path", ["/ui/connect", "/api/projects/12/connect"])
def test_another_site_connects_nothing(backend, path, origin):
    answer = backend.http.post(path, data={"project": "12"}, headers={"Sec-Fetch-Site": origin})
    assert answer.status_code == 403
    assert backend.waiting() == []


def test_what_label_studio_said_is_escaped(backend):
    refuse(backend.queues, message=EVIL)
    assert EVIL not in backend.http.get("/ui/").text


def test_without_redis_the_form_says_why_nothing_happens(deploy):
    alone = deploy(redis_url="redis://127.0.0.1:1/0")
    assert "Connect a project" in alone.http.get("/ui/").text
    answer = ask(alone, "12")
    assert answer.status_code == 503
    assert "queue-error" in answer.text


def test_the_same_over_http(backend):
    answer = backend.http.post("/api/projects/12/connect")
    assert (answer.status_code, answer.get_json()) == (202, {"added": True})
    assert backend.http.post("/api/projects/12/connect").get_json() == {"added": False}
    assert backend.waiting() == ["connect-12"]


@pytest.mark.browser
@pytest.mark.usefixtures("_empty_queues")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_person_connects_and_what_was_typed_outlives_the_renewal_of_the_page(serve, browser, flaws, scheme):
    server = serve()
    queues = Queues.of(server.settings)
    with browser.new_context(color_scheme=scheme) as context:
        page = context.new_page()
        said = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(f"http://127.0.0.1:{server.port}/ui/")
        page.get_by_label("Its number in Label Studio").fill("12")
        page.locator("footer").click()  # the page renews itself only while nobody is inside
        refuse(queues, project=13)
        page.get_by_text("Project 13 could not be connected").wait_for(timeout=15_000)
        assert page.get_by_label("Its number in Label Studio").input_value() == "12"
        assert flaws(page) == []
        page.get_by_role("button", name="Connect", exact=True).click()
        page.get_by_text("Project 12 waits for a worker to connect it").wait_for()
        assert [job.project_id for job in queues.jobs() if job.state == "queued" and job.kind == "connect"] == [12]
        assert said == []
    queues.close()
