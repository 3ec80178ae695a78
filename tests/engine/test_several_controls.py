"""Labels that may hold together, and several controls in one label config, on a real Label Studio."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ls_backend.demo.digits import digits
from ls_backend.domain import Prediction
from ls_backend.engine import sync
from ls_backend.labelstudio.label_config import parse, validate

TRAITS = ("even", "round", "small")
CONFIG = (
    '<View><Image name="image" value="$image"/>'
    '<Choices name="traits" toName="image" choice="multiple">'
    + "".join(f'<Choice value="{name}"/>' for name in TRAITS)
    + '</Choices><Choices name="digit" toName="image">'
    + "".join(f'<Choice value="{name}"/>' for name in "0123")
    + "</Choices></View>"
)
_titles = itertools.count(1)


def traits_of(digit):
    held = {"even": digit in "02", "round": digit in "03", "small": digit in "01"}
    return [name for name in TRAITS if held[name]]


def result_of(digit, *, of=("traits", "digit")):
    """What an annotator submits; a trait that does not hold is not ticked."""
    given = {"traits": traits_of(digit), "digit": [digit]}
    return [
        {"from_name": name, "to_name": "image", "type": "choices", "value": {"choices": given[name]}}
        for name in of
        if given[name]
    ]


@pytest.fixture
def make_traits(client, make_lab):
    """A project of 40 images of 0 to 3 that asks for traits and digit."""

    def make(**settings):
        lab = make_lab(1, **settings)
        chosen = [item for item in digits(500, seed=5) if item.label in "0123"][:40]
        pid = client.create_project(f"traits {next(_titles)}", CONFIG, sampling="Uncertainty sampling")
        references = client.upload_files(pid, {item.name: item.png for item in chosen})
        task_ids = client.import_tasks(pid, [{"data": {"image": references[item.name]}} for item in chosen])
        lab.context.store.projects.ensure(pid)
        lab.context.store.projects.set(pid, webhook_url="http://127.0.0.1:9/webhook", webhook_secret="secret")
        lab.pid, lab.tasks = pid, sorted(task_ids)
        lab.truth = dict(zip(task_ids, (item.label for item in chosen), strict=True))
        lab.settings(**{"min_labels": 4, **settings})
        return lab

    return make


def submit(lab, *task_ids, **how):
    for task_id in task_ids:
        lab.client.submit(task_id, result_of(lab.truth[task_id], **how))


def test_every_control_learns_and_both_are_pre_annotated(make_traits):
    lab = make_traits()
    first = lab.update()
    submit(lab, *lab.queue()[:16])
    assert lab.update() != first
    assert lab.latest.classes == ("traits: even", "traits: round", "traits: small", *(f"digit: {i}" for i in "0123"))
    assert lab.latest.questions == (0, 1, 2, 3, 3, 3, 3)
    assert lab.latest.n_labels == 16
    assert lab.problems("settings") == {}
    rows = lab.context.store.windows.rows(lab.pid, lab.window.version)
    served = lab.client.next_task(lab.pid)
    shown = served["predictions"][0]
    row = next(row for row in rows if row.task_id == served["id"])
    given = {region["from_name"]: region["value"]["choices"] for region in shown["result"]}
    p = row.probabilities
    assert given.get("traits", []) == [name for name, value in zip(TRAITS, p[:3], strict=True) if value >= 0.5]
    assert given["digit"] == ["0123"[int(np.argmax(p[3:]))]]
    assert sum(p[3:]) == pytest.approx(1, abs=1e-5)
    assert validate(CONFIG, Prediction(served["id"], tuple(shown["result"]), 0.5, "al-1-x:1")) == []


def test_traits_are_learnt_from_few_labels(make_traits):
    lab = make_traits(explore=0.0)
    lab.update()
    for _ in range(5):
        submit(lab, *lab.queue()[:5])
        lab.update()
    schema = parse(CONFIG)
    rows = lab.context.store.windows.rows(lab.pid, lab.window.version)
    answers = [
        (name in traits_of(lab.truth[row.task_id])) == (i in schema.likeliest(row.probabilities))
        for row in rows
        if row.probabilities is not None
        for i, name in enumerate(TRAITS)
    ]
    assert len(answers) == 45
    assert np.mean(answers) > 0.75, "guessing would be right half of the time"


def test_a_task_with_no_trait_counts_as_an_answer_and_one_control_may_be_left_out(make_traits):
    lab = make_traits()
    lab.update()
    submit(lab, *lab.tasks[:8])
    submit(lab, *lab.tasks[8:12], of=("traits",))
    lab.update()
    labels = lab.context.store.tasks.rows(lab.pid).label
    schema = parse(CONFIG)
    assert schema.read(labels[8]) == {"traits": tuple(traits_of(lab.truth[lab.tasks[8]]))}
    assert set(schema.read(labels[0])) == {"traits", "digit"}
    assert lab.latest.n_labels == 12


def test_a_choice_that_becomes_multiple_is_another_question(make_lab):
    lab = make_lab(12, labelled=6)
    lab.update()
    before = lab.latest
    assert before.questions == (0, 0, 0)
    lab.client.update_project(lab.pid, label_config=lab.label_config().replace('"single"', '"multiple"'))
    lab.update()
    assert lab.latest.version_id != before.version_id
    assert lab.latest.questions == (0, 1, 2)
    assert lab.latest.classes == before.classes


def test_a_sync_killed_in_the_middle_of_another_config_resolves_the_labels_again(make_lab, monkeypatch):
    lab = make_lab(12, labelled=6)
    lab.update()
    lab.client.update_project(lab.pid, label_config=lab.label_config().replace('"single"', '"multiple"'))

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sync, "_resolve", killed)
    with pytest.raises(KeyboardInterrupt):
        lab.update()
    monkeypatch.undo()
    lab.update()
    assert lab.latest.questions == (0, 1, 2)
    assert lab.latest.n_labels == 6
