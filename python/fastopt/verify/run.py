"""Which trials are run, and running them."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from fastopt import _C

from . import device, dropout, lbfgs, memory, packed, programs
from .cases import STEPS, Options, Rule
from .compare import Report, Row
from .memory import Layout
from .pools import Pool, Pools
from .storage import COLUMNS, STORED, Mix, alike
from .tail import TAILS, TailTrial
from .trial import KernelTrial, OptimizerTrial, check_all

if TYPE_CHECKING:
    from fastopt.rules import Rule as PythonRule

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))

# The parameters of an optimizer.
OPTIMIZER_SMALL = (1, 3, 17, 0, 63, 64, 65, 129, 1001)
OPTIMIZER_LARGE = (1, 17, 4097, 0, 65, 35003, 63, 30011, 129)

# A quick run takes arrays that are long enough for threads in one of so many cases.
QUICK_LARGE_KERNEL, QUICK_LARGE_OPTIMIZER = 3, 16

# A full run takes this many of the large layouts on every number of threads, the others in turn.
ON_ALL_THREADS = 2


@dataclass(frozen=True)
class Plan:
    """What is to be verified."""

    rules: tuple[Rule, ...]
    targets: tuple[str, ...]
    seed: int = 0
    quick: bool = False
    dropouts: tuple[dropout.Form, ...] = ()
    packed_rules: tuple[Rule, ...] = ()  # masters, random rounding and codes of these, and of programs
    lbfgs: tuple[lbfgs.Options, ...] = ()
    programs: tuple[PythonRule, ...] = ()

    @property
    def threads(self) -> tuple[int, ...]:
        """The thread counts of arrays that are long enough for more than one."""
        if device.CUDA in self.targets:
            return (1,)  # they are the CPU's
        return (1, 2, 3) if self.quick else (1, 2, 3, 4, 7)

    def cases(self) -> Iterator[tuple[Rule, Mix, int, Options]]:
        """Rule, storage, and the choice of options with its number among the rule's."""
        for rule in self.rules:
            for dtype in DTYPES:
                for number, choice in enumerate(rule.combinations()):
                    yield rule, alike(dtype.name), number, choice
            every = len(STORED) if self.quick else 1  # a quick run deals the choices out
            for turn, mixes in enumerate(STORED):
                for number, choice in enumerate(rule.combinations()):
                    if number % every == turn % every:
                        yield rule, mixes[number // every % len(mixes)], number, choice

    def stored(self) -> Iterator[packed.PackedCase]:
        """Rules in every way of storing that is more than a type."""
        rules = (*self.packed_rules, *map(programs.Stored, self.programs))
        return packed.cases(packed.KINDS, rules, quick=self.quick)

    def __len__(self) -> int:
        rules = sum(1 for _ in self.cases())
        stored = len(list(self.stored()))
        dropouts = len(dropout.cases(self.dropouts, self.quick))
        pairs = len(lbfgs.cases(self.lbfgs, self.quick))
        return rules + stored + dropouts + pairs + len(programs.cases(self.programs, quick=self.quick))


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


def verify(
    plan: Plan,
    advance: Callable[[str], object] = lambda label: None,
    report: Report | None = None,
) -> Report:
    """Run every trial of the plan; `advance` hears of each case before it begins.

    A report that is given is filled as it goes, and has what there is if the work is interrupted.
    """
    report = Report() if report is None else report
    pools = {dtype: Pools(dtype, plan.seed) for dtype in DTYPES}

    def begin(label: str, dtype: str, name: str) -> tuple[list[Row], np.random.Generator]:
        """The rows of a case, and its inputs' source.

        That is named by the case, so that the filters of the command line do not change its inputs.
        """
        advance(f"{label} {dtype}")
        rows = [report.row(label, dtype, target) for target in plan.targets]
        for row in rows:
            row.options += 1
        return rows, np.random.default_rng([plan.seed, zlib.crc32(name.encode())])

    with settings_kept():
        for rule, mix, number, choice in plan.cases():
            rows, rng = begin(rule.name, mix.column, f"{rule.name} {mix.column} {choice}")
            case = Case(report, plan, rows, number, rule, choice, mix, pools[mix.compute], rng)
            case.check_edges()
            case.check_large()
            case.check_optimizer()
        for form, storage, p in dropout.cases(plan.dropouts, plan.quick):
            rows, rng = begin(form.name, storage, f"{form.name} {storage} {p}")
            dropout.check_case(report, rows, (form, storage, p), plan.threads, rng, quick=plan.quick)
        for stored in plan.stored():
            kind, rule, number, _ = stored
            label = f"{rule.name}, {kind.name}"
            rows, rng = begin(label, kind.dtype_name, f"{kind} {rule.name} {number}")
            pool = pools[DTYPES[0]].runs
            packed.check_case(report, rows, stored, plan.threads, pool, rng, quick=plan.quick)
        for dtype, options in lbfgs.cases(plan.lbfgs, plan.quick):
            rows, rng = begin("lbfgs", dtype, f"lbfgs {dtype} {options}")
            which = (dtype, options)
            lbfgs.check_case(report, rows, which, plan.threads, rng, quick=plan.quick)
        for program in programs.cases(plan.programs, quick=plan.quick):
            python_rule, mix, choice = program
            label = f"{python_rule.__name__}, program"
            rows, rng = begin(label, mix.column, f"{label} {mix} {choice}")
            pool = pools[mix.compute].mixed
            programs.check_case(report, rows, program, plan.threads, pool, rng, quick=plan.quick)
    return report


@dataclass(frozen=True)
class Case:
    """One combination of options, its arrays stored in one way, and its trials."""

    report: Report
    plan: Plan
    rows: list[Row]
    number: int
    rule: Rule
    choice: Options
    mix: Mix
    pools: Pools
    rng: np.random.Generator

    @property
    def quick(self) -> bool:
        """Whether to make few trials: loops are the same whatever the arrays are stored in."""
        return self.plan.quick or self.mix.column in COLUMNS

    def options(self) -> Options:
        """The combination with its numbers drawn anew."""
        return self.rule.draw(self.choice, self.rng)

    def on_all(self) -> list[tuple[Row, int]]:
        """Every target on every number of threads."""
        return list(itertools.product(self.rows, self.plan.threads))

    def in_turn(self, turn: int) -> list[tuple[Row, int]]:
        """Every target on one number of threads, another one each turn."""
        threads = self.plan.threads
        return [(row, threads[(turn + i) % len(threads)]) for i, row in enumerate(self.rows)]

    def check_edges(self) -> None:
        """The kernel on small arrays of every size, all in one call that takes one thread."""
        for _ in range(1 if self.quick else 4):
            layout = memory.edges(STEPS, self.rng, offsets=1 if self.quick else 4)
            self.check_kernel(layout, self.pools.mixed, self.in_turn(self.number))

    def check_large(self) -> None:
        """The kernel on arrays around and above the size from which threads are used."""
        builders = [partial(memory.crowd, STEPS, self.rng)]
        builders += [partial(memory.single, size, STEPS, self.rng) for size in memory.LARGE]
        if not self.quick:
            for i, build in enumerate(builders):
                runs = self.on_all() if i < ON_ALL_THREADS else self.in_turn(self.number + i)
                self.check_kernel(build(), self.pools.runs, runs)
        elif self.number % QUICK_LARGE_KERNEL == 0:
            turn = self.number // QUICK_LARGE_KERNEL
            layout = builders[turn % len(builders)]()
            self.check_kernel(layout, self.pools.runs, self.in_turn(turn))

    def check_kernel(self, layout: Layout, pool: Pool, runs: list[tuple[Row, int]]) -> None:
        trial = KernelTrial(self.rule, self.options(), layout, pool, self.rng, mix=self.mix, steps=2)
        check_all(self.report, trial, runs)

    def check_optimizer(self) -> None:
        """The optimizer on a list of parameters, plain and with its tail."""
        runs = self.in_turn(self.number) if self.quick else self.on_all()
        small = self.quick and self.number % QUICK_LARGE_OPTIMIZER
        sizes = OPTIMIZER_SMALL if small else OPTIMIZER_LARGE
        pool = self.pools.mixed if small else self.pools.runs
        # The third parameter begins at step 0: it gets its first gradient late.
        pieces = [(size, size % 4, int(i != 2)) for i, size in enumerate(sizes)]
        layout = memory.place(pieces, self.rng)
        trial = OptimizerTrial(self.rule, self.options(), layout, pool, self.rng, mix=self.mix, steps=3)
        check_all(self.report, trial, runs)
        tails = [TAILS[self.number % len(TAILS)]] if self.quick else TAILS
        for turn, tail in enumerate(tails):
            trial = TailTrial(
                self.rule, self.options(), layout, pool, self.rng, mix=self.mix, tail=tail, steps=3
            )
            check_all(self.report, trial, self.in_turn(self.number + turn))
