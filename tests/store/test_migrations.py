from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import insert, inspect, text

from ls_backend.errors import StoreError
from ls_backend.store import Store, schema
from ls_backend.store.database import Database
from ls_backend.store.migrations import MIGRATIONS, Migration, migrate


@pytest.fixture
def database(url):
    opened = Database(url)
    yield opened
    opened.dispose()


def columns_of(database, table):
    return {column["name"] for column in inspect(database.engine).get_columns(table)}


def steps_made(database):
    with database.read() as connection:
        return list(connection.scalars(text("SELECT number FROM schema_version ORDER BY number")))


def test_an_empty_database_gets_every_table(database):
    assert migrate(database) == MIGRATIONS[-1].number
    assert set(schema.metadata.tables) <= set(inspect(database.engine).get_table_names())
    assert steps_made(database) == [step.number for step in MIGRATIONS]


def test_numbers_count_from_one_without_gaps():
    assert [step.number for step in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))


def test_migrating_again_changes_nothing(database):
    migrate(database)
    migrate(database)
    assert steps_made(database) == [step.number for step in MIGRATIONS]


def test_a_new_step_runs_once_and_keeps_the_records(store, database):
    store.projects.ensure(7)
    ran = []

    def add_a_column(connection):
        ran.append(True)
        connection.execute(text("ALTER TABLE projects ADD COLUMN extra INTEGER"))

    steps = (*MIGRATIONS, Migration(len(MIGRATIONS) + 1, "one more", add_a_column))
    migrate(database, steps)
    migrate(database, steps)
    assert ran == [True]
    assert "extra" in columns_of(database, "projects")
    assert store.projects.get(7) is not None


def test_a_step_that_fails_leaves_nothing_behind(database):
    def fail_halfway(connection):
        schema.projects.create(connection)
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        migrate(database, (Migration(1, "first tables", fail_halfway),))
    assert inspect(database.engine).get_table_names() == []
    migrate(database)
    assert steps_made(database) == [step.number for step in MIGRATIONS]


def test_a_database_from_before_the_test_set_gets_its_table_and_keeps_its_records(url, store, database):
    store.projects.ensure(7)
    with database.write() as connection:
        connection.execute(text("DROP TABLE test_tasks"))
        connection.execute(text("DELETE FROM schema_version WHERE number > 1"))
    again = Store(url)
    again.tasks.lock_test_set(7, [3, 4])
    assert again.tasks.test_set(7) == {3, 4}
    assert again.projects.get(7) is not None
    again.dispose()


def test_versions_from_before_the_reasons_of_the_gate_have_none(url, store, database, make_version):
    store.projects.ensure(7)
    store.versions.add(make_version(1, state="rejected", project_id=7))
    with database.write() as connection:
        connection.execute(text("ALTER TABLE versions DROP COLUMN reason"))
        connection.execute(text("DELETE FROM schema_version WHERE number > 6"))
    again = Store(url)
    (old,) = again.versions.list(7)
    assert (old.state, old.reason) == ("rejected", None)
    again.dispose()


def test_a_pin_from_before_its_moment_was_kept_stays(url, store, database):
    store.projects.ensure(7)
    store.projects.pin(7, "al-1-0badcafe")
    with database.write() as connection:
        connection.execute(text("ALTER TABLE projects DROP COLUMN pinned_at"))
        connection.execute(text("DELETE FROM schema_version WHERE number > 7"))
    again = Store(url)
    found = again.projects.get(7)
    assert (found.pinned_version, found.pinned_at) == ("al-1-0badcafe", None)
    again.projects.pin(7, None)
    assert again.projects.get(7).pinned_at is not None
    again.dispose()


def test_the_tables_in_the_database_are_those_in_the_code(database):
    migrate(database)
    for name, table in schema.metadata.tables.items():
        assert columns_of(database, name) == set(table.columns.keys())


def test_a_database_of_a_newer_version_is_left_alone(url, store, database):
    with database.write() as connection:
        connection.execute(
            insert(schema.schema_version).values(number=999, name="future", applied_at=datetime.now(UTC))
        )
    with pytest.raises(StoreError, match="newer version") as caught:
        Store(url)
    assert "Upgrade" in caught.value.hint


def test_six_processes_may_open_a_new_database_at_once(url, processes):
    code = """
        import sys
        from ls_backend.store import Store
        store = Store(sys.argv[1])
        print(store.projects.ensure(1).id, store.projects.bump(1))
        store.dispose()
    """
    printed = processes(code, url, n=6)
    assert sorted(int(output.split()[1]) for output in printed) == [1, 2, 3, 4, 5, 6]
