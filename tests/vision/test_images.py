from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ls_backend.errors import ImageUnreadable
from ls_backend.vision.images import decode, scaled_down

PLENTY = 1_000_000


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def quarters() -> np.ndarray:
    """A 6 x 4 picture whose four corners differ, so that every turn is visible."""
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:2, :3] = (255, 0, 0)
    pixels[:2, 3:] = (0, 255, 0)
    pixels[2:, :3] = (0, 0, 255)
    pixels[2:, 3:] = (250, 240, 10)
    return pixels


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_come_back_exactly(kind):
    np.testing.assert_array_equal(decode(encode(Image.fromarray(quarters()), kind), max_pixels=PLENTY), quarters())


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"lossless": True}), ("AVIF", {})])
def test_other_formats_come_back_nearly(kind, options):
    pixels = np.full((40, 30, 3), (200, 100, 50), np.uint8)
    seen = decode(encode(Image.fromarray(pixels), kind, **options), max_pixels=PLENTY)
    assert seen.shape == (40, 30, 3)
    assert np.abs(seen.astype(int) - pixels).max() <= 6


def test_the_array_is_rgb_bytes_one_may_write_to():
    seen = decode(encode(Image.fromarray(quarters())), max_pixels=PLENTY)
    assert seen.dtype == np.uint8
    assert seen.flags.c_contiguous
    assert seen.flags.writeable


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, 1)),
        (7, lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a, -1)),
    ],
)
def test_a_photo_is_turned_upright_by_its_exif_orientation(orientation, stored):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(np.ascontiguousarray(stored(quarters()))), "PNG", exif=exif)
    np.testing.assert_array_equal(decode(data, max_pixels=PLENTY), quarters())


def test_broken_exif_does_not_cost_the_image():
    data = encode(Image.fromarray(quarters()), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode(data, max_pixels=PLENTY), quarters())


def test_transparent_pixels_become_white_and_half_transparent_ones_mix():
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = (0, 255, 128)
    seen = decode(encode(Image.fromarray(pixels)), max_pixels=PLENTY)
    assert seen[0, 0].tolist() == [255] * 3
    assert seen[0, 1].tolist() == [0] * 3
    assert abs(int(seen[0, 2, 0]) - 127) <= 1


def test_grey_with_transparency_becomes_white_where_transparent():
    pixels = np.array([[[40, 0], [40, 255]]], np.uint8)
    assert decode(encode(Image.fromarray(pixels, "LA")), max_pixels=PLENTY)[0, :, 0].tolist() == [255, 40]


def test_a_palette_image_with_a_transparent_entry_becomes_white_there():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    data = encode(image, "PNG", transparency=0)
    assert decode(data, max_pixels=PLENTY)[0].tolist() == [[255] * 3, [200, 100, 50]]


def test_one_bit_and_grey_images_get_three_equal_channels():
    for mode in ("1", "L"):
        image = Image.new(mode, (3, 2), 0)
        image.putpixel((2, 1), 255)
        seen = decode(encode(image), max_pixels=PLENTY)
        assert seen.shape == (2, 3, 3)
        assert seen[1, 2].tolist() == [255] * 3
        assert seen[0, 0].tolist() == [0] * 3


