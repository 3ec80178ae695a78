from __future__ import annotations

import sqlite3
import stat
import sys
import threading
import time

import pytest
from sqlalchemy import select

from ls_backend.errors import StoreError
from ls_backend.store import Store, schema
from ls_backend.store.database import Database, chunks


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("not a url", "not a SQLAlchemy URL"),
        ("mysql://user:secret@host/name", "supported are sqlite and postgresql"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
    ],
)
def test_a_url_of_no_use_is_refused_with_the_remedy(url, words):
    with pytest.raises(StoreError, match=words) as caught:
        Store(url)
    assert "DATABASE_URL" in caught.value.hint
    assert "secret" not in str(caught.value)


def test_a_database_that_cannot_be_reached_is_named_without_its_password():
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError) as caught:
        Store("postgres://user:secret@127.0.0.1:1/name")
    assert "127.0.0.1:1/name" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_missing_driver_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match="psycopg") as caught:
        Store("postgresql://user:secret@127.0.0.1:1/name")
    assert "ls-backend[postgres]" in caught.value.hint


def test_a_place_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(f"sqlite:///{tmp_path / 'file' / 'records.sqlite3'}")


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "records.sqlite3").write_bytes(b"no database " * 1000)
    with pytest.raises(StoreError, match="not a database"):
        Store(f"sqlite:///{tmp_path / 'records.sqlite3'}")


def test_the_file_is_created_for_its_owner_only(tmp_path):
    path = tmp_path / "new" / "records.sqlite3"
    store = Store(f"sqlite:///{path}")
    store.projects.ensure(1, access_token="secret")
    modes = {item.name: stat.S_IMODE(item.stat().st_mode) for item in path.parent.iterdir()}
    store.dispose()
    assert set(modes.values()) == {0o600}, modes


def test_sqlite_writes_ahead_and_waits_for_its_turn(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'records.sqlite3'}")
    with database.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    database.dispose()
    assert pragmas == {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "busy_timeout": 15_000}


def test_a_failed_write_leaves_nothing(store, project):
    def write_and_fail():
        with store._database.write() as connection:
            connection.execute(schema.projects.delete())
            raise RuntimeError("the worker stumbles")

    with pytest.raises(RuntimeError, match="stumbles"):
        write_and_fail()
    assert store.projects.get(project) is not None


def test_readers_do_not_wait_for_a_writer(store, project):
    with store._database.write() as connection:
        connection.execute(schema.projects.update().values(title="not yet"))
        started = time.perf_counter()
        assert store.projects.get(project).title == ""
        assert time.perf_counter() - started < 1.0
    assert store.projects.get(project).title == "not yet"


def test_a_read_sees_one_moment(store, project):
    titles = select(schema.projects.c.title)
    if store._database.dialect.name != "sqlite":
        pytest.skip("PostgreSQL reads each statement at its own moment")
    with store._database.read() as connection:
        before = connection.scalar(titles)
        store.projects.set(project, title="changed")
        assert connection.scalar(titles) == before


def test_twenty_threads_share_a_store(store, project):
    failures = []

    def work():
        try:
            for _ in range(10):
                store.projects.bump(project)
                store.projects.behind()
        except StoreError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.projects.get(project).wanted_generation == 200


def test_a_forked_child_opens_connections_of_its_own(store, url, project, processes):
    code = """
        import os, sys
        from ls_backend.store import Store
        store = Store(sys.argv[1])
        store.projects.bump(1)
        child = os.fork()
        for _ in range(50):
            store.projects.bump(1)
        if child == 0:
            store.dispose()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        store.dispose()
    """
    processes(code, url, n=1)
    assert store.projects.get(project).wanted_generation == 101


def test_a_disposed_store_works_again(store, project):
    store.dispose()
    store.ping()
    assert store.projects.get(project) is not None


def test_the_error_of_the_database_quotes_no_values(tmp_path):
    path = tmp_path / "records.sqlite3"
    store = Store(f"sqlite:///{path}")
    with sqlite3.connect(path) as raw:
        raw.execute("DROP TABLE problems")
        raw.execute("DROP TABLE projects")
    raw.close()
    with pytest.raises(StoreError) as caught:
        store.projects.ensure(1, access_token="secret-token")
    assert "no such table" in str(caught.value)
    assert "secret-token" not in str(caught.value)
    assert "secret-token" not in repr(caught.value.__cause__)
    store.dispose()


def test_ping_tells_a_database_that_went_away(tmp_path):
    folder = tmp_path / "gone"
    store = Store(f"sqlite:///{folder / 'records.sqlite3'}")
    store.dispose()
    for item in folder.iterdir():
        item.unlink()
    folder.rmdir()
    with pytest.raises(StoreError, match="unable to open"):
        store.ping()
    store.dispose()


def test_chunks_hold_everything_once_and_in_order():
    assert list(chunks(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(chunks([])) == []
