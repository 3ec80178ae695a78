from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.extra.numpy import array_shapes, arrays
from label_studio_sdk.converter import brush

from ls_backend.labelstudio.rle import decode_alpha, encode_mask

MANY = 100_000_000
masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))


def unroll(code):
    ends, alpha = decode_alpha(code, MANY)
    return np.repeat(alpha, np.diff(ends, prepend=0))


def whole(mask):
    height, width = mask.shape
    return encode_mask(mask, np.arange(height + 1), np.arange(width + 1), width, height)


@settings(deadline=None)
@given(mask=masks)
def test_masks_are_written_bit_for_bit_as_the_sdk_does(mask):
    theirs = brush.mask2rle(mask.astype(np.uint8) * 255)
    ours = whole(mask)
    assert ours == theirs[: len(ours)]
    assert not any(theirs[len(ours) :])  # it pads whole bytes with another one


@settings(deadline=None)
@given(mask=masks)
def test_the_sdk_reads_what_we_write(mask):
    alpha = brush.decode_rle(whole(mask)).reshape(*mask.shape, 4)[:, :, 3]
    assert np.array_equal(alpha > 0, mask)


@settings(deadline=None)
@given(values=arrays(np.uint8, some.integers(1, 60).map(lambda n: 4 * n)))
def test_any_rgba_image_is_read_as_the_sdk_does(values):
    code = brush.encode_rle(values)
    assert np.array_equal(unroll(code), brush.decode_rle(code)[3::4])


def test_runs_of_different_values_are_read_as_the_sdk_does():
    # The SDK writes no run of several different values longer than one; the editor's encoder may.
    values = bytes(range(1, 9))
    bits = f"{8:032b}" + "00111" + "0010" + "0011" + "0111" + "1111" + "0" + "00" + "111"
    bits += "".join(f"{value:08b}" for value in values) + "0" * 8
    code = [int(bits[at : at + 8], 2) for at in range(0, len(bits) // 8 * 8, 8)]
    assert brush.decode_rle(code).tobytes() == values
    assert unroll(code).tolist() == [4, 8]


def test_runs_longer_than_65536_values_are_kept_whole():
    mask = np.zeros((300, 400), bool)
    mask[40:250] = True
    assert np.array_equal(unroll(whole(mask)).reshape(mask.shape) > 0, mask)
    assert whole(mask)[:200] == brush.mask2rle(mask.astype(np.uint8) * 255)[: len(whole(mask))]


@settings(deadline=None)
@given(
    mask=arrays(bool, (3, 4)),
    rows=some.lists(some.integers(0, 3), min_size=4, max_size=4),
    columns=some.lists(some.integers(0, 3), min_size=5, max_size=5),
)
def test_a_part_is_scaled_up_into_its_place(mask, rows, columns):
    rows, columns = np.cumsum(rows), np.cumsum(columns)
    image = np.zeros((14, 17), bool)
    for (row, column), painted in np.ndenumerate(mask):
        image[rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = painted
    assert encode_mask(mask, rows, columns, 17, 14) == whole(image)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (None, "no RLE"),
        ("1,2,3", "a list of bytes was expected"),
        (7, "a list of bytes was expected"),
        ({"counts": "abc", "size": [4, 4]}, "is a dict"),
        ([0, 0, 300], "from 0 to 255"),
        ([0, -1], "from 0 to 255"),
        ([0, None, 3], "from 0 to 255"),
        ([0, 1.5], "from 0 to 255"),
        ([], "0 bytes; its head alone takes 7"),
        ([0, 0, 0, 4, 57], "5 bytes"),
        ([0, 0, 0, 3, 57, 27, 255, 10, 19, 0], "3 values in its RLE; four for each pixel"),
        ([0, 0, 0, 4, 255, 27, 255, 10, 19, 0], "values of 32 bits"),
        (whole(np.eye(9, dtype=bool))[:-9], "breaks off after"),
        (whole(np.ones((40, 40), bool))[:7], "breaks off after 0 of 6400 values"),
    ],
)
def test_what_is_no_code_is_refused_in_words(code, words):
    with pytest.raises(ValueError, match=words):
        decode_alpha(code, MANY)


def test_a_huge_claim_is_refused_before_memory_is_taken():
    code = [255, 255, 255, 252, 57, 27, 255, 10, 19, 0]
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="claims 1073741823 pixels"):
            decode_alpha(code, MANY)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@settings(deadline=None)
@given(code=some.lists(some.integers(0, 255), max_size=60))
def test_random_bytes_never_do_worse_than_a_refusal(code):
    code[:4] = [0, 0, 1, 0][: len(code[:4])]
    try:
        ends, alpha = decode_alpha(code, MANY)
    except ValueError:
        return
    assert ends[-1] == 64
    assert len(ends) == len(alpha)
