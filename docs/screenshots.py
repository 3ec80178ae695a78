"""Photograph every page of the dashboard, light and dark, for docs/images: `make screenshots`.

The pages come from the running product: a real Label Studio, handwritten digits, two people who label some of them and
make mistakes now and then. It takes a few minutes.
"""  # noqa: INP001 - a script beside its output, not a package

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from flask import Flask
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from ls_backend.demo.digits import CLASSES, LABEL_CONFIG, digits
from ls_backend.demo.label_studio import LabelStudioServer
from ls_backend.demo.stack import Stack
from ls_backend.labelstudio.client import Client
from ls_backend.settings import Settings
from ls_backend.web.app import create_app

IMAGES = Path(__file__).resolve().parent / "images"
Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
LABEL_STUDIO = "label-studio"
"""Name of the picture of Label Studio itself, which is in one scheme only."""

TITLE = "Handwritten digits"
SETTINGS = {"test_set": 40, "reasons": True}
N_TASKS = 300
N_COPIES = 4
N_LABELS = 120
MISTAKE_EVERY = 15
DISPUTED = 3
SEED = 0

WIDTH_PX, HEIGHT_PX, LONGEST_PX = 1280, 900, 1600
COLOURS = 128
BROWSER = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
PATIENCE_S = 600.0


PREVIEW = "settings_preview"
"""Name of the picture of the settings with a preview of what they would change."""


def pages(app: Flask, project_id: int) -> dict[str, str]:
    """Return the address of every page for people by the name of its picture.

    A page is what can be had under /ui with at most the number of a project; what needs more is a part of a page, such
    as a thumbnail, or the preview that the settings show.
    """
    found = {}
    with app.test_request_context():
        for rule in app.url_map.iter_rules():
            name = rule.endpoint.removeprefix("ui.")
            is_page = rule.endpoint != name and "GET" in (rule.methods or ()) and rule.arguments <= {"project_id"}
            if is_page:
                found[name] = app.url_for(rule.endpoint, **dict.fromkeys(rule.arguments, project_id))
    return {**found, PREVIEW: found["settings"]}


def files(app: Flask) -> set[str]:
    """Return the names of all pictures."""
    return {f"{name}-{scheme}.png" for name in pages(app, 1) for scheme in SCHEMES} | {f"{LABEL_STUDIO}.png"}


def main() -> None:
    """Make the pictures anew."""
    with tempfile.TemporaryDirectory(prefix="ls-backend-screenshots-", ignore_cleanup_errors=True) as folder:
        there = Path(folder)
        app = create_app(Settings.model_validate({"DATA_DIR": there / "no-data", "REDIS_URL": "redis://127.0.0.1:1"}))
        with (
            LabelStudioServer.start(there / "label-studio") as studio,
            Stack(there / "ls-backend", studio.url, studio.token, {"LOGNAME": "ann"}) as stack,
        ):
            client = studio.client()
            project_id = _work(client, stack)
            pictures = _photograph(pages(app, project_id), studio, client, stack, project_id)
    IMAGES.mkdir(exist_ok=True)
    for path in IMAGES.glob("*.png"):
        path.unlink()
    for name, picture in pictures.items():
        (IMAGES / name).write_bytes(picture)


def _work(client: Client, stack: Stack) -> int:
    """Have a project labelled until every page has something to show; return its number."""
    items = digits(N_TASKS, SEED)
    project_id = client.create_project(TITLE, LABEL_CONFIG)
    references = client.upload_files(project_id, {item.name: item.png for item in items})
    rows = [*items, *items[:N_COPIES]]
    task_ids = client.import_tasks(project_id, [{"data": {"image": references[item.name]}} for item in rows])
    truth = {task_id: item.label for task_id, item in zip(task_ids, rows, strict=True)}
    said = {
        task_id: _other(label) if place % MISTAKE_EVERY == 0 else label
        for place, (task_id, label) in enumerate(truth.items())
    }
    project = str(project_id)
    stack.command("connect", "--project", project, "--settings", json.dumps(SETTINGS))
    stack.command("reasons", "--project", project, "--add-header")
    stack.settled(project_id)
    second = Client(client.url, client.create_user("ann@example.com", "annotator-password-1"))
    served = []
    for number in range(1, N_LABELS + 1):
        annotator = second if number % 3 == 0 else client
        task = annotator.next_task(project_id)
        if task is None:
            sys.exit("Label Studio has no task left.")
        annotator.submit(task["id"], _answer(said[task["id"]]))
        served.append(task["id"])
        _say(f"{number} labels")
        if number % 4 == 0:
            stack.settled(project_id)  # so that the learning curve has many points
    for task_id in served[-DISPUTED:]:
        second.submit(task_id, _answer(_other(said[task_id])))
    stack.command("settings", "set", "--project", project, "explore=0.1")
    client.update_project(project_id, start_training_on_annotation_update=True)  # a problem to show
    for what in ("insights", "advice", "savings"):
        _post(f"{stack.url}/api/projects/{project_id}/{what}")
    _post(f"{stack.url}/api/doctor")
    _until("everything is found out", lambda: _found_out(stack, project_id))
    stack.settled(project_id)
    return project_id


