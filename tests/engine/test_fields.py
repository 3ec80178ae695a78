"""What metadata rules can speak of: task data, measures of images and embeddings, and where the model errs."""

from __future__ import annotations

import hashlib
import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ls_backend.domain import ImageFacts
from ls_backend.engine.context import Context
from ls_backend.engine.embed_pool import embed_tasks
from ls_backend.settings import DEFAULT_BACKBONE, MEASURED, Settings

ALONE = {"preset": "random", "explore": 0}


def rules(*given):
    return {**ALONE, "objectives": {"metadata": list(given)}}


def measured(desk, values, *, field):
    facts = {"width": 100, "height": 50, "n_bytes": 10, "sharpness": 1.0, "luminance": 50.0, "contrast": 9.0}
    desk.context.store.images.put(
        {desk.hash_of(task_id): ImageFacts(**{**facts, field: value}) for task_id, value in values.items()}
    )


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("image.width", "width"),
        ("image.bytes", "n_bytes"),
        ("image.sharpness", "sharpness"),
        ("image.luminance", "luminance"),
        ("image.contrast", "contrast"),
        ("image.aspect", "width"),
    ],
)
def test_what_is_measured_on_images_orders_tasks(make_desk, name, field):
    desk = make_desk(30, **rules({"field": name}))
    values = dict(zip(desk.tasks, np.random.default_rng(0).permutation(30).tolist(), strict=True))
    measured(desk, values, field=field)
    rows = desk.rank(30).rows
    assert [values[row.task_id] for row in rows] == sorted(values.values(), reverse=True)
    assert rows[0].reason.startswith(name)


def test_every_measured_field_can_be_asked_for(make_desk):
    desk = make_desk(10, **rules(*({"field": name} for name in MEASURED)))
    measured(desk, dict.fromkeys(desk.tasks, 3), field="width")
    row = desk.rank(10).rows[0]
    assert {f"metadata:{name}" for name in MEASURED} <= set(row.factors)
    assert desk.problems("metadata-field") == {}


def test_images_that_are_too_dark_are_kept_out_and_those_never_measured_stay_in(make_desk):
    desk = make_desk(12, **rules({"field": "image.luminance", "min": 20}))
    measured(desk, {task_id: 10.0 * task_id for task_id in range(1, 11)}, field="luminance")
    assert {row.task_id for row in desk.rank(12).rows} == set(range(2, 13))


def test_a_measure_that_no_image_has_yet_is_reported_and_without_effect(make_desk):
    desk = make_desk(12, **rules({"field": "image.sharpness", "min": 5}))
    assert len(desk.rank(12).rows) == 12
    (finding,) = desk.problems("metadata-field").values()
    assert "before it was measured" in finding.message
    measured(desk, dict.fromkeys(desk.tasks, 9.0), field="sharpness")
    desk.rank(12)
    assert desk.problems("metadata-field") == {}


def test_a_misspelt_measure_is_answered_with_those_there_are(make_desk):
    desk = make_desk(12, **rules({"field": "image.sharpnes"}))
    desk.rank(5)
    (finding,) = desk.problems("metadata-field").values()
    assert "image.sharpness" in finding.message


def test_near_duplicates_can_be_left_for_last(make_desk):
    desk = make_desk(80, **rules({"field": "image.near_duplicate_distance"}))
    table = desk.context.store.tasks.rows(desk.pid)
    desk.context.store.tasks.set_content(desk.pid, {80: table.content_hash[10]})
    order = [row.task_id for row in desk.rank(80).rows]
    assert set(order[-2:]) == {11, 80}
    features = desk.view().features
    likeness = features @ features.T
    np.fill_diagonal(likeness, -1)
    assert order[0] == 1 + int(np.argmin(likeness.max(axis=1)))


def test_a_category_where_the_model_errs_comes_first_with_the_share_in_words(make_desk):
    desk = make_desk(400, min_labels=4, **rules({"field": "weather", "weights": "errors"}))
    hard = {task_id: "rain" if task_id % 3 == 0 else "sun" for task_id in desk.tasks}
    desk.describe(weather=hard)
    for task_id in range(1, 301):  # in the rain people answer anything
        desk.label(task_id, label=str(task_id % 10) if hard[task_id] == "rain" else None)
    rows = desk.rank(100, model=desk.train()).rows
    n_rain = sum(hard[task_id] == "rain" for task_id in range(301, 401))
    assert {hard[row.task_id] for row in rows[:n_rain]} == {"rain"}
    held_out = [task for task in desk.context.store.tasks.labelled(desk.pid) if task.holdout]
    n_held_out = sum(hard[task.task_id] == "rain" for task in held_out)
    share, count = re.fullmatch(
        r"weather 'rain', where the model errs (\d+)% \((\d+) held out\)", rows[0].reason
    ).groups()
    assert int(count) == n_held_out
    assert int(share) > 50, "nine of ten answers in the rain are wrong; some are by chance what the model says"


