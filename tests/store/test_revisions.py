from __future__ import annotations

import json

import pytest
from sqlalchemy import text

from ls_backend.errors import StoreError
from ls_backend.store import Store, revisions
from ls_backend.store.database import Database


def add(store, settings, **how):
    return store.revisions.add(1, json.dumps(settings), **{"source": "dashboard", "who": "ana", **how})


def test_the_newest_revision_is_in_force_and_wants_an_update(store, project):
    wanted = store.projects.get(project).wanted_generation
    assert add(store, {"preset": "margin"}).revision == 1
    second = add(store, {"preset": "entropy"}, source="api", who="ben")
    assert (second.revision, second.source, second.who) == (2, "api", "ben")
    assert store.revisions.newest(project) == second
    assert json.loads(store.projects.get(project).settings_json) == {"preset": "entropy"}
    assert store.projects.get(project).wanted_generation == wanted + 2


def test_settings_in_force_already_make_no_revision_and_want_nothing(store, project):
    first = add(store, {"preset": "margin", "seed": 1})
    wanted = store.projects.get(project).wanted_generation
    assert add(store, {"seed": 1, "preset": "margin"}, who="ben") == first
    assert store.projects.get(project).wanted_generation == wanted


def test_whoever_comes_second_changes_nothing(store, project):
    add(store, {"seed": 1})
    assert add(store, {"seed": 2}, expected=1).revision == 2
    assert add(store, {"seed": 3}, expected=1) is None
    assert json.loads(store.projects.get(project).settings_json) == {"seed": 2}
    assert [item.revision for item in store.revisions.list(project, 10)] == [2, 1]


def test_the_first_revision_may_be_expected_to_be_the_first(store, project):
    assert add(store, {"seed": 1}, expected=0).revision == 1
    assert add(store, {"seed": 2}, expected=0) is None


def test_of_many_who_save_at_once_from_the_same_revision_one_succeeds(url, store, project, processes):
    add(store, {"seed": 0})
    code = """
        import json, os, sys
        from ls_backend.store import Store
        store = Store(sys.argv[1])
        made = store.revisions.add(1, json.dumps({"seed": os.getpid()}), source="api", who="x", expected=1)
        print(made is not None)
        store.dispose()
    """
    printed = processes(code, url, n=4)
    assert sorted(printed) == ["False", "False", "False", "True"]
    assert len(store.revisions.list(project, 10)) == 2


def test_only_the_latest_revisions_are_kept(store, project, monkeypatch):
    monkeypatch.setattr(revisions, "REVISIONS_KEPT", 3)
    for seed in range(5):
        add(store, {"seed": seed})
    assert [item.revision for item in store.revisions.list(project, 10)] == [5, 4, 3]
    assert [item.revision for item in store.revisions.list(project, 2)] == [5, 4]
    assert store.revisions.get(project, 2) is None
    assert json.loads(store.revisions.get(project, 3).settings_json) == {"seed": 2}


def test_an_unknown_project_has_no_settings(store):
    with pytest.raises(StoreError, match="not known"):
        add(store, {})
    assert store.revisions.newest(1) is None


def test_revisions_go_with_their_project(store, project):
    add(store, {"seed": 1})
    store.projects.forget(project)
    assert store.revisions.newest(project) is None


def test_markup_in_a_name_is_only_stored(store, project):
    assert add(store, {}, who="<b>ana</b>").who == "<b>ana</b>"
    assert store.revisions.newest(project).who == "<b>ana</b>"


def test_a_database_from_before_gets_the_settings_in_force_as_its_first_revision(url, store):
    store.projects.ensure(7)
    store.projects.ensure(8)
    store.projects.set(7, settings_json='{"seed": 5}')
    database = Database(url)
    with database.write() as connection:
        connection.execute(text("DROP TABLE settings_revisions"))
        connection.execute(text("ALTER TABLE projects DROP COLUMN said_params"))
        connection.execute(text("DELETE FROM schema_version WHERE number > 5"))
    again = Store(url)
    first = again.revisions.newest(7)
    assert (first.revision, first.settings_json, first.source) == (1, '{"seed": 5}', "label-studio")
    assert again.revisions.newest(8) is None
    assert again.projects.get(7).said_params is None
    again.dispose()
    database.dispose()
