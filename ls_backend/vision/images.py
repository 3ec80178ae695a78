"""From the bytes of any common image file to RGB pixels as an annotator's browser shows them."""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ls_backend.errors import ImageUnreadable

# An allow-list: what is left out starts other programs (EPS), has no signature (TGA) or is nothing a browser shows.
# Pillow's plugins are loaded here, at import, because loading them lazily from two threads is a race.
Image.init()
_WANTED = ("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TIFF", "WEBP")
FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)
_PILLOW_LIMIT = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # it refuses above twice the figure it warns at
_EXPECTED = "expected a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF image"
_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIGNATURES = (
    (rb"<\?xml.*?<svg|<svg", "an SVG drawing"),
    (rb"<!doctype html|<html|<head|<body", "an HTML page, often a login page or an error page"),
    (rb"<\?xml|<[a-z]", "an XML document"),
    (rb"\{|\[", "JSON text"),
    (rb"%pdf", "a PDF document"),
    (rb"%!ps", "a PostScript document"),
    (rb"pk\x03\x04", "a ZIP archive"),
    (rb"\x1f\x8b", "a gzip archive"),
    (rb".{4}ftyp(hei|hev|mif)", "a HEIC photo"),
    (rb".{4}ftyp", "a video"),
    (rb"riff.{4}avi |\x1a\x45\xdf\xa3", "a video"),
    (rb".{128}dicm", "a DICOM file"),
)


def decode(data: bytes, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decode one image file to RGB pixels, upright and opaque.

    The EXIF orientation is applied, transparency is laid on white, of an animation the first frame is taken, 16-bit
    values are scaled by 1/257 and colour profiles are ignored. Safe to call from several threads.  O(pixels).

    Args:
        data: The whole file.
        max_pixels: Largest width x height accepted; checked before any pixel is decoded.

    Returns:
        (h, w, 3) uint8, RGB, C-contiguous and writable.

    Raises:
        ImageUnreadable: If the bytes are no supported image, are damaged or cut short, or hold too many pixels.
    """
    if not data:
        raise ImageUnreadable(f"The image file is empty (0 bytes); {_EXPECTED}. Upload the file again.")
    with _quiet():
        image = _opened(data, max_pixels)
        try:
            image.load()
            return _rgb(_upright(image))
        except Exception as error:
            kind = image.format or "image"
            raise ImageUnreadable(
                f"The {kind} image of {len(data)} bytes is damaged or cut short ({_words(error)}); expected a complete "
                "file. Upload it again.",
                hint="Upload the image again, or delete the task.",
                n_bytes=len(data),
            ) from error


def scaled_down(image: NDArray[np.uint8], longest_px: int) -> NDArray[np.uint8]:
    """Scale an image down, with an antialiasing filter, until neither side is longer than a limit.  O(pixels).

    Args:
        image: (h, w, 3) uint8.
        longest_px: The limit; an image within it is returned as it is.

    Returns:
        (h', w', 3) uint8 of the same shape but for rounding, each side at least 1.
    """
    height, width = image.shape[:2]
    factor = longest_px / max(height, width)
    if factor >= 1:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    # Above three times the target a box filter goes first: it costs a tenth, and pixels hardly move.
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))


def _opened(data: bytes, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        # Pillow's own limit also guards images hidden inside others, as in ICO, so it stays on under ours.
        raise ImageUnreadable(
            f"The image holds too many pixels: {_words(error)} Expected at most {min(max_pixels, _PILLOW_LIMIT)}.",
            hint="Scale the image down.",
        ) from error
    except Exception as error:
        raise ImageUnreadable(
            f"The file of {len(data)} bytes is not a readable image: it looks like {_kind(data)}; {_EXPECTED}. "
            "Replace the file or correct the image address of the task.",
            n_bytes=len(data),
        ) from error
    width, height = image.size
    if width * height > max_pixels:
        raise ImageUnreadable(
            f"The image is {width} x {height} = {width * height} pixels; expected at most {max_pixels}. Scale it down.",
            hint="Scale the image down, or raise LSB_IMAGE_MAX_PIXELS.",
            width=width,
            height=height,
        )
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001 - broken EXIF raises anything; the pixels are still good
        orientation = 1
    turn = _TRANSPOSE.get(orientation)
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I") or image.mode == "F":
        grey = _eight_bit(np.asarray(image))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        white = Image.new("RGBA", opaque.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, opaque)
    return np.array(image.convert("RGB"))


def _eight_bit(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale one wide channel, (h, w) of any number type, to (h, w) uint8.

    Whole numbers up to 65535 are 16-bit grey and scaled as a browser does, fractions within 0 to 1 by 255; anything
    else has no agreed range and is stretched from its smallest to its largest value.
    """
    finite = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    whole = not np.issubdtype(values.dtype, np.floating)
    if low >= 0 and ((whole and high <= 65535) or (not whole and high <= 1)):
        low, high = 0.0, 65535.0 if whole else 1.0
    scaled = (finite - low) * (255.0 / (high - low)) if high > low else np.zeros_like(finite)
    return np.rint(scaled).astype(np.uint8)


def _kind(data: bytes) -> str:
    """Say in words what bytes that are no image look like."""
    head = data[:2048].lower()
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    for pattern, kind in _SIGNATURES:
        if re.match(pattern, text if not pattern.startswith(b".{") else head, re.DOTALL):
            return kind
    if re.match(rb"\x89png|\xff\xd8\xff|gif8|riff.{4}webp|bm|ii\*\0|mm\0\*", head, re.DOTALL):
        return "an image whose header is damaged or cut short"
    printable = sum(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head)
    return "plain text" if printable >= 0.95 * len(head) else "binary data of an unknown kind"


def _words(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


class _Silence:
    """Shared state of `_quiet`: how many threads are inside, and what to restore when the last one leaves."""

    lock = threading.Lock()
    depth = 0
    context: warnings.catch_warnings[None] | None = None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Pillow's warnings in.

    `warnings.catch_warnings` alone is not thread-safe: two threads that overlap restore each other's filters and leave
    the wrong ones behind. So the first thread in saves them and the last one out restores them.
    """
    with _Silence.lock:
        if _Silence.depth == 0:
            _Silence.context = warnings.catch_warnings()
            _Silence.context.__enter__()
            warnings.simplefilter("ignore")
        _Silence.depth += 1
    try:
        yield
    finally:
        with _Silence.lock:
            _Silence.depth -= 1
            if _Silence.depth == 0 and _Silence.context is not None:
                _Silence.context.__exit__(None, None, None)
                _Silence.context = None
