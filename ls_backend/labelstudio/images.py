"""From an image reference in task data to its bytes.

Why not the SDK's downloader: it has no timeout and no size limit, keeps error pages, truncated files and outdated
images for ever, and cannot use a personal access token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
import weakref
from pathlib import Path
from typing import NoReturn, Self
from urllib.parse import parse_qs, unquote_to_bytes, urlsplit

import httpx

from ls_backend.errors import ImageUnreadable, Rejected, Unreachable
from ls_backend.labelstudio.image_cache import Entry, ImageCache
from ls_backend.labelstudio.transport import Transport

_STORAGE_SCHEMES = frozenset({"s3", "gs", "azure-blob"})
_LOCAL_FILES = "/data/local-files/"
_UPLOADS = "/data/upload/"
_MAX_REDIRECTS = 5
_SHOWN = 120
_LATER_STATUS = frozenset({401, 403, 429, 500, 502, 503, 504})
_ONE_FILE_STATUS = frozenset({403, 500})
"""What Label Studio also says of a single file: 500 for an upload it never had, 403 for another organization's."""


class Downloader:
    """Fetches images; safe to share between threads.

    Uploaded files never change and are asked for once. Everything else is asked for again each time, with the
    validators of the kept copy, so that an unchanged image is not sent twice and a changed one is noticed. The token is
    sent to Label Studio only, whatever a redirect says.

    Args:
        client: Label Studio, for its address and token.
        cache_dir: Folder of kept images.
        timeout_s: Seconds for one image; a server that stalls at the very end can take half as long again.
        max_bytes: Largest file accepted.
        cache_bytes: Bytes kept on disk; with 0 nothing is kept.
        local_files_root: Folder that holds Label Studio's local files on this machine; None: they are downloaded.
    """

    def __init__(
        self,
        client: Transport,
        cache_dir: Path,
        *,
        timeout_s: float,
        max_bytes: int,
        cache_bytes: int,
        local_files_root: Path | None = None,
    ) -> None:
        self._client = client
        self._cache = ImageCache(cache_dir, cache_bytes)
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._local_files_root = local_files_root
        self._http = httpx.Client(headers={"Accept-Encoding": "identity"})
        weakref.finalize(self, self._http.close)  # for owners who forget to

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the object cannot be used afterwards."""
        self._http.close()

    def fetch(self, reference: str, *, task_id: int) -> tuple[str, bytes]:
        """Return the SHA-256 (hexadecimal) and the bytes of an image. They are not decoded here.

        Args:
            reference: Value of the image field: an upload, a local file, a URL, a storage URI or a data URI.
            task_id: Task it belongs to; Label Studio resolves storage URIs for it.

        Raises:
            ImageUnreadable: If this image cannot be had; the others may.
            Unreachable: If Label Studio gives no answer; no image of it can be had now.
            Rejected: If Label Studio refuses the token or is failing.
        """
        try:
            return self._fetch(reference.strip(), task_id)
        except _Unfit as unfit:
            message = f"Image of task {task_id} ({_shown(reference)}): {unfit}"
            raise ImageUnreadable(message, hint=unfit.remedy, task=task_id) from unfit
        except (ValueError, httpx.InvalidURL) as error:  # from taking the reference apart
            message = f"Image of task {task_id} has a malformed address: {error}."
            raise ImageUnreadable(message, hint=_ADDRESS_REMEDY, task=task_id) from error

    def _fetch(self, reference: str, task_id: int) -> tuple[str, bytes]:
        scheme = urlsplit(reference).scheme.lower()
        if scheme == "data":
            return _hashed(_checked(_inline(reference, self._max_bytes)))
        path = self._on_disk(reference)
        if path is not None:
            return _hashed(_checked(self._read_file(path)))
        if scheme in {"http", "https"}:
            url = reference
        elif scheme in _STORAGE_SCHEMES:
            coded = base64.urlsafe_b64encode(reference.encode()).decode()
            url = f"{self._client.url}/tasks/{task_id}/presign/?fileuri={coded}"
        elif reference.startswith("/") and not reference.startswith("//"):
            url = self._client.url + reference.removeprefix(urlsplit(self._client.url).path)
        else:
            raise _Unfit("it is not an address this backend knows.", _ADDRESS_REMEDY)
        return self._through_cache(f"{self._client.url} {reference}", url)

    def _through_cache(self, key: str, url: str) -> tuple[str, bytes]:
        kept = self._cache.look_up(key)
        if kept is not None and url.startswith(self._client.url + _UPLOADS):
            return kept[0].content_hash, kept[1]
        fresh = self._download(url, kept[0] if kept else None)
        if fresh is None:
            if kept is None:
                raise _Unfit("the server says that it has not changed, but nobody asked.", _SERVER_REMEDY)
            return kept[0].content_hash, kept[1]
        data, etag, last_modified = fresh
        content_hash, data = _hashed(_checked(data))
        self._cache.keep(key, Entry(content_hash, etag, last_modified), data)
        return content_hash, data

    def _download(self, url: str, known: Entry | None) -> tuple[bytes, str, str] | None:
        """Return bytes and validators, or None when the known copy is still good."""
        ends = time.monotonic() + self._timeout_s
        for _ in range(_MAX_REDIRECTS + 1):
            try:
                headers = self._headers(url, known)
                with self._http.stream("GET", url, headers=headers, timeout=self._timeout_s / 2) as answer:
                    if answer.status_code == httpx.codes.NOT_MODIFIED:
                        return None
                    if not answer.has_redirect_location:
                        self._check_status(answer, url)
                        data = self._read_body(answer, ends)
                        return data, answer.headers.get("etag", ""), answer.headers.get("last-modified", "")
                    url = str(httpx.URL(url).join(answer.headers["location"]))
            except httpx.InvalidURL as error:
                raise _Unfit(f"its address is malformed: {error}.", _ADDRESS_REMEDY) from error
            except httpx.HTTPError as error:
                self._give_up(url, error)
            if urlsplit(url).scheme not in {"http", "https"}:
                raise _Unfit("the server redirects to something that is not a web address.", _SERVER_REMEDY)
            if time.monotonic() >= ends:
                raise _Unfit(f"it did not arrive within {self._timeout_s:g} s.", _SLOW_REMEDY)
        raise _Unfit(f"the server redirects more than {_MAX_REDIRECTS} times.", _SERVER_REMEDY)

    def _headers(self, url: str, known: Entry | None) -> dict[str, str]:
        headers: dict[str, str] = {}
        if self._is_label_studio(url):
            headers["Authorization"] = self._client.authorization()
        if known is not None and known.etag:
            headers["If-None-Match"] = known.etag
        elif known is not None and known.last_modified:
            headers["If-Modified-Since"] = known.last_modified
        return headers

    def _check_status(self, answer: httpx.Response, url: str) -> None:
        status = answer.status_code
        if self._is_label_studio(url) and status in _LATER_STATUS:
            if status in _ONE_FILE_STATUS and self._label_studio_is_well():
                raise _Unfit(f"Label Studio, well otherwise, answers {status} for this file.", _UPLOAD_REMEDY)
            raise Rejected(f"Label Studio refused GET {urlsplit(url).path} with {status}.", status=status)
        if not answer.is_success:
            remedy = _STORAGE_REMEDY if "/presign/" in url else None
            raise _Unfit(f"the server answers {status} {answer.reason_phrase}.", remedy)

    def _label_studio_is_well(self) -> bool:
        try:
            self._client.call("GET", "/api/current-user/whoami")
        except Rejected:
            return False
        return True

    def _read_body(self, answer: httpx.Response, ends: float) -> bytes:
        size = answer.headers.get("content-length", "")
        if size.isdigit() and int(size) > self._max_bytes:
            raise _too_large(int(size), self._max_bytes)
        if answer.headers.get("content-type", "").startswith("text/html"):
            raise _web_page()
        parts: list[bytes] = []
        received = 0
        for part in answer.iter_bytes():
            received += len(part)
            if received > self._max_bytes:
                raise _too_large(received, self._max_bytes)
            if time.monotonic() >= ends:
                raise _Unfit(f"only {received} bytes arrived within {self._timeout_s:g} s.", _SLOW_REMEDY)
            parts.append(part)
        return b"".join(parts)

    def _give_up(self, url: str, error: httpx.HTTPError) -> NoReturn:
        why = str(error) or type(error).__name__
        if self._is_label_studio(url):
            raise Unreachable(f"Label Studio gave no answer to GET {urlsplit(url).path}: {why}.") from error
        remedy = _SLOW_REMEDY if isinstance(error, httpx.TimeoutException) else _SERVER_REMEDY
        raise _Unfit(f"{urlsplit(url).hostname} gives no answer: {why}.", remedy) from error

    def _is_label_studio(self, url: str) -> bool:
        """Whether a URL belongs to Label Studio, so that the token may go there."""
        ours, theirs = httpx.URL(self._client.url), httpx.URL(url)
        same = (ours.scheme, ours.host, ours.port) == (theirs.scheme, theirs.host, theirs.port)
        return same and theirs.path.startswith(ours.path.rstrip("/") + "/")

    def _on_disk(self, reference: str) -> Path | None:
        """The file of a local-files reference on this machine; None when it is to be downloaded."""
        parts = urlsplit(reference)
        is_local = parts.path.endswith(_LOCAL_FILES) and (not parts.scheme or self._is_label_studio(reference))
        if self._local_files_root is None or not is_local:
            return None
        root = self._local_files_root.resolve()
        path = (root / parse_qs(parts.query).get("d", [""])[0].lstrip("/")).resolve()
        if not path.is_relative_to(root):
            raise _Unfit("its path leads out of the folder of local files.", _LOCAL_REMEDY)
        return path

    def _read_file(self, path: Path) -> bytes:
        try:
            if not path.is_file():
                raise _Unfit("there is no such file in the folder of local files.", _LOCAL_REMEDY)
            if path.stat().st_size > self._max_bytes:
                raise _too_large(path.stat().st_size, self._max_bytes)
            return path.read_bytes()
        except (OSError, ValueError) as error:
            raise _Unfit(f"the file cannot be read: {error}.", _LOCAL_REMEDY) from error


_ADDRESS_REMEDY = "Use an upload, an http(s) URL, a storage URI (s3, gs, azure-blob) or a local file of Label Studio."
_SERVER_REMEDY = "Check that the image's server can be reached from this backend, or upload the image instead."
_SLOW_REMEDY = "Raise LSB_IMAGE_TIMEOUT_S, or use smaller images."
_STORAGE_REMEDY = "Check the project's cloud storage in Label Studio: it must cover this URI."
_UPLOAD_REMEDY = "It does not have this upload, or keeps it from this user: upload the image again, or delete the task."
_LOCAL_REMEDY = "Check LOCAL_FILES_DOCUMENT_ROOT: it must be the same folder as Label Studio's."


class _Unfit(Exception):
    """One image cannot be had: why, as the rest of a sentence, and what to do."""

    def __init__(self, why: str, remedy: str | None = None) -> None:
        super().__init__(why)
        self.remedy = remedy


def _too_large(size: int, limit: int) -> _Unfit:
    return _Unfit(
        f"the file has {size} bytes or more, the limit is {limit}.", "Use a smaller image or raise LSB_IMAGE_MAX_BYTES."
    )


def _web_page() -> _Unfit:
    return _Unfit(
        "a web page arrived instead of an image, such as a login page.",
        "Open the address without being signed in; it must give the image itself.",
    )


def _checked(data: bytes) -> bytes:
    if not data:
        raise _Unfit("the file is empty.")
    if data[:512].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise _web_page()
    return data


def _hashed(data: bytes) -> tuple[str, bytes]:
    return hashlib.sha256(data).hexdigest(), data


def _inline(reference: str, max_bytes: int) -> bytes:
    """Decode a data URI (RFC 2397)."""
    head, comma, body = reference.partition(",")
    if not comma:
        raise _Unfit("its data URI has no comma, hence no data.", _ADDRESS_REMEDY)
    if len(body) > 4 * max_bytes:
        raise _too_large(len(body) // 4, max_bytes)
    data = unquote_to_bytes(body)
    if head.lower().endswith(";base64"):
        try:
            data = base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise _Unfit(f"its data URI is not base64: {error}.", _ADDRESS_REMEDY) from error
    if len(data) > max_bytes:
        raise _too_large(len(data), max_bytes)
    return data


def _shown(reference: str) -> str:
    """A reference without what may be secret in it (query, password) and not longer than a line."""
    parts = urlsplit(reference)
    if parts.scheme == "data":
        return "data URI"
    host = parts.netloc.rpartition("@")[2]
    text = f"{parts.scheme}://{host}{parts.path}" if parts.scheme else reference.partition("?")[0]
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
