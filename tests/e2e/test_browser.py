"""A person in front of the stock Label Studio: a real Chromium, clicks, and editors that stay open while we work."""

from __future__ import annotations

import contextlib
import json
import re
import warnings

import pytest

from ls_backend.demo.digits import LABEL_CONFIG
from ls_backend.engine import publishing
from ls_backend.engine.context import Context
from ls_backend.labelstudio import label_config
from ls_backend.settings import Settings

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

N_TASKS = 40
N_LABELLED = 8
TIMEOUT_MS = 30_000
SUBMIT = '[aria-label="Submit current annotation"]'
SKIP = '[aria-label="skip-task"]'
UPDATE = '[aria-label="submit"]:has-text("Update")'
NOISE = re.compile(r"ResizeObserver loop|state tree|AbortError")
"""What Label Studio's own page throws without our doing."""


class Page:
    """One person's browser tab, and what it said to Label Studio."""

    def __init__(self, page, label_studio, lab):
        self.page = page
        self.url = label_studio.url
        self.lab = lab
        self.errors = []
        page.set_default_timeout(TIMEOUT_MS)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(f"{self.url}/user/login/")
        page.fill("input[name=email]", label_studio.email)
        page.fill("input[name=password]", label_studio.password)
        with page.expect_navigation():
            page.click("button[type=submit]")

    def open_project(self):
        self.page.goto(f"{self.url}/projects/{self.lab.pid}/data")
        self.page.wait_for_selector('button:has-text("Label All Tasks")')

    def _answer_to(self, method, path, act):
        """Do something, and answer the response to the request it leads to."""
        with self.page.expect_response(
            lambda response: response.request.method == method and re.search(path, response.url)
        ) as caught:
            act()
        return caught.value

    def served(self, act):
        """Do something that makes Label Studio serve the next task, and answer the task."""
        answer = self._answer_to("POST", r"dm/actions\?id=next_task", act)
        assert answer.status == 200, answer.text()
        self.page.wait_for_selector(SUBMIT)
        return answer.json()

    def label_all(self):
        return self.served(lambda: self.page.click('button:has-text("Label All Tasks")'))

    def press(self, button, *, then_served=True):
        """Press Submit or Skip; answer (status, body sent, the task served next)."""
        task = None
        with self.page.expect_response(
            lambda response: response.request.method == "POST" and "/annotations?" in response.url
        ) as caught:
            if then_served:
                with self.page.expect_response(re.compile(r"dm/actions\?id=next_task")) as following:
                    self.page.click(button)
                task = following.value.json()
                self.page.wait_for_selector(SUBMIT)
            else:
                self.page.click(button)
        return caught.value.status, caught.value.request.post_data_json, task

    def choose(self, label):
        """Tick a choice in the editor; behind its name stands its key."""
        choices = self.page.locator(".lsf-choice__item, label")
        choices.filter(has_text=re.compile(rf"^\s*{label}")).first.click()

    def update(self):
        with self.page.expect_response(re.compile(r"/api/tasks/\d+\?interaction=labelstream")):  # it is read again
            answer = self._answer_to("PATCH", r"/api/annotations/", lambda: self.page.click(UPDATE))
        return answer.status, answer.request.post_data_json

    def step(self, name):
        """Walk with the arrows of the label stream; answer the id of the task shown."""
        act = lambda: self.page.click(f'[aria-label="{name} task"]')  # noqa: E731 - clicked once the ear is open
        answer = self._answer_to("GET", r"/api/tasks/\d+\?interaction=labelstream", act)
        return answer.json()["id"]

    def open_row(self, task_id):
        """Open a task by a click on its row in the Data Manager, where the rows are in the order of the ids."""
        row = self.page.locator(".lsf-table__row-wrapper").nth(sorted(self.lab.truth).index(task_id))
        self._answer_to("GET", rf"/api/tasks/{task_id}\?", row.click)
        self.page.wait_for_selector(SUBMIT)


@pytest.fixture
def lab(client, stack, make_lab):
    """A project with a first model, so that tasks come with answers."""
    lab = make_lab(client, stack, N_TASKS)
    for task_id in sorted(lab.truth)[:N_LABELLED]:
        client.submit(task_id, lab.result_of(task_id))
    lab.settled(labels=N_LABELLED)
    lab.nothing_lost(60)
    return lab


@pytest.fixture
def page(browser, label_studio, lab, request, tmp_path):
    """A tab that is logged in; its last picture is kept when the test fails."""
    failed_before = request.session.testsfailed
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = Page(context.new_page(), label_studio, lab)
    yield page
    if request.session.testsfailed > failed_before:
        with contextlib.suppress(Exception):
            page.page.screenshot(path=tmp_path / "failed.png")
            warnings.warn(f"the browser showed {tmp_path / 'failed.png'}", stacklevel=1)
    context.close()
    assert [error for error in page.errors if not NOISE.search(error)] == []


