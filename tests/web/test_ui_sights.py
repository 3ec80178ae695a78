"""What the dashboard shows of insights and advice: pictures against values worked out by hand, pages as people see."""

from __future__ import annotations

import hashlib
import io
import re
import time
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from ls_backend.domain import Task
from ls_backend.engine import thumbnails
from ls_backend.web.ui import charts, curve, glance
from ls_backend.web.ui.plane import Plane, round_above

CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image" choice="single">'
    '<Choice value="cat"/><Choice value="dog"/></Choices></View>'
)
TEXTS = CONFIG.replace("Image", "Text").replace("$image", "$text")
EVIL = "<script>alert(1)</script>"
PAGES = ("/ui/projects/7", "/ui/projects/7/map", "/ui/projects/7/queue", "/ui/projects/7/advice")


def hash_of(task_id):
    return hashlib.sha256(str(task_id).encode()).hexdigest()


UNCERTAINTY = {"method": "margin", "edges": [0.0, 0.5, 1.0], "counts": [30, 10], "n_looked_at": 20}
CALIBRATION = {
    "bins": [{"confidence": 0.5, "accuracy": 0.25, "n": 5}, {"confidence": 1.0, "accuracy": 1.0, "n": 20}],
    "ece": 0.05,
    "measured_on": "test set",
    "model_version": "al-2-0123abcd",
}
BASIS = {"labels": 120, "window": "al-2-0123abcd:1", "model_version": "al-2-0123abcd"}


def a_map(n=60, *, label="cat"):
    """A map of tasks 1 to n: every third labelled, from task 2 on every second of the others next."""
    states = ["labelled" if i % 3 == 1 else "next" if i % 2 == 0 else "rest" for i in range(1, n + 1)]
    return {
        "points": [[(i % 10) / 9, i / n] for i in range(n)],
        "task_ids": list(range(1, n + 1)),
        "states": states,
        "labels": [label if state == "labelled" else None for state in states],
        "hashes": [hash_of(i) for i in range(1, n + 1)],
    }


def means(*values):
    return [{"value": value, "low": value - 0.1, "high": value + 0.1} for value in values]


def savings(*, metric="accuracy"):
    saved = {"value": 0.3, "low": 0.1, "high": 0.4, "sentence": "Labels saved against random: 30 % [10 %, 40 %]."}
    plans = [
        {"name": "random", "mean": means(0.5, 0.6), "labels_saved": None},
        {"name": "plan in force", "mean": means(0.5, 0.8), "labels_saved": saved},
    ]
    settings = {"batch": 10, "rounds": 20, "seeds": 10}
    words = {"metric": metric, "pool": 90, "test": 30}
    return {"refused": None, "settings": settings, "n_labels": [10, 20], "plans": plans, **words}


def advice(word="crack", *, n_suspects=1, gain=None):
    forecast = {"gain": gain, "low": 0.003, "high": 0.009, "sentence": f"Another 50 labels: +0.3 to +0.9 {word}."}
    criteria = [
        {
            "name": "stable-predictions",
            "value": 0.95,
            "threshold": 0.99,
            "holds": False,
            "sentence": word,
            "source": "B",
        },
        {"name": "expected-error", "value": None, "threshold": 0.05, "holds": True, "sentence": word, "source": "Z"},
    ]
    suspect = {
        "task_id": 1,
        "control": word,
        "given": word,
        "suggested": "dog",
        "quality": 0.02,
        "reason": f"holds dog for likelier than {word}",
    }
    pair = {"annotators": [3, 4], "n_answers": 9, "agreement": 0.5, "kappa": 0.1}
    group = {"task_ids": list(range(2, 12)), "n_tasks": 12, "reason": f"12 tasks look nearly the same; {word}."}
    return {
        "n_labels": 100,
        "stop": {"verdict": "near", "criteria": criteria, "forecast": forecast, "sentence": word},
        "relabel": [suspect] * min(n_suspects, 100),
        "disagreement": [{"task_id": 2, "control": "label", "share": 1.0, "reason": f"1 said {word}, 1 said dog."}],
        "duplicates": [group],
        "drift": {"verdict": "none", "sentence": f"No drift found in {word}."},
        "sentences": dict.fromkeys(("stop", "relabel", "disagreement", "duplicates", "drift"), f"About {word}."),
        "numbers": {
            "relabel": {"n_suspects": n_suspects},
            "disagreement": {"n_disputed": 1, "pairs": [pair]},
            "duplicates": {"n_groups": 1},
        },
    }


