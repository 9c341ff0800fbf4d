"""How the arrays of a call lie in memory: at odd starts, with gaps that nothing may write to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .pools import Places
from .storage import Array

# Around the lanes of every target (1 to 32), and around the grain at which threads meet and a dither
# goes on elsewhere (256).
EDGES = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257)

# Around the size from which threads are used (csrc/cpu/parallel.cpp), and well above it.
LARGE = (70001, 65535, 65536, 65537)

ALIGNED = 16  # elements: a multiple of every vector


@dataclass(frozen=True)
class Piece:
    """One parameter: elements [start, start + size) of every array of a block."""

    start: int
    size: int
    step: int  # the number of its first step

    @property
    def elements(self) -> slice:
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True)
class Layout:
    """The parameters of one call.

    Those with one step number lie in one segment, so that one call of the reference serves them.
    """

    length: int
    pieces: tuple[Piece, ...]  # in the order of the call
    segments: tuple[tuple[int, int, int], ...]  # begin, end, step
    inside: Places  # False in the gaps

    @cached_property
    def places(self) -> npt.NDArray[np.int64]:
        """Of every element, in its own parameter."""
        places = np.zeros(self.length, np.int64)
        for piece in self.pieces:
            places[piece.elements] = np.arange(piece.size)
        return places


def place(wanted: Iterable[tuple[int, int, int]], rng: np.random.Generator) -> Layout:
    """Lay out pieces of (size, elements past an aligned place, step), called in any order."""
    wanted = list(wanted)
    pieces, segments, end = [], [], 0
    for step in sorted({step for _, _, step in wanted}):
        begin = end
        for size, offset, _ in (piece for piece in wanted if piece[2] == step):
            start = (end // ALIGNED + 1) * ALIGNED + offset
            pieces.append(Piece(start, size, step))
            end = start + size
        end += 1
        segments.append((begin, end, step))
    inside = np.zeros(end, np.bool_)
    for piece in pieces:
        inside[piece.elements] = True
    order = rng.permutation(len(pieces))
    return Layout(end, tuple(pieces[i] for i in order), tuple(segments), inside)


def edges(steps: Sequence[int], rng: np.random.Generator, *, offsets: int) -> Layout:
    """Every size around an edge at some of the four alignments, the steps dealt out at random."""
    return place(
        (
            (size, int(offset), int(rng.choice(steps)))
            for size in EDGES
            for offset in rng.choice(4, offsets, replace=False)
        ),
        rng,
    )


def single(size: int, steps: Sequence[int], rng: np.random.Generator) -> Layout:
    """One array at an odd start."""
    return place([(size, int(rng.integers(1, 4)), int(rng.choice(steps)))], rng)


def crowd(steps: Sequence[int], rng: np.random.Generator) -> Layout:
    """Enough small arrays for threads to meet in and between them."""
    sizes = [*EDGES, *(int(size) for size in rng.integers(1, 2400, 64))]
    return place(((size, size % 4, int(rng.choice(steps))) for size in sizes), rng)


class Block:
    """Named arrays of one length, each in memory of its own that is longer than it.

    Each starts so many elements past an aligned address as `shifts` says.
    """

    def __init__(
        self, length: int, shifts: Mapping[str, int], dtypes: Mapping[str, np.dtype[Any]]
    ) -> None:
        self.length, self.shifts = length, shifts
        self.memory: dict[str, Array] = {}
        self.arrays: dict[str, Array] = {}
        size = (length // ALIGNED + 2) * ALIGNED
        for name, shift in shifts.items():
            dtype = dtypes[name]
            raw: Array = np.zeros(size + 64 // dtype.itemsize, dtype)
            skipped = -raw.ctypes.data % 64 // dtype.itemsize
            self.memory[name] = raw[skipped : skipped + size]
            self.arrays[name] = self.memory[name][shift : shift + length]

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    def copy(self) -> Block:
        dtypes = {name: memory.dtype for name, memory in self.memory.items()}
        other = Block(self.length, self.shifts, dtypes)
        other.assign(self)
        return other

    def assign(self, other: Block) -> None:
        """Take over all that is in the memory of another block of the same arrays."""
        for name, memory in self.memory.items():
            np.copyto(memory, other.memory[name])
