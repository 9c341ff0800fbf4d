"""Timing in interleaved rounds: what is measured side by side shares the machine's moods.

One round times every contender once, each in enough repetitions to dwarf the clock; the order is
drawn anew for each round, so nobody always follows the same neighbour. Drift of the clock rate, of
the memory's load and of other processes then falls on all alike, and a ratio of two contenders is
taken within each round before the median over the rounds.
"""

from __future__ import annotations

import gc
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

MAX_REPEATS = 100_000


@dataclass(frozen=True)
class Spread:
    """The median of some figures with their quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        if len(figures) == 1:
            return cls(figures[0], figures[0], figures[0])
        low, median, high = statistics.quantiles(figures, n=4, method="inclusive")
        return cls(median, low, high)

    @property
    def relative(self) -> float:
        """The distance between the quartiles as a part of the median."""
        return (self.high - self.low) / self.median


@dataclass
class Contender:
    """One way to do a piece of work."""

    name: str
    run: Callable[[], object]
    moved_bytes: int  # read and written by one run, at least
    target: str | None = None  # the CPU target of fastopt's kernels; None for other packages
    version: str | None = None
    kept_bytes: int | None = None  # for backward, where that is part of the comparison
    prepare: Callable[[], object] = lambda: None  # called before each measurement, not timed
    state_bytes: float | None = None  # memory of the states for each element, where it is of interest
    most_rounds: int = sys.maxsize  # it takes part in; for what takes seconds
    repeats: int = 1  # runs in one measurement
    samples: list[float] = field(default_factory=list)  # seconds of one run, one figure a round

    def measure(self) -> float:
        """Seconds of one run, the mean over ``repeats``."""
        self.prepare()
        run, repetitions = self.run, range(self.repeats)
        begin = time.perf_counter_ns()
        for _ in repetitions:
            run()
        return (time.perf_counter_ns() - begin) / self.repeats / 1e9

    def calibrate(self, shortest: float) -> None:
        """Choose ``repeats`` so that a measurement takes at least ``shortest`` seconds."""
        self.repeats = 1
        self.measure()  # warms caches, code and lazily built state
        while (estimate := self._shortest_of_three(20 * shortest)) < shortest:
            growth = min(10.0, 1.2 * shortest / max(estimate, 1e-9))
            self.repeats = min(MAX_REPEATS, max(self.repeats + 1, int(self.repeats * growth)))
            if self.repeats == MAX_REPEATS:
                return

    def _shortest_of_three(self, certain: float) -> float:
        """Seconds of a whole measurement, undisturbed; one is enough if it takes ``certain``."""
        first = self.measure() * self.repeats
        if first > certain:
            return first
        return min(first, self.measure() * self.repeats, self.measure() * self.repeats)


def interleave(
    contenders: Sequence[Contender],
    rounds: int,
    shortest: float,
    advance: Callable[[], object] = lambda: None,
) -> None:
    """Fill the contenders' samples, one figure each per round; ``advance`` is called after a round.

    A contender of fewer rounds takes part in the first ones.
    """
    order = list(contenders)
    shuffle = random.Random(0).shuffle
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for contender in order:
            contender.samples.clear()
            contender.calibrate(shortest)
        for number in range(rounds):
            shuffle(order)
            for contender in order:
                if number < contender.most_rounds:
                    contender.samples.append(contender.measure())
            advance()
    finally:
        if collecting:
            gc.enable()


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """The ratio of two contenders' samples, pair by pair within each round that both took part in."""
    return Spread.of([a / b for a, b in zip(over, under, strict=False)])
