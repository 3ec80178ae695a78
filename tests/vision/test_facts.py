from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ls_backend.vision import facts
from ls_backend.vision.facts import measure


def plain(colour, height=4, width=6):
    return np.full((height, width, 3), colour, np.uint8)


@pytest.mark.parametrize(
    ("colour", "lightness"),
    [
        ((0, 0, 0), 0.0),
        ((255, 255, 255), 100.0),
        ((255, 0, 0), 53.24),
        ((0, 255, 0), 87.73),
        ((0, 0, 255), 32.30),
        ((119, 119, 119), 50.03),
        ((5, 5, 5), 1.37),
    ],
)
def test_lightness_is_that_of_published_colours(colour, lightness):
    found = measure(plain(colour), 1)
    assert found.luminance == pytest.approx(lightness, abs=0.02)
    assert found.contrast == pytest.approx(0, abs=1e-3)
    assert found.sharpness == 0


def test_half_black_half_white_has_the_largest_contrast():
    pixels = np.concatenate([plain(0), plain(255)])
    assert measure(pixels, 1).contrast == pytest.approx(50, abs=1e-3)


@pytest.mark.parametrize("shape", [(3, 3), (40, 31), (1100, 7), (513, 20), (514, 20)])
def test_sharpness_is_the_variance_of_scipys_laplacian(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    grey = pixels.astype(np.float64) @ [0.299, 0.587, 0.114]
    kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    inner = ndimage.convolve(grey, kernel)[1:-1, 1:-1]
    assert measure(pixels, 1).sharpness == pytest.approx(inner.var(), rel=1e-4)


def test_a_blurred_image_is_less_sharp_and_just_as_bright():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 60, 1), np.uint8).repeat(3, axis=2)
    blurred = ndimage.uniform_filter(pixels, (5, 5, 1), mode="wrap")
    assert measure(blurred, 1).sharpness < 0.01 * measure(pixels, 1).sharpness
    assert measure(blurred, 1).contrast < measure(pixels, 1).contrast


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 50), (50, 2)])
def test_an_image_too_small_for_edges_has_none(height, width):
    found = measure(plain(9, height, width), 77)
    assert found.sharpness == 0
    assert (found.height, found.width, found.n_bytes) == (height, width, 77)
    assert found.aspect == width / height


def test_a_large_image_is_sampled_without_a_visible_difference(monkeypatch):
    pixels = ndimage.zoom(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8), (20, 20, 1), order=1)
    whole = measure(pixels, 1)
    monkeypatch.setattr(facts, "MAX_SAMPLED", 30_000)
    sampled = measure(pixels, 1)
    assert sampled.luminance == pytest.approx(whole.luminance, abs=0.3)
    assert sampled.contrast == pytest.approx(whole.contrast, abs=0.3)
    assert sampled.sharpness == whole.sharpness
