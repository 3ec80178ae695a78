from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from ls_backend.domain import Finding
from ls_backend.errors import StoreError
from ls_backend.store.projects import EVENTS_KEPT


def test_a_project_is_connected_and_updated_field_by_field(store):
    store.projects.ensure(7, label_config="<View/>", hostname="http://ls", access_token="secret", origin="100")
    again = store.projects.ensure(7, hostname="http://other")
    assert (again.label_config, again.hostname, again.access_token, again.origin, again.active) == (
        "<View/>",
        "http://other",
        "secret",
        "100",
        True,
    )
    assert store.projects.get(7) == again
    assert store.projects.get(8) is None


def test_a_token_never_shows_in_a_printed_project(store):
    project = store.projects.ensure(7, access_token="secret-token")
    store.projects.set(7, webhook_secret="webhook-secret")
    assert "secret" not in repr(project)
    assert "webhook-secret" not in repr(store.projects.get(7))


def test_another_label_studio_database_under_the_same_id_starts_over(store, make_task):
    store.projects.ensure(7, origin="100")
    store.projects.set(7, webhook_secret="old", synced_until=datetime.now(UTC))
    store.tasks.upsert(7, [make_task(1)], image_field="image")
    store.problems.report(7, Finding("image-unreadable", "error", "task 1", "No."))
    running = store.projects.note_event(7, "ANNOTATION_CREATED", 1, 1)
    sequence = store.projects.next_sequence(7)

    fresh = store.projects.ensure(7, origin="200")

    assert fresh.origin == "200"
    assert fresh.webhook_secret is None
    assert fresh.synced_until is None
    assert store.tasks.ids(7) == set()
    assert store.problems.open(7) == []
    assert store.projects.events(7, 10) == []
    assert store.projects.behind() == [7]
    assert not store.projects.fence(7, running), "an update that still runs for the old project must not publish"
    assert store.projects.next_sequence(7) > sequence


def test_the_first_origin_is_adopted_without_wiping(store, make_task):
    store.projects.ensure(7)
    store.tasks.upsert(7, [make_task(1)], image_field="image")
    assert store.projects.ensure(7, origin="100").origin == "100"
    assert store.tasks.ids(7) == {1}


def test_columns_are_set_and_times_come_back_in_utc(store, project):
    paris = datetime(2026, 3, 1, 13, 0, 0, 123456, tzinfo=timezone(timedelta(hours=1)))
    store.projects.set(project, synced_until=paris, settings_json='{"explore":0}', active=False, backend_id=5)
    found = store.projects.get(project)
    assert found.synced_until == paris
    assert found.synced_until.utcoffset() == timedelta(0)
    assert (found.settings_json, found.active, found.backend_id) == ('{"explore":0}', False, 5)
    store.projects.set(project, settings_json=None)
    assert store.projects.get(project).settings_json is None


def test_a_moment_without_time_zone_is_refused(store, project):
    with pytest.raises(StoreError, match="no time zone"):
        store.projects.set(project, synced_until=datetime(2026, 3, 1))  # noqa: DTZ001 - the point of the test


def test_counters_cannot_be_set(store, project):
    with pytest.raises(StoreError, match="wanted_generation cannot be set"):
        store.projects.set(project, wanted_generation=5)


def test_setting_an_unknown_project_says_how_to_connect_it(store):
    with pytest.raises(StoreError, match="Project 9 is not known") as caught:
        store.projects.set(9, active=True)
    assert "connect 9" in caught.value.hint


def test_an_event_is_written_down_and_wants_one_update(store, project):
    assert store.projects.note_event(project, "ANNOTATION_CREATED", 11, 21) == 1
    assert store.projects.note_event(project, "TASKS_DELETED", None, None) == 2
    newest, oldest = store.projects.events(project, 10)
    assert (newest.generation, newest.action, newest.task_id, newest.annotation_id) == (2, "TASKS_DELETED", None, None)
    assert (oldest.action, oldest.task_id, oldest.annotation_id) == ("ANNOTATION_CREATED", 11, 21)
    assert store.projects.behind() == [project]


def test_events_of_a_project_nobody_connected_are_ignored(store):
    assert store.projects.note_event(99, "ANNOTATION_CREATED", 1, 1) == 0
    assert store.projects.bump(99) == 0
    assert store.projects.get(99) is None


