"""The suites: which tensors are stepped with which optimizers.

A new suite is one entry in SUITES. Whether a step finds its arrays in a cache is not steered but
follows from their size, as it does in training:

- large: cold. The arrays are far larger than any cache; each step streams them from memory.
- small: warm. Everything fits in the second-level cache, and step follows step; what is measured is
  the way from Python to the kernel and back.
- models: cold, but for what a very large last-level cache keeps of the smaller models.
- curve: from warm to cold; the bends are the caches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastopt.bench.shapes import MODELS, Shape, shrink


@dataclass(frozen=True)
class Case:
    """Tensors of these shapes, float32, stepped with one optimizer of workload.SETTINGS."""

    name: str
    optimizer: str
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Suite:
    """What ``python -m fastopt bench NAME`` measures."""

    description: str
    tensors: Callable[[bool], dict[str, list[tuple[Shape, ...]]]]  # by the name of the case
    optimizers: tuple[str, ...]  # unless others are asked for
    rounds: int
    peers: frozenset[str] | None = None  # those measured; None: all

    def cases(self, quick: bool, optimizers: list[str] | None) -> list[Case]:
        return [
            Case(name, optimizer, shapes)
            for name, series in self.tensors(quick).items()
            for optimizer in optimizers or self.optimizers
            for shapes in series
        ]


def large(quick: bool) -> dict[str, list[tuple[Shape, ...]]]:
    return {"1 x 1M": [((1 << 20,),)]} if quick else {"1 x 64M": [((64 << 20,),)]}


def small(quick: bool) -> dict[str, list[tuple[Shape, ...]]]:
    return {"200 x 64": [((64,),) * 200], "1 x 64": [((64,),)]}


def models(quick: bool) -> dict[str, list[tuple[Shape, ...]]]:
    factor = 8 if quick else 1
    return {name: [tuple(shrink(shapes(), factor))] for name, shapes in MODELS.items()}


def curve(quick: bool) -> dict[str, list[tuple[Shape, ...]]]:
    largest, most = (100_000, 100) if quick else (100_000_000, 10_000)
    return {
        "one tensor": [((size,),) for size in half_decades(100, largest)],
        "tensors of 64": [((64,),) * number for number in half_decades(1, most)],
    }


def half_decades(first: int, last: int) -> list[int]:
    """1, 3, 10, 30, ... times ``first``, up to ``last``."""
    values = [first]
    while values[-1] < last:
        previous = values[-2] if len(values) > 1 else 0
        values.append(10 * previous if previous else 3 * first)
    return values


ALL = ("AdamW", "SGD", "Adagrad", "RMSprop")

SUITES = {
    "large": Suite("one tensor far larger than the caches", large, ALL, rounds=15),
    "small": Suite("many small tensors, and one", small, ALL, rounds=31),
    "models": Suite("the tensors of well-known networks", models, ("AdamW", "SGD"), rounds=11),
    "curve": Suite(
        "from 100 to 100 million elements, from 1 to 10,000 tensors",
        curve,
        ("AdamW",),
        rounds=11,
        peers=frozenset({"torch fused", "DeepSpeed CPU"}),
    ),
}
