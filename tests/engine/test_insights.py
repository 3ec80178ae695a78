"""What people can see of embeddings and heads: digits whose pixels are their embeddings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.decomposition import PCA

from ls_backend.engine import insights
from ls_backend.settings import DEFAULT_BACKBONE, TEXT_BACKBONE
from ls_backend.store import Inference

CHOICES = "".join(f'<Choice value="{digit}"/>' for digit in "0123456789")
CONFIG = (
    '<View><Image name="image" value="$image"/>'
    f'<Choices name="digit" toName="image" choice="single">{CHOICES}</Choices>{{more}}</View>'
)
BOXES = '<RectangleLabels name="where" toName="image"><Label value="loop"/><Label value="stroke"/></RectangleLabels>'
TEXTS = CONFIG.replace("Image", "Text").replace("$image", "$text")


@pytest.fixture
def desk(make_desk):
    made = make_desk(300)
    made.context.store.projects.set(made.pid, label_config=CONFIG.format(more=""))
    return made


def look(desk):
    """Make the insights and answer the content of each kind."""
    insights.find_out(desk.context, desk.pid)
    found = {kind: desk.context.store.insights.get(desk.pid, kind) for kind in insights.KINDS}
    return {kind: one.content for kind, one in found.items() if one is not None}


def learn(desk, n=120):
    desk.label(*desk.tasks[:n])
    return desk.train()


@pytest.mark.parametrize(("n", "d"), [(500, 300), (40, 128), (200, 20), (3, 2)])
def test_the_plane_is_that_of_sklearns_pca(n, d):
    rng = np.random.default_rng(n)
    spread = np.r_[6.0, 3.0, np.full(d - 2, 0.3)] if d > 2 else np.array([6.0, 3.0])
    features = (rng.normal(size=(n, d)) * spread).astype(np.float32)
    expected = PCA(2, svd_solver="full").fit_transform(features.astype(np.float64))
    expected = (expected - expected.min(axis=0)) / np.ptp(expected, axis=0)
    flat = insights.flatten(features)
    assert (flat.min(axis=0).tolist(), flat.max(axis=0).tolist()) == ([0.0, 0.0], [1.0, 1.0])
    for axis in range(2):
        mirrored = np.abs(flat[:, axis] - 1 + expected[:, axis]).max()
        assert min(np.abs(flat[:, axis] - expected[:, axis]).max(), mirrored) < 2e-3


def test_the_picture_is_the_same_again_and_when_the_tasks_come_in_another_order():
    features = np.random.default_rng(0).normal(size=(300, 100)).astype(np.float32)
    features[:, 0] *= 8
    features[:, 5] *= 4
    order = np.random.default_rng(1).permutation(300)
    np.testing.assert_array_equal(insights.flatten(features), insights.flatten(features))
    np.testing.assert_allclose(insights.flatten(features[order]), insights.flatten(features)[order], atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 200), (5, 200), (5, 1)])
def test_tasks_that_are_all_alike_lie_in_the_middle(shape):
    np.testing.assert_array_equal(insights.flatten(np.ones(shape, np.float32)), 0.5)


def test_the_map_shows_labelled_next_and_rest(desk):
    learn(desk)
    desk.serve([*range(130, 140), 5])
    found = look(desk)["map"]
    assert sorted(found["task_ids"]) == desk.tasks
    states = dict(zip(found["task_ids"], found["states"], strict=True))
    assert {task_id for task_id, state in states.items() if state == "labelled"} == set(range(1, 121))
    assert {task_id for task_id, state in states.items() if state == "next"} == set(range(130, 140))
    assert {state for task_id, state in states.items() if task_id > 140} == {"rest"}
    labels = dict(zip(found["task_ids"], found["labels"], strict=True))
    assert all(labels[task_id] == (desk.truth[task_id] if task_id <= 120 else None) for task_id in desk.tasks)
    assert found["hashes"] == [desk.hash_of(task_id) for task_id in found["task_ids"]]
    points = np.array(found["points"])
    assert points.shape == (300, 2)
    assert (points.min(), points.max()) == (0, 1)


def test_tasks_that_are_alike_lie_together(desk):
    learn(desk)
    found = look(desk)["map"]
    points = np.array(found["points"])
    digit = np.array([int(desk.truth[task_id]) for task_id in found["task_ids"]])
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    same = digit[:, None] == digit[None]
    assert apart[same].mean() < 0.7 * apart[~same].mean()


def test_a_large_project_is_shown_by_a_sample_that_stays(desk, monkeypatch):
    monkeypatch.setattr(insights, "POINTS", 100)
    monkeypatch.setattr(insights, "LABELLED_POINTS", 40)
    monkeypatch.setattr(insights, "NEXT_POINTS", 30)
    learn(desk, 150)
    desk.serve(range(151, 201))
    before = look(desk)["map"]
    assert (len(before["task_ids"]), before["states"].count("labelled")) == (100, 40)
    assert set(range(151, 181)) <= set(before["task_ids"]), "the first of the window, and no lot"
    shown = dict(zip(before["task_ids"], before["states"], strict=True))
    assert all(shown[task_id] == ("next" if task_id <= 200 else "rest") for task_id in shown if task_id > 150)
    desk.label(160, 170)
    after = look(desk)["map"]
    rest = [
        {task_id for task_id, state in zip(one["task_ids"], one["states"], strict=True) if state == "rest"}
        for one in (before, after)
    ]
    assert len(rest[0] & rest[1]) >= 0.9 * len(rest[0])


def test_the_uncertainties_are_the_margins_of_the_pool_counted_one_by_one(desk):
    model = learn(desk)
    desk.serve(range(130, 140))
    found = look(desk)["uncertainty"]
    seen = desk.view()
    unlabelled = np.concatenate([seen.pool, seen.held])
    p = np.sort(model.classifier.probabilities(seen.features[unlabelled]), axis=1)
    margins = [1 - (row[-1] - row[-2]) for row in p.astype(float)]
    expected = [0] * 20
    for value in margins:
        expected[min(int(value * 20), 19)] += 1
    assert (found["method"], found["counts"], found["n_looked_at"]) == ("margin", expected, 180)
    assert found["edges"] == pytest.approx([i / 20 for i in range(21)])


def test_the_uncertainties_of_a_sample_stand_for_the_whole_pool(desk, monkeypatch):
    learn(desk)
    desk.serve(range(130, 140))
    exact = np.array(look(desk)["uncertainty"]["counts"])
    monkeypatch.setattr(insights, "POINTS", 120)
    monkeypatch.setattr(insights, "LABELLED_POINTS", 30)
    sampled = look(desk)["uncertainty"]
    assert sampled["n_looked_at"] == 90
    assert abs(sum(sampled["counts"]) - 180) <= 10, "rounding of 20 counts"
    assert np.abs(np.cumsum(sampled["counts"]) - np.cumsum(exact)).max() < 0.15 * 180


def test_before_the_first_model_there_is_a_map_only(desk):
    assert list(look(desk)) == ["map"]


def test_what_a_foreign_or_deep_version_doubts_is_enough(desk):
    desk.context.store.projects.set(desk.pid, label_config=CONFIG.format(more=BOXES))
    seen = np.zeros(2, np.float32)
    direction = np.eye(3, dtype=np.float32)[0]
    found = [Inference(i, "deep-1-0badcafe", (i - 0.5) / 300, seen, direction, (), ()) for i in desk.tasks]
    desk.context.store.inferences.put(desk.pid, "where", found)
    assert look(desk)["uncertainty"]["counts"] == [15] * 20


def test_the_calibration_is_what_the_version_in_force_was_measured_with(desk):
    model = learn(desk, 200)
    found = look(desk)["calibration"]
    seen = desk.view().labelled
    p = model.evaluation.probabilities(seen.features[seen.holdout])
    sure, right = p.max(axis=1), p.argmax(axis=1) == seen.targets[seen.holdout].argmax(axis=1)
    assert sum(one["n"] for one in found["bins"]) == seen.holdout.sum() > 10
    for one in found["bins"]:
        mine = np.ceil(sure * 10) == np.ceil(one["confidence"] * 10)
        assert (one["n"], one["accuracy"]) == (mine.sum(), pytest.approx(right[mine].mean()))
        assert one["confidence"] == pytest.approx(sure[mine].mean(), abs=1e-6)
    assert (found["measured_on"], found["ece"]) == ("hold-out", model.version.metrics.ece)


def test_a_version_that_was_measured_before_there_were_bins_has_no_calibration(desk):
    model = learn(desk)
    assert "calibration" in look(desk)
    old = replace(model.version.metrics, reliability=())
    assert insights._calibration(replace(model.version, metrics=old)) == {}


def test_several_questions_are_shown_in_words(desk):
    desk.context.store.projects.set(desk.pid, label_config=CONFIG.format(more=BOXES))
    given = {1: '{"digit": ["3"], "where": ["loop", "stroke"]}', 2: '{"where": []}', 3: "4, when that was all"}
    desk.context.store.tasks.set_labels(desk.pid, {key: (text, None) for key, text in given.items()})
    found = look(desk)["map"]
    labels = dict(zip(found["task_ids"], found["labels"], strict=True))
    assert (labels[1], labels[2], labels[3]) == ("digit: 3; where: loop, stroke", "where: nothing", "")


def test_without_embeddings_or_a_label_config_what_was_known_is_deleted(desk):
    learn(desk)
    assert len(look(desk)) == 3
    desk.context.store.tasks.forget_content(desk.pid, desk.tasks)
    assert list(look(desk)) == ["calibration"]
    desk.context.store.projects.set(desk.pid, label_config="<View/>")
    assert look(desk) == {}
    assert "basis" in desk.context.store.insights.ages(desk.pid)


def test_texts_are_shown_by_their_own_embeddings(desk, monkeypatch):
    asked = []

    def load(name, hashes):
        asked.append(name)
        return desk.context.vectors.load("pixels", 64, hashes)

    monkeypatch.setattr(desk.context, "load_vectors", load)
    desk.context.store.projects.set(desk.pid, label_config=TEXTS.format(more=""))
    assert list(look(desk)) == ["map"]
    assert asked == [TEXT_BACKBONE] != [DEFAULT_BACKBONE]


def test_insights_are_due_when_labels_window_or_model_have_changed(desk):
    store = desk.context.store
    assert not insights.due(store, 99)
    assert insights.due(store, desk.pid), "never made"
    look(desk)
    assert not insights.due(store, desk.pid)
    desk.serve(range(1, 30))
    assert insights.due(store, desk.pid)
    look(desk)
    assert not insights.due(store, desk.pid)
    desk.label(*range(1, 60))
    assert insights.due(store, desk.pid)
    look(desk)
    desk.train()
    assert insights.due(store, desk.pid)
    look(desk)
    assert not insights.due(store, desk.pid)