def put_all(store, *, word="cat", n=60):
    for kind, content in (
        ("uncertainty", UNCERTAINTY),
        ("calibration", CALIBRATION),
        ("map", a_map(n, label=word)),
        ("basis", BASIS),
        ("advice", advice(word)),
        ("savings", savings()),
    ):
        store.insights.put(7, kind, content)
    store.tasks.set_content(7, {i: hash_of(i) for i in range(1, n + 1)})


@pytest.fixture
def filled(connected, fill):
    """Project 7 with everything a worker finds out."""
    fill(connected.store)
    connected.store.projects.set(7, label_config=CONFIG)
    put_all(connected.store)
    return connected


def read(backend, path):
    answer = backend.http.get(path)
    assert answer.status_code == 200
    return answer.text


def post(backend, path):
    return backend.http.post(path, headers={"Sec-Fetch-Site": "same-origin"})


def test_a_plane_puts_the_ends_of_both_axes_on_its_edges():
    plane = Plane(across=(10, 30), up=(0, 4), width=100, height=50, left=20, right=10, top=5, bottom=5)
    assert plane.edges == (20, 90, 5, 45)
    assert (plane.x(10), plane.x(20), plane.x(30)) == (20, 55, 90)
    assert (plane.y(0), plane.y(1), plane.y(4)) == (45, 35, 5)


@pytest.mark.parametrize(("value", "above"), [(0, 4), (4, 4), (5, 8), (9, 12), (13, 20), (21, 40), (100_000, 120_000)])
def test_an_axis_ends_at_a_round_number_whose_quarters_are_whole(value, above):
    assert round_above(value) == above


def test_a_histogram_is_as_high_as_its_counts():
    drawn = charts.histogram(UNCERTAINTY)
    # 30 and 10 of at most 40 tasks on 202 units of height; 584 units of width for two bins, a unit apart.
    assert [(one.x, one.y, one.width, one.height) for one in drawn.columns] == [
        (44, 60.5, 291, 151.5),
        (336, 161.5, 291, 50.5),
    ]
    assert (drawn.n, drawn.levels, drawn.median_bin.high) == (40, (0, 10, 20, 30, 40), 0.5)


def test_a_histogram_of_nothing_is_a_picture_too():
    drawn = charts.histogram({**UNCERTAINTY, "counts": [0, 0]})
    assert ({one.height for one in drawn.columns}, drawn.median_bin) == ({0}, None)


def test_a_model_that_is_as_often_right_as_it_says_lies_on_the_diagonal():
    even = [{"confidence": share, "accuracy": share, "n": 4} for share in (0.2, 0.6, 1.0)]
    drawn = charts.reliability({**CALIBRATION, "bins": even})
    left, right, top, bottom = drawn.plane.edges
    for disc in drawn.discs:
        assert (disc.x - left) / (right - left) == pytest.approx((bottom - disc.y) / (bottom - top), abs=1e-3)


def test_the_area_of_a_disc_goes_with_its_answers():
    few, many = charts.reliability(CALIBRATION).discs
    assert many.r**2 / few.r**2 == pytest.approx(4, rel=0.01)
    left, right, top, bottom = charts.reliability(CALIBRATION).plane.edges
    assert (many.x, many.y) == (right, top)
    assert (few.x, few.y) == ((left + right) / 2, bottom - (bottom - top) / 4)


def test_the_map_keeps_every_task_where_it_is_and_what_comes_next_on_top():
    content = {
        "points": [[0, 0], [1, 1], [0.5, 0.25]],
        "task_ids": [5, 6, 7],
        "states": ["next", "labelled", "rest"],
        "labels": [None, "cat", None],
        "hashes": ["00", "ff", "fb"],
    }
    drawn = charts.map_of(content, {7: "Once upon"})
    left, right, top, bottom = drawn.plane.edges
    assert list(drawn.points) == ["rest", "labelled", "next"]
    (five,), (six,), (seven,) = (drawn.points[state] for state in ("next", "labelled", "rest"))
    assert (five.x, five.y, six.x, six.y) == (left, bottom, right, top)
    assert (seven.x, seven.y) == ((left + right) / 2, bottom - (bottom - top) / 4)
    assert (five.code, six.code, seven.code) == ("AA", "_w", "-w")
    assert (seven.text, six.label, five.label, drawn.labels) == ("Once upon", "cat", None, (("cat", 1),))


