"""Images on disk, by the SHA-256 of their bytes, with an index of where they came from.

Written to a temporary file and renamed, and checked against the hash when read: a crash or another process at the same
time leaves either a whole image or none. Several processes may share a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_EVICT_TO = 0.9


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a reference.

    Attributes:
        content_hash: SHA-256 of the bytes, hexadecimal.
        etag: Validator of the server; "" when it sent none.
        last_modified: Second validator; "" when the server sent none.
    """

    content_hash: str
    etag: str = ""
    last_modified: str = ""


class ImageCache:
    """A folder of images that never grows far beyond its limit; safe to share between threads and processes.

    Args:
        folder: Created when needed.
        limit_bytes: Above it the images used longest ago go; with 0 nothing is kept.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._objects = folder / "objects"
        self._index = folder / "index"
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._held_bytes: int | None = None

    def look_up(self, reference: str) -> tuple[Entry, bytes] | None:
        """Return what is kept of a reference, or None."""
        index_path = self._index_path(reference)
        try:
            entry = Entry(**json.loads(index_path.read_text(encoding="utf-8")))
            object_path = self._object_path(entry.content_hash)
            data = object_path.read_bytes()
        except (OSError, ValueError, TypeError):  # absent, or not written by us: fetched anew
            return None
        if hashlib.sha256(data).hexdigest() != entry.content_hash:
            object_path.unlink(missing_ok=True)
            return None
        for path in (object_path, index_path):
            try:
                os.utime(path)
            except FileNotFoundError:
                continue  # evicted by another process meanwhile; the bytes are in hand
        return entry, data

    def keep(self, reference: str, entry: Entry, data: bytes) -> None:
        """Keep an image. A full or unwritable disk costs the cache, not the image."""
        if len(data) > self._limit_bytes:
            return
        text = json.dumps(
            {"content_hash": entry.content_hash, "etag": entry.etag, "last_modified": entry.last_modified}
        )
        try:
            write_whole(self._object_path(entry.content_hash), data)
            write_whole(self._index_path(reference), text.encode())
            self._make_room(len(data))
        except OSError:
            return

    def _make_room(self, added: int) -> None:
        with self._lock:
            if self._held_bytes is None:
                self._held_bytes = sum(status.st_size for _, status in _files(self._objects))
            else:
                self._held_bytes += added
            if self._held_bytes <= self._limit_bytes:
                return
            found = sorted(_files(self._objects), key=lambda item: item[1].st_mtime)
            held = sum(status.st_size for _, status in found)
            oldest = 0.0
            for path, status in found:
                if held <= self._limit_bytes * _EVICT_TO:
                    break
                path.unlink(missing_ok=True)
                held -= status.st_size
                oldest = status.st_mtime
            self._held_bytes = held
            for path, status in _files(self._index):
                if status.st_mtime < oldest:
                    path.unlink(missing_ok=True)

    def _object_path(self, content_hash: str) -> Path:
        if len(content_hash) != 64 or not content_hash.isalnum():
            raise ValueError(content_hash)
        return self._objects / content_hash[:2] / content_hash

    def _index_path(self, reference: str) -> Path:
        key = hashlib.sha256(reference.encode()).hexdigest()
        return self._index / key[:2] / key


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that others see all of it or none, whatever happens meanwhile; its folder is made.

    Raises:
        OSError: It cannot be written; nothing is left of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.glob("*/*"):
        try:
            yield path, path.stat()
        except FileNotFoundError:
            continue  # another process was faster
