"""Real parts for the tests: a Label Studio and a browser. Absent parts skip locally and fail under CI=true."""

from __future__ import annotations

import os
import shutil

import pytest

from ls_backend.demo.label_studio import LabelStudioServer, find_executable
from ls_backend.errors import SettingsError
from ls_backend.settings import Settings, env_names

NOT_TESTED = "NOT TESTED:"


def _need(what: str, remedy: str) -> None:
    """Skip the test loudly, or fail it in CI, where a skipped test would look like a passed one."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} {remedy}", pytrace=False)
    pytest.skip(f"{NOT_TESTED} {what} {remedy}")


def pytest_terminal_summary(terminalreporter):
    reasons = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", ()) if report.longrepr]
    for reason in sorted({reason for reason in reasons if NOT_TESTED in reason}):
        terminalreporter.write_line(reason.removeprefix("Skipped: "), red=True, bold=True)


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory):
    """No test reads or writes the developer's own installation."""
    with pytest.MonkeyPatch.context() as patch:
        for field, names in env_names().items():
            if field != "label_studio_executable":
                for name in names:
                    patch.delenv(name, raising=False)
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("xdg-data")))
        yield


@pytest.fixture(scope="session")
def label_studio_executable(_own_environment):
    """Label Studio's program."""
    try:
        return find_executable(Settings().label_studio_executable)
    except SettingsError as error:
        return _need(str(error), error.hint)


@pytest.fixture(scope="session")
def label_studio(label_studio_executable, tmp_path_factory):
    """One running Label Studio for the whole session: .url .token .email .password .client()."""
    with LabelStudioServer.start(tmp_path_factory.mktemp("label-studio"), executable=label_studio_executable) as server:
        yield server


@pytest.fixture(scope="session")
def client(label_studio):
    """Client of the running Label Studio with the admin's legacy token."""
    return label_studio.client()


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium under Playwright; make a context of your own with `browser.new_context()`."""
    path = shutil.which("chromium")
    if path is None:
        _need("Chromium is not installed.", "Run `make setup-browser`.")
    from playwright.sync_api import sync_playwright

    # No sandbox because containers run as root; no background calls because closed networks answer them with noise.
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def flaws():
    """Answer what axe finds serious on a page: the rule, and the first place that breaks it."""
    from axe_playwright_python.sync_playwright import Axe

    def look(page):
        found = Axe().run(page).response["violations"]
        return [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]

    return look
