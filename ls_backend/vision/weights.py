"""Checkpoints of backbones on disk: where they lie, and how one gets there.

A checkpoint has the name of its network, whatever its author called the file. One that is missing is downloaded from
where the network's library says: into a partial file that is checked and renamed, so that a checkpoint is there whole
or not at all. Processes that want the same one wait for each other.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ls_backend.errors import SettingsError

SUFFIXES = (".safetensors", ".pth")
_TIMEOUT_S = 30.0  # without a byte; how long all of it takes depends on its size
_BLOCK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Source:
    """Where the weights of a network can be had.

    Attributes:
        url: Address of the file.
        suffix: ".safetensors" or ".pth", as it is to be named here.
        sha256: Hexadecimal digest of the file, or the first digits of it; "" where only the server knows.
        max_bytes: Size beyond which it cannot be the file.
    """

    url: str
    suffix: str
    sha256: str
    max_bytes: int


def find(name: str, weights_dir: Path) -> Path | None:
    """Return where the checkpoint of a network lies, None where there is none; safetensors come first."""
    places = (weights_dir / f"{name}{suffix}" for suffix in SUFFIXES)
    return next((path for path in places if path.is_file()), None)


def fetch(name: str, source: Source, weights_dir: Path) -> Path:
    """Download a checkpoint, unless another process has done so meanwhile.

    Args:
        name: Name of the network; a "/" in it is a folder.
        source: Where from.
        weights_dir: Where to; created when needed.

    Returns:
        Where it lies now.

    Raises:
        SettingsError: No network, a refusal, a file that is not the one promised, or a folder that cannot be written.
    """
    target = weights_dir / f"{name}{source.suffix}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target.with_name(f".{target.name}.lock")):
            there = find(name, weights_dir)
            return _download(source, target) if there is None else there
    except httpx.HTTPError as error:
        raise _failed(name, source, target, f"{type(error).__name__}: {error}") from error
    except _Damaged as error:
        raise _failed(name, source, target, str(error)) from error
    except OSError as error:
        raise _failed(name, source, target, f"{target.parent} cannot be written: {error}") from error


def fetch_in_background(name: str, source: Source, weights_dir: Path) -> Future[Path]:
    """Start `fetch` in a thread that ends with the process; the future has its answer or its error."""
    future: Future[Path] = Future()

    def work() -> None:
        try:
            future.set_result(fetch(name, source, weights_dir))
        except Exception as error:  # noqa: BLE001 - raised where the future is asked
            future.set_exception(error)

    threading.Thread(target=work, name=f"fetch {name}", daemon=True).start()
    return future


def read(path: Path) -> dict[str, torch.Tensor]:
    """Read weights without running code from the file; training scripts wrap them as "model" or "state_dict".

    Returns:
        Name to tensor, as `Module.load_state_dict` takes it.

    Raises:
        SettingsError: If the file is damaged or holds anything but tensors.
    """
    try:
        state: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
        for wrapper in ("model", "state_dict"):
            if isinstance(state.get(wrapper), dict):
                state = state[wrapper]
        return {key.removeprefix("module."): value for key, value in state.items()}
    except (
        SafetensorError,
        pickle.UnpicklingError,
        OSError,
        RuntimeError,
        EOFError,
        AttributeError,
        ValueError,
    ) as error:
        raise SettingsError(
            f"Checkpoint {path.name} cannot be read ({type(error).__name__}); expected a state dict saved by torch or "
            "safetensors. Delete it, or download it again."
        ) from error


def digest(path: Path) -> str:
    """Return the first eight hexadecimal digits of the SHA-256 of a file."""
    with path.open("rb") as file:
        whole: str = hashlib.file_digest(file, "sha256").hexdigest()
    return whole[:8]


class _Damaged(Exception):
    """What arrived is not what was promised."""


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process at a time in; the lock goes with the process, the file stays."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(source: Source, target: Path) -> Path:
    partial = target.with_name(f".{target.name}.partial")  # one name: what a killed process left is written over
    try:
        plain = {"Accept-Encoding": "identity"}  # so that the length told is that of the file
        with httpx.stream("GET", source.url, headers=plain, follow_redirects=True, timeout=_TIMEOUT_S) as answer:
            answer.raise_for_status()
            found, size = _write(answer, partial, source.max_bytes)
        promised = source.sha256 or _promised(answer)
        length = answer.headers.get("content-length", "")
        if length.isdigit() and size != int(length):
            raise _Damaged(f"{size} of {length} bytes arrived")
        if not found.startswith(promised):
            raise _Damaged(f"its SHA-256 begins with {found[: len(promised)]}, expected {promised}")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _write(answer: httpx.Response, partial: Path, max_bytes: int) -> tuple[str, int]:
    """Write the body, and return its SHA-256 and size."""
    sha256, size = hashlib.sha256(), 0
    with partial.open("wb") as file:
        for block in answer.iter_bytes(_BLOCK_BYTES):
            size += len(block)
            if size > max_bytes:
                raise _Damaged(f"it is larger than {max_bytes / 2**20:.0f} MiB, which the file should not be")
            sha256.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return sha256.hexdigest(), size


def _promised(answer: httpx.Response) -> str:
    """Return the SHA-256 that a model hub tells in its first answer, before it sends us on to its storage."""
    for one in (*answer.history, answer):
        tag: str = one.headers.get("x-linked-etag", "").strip('"')
        if len(tag) == 64:
            return tag
    return ""


def _failed(name: str, source: Source, target: Path, reason: str) -> SettingsError:
    return SettingsError(
        f"The weights of {name} could not be downloaded from {source.url}: {reason}.",
        hint=f"Put the file there by hand, as {target}.",
        backbone=name,
    )
