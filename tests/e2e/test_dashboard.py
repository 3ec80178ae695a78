"""A person who runs a project, in front of the dashboard: a real Chromium, beside a real Label Studio."""

from __future__ import annotations

import contextlib
import re
import warnings

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

N_TASKS = 40
PREVIEWED = 20
TIMEOUT_MS = 30_000
PATIENCE_MS = 60_000
"""For what a worker does first; the page then shows it by itself."""


class Owner:
    """Who runs a project, with a browser tab on the dashboard, and everything that was wrong with its pages."""

    def __init__(self, page, lab, flaws):
        self.page = page
        self.lab = lab
        self.flaws = flaws
        self.title = lab.client.project(lab.pid).title
        self.wrong = []
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

    # -- what the owner does --

    def open(self):
        self.page.goto(f"{self.lab.stack.url}/ui/")
        self.check()

    def go(self, name, *, within="Pages"):
        """Follow a link of a navigation."""
        self.page.get_by_role("navigation", name=within).get_by_role("link", name=name, exact=True).click()
        self.page.wait_for_load_state()
        self.check()

    def tab(self, name):
        """Go to another page of the project."""
        self.go(name, within=f"Project {self.title}")

    def key(self, role, name, key):
        """Press a key on something of the page."""
        self.page.get_by_role(role, name=name).last.focus()
        self.page.keyboard.press(key)

    def check(self):
        """Have axe look at the page as it is now."""
        for rule, place in self.flaws(self.page):
            self._note(f"axe: {rule} {place}")

    # -- what the owner sees --

    def table(self, name):
        """A table by its caption."""
        return self.page.get_by_role("table", name=name)

    def tasks(self, name):
        """Task ids in a table, from the top."""
        return [int(row.get_by_role("rowheader").inner_text()) for row in self.table(name).get_by_role("row").all()[1:]]

    def queue(self):
        """Task ids as the queue page lists them."""
        return self.tasks(re.compile("Why each task comes"))

    def in_force(self):
        """Model versions that are said to be in force."""
        rows = self.table("Model versions").get_by_role("row").all()[1:]
        marked = [row for row in rows if row.get_by_text("in force", exact=True).count()]
        return [row.get_by_role("rowheader").inner_text() for row in marked]

    def told(self, words):
        """Wait until the page says that something was done."""
        self.page.get_by_role("status").get_by_text(words).wait_for()
        self.check()


@pytest.fixture
def owner(browser, client, flaws, stack, make_project, lab_of, request, tmp_path):
    """Somebody with a project that nobody has connected; the last picture is kept when the test fails."""
    failed_before = request.session.testsfailed
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    owner = Owner(context.new_page(), lab_of(client, stack, *make_project(client, N_TASKS)), flaws)
    yield owner
    if request.session.testsfailed > failed_before:
        with contextlib.suppress(Exception):
            owner.page.screenshot(path=tmp_path / "failed.png", full_page=True)
            warnings.warn(f"the browser showed {tmp_path / 'failed.png'}", stacklevel=1)
    context.close()


def test_an_owner_connects_tunes_rolls_back_and_mends_a_project(owner, wait_for):
    connects(owner)
    has_it_labelled(owner)
    tunes(owner, wait_for)
    rolls_back(owner, wait_for)
    mends(owner)
    looks_around(owner)
    assert owner.wrong == []


def connects(owner):
    """A project of Label Studio gets its order."""
    lab, page = owner.lab, owner.page
    owner.open()
    page.get_by_label("Its number in Label Studio").fill(str(lab.pid))
    page.keyboard.press("Enter")
    page.get_by_role("link", name=owner.title).click(timeout=PATIENCE_MS)
    owner.tab("Queue")
    owner.table(re.compile("Why each task comes")).wait_for(timeout=PATIENCE_MS)
    lab.order_in_force()
    owner.tab("Overview")
    owner.tab("Queue")
    assert owner.queue() == lab.head() != []