def test_a_replay_has_both_courses_and_an_interval_around_each():
    drawn = curve.replayed(savings())
    random, plan = drawn.lines
    assert (random.name, plan.name, drawn.ticks) == ("random", "plan in force", (0, 10, 20))
    # 10 and 20 labels of 20 across 44 to 628; 100 % at 10, 0 % at 212.
    assert random.path == "336.0,111.0 628.0,90.8"
    assert plan.band == "336.0,131.2 628.0,70.6 628.0,30.2 336.0,90.8"


def test_a_replay_of_few_seeds_has_no_intervals():
    content = savings()
    for one in content["plans"]:
        for mean in one["mean"]:
            mean["low"] = mean["high"] = None
    assert [line.band for line in curve.replayed(content).lines] == ["", ""]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("", ""), ("a\n b", "a b"), ("x" * 80, "x" * 80), ("x" * 81, "x" * 79 + "…"), (" " * 500 + "late", "")],
)
def test_of_a_text_its_beginning_is_shown(text, shown):
    assert glance.beginning(text) == shown


def test_without_any_insight_every_page_says_what_it_takes(connected):
    overview = read(connected, "/ui/projects/7")
    assert "No worker has looked yet" in overview
    assert "It takes a model, and tasks that nobody has labelled" in overview
    assert "measured on labels held out" in overview
    assert "No worker has looked yet" in read(connected, "/ui/projects/7/map")
    text = read(connected, "/ui/projects/7/advice")
    assert "from 20 labels on" in text
    assert "nobody has asked for a replay" in text


def test_the_overview_shows_what_the_insights_were_made_from(filled):
    text = read(filled, "/ui/projects/7")
    assert "from 120 labels and model al-2-0123abcd" in text
    assert "25 answers of the test set" in text
    assert "Calibration error (ECE): 5.0 %" in text
    assert "A replay:" in text
    assert 'hx-get="/ui/projects/7/map"' in text
    assert "data-h=" not in text, "the map is heavy, and is not renewed every five seconds"


def test_an_insight_that_could_not_be_made_says_why_beside_those_that_could(filled):
    filled.store.insights.drop(7, "map")
    filled.store.insights.drop(7, "calibration")
    assert "measured on labels held out" in read(filled, "/ui/projects/7")
    assert "No image or text of this project has been embedded yet" in read(filled, "/ui/projects/7/map")


def test_each_next_point_of_the_map_leads_to_its_task_and_has_its_thumbnail(filled):
    text = read(filled, "/ui/projects/7/map")
    found = re.findall(r'<a href="http://localhost:8080/projects/7/data\?task=(\d+)" aria-label="Task \1" ', text)
    assert sorted(map(int, found)) == [i for i in range(1, 61) if i % 3 != 1 and i % 2 == 0]
    assert text.count("<use href") == 60 + 3, "and the legend"


def test_a_map_of_2000_tasks_weighs_at_most_300_kb(connected, fill):
    fill(connected.store, n=10)
    content = a_map(2000, label="scratch on the left")
    content["task_ids"] = [10_000_000 + i for i in range(2000)]
    content["states"] = ["next"] * 800 + ["labelled"] * 700 + ["rest"] * 500
    connected.store.insights.put(7, "map", content)
    connected.store.insights.put(7, "basis", BASIS)
    text = read(connected, "/ui/projects/7/map")
    assert text.count("data-h=") == 2000
    assert len(text.encode()) <= 300_000


def test_texts_are_shown_by_how_they_begin(connected):
    connected.store.projects.set(7, label_config=TEXTS, hostname="http://localhost:8080")
    now = datetime.now(UTC)
    given = [Task(i, {"text": f"Text {i} {EVIL} " + "long " * 40}, now, False, 0, 0, None) for i in range(1, 13)]
    connected.store.tasks.upsert(7, given, image_field="text")
    put_all(connected.store, n=12)
    for path in ("/ui/projects/7/map", "/ui/projects/7/advice"):
        text = read(connected, path)
        assert "Text 2 &lt;script&gt;" in text
        assert EVIL not in text
        assert "data-h=" not in text
        assert "<img" not in text


