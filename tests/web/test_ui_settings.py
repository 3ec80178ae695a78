"""The settings page: what an admin reads, fills in, previews, saves and takes back, with a real Chromium."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from ls_backend.engine import configure
from ls_backend.settings import ProjectSettings

PATH = "/ui/projects/7/settings"
CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image" choice="single">'
    '<Choice value="cat"/><Choice value="dog"/></Choices></View>'
)
EVIL = '"><script>alert(1)</script>'
STRENGTH = "objectives.uncertainty.strength"


class Page(HTMLParser):
    """A page as a browser sees it: what its large form would send, and what describes each input."""

    def __init__(self, text):
        super().__init__()
        self.text, self.sent, self.inputs, self.ids, self.labelled = text, {}, [], set(), set()
        self._select = self._area = None
        self._in_form = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert attrs.get("id") not in self.ids, attrs
        self.ids |= {attrs["id"]} if "id" in attrs else set()
        if tag == "form":
            self._in_form = attrs.get("id") == "settings"
        if tag == "label" and "for" in attrs:
            self.labelled.add(attrs["for"])
        if not self._in_form:
            return
        name = attrs.get("name")
        if tag in ("input", "select", "textarea") and name and attrs.get("type") != "hidden":
            self.inputs.append(attrs)
        if tag == "input" and name and (attrs.get("type") != "checkbox" or "checked" in attrs):
            self.sent[name] = attrs.get("value", "")
        elif tag == "select":
            self._select = name
        elif tag == "option" and self._select and (self._select not in self.sent or "selected" in attrs):
            self.sent[self._select] = attrs["value"]
        elif tag == "textarea":
            self._area, self.sent[name] = name, ""

    def handle_data(self, data):
        if self._area:
            self.sent[self._area] += data

    def handle_endtag(self, tag):
        if tag == "textarea" and self._area:
            self.sent[self._area] = self.sent[self._area].removeprefix("\n").replace("\n", "\r\n")
            self._area = None
        elif tag == "select":
            self._select = None
        elif tag == "form":
            self._in_form = False

    def described(self, name):
        (attrs,) = (item for item in self.inputs if item["name"] == name)
        return attrs


@pytest.fixture
def desk(connected, fill):
    """A project with labels, a window and the settings of its set-up."""
    connected.store.projects.set(7, label_config=CONFIG, title="Cracks", hostname="http://localhost:8080")
    fill(connected.store)
    return connected


def look(desk, path=PATH, status=200):
    answer = desk.http.get(path)
    assert answer.status_code == status
    return Page(answer.text)


def save(desk, page=None, path=PATH, headers=None, **typed):
    """Fill in the form and send it; a value None is a box that is cleared."""
    values = (page or look(desk)).sent | typed
    kept = {name: value for name, value in values.items() if value is not None}
    return desk.http.post(path, data=kept, headers=headers)


def put(desk, **words):
    """Save as somebody else does, elsewhere."""
    return configure.save(desk.store, desk.settings, 7, ProjectSettings(**words), source="command line", who="ben")


def in_force(desk):
    revision, wanted = configure.in_force(desk.store, 7)
    return revision.revision, wanted


def test_every_input_has_a_name_for_people_and_its_help(desk):
    put(desk, objectives={"metadata": [{"field": "lux"}]})
    page = look(desk)
    for attrs in page.inputs:
        described = attrs["aria-describedby"].split()
        assert described, attrs
        assert set(described) <= page.ids, attrs
        labelled = attrs["id"] in page.labelled or attrs.get("type") == "checkbox" or "aria-label" in attrs
        assert labelled, attrs
    assert "Share of the queue picked at random." in page.text
    assert "Coverage of doubtful tasks, rare classes first if there are any" in page.text


def test_saving_what_is_there_changes_nothing(desk):
    answer = save(desk)
    assert answer.status_code == 303
    assert "Nothing was changed; revision 1 stays in force." in look(desk, answer.location).text
    assert in_force(desk)[0] == 1
    assert desk.waiting() == []


@pytest.mark.parametrize(
    "words",
    [
        {"objectives": {"uncertainty": {"strength": 2}, "diversity": {}}},
        {"objectives": {"metadata": [{"field": EVIL, "weights": {EVIL: 1}}, {"field": 'a\n"b"', "max": 1e-7}]}},
        {"objectives": {"value": {"classes": {"cat": 2}, "costs": {"cat": {}}}, "balance": {"target": {"dog": 1}}}},
        {"objectives": {"value": {"costs": {"cat": {"dog": 20, "cat": 0}}}}},
        {"test_set_by": " \n</textarea>", "test_set_target": {"\r\n</textarea>": 0.1}, "prelabel": False, "window": 9},
        {"preset": "random", "explore": 0.123456789, "training": {"depth": "finetune", "minutes": 1 / 3}},
    ],
)
def test_a_page_gives_back_to_the_letter_what_it_was_given(desk, words):
    made = put(desk, **words)
    assert "Nothing was changed" in look(desk, save(desk).location).text
    assert in_force(desk) == (made.revision, ProjectSettings(**words))


def test_a_changed_strength_is_saved_as_a_revision_and_wakes_the_worker(desk):
    answer = save(desk, **{STRENGTH: "2.5"})
    assert answer.status_code == 303
    page = look(desk, answer.location)
    assert "Saved as revision 2; the queue follows." in page.text
    revision, wanted = in_force(desk)
    assert (revision, wanted.objectives) == (2, {"uncertainty": {"method": "margin", "strength": 2.5}})
    assert desk.waiting() == ["update-7-a"]
    assert "In force: revision 2, said by anonymous (dashboard)" in page.text
    assert "objectives.uncertainty.strength from unset to 2.5" in page.text
    assert page.sent["objectives.uncertainty"] == "on"
    assert "instead of preset auto: method margin, strength 1" in page.text
    save(desk, **{"objectives.uncertainty": None})
    assert in_force(desk)[1].objectives == {}


def test_who_saves_is_the_name_of_basic_authentication(deploy):
    guarded = deploy(basic_auth_user="ana", basic_auth_pass="secret")
    guarded.store.projects.ensure(7)
    auth = ("ana", "secret")
    page = Page(guarded.http.get(PATH, auth=auth).text)
    assert guarded.http.post(PATH, data=page.sent | {"seed": "3"}, auth=auth).status_code == 303
    assert guarded.store.revisions.newest(7).who == "ana"
    assert guarded.store.revisions.newest(7).source == "dashboard"


def test_without_redis_a_change_is_saved_and_its_page_says_that_the_queue_follows_later(deploy):
    alone = deploy(redis_url="redis://127.0.0.1:1/0")
    alone.store.projects.ensure(7)
    page = Page(alone.http.get(PATH).text)
    answer = alone.http.post(PATH, data=page.sent | {"seed": "3"})
    assert "The job queue gives no answer" in alone.http.get(answer.location).text
    assert in_force(alone)[1].seed == 3
    for headers in ({}, {"HX-Request": "true"}):
        tried = alone.http.post(f"{PATH}/preview", data=page.sent, headers=headers)
        assert tried.status_code == 503
        assert "There is no preview" in tried.text


@pytest.mark.parametrize("path", [PATH, f"{PATH}/preview"])
@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ({"explore": "7"}, "explore is 7"),
        ({"window": "many"}, "window is many"),
        ({"preset": "margn"}, "did you mean"),
        ({'objectives.value.classes/["cat"]': "-1"}, "objectives.value.classes.cat is -1"),
        ({"objectives.metadata.0.field": EVIL, "objectives.metadata.0.weights": EVIL}, "is not JSON"),
        ({"backbone": EVIL}, "is unknown"),
    ],
)
def test_what_is_wrong_comes_back_as_it_was_typed_with_words_beside_it(desk, path, typed, words):
    rule = {"objectives.metadata.0.field": "lux", "objectives.metadata.0.max": "3"}
    others = {"seed": "11", "reasons": "on", "prelabel": None, **rule}
    answer = save(desk, path=path, **(others | typed))
    assert answer.status_code == 400
    page = Page(answer.text)
    expected = {name: value for name, value in (others | typed).items() if value is not None}
    assert {name: page.sent[name] for name in expected} == expected
    assert "prelabel" not in page.sent
    name = list(typed)[-1]
    wrong = page.described(name)
    assert wrong["aria-invalid"] == "true"
    assert f"{name}.error" in wrong["aria-describedby"]
    assert f"{name}.error" in page.ids
    assert "Nothing was saved: 1 thing is wrong" in page.text
    assert words in page.text
    assert EVIL not in page.text
    assert in_force(desk)[0] == 1


def test_a_field_that_does_not_exist_is_refused_by_name(desk):
    answer = save(desk, **{EVIL: "1"})
    assert answer.status_code == 400
    assert "is not a field of this form" in answer.text
    assert EVIL not in answer.text


def test_the_second_of_two_is_told_who_changed_what_and_may_save_over_it(desk):
    opened = look(desk)
    put(desk, explore=0.3)
    answer = save(desk, opened, **{STRENGTH: "3"})
    assert answer.status_code == 409
    assert "ben (command line) has saved revision 2" in answer.text
    assert "explore from 0.05 to 0.3" in answer.text
    assert in_force(desk)[1].explore == 0.3
    kept = Page(answer.text)
    assert (kept.sent[STRENGTH], kept.sent["explore"]) == ("3", "0.05")
    assert save(desk, kept).status_code == 303
    revision, wanted = in_force(desk)
    assert (revision, wanted.explore) == (3, 0.05)
    assert wanted.objectives == {"uncertainty": {"method": "margin", "strength": 3.0}}


def test_mine_over_another_preset_is_all_mine(desk):
    opened = look(desk)
    put(desk, preset="random", objectives={"diversity": {"strength": 2}})
    kept = Page(save(desk, opened, seed="4").text)
    save(desk, kept)
    assert in_force(desk)[1] == ProjectSettings(seed=4)


def test_what_another_preset_says_is_shown_before_it_is_saved(desk):
    page = Page(save(desk, path=f"{PATH}/preset", preset="margin", seed="5").text)
    assert (page.sent["objectives.diversity.strength"], page.sent["seed"]) == ("0", "5")
    assert in_force(desk)[0] == 1
    save(desk, page)
    assert in_force(desk)[1] == ProjectSettings(preset="margin", seed=5)
    assert save(desk, path=f"{PATH}/preset", preset="margn").status_code == 400


def row(task_id, rank, was):
    return {"task_id": task_id, "rank": rank, "reason": f"{EVIL} {task_id}", "factors": {}, "was": was}


def answer_preview(store, token, **more):
    """Answer a preview as a worker would."""
    found = configure.previewed(store, 7, token)
    told = {
        "state": "done",
        "error": None,
        "settings": found["settings"],
        "notes": [f"Note {EVIL}"],
        "before": [row(2, 0, 0), row(3, 1, 1), row(4, 2, 2)],
        "after": [row(3, 0, 1), row(2, 1, 0), row(9, 2, None)],
        **more,
    }
    store.insights.put(7, configure.preview_kind(token), told)


def token_of(desk):
    (job,) = (job for job in desk.waiting() if job.startswith("preview-7-"))
    return job.removeprefix("preview-7-")


def test_a_preview_is_waited_for_and_shows_what_moves_where(desk):
    headers = {"HX-Request": "true"}
    answer = save(desk, path=f"{PATH}/preview", headers=headers, **{STRENGTH: "2"})
    assert answer.status_code == 200
    token = token_of(desk)
    assert f'hx-get="{PATH}/preview/{token}" hx-trigger="every 1s"' in answer.text
    assert "<html" not in answer.text
    assert configure.previewed(desk.store, 7, token)["settings"]["objectives"]["uncertainty"]["strength"] == 2
    assert desk.http.get(f"{PATH}/preview/{token}", headers=headers).status_code == 204
    answer_preview(desk.store, token)
    text = desk.http.get(f"{PATH}/preview/{token}", headers=headers).text
    assert "hx-trigger" not in text
    places = [text.index(words) for words in ("Now<", "↓ down 1", "↑ up 1", "↓ not among the first 3", "With these")]
    assert places == sorted(places)
    assert "→ new" in text[places[-1] :]
    assert 'href="http://localhost:8080/projects/7/data?task=9"' in text
    assert EVIL not in text
    assert in_force(desk)[0] == 1


def test_a_preview_works_without_script(desk):
    answer = save(desk, path=f"{PATH}/preview", seed="8")
    page = Page(answer.text)
    assert page.sent["seed"] == "8"
    token = token_of(desk)
    assert f'href="{PATH}/preview/{token}"' in answer.text
    assert "Look whether it is done" in look(desk, f"{PATH}/preview/{token}").text
    answer_preview(desk.store, token)
    assert "With these settings" in look(desk, f"{PATH}/preview/{token}").text


def test_a_preview_that_fails_or_is_gone_says_so(desk):
    save(desk, path=f"{PATH}/preview")
    token = token_of(desk)
    answer_preview(
        desk.store, token, state="failed", error=f"No task has an embedding yet {EVIL}.", before=[], after=[]
    )
    text = look(desk, f"{PATH}/preview/{token}").text
    assert "No task has an embedding yet" in text
    assert EVIL not in text
    assert "There is no preview 0123 of project 7" in look(desk, f"{PATH}/preview/0123").text


def test_the_history_takes_back_and_goes_back(desk):
    put(desk, explore=0.2)
    put(desk, explore=0.4)
    page = look(desk)
    assert "explore from 0.2 to 0.4" in page.text
    assert "ben" in page.text
    undone = desk.http.post(f"{PATH}/undo", data={"_expected": "3", "to": "2"})
    assert undone.status_code == 303
    assert "Saved as revision 4" in look(desk, undone.location).text
    assert in_force(desk)[1].explore == 0.2
    assert desk.waiting() == ["update-7-a"]
    late = desk.http.post(f"{PATH}/undo", data={"_expected": "3", "to": "1"})
    assert late.status_code == 409
    assert "has saved revision 4" in late.text
    none = desk.http.post(f"{PATH}/undo", data={"_expected": "4", "to": "99"})
    assert none.status_code == 400
    assert "has no revision number 99" in none.text
    assert in_force(desk)[0] == 4


def test_undo_of_the_newest_leads_to_the_one_before(desk):
    put(desk, explore=0.2)
    assert (
        '<input type="hidden" name="_expected" value="2"><input type="hidden" name="to" value="1">' in look(desk).text
    )


def test_what_people_wrote_is_escaped(desk):
    desk.store.projects.set(
        7, title=EVIL, label_config=CONFIG.replace("dog", EVIL.replace('"', "&quot;").replace("<", "&lt;"))
    )
    words = {"test_set_by": EVIL, "test_set_target": {EVIL: 1}, "objectives": {"metadata": [{"field": EVIL}]}}
    configure.save(desk.store, desk.settings, 7, ProjectSettings(**words), source="api", who=EVIL)
    page = look(desk)
    assert "<script>alert" not in page.text
    assert f"objectives.value.classes/{json.dumps([EVIL])}" in page.sent


def test_the_text_of_the_settings_in_force_means_the_same_elsewhere(desk):
    put(desk, preset="margin", window=30, objectives={"metadata": [{"field": "l'eau"}]})
    text = look(desk).text
    from html import unescape

    shown = unescape(text.partition('id="extra-params"')[2].partition(">")[2].partition("</textarea>")[0])
    assert ProjectSettings.from_extra_params(shown) == in_force(desk)[1]
    assert "ls-backend settings set --project 7 --settings &#39;" in text


def test_a_project_whose_labels_are_not_known_yet_is_filled_in_as_json(connected):
    connected.store.projects.set(7, label_config=None)
    page = look(connected)
    assert page.sent["objectives.value.classes"] == "{}"
    save(connected, page, **{"objectives.value.classes": '{"cat": 2}', "objectives.balance.target": "input"})
    assert in_force(connected)[1].objectives["value"]["classes"] == {"cat": 2.0}
    assert in_force(connected)[1].objectives["balance"]["target"] == "input"


@pytest.mark.parametrize("path", ["", "/preview", "/preset", "/undo"])
def test_another_site_can_change_and_ask_nothing(desk, path):
    answer = save(desk, path=PATH + path, headers={"Sec-Fetch-Site": "cross-site"}, seed="9", to="1")
    assert answer.status_code == 403
    assert (in_force(desk)[0], desk.waiting()) == (1, [])


def test_an_unknown_project_is_not_found(connected):
    assert connected.http.get("/ui/projects/8/settings").status_code == 404
    assert connected.http.post("/ui/projects/8/settings").status_code == 404


@pytest.fixture(scope="module")
def shown(serve_project):
    """A server process of its own with a project."""
    running, store = serve_project()
    configure.save(store, running.settings, 7, ProjectSettings(), source="connect", who="ana")
    return running, store


def worker_answers(store):
    """Answer the preview that waits."""
    (kind,) = store.insights.ages(7)
    answer_preview(store, kind.removeprefix(configure.preview_kind("")))


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_strength_is_changed_with_the_keyboard_previewed_saved_and_taken_back(shown, browser, flaws, scheme):
    server, store = shown
    for kind in store.insights.ages(7):
        store.insights.drop(7, kind)
    with browser.new_context(color_scheme=scheme) as context:
        page = context.new_page()
        said = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"http://127.0.0.1:{server.port}{PATH}")
        slider = page.get_by_label("Uncertainty: Strength, slider")
        slider.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert page.get_by_label("Strength", exact=True).first.input_value() == "1.5"
        assert page.locator('[id="objectives.uncertainty"]').is_checked()
        page.get_by_role("button", name="Preview").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("text=A worker ranks the tasks")
        assert page.get_by_label("Strength", exact=True).first.input_value() == "1.5"
        worker_answers(store)
        page.wait_for_selector("text=→ new")
        assert flaws(page) == []
        page.get_by_role("button", name="Save").first.focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("text=Saved as revision")
        page.wait_for_selector("text=objectives.uncertainty.strength from unset to 1.5")
        assert flaws(page) == []
        page.get_by_role("button", name="Undo").press("Enter")
        page.wait_for_selector("text=objectives.uncertainty.strength from 1.5 to unset")
        assert page.get_by_label("Strength", exact=True).first.input_value() == "1"
        assert said == []


@pytest.mark.browser
def test_what_is_wrong_is_said_in_place_of_a_preview_and_nothing_typed_is_lost(shown, browser, flaws):
    server, store = shown
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.port}{PATH}")
        page.get_by_label("Explore", exact=True).fill("lots")
        page.get_by_label("Seed").fill("12")
        page.get_by_role("button", name="Preview").click()
        page.get_by_role("link", name="explore is lots").click()
        assert page.evaluate("document.activeElement.closest('main') !== null")
        assert page.get_by_label("Explore", exact=True).input_value() == "lots"
        assert page.get_by_label("Seed").input_value() == "12"
        assert not page.locator("#away").is_visible()
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert flaws(page) == []
        page.get_by_label("Explore", exact=True).fill("0.5")
        configure.save(store, server.settings, 7, ProjectSettings(seed=99), source="command line", who="ben")
        page.get_by_role("button", name="Save").last.click()
        page.wait_for_selector("text=seed from 0 to 99")
        assert flaws(page) == []
        page.get_by_role("button", name="Save mine over it").click()
        page.wait_for_selector("text=seed from 99 to 12")


@pytest.mark.browser
def test_the_page_works_without_script(shown, browser):
    server, store = shown
    for kind in store.insights.ages(7):
        store.insights.drop(7, kind)
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.port}{PATH}")
        assert not page.locator('input[type="range"]').first.is_visible()
        page.get_by_label("Strength", exact=True).first.fill("0.5")
        page.get_by_role("button", name="Preview").click()
        worker_answers(store)
        with context.expect_page() as tab:
            page.get_by_role("link", name="Look whether it is done").click()
        tab.value.wait_for_selector("text=With these settings")
        page.get_by_role("button", name="Save").first.click()
        page.wait_for_selector("text=Saved as revision")
        page.get_by_role("button", name="Undo").click()