def _answer(label: str) -> list[dict[str, object]]:
    return [{"from_name": "digit", "to_name": "image", "type": "choices", "value": {"choices": [label]}}]


def _other(label: str) -> str:
    """Return a wrong answer that somebody in a hurry may give."""
    return CLASSES[(CLASSES.index(label) + 1) % len(CLASSES)]


def _found_out(stack: Stack, project_id: int) -> bool:
    base = f"/api/projects/{project_id}"
    advice = stack.get(f"{base}/advice")
    insights = stack.get(f"{base}/insights")["insights"]
    problems = stack.get(f"{base}/problems")["problems"]
    return bool(advice["advice"] and advice["savings"] and "map" in insights and problems)


def _photograph(
    addresses: dict[str, str], studio: LabelStudioServer, client: Client, stack: Stack, project_id: int
) -> dict[str, bytes]:
    """Return every picture by its file name."""
    acts = {PREVIEW: _try_settings, "project_map": _go_to_a_task}
    pictures = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=BROWSER)
        _post(f"{stack.url}/api/projects/{project_id}/savings")  # something for the page of jobs to show
        for name, address in sorted(addresses.items(), key=lambda item: item[0] != "jobs"):
            for scheme in SCHEMES:
                pictures[f"{name}-{scheme}.png"] = _page(browser, f"{stack.url}{address}", scheme, acts.get(name))
                _say(f"{name}, {scheme}")
        pictures[f"{LABEL_STUDIO}.png"] = _label_studio(browser, studio, client, project_id)
        browser.close()
    return pictures


def _try_settings(page: Page) -> None:
    """Change a strength, and have the preview show what would change by it."""
    page.get_by_role("group", name="Diversity").get_by_role("textbox", name="Strength").fill("0")
    page.get_by_role("button", name="Preview").click()
    page.get_by_role("table", name="With these settings").wait_for()


def _go_to_a_task(page: Page) -> None:
    """Go to a task of the map with the keyboard, which shows its image."""
    page.get_by_role("link", name="Task ").first.focus()
    page.wait_for_load_state("networkidle")


def _page(browser: Browser, url: str, scheme: Scheme, act: Callable[[Page], None] | None) -> bytes:
    with browser.new_context(color_scheme=scheme, viewport={"width": WIDTH_PX, "height": HEIGHT_PX}) as context:
        page = context.new_page()
        page.goto(url, wait_until="networkidle")
        if act is not None:
            act(page)
        height = min(page.evaluate("document.documentElement.scrollHeight"), LONGEST_PX)
        return _small(page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": WIDTH_PX, "height": height}))


def _label_studio(browser: Browser, studio: LabelStudioServer, client: Client, project_id: int) -> bytes:
    """Photograph what annotators see: the next task, with its reason above the image."""

    def told() -> bool:
        ahead = [task_id for task_id, _ in client.queue_head(project_id, 3)]
        return all("al_reason" in task.data for task in client.some_tasks(project_id, ahead).values())

    _until("the next tasks have reasons", told)
    with browser.new_context(viewport={"width": WIDTH_PX, "height": HEIGHT_PX}) as context:
        page = context.new_page()
        page.goto(f"{studio.url}/user/login/")
        page.fill("input[name=email]", studio.email)
        page.fill("input[name=password]", studio.password)
        with page.expect_navigation():
            page.click("button[type=submit]")
        page.goto(f"{studio.url}/projects/{project_id}/data")
        page.click('button:has-text("Label All Tasks")')
        page.wait_for_selector('[aria-label="Submit current annotation"]')
        page.wait_for_load_state("networkidle")
        return _small(page.screenshot())


def _small(png: bytes) -> bytes:
    """Return a picture with fewer colours, which takes a fraction of the room."""
    file = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


def _post(url: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=30):  # noqa: S310 - our own server
        pass


def _until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            sys.exit(f"Not within {PATIENCE_S:.0f} s: {what}.")
        time.sleep(0.5)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a script


if __name__ == "__main__":
    main()
