"""Embeddings in LanceDB: one table for each backbone and size, appended to and never changed.

LanceDB takes seconds and 150 MB to import, so that happens with the first call. SQL is the truth of which task has
which image content; content counts as embedded only when its hash is here. Two workers may append the same hash:
readers take one of the rows.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ls_backend.errors import StoreError

_T = TypeVar("_T")
_APPEND_ROWS = 20_000  # each append is a version and a file
_READ_ROWS = 2_048  # larger batches cost memory and save no time
_LOOK_UP_ROWS = 2_000  # up to here an IN list beats reading the table
_NO_LIMIT = 2**31 - 1  # LanceDB returns ten rows when no limit is given
_ATTEMPTS = 4
_SPARE_BYTES = 64 * 2**20
_users: dict[str, int] = {}  # "first": process in which LanceDB's threads run, shared by every Vectors
_PASSING = ("Not found", "Retryable commit conflict")


@dataclass(frozen=True, slots=True)
class Loaded:
    """Embeddings in the order they were asked for.

    Attributes:
        vectors: (n, d) float32; rows that were not found are zero.
        found: (n,) bool.
        missing: Hashes without an embedding, each once, in the order asked for.
    """

    vectors: npt.NDArray[np.float32]
    found: npt.NDArray[np.bool_]
    missing: tuple[str, ...]


class Vectors:
    """Embeddings by backbone and content hash.

    Safe to share between threads. A process that forks must not have used it before: LanceDB's threads do not exist in
    the child, where an append ends in a segmentation fault. Such a child is refused.
    """

    def __init__(self, uri: str) -> None:
        """Remember where; nothing is opened yet.

        Args:
            uri: Local folder, or an object store such as s3://bucket/prefix.
        """
        self._uri = uri
        self._lock = threading.Lock()
        self._connection: Any = None
        self._tables: dict[str, Any] = {}

    def append(self, backbone: str, dim: int, hashes: Sequence[str], vectors: npt.NDArray[np.float32]) -> None:
        """Add embeddings, kept as float16.

        Args:
            backbone: Name of the network.
            dim: Size d of an embedding.
            hashes: n content hashes; those known already do no harm.
            vectors: (n, d), finite and within float16's range of 65,504.

        Raises:
            StoreError: Wrong shape, values float16 cannot hold, no space left, or LanceDB refused.
        """
        small = _as_float16(hashes, vectors, dim)
        if not hashes:
            return
        self._check_space(small.nbytes)
        for start in range(0, len(hashes), _APPEND_ROWS):
            stop = start + _APPEND_ROWS
            self._add(backbone, dim, _arrow_table(hashes[start:stop], small[start:stop], dim))

    def known(self, backbone: str, dim: int) -> set[str]:
        """Return the hashes that have an embedding."""

        def read() -> set[str]:
            table = self._table(backbone, dim)
            if table is None:
                return set()
            return set(table.search().select(["hash"]).limit(_NO_LIMIT).to_arrow()["hash"].to_pylist())

        return self._retry(read)

    def load(self, backbone: str, dim: int, hashes: Sequence[str]) -> Loaded:
        """Return embeddings by hash. 100,000 of size 1280 take about 2 s and 512 MB.

        Args:
            backbone: Name of the network.
            dim: Size d of an embedding.
            hashes: n content hashes; one may stand more than once.

        Raises:
            StoreError: LanceDB refused.
        """
        first: dict[str, int] = {}
        source = np.fromiter((first.setdefault(key, row) for row, key in enumerate(hashes)), np.int64, len(hashes))

        def read() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
            return self._read(self._table(backbone, dim), dim, first, len(hashes))

        vectors, found = self._retry(read)
        repeated = np.flatnonzero(source != np.arange(len(hashes)))
        vectors[repeated] = vectors[source[repeated]]
        found[repeated] = found[source[repeated]]
        missing = tuple(key for key, row in first.items() if not found[row])
        return Loaded(vectors=vectors, found=found, missing=missing)

    def version(self, backbone: str, dim: int) -> int:
        """Return a number that changes with every append or compaction; 0 before the first append."""

        def read() -> int:
            table = self._table(backbone, dim)
            return 0 if table is None else int(table.version)

        return self._retry(read)

    def compact(self, backbone: str, dim: int, *, keep_s: float = 3600.0) -> None:
        """Join the files of many appends into few. Belongs in one maintenance job; 200,000 rows take 1 s and 650 MB.

        Args:
            backbone: Name of the network.
            dim: Size d of an embedding.
            keep_s: Seconds that replaced files stay, for readers that still use them.

        Raises:
            StoreError: LanceDB refused.
        """

        def work() -> None:
            table = self._table(backbone, dim)
            if table is not None:
                table.optimize(cleanup_older_than=timedelta(seconds=keep_s))

        self._retry(work)

    def _add(self, backbone: str, dim: int, rows: Any) -> None:  # noqa: ANN401 - LanceDB has no types
        self._retry(lambda: self._table(backbone, dim, create=True).add(rows))

    @staticmethod
    def _read(
        table: Any,  # noqa: ANN401 - LanceDB has no types
        dim: int,
        first: dict[str, int],
        n_rows: int,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        vectors = np.zeros((n_rows, dim), dtype=np.float32)
        found = np.zeros(n_rows, dtype=np.bool_)
        if table is None or not first:
            return vectors, found
        query = table.search().select(["hash", "vector"]).limit(_NO_LIMIT)
        if len(first) <= _LOOK_UP_ROWS:
            query = query.where("hash IN (" + ", ".join(map(_quoted, first)) + ")")
        for batch in query.to_batches(_READ_ROWS):
            keys = batch.column("hash").to_pylist()
            rows = np.fromiter((first.get(key, -1) for key in keys), np.int64, len(keys))
            wanted = rows >= 0
            values = batch.column("vector").flatten().to_numpy(zero_copy_only=True).reshape(len(keys), dim)
            vectors[rows[wanted]] = values[wanted]
            found[rows[wanted]] = True
        return vectors, found

    def _table(self, backbone: str, dim: int, *, create: bool = False) -> Any:  # noqa: ANN401 - LanceDB has no types
        """Open the table; None when there is none and none is to be created."""
        name = _table_name(backbone, dim)
        with self._lock:
            _refuse_after_fork()
            if name not in self._tables:
                opened = self._open_table(name, dim, create=create)
                if opened is None:
                    return None
                self._tables[name] = opened
            return self._tables[name]

    def _open_table(self, name: str, dim: int, *, create: bool) -> Any:  # noqa: ANN401 - LanceDB has no types
        if self._connection is None:
            self._connection = _connect(self._uri)
        try:
            return self._connection.open_table(name)
        except ValueError as error:
            if "was not found" not in str(error):
                raise
        return self._connection.create_table(name, schema=_arrow_schema(dim), exist_ok=True) if create else None

    def _forget_handles(self) -> None:
        self._connection = None
        self._tables = {}

    def _retry(self, work: Callable[[], _T]) -> _T:
        """Repeat what failed because another process changed the table in between."""
        with _told(self._uri):
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    return work()
                except RuntimeError as error:
                    if attempt == _ATTEMPTS or not any(sign in str(error) for sign in _PASSING):
                        raise
                    with self._lock:
                        self._forget_handles()
            raise AssertionError("the last attempt returns or raises")

    def _check_space(self, n_bytes: int) -> None:
        if "://" in self._uri:
            return
        folder = Path(self._uri)
        with _told(self._uri):
            folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder).free
        if free < n_bytes + _SPARE_BYTES:
            raise StoreError(
                f"{folder} has {free / 2**20:.0f} MB left; {n_bytes / 2**20:.0f} MB of embeddings and 64 MB to spare "
                "are needed.",
                hint="Free disk space, or move DATA_DIR; embedding goes on by itself.",
                free_bytes=free,
                needed_bytes=n_bytes + _SPARE_BYTES,
            )


def _refuse_after_fork() -> None:
    """Note the process that uses LanceDB first, and refuse in the children it forks later."""
    if _users.setdefault("first", os.getpid()) != os.getpid():
        raise StoreError(
            f"Process {os.getpid()} was forked from one that had used the vector store, and LanceDB crashes there.",
            hint="Start worker processes afresh (spawn, subprocess) or fork before embeddings are used.",
        )


def _connect(uri: str) -> Any:  # noqa: ANN401 - LanceDB has no types
    import lancedb  # noqa: PLC0415 - seconds and 150 MB the server process does not need

    return lancedb.connect(uri, read_consistency_interval=timedelta(0))  # see what other processes append


def _as_float16(hashes: Sequence[str], vectors: npt.NDArray[np.float32], dim: int) -> npt.NDArray[np.float16]:
    if vectors.shape != (len(hashes), dim):
        raise StoreError(
            f"Embeddings have shape {vectors.shape}; expected {(len(hashes), dim)}, a row for each hash.",
            hint="This is a fault of the backbone or its caller, not of the store.",
        )
    with np.errstate(over="ignore"):
        small = vectors.astype(np.float16)
    bad = np.flatnonzero(~np.isfinite(small).all(axis=1))
    if bad.size:
        raise StoreError(
            f"{bad.size} of {len(hashes)} embeddings hold values that are not finite in float16 (first: row {bad[0]}); "
            "expected finite values up to 65,504.",
            hint="This is a fault of the backbone or its caller, not of the store.",
        )
    return small


def _arrow_schema(dim: int) -> Any:  # noqa: ANN401 - pyarrow has no types
    import pyarrow as pa  # noqa: PLC0415 - as lancedb

    return pa.schema(
        [
            pa.field("hash", pa.string(), nullable=False),
            pa.field("vector", pa.list_(pa.float16(), dim), nullable=False),
        ]
    )


def _arrow_table(hashes: Sequence[str], vectors: npt.NDArray[np.float16], dim: int) -> Any:  # noqa: ANN401 - as above
    import pyarrow as pa  # noqa: PLC0415 - as lancedb

    column = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors).reshape(-1)), dim)
    return pa.table([pa.array(list(hashes), type=pa.string()), column], schema=_arrow_schema(dim))


def _table_name(backbone: str, dim: int) -> str:
    """Name of the table: readable, and different for names that differ only in characters a table may not have."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", backbone)
    if plain != backbone:
        plain = f"{plain}-{hashlib.sha256(backbone.encode()).hexdigest()[:8]}"
    return f"{plain}-{dim}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@contextmanager
def _told(uri: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StoreError(f"The vector store at {uri} refused: {first_line}", uri=uri) from error
