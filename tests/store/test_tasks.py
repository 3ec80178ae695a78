from __future__ import annotations

import math
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from ls_backend.errors import StoreError

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LATER = NOON + timedelta(seconds=1)


@pytest.fixture
def put(store, project):
    def upsert(*given, image_field="image"):
        store.tasks.upsert(project, given, image_field=image_field)

    return upsert


def test_tasks_come_back_as_they_went_in(store, project, put, make_task, make_annotation):
    marks = (make_annotation(5, 1, by=None), make_annotation(6, 1, cancelled=True, by=3))
    put(make_task(1, annotations=marks, note="Grüße 木", deep={"a": [1, None]}), make_task(2, image="/b.png"))
    assert store.tasks.ids(project) == {1, 2}
    assert store.tasks.annotations(project) == {1: marks}
    assert store.tasks.annotations(project, [2]) == {}
    assert store.tasks.data(project, [1, 99]) == {1: {"image": "/a.png", "note": "Grüße 木", "deep": {"a": [1, None]}}}
    counts = store.tasks.counts(project)
    assert (counts.tasks, counts.annotations, counts.cancelled) == (2, 1, 1)


def test_the_table_has_a_row_for_each_task_in_order(store, project, put, make_task, make_annotation):
    put(make_task(30), make_task(4, annotations=(make_annotation(1, 4), make_annotation(2, 4, cancelled=True))))
    store.tasks.set_labels(project, {4: ("crack", None), 30: (None, "The label 'x' is gone.")})
    store.tasks.set_content(project, {4: "aa"})
    store.tasks.set_holdout(project, [4])
    table = store.tasks.rows(project)
    assert table.task_id.tolist() == [4, 30]
    assert table.label.tolist() == ["crack", None]
    assert table.holdout.tolist() == [True, False]
    assert table.content_hash.tolist() == ["aa", None]
    assert table.n_annotations.tolist() == [1, 0]
    assert table.n_cancelled.tolist() == [1, 0]
    assert table.is_labeled.tolist() == [True, False]
    assert (table.task_id.dtype, table.holdout.dtype, table.label.dtype) == (np.int64, np.bool_, np.object_)
    assert store.tasks.label_problems(project) == {30: "The label 'x' is gone."}


def test_the_table_of_an_empty_project_has_typed_empty_columns(store, project):
    table = store.tasks.rows(project)
    assert table.task_id.shape == table.label.shape == table.holdout.shape == (0,)
    assert (table.task_id.dtype, table.holdout.dtype) == (np.int64, np.bool_)


def test_annotations_are_replaced_as_a_set(store, project, put, make_task, make_annotation):
    put(make_task(1, annotations=(make_annotation(5, 1), make_annotation(6, 1))))
    put(make_task(1, annotations=(make_annotation(6, 1), make_annotation(7, 1))))
    assert [one.annotation_id for one in store.tasks.annotations(project)[1]] == [6, 7]
    put(make_task(1, annotations=()))
    assert store.tasks.annotations(project) == {}


def test_a_read_without_annotations_leaves_them(store, project, put, make_task, make_annotation):
    put(make_task(1, annotations=(make_annotation(5, 1),)))
    put(make_task(1, at=LATER))
    assert [one.annotation_id for one in store.tasks.annotations(project)[1]] == [5]


def test_an_answer_that_arrives_late_changes_nothing(store, project, put, make_task, make_annotation):
    put(make_task(1, image="/new.png", at=LATER, annotations=(make_annotation(5, 1),)))
    put(make_task(1, image="/old.png", at=NOON, annotations=()))
    assert store.tasks.data(project, [1]) == {1: {"image": "/new.png"}}
    assert 1 in store.tasks.annotations(project)


def test_the_test_set_survives_a_new_read_and_loses_deleted_tasks_only(store, project, put, make_task):
    put(make_task(1), make_task(2), make_task(3))
    assert store.tasks.test_set(project) == set()
    store.tasks.lock_test_set(project, [1, 2])
    put(make_task(1, at=LATER, image="/other.png"))
    store.tasks.delete(project, [2])
    assert store.tasks.test_set(project) == {1}
    store.projects.forget(project)
    assert store.tasks.test_set(project) == set()


def test_labels_and_holdout_survive_a_new_read(store, project, put, make_task):
    put(make_task(1))
    store.tasks.set_labels(project, {1: ("crack", None)})
    store.tasks.set_holdout(project, [1])
    put(make_task(1, at=LATER))
    table = store.tasks.rows(project)
    assert (table.label[0], table.holdout[0]) == ("crack", True)


