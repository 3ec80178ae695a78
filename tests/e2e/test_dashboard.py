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

    def queue(self):
        """Task ids as the queue page lists them."""
        rows = self.page.get_by_role("table").get_by_role("row").all()
        return [int(row.get_by_role("rowheader").inner_text()) for row in rows[1:]]


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

    # Connect.
    stack.command("connect", "--project", str(pid))
    desk.open()
    desk.page.get_by_role("link", name=title).click()
    desk.go("Queue", within=f"Project {title}")
    desk.page.get_by_role("table", name=re.compile("Why each task comes")).wait_for(timeout=PATIENCE_MS)
    lab.settled()
    desk.page.reload()
    desk.check()
    assert desk.queue() == lab.head() != []

    # Label, until there are two model versions to choose from.
    lab.label(10)
    lab.settled(labels=10)
    lab.label(4)
    lab.settled(labels=14)
    desk.go("Models", within=f"Project {title}")
    promoted = [item["version_id"] for item in lab.state()["versions"] if item["state"] == "promoted"]
    assert len(promoted) >= 2

    assert desk.wrong == []
