"""Everything that can be labelled, in Label Studio's own formats: labels in, models trained, predictions back."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from label_studio_sdk.converter.brush import mask2rle
from PIL import Image

from ls_backend.demo.label_studio import LabelStudioServer
from ls_backend.domain import Prediction
from ls_backend.engine.connect import connect
from ls_backend.engine.context import Context
from ls_backend.labelstudio.label_config import validate
from ls_backend.settings import Settings

pytestmark = pytest.mark.e2e

SIDE = 96
SHAPES = ("disc", "square")
TAGS = {"rectanglelabels": "RectangleLabels", "polygonlabels": "PolygonLabels", "brushlabels": "BrushLabels"}
_titles = itertools.count(1)


def picture(seed):
    """A disc, a square, both or neither on noise: the image, and the mask of each shape that is there."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 90, (SIDE, SIDE, 3)).astype(np.uint8)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    masks = {}
    for shape, middle in zip(SHAPES, rng.permutation([26, 70]), strict=True):
        if seed % 7 == 6 or (seed % 3 != 2 and shape != SHAPES[seed % 3]):
            continue
        x, y = middle + rng.integers(-6, 7), rng.integers(24, 72)
        r = rng.integers(12, 19)
        inside = (
            np.hypot(columns - x, rows - y) < r
            if shape == "disc"
            else (np.maximum(abs(columns - x), abs(rows - y)) < r)
        )
        pixels[inside] = rng.integers(140, 255, 3) if shape == "disc" else (rows[inside] % 6 < 3)[:, None] * 160 + 60
        masks[shape] = inside
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue(), masks


def config_of(kind):
    if kind == "choices":
        labels = "".join(f'<Choice value="{name}"/>' for name in SHAPES)
        control = f'<Choices name="what" toName="image" choice="multiple">{labels}</Choices>'
    else:
        labels = "".join(f'<Label value="{name}"/>' for name in SHAPES)
        control = f'<{TAGS[kind]} name="what" toName="image">{labels}</{TAGS[kind]}>'
    return f'<View><Image name="image" value="$image"/>{control}</View>'


def drawn(kind, masks):
    """What an annotator submits."""
    if kind == "choices":
        values = [{"choices": list(masks)}] if masks else []
    else:
        values = [{**place(kind, mask), kind: [shape]} for shape, mask in masks.items()]
    size = {} if kind == "choices" else {"original_width": SIDE, "original_height": SIDE, "image_rotation": 0}
    return [
        {"id": f"region{i}", "from_name": "what", "to_name": "image", "type": kind, "value": value, **size}
        for i, value in enumerate(values)
    ]


def place(kind, mask):
    rows, columns = np.nonzero(mask)
    left, top, right, bottom = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / SIDE * 100
    if kind == "rectanglelabels":
        return {"x": left, "y": top, "width": right - left, "height": bottom - top, "rotation": 0}
    if kind == "brushlabels":
        return {"format": "rle", "rle": mask2rle(mask.astype(np.uint8) * 255)}
    is_disc = mask.sum() < 0.9 * (bottom - top) * (right - left) / 1e4 * SIDE**2
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False) if is_disc else np.pi * np.array([0.25, 0.75, 1.25, 1.75])
    reach = (1 if is_disc else np.sqrt(2)) * np.array([right - left, bottom - top]) / 2
    ring = np.array([left + right, top + bottom]) / 2 + np.column_stack([np.cos(angles), np.sin(angles)]) * reach
    return {"points": ring.tolist(), "closed": True}


@pytest.fixture
def make_task(label_studio, client, stack, lab_of):
    """A connected project of n pictures that asks for one kind of label."""

    def make(kind, n=28, **settings):
        pictures = {f"{kind}-{i}.png": picture(i) for i in range(n)}
        pid = client.create_project(f"{kind} {next(_titles)}", config_of(kind))
        references = client.upload_files(pid, {name: png for name, (png, _) in pictures.items()})
        task_ids = client.import_tasks(pid, [{"data": {"image": references[name]}} for name in pictures])
        given = {"LABEL_STUDIO_URL": client.url, "LABEL_STUDIO_API_KEY": LabelStudioServer.token}
        context = Context(Settings.model_validate({**given, "DATA_DIR": stack.data_dir, "backend_url": stack.url}))
        try:
            connect(context, pid, extra_params={"min_labels": 4, **settings})
        finally:
            context.close()
        truth = dict(zip(task_ids, (masks for _, masks in pictures.values()), strict=True))
        lab = lab_of(client, stack, pid, truth)
        lab.result_of = lambda task_id: drawn(kind, truth[task_id])
        lab.settled(labels=0)
        return lab

    return make


def test_several_labels_of_an_image_are_learnt_and_predicted(make_task):
    lab = make_task("choices")
    first = lab.window()
    for _ in range(3):
        lab.label(4)
        state = lab.settled()
    assert state["versions"][0]["n_labels"] == 12
    assert lab.window() != [task_id for task_id in first if task_id in lab.window()], "the order is another one"
    assert_accepted(lab, "choices", at_least=8)


@pytest.mark.parametrize("kind", list(TAGS))
def test_regions_are_learnt_and_predicted(make_task, wait_for, kind):
    lab = make_task(kind, training={"after": 10, "minutes": 1.0, "image_px": SIDE})
    lab.label(12)
    before = lab.settled()["window"]
    trained = wait_for("a deep version serves", lambda: lab.state()["deep_versions"], 240)[0]
    assert (trained["control"], trained["state"]) == ("what", "promoted")

    def judged():
        found = shown(lab).values()
        return lab.state()["window"] != before and any(one["result"] for one in found)

    wait_for("what it sees is shown in a new order", judged, 120)
    assert_accepted(lab, kind, at_least=8)
    factors = [row["factors"].get("uncertainty") for row in lab.stack.get(f"/api/projects/{lab.pid}/queue")["tasks"]]
    doubts = [value for value in factors if value is not None]
    assert np.mean(doubts[:5]) > np.mean(doubts[-5:]), "what it doubts comes first"


def shown(lab):
    """Task -> the prediction that Label Studio shows for it, of those that are still to be labelled."""
    version = lab.client.project(lab.pid).model_version
    done = set(lab.client.annotations(lab.pid))
    rows = lab.client.get("/api/predictions/", {"project": lab.pid})
    return {row["task"]: row for row in rows if row["model_version"] == version and row["task"] not in done}


def assert_accepted(lab, kind, *, at_least):
    """Label Studio keeps every prediction, its own validation finds nothing, and one becomes an annotation."""
    predictions = shown(lab)
    assert len(predictions) >= at_least
    for task_id, one in predictions.items():
        assert validate(config_of(kind), Prediction(task_id, tuple(one["result"]), 0.5, "al-1-x:1")) == []
        for region in one["result"]:
            assert region["type"] == kind
            assert region["value"][kind][0] in SHAPES
    task_id, one = next((task_id, one) for task_id, one in predictions.items() if one["result"])
    lab.client.submit(task_id, one["result"], parent_prediction=one["id"])
    assert task_id in lab.client.annotations(lab.pid)
