"""Which trials are run, and running them."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from fastopt import _C

from . import inputs, optimizers
from .cases import STEPS, Options, Rule
from .compare import Report, Row
from .inputs import Layout, Pools
from .kernels import Trial, check_kernels
from .optimizers import OptimizerTrial, check_optimizers

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))

# Of so many cases, a quick run gives one an optimizer with parameters long enough for threads.
QUICK_LARGE_OPTIMIZERS = 8


@dataclass(frozen=True)
class Plan:
    """What is to be verified."""

    rules: tuple[Rule, ...]
    targets: tuple[str, ...]
    seed: int = 0
    quick: bool = False

    @property
    def threads(self) -> tuple[int, ...]:
        """The thread counts of arrays that are long enough for more than one."""
        return (1, 2, 3) if self.quick else (1, 2, 3, 4, 7)

    def runs(self, rows: list[Row], number: int) -> list[tuple[Row, int]]:
        """Which targets run a trial on how many threads: all on all, or if quick on one, in turn."""
        if not self.quick:
            return list(itertools.product(rows, self.threads))
        count = len(self.threads)
        return [(row, self.threads[(number + i) % count]) for i, row in enumerate(rows)]

    @property
    def rounds(self) -> int:
        """How many times each combination of options is gone through, with other numbers."""
        return 1 if self.quick else 3

    def cases(self) -> Iterator[tuple[Rule, np.dtype[Any], Options]]:
        for rule in self.rules:
            for dtype in DTYPES:
                for options in rule.combinations():
                    yield rule, dtype, options

    def __len__(self) -> int:
        return len(DTYPES) * sum(len(rule.combinations()) for rule in self.rules)


@contextmanager
def settings_kept() -> Iterator[None]:
    """Restores the CPU target and the number of threads."""
    target, threads = _C.cpu_target(), torch.get_num_threads()
    try:
        yield
    finally:
        _C.set_cpu_target(target)
        torch.set_num_threads(threads)


def supported_targets() -> tuple[str, ...]:
    """The targets that this machine can run, the best first."""
    return tuple(name for name, target in _C.cpu_targets().items() if target["supported"])


def verify(plan: Plan, advance: Callable[[str], object] = lambda label: None) -> Report:
    """Run every trial of the plan; `advance` hears of each case before it begins."""
    report = Report()
    pools = {dtype: Pools(dtype, plan.seed) for dtype in DTYPES}
    with settings_kept():
        for number, (rule, dtype, options) in enumerate(plan.cases()):
            advance(f"{rule.name} {dtype}")
            rows = [report.row(rule, dtype, target) for target in plan.targets]
            for row in rows:
                row.options += 1
            # Named by the case, so that the filters of the command line do not change its inputs.
            name = zlib.crc32(f"{rule.name} {dtype} {options}".encode())
            rng = np.random.default_rng([plan.seed, name])
            for _ in range(plan.rounds):
                drawn = rule.draw(options, rng)
                check_case(report, plan, rows, Case(rule, drawn, pools[dtype], number), rng)
    return report


@dataclass(frozen=True)
class Case:
    """One combination of options in one dtype."""

    rule: Rule
    options: Options
    pools: Pools
    number: int


def check_case(
    report: Report, plan: Plan, rows: list[Row], case: Case, rng: np.random.Generator
) -> None:
    """One round of a case: its kernel on every layout, its optimizer."""
    mixed, runs = case.pools.mixed, case.pools.runs
    edges = Trial(case.rule, case.options, inputs.edges(STEPS, rng), mixed, rng, steps=3)
    check_kernels(report, edges, [(row, plan.threads[-1]) for row in rows], measure=False)
    for layout in large_layouts(plan, case, rng):
        trial = Trial(case.rule, case.options, layout, runs, rng, steps=2)
        check_kernels(report, trial, plan.runs(rows, case.number), measure=True)
    if plan.quick and case.number % QUICK_LARGE_OPTIMIZERS:
        optimizer = OptimizerTrial(case.rule, case.options, optimizers.SMALL, mixed, rng)
    else:
        optimizer = OptimizerTrial(case.rule, case.options, optimizers.LARGE, runs, rng)
    check_optimizers(report, optimizer, plan.runs(rows, case.number))


def large_layouts(plan: Plan, case: Case, rng: np.random.Generator) -> Iterator[Layout]:
    """The layouts around and above the size from which threads are used; one of them if quick."""
    build: list[Callable[[], Layout]] = [partial(inputs.crowd, STEPS, rng)]
    build += [partial(inputs.single, size, STEPS, rng) for size in inputs.LARGE]
    for layout in [build[case.number % len(build)]] if plan.quick else build:
        yield layout()
