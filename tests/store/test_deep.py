"""Deep versions, and what they see in tasks."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from ls_backend.errors import StoreError
from ls_backend.store import DeepVersion, Inference

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def add(store, project):
    def make(number, *, control="box", state="promoted"):
        version = DeepVersion(
            version_id=f"deep-{number}-0badcafe",
            project_id=project,
            control=control,
            kind="rectanglelabels",
            number=number,
            backbone="efficientnet_lite0",
            classes=("car", "Bus 木"),
            n_labels=60,
            labels_digest="0" * 64,
            metrics={"map50": 0.75},
            state=state,
            created_at=NOON,
        )
        store.deep_versions.add(version)
        return version

    return make


def see(task_id, version="deep-1", uncertainty=0.5):
    return Inference(
        task_id=task_id,
        version_id=version,
        uncertainty=uncertainty,
        presence=np.array([0.25, 0.75], dtype=np.float32),
        embedding=np.array([0.6, 0.8, 0.0], dtype=np.float32),
        scores=(0.5,),
        result=({"type": "rectanglelabels", "value": {"x": 1.5, "rectanglelabels": ["Bus 木"]}},),
    )


def test_the_newest_promoted_version_of_a_control_is_in_force(store, project, add):
    assert store.deep_versions.in_force(project, "box") is None
    assert store.deep_versions.next_number(project) == 1
    first, second = add(1), add(2)
    add(3, state="rejected")
    mask = add(4, control="mask")
    assert store.deep_versions.in_force(project, "box") == second
    assert store.deep_versions.in_force(project, "mask") == mask
    assert store.deep_versions.next_number(project) == 5
    assert [one.number for one in store.deep_versions.list(project)] == [4, 3, 2, 1]
    assert [one.number for one in store.deep_versions.list(project, "box")] == [3, 2, 1]
    store.deep_versions.set_state(project, second.version_id, "retired")
    assert store.deep_versions.in_force(project, "box") == first


def test_a_deep_version_is_recorded_once_and_has_one_of_three_states(store, project, add):
    add(1)
    with pytest.raises(StoreError):
        add(1)
    with pytest.raises(StoreError):
        store.deep_versions.set_state(project, "deep-1-0badcafe", "great")
    with pytest.raises(StoreError, match="no deep version deep-9"):
        store.deep_versions.set_state(project, "deep-9-0badcafe", "retired")


def test_what_a_version_sees_comes_back_as_columns_and_whole(store, project):
    store.inferences.put(project, "box", [see(5, uncertainty=0.25), see(3)])
    table = store.inferences.of(project, "box")
    assert table.task_id.tolist() == [3, 5]
    assert table.uncertainty.tolist() == [0.5, 0.25]
    assert table.presence.tolist() == [[0.25, 0.75]] * 2
    np.testing.assert_allclose(table.embedding, [[0.6, 0.8, 0.0]] * 2, atol=1e-3)
    assert table.version_id.tolist() == ["deep-1"] * 2
    whole = store.inferences.results(project, "box", [5, 404])
    assert list(whole) == [5]
    assert whole[5].result == see(5).result
    assert whole[5].scores == (0.5,)
    assert whole[5].presence.tolist() == [0.25, 0.75]


def test_a_newer_version_replaces_row_by_row(store, project):
    store.inferences.put(project, "box", [see(1), see(2)])
    store.inferences.put(project, "box", [see(2, "deep-2", 0.75)])
    store.inferences.put(project, "mask", [see(2, "deep-3")])
    assert store.inferences.of(project, "box").version_id.tolist() == ["deep-1", "deep-2"]
    assert store.inferences.judged_by(project, "box", "deep-2") == {2}
    assert store.inferences.results(project, "box", [2])[2].uncertainty == 0.75
    store.inferences.forget(project, "box")
    assert store.inferences.results(project, "box", [1, 2]) == {}
    assert store.inferences.judged_by(project, "mask", "deep-3") == {2}


def test_nothing_seen_is_no_rows(store, project):
    store.inferences.put(project, "box", [])
    table = store.inferences.of(project, "box")
    assert table.task_id.shape == table.uncertainty.shape == (0,)
    assert table.presence.shape == (0, 0)


def test_what_was_seen_goes_with_its_task_and_its_project(store, project, make_task):
    store.tasks.upsert(project, [make_task(1), make_task(2)], image_field="image")
    store.inferences.put(project, "box", [see(1), see(2)])
    store.tasks.delete(project, [1])
    assert store.inferences.of(project, "box").task_id.tolist() == [2]
    store.projects.forget(project)
    store.projects.ensure(project)
    assert store.inferences.of(project, "box").task_id.tolist() == []