def test_a_changed_image_is_unread_again_and_an_unchanged_one_is_not(store, project, put, make_task):
    put(make_task(1), make_task(2), make_task(3, image=None))
    store.tasks.set_content(project, {1: "aa", 2: "bb", 3: "cc"})
    put(make_task(1, at=LATER, note="new"), make_task(2, image="/other.png", at=LATER), make_task(3, image=None))
    assert store.tasks.rows(project).content_hash.tolist() == ["aa", None, "cc"]
    assert [row.task_id for row in store.tasks.unread(project, 10)] == [2]


def test_bytes_of_a_replaced_image_are_not_taken_for_the_new_one(store, project, put, make_task):
    put(make_task(1, image="/old.png"), make_task(2, image="/b.png"))
    reading = {row.task_id: row.image for row in store.tasks.unread(project, 10)}
    put(make_task(1, image="/new.png", at=LATER))
    store.tasks.set_content(project, {1: "old bytes", 2: "bb"}, references=reading)
    assert store.tasks.rows(project).content_hash.tolist() == [None, "bb"]


def test_a_failed_image_waits_for_its_retry_and_comes_last(store, project, put, make_task):
    put(make_task(1), make_task(2), make_task(3))
    store.tasks.set_image_error(project, 1, "HTTP 404")
    assert [row.task_id for row in store.tasks.unread(project, 10)] == [2, 3]
    due = store.tasks.unread(project, 10, retry_s=0)
    assert [(row.task_id, row.image_error) for row in due] == [(2, None), (3, None), (1, "HTTP 404")]
    assert [row.task_id for row in store.tasks.unread(project, 1)] == [2]
    assert [row.task_id for row in store.tasks.unreadable(project, 10)] == [1]


@pytest.mark.parametrize("how", ["read", "replaced"])
def test_an_image_error_ends(store, project, put, make_task, how):
    put(make_task(1))
    store.tasks.set_image_error(project, 1, "HTTP 404")
    if how == "read":
        store.tasks.set_content(project, {1: "aa"})
    else:
        put(make_task(1, image="/new.png", at=LATER))
        assert [row.task_id for row in store.tasks.unread(project, 10)] == [1]
    assert store.tasks.unreadable(project, 10) == []


def test_an_image_that_was_read_once_and_fails_is_known_until_its_next_try(store, project, put, make_task):
    put(make_task(1), make_task(2), make_task(3))
    store.tasks.set_content(project, {1: "aa", 2: "bb"})
    store.tasks.set_image_error(project, 1, "gone")
    store.tasks.set_image_error(project, 3, "never there")
    assert store.tasks.failed_again(project) == {1}
    assert store.tasks.failed_again(project, retry_s=-1) == set()
    store.tasks.set_content(project, {1: "aa"})
    assert store.tasks.failed_again(project) == set()


def test_an_error_may_quote_bytes_that_are_no_text(store, project, put, make_task):
    put(make_task(1))
    store.tasks.set_image_error(project, 1, "No file \udcff\0.png")
    assert store.tasks.unreadable(project, 1)[0].image_error == "No file \\udcff\\0.png"


def test_fields_of_the_data_come_as_columns_in_the_order_asked_for(store, project, put, make_task):
    put(make_task(1, weather="rain"), make_task(2), make_task(3, weather="sun", hour=7))
    columns = store.tasks.columns(project, [3, 9, 1, 2], ["weather", "hour"])
    assert columns["weather"].tolist() == ["sun", None, "rain", None]
    assert columns["hour"].tolist() == [7, None, None, None]
    assert store.tasks.columns(project, [1], []) == {}


def test_task_data_json_cannot_hold_is_stored_all_the_same(store, project, put, make_task):
    put(make_task(1, sharpness=math.nan, surrogate="\ud800", size=np.float32(0.5)))
    assert store.tasks.data(project, [1])[1] == {
        "image": "/a.png",
        "sharpness": None,
        "surrogate": "\ud800",
        "size": 0.5,
    }


def test_the_image_is_where_the_label_config_says(store, project, put, make_task):
    put(make_task(1, image=None, photo="/p.png"), image_field="photo")
    assert store.tasks.unread(project, 1)[0].image == "/p.png"
    put(make_task(2, image=None))
    assert store.tasks.unread(project, 2)[1].image is None


