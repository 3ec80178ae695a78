from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from ls_backend.store import Throughput

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def answered(store, project, make_task, make_annotation):
    """300 answers by three people, one of them unknown, in the six hours after noon; every fifth is a skip."""
    rng = np.random.default_rng(0)
    made = [
        make_annotation(
            i,
            i,
            cancelled=i % 5 == 0,
            by=[1, 2, None][int(rng.integers(3))],
            at=NOON + timedelta(hours=6 * rng.random()),
        )
        for i in range(1, 301)
    ]
    store.tasks.upsert(project, [make_task(one.task_id, annotations=(one,)) for one in made], image_field="image")
    return made


def test_the_throughput_is_counted_by_annotator_and_hour(store, project, answered):
    labels, skipped = Counter(), Counter()
    for one in answered:
        key = one.created_at.replace(minute=0, second=0, microsecond=0), one.completed_by or 0
        (skipped if one.was_cancelled else labels)[key] += 1
    expected = [Throughput(*key, labels[key], skipped[key]) for key in sorted(labels | skipped)]
    assert len(expected) == 18
    assert store.tallies.throughput(project, NOON) == expected


def test_the_throughput_looks_back_as_far_as_it_is_told(store, project, answered):
    since = NOON + timedelta(hours=3, minutes=20)
    counted = store.tallies.throughput(project, since)
    assert sum(one.labels + one.skipped for one in counted) == sum(one.created_at >= since for one in answered)
    assert store.tallies.throughput(2, NOON) == []


def test_the_labels_are_counted_once_a_task(store, project, make_task):
    store.tasks.upsert(project, [make_task(i) for i in range(1, 7)], image_field="image")
    given = {1: "Riß 木", 2: "none", 3: "Riß 木", 4: None}
    store.tasks.set_labels(project, {task_id: (label, None) for task_id, label in given.items()})
    assert store.tallies.labels(project) == {"Riß 木": 2, "none": 1}
    assert store.tallies.labels(2) == {}


def test_what_is_left_of_a_window_is_what_nobody_has_touched(store, project, make_task, make_annotation, make_window):
    touched = {2: make_annotation(1, 2), 3: make_annotation(2, 3, cancelled=True)}
    given = [make_task(i, annotations=(touched[i],) if i in touched else ()) for i in range(1, 6)]
    store.tasks.upsert(project, given, image_field="image")
    window = make_window("al-cold:1", task_ids=(5, 2, 3, 1, 99))
    store.windows.add(window)
    assert store.windows.left(project, window.version)[0] == 2, "99 is no task any more"
    assert store.windows.left(project, "al-cold:9")[0] == 0