def test_old_events_are_dropped(store, project):
    for number in range(EVENTS_KEPT + 200):
        store.projects.note_event(project, "ANNOTATION_CREATED", number, number)
    kept = store.projects.events(project, 10_000)
    assert len(kept) == EVENTS_KEPT
    assert kept[0].generation == EVENTS_KEPT + 200


def test_finishing_catches_up_and_a_late_finisher_takes_nothing_back(store, project):
    for _ in range(3):
        store.projects.bump(project)
    store.projects.finish(project, 2)
    assert store.projects.behind() == [project]
    store.projects.finish(project, 3)
    store.projects.finish(project, 1)
    assert store.projects.behind() == []
    assert store.projects.get(project).done_generation == 3


def test_inactive_projects_want_nothing(store, project):
    store.projects.bump(project)
    store.projects.set(project, active=False)
    assert store.projects.behind() == []
    assert store.projects.active() == []


def test_the_fence_lets_each_generation_through_once_and_none_backwards(store, project):
    assert store.projects.fence(project, 5)
    assert not store.projects.fence(project, 5)
    assert not store.projects.fence(project, 4)
    assert store.projects.fence(project, 6)
    assert not store.projects.fence(99, 1)


def test_windows_and_rounds_are_numbered_from_one(store, project):
    assert [store.projects.next_sequence(project) for _ in range(3)] == [1, 2, 3]
    assert store.projects.next_round(project) == 1
    with pytest.raises(StoreError, match="not known"):
        store.projects.next_round(99)


def test_a_forgotten_project_leaves_nothing_and_its_neighbour_all(
    store, make_task, make_annotation, make_window, make_version
):
    for project_id in (1, 2):
        store.projects.ensure(project_id)
        store.tasks.upsert(project_id, [make_task(1, annotations=(make_annotation(1, 1),))], image_field="image")
        store.windows.add(make_window("al-cold:1", project_id=project_id))
        store.windows.collected(project_id, "al-cold:1", {1: 10}, datetime.now(UTC))
        store.versions.add(make_version(1, project_id=project_id))
        store.predictions.put(project_id, "v", {1: [1.0]})
        store.problems.report(project_id, Finding("code", "error", "project", "No."))
        store.runs.start(project_id, "update")
        store.projects.bump(project_id)
    store.projects.forget(1)
    store.projects.forget(1)

    def holdings(project_id):
        return (
            store.tasks.ids(project_id),
            store.tasks.counts(project_id).annotations,
            len(store.windows.recent(project_id, 9)),
            len(store.windows.rows(project_id, "al-cold:1")),
            store.windows.count_old_rows(project_id),
            len(store.versions.list(project_id)),
            len(store.predictions.get(project_id, "v", [1])),
            len(store.problems.open(project_id)),
            len(store.runs.recent(project_id, 9)),
        )

    assert store.projects.get(1) is None
    assert holdings(1) == (set(), 0, 0, 0, 0, 0, 0, 0, 0)
    assert holdings(2) == ({1}, 1, 1, 3, 1, 1, 1, 1, 1)


def test_three_processes_bumping_lose_no_update(store, url, project, processes):
    code = """
        import sys
        from ls_backend.store import Store
        store = Store(sys.argv[1])
        given = [store.projects.note_event(1, "ANNOTATION_CREATED", n, n) for n in range(100)]
        given += [store.projects.bump(1) for _ in range(100)]
        print(",".join(map(str, given)))
        store.dispose()
    """
    printed = processes(code, url)
    generations = sorted(int(number) for output in printed for number in output.split(","))
    assert generations == list(range(1, 601))
    assert store.projects.get(project).wanted_generation == 600


def test_one_of_three_processes_passes_the_fence(store, url, project, processes):
    code = """
        import sys
        from ls_backend.store import Store
        store = Store(sys.argv[1])
        print(sum(store.projects.fence(1, generation) << generation for generation in range(1, 41)))
        store.dispose()
    """
    passed = [int(output) for output in processes(code, url)]
    assert passed[0] & passed[1] == passed[0] & passed[2] == passed[1] & passed[2] == 0
    assert (passed[0] | passed[1] | passed[2]) >> 40 == 1, "the last generation went through"
    assert not store.projects.fence(project, 40)
