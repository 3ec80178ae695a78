"""The dashboard shows what the engine really makes, before anything was made and after."""

from __future__ import annotations

import pytest

from ls_backend.domain import Annotation
from ls_backend.engine import advice, insights
from ls_backend.settings import Settings
from ls_backend.web.app import create_app

CHOICES = "".join(f'<Choice value="{digit}"/>' for digit in "0123456789")
CONFIG = (
    '<View><Image name="image" value="$image"/>'
    f'<Choices name="digit" toName="image" choice="single">{CHOICES}</Choices></View>'
)
PAGES = ("/ui/projects/1", "/ui/projects/1/map", "/ui/projects/1/queue", "/ui/projects/1/advice")


def said(label, number, by, at):
    result = {"from_name": "digit", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
    return Annotation(number, 1, (result,), False, False, by, at, at)


@pytest.fixture
def desk(make_desk):
    made = make_desk(300, min_labels=4)
    made.context.store.projects.set(made.pid, label_config=CONFIG, hostname="http://localhost:8080")
    return made


@pytest.fixture
def pages(desk):
    """Read every page of the project as one text; each must be there."""
    settings = Settings(data_dir=desk.context.settings.data_dir, redis_url="redis://127.0.0.1:1/0")
    http = create_app(settings).test_client()

    def read():
        answers = [http.get(path) for path in PAGES]
        assert [answer.status_code for answer in answers] == [200] * len(PAGES)
        return " ".join(" ".join(answer.text for answer in answers).split())

    return read


def test_of_what_the_engine_makes_every_sentence_and_figure_is_shown(desk, pages):
    for count in range(20, 161, 20):
        desk.label(*desk.tasks[count - 20 : count])
        model = desk.train()
    desk.label(30, 31, 32, label="0")
    desk._write([1], {1: (said("1", 9001, 1, desk.now), said("2", 9002, 2, desk.now))})
    desk.serve(range(170, 190))
    assert insights.find_out(desk.context, 1) == ["calibration", "map", "uncertainty"]
    advice.renew(desk.context, 1, say=lambda _: None)
    saved = advice.replay_savings(desk.context, 1, say=lambda _: None)
    made = desk.context.store.insights.get(1, "advice").content
    text = pages().replace("&#39;", "'")
    for name in ("relabel", "disagreement", "duplicates", "drift"):
        assert made["sentences"][name] in text
    assert made["stop"]["forecast"]["sentence"] in text
    assert all(one["reason"] in text for one in (*made["relabel"], *made["disagreement"]))
    assert saved["plans"][1]["labels_saved"]["sentence"] in text
    assert f"and model {model.version.version_id}" in text
    assert "Task 170" in text


def test_what_cannot_be_made_of_a_few_labels_is_said(desk, pages):
    desk.label(*desk.tasks[:5])
    insights.find_out(desk.context, 1)
    advice.renew(desk.context, 1, say=lambda _: None)
    advice.replay_savings(desk.context, 1, say=lambda _: None)
    text = pages()
    assert "Too early to think of stopping" in text
    assert "Too few labels to replay" in text
    assert "It takes a model that was measured" in text