def test_advice_tells_what_to_look_at_with_links_and_thumbnails(filled):
    text = read(filled, "/ui/projects/7/advice")
    assert "from 100 labels; there are 1 now" in text
    assert "Another 50 labels: +0.3 to +0.9 cat." in text
    assert "One of two criteria says stop" in text
    assert "too early" in text
    assert f'src="/ui/thumbnails/{hash_of(1)}.jpg" alt="1.png"' in text
    assert 'href="http://localhost:8080/projects/7/data?task=1"' in text
    assert "and 6 more" in text
    assert "3 and 4" in text
    assert "Labels saved against random: 30 % [10 %, 40 %]." in text


def test_long_lists_are_cut_and_say_so(filled):
    filled.store.insights.put(7, "advice", advice(n_suspects=240))
    text = read(filled, "/ui/projects/7/advice")
    assert "50 of 240 labels are shown" in text


def test_a_replay_that_was_refused_says_why(filled):
    filled.store.insights.put(7, "savings", {"refused": "Too few labels.", "settings": {}})
    assert "Too few labels." in read(filled, "/ui/projects/7/advice")
    assert "A replay:" not in read(filled, "/ui/projects/7")


@pytest.mark.parametrize("kind", ["insights", "advice", "savings"])
def test_a_button_asks_a_worker_and_the_page_says_that_it_is_on_its_way(filled, kind):
    answer = post(filled, f"/ui/projects/7/{kind}")
    assert answer.status_code == 303
    assert [job_id.split("-")[0] for job_id in filled.waiting("train", "embed")] == [kind]
    if kind != "insights":
        assert "a train worker takes it next" in read(filled, answer.headers["Location"])


def test_a_failed_replay_says_why_beside_its_button(filled):
    filled.queues.record_failure("savings", 7, code="c", message=EVIL, hint="Mend it.", seconds=1.0, error=ValueError())
    text = read(filled, "/ui/projects/7/advice")
    assert "Mend it." in text
    assert EVIL not in text


@pytest.mark.parametrize("path", ["insights", "advice", "savings"])
def test_nothing_is_asked_for_a_project_that_is_not_connected(connected, path):
    assert post(connected, f"/ui/projects/8/{path}").status_code == 404


def test_without_redis_the_advice_is_there_and_says_so(deploy):
    alone = deploy(redis_url="redis://127.0.0.1:1/0")
    alone.store.projects.ensure(7)
    alone.store.insights.put(7, "advice", advice())
    text = read(alone, "/ui/projects/7/advice")
    assert "Nothing can be asked for until Redis answers" in text
    assert "One of two criteria says stop" in text
    assert post(alone, "/ui/projects/7/advice").status_code == 503


@pytest.mark.parametrize("path", PAGES)
def test_what_people_wrote_is_escaped(filled, path):
    put_all(filled.store, word=EVIL)
    made = datetime.now(UTC)
    odd = Task(2, {"image": f'http://x/"><img onerror=alert(1)>{EVIL}.png'}, made, False, 0, 0, None)
    filled.store.tasks.upsert(7, [odd], image_field="image")
    text = read(filled, path)
    assert EVIL not in text
    assert "<img onerror" not in text


def load(backend, path):
    """Get a file; answer what came and its bytes, the file on disk closed."""
    with backend.http.get(path) as answer:
        return answer, answer.data


def a_picture(folder, task_id):
    """Keep a thumbnail as the embed worker does; answer its bytes."""
    pixels = np.random.default_rng(task_id).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    thumbnails.keep(folder, hash_of(task_id), pixels)
    return thumbnails.path_of(folder, hash_of(task_id)).read_bytes()


def test_a_thumbnail_is_served_and_may_be_kept(connected):
    written = a_picture(connected.settings.thumbnails_path, 3)
    answer, data = load(connected, f"/ui/thumbnails/{hash_of(3)}.jpg")
    assert (answer.status_code, answer.mimetype, data) == (200, "image/jpeg", written)
    assert answer.cache_control.max_age > 86_400
    assert Image.open(io.BytesIO(data)).size == (120, 90)


def test_a_missing_thumbnail_is_a_placeholder_for_a_while(connected):
    answer, _ = load(connected, f"/ui/thumbnails/{hash_of(4)}.jpg")
    assert (answer.status_code, answer.mimetype) == (200, "image/svg+xml")
    assert answer.cache_control.max_age <= 60


