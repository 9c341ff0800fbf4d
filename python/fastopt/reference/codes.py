"""States in 8 bits: a code for each element and a scale for each block of 256 in a row.

A code is the upper bits of a small float. x / scale lies between -494 and 494, and 2 + |x| / scale is
a float32 between 2 and 512, whose exponent takes 3 bits; `signed8` keeps them, a sign and 4 bits of
the fraction. `root8`, for sums and averages of squares, keeps the root: 3 bits of exponent and 5 of
the fraction; it never reads as 0, since a step divides by it.

What is cut off is rounded by a dither: see dither.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .dither import BLOCK, hashes, starts

LARGEST = {"signed8": np.float32(494), "root8": np.float32(502)}  # of |x| / scale
SHIFT = {"signed8": 19, "root8": 18}
TWO = np.uint32(0x40000000)  # the bits of 2.0
LEAST = np.float32(2.0**-100)
LEAST_SIZE, LEAST_ROW = 4096, 64  # elements of an array that is worth codes

Codes = npt.NDArray[Any]  # int8 for signed8, uint8 for root8
Single = npt.NDArray[np.float32]


def _bits(x: Single) -> npt.NDArray[np.uint32]:
    return np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)


def is_worth_codes(shape: Sequence[int]) -> bool:
    """Whether arrays of this shape are coded: others would save little, or have rows too short."""
    return len(shape) >= 2 and math.prod(shape) >= LEAST_SIZE and math.prod(shape[1:]) >= LEAST_ROW


def code_of(dtype: Any) -> str:
    """Which code an array of this dtype holds."""
    return {np.dtype(np.int8): "signed8", np.dtype(np.uint8): "root8"}[np.dtype(dtype)]


def dither(step: int, code: str) -> npt.NDArray[np.uint32]:
    """The 512 numbers of a step, from 0 to 2**19 or 2**18."""
    return hashes(step, code, 2 * BLOCK) >> np.uint32(32 - SHIFT[code])


def decode_blocks(codes: Codes, scales: Single) -> Single:
    """The numbers that codes and scales stand for.

    Args:
        codes: int8 (signed8) or uint8 (root8), of at least two dimensions.
        scales: float32 of shape (codes.shape[0], blocks of a row).

    Returns:
        float32, of the codes' shape.
    """
    code, shift = code_of(codes.dtype), SHIFT[code_of(codes.dtype)]
    flat = codes.reshape(codes.shape[0], -1)
    row = flat.shape[1]
    scale = np.repeat(scales, BLOCK, axis=1)[:, :row]
    bits = flat.view(np.uint8).astype(np.uint32)
    with np.errstate(all="ignore"):
        if code == "root8":
            numbers = (TWO + (np.maximum(bits, 1) << np.uint32(shift))).view(np.float32)
            root = (numbers - np.float32(2)) * scale
            x = root * root
        else:
            sign = (bits & np.uint32(0x80)) << np.uint32(24)
            numbers = (sign | TWO | (bits & np.uint32(0x7F)) << np.uint32(shift)).view(np.float32)
            x = (numbers - (sign | TWO).view(np.float32)) * scale
    return np.asarray(x, dtype=np.float32).reshape(codes.shape)


def encode_blocks(x: Single, code: str, *, step: int, first_row: int = 0) -> tuple[Codes, Single]:
    """Codes and scales for numbers.

    Args:
        x: float32, of at least two dimensions.
        code: "signed8" or "root8".
        step: the number of the step, which picks the dither.
        first_row: where the rows lie in the whole parameter, for a shard of it.

    Returns:
        (codes, scales). A block that holds a NaN or an infinity has the scale NaN and codes 0.
    """
    rows, row = x.shape[0], int(np.prod(x.shape[1:]))
    blocks = -(-row // BLOCK)
    padded = np.zeros((rows, blocks * BLOCK), np.float32)
    with np.errstate(all="ignore"):
        padded[:, :row] = np.sqrt(x.reshape(rows, row)) if code == "root8" else x.reshape(rows, row)
        numbers = padded.reshape(rows, blocks, BLOCK)
        largest = (_bits(numbers) & np.uint32(0x7FFFFFFF)).max(axis=2)
        broken = largest >= np.uint32(0x7F800000)
        top = np.where(broken, np.uint32(0), largest).view(np.float32)
        scales = np.maximum(top, LEAST) * (np.float32(1) / LARGEST[code])
        inverse = (np.float32(1) - np.float32(2.0**-20)) / scales
        y = numbers * inverse[:, :, None]
        block = (first_row + np.arange(rows))[:, None] * blocks + np.arange(blocks)
        rounding = dither(step, code)[starts(block)[:, :, None] + np.arange(BLOCK)]
        magnitude = _bits(np.abs(y) if code == "signed8" else y).view(np.float32) + np.float32(2)
        bits = (_bits(magnitude) + rounding) >> np.uint32(SHIFT[code])
    if code == "signed8":
        bits = bits & np.uint32(0x7F) | _bits(y) >> np.uint32(24) & np.uint32(0x80)
    codes = np.where(broken[:, :, None], np.uint32(0), bits).astype(np.uint8).reshape(rows, -1)[:, :row]
    codes = np.ascontiguousarray(codes).reshape(x.shape)
    scales = np.where(broken, np.float32(np.nan), scales).astype(np.float32)
    return (codes.view(np.int8) if code == "signed8" else codes), scales
