"""Model versions on disk: a folder each, written once, whole or not at all.

A folder holds `arrays.safetensors` and `card.json`; the card carries the SHA-256 of the arrays. Both are written into
a hidden sibling folder, forced to disk and renamed into place, so a reader never meets half a version and a crash
leaves only a hidden folder, which the next save clears away.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as parse_arrays
from safetensors.numpy import save as dump_arrays

from ls_backend.errors import StoreError

_ARRAYS = "arrays.safetensors"
_CARD = "card.json"
_FORMAT = 1
_PARTIAL = ".partial-"
_PARTIAL_KEPT_S = 3600.0  # longer than any save takes: an older one belongs to a process that died


def save(folder: Path, card: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a model version so that it is there completely or not at all.

    Args:
        folder: Where it will be; must not exist. Its parent is created.
        card: Anything JSON can hold.
        arrays: Name to array of any shape and number type.

    Raises:
        StoreError: If the folder exists (versions are immutable), the card is not JSON, or the disk refuses.
    """
    if folder.exists():
        raise _exists(folder)
    tensors = dump_arrays({name: np.asarray(array, order="C") for name, array in arrays.items()})
    envelope = {"format": _FORMAT, "sha256": hashlib.sha256(tensors).hexdigest(), "card": dict(card)}
    try:
        text = json.dumps(envelope, indent=2, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StoreError(f"The card of {folder.name} cannot be written as JSON: {error}.") from error
    partial = folder.parent / f"{_PARTIAL}{uuid.uuid4().hex}"
    try:
        partial.mkdir(parents=True)
        _clear_partials(folder.parent)
        _write(partial / _ARRAYS, tensors)
        _write(partial / _CARD, text.encode())
        _sync(partial)
        _claim(partial, folder)
        _sync(folder.parent)
    except OSError as error:
        raise StoreError(f"Model version {folder.name} cannot be written: {error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load(folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read a model version and prove that it is what was saved.

    Args:
        folder: As given to `save`.

    Returns:
        The card, and the arrays by name in their saved shapes and types.

    Raises:
        StoreError: If the version is missing, damaged, or written by a newer program.
    """
    try:
        envelope = json.loads((folder / _CARD).read_bytes())
        tensors = (folder / _ARRAYS).read_bytes()
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"{type(error).__name__}: {error}") from error
    if not isinstance(envelope, dict) or envelope.get("format") != _FORMAT:
        found = envelope.get("format") if isinstance(envelope, dict) else type(envelope).__name__
        raise _damaged(folder, f"its format is {found}; this program reads {_FORMAT}")
    found = hashlib.sha256(tensors).hexdigest()
    if found != envelope.get("sha256"):
        raise _damaged(folder, f"its arrays hash to {found[:12]}; the card says {str(envelope.get('sha256'))[:12]}")
    try:
        return envelope["card"], parse_arrays(tensors)
    except (SafetensorError, KeyError) as error:
        raise _damaged(folder, str(error)) from error


def names(parent: Path) -> list[str]:
    """List the complete model versions in a folder, sorted by name; a missing folder has none."""
    if not parent.is_dir():
        return []
    return sorted(path.name for path in parent.iterdir() if path.name[0] != "." and (path / _CARD).is_file())


def delete(folder: Path) -> None:
    """Remove a model version; one that is not there is no error.

    Raises:
        StoreError: If the disk refuses.
    """
    doomed = folder.parent / f"{_PARTIAL}{uuid.uuid4().hex}"
    try:
        folder.rename(doomed)  # first out of sight, so that nobody reads a version that is half gone
        shutil.rmtree(doomed)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"Model version {folder.name} cannot be deleted: {error}.") from error


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _claim(partial: Path, folder: Path) -> None:
    """Rename into place; of two processes that try, the rename refuses the second: the target is not empty."""
    try:
        partial.rename(folder)
    except OSError as error:
        if folder.exists():
            raise _exists(folder) from error
        raise


def _clear_partials(parent: Path) -> None:
    for path in parent.glob(f"{_PARTIAL}*"):
        try:
            abandoned = time.time() - path.stat().st_mtime > _PARTIAL_KEPT_S
        except FileNotFoundError:  # another process finished it meanwhile
            continue
        if abandoned:
            shutil.rmtree(path, ignore_errors=True)


def _exists(folder: Path) -> StoreError:
    return StoreError(
        f"Model version {folder.name} exists already; expected a new name, versions are never changed.",
        hint="Save under a new version id.",
    )


def _damaged(folder: Path, reason: str) -> StoreError:
    return StoreError(
        f"Model version {folder.name} cannot be used: {reason}. Expected {_CARD} and {_ARRAYS} as they were saved.",
        hint="Delete the folder; the next retrain makes a new version.",
    )
