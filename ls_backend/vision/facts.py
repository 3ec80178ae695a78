"""What an image tells without a network: size, sharpness, brightness, contrast."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ls_backend.domain import ImageFacts

MAX_SAMPLED = 1_000_000
"""Pixels that lightness is measured on; of a larger image every n-th row and column is."""

_BLOCK_ROWS = 512
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as in most measures of sharpness
_LINEAR = np.array([0.2126, 0.7152, 0.0722], np.float32)  # sRGB to CIE Y
_CURVE = np.where(
    np.arange(256) / 255 <= 0.04045, np.arange(256) / 255 / 12.92, ((np.arange(256) / 255 + 0.055) / 1.055) ** 2.4
)


def measure(pixels: NDArray[np.uint8], n_bytes: int) -> ImageFacts:
    """Measure one image.  O(pixels).

    Sharpness depends on the number of pixels as well as on the lens: compare images of one size.

    Args:
        pixels: (h, w, 3) uint8, RGB.
        n_bytes: Size of the file they come from.

    Source: sharpness as in Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy"; L* of CIE 1976.
    """
    height, width = pixels.shape[:2]
    lightness = _lightness(pixels)
    return ImageFacts(
        width=width,
        height=height,
        n_bytes=n_bytes,
        sharpness=_laplacian_variance(pixels),
        luminance=float(lightness.mean(dtype=np.float64)),
        contrast=float(lightness.std(dtype=np.float64)),
    )


def _lightness(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    step = int(np.ceil(np.sqrt(max(1.0, pixels.shape[0] * pixels.shape[1] / MAX_SAMPLED))))
    y = _CURVE.astype(np.float32)[pixels[::step, ::step]] @ _LINEAR
    lightness: NDArray[np.float32] = np.where(y > 216 / 24389, 116 * np.cbrt(y) - 16, y * np.float32(24389 / 27))
    return lightness


def _laplacian_variance(pixels: NDArray[np.uint8]) -> float:
    """Variance over all pixels that have four neighbours, block by block; 0 when there are none."""
    height, width = pixels.shape[:2]
    n = (height - 2) * (width - 2)
    if min(height, width) < 3:
        return 0.0
    total = squares = 0.0
    for start in range(1, height - 1, _BLOCK_ROWS):
        grey = pixels[start - 1 : min(start + _BLOCK_ROWS, height - 1) + 1].astype(np.float32) @ _GREY
        middle = grey[1:-1, 1:-1]
        edges = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle
        total += float(edges.sum(dtype=np.float64))
        squares += float(np.square(edges).sum(dtype=np.float64))
    return max(squares / n - (total / n) ** 2, 0.0)
