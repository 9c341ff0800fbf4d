"""Comparing arrays to the bit, and counting what is found.

NaNs are equal to each other whatever their payload; everything else must agree in every bit, the
sign of zero included.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .storage import Array

MAX_EXAMPLES = 10  # wrong elements that are written out


@dataclass
class Row:
    """What was found for one rule, dtype and target."""

    rule: str
    dtype: str
    target: str
    options: int = 0  # combinations of options
    elements: int = 0  # results compared, over all arrays and steps
    wrong_bits: int = 0
    max_ulp: float | None = None  # float32 only, see accuracy.py


@dataclass
class Report:
    """All rows, and wrong elements of the smallest arrays in which there are some."""

    rows: dict[tuple[str, str, str], Row] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)

    def row(self, rule: str, dtype: str, target: str) -> Row:
        return self.rows.setdefault((rule, dtype, target), Row(rule, dtype, target))

    @property
    def elements(self) -> int:
        return sum(row.elements for row in self.rows.values())

    @property
    def wrong_bits(self) -> int:
        return sum(row.wrong_bits for row in self.rows.values())

    def compare(
        self, row: Row, got: Array, want: Array, describe: Callable[[int], dict[str, Any]]
    ) -> bool:
        """Whether all is right. Wrong elements are kept, with what `describe` says: of the smallest
        arrays, and of those the first."""
        places, bits = differing(got, want)
        row.wrong_bits += bits
        for i in map(int, places[:MAX_EXAMPLES]):
            self.examples.append(
                {
                    "rule": row.rule,
                    "dtype": row.dtype,
                    "target": row.target,
                    **describe(i),
                    "got": spell(got[i]),
                    "expected": spell(want[i]),
                }
            )
        self.examples.sort(key=size_of)
        del self.examples[MAX_EXAMPLES:]
        return len(places) == 0


def size_of(example: dict[str, Any]) -> float:
    """How long the array is that a wrong element is of; no array's is in memory between them."""
    size = str(example["index"]).rpartition(" of ")[2]
    return int(size) if size.isdecimal() else math.inf


def bits_of(array: Array) -> npt.NDArray[np.unsignedinteger[Any]]:
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))


def spell(value: Any) -> str:
    """A number in decimal and in hexadecimal: its bits."""
    value = np.asarray(value)
    return f"{value} (0x{int(bits_of(value)):0{2 * value.itemsize}x})"


def differing(got: Array, want: Array) -> tuple[npt.NDArray[np.intp], int]:
    """Where two arrays differ, and in how many bits."""
    got_bits, want_bits = bits_of(got), bits_of(want)
    places = np.flatnonzero(got_bits != want_bits)
    places = places[~(np.isnan(got[places]) & np.isnan(want[places]))]
    return places, int(np.bitwise_count(got_bits[places] ^ want_bits[places]).sum())
