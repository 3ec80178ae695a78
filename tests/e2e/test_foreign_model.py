"""A model written for label-studio-ml and nothing else, under our ranking, with a real Label Studio: texts."""

from __future__ import annotations

import importlib
import itertools
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from ls_backend.demo.label_studio import LabelStudioServer
from ls_backend.domain import Prediction
from ls_backend.engine.connect import connect
from ls_backend.engine.context import Context
from ls_backend.labelstudio.label_config import validate
from ls_backend.settings import Settings

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).parents[2]
MODELS = str(REPOSITORY / "tests" / "foreign" / "models")
MODEL = "text_classifier:TextClassifier"
CONFIG = (
    '<View><Text name="text" value="$review"/><Choices name="mood" toName="text">'
    '<Choice value="praise"/><Choice value="complaint"/></Choices></View>'
)
OPENINGS = {
    "praise": ["I love", "We are happy with", "Thanks for", "What a great idea,"],
    "complaint": ["I am disappointed by", "We are unhappy with", "Never again", "It hurts to see"],
}
THINGS = ["the delivery", "this phone", "your staff", "the blue lamp", "their website"]


def sentences():
    """Forty texts and their moods, by turns."""
    pairs = zip(*([(f"{opening} {thing}", mood) for opening, thing in itertools.product(OPENINGS[mood], THINGS)]
                  for mood in OPENINGS), strict=True)  # fmt: skip
    return [one for pair in pairs for one in pair]


@pytest.fixture(scope="module")
def stack(label_studio, new_stack):
    """Our processes, which find somebody's module where their Python looks."""
    places = [MODELS, str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    with new_stack(label_studio, label_studio.token, PYTHONPATH=os.pathsep.join(places)) as stack:
        yield stack


@pytest.fixture
def lab(client, stack, lab_of):
    """A connected project of texts with somebody's model."""
    texts = sentences()
    pid = client.create_project("reviews", CONFIG)
    task_ids = client.import_tasks(pid, [{"data": {"review": text}} for text, _ in texts])
    given = {"LABEL_STUDIO_URL": client.url, "LABEL_STUDIO_API_KEY": LabelStudioServer.token}
    context = Context(Settings.model_validate({**given, "DATA_DIR": stack.data_dir, "backend_url": stack.url}))
    try:
        settings = {"model": MODEL, "min_labels": 4, "preset": "margin", "training": {"after": 8}}
        connect(context, pid, extra_params=settings)
    finally:
        context.close()
    lab = lab_of(client, stack, pid, dict(zip(task_ids, [mood for _, mood in texts], strict=True)))
    lab.result_of = lambda task_id: [
        {"from_name": "mood", "to_name": "text", "type": "choices", "value": {"choices": [lab.truth[task_id]]}}
    ]
    lab.settled(labels=0)
    return lab


@pytest.fixture
def learned(monkeypatch):
    """Answer how likely somebody's model finds praise in texts, when it has learned from others and their moods."""
    monkeypatch.syspath_prepend(MODELS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # label-studio-ml has strings that Python warns of
        classifier = importlib.import_module("text_classifier").TextClassifier

    def learn(known, asked):
        model = classifier.fresh()
        texts, moods = zip(*known, strict=True)
        model.fit(texts, moods)
        return model.predict_proba(asked)[:, list(model.classes_).index("praise")]

    return learn


def shown(lab):
    """Task -> the prediction that Label Studio shows for it, of those that are still to be labelled."""
    version = lab.client.project(lab.pid).model_version
    done = set(lab.client.annotations(lab.pid))
    rows = lab.client.get("/api/predictions/", {"project": lab.pid})
    return {row["task"]: row for row in rows if row["model_version"] == version and row["task"] not in done}


def test_it_learns_is_shown_and_its_doubts_order_the_queue(lab, learned, wait_for):
    def versions():
        return [version["version_id"].split(":")[2] for version in lab.state()["deep_versions"]]

    def pre_annotated():
        rows = shown(lab)
        return rows if rows and all(row["result"] for row in rows.values()) else None

    wait_for("it answers before any label", lambda: versions() == ["initial"], 240)
    wait_for("its answers are shown before any label", pre_annotated, 60)
    served = lab.label(4)
    wait_for("it has learned", lambda: versions()[:1] == ["fit-1"], 240)
    served += lab.label(8)
    wait_for("it has learned again", lambda: versions()[:1] == ["fit-2"], 240)
    assert len(set(served)) == 12
    lab.settled(labels=12)
    text = {task.task_id: task.data["review"] for task in lab.client.tasks(lab.pid)}
    rest = sorted(set(text) - set(served))
    answers = learned([(text[one], lab.truth[one]) for one in served], [text[one] for one in rest])
    expected = dict(zip(rest, answers, strict=True))

    def in_order():
        """Whether each answer that is shown is the model's own, of what it has learned, and its doubts come first."""
        rows = shown(lab)
        if rows.keys() != expected.keys() or not all(row["result"] for row in rows.values()):
            return None
        said = {task_id: row["result"][0] for task_id, row in rows.items()}
        praise = {
            task_id: one["score"] if one["value"]["choices"] == ["praise"] else 1 - one["score"]
            for task_id, one in said.items()
        }
        if praise != pytest.approx(expected, abs=1e-3):
            return None
        doubts = [1 - said[task_id]["score"] for task_id in lab.head() if task_id in rows]
        return rows if np.mean(doubts[:7]) > np.mean(doubts[-7:]) + 0.02 else None

    rows = wait_for("what it has learned is shown, and what it doubts comes first", in_order, 90)
    for task_id, row in rows.items():
        assert validate(CONFIG, Prediction(task_id, tuple(row["result"]), 0.5, "al-1-x:1")) == []
    task_id, row = next(iter(rows.items()))
    lab.client.submit(task_id, row["result"], parent_prediction=row["id"])
    assert lab.settled()["problems"] == 0
