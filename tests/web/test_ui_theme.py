"""The choice of a theme, with a real Chromium: what is painted, what is kept, who can use it."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

PAPER = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}


def paper(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


@pytest.mark.parametrize(("system", "chosen"), [("light", "dark"), ("dark", "light")])
def test_a_theme_is_chosen_by_keyboard_kept_and_given_back_to_the_system(server, browser, flaws, system, chosen):
    with browser.new_context(color_scheme=system) as context:
        page = context.new_page()
        said = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"http://127.0.0.1:{server.port}/ui/")
        assert paper(page) == PAPER[system]
        group = page.get_by_role("group", name="Theme")
        assert group.get_by_role("button", name="Auto", pressed=True).is_visible()
        group.get_by_role("button", name=chosen.capitalize()).press("Enter")
        assert paper(page) == PAPER[chosen]
        page.goto(f"http://127.0.0.1:{server.port}/ui/jobs")
        assert paper(page) == PAPER[chosen]
        assert group.get_by_role("button", name=chosen.capitalize(), pressed=True).is_visible()
        assert flaws(page) == []
        group.get_by_role("button", name="Auto").click()
        page.reload()
        assert paper(page) == PAPER[system]
        assert said == []


def test_a_page_is_first_painted_in_the_chosen_theme(server, browser):
    with browser.new_context(color_scheme="light") as context:
        context.route("**/app.js", lambda route: route.abort())  # later than the first paint, so it must not be needed
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/ui/")
        page.evaluate("localStorage.setItem('ls_backend.theme', 'dark')")
        page.reload()
        assert paper(page) == PAPER["dark"]


def test_another_tab_follows(server, browser):
    with browser.new_context(color_scheme="light") as context:
        one, other = context.new_page(), context.new_page()
        for page in (one, other):
            page.goto(f"http://127.0.0.1:{server.port}/ui/")
        one.get_by_role("button", name="Dark").click()
        other.locator("html[data-theme=dark]").wait_for(state="attached")


def test_without_script_there_is_no_choice_that_does_nothing(server, browser):
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/ui/")
        assert not page.get_by_role("group", name="Theme").is_visible()
