"""The measurements of a run: every case of the suites asked for, at every thread count."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable

import torch

from fastopt import _C
from fastopt.bench import machine, peers
from fastopt.bench.results import Entry, Report, Result
from fastopt.bench.shapes import count
from fastopt.bench.suites import SUITES, Case
from fastopt.bench.timing import interleave
from fastopt.bench.workload import Workload, needed_bytes

SHORTEST = 2e-3  # seconds of a measurement, at least
QUICK_SHORTEST = 5e-4
QUICK_ROUNDS = 5


class Run:
    """A run with its options."""

    def __init__(self, options: argparse.Namespace, argv: list[str]) -> None:
        self.options = options
        self.report = Report(machine.describe(argv))
        self.failed: set[str] = set()
        self.plan = [
            (suite, case)
            for suite in options.suites
            for case in SUITES[suite].cases(options.quick, options.optimizers)
        ]

    def rounds(self, suite: str) -> int:
        default = QUICK_ROUNDS if self.options.quick else SUITES[suite].rounds
        return int(self.options.rounds or default)

    @property
    def total_rounds(self) -> int:
        return sum(self.rounds(suite) for suite, _ in self.plan) * len(self.options.threads)

    def measure_all(self, show: Callable[[str], object], advance: Callable[[int], object]) -> None:
        """Fill the report; ``show`` tells what is running, ``advance`` how many rounds are over."""
        threads, target = torch.get_num_threads(), _C.cpu_target()
        try:
            for suite, case in self.plan:
                show(f"{suite}: {case.name}, {case.optimizer}")
                self.measure_case(suite, case, advance)
        finally:
            torch.set_num_threads(threads)
            _C.set_cpu_target(target)
        self.report.machine["load_average"].append(machine.load_average())
        self.report.notes.extend(sorted(self.failed))

    def measure_case(self, suite: str, case: Case, advance: Callable[[int], object]) -> None:
        gc.collect()  # the last case's arrays
        needed, free = needed_bytes(case.optimizer, case.shapes), machine.available_bytes()
        if free is not None and needed > free:
            self.failed.add(
                f"{suite}, {case.name}, {case.optimizer}: needs {needed / 2**30:.1f} GiB of memory, "
                f"{free / 2**30:.1f} are free"
            )
            advance(self.rounds(suite) * len(self.options.threads))
            return
        workload = Workload(case.optimizer, case.shapes)
        for threads in self.options.threads:
            torch.set_num_threads(threads)
            self.report.results.append(self.measure(suite, case, workload, threads, advance))

    def measure(
        self,
        suite: str,
        case: Case,
        workload: Workload,
        threads: int,
        advance: Callable[[int], object],
    ) -> Result:
        contenders = [
            contender
            for target in self.options.target
            for contender in (workload.limit(target, threads), workload.ours(target))
        ]
        allowed = SUITES[suite].peers
        contenders += peers.join(workload, suite, self.options.compile, allowed, self.failed)
        shortest = QUICK_SHORTEST if self.options.quick else SHORTEST
        interleave(contenders, self.rounds(suite), shortest, lambda: advance(1))
        return Result(
            suite,
            case.name,
            case.optimizer,
            threads,
            tensors=len(case.shapes),
            elements=count(case.shapes),
            entries=[Entry.of(contender) for contender in contenders],
        )