def test_errors_under_a_test_set_are_those_of_the_other_labels(make_desk):
    from ls_backend.engine.test_set import draw

    words = rules({"field": "weather", "weights": "errors"})
    desk = make_desk(200, min_labels=4, test_set=50, **words)
    desk.describe(weather=dict.fromkeys(desk.tasks, "sun"))
    draw(desk.context, desk.project)
    members = desk.context.store.tasks.test_set(desk.pid)
    others = [task_id for task_id in desk.tasks if task_id not in members][:60]
    desk.label(*others, *members)
    (reason,) = {row.reason for row in desk.rank(5, model=desk.train()).rows}
    assert reason.endswith("(60 held out)")


def test_errors_wait_for_a_model_and_for_held_out_labels_without_a_complaint(make_desk):
    desk = make_desk(60, min_labels=4, **rules({"field": "digit", "weights": "errors"}))
    assert len(desk.rank(10).rows) == 10
    desk.label(1, 2, 3, 4)  # one of each class: none is held out
    assert len(desk.rank(10, model=desk.train()).rows) == 10
    assert desk.context.store.problems.open(desk.pid) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"holdout": 0.0, **rules({"field": "digit", "weights": "errors"})}, "none are"),
        (rules({"field": "image.sharpness", "weights": "errors"}), "few distinct values"),
        (rules({"field": "wetter", "weights": "errors"}), "has the field"),
    ],
)
def test_errors_that_nobody_can_count_are_reported(make_desk, words, expected):
    desk = make_desk(60, min_labels=4, **words)
    desk.label(*range(1, 21))
    assert len(desk.rank(10, model=desk.train()).rows) == 10
    (finding,) = desk.problems("metadata-field").values()
    assert expected in finding.message


@pytest.fixture
def reader(tmp_path):
    """A project whose one image, 40 x 20 grey pixels, is a file on this machine: no Label Studio is asked."""
    files = tmp_path / "files"
    files.mkdir()
    Image.new("RGB", (40, 20), (119, 119, 119)).save(files / "grey.png")
    settings = Settings(
        data_dir=tmp_path / "data",
        device="cpu",
        local_files_root=files,
        label_studio_url="http://127.0.0.1:9",
        label_studio_api_key="none",
    )
    context = Context(settings)
    context.store.projects.ensure(1)

    def read(*task_ids):
        return embed_tasks(
            context, context.project(1), dict.fromkeys(task_ids, "/data/local-files/?d=grey.png"), DEFAULT_BACKBONE
        )

    yield SimpleNamespace(context=context, read=read, png=(files / "grey.png").read_bytes())
    context.close()


def test_an_image_is_measured_when_it_is_embedded_and_once_for_all_its_tasks(reader):
    (content,) = set(reader.read(1, 2).values())
    facts = reader.context.store.images.get([content])[content]
    assert (facts.width, facts.height, facts.n_bytes) == (40, 20, len(reader.png))
    assert facts.luminance == pytest.approx(50.03, abs=0.02)
    other = ImageFacts(1, 1, 1, 0.0, 0.0, 0.0)
    reader.context.store.images.put({content: other})
    reader.read(3)
    assert reader.context.store.images.get([content]) == {content: other}, "it is not measured again"


def test_an_image_that_was_embedded_before_anything_was_measured_is_measured_when_it_is_read_again(reader):
    content = hashlib.sha256(reader.png).hexdigest()
    backbone = reader.context.backbone(DEFAULT_BACKBONE)
    earlier = np.ones((1, backbone.dim), np.float32)
    reader.context.vectors.append(backbone.identity, backbone.dim, [content], earlier)
    assert reader.read(1) == {1: content}
    assert reader.context.store.images.get([content])[content].width == 40
    np.testing.assert_array_equal(reader.context.raw_embeddings(DEFAULT_BACKBONE, [content]), earlier)