def test_a_printers_cmyk_image_is_read_as_colours():
    data = encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)
    red, green, blue = decode(data, max_pixels=PLENTY)[4, 4].tolist()
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_whole_range(kind):
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    assert decode(encode(Image.fromarray(values), kind), max_pixels=PLENTY)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_float_images_are_read_as_fractions_or_stretched_and_nan_is_harmless():
    fractions = np.array([[0.0, 0.5, 1.0]], np.float32)
    assert decode(encode(Image.fromarray(fractions), "TIFF"), max_pixels=PLENTY)[0, :, 0].tolist() == [0, 128, 255]
    heights = np.array([[-100.0, np.nan, 100.0]], np.float32)
    low, middle, high = decode(encode(Image.fromarray(heights), "TIFF"), max_pixels=PLENTY)[0, :, 0].tolist()
    assert (low, high) == (0, 255)
    assert middle in {127, 128}


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind):
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    seen = decode(encode(frames[0], kind, save_all=True, append_images=frames[1:], **options), max_pixels=PLENTY)
    assert seen[2, 2].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><title>Sign in</title>", "HTML"),
        (b"\n  <html>", "HTML"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg/>", "SVG"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML"),
        (b'{"detail": "Authentication credentials were not provided."}', "JSON"),
        (b"%PDF-1.7\n", "PDF"),
        (b"PK\x03\x04rest", "ZIP"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0", "video"),
        (b"\0" * 128 + b"DICM", "DICOM"),
        (b"version https://git-lfs.github.com/spec/v1", "text"),
        (bytes(range(200, 256)) * 4, "unknown"),
        (b"\x89PNG\r\n\x1a\n", "cut short"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "PostScript"),
    ],
)
def test_what_is_no_image_is_named_with_a_remedy(data, word):
    with pytest.raises(ImageUnreadable, match=word) as caught:
        decode(data, max_pixels=PLENTY)
    message = str(caught.value)
    assert "expected" in message
    assert len(message) < 500


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_file_cut_short_is_refused(kind, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind)
    with pytest.raises(ImageUnreadable):
        decode(data[: int(len(data) * share)], max_pixels=PLENTY)


def test_an_image_over_the_pixel_limit_is_refused_and_one_at_the_limit_is_not():
    data = encode(Image.new("L", (20, 10)))
    assert decode(data, max_pixels=200).shape == (10, 20, 3)
    with pytest.raises(ImageUnreadable, match="20 x 10 = 200 pixels; expected at most 199"):
        decode(data, max_pixels=199)


def bomb(side_px: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side_px", [10_000, 100_000])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(side_px):
    with pytest.raises(ImageUnreadable, match="pixels"):
        decode(bomb(side_px), max_pixels=PLENTY)


def test_an_image_over_pillows_own_limit_names_that_limit():
    with pytest.raises(ImageUnreadable, match="Expected at most 178956970"):
        decode(bomb(14_000), max_pixels=10**12)


def test_a_bomb_inside_an_icon_is_refused():
    inner = bomb(100_000)
    icon = struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22) + inner
    with pytest.raises(ImageUnreadable):
        decode(icon, max_pixels=PLENTY)


def test_no_warning_escapes_and_filters_are_left_as_they_were_even_with_threads():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    noisy = encode(image, "PNG", transparency=b"\x00\xff")  # Pillow warns when it converts such a palette
    large = bomb(10_000)
    failures = []

    def work() -> None:
        for _ in range(30):
            try:
                decode(noisy, max_pixels=PLENTY)
                with pytest.raises(ImageUnreadable):
                    decode(large, max_pixels=PLENTY)
            except Exception as error:  # noqa: BLE001 - a warning turned into an error is what we look for
                failures.append(error)

    before = list(warnings.filters)
    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(warnings.filters) == before


VALID = [
    encode(Image.fromarray(quarters()), kind, **options)
    for kind, options in (("PNG", {}), ("JPEG", {}), ("GIF", {}), ("WEBP", {}), ("TIFF", {}), ("BMP", {}), ("ICO", {}))
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(VALID), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8), st.data())
def test_damaged_bytes_are_either_an_image_or_image_unreadable(valid, edits, data):
    damaged = bytearray(valid)
    for place, value in edits:
        damaged[place % len(damaged)] = value
    cut = data.draw(st.integers(0, len(damaged)))
    for candidate in (bytes(damaged), bytes(damaged[:cut])):
        try:
            pixels = decode(candidate, max_pixels=PLENTY)
        except ImageUnreadable:
            continue
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3


@pytest.mark.parametrize(
    ("shape", "longest_px", "expected"),
    [((60, 90), 90, (60, 90)), ((60, 90), 45, (30, 45)), ((900, 3), 90, (90, 1)), ((1, 1), 320, (1, 1))],
)
def test_an_image_is_scaled_down_to_its_longer_side_and_never_up(shape, longest_px, expected):
    image = np.full((*shape, 3), 77, np.uint8)
    small = scaled_down(image, longest_px)
    assert small.shape == (*expected, 3)
    assert small.dtype == np.uint8
    assert (small == 77).all()
