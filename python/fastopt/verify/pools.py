"""The numbers that go in: random, extreme, denormal, zero, infinite and NaN, of either sign.

They are drawn once; the arrays of a trial are cut out of a pool at random places.
"""

from __future__ import annotations

from copy import copy
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .storage import Array, Storage

Places: TypeAlias = npt.NDArray[np.bool_]

KINDS = ("random", "extreme", "denormal", "zero", "infinite", "nan")
SIZE = 1 << 18
DECADES = {"float16": (-7.0, 4.8), "float32": (-38.0, 38.0), "float64": (-308.0, 308.0)}


def draw(kind: str, count: int, dtype: np.dtype[Any], rng: np.random.Generator) -> Array:
    """Draw values of one kind."""
    signs = rng.choice(np.array([-1, 1], dtype), count)
    limits = np.finfo(dtype)
    values: Array
    if kind == "random":
        values = rng.standard_normal(count)
    elif kind == "extreme":
        values = signs * 10.0 ** rng.uniform(*DECADES[dtype.name], count)
    elif kind == "denormal":
        # whole multiples of the smallest number, up to twice the smallest normal one
        multiples = rng.integers(1, 2 ** (limits.nmant + 1), count)
        values = signs * (multiples.astype(dtype) * limits.smallest_subnormal)
    else:
        value = {"zero": 0.0, "infinite": np.inf, "nan": np.nan}[kind]
        values = np.copysign(value, signs)
    return values.astype(dtype)


def tamed(storage: Storage, values: Array) -> Array:
    """See `Pool.tame`."""
    numbers = storage.numbers(values)
    return storage.rounded(np.where(np.abs(numbers) <= 1000, numbers, numbers.dtype.type(1)))


class Pool:
    """Values of every kind, in runs of `run` neighbours of one kind; `share` of them are random.

    In every type whose arrays are computed in this one; of one kind at the same places.
    """

    is_tame = False

    def __init__(
        self, dtype: np.dtype[Any], rng: np.random.Generator, *, run: int, share: float
    ) -> None:
        rest = (1 - share) / (len(KINDS) - 1)
        weights = [share] + [rest] * (len(KINDS) - 1)
        self.kinds = np.repeat(rng.choice(len(KINDS), SIZE // run, p=weights).astype(np.int8), run)
        self.values = {dtype.name: self.draw_all(dtype, rng)}
        if dtype == np.float32:  # float16's extreme and denormal numbers are others
            self.values["bfloat16"] = Storage("bfloat16").rounded(self.values["float32"])
            self.values["float16"] = self.draw_all(np.dtype(np.float16), rng)

    def draw_all(self, dtype: np.dtype[Any], rng: np.random.Generator) -> Array:
        values: Array = np.empty(SIZE, dtype)
        for number, kind in enumerate(KINDS):
            places = self.kinds == number
            values[places] = draw(kind, int(places.sum()), dtype, rng)
        return values

    @cached_property
    def tame(self) -> Pool:
        """The same with 1 in the place of what is no number, or larger than 1000.

        No square is negative, either. For sums, in which a NaN, an infinity or one huge number
        decides alone.
        """
        other = copy(self)
        other.is_tame = True
        other.values = {name: tamed(Storage(name), values) for name, values in self.values.items()}
        return other

    def cut(
        self, storage: Storage, length: int, square: bool, rng: np.random.Generator
    ) -> tuple[Array, Places]:
        """An array, and where it is plain random. Of squares, one in 64 may be negative."""
        start = int(rng.integers(SIZE - length + 1))
        stretch = slice(start, start + length)
        values = self.values[storage.name][stretch].copy()
        if square:
            bits = values.view(storage.bits)
            sign = bits.dtype.type(1 << (8 * bits.itemsize - 1))
            np.bitwise_and(bits, ~sign, out=bits, where=self.is_tame | (np.arange(length) % 64 != 63))
        return values, self.kinds[stretch] == 0


class Pools:
    """The pools of what is computed in one dtype."""

    def __init__(self, dtype: np.dtype[Any], seed: int) -> None:
        rng = np.random.default_rng([seed, dtype.itemsize])
        # Denormals slow a processor down a hundred times: long arrays have them in few places.
        self.mixed = Pool(dtype, rng, run=1, share=0.5)
        self.runs = Pool(dtype, rng, run=128, share=0.85)
