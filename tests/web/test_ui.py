"""The dashboard: what people read on its pages, with a real Chromium where it takes one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ls_backend.domain import Finding
from ls_backend.engine.progress import CurvePoint
from ls_backend.jobs import redis_server
from ls_backend.web.ui import curve, frame

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image" choice="single">'
    '<Choice value="cat"/><Choice value="dog"/></Choices></View>'
)
EVIL = "<script>alert(1)</script>"
EVERY_PAGE = ("/ui/", "/ui/projects/7", "/ui/projects/7/queue", "/ui/projects/7/models", "/ui/jobs", "/ui/problems")


def read(backend, path):
    answer = backend.http.get(path)
    assert answer.status_code == 200
    return answer.text


def test_the_projects_page_says_where_a_project_stands(connected, fill):
    fill(connected.store)
    text = read(connected, "/ui/")
    assert "al-2-0123abcd" in text
    assert "1 of 60" in text
    assert "90.0 %" in text
    assert "learning" in text


def test_the_projects_page_counts_the_jobs_of_each_project(connected):
    connected.queues.kick(7)
    connected.queues.record_failure("embed", 7, code="c", message="m", hint="h", seconds=1.0, error=ValueError())
    assert "1 queued, 1 failed" in read(connected, "/ui/")


def test_a_backend_without_projects_says_how_to_connect_one(backend):
    text = read(backend, "/ui/")
    assert "No project is connected yet." in text
    assert "ls-backend connect --project N" in text


def test_the_queue_lists_the_next_50_in_order_with_reasons_and_factors_and_leaves_out_what_is_labelled(
    connected, fill, task
):
    fill(connected.store)
    made = datetime.now(UTC)
    connected.store.tasks.upsert(7, [task(3, made + timedelta(seconds=5), annotated=True)], image_field="image")
    text = read(connected, "/ui/projects/7/queue")
    places = [text.index(f"margin 0.04, task {i}<") for i in (2, *range(4, 53))]
    assert places == sorted(places)
    assert "task 3<" not in text
    assert "task 53<" not in text
    assert 'href="http://localhost:8080/projects/7/data?task=2"' in text
    assert "× 2.0" in text  # noqa: RUF001 - as it stands on the page


def test_a_link_never_leads_to_an_address_that_is_none(connected, fill):
    fill(connected.store)
    connected.store.projects.set(7, hostname="javascript:alert(1)//")
    assert "javascript:" not in read(connected, "/ui/projects/7/queue")


@pytest.mark.parametrize("path", EVERY_PAGE)
def test_what_people_wrote_is_escaped(connected, path, fill):
    fill(connected.store)
    connected.store.projects.set(7, title=EVIL, label_config=connected.config.replace("dog", EVIL.replace("<", "&lt;")))
    connected.store.problems.report(7, Finding("overlap", "warning", EVIL, EVIL, EVIL))
    connected.queues.record_failure("update", 7, code="c", message=EVIL, hint=EVIL, seconds=1.0, error=ValueError())
    text = read(connected, path)
    assert EVIL not in text
    if path != "/ui/":
        assert "&lt;script&gt;alert(1)" in text


@pytest.mark.parametrize("path", EVERY_PAGE)
def test_a_page_allows_no_script_of_others(connected, path):
    policy = connected.http.get(path).headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy


def test_the_dashboard_asks_for_the_same_password_as_the_rest(deploy):
    guarded = deploy(basic_auth_user="u", basic_auth_pass="p")
    assert guarded.http.get("/ui/").status_code == 401
    assert guarded.http.get("/ui/", auth=("u", "p")).status_code == 200


@pytest.mark.parametrize("path", ["/ui/jobs/retry", "/ui/problems/look", "/api/jobs/retry", "/api/doctor"])
@pytest.mark.parametrize("origin", ["cross-site", "same-site"])
def test_another_site_can_change_nothing(connected, path, origin):
    answer = connected.http.post(path, headers={"Sec-Fetch-Site": origin})
    assert answer.status_code == 403
    assert connected.waiting() == []


def test_a_failed_job_is_listed_with_its_reason_and_tried_again_by_its_button(connected):
    connected.queues.record_failure(
        "update",
        7,
        code="label-studio-unreachable",
        message="No answer.",
        hint="Start it.",
        seconds=1.0,
        error=ValueError(),
    )
    text = read(connected, "/ui/jobs")
    assert "No answer." in text
    assert "Start it." in text
    answer = connected.http.post(
        "/ui/jobs/retry", data={"kind": "update", "project": "7"}, headers={"Sec-Fetch-Site": "same-origin"}
    )
    assert answer.status_code == 303
    assert [job_id.split("-")[0] for job_id in connected.waiting()] == ["update"]


def test_problems_are_listed_latest_first_with_their_remedy(connected):
    connected.store.problems.report(7, Finding("overlap", "warning", "project", "First.", "Set it to 1."))
    connected.store.problems.report(None, Finding("disk", "error", "DATA_DIR", "Second.", "Make room."))
    text = read(connected, "/ui/problems")
    assert text.index("Second.") < text.index("First.")
    assert "Make room." in text
    assert "deployment" in text


def test_without_redis_the_pages_are_there_and_say_so(deploy):
    alone = deploy(redis_url="redis://127.0.0.1:1/0")
    alone.store.projects.ensure(7)
    assert all(alone.http.get(path).status_code == 200 for path in EVERY_PAGE)
    assert "Work goes on by itself when Redis answers" in read(alone, "/ui/jobs")
    assert "unknown" in read(alone, "/ui/")
    assert alone.http.post("/ui/problems/look").status_code == 503


def test_an_unknown_project_is_said_to_be_unknown(connected):
    answer = connected.http.get("/ui/projects/8/queue")
    assert answer.status_code == 404
    assert "Project 8 is not connected" in answer.text


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s ago"),
        (59, "59 s ago"),
        (60, "1 minute ago"),
        (7200, "2 hours ago"),
        (86_400, "1 day ago"),
        (-5, "0 s ago"),
    ],
)
def test_moments_are_told_in_the_largest_unit_that_fits(seconds, said):
    assert frame.ago(NOW - timedelta(seconds=seconds), NOW) == said


def point(n_labels, value, *, state="promoted", control=None):
    return CurvePoint(
        f"v{n_labels}",
        control,
        n_labels,
        "accuracy",
        value,
        value - 0.1,
        min(value + 0.1, 1.0),
        20,
        "hold-out",
        state,
        NOW,
    )


def test_a_curve_rises_to_the_right_and_keeps_its_intervals_around_it():
    (drawn,) = curve.drawn([point(100, 0.9), point(10, 0.4), point(50, 0.7), point(60, 0.1, state="rejected")])
    assert [dot.point.n_labels for dot in drawn.dots] == [10, 50, 100]
    assert [dot.x for dot in drawn.dots] == sorted(dot.x for dot in drawn.dots)
    assert [dot.y for dot in drawn.dots] == sorted((dot.y for dot in drawn.dots), reverse=True)
    assert all(dot.high < dot.y < dot.low for dot in drawn.dots)
    assert drawn.dots[-1].x == drawn.plane.edges[1]


def test_thousands_of_versions_are_thinned_and_the_newest_is_kept():
    (drawn,) = curve.drawn([point(i, 0.5) for i in range(1, 2002)])
    assert len(drawn.dots) <= curve.POINTS_DRAWN
    assert drawn.dots[-1].point.n_labels == 2001


@pytest.fixture(scope="module")
def shown(serve_project):
    """A server process of its own with a project that has labels, models, a window and a problem."""
    running, store = serve_project()
    store.problems.report(7, Finding("overlap", "warning", "project", "Two annotations a task.", "Set it to 1."))
    return running, store


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_and_the_console_stays_quiet(shown, browser, flaws, scheme):
    server, _ = shown
    with browser.new_context(color_scheme=scheme) as context:
        page = context.new_page()
        said = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        for path in EVERY_PAGE:
            page.goto(f"http://127.0.0.1:{server.port}{path}")
            assert (path, flaws(page)) == (path, [])
        assert said == []


@pytest.mark.browser
def test_a_page_renews_itself_but_not_under_somebodys_hands(shown, browser):
    server, store = shown
    store.projects.set(7, title="before")
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/ui/")
        page.wait_for_selector("text=before")
        store.projects.set(7, title="after")
        page.wait_for_selector("text=after", timeout=15_000)
        page.get_by_role("link", name="after").focus()
        store.projects.set(7, title="too late")
        page.wait_for_timeout(6_000)
        assert page.get_by_role("link", name="after").is_visible()


@pytest.mark.browser
def test_an_open_page_says_that_the_server_is_away_and_recovers(serve, browser):
    server = serve()
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/ui/jobs")
        warning = page.get_by_role("alert").filter(has_text="This server does not answer")
        assert not warning.is_visible()
        server.stop()
        warning.wait_for(timeout=20_000)
        assert page.get_by_role("heading", name="Jobs").is_visible()
        server.start()
        warning.wait_for(state="hidden", timeout=20_000)


@pytest.mark.browser
def test_an_open_page_says_that_redis_is_away_and_recovers(serve, browser, tmp_path):
    redis = redis_server.start(tmp_path)
    server = serve(redis_url=redis.url)
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/ui/jobs")
        page.get_by_text("Nothing runs and nothing waits").wait_for()
        redis.stop()
        page.get_by_text("Work goes on by itself when Redis answers").wait_for(timeout=20_000)
        redis = redis_server.start(tmp_path)
        page.get_by_text("Nothing runs and nothing waits").wait_for(timeout=20_000)
        redis.stop()
