"""Thumbnails of images in the data folder: made when an image is embedded, by its content, for people to look at."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ls_backend import logs
from ls_backend.labelstudio.image_cache import write_whole

log = logs.get(__name__)

_HASH = re.compile(r"[0-9a-f]{64}")


def path_of(folder: Path, content_hash: str) -> Path | None:
    """Return where the thumbnail of an image is, if there is one; None for what is no SHA-256 in hexadecimal."""
    if not _HASH.fullmatch(content_hash):
        return None
    return folder.absolute() / content_hash[:2] / f"{content_hash}.jpg"


def keep(folder: Path, content_hash: str, pixels: NDArray[np.uint8]) -> None:
    """Make a thumbnail unless there is one. A full or unwritable disk costs the thumbnail, not the image.

    Args:
        folder: Of all thumbnails.
        content_hash: SHA-256 of the image file.
        pixels: (h, w, 3) uint8 RGB, upright.
    """
    from ls_backend.vision.thumbnails import encoded  # noqa: PLC0415 - the server must not import vision

    path = path_of(folder, content_hash)
    if path is None or path.exists():
        return
    try:
        write_whole(path, encoded(pixels))
    except OSError as error:
        log.warning("thumbnail not kept", reason=str(error))
