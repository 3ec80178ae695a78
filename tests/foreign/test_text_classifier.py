"""A model of label-studio-ml, written for that package alone, under our ranking: Choices on Text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ls_backend.domain import Control
from ls_backend.errors import ForeignModelFailed
from ls_backend.foreign import Answer
from ls_backend.foreign.judgement import judge
from ls_backend.language import texts
from ls_backend.strategies import Plan, Pool, rank

CONFIG = (
    '<View><Text name="text" value="$review"/><Choices name="mood" toName="text">'
    '<Choice value="praise"/><Choice value="complaint"/><Choice value="question"/></Choices></View>'
)
MOOD = Control("mood", "choices", "text", ("praise", "complaint", "question"))
OPENINGS = {
    "praise": ["I love", "We are happy with", "Thanks for", "What a great idea,"],
    "complaint": ["I am disappointed by", "We are unhappy with", "Never again", "It hurts to see"],
    "question": ["Could you tell me about", "Where do I find", "How much is", "Who knows more about"],
}
THINGS = ["the delivery", "this phone", "your staff", "the blue lamp", "their website", "my new chair", "the manual"]
ENDINGS = ["of last week", "in the shop", "from the catalogue", "I ordered twice", "after all these years"]
SHARES = {"praise": 0.7, "complaint": 0.22, "question": 0.08}
BATCH = 8
ROUNDS = 4


def make_tasks(n, rng):
    """Tasks and their true labels, in unequal shares."""
    labels = rng.choice(list(SHARES), n, p=list(SHARES.values()))
    tasks = []
    for number, label in enumerate(labels):
        words = [rng.choice(part) for part in (OPENINGS[label], THINGS, ENDINGS)]
        tasks.append({"id": number + 1, "data": {"review": " ".join(words)}, "project": 7})
    return tasks, labels


def annotated(task, label):
    region = {"from_name": "mood", "to_name": "text", "type": "choices", "value": {"choices": [str(label)]}}
    return {**task, "annotations": [{"id": task["id"], "result": [region], "was_cancelled": False}]}


def test_the_model_is_strange_to_us():
    source = (Path(__file__).parent / "models" / "text_classifier.py").read_text()
    assert "ls_backend" not in source
    assert "label_studio_ml" in source


def test_a_text_classifier_of_somebody_else_learns_and_its_doubts_order_the_queue(first):
    rng = np.random.default_rng(3)
    tasks, labels = make_tasks(240, rng)
    embeddings = texts.load().embed([task["data"]["review"] for task in tasks])
    model = first("text_classifier:TextClassifier", config=CONFIG)
    plan = Plan.preset("margin")
    known = list(rng.permutation(len(tasks))[:BATCH])
    for round_ in range(ROUNDS):
        model.fit([annotated(tasks[row], labels[row]) for row in known], "START_TRAINING")
        assert model.version == f"fit-{round_ + 1}"
        rest = np.setdiff1d(np.arange(len(tasks)), known)
        answers = model.predict([tasks[row] for row in rest])
        assert all(isinstance(answer, Answer) for answer in answers)
        probabilities = np.stack([judge(answer, MOOD).probabilities for answer in answers])
        np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
        counts = np.array([(labels[known] == name).sum() for name in MOOD.classes])
        pool = Pool(embeddings[rest], probabilities, embeddings[known], counts)
        ranking = rank(pool, plan, k=BATCH, rng=np.random.default_rng(round_))
        picked = np.asarray(ranking.indices)
        surest = probabilities.max(axis=1)
        assert surest[picked].mean() < np.median(surest), "what the model doubts comes first"
        known += list(rest[picked])
    model.fit([annotated(tasks[row], labels[row]) for row in known], "START_TRAINING")
    rest = np.setdiff1d(np.arange(len(tasks)), known)
    answers = model.predict([tasks[row] for row in rest])
    correct = [
        answer.regions[0]["value"]["choices"] == [labels[row]] for row, answer in zip(rest, answers, strict=True)
    ]
    assert np.mean(correct) > 0.8 > (labels[rest] == "praise").mean(), "better than naming the commonest label"


def test_before_it_has_learned_it_answers_all_the_same(first):
    tasks, _ = make_tasks(5, np.random.default_rng(0))
    model = first("text_classifier:TextClassifier", config=CONFIG)
    answers = model.predict(tasks)
    assert {answer.regions[0]["value"]["choices"][0] for answer in answers} <= set(MOOD.classes)
    assert all(judge(answer, MOOD).uncertainty == pytest.approx(1 - answer.score) for answer in answers)


def test_a_label_config_it_is_not_made_for_is_refused_in_its_own_words(first):
    model = first("text_classifier:TextClassifier", config=CONFIG.replace("<Text ", "<Image "))
    with pytest.raises(ForeignModelFailed, match="AssertionError"):
        model.predict(make_tasks(1, np.random.default_rng(0))[0])
