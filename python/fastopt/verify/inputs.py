"""The numbers that go in, and how the arrays lie in memory.

A `Pool` is drawn once and holds random, extreme, denormal, zero, infinite and NaN values; the arrays
of a trial are cut out of it at random places. A `Layout` says where the parameters of one call lie
in a longer buffer: at odd starts, with gaps between that nothing may write to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.floating[Any]]

KINDS = ("random", "extreme", "denormal", "zero", "infinite", "nan")

# Around the lanes of every target (1 to 16), and around the grain at which threads meet (64).
EDGES = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129)

# Around the size from which threads are used (csrc/cpu/parallel.cpp), and well above it.
LARGE = (70001, 65535, 65536, 65537)


def draw(kind: str, count: int, dtype: np.dtype[Any], rng: np.random.Generator) -> Array:
    """Draw values of one kind, either sign."""
    signs = rng.choice(np.array([-1, 1], dtype), count)
    limits = np.finfo(dtype)
    if kind == "random":
        return rng.standard_normal(count).astype(dtype)
    if kind == "extreme":
        decades = 38 if dtype == np.float32 else 308
        return (signs * 10.0 ** rng.uniform(-decades, decades, count)).astype(dtype)
    if kind == "denormal":
        # whole multiples of the smallest number, up to twice the smallest normal one
        multiples = rng.integers(1, 2 ** (limits.nmant + 1), count)
        return (signs * (multiples.astype(dtype) * limits.smallest_subnormal)).astype(dtype)
    value = {"zero": 0.0, "infinite": np.inf, "nan": np.nan}[kind]
    return np.copysign(dtype.type(value), signs)


class Pool:
    """Values of every kind, in runs of `run` neighbours of one kind; `share` of them are random."""

    def __init__(
        self, dtype: np.dtype[Any], rng: np.random.Generator, *, run: int, share: float
    ) -> None:
        size = 1 << 18
        rest = (1 - share) / (len(KINDS) - 1)
        weights = [share] + [rest] * (len(KINDS) - 1)
        self.kinds = np.repeat(rng.choice(len(KINDS), size // run, p=weights).astype(np.int8), run)
        self.values = np.empty(size, dtype)
        for number, kind in enumerate(KINDS):
            places = self.kinds == number
            self.values[places] = draw(kind, int(places.sum()), dtype, rng)

    def cut(
        self, length: int, square: bool, rng: np.random.Generator
    ) -> tuple[Array, npt.NDArray[np.bool_]]:
        """An array, and where it is random and harmless. A square has 1 in 64 values negative."""
        start = int(rng.integers(len(self.values) - length + 1))
        stretch = slice(start, start + length)
        values = self.values[stretch].copy()
        if square:
            np.abs(values, out=values, where=np.arange(length) % 64 != 63)
        return values, self.kinds[stretch] == 0


class Pools:
    """The pools of one dtype."""

    def __init__(self, dtype: np.dtype[Any], seed: int) -> None:
        rng = np.random.default_rng([seed, dtype.itemsize])
        # Denormals slow a processor down by a factor of 100: long arrays have them in few places.
        self.mixed = Pool(dtype, rng, run=1, share=0.5)
        self.runs = Pool(dtype, rng, run=128, share=0.85)


@dataclass(frozen=True)
class Piece:
    """One parameter: elements [start, start + size) of the buffer, at step number `step`."""

    start: int
    size: int
    step: int


@dataclass(frozen=True)
class Layout:
    """The parameters of one call, in the order of the call.

    Pieces of one step number lie in one segment of the buffer, so that a single call of the
    reference serves them all.
    """

    length: int
    pieces: tuple[Piece, ...]
    segments: tuple[tuple[int, int, int], ...]  # begin, end, step
    inside: npt.NDArray[np.bool_]  # False in the gaps


def place(pieces: list[tuple[int, int, int]], rng: np.random.Generator) -> Layout:
    """Lay out pieces of (size, offset from a multiple of 16 elements, step), called in any order."""
    placed, segments, end = [], [], 0
    for step in sorted({step for _, _, step in pieces}):
        begin = end
        for size, offset, _ in (piece for piece in pieces if piece[2] == step):
            start = -(-(end + 1) // 16) * 16 + offset
            end = start + size
            placed.append(Piece(start, size, step))
        end += 1
        segments.append((begin, end, step))
    inside = np.zeros(end, np.bool_)
    for piece in placed:
        inside[piece.start : piece.start + piece.size] = True
    order = rng.permutation(len(placed))
    return Layout(end, tuple(placed[i] for i in order), tuple(segments), inside)


def edges(steps: tuple[int, ...], rng: np.random.Generator) -> Layout:
    """Every size around an edge, at each of four alignments, the steps dealt out at random."""
    sizes = [(size, offset) for size in EDGES for offset in range(4)]
    return place([(size, offset, int(rng.choice(steps))) for size, offset in sizes], rng)


def single(size: int, steps: tuple[int, ...], rng: np.random.Generator) -> Layout:
    """One array at an odd start."""
    return place([(size, int(rng.integers(1, 4)), int(rng.choice(steps)))], rng)


def crowd(steps: tuple[int, ...], rng: np.random.Generator) -> Layout:
    """Enough small arrays for threads to meet at their edges."""
    sizes = [*EDGES, *(int(size) for size in rng.integers(1, 2400, 64))]
    return place([(size, size % 4, int(rng.choice(steps))) for size in sizes], rng)
