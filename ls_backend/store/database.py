"""One engine per process: how a transaction is opened, and what becomes of its errors.

A write takes SQLite's write lock when it begins. Begun as a read and upgraded later, two writers fail at once, whatever
the busy timeout. No network call, embedding or Redis belongs inside a write.
"""

from __future__ import annotations

import json
import math
import os
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import Connection, Dialect, Engine, Table, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from ls_backend.errors import StoreError

BUSY_TIMEOUT_MS = 15_000
CHUNK = 5_000  # values of one IN list; SQLite and PostgreSQL both take 32,766
_T = TypeVar("_T")


class Database:
    """The connection pool behind every record. Safe to share between threads."""

    def __init__(self, url: str) -> None:
        target = _parse(url)
        if target.get_backend_name() == "sqlite":
            _prepare_file(target)
        self.engine = _open(target)

    @property
    def dialect(self) -> Dialect:
        """The dialect in use."""
        return self.engine.dialect

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent look at the records; waits for no writer.

        Raises:
            StoreError: The database refused.
        """
        with _told(self.engine), self.engine.connect() as connection:
            connection.execution_options(readonly=True)
            with connection.begin():
                yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may change records; all of it happens or nothing.

        Raises:
            StoreError: The database refused, or another writer held it for longer than the busy timeout.
        """
        with _told(self.engine), self.engine.begin() as connection:
            yield connection

    def dispose(self) -> None:
        """Close every idle connection."""
        self.engine.dispose()


def upsert(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT that knows ON CONFLICT in the dialect of the connection."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def replace_rows(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; where the primary key exists, overwrite the other columns. All rows carry the same columns."""
    if not rows:
        return
    statement = upsert(connection, table)
    key = [column.name for column in table.primary_key]
    changed = {name: statement.excluded[name] for name in rows[0] if name not in key}
    connection.execute(statement.on_conflict_do_update(index_elements=key, set_=changed), rows)


def chunks(values: Iterable[_T], size: int = CHUNK) -> Iterator[list[_T]]:
    """Cut values into lists short enough for one statement."""
    pending = list(values)
    for start in range(0, len(pending), size):
        yield pending[start : start + size]


def _parse(url: str) -> URL:
    try:
        target = make_url(url)
    except ArgumentError as error:
        raise StoreError(
            "DATABASE_URL is not a SQLAlchemy URL; expected for example sqlite:////data/ls_backend.sqlite3 or "
            "postgresql://user:password@host/name.",
            hint="Correct DATABASE_URL, or unset it to use SQLite in DATA_DIR.",
        ) from error
    if target.get_backend_name() == "postgres":  # the spelling of many hosting services
        target = target.set(drivername="postgresql")
    if target.drivername == "postgresql":
        target = target.set(drivername="postgresql+psycopg")
    if target.get_backend_name() not in {"sqlite", "postgresql"}:
        raise StoreError(
            f"DATABASE_URL names {target.get_backend_name()}; supported are sqlite and postgresql.",
            hint="Correct DATABASE_URL, or unset it to use SQLite in DATA_DIR.",
        )
    if target.get_backend_name() == "sqlite" and target.database in {None, "", ":memory:"}:
        raise StoreError(
            "DATABASE_URL is an SQLite database in memory, which other processes cannot see; expected a file.",
            hint="Give DATABASE_URL a path, or unset it to use SQLite in DATA_DIR.",
        )
    return target


def _prepare_file(target: URL) -> None:
    """Create the file for its owner only: it holds Label Studio's token."""
    path = Path(str(target.database))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StoreError(f"{path} cannot be opened for writing: {error.strerror}.", path=str(path)) from error


def _open(target: URL) -> Engine:
    is_sqlite = target.get_backend_name() == "sqlite"
    connect: dict[str, Any] = {"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False} if is_sqlite else {}
    try:
        engine = create_engine(
            target,
            connect_args=connect,
            max_overflow=32,
            pool_pre_ping=not is_sqlite,
            hide_parameters=True,  # they may hold a token
            json_serializer=_dump,
        )
    except ModuleNotFoundError as error:
        raise StoreError(
            f"{target.drivername} needs the Python package {error.name}, which is not installed.",
            hint="Install it with `pip install 'ls-backend[postgres]'`.",
        ) from error
    if is_sqlite:
        event.listen(engine, "connect", _on_connect)
        event.listen(engine, "begin", _on_begin)
    _forget_in_children(engine)
    return engine


def _dump(value: object) -> str:
    """Write JSON both databases take: NaN becomes null, NumPy numbers plain ones, anything else its text."""
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False, default=_plain)
    except ValueError:
        return json.dumps(_finite(value), separators=(",", ":"), allow_nan=False, default=_plain)


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else str(value)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value


def _on_connect(connection: Any, _record: object) -> None:  # noqa: ANN401 - a DBAPI connection
    connection.isolation_level = None  # BEGIN is sent by _on_begin
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    _write_ahead(connection)
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _write_ahead(connection: Any) -> None:  # noqa: ANN401 - a DBAPI connection
    """Switch to write-ahead logging; the file remembers it, and the switch itself ignores the busy timeout."""
    for attempt in range(50):
        try:
            if connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] == "wal":
                return
        except connection.OperationalError:
            if attempt == 49:
                raise
        time.sleep(0.02)


def _on_begin(connection: Connection) -> None:
    readonly = connection.get_execution_options().get("readonly")
    connection.exec_driver_sql("BEGIN" if readonly else "BEGIN IMMEDIATE")


def _forget_in_children(engine: Engine) -> None:
    """A forked child must not speak on its parent's connections."""
    alive = weakref.ref(engine)

    def after_fork() -> None:
        inherited = alive()
        if inherited is not None:
            inherited.dispose(close=False)

    os.register_at_fork(after_in_child=after_fork)


@contextmanager
def _told(engine: Engine) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        # The driver's own words only: SQLAlchemy's text repeats the statement.
        words = str(error.orig) if isinstance(error, DBAPIError) else str(error)
        first_line = words.strip().splitlines()[0] if words.strip() else type(error).__name__
        where = engine.url.render_as_string(hide_password=True)
        raise StoreError(f"The database {where} refused: {first_line}", database=where) from error
