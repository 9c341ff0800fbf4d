"""The dither by which states are rounded that are stored in 8 or 16 bits.

What is cut off of a number is not dropped but rounded up or down by a hash of the step and of the
number's place: a change smaller than the last bit that is kept then moves some elements by all of it,
in proportion, instead of none, and what is read of the state is right on average. Rounding to nearest
loses every change of less than half of that bit, so that an average whose decay is less never shrinks.

Each step has a table of 512 numbers. A block of 256 elements takes 256 that follow each other, from a
place that a hash of the block's number gives.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BLOCK = 256
MASK = np.uint64(0xFFFFFFFF)
KINDS = {"signed8": 0, "root8": 0xC2B2AE3D, "half": 0x27D4EB2F}  # of tables

Draws = npt.NDArray[np.uint16]


def hashes(step: int, kind: str, count: int) -> npt.NDArray[np.uint32]:
    """The first `count` hashes of 32 bits of a step."""
    start = (step & 0xFFFFFFFF) * 0x9E3779B1 + KINDS[kind]
    h = (np.uint64(start) + np.arange(count, dtype=np.uint64) * np.uint64(0x85EBCA77)) & MASK
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        h = (h ^ h >> np.uint64(shift)) * np.uint64(factor) & MASK
    return (h ^ h >> np.uint64(16)).astype(np.uint32)


def starts(blocks: npt.NDArray[np.integer], state: int = 0) -> npt.NDArray[np.intp]:
    """Where blocks, by their numbers, begin in the table."""
    product = blocks.astype(np.uint64) * np.uint64(0x9E3779B1) + np.uint64(state << 29)
    return ((product & MASK) >> np.uint64(24)).astype(np.intp)


def half_draws(places: npt.NDArray[np.integer], *, step: int, state: int) -> Draws:
    """The 16-bit numbers by which a parameter's state is rounded at a step.

    Args:
        places: of the elements in the parameter, counted in the order of memory.
        step: its number.
        state: the state's number among the rule's, from 0.
    """
    h = hashes(step, "half", BLOCK)
    table = np.stack([h & np.uint32(0xFFFF), h >> np.uint32(16)], axis=1).astype(np.uint16).reshape(-1)
    draws: Draws = table[starts(places // BLOCK, state) + places % BLOCK]
    return draws
