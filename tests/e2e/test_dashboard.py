"""A person who runs a project, in front of the dashboard: a real Chromium, beside a real Label Studio."""

from __future__ import annotations

import contextlib
import re
import warnings

import pytest
from axe_playwright_python.sync_playwright import Axe

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

N_TASKS = 40
TIMEOUT_MS = 30_000
PATIENCE_MS = 60_000
"""For what a worker does first; the page then shows it by itself."""


class Desk:
    """The owner's browser tab, and everything that was wrong with the pages it showed."""

    def __init__(self, page, url):
        self.page = page
        self.url = url
        self.wrong = []
        self.looked_at = set()
        page.set_default_timeout(TIMEOUT_MS)
        page.on("console", lambda message: self._note(f"console: {message.text}"))
        page.on("pageerror", lambda error: self._note(f"error: {error}"))
        page.on("requestfailed", self._failed)
        page.on("response", lambda answer: answer.status >= 400 and self._note(f"{answer.status} {answer.url}"))

    def _note(self, what):
        self.wrong.append(f"{self.page.url}: {what}")

    def _failed(self, request):
        if request.failure != "net::ERR_ABORTED":  # a renewal under way when its page is left
            self._note(f"{request.failure} {request.url}")

    def open(self):
        self.page.goto(f"{self.url}/ui/")
        self.check()

    def go(self, name, *, within="Pages"):
        """Follow a link of a navigation, as people do."""
        self.page.get_by_role("navigation", name=within).get_by_role("link", name=name, exact=True).click()
        self.page.wait_for_load_state()
        self.check()

    def check(self):
        """Have axe look at the page as it is now."""
        self.looked_at.add(re.sub(r"\d+", "N", self.page.url.removeprefix(self.url).partition("?")[0]))
        for one in Axe().run(self.page).response["violations"]:
            if one["impact"] in ("serious", "critical"):
                self._note(f"axe: {one['id']} {one['nodes'][0]['html']}")

    def reload(self):
        self.page.reload()
        self.check()

    def queue(self):
        """Task ids as the queue page lists them."""
        return rows_of(self.page.get_by_role("table", name=re.compile("Why each task comes")))


@pytest.fixture
def desk(browser, stack, request, tmp_path):
    """A tab of its own; its last picture is kept when the test fails."""
    failed_before = request.session.testsfailed
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    desk = Desk(context.new_page(), stack.url)
    yield desk
    if request.session.testsfailed > failed_before:
        with contextlib.suppress(Exception):
            desk.page.screenshot(path=tmp_path / "failed.png", full_page=True)
            warnings.warn(f"the browser showed {tmp_path / 'failed.png'}", stacklevel=1)
    context.close()


def test_an_owner_connects_tunes_rolls_back_and_mends_a_project(desk, client, stack, make_project, lab_of, wait_for):
    pid, truth = make_project(client, N_TASKS)
    title = client.project(pid).title
    lab = lab_of(client, stack, pid, truth)
    page = desk.page

    # Given a project in Label Studio, it is connected on the page, and its queue appears.
    stack.command("connect", "--project", str(pid))
    desk.open()
    page.get_by_role("link", name=title).click()
    desk.go("Queue", within=f"Project {title}")
    page.get_by_role("table", name=re.compile("Why each task comes")).wait_for(timeout=PATIENCE_MS)
    lab.settled()
    desk.reload()
    assert desk.queue() == lab.head() != []

    # When it is labelled, models appear and the curve with them.
    for labels in (10, 14):
        lab.label(labels - len(lab.held()))
        lab.settled(labels=labels)
    desk.go("Overview", within=f"Project {title}")
    assert page.get_by_text("14 of 40").is_visible()

    # When a strength is changed with the keyboard, the preview shows 20 tasks in another order, and saves nothing.
    desk.go("Queue", within=f"Project {title}")
    before = desk.queue()
    window = client.project(pid).model_version
    desk.go("Settings", within=f"Project {title}")
    page.get_by_role("slider", name="Diversity: Strength").focus()
    page.keyboard.press("Home")
    strength = page.get_by_role("group", name="Diversity").get_by_role("textbox", name="Strength")
    assert float(strength.input_value()) == 0.0
    page.get_by_role("button", name="Preview").focus()
    page.keyboard.press("Enter")
    tried = page.get_by_role("table", name="With these settings")
    tried.wait_for(timeout=PATIENCE_MS)
    desk.check()
    promised = rows_of(tried)
    assert rows_of(page.get_by_role("table", name="Now", exact=True)) == before[:20]
    assert len(promised) == 20
    assert promised != before[:20]
    assert client.project(pid).model_version == window

    # When it is saved, Label Studio serves the order that the preview has shown, and the queue page lists it.
    page.get_by_role("button", name="Save").last.focus()
    page.keyboard.press("Enter")
    page.get_by_role("status").get_by_text("Saved as revision").wait_for()
    desk.check()
    wait_for("another window is in force", lambda: client.project(pid).model_version != window, 60)
    lab.order_in_force()
    assert lab.head()[:20] == promised
    desk.go("Queue", within=f"Project {title}")
    assert desk.queue() == lab.head()
    assert lab.label(1) == promised[:1]
    lab.settled(labels=15)

    # When an earlier model is put in force, Label Studio shows what that one predicts.
    desk.go("Models", within=f"Project {title}")
    serving, *earlier = [row["version_id"] for row in lab.state()["versions"] if row["state"] == "promoted"][::-1]
    assert in_force(page) == [serving]
    page.get_by_role("button", name=f"Put in force: {earlier[-1]}").click()
    page.get_by_role("status").get_by_text(f"{earlier[-1]} is in force").wait_for()
    desk.check()
    assert in_force(page) == [earlier[-1]]
    wait_for("its window", lambda: client.project(pid).model_version.startswith(f"{earlier[-1]}:"), 60)
    page.get_by_role("button", name="Let the newest serve again").click()
    page.get_by_role("status").wait_for()
    assert in_force(page) == [serving]
    wait_for("its window", lambda: client.project(pid).model_version.startswith(f"{serving}:"), 60)

    # Then nothing was wrong with any page on the way.
    assert desk.wrong == []


def rows_of(table):
    """Task ids in a table of tasks, from the top."""
    return [int(row.get_by_role("rowheader").inner_text()) for row in table.get_by_role("row").all()[1:]]


def in_force(page):
    """Model versions that the page says are in force."""
    rows = page.get_by_role("table", name="Model versions").get_by_role("row").all()[1:]
    return [
        row.get_by_role("rowheader").inner_text() for row in rows if row.get_by_text("in force", exact=True).count()
    ]