def test_deleted_tasks_go_with_their_annotations(store, project, put, make_task, make_annotation):
    put(make_task(1, annotations=(make_annotation(5, 1),)), make_task(2, annotations=(make_annotation(6, 2),)))
    store.tasks.delete(project, [1, 99])
    assert store.tasks.ids(project) == {2}
    assert set(store.tasks.annotations(project)) == {2}


def test_the_holdout_is_exactly_what_was_given_last(store, project, put, make_task):
    put(*(make_task(number) for number in range(1, 5)))
    store.tasks.set_holdout(project, [1, 2])
    store.tasks.set_holdout(project, np.array([2, 3]))
    assert store.tasks.rows(project).holdout.tolist() == [False, True, True, False]


def test_annotators_and_labels_are_counted_from_a_moment_on(store, project, put, make_task, make_annotation):
    put(
        make_task(
            1,
            annotations=(
                make_annotation(1, 1, by=1, at=NOON),
                make_annotation(2, 1, by=2, at=LATER),
                make_annotation(3, 1, by=2, at=LATER),
                make_annotation(4, 1, by=3, at=LATER, cancelled=True),
                make_annotation(5, 1, by=None, at=LATER),
            ),
        )
    )
    assert store.tasks.annotators(project, LATER) == 2
    assert store.tasks.annotators(project, NOON) == 3
    assert store.tasks.labels_since(project, LATER) == 3
    assert store.tasks.labels_since(project, LATER + timedelta(seconds=1)) == 0


def test_numpy_ids_find_what_plain_ids_stored(store, project, put, make_task):
    put(make_task(1), make_task(2))
    ids = np.array([1, 2])
    store.tasks.set_labels(np.int64(project), {ids[0]: ("crack", None)})
    store.tasks.set_image_error(project, ids[1], "HTTP 404")
    assert store.tasks.rows(project).label.tolist() == ["crack", None]
    assert set(store.tasks.data(project, ids)) == {1, 2}
    store.tasks.delete(project, ids[:1])
    assert store.tasks.ids(project) == {2}


def test_tasks_of_a_project_nobody_connected_are_refused(store, make_task):
    with pytest.raises(StoreError, match="refused"):
        store.tasks.upsert(99, [make_task(1)], image_field="image")
    assert store.tasks.ids(99) == set()


def test_nothing_to_do_is_no_error(store, project, put):
    put()
    store.tasks.delete(project, [])
    store.tasks.set_labels(project, {})
    store.tasks.set_content(project, {})
    store.tasks.set_holdout(project, [])
    assert store.tasks.data(project, []) == {}
    assert store.tasks.annotations(project, []) == {}


def test_a_project_of_12000_tasks_crosses_every_chunk_and_reads_fast(store, project, put, make_task):
    n_tasks = 12_000
    put(*(make_task(number, image=f"/{number}.png") for number in range(n_tasks)))
    store.tasks.set_content(project, {number: f"{number:064x}" for number in range(n_tasks)})
    store.tasks.set_holdout(project, range(0, n_tasks, 2))
    started = time.perf_counter()
    table = store.tasks.rows(project)
    assert time.perf_counter() - started < 1.0
    np.testing.assert_array_equal(table.task_id, np.arange(n_tasks))
    np.testing.assert_array_equal(table.holdout, np.arange(n_tasks) % 2 == 0)
    assert len(store.tasks.data(project, range(n_tasks))) == n_tasks
    store.tasks.delete(project, range(1, n_tasks))
    assert store.tasks.ids(project) == {0}


def test_a_field_of_the_task_data_is_found_and_changed_alone(store, project, put, make_task):
    put(make_task(1, mine="a"), make_task(2), make_task(3, mine="c"))
    assert store.tasks.texts(project, "mine") == {1: "a", 3: "c"}
    before = store.tasks.data(project, [1, 2, 3])
    store.tasks.set_text(project, 2, "mine", "b")
    store.tasks.set_text(project, 3, "mine", None)
    store.tasks.set_text(project, 4, "mine", "nobody")
    assert store.tasks.texts(project, "mine") == {1: "a", 2: "b"}
    after = store.tasks.data(project, [1, 2, 3, 4])
    assert after == {1: before[1], 2: {**before[2], "mine": "b"}, 3: {"image": before[3]["image"]}}


def test_the_newest_annotation_is_the_one_changed_last(store, project, put, make_task, make_annotation):
    assert store.tasks.newest_annotation(project) is None
    first, second = make_annotation(5, 1), make_annotation(6, 2)
    put(make_task(1, annotations=(replace(first, updated_at=LATER),)), make_task(2, annotations=(second,)))
    assert store.tasks.newest_annotation(project) == max(LATER, second.updated_at)