@pytest.mark.parametrize(
    "name", ["..%2Fsecret", "../secret", "%2e%2e/secret", "..%5Csecret", "A" * 64, "a" * 63, "ä" * 64], ids=ascii
)
def test_no_address_leads_out_of_the_thumbnails(connected, name):
    folder = connected.settings.thumbnails_path
    for place in (folder.parent / "secret.jpg", folder / "aa" / f"{'a' * 63}.jpg", folder / "AA" / f"{'A' * 64}.jpg"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"secret")
    answer, data = load(connected, f"/ui/thumbnails/{name}.jpg")
    assert answer.status_code == 404 or answer.mimetype == "image/svg+xml"
    assert data != b"secret"


def test_a_relative_data_folder_has_thumbnails_too(tmp_path, monkeypatch, deploy):
    monkeypatch.chdir(tmp_path)
    assert thumbnails.path_of(deploy().settings.thumbnails_path.relative_to(tmp_path), hash_of(1)).is_absolute()


@pytest.fixture(scope="module")
def shown(serve_project):
    """A server process of its own with a project of which everything is known."""
    running, store = serve_project()
    put_all(store)
    for task_id in range(1, 61):
        if task_id != 5:
            a_picture(running.settings.thumbnails_path, task_id)
    return f"http://127.0.0.1:{running.port}", store


@pytest.fixture
def opened(browser):
    """Open pages in a browser; what its console says fails the test."""
    said = []
    contexts = []

    def open_page(url, **how):
        contexts.append(browser.new_context(**how))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_nothing_serious(shown, opened, flaws, path, scheme):
    page = opened(shown[0] + path, color_scheme=scheme)
    if path in PAGES[:2]:
        page.wait_for_selector("svg[data-ready]")
    assert flaws(page) == []


def loaded(page, width):
    """Wait until the image beside the map is there, by its own width in pixels.

    The browser asks again in the page what `wait_for_function` waits for, and our policy lets no text be run there.
    """
    deadline = time.monotonic() + 30
    while page.locator(".peek img").evaluate("image => image.naturalWidth") != width:
        assert time.monotonic() < deadline, f"no image of {width} pixels"
        page.wait_for_timeout(20)


@pytest.mark.browser
def test_under_the_mouse_a_point_of_the_map_shows_its_image_task_and_label(shown, opened):
    page = opened(shown[0] + "/ui/projects/7/map")
    peek = page.locator(".peek")
    assert not peek.is_visible()
    page.locator('[data-t="4"]').hover()
    image = peek.locator("img")
    assert image.get_attribute("src") == f"/ui/thumbnails/{hash_of(4)}.jpg"
    loaded(page, 120)
    assert peek.inner_text().strip() == "Task 4, cat"
    page.locator('[data-t="5"]').hover()
    loaded(page, 160)  # the placeholder
    page.mouse.move(2, 2)
    assert not peek.is_visible()


@pytest.mark.browser
def test_the_keyboard_goes_through_the_map_point_by_point(shown, opened):
    page = opened(shown[0] + "/ui/projects/7/map")
    assert page.locator("svg[data-thumbnails] [tabindex='0']").count() == 1, "one stop of the Tab key"
    page.get_by_role("checkbox", name="of the rest").focus()
    page.keyboard.press("Tab")
    focused = "document.activeElement.getAttribute('aria-label')"
    assert page.evaluate(focused) == "Task 2"
    assert page.locator(".peek").inner_text().strip() == "Task 2"
    loaded(page, 120)
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "Task 3"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "Task 4, cat"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focused) == "Task 13, cat"
    assert page.locator("svg[data-thumbnails] [tabindex='0']").count() == 1
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"


@pytest.mark.browser
def test_a_kind_of_points_can_be_hidden(shown, opened):
    page = opened(shown[0] + "/ui/projects/7/map")
    page.get_by_role("checkbox", name="of the rest").uncheck()
    assert not page.locator('[data-t="5"]').is_visible()
    assert page.locator('[data-t="4"]').is_visible()


@pytest.mark.browser
def test_the_overview_loads_the_map_once_and_keeps_it_while_the_rest_is_renewed(shown, opened):
    base, store = shown
    page = opened(base + "/ui/projects/7")
    asked = []
    page.on("request", lambda request: asked.append(request.url.removeprefix(base)))
    page.wait_for_selector("#map svg[data-ready]")
    store.projects.set(7, title="Renewed")
    page.wait_for_selector("h1:has-text('Renewed')", timeout=15_000)
    page.locator('#map [data-t="4"]').hover()
    assert page.locator("#map .peek").is_visible()
    assert asked.count("/ui/projects/7/map") <= 1
    store.projects.set(7, title="Cracks")
