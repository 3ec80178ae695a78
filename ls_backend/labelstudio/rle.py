"""Label Studio's run-length code of brush masks, both ways.

A code is a list of bytes that holds bits, the highest first: 32 for the number of values, 5 for the width of a value
less 1, four times 4 for the widths a run length can have less 1. Runs follow: 1 bit that says whether one value
repeats, 2 bits that choose the width of the length, the length less 1, then the one value, or one for each place of the
run. The values are those of an RGBA image, row by row; Label Studio paints where alpha, the last of the four, is not 0.

Why not the SDK's codec: importing `label_studio_sdk.converter` loads pandas and 1600 modules, it reads single bits, and
it allocates whatever size a code claims to have. Tests compare this one with it.

Source: rle-pack of thi.ng/umbrella, as used by Label Studio's editor; label_studio_sdk/converter/brush.py.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_CHANNELS = 4
_HEAD_BITS = 53
_VALUE_BITS = 8
_LENGTH_BITS = (3, 4, 8, 16)
_REPEATS = 1
_PAINTED = 255
"""Alpha of what is written; 1 would be painted nearly invisible."""


class AlphaRuns(NamedTuple):
    """Alpha of an image, row by row; a code does not say how long a row is.

    Attributes:
        ends: (r,) int64 pixels at which each run ends, the last is their number; a run may be empty.
        alpha: (r,) uint8.
    """

    ends: NDArray[np.int64]
    alpha: NDArray[np.uint8]


def decode_alpha(code: object, max_pixels: int) -> AlphaRuns:
    """Read a code.  O(runs), whatever the size of the image.

    Args:
        code: As Label Studio sends it, a list of bytes.
        max_pixels: A code that claims more is refused.

    Raises:
        ValueError: If it is no such code; the message is the rest of a sentence about the region.
    """
    data = _bytes(code)
    head = int.from_bytes(data[:7], "big")
    n_values = head >> 24
    if n_values % _CHANNELS:
        raise ValueError(f"holds {n_values} values in its RLE; four for each pixel were expected.")
    if n_values > _CHANNELS * max_pixels:
        raise ValueError(f"claims {n_values // _CHANNELS} pixels in its RLE; at most {max_pixels} are read.")
    if (head >> 19 & 31) + 1 != _VALUE_BITS:
        raise ValueError(f"has values of {(head >> 19 & 31) + 1} bits in its RLE; Label Studio writes 8.")
    ends, values = _runs(data, n_values, tuple((head >> shift & 15) + 1 for shift in (15, 11, 7, 3)))
    # Alpha of pixel p is value 4 p + 3, so the run of values i to j is that of the pixels i // 4 to j // 4.
    pixel_ends = np.minimum(np.array(ends, np.int64), n_values) // _CHANNELS
    return AlphaRuns(pixel_ends, np.frombuffer(bytes(values), np.uint8))


def encode_mask(
    mask: NDArray[np.bool_], rows: NDArray[np.int64], columns: NDArray[np.int64], width: int, height: int
) -> list[int]:
    """Write a mask that covers a part of an image, with the same bits as the SDK's `mask2rle`.

    O(mask + rows of the image).

    Args:
        mask: (h, w), True = painted.
        rows: (h + 1,) cell i of the mask covers the rows `rows[i]` to `rows[i + 1]` of the image.
        columns: (w + 1,) same for columns.
        width: Of the image, pixels.
        height: Of the image, pixels.
    """
    lengths, values = _mask_runs(mask, rows, columns, width, height)
    full = (lengths - 1) >> _LENGTH_BITS[-1]  # a run longer than 65536 values is written in pieces
    last = np.cumsum(full + 1) - 1
    pieces = np.full(last[-1] + 1, 1 << _LENGTH_BITS[-1], np.int64)
    pieces[last] = lengths - (full << _LENGTH_BITS[-1])
    choice = np.searchsorted([1 << bits for bits in _LENGTH_BITS[:-1]], pieces)
    bits = np.array(_LENGTH_BITS)[choice]
    codes = (((_REPEATS << 2 | choice) << bits | (pieces - 1)) << _VALUE_BITS) | np.repeat(values, full + 1)
    stream = np.unpackbits(codes.astype(">u4").view(np.uint8).reshape(-1, 4), axis=1)  # (runs, 32)
    used = np.arange(32) >= 32 - (3 + _VALUE_BITS + bits)[:, None]
    return list(np.packbits(np.concatenate([_head(_CHANNELS * width * height), stream[used]])).tobytes())


def _bytes(code: object) -> bytes:
    if not isinstance(code, list | tuple):
        found = "no RLE" if code is None else f"an RLE that is a {type(code).__name__}"
        raise ValueError(f"has {found}; a list of bytes was expected.")  # noqa: TRY004 - data, not a wrong call
    try:
        data = bytes(code)
    except (TypeError, ValueError) as error:
        raise ValueError("holds something in its RLE that is not a whole number from 0 to 255.") from error
    if 8 * len(data) < _HEAD_BITS:
        raise ValueError(f"has an RLE of {len(data)} bytes; its head alone takes 7.")
    return data


def _runs(data: bytes, n_values: int, widths: tuple[int, ...]) -> tuple[list[int], bytearray]:
    """The place where each run ends and its value; of a run of different values each is one of its own."""
    ends: list[int] = []
    values = bytearray()
    done, position, n_bits = 0, _HEAD_BITS, 8 * len(data)
    while done < n_values:
        # A run with one value takes at most 1 + 2 + 16 + 8 bits and begins within the first byte: 5 bytes hold it.
        window = int.from_bytes(data[position >> 3 : (position >> 3) + 5].ljust(5, b"\0"), "big")
        spare = 37 - (position & 7)
        bits = widths[window >> spare & 3]
        spare -= bits
        length = (window >> spare & ((1 << bits) - 1)) + 1
        repeats = window >> (spare + bits + 2) & 1
        position += 3 + bits
        stop = position + (_VALUE_BITS if repeats else _VALUE_BITS * length)
        if stop > n_bits:
            raise ValueError(f"has an RLE that breaks off after {done} of {n_values} values.")
        if repeats:
            values.append(window >> (spare - _VALUE_BITS) & 255)
            ends.append(done + length)
        else:
            chunk = int.from_bytes(data[position >> 3 : (stop + 7) >> 3], "big") >> (-stop & 7)
            values += (chunk & ((1 << _VALUE_BITS * length) - 1)).to_bytes(length, "big")
            ends += range(done + 1, done + length + 1)
        position = stop
        done += length
    return ends, values


def _mask_runs(
    mask: NDArray[np.bool_], rows: NDArray[np.int64], columns: NDArray[np.int64], width: int, height: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lengths and values of the runs of the whole RGBA image."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, begin = np.nonzero(edges == 1)
    end = np.nonzero(edges == -1)[1]
    # Each run stands in every row of the image that its row of the mask covers.
    copies = (rows[1:] - rows[:-1])[row]
    copy = np.arange(copies.sum()) - np.repeat(np.cumsum(copies) - copies, copies)
    offset = (np.repeat(rows[row], copies) + copy) * width
    begins, ends = (np.sort(offset + np.repeat(columns[edge], copies)) for edge in (begin, end))
    begins, ends = begins[ends > begins], ends[ends > begins]  # cells may cover no column
    apart = begins[1:] != ends[:-1]  # else a run that goes on in the next row
    inner = np.column_stack([begins[1:][apart], ends[:-1][apart]])[:, ::-1].ravel()
    bounds = np.concatenate([[0], begins[:1], inner, ends[-1:], [width * height]])
    lengths = np.diff(bounds) * _CHANNELS
    values = np.where(np.arange(lengths.size) % 2, _PAINTED, 0)
    return lengths[lengths > 0], values[lengths > 0]


def _head(n_values: int) -> NDArray[np.uint8]:
    head = n_values << 24 | (_VALUE_BITS - 1) << 19
    for shift, bits in zip((15, 11, 7, 3), _LENGTH_BITS, strict=True):
        head |= (bits - 1) << shift
    return np.unpackbits(np.frombuffer(head.to_bytes(7, "big"), np.uint8))[:_HEAD_BITS]