@pytest.fixture
def shuffle(stack, lab, label_studio):
    """Flip to an order of our own choice, as an update does, and force a collection; ours alone decide meanwhile."""
    settings = Settings(
        data_dir=stack.data_dir, label_studio_url=label_studio.url, label_studio_api_key=label_studio.token
    )
    context = Context(settings)
    schema = label_config.parse(LABEL_CONFIG)

    class Shuffle:
        def flip(self, task_ids):
            probabilities = tuple(1.0 if name == "3" else 0.0 for name in schema.classes)
            rows = [
                publishing.WindowRow(task_id, rank, None, {}, {}, "chosen", probabilities)
                for rank, task_id in enumerate(task_ids)
            ]
            while True:
                generation = context.store.projects.bump(lab.pid)
                given = {"generation": generation, "model_version_id": None, "n_labels": 0}
                with contextlib.suppress(publishing.Fenced):  # an update of the workers was quicker
                    return publishing.publish_window(context, context.project(lab.pid), schema, rows, **given)

        def away(self, task_id):
            """Flip to an order in which a task stands in the middle."""
            done = set(lab.held())
            left = [one for one in sorted(lab.truth) if one not in done and one != task_id]
            middle = len(left) // 2
            self.flip([*left[:middle], task_id, *left[middle:]] if task_id not in done else left)

        def flip_often(self):
            """Three flips to other orders, then everything old goes."""
            done = set(lab.held())
            left = [task_id for task_id in sorted(lab.truth) if task_id not in done]
            for turn in (7, 13, 19):
                self.flip(left[turn:] + left[:turn])
            self.collect()

        def collect(self):
            old = context.store.windows.old(lab.pid)
            publishing.collect(context, context.project(lab.pid), budget_s=60, force=True)
            left = set(lab.client.version_counts(lab.pid))
            assert not left & {window.version for window in old}, "old windows were left behind"

    yield Shuffle()
    context.close()


def test_tasks_are_served_in_our_order_with_their_answers(page, lab):
    page.open_project()
    expected = lab.head(1)[0]
    task = page.label_all()
    assert task["id"] == expected
    assert task["predictions"][0]["result"], "no answer is shown before the annotator's own"
    for turn in range(4):
        lab.settled(labels=N_LABELLED + turn - (turn > 2))
        before, version = lab.head(3), lab.client.project(lab.pid).model_version
        held = task["id"]
        status, sent, task = page.press(SKIP if turn == 2 else SUBMIT)
        assert status == 201
        assert sent["result"], "the answer shown was not sent"
        after = before if lab.client.project(lab.pid).model_version == version else lab.head(3)
        possible = [next(one for one in head if one != held) for head in (before, after)]
        assert task["id"] in possible
    assert len(lab.held()) == N_LABELLED + 3


@pytest.mark.parametrize("button", [SUBMIT, SKIP], ids=["submit", "skip"])
def test_an_editor_kept_open_across_flips_and_a_collection_is_still_accepted(page, lab, shuffle, button):
    page.open_project()
    task = page.label_all()
    shown = task["predictions"][0]["id"]
    shuffle.flip_often()
    status, sent, following = page.press(button)
    assert status == 201
    assert sent["parent_prediction"] == shown
    assert following["id"] != task["id"]


def test_an_editor_that_was_reloaded_shows_a_task_from_the_middle_and_is_still_accepted(page, lab, shuffle):
    page.open_project()
    page.label_all()
    _, _, task = page.press(SUBMIT)
    lab.settled(labels=N_LABELLED + 1)
    shuffle.away(task["id"])
    again = page.served(page.page.reload)
    assert again["id"] == task["id"], "a reload gave another task"
    shuffle.flip_often()
    status, sent, _ = page.press(SUBMIT)
    assert status == 201
    assert sent["parent_prediction"] == again["predictions"][0]["id"] != task["predictions"][0]["id"]


def test_an_answer_reached_by_the_previous_arrow_can_be_changed_after_flips_and_a_collection(page, lab, shuffle):
    page.open_project()
    first = page.label_all()
    _, sent, held = page.press(SUBMIT)
    lab.settled(labels=N_LABELLED + 1)
    assert page.step("Previous") == first["id"]
    shuffle.flip_often()
    correction = "7" if sent["result"][0]["value"]["choices"] != ["7"] else "1"
    page.choose(correction)
    status, changed = page.update()
    assert status == 200
    assert changed["parent_prediction"] == sent["parent_prediction"]
    assert lab.held()[first["id"]] == correction
    assert page.step("Next") == held["id"]
    shuffle.flip_often()
    assert page.press(SUBMIT)[0] == 201


def test_a_task_opened_from_its_row_can_be_submitted_after_flips_and_a_collection(page, lab, shuffle):
    second = lab.head(2)[1]
    page.page.set_viewport_size({"width": 1400, "height": 200 * N_TASKS})  # rows out of sight do not exist
    page.open_project()
    page.open_row(second)
    shuffle.flip_often()
    status, sent, _ = page.press(SUBMIT, then_served=False)
    assert status == 201
    kept = {row.prediction_id for row in lab.client.predictions(lab.pid, "al-kept")}
    assert sent["parent_prediction"] in kept, "the collection was not put to the test"


def test_the_annotator_reads_above_the_image_why_a_task_is_next(page, lab, stack, label_studio, wait_for):
    settings = {"min_labels": 4, "reasons": True}
    stack.command("connect", "--project", str(lab.pid), "--settings", json.dumps(settings))
    stack.command("reasons", "--project", str(lab.pid), "--add-header")

    def told():
        ahead = lab.head(4)[1:]  # the first one counts as open: it was served after the latest label
        return all("al_reason" in task.data for task in lab.client.some_tasks(lab.pid, ahead).values())

    wait_for("the next tasks have reasons", told, 60)
    page.open_project()
    page.page.get_by_text("Labelling order", exact=True).first.wait_for()
    page.label_all()
    status, _, task = page.press(SUBMIT)
    assert status == 201
    expected = task["data"]["al_reason"]
    line = page.page.get_by_text(expected, exact=True).first
    line.wait_for()
    boxes = [image.bounding_box() for image in page.page.locator("img").filter(visible=True).all()]
    largest = max(boxes, key=lambda box: box["width"] * box["height"])
    assert line.bounding_box()["y"] < largest["y"]
    assert page.press(SUBMIT)[0] == 201