def has_it_labelled(owner):
    """There are models to choose from, and the overview counts the labels."""
    for labels in (10, 4):
        owner.lab.label(labels)
        owner.lab.settled(labels=len(owner.lab.held()))
    owner.tab("Overview")
    assert owner.page.get_by_text(f"14 of {N_TASKS}").is_visible()


def tunes(owner, wait_for):
    """Another strength is tried out, which changes nothing, then saved; Label Studio serves what was promised."""
    lab, page = owner.lab, owner.page
    owner.tab("Queue")
    before, window = owner.queue(), lab.client.project(lab.pid).model_version
    owner.tab("Settings")
    strength = page.get_by_role("group", name="Diversity").get_by_role("textbox", name="Strength")
    usual = float(strength.input_value())
    owner.key("slider", "Diversity: Strength", "Home")
    assert float(strength.input_value()) < usual
    owner.key("button", "Preview", "Enter")
    owner.table("With these settings").wait_for(timeout=PATIENCE_MS)
    owner.check()
    promised = owner.tasks("With these settings")
    assert owner.tasks("Now") == before[:PREVIEWED]
    assert len(promised) == PREVIEWED
    assert promised != before[:PREVIEWED]
    assert lab.client.project(lab.pid).model_version == window

    page.get_by_role("checkbox", name="Manage queue").uncheck()  # what others change in Label Studio stays now
    owner.key("button", "Save", "Enter")
    owner.told("Saved as revision")
    wait_for("another window is in force", lambda: lab.client.project(lab.pid).model_version != window, 60)
    lab.order_in_force()
    assert lab.head(PREVIEWED) == promised
    owner.tab("Queue")
    assert owner.queue() == lab.head()
    assert lab.label(1) == promised[:1]
    lab.settled(labels=15)


def rolls_back(owner, wait_for):
    """An earlier model serves until the newest is let in again; Label Studio shows what each predicts."""
    lab, page = owner.lab, owner.page

    def serves(version):
        wait_for(f"{version} serves", lambda: lab.client.project(lab.pid).model_version.startswith(f"{version}:"), 60)
        lab.order_in_force()

    owner.tab("Models")
    newest, *_, earlier = [row["version_id"] for row in lab.state()["versions"] if row["state"] == "promoted"]
    assert owner.in_force() == [newest]
    page.get_by_role("button", name=f"Put in force: {earlier}").click()
    owner.told(f"{earlier} is in force")
    assert owner.in_force() == [earlier]
    serves(earlier)
    page.get_by_role("button", name="Let the newest serve again").click()
    owner.told(f"{newest} is in force")
    assert owner.in_force() == [newest]
    serves(newest)


def mends(owner):
    """Somebody changes the sampling mode, which is found, told, and put right by a button."""
    lab, page = owner.lab, owner.page
    lab.client.update_project(lab.pid, sampling="Sequential sampling")
    owner.go("Problems")
    page.get_by_role("button", name="Look at everything now").click()
    row = page.get_by_role("row").filter(has_text=owner.title).filter(has_text="sampling-mode")
    row.wait_for(timeout=PATIENCE_MS)
    owner.check()
    assert "'Sequential sampling'" in row.inner_text()
    row.get_by_role("button", name="Fix").click()
    owner.check()
    row.wait_for(state="detached", timeout=PATIENCE_MS)
    assert lab.client.project(lab.pid).sampling == "Uncertainty sampling"
    lab.order_in_force()
    lab.label(1)
    lab.settled(labels=16)


def looks_around(owner):
    """The rest of the pages is there, too."""
    owner.go("Jobs")
    owner.go("Projects")
    owner.page.get_by_role("link", name=owner.title).click()
    tabs = owner.page.get_by_role("navigation", name=f"Project {owner.title}").get_by_role("link")
    for name in tabs.all_inner_texts():
        owner.tab(name)
        assert owner.page.get_by_role("heading", name=owner.title).is_visible()
