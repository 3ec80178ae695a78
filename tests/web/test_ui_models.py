"""The models page: which versions there are, two side by side, one put in force by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ls_backend.store import DeepVersion, Store

EVIL = "<script>alert(1)</script>"
PAGE = "/ui/projects/7/models"
FIRST, SECOND, REFUSED = "al-1-0123abcd", "al-2-0123abcd", "al-3-0123abcd"
WHY = "log loss on 20 labels of the hold-out is 0.210 above al-2-0123abcd"
OURS = {"Sec-Fetch-Site": "same-origin"}


def refuse(store, **changes):
    """Record a version that the gate has refused."""
    model = store.versions.get(7, SECOND)
    store.versions.add(
        replace(model, **{"version_id": REFUSED, "round": 3, "state": "rejected", "reason": WHY, **changes})
    )


@pytest.fixture
def trained(connected, fill):
    """A backend whose project has two promoted versions and one that the gate has refused."""
    connected.store.projects.set(7, label_config=connected.config)
    fill(connected.store)
    refuse(connected.store)
    return connected


def press(backend, name, headers=OURS, **sent):
    return backend.http.post(f"{PAGE}/{name}", data=sent, headers=headers)


def serving(backend):
    return backend.store.versions.in_force(7).version_id


def test_an_earlier_version_is_put_in_force_and_released_by_buttons(trained):
    before = trained.store.projects.get(7).wanted_generation
    answer = press(trained, "force", version=FIRST)
    assert answer.status_code == 303
    assert serving(trained) == FIRST
    assert trained.store.projects.get(7).wanted_generation > before
    assert trained.waiting() == ["update-7-a"]
    text = trained.http.get(answer.headers["Location"]).text
    assert f"{FIRST} is in force from now on. A worker ranks the tasks with it" in text
    assert "Let the newest serve again" in text
    answer = press(trained, "release")
    assert serving(trained) == SECOND
    assert f"{SECOND} is in force from now on." in trained.http.get(answer.headers["Location"]).text


def test_what_the_gate_has_refused_is_said_to_be_so_and_serves_only_by_this_act(trained):
    text = trained.http.get(PAGE).text
    assert f"refused by the gate: {WHY}" in text
    assert f'aria-label="Put in force anyway: {REFUSED}"' in text
    assert serving(trained) == SECOND
    press(trained, "force", version=REFUSED)
    assert serving(trained) == REFUSED


def test_a_version_that_cannot_serve_has_no_button_and_is_refused_in_words(trained):
    refuse(trained.store, version_id="al-4-0123abcd", round=4, classes=("cat", "mouse"))
    trained.store.versions.set_state(7, FIRST, "retired")
    text = trained.http.get(PAGE).text
    assert "It cannot serve: it was trained for other labels than the labelling interface has now." in text
    assert "It cannot serve: its files are lost." in text
    for version in (FIRST, "al-4-0123abcd"):
        answer = press(trained, "force", version=version)
        assert answer.status_code == 400
        assert f"{version} cannot be put in force" in answer.text
    assert serving(trained) == SECOND
    assert trained.waiting() == []


@pytest.mark.parametrize("version", ["al-9-0123abcd", "", EVIL])
def test_an_unknown_version_is_said_to_be_unknown_and_changes_nothing(trained, version):
    answer = press(trained, "force", version=version)
    assert answer.status_code == 400
    assert "is no model version of project 7; the newest are al-3-0123abcd, al-2-0123abcd" in answer.text
    assert EVIL not in answer.text
    assert serving(trained) == SECOND


@pytest.mark.parametrize("name", ["force", "release"])
@pytest.mark.parametrize("origin", ["cross-site", "same-site"])
def test_another_site_puts_nothing_in_force(trained, name, origin):
    answer = press(trained, name, headers={"Sec-Fetch-Site": origin}, version=FIRST)
    assert answer.status_code == 403
    assert trained.store.projects.get(7).pinned_version is None


@pytest.mark.parametrize("name", ["force", "release"])
def test_a_project_nobody_knows_has_no_versions(trained, name):
    assert trained.http.post(f"/ui/projects/8/models/{name}", headers=OURS).status_code == 404


def test_without_redis_a_version_is_put_in_force_all_the_same(deploy, fill):
    alone = deploy(redis_url="redis://127.0.0.1:1/0")
    alone.set_up()
    fill(alone.store)
    assert press(alone, "force", version=FIRST).status_code == 303
    assert serving(alone) == FIRST


def test_two_versions_stand_side_by_side_with_differences_and_intervals(trained):
    text = trained.http.get(f"{PAGE}?a={FIRST}&b={SECOND}").text
    assert f"{FIRST} and {SECOND} side by side" in text
    for told in ("+40.0 points", "29.9 % to 70.1 %", "69.9 % to 97.2 %", "+0.000", "+10"):
        assert told in text, told


def test_figures_of_different_holdouts_are_said_not_to_be_comparable(trained):
    refuse(trained.store, version_id="al-4-0123abcd", round=4, labels_digest="1" * 64)
    text = trained.http.get(f"{PAGE}?a={SECOND}&b=al-4-0123abcd").text
    assert "not directly comparable (al-2-0123abcd on 20 tasks of the hold-out, al-4-0123abcd on 20 tasks" in text
    assert "not directly comparable" not in trained.http.get(f"{PAGE}?a={FIRST}&b={SECOND}").text


@pytest.mark.parametrize("query", [f"a={FIRST}", f"a={FIRST}&b=al-9", f"b={EVIL}"])
def test_a_comparison_with_nothing_is_refused_in_words(trained, query):
    answer = trained.http.get(f"{PAGE}?{query}")
    assert answer.status_code == 400
    assert "is no model version of project 7" in answer.text
    assert EVIL not in answer.text


def test_what_stands_in_a_version_is_escaped(trained):
    refuse(trained.store, version_id="al-4-0123abcd", round=4, reason=EVIL, backbone=EVIL)
    for query in ("", f"?a={SECOND}&b=al-4-0123abcd"):
        assert EVIL not in trained.http.get(f"{PAGE}{query}").text


def test_the_same_over_http(trained):
    listed = trained.http.get("/api/projects/7/models").get_json()
    assert (listed["in_force"], listed["pinned"]) == (SECOND, None)
    assert [item["version_id"] for item in listed["versions"]] == [REFUSED, SECOND, FIRST]
    assert listed["versions"][0]["reason"] == WHY
    made = trained.http.get(f"/api/projects/7/models/compare?a={FIRST}&b={SECOND}").get_json()
    (accuracy,) = [figure for figure in made["figures"] if figure["name"] == "accuracy"]
    assert accuracy["difference"] == pytest.approx(0.4)
    assert made["same_tasks"] is True
    answer = trained.http.put("/api/projects/7/models/in-force", json={"version": FIRST})
    assert answer.get_json()["pinned"] == FIRST
    assert trained.waiting() == ["update-7-a"]
    assert trained.http.put("/api/projects/7/models/in-force", json={"version": None}).get_json()["in_force"] == SECOND
    refused = trained.http.put("/api/projects/7/models/in-force", json={"version": "al-9"})
    assert (refused.status_code, refused.get_json()["error"]) == (400, "settings-invalid")


@pytest.fixture(scope="module")
def shown(serve, fill):
    """A server process of its own with versions of every state."""
    running = serve()
    store = Store(running.settings.sql_url)
    store.projects.ensure(7)
    config = (
        '<View><Image name="image" value="$image"/><Choices name="label" toName="image" choice="single">'
        '<Choice value="cat"/><Choice value="dog"/></Choices></View>'
    )
    store.projects.set(7, title="Cracks", label_config=config, hostname="http://localhost:8080")
    fill(store)
    refuse(store)
    model = store.versions.get(7, SECOND)
    for number in (1, 2):
        store.deep_versions.add(
            DeepVersion(
                version_id=f"deep-{number}-0badcafe",
                project_id=7,
                control="box",
                kind="rectanglelabels",
                number=number,
                backbone="efficientnet_lite0",
                classes=("car", "bus"),
                n_labels=20 * number,
                labels_digest=str(number) * 64,
                metrics={"map50": 0.3 * number, "ap50_0": 0.5, "ap50_1": 0.1 * number},
                state="promoted",
                created_at=model.created_at,
            )
        )
    yield running, store
    store.dispose()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_the_page_and_in_a_comparison(shown, browser, flaws, scheme):
    server, _ = shown
    with browser.new_context(color_scheme=scheme) as context:
        page = context.new_page()
        said = []
        page.on("console", lambda message: said.append(message.text))
        for query in ("", f"?a={FIRST}&b={REFUSED}", "?a=deep-1-0badcafe&b=deep-2-0badcafe", "?done=forced"):
            page.goto(f"http://127.0.0.1:{server.port}{PAGE}{query}")
            assert (query, flaws(page)) == (query, [])
        assert said == []


@pytest.mark.browser
def test_a_person_compares_puts_in_force_and_releases(shown, browser):
    server, store = shown
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.port}{PAGE}")
        page.get_by_label(f"A: {FIRST}").check()
        page.get_by_label(f"B: {SECOND}").check()
        page.get_by_role("button", name="Compare A and B").press("Enter")
        page.get_by_role("row", name="Balanced accuracy").get_by_text("+40.0 points").wait_for()
        assert page.get_by_label(f"A: {FIRST}").is_checked()
        page.get_by_role("button", name=f"Put in force: {FIRST}").click()
        page.get_by_text("is in force from now on").wait_for()
        assert store.projects.get(7).pinned_version == FIRST
        page.get_by_role("button", name="Let the newest serve again").click()
        page.get_by_text("The gate decides again").wait_for()
        assert store.projects.get(7).pinned_version is None
