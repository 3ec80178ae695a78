from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from ls_backend.domain import Control, LabelSchema
from ls_backend.engine.sights import sights
from ls_backend.store import DeepVersion, Inference

SCHEMA = LabelSchema(
    "image",
    (
        Control("weather", "choices", "image", ("sun", "rain")),
        Control("cars", "rectanglelabels", "image", ("car", "bus"), multiple=True),
    ),
)


@pytest.fixture
def desk(make_desk):
    desk = make_desk(6)
    now = datetime.now(UTC)
    for number in (1, 2):
        desk.context.store.deep_versions.add(
            DeepVersion(
                f"deep-{number}-0000000{number}", 1, "cars", "rectanglelabels", number, "pixels", ("car", "bus"),
                10, "0" * 64, {}, "promoted", now,
            )
        )  # fmt: skip
    return desk


def look(desk, task_id, doubt, direction, version=2):
    embedding = np.eye(3, dtype=np.float32)[direction]
    one = Inference(
        task_id, f"deep-{version}-0000000{version}", doubt, np.array([0.9, 0.1], np.float32), embedding, (), ()
    )
    desk.context.store.inferences.put(1, "cars", [one])


def seen(desk):
    return sights(desk.context, desk.project, SCHEMA)


def test_before_anything_was_seen_there_is_nothing_to_add(desk):
    features = np.eye(6, 4, dtype=np.float32)
    assert seen(desk).doubts(np.arange(1, 7)) == {}
    assert seen(desk).beside(features, np.arange(1, 7)) is features


def test_doubts_stand_where_the_tasks_stand_and_settle_the_questions_of_their_control(desk):
    look(desk, 2, 0.25, 0)
    look(desk, 5, 0.75, 1, version=1)
    found = seen(desk).doubts(np.array([5, 1, 2]))
    np.testing.assert_allclose(found["doubts"][:, 0], [0.75, np.nan, 0.25])
    assert found["settled"] == {1, 2}


def test_images_of_one_place_are_alike_and_so_are_regions_of_one_kind(desk):
    for task_id, direction in ((1, 0), (2, 0), (3, 1), (4, 2)):
        look(desk, task_id, 0.5, direction)
    features = np.eye(4, dtype=np.float32)[[0, 1, 0, 2]]
    joint = seen(desk).beside(features, np.array([1, 2, 3, 4]))
    np.testing.assert_allclose(np.linalg.norm(joint, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        joint @ joint.T, [[1, 0.5, 0.5, 0], [0.5, 1, 0, 0], [0.5, 0, 1, 0], [0, 0, 0, 1]], atol=1e-6
    )


def test_what_an_earlier_version_saw_is_not_compared_with_what_this_one_sees(desk):
    look(desk, 1, 0.5, 0)
    look(desk, 2, 0.5, 0, version=1)
    joint = seen(desk).beside(np.eye(2, dtype=np.float32), np.array([1, 2]))
    assert joint[0, 2:].any()
    assert not joint[1, 2:].any()
    assert np.linalg.norm(joint[1]) == pytest.approx(1)
