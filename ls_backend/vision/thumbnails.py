"""Small pictures of images, for people to look at."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LONGEST_PX = 160
QUALITY = 80


def encoded(pixels: NDArray[np.uint8]) -> bytes:
    """Make a JPEG file of at most 160 pixels in width and height.

    Of a large image every second, third, ... pixel is taken first: to average all of them would cost more than
    everything else here, and two pixels each way for one of the thumbnail are enough to look at.  O(pixels / step^2).

    Args:
        pixels: (h, w, 3) uint8 RGB, upright.
    """
    step = max(1, max(pixels.shape[:2]) // (2 * LONGEST_PX))
    small = Image.fromarray(np.ascontiguousarray(pixels[::step, ::step]))
    small.thumbnail((LONGEST_PX, LONGEST_PX), Image.Resampling.BILINEAR, reducing_gap=None)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
