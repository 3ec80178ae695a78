from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from ls_backend.vision.images import decode
from ls_backend.vision.thumbnails import encoded


def thumbnail(pixels):
    """Make a thumbnail and read it again: (h, w, 3)."""
    data = encoded(pixels)
    assert Image.open(io.BytesIO(data)).format == "JPEG"
    return decode(data, max_pixels=10**6)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 1), (1, 1)),
        ((160, 160), (160, 160)),
        ((96, 64), (96, 64)),
        ((320, 160), (160, 80)),
        ((427, 640), (107, 160)),
        ((5000, 6000), (133, 160)),
        ((7, 5000), (1, 160)),
        ((5000, 1), (160, 1)),
    ],
)
def test_the_longer_side_is_160_pixels_at_most_and_the_shape_is_kept(shape, expected):
    height, width = thumbnail(np.full((*shape, 3), 90, np.uint8)).shape[:2]
    assert abs(height - expected[0]) <= 1
    assert abs(width - expected[1]) <= 1
    assert max(height, width) == max(expected)


@pytest.mark.parametrize("factor", [1, 3, 6])
def test_a_photo_looks_as_pillow_makes_it_from_every_pixel(factor):
    photo = Image.fromarray(load_sample_image("china.jpg"))
    photo = photo.resize((photo.width * factor, photo.height * factor), Image.Resampling.BICUBIC)
    made = thumbnail(np.asarray(photo))
    expected = np.asarray(photo.resize(made.shape[1::-1], Image.Resampling.BOX)).astype(int)
    assert np.abs(made - expected).mean() < 8
    assert np.abs(made - expected[:, ::-1]).mean() > 30, "a mirrored one would be told apart"


def test_the_image_itself_is_left_alone():
    pixels = np.random.default_rng(0).integers(0, 255, (700, 900, 3), dtype=np.uint8)
    before = pixels.copy()
    encoded(pixels)
    np.testing.assert_array_equal(pixels, before)
