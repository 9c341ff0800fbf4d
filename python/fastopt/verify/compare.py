"""Comparing arrays to the bit, and counting what is found.

NaNs are equal to each other whatever their payload; everything else must agree in every bit, the
sign of zero included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .cases import Options, Rule
from .inputs import Array

MAX_EXAMPLES = 10  # wrong elements that are written out


@dataclass
class Row:
    """What was found for one rule, dtype and target."""

    rule: str
    dtype: str
    target: str
    options: int = 0  # combinations of options
    elements: int = 0  # outputs compared, over all arrays and steps
    wrong_bits: int = 0
    max_ulp: float | None = None  # float32 only, see accuracy.py


@dataclass(frozen=True)
class Where:
    """Which call an array came out of."""

    row: Row
    face: str  # "kernel" or "optimizer"
    threads: int
    options: Options
    place: Callable[[int], str]  # says which element of which parameter an index is


@dataclass
class Report:
    """All rows, and the first wrong elements."""

    rows: dict[tuple[str, str, str], Row] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)

    def row(self, rule: Rule, dtype: np.dtype[Any], target: str) -> Row:
        key = (rule.name, dtype.name, target)
        return self.rows.setdefault(key, Row(*key))

    @property
    def elements(self) -> int:
        return sum(row.elements for row in self.rows.values())

    @property
    def wrong_bits(self) -> int:
        return sum(row.wrong_bits for row in self.rows.values())

    def compare(
        self, where: Where, name: str, got: Array, want: Array, inputs: Mapping[str, Array]
    ) -> npt.NDArray[np.intp]:
        """Compare one array and count its wrong bits; the indices of the wrong elements.

        Of the first wrong elements, the values of `inputs` at the same place are kept as well.
        """
        places, bits = differing(got, want)
        where.row.wrong_bits += bits
        for i in map(int, places[: MAX_EXAMPLES - len(self.examples)]):
            self.examples.append(
                {
                    "rule": where.row.rule,
                    "dtype": where.row.dtype,
                    "target": where.row.target,
                    "face": where.face,
                    "threads": where.threads,
                    "options": where.options,
                    "array": name,
                    "place": where.place(i),
                    "got": spell(got[i]),
                    "expected": spell(want[i]),
                    "inputs": {key: spell(array[i]) for key, array in inputs.items()},
                }
            )
        return places


def bits_of(array: Array) -> npt.NDArray[np.unsignedinteger[Any]]:
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))


def spell(value: Any) -> str:
    """A number in decimal and in hexadecimal: its bits."""
    value = np.asarray(value)
    return f"{value} (0x{int(bits_of(value)):0{2 * value.itemsize}x})"


def differing(got: Array, want: Array) -> tuple[npt.NDArray[np.intp], int]:
    """Where two arrays differ, and in how many bits."""
    places = np.flatnonzero(bits_of(got) != bits_of(want))
    if len(places) == 0:
        return places, 0
    places = places[~(np.isnan(got[places]) & np.isnan(want[places]))]
    apart = np.bitwise_count(bits_of(got)[places] ^ bits_of(want)[places])
    return places, int(apart.sum())
