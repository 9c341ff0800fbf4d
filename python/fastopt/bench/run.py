"""The measurements of a run: every case of the suites asked for, at every thread count."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable

import torch

from fastopt import _C
from fastopt.bench import machine
from fastopt.bench.options import suites_of
from fastopt.bench.results import Entry, Report, Result
from fastopt.bench.shapes import count
from fastopt.bench.suites import Case, Scene
from fastopt.bench.timing import interleave

SHORTEST = 2e-3  # seconds of a measurement, at least
QUICK_SHORTEST = 5e-4
QUICK_ROUNDS = 5


class Run:
    """A run with its options.

    ``show`` is told what is running, ``advance`` how many rounds are over.
    """

    def __init__(self, options: argparse.Namespace, argv: list[str]) -> None:
        self.options = options
        self.suites = suites_of(options.device)
        self.report = Report(machine.describe(argv, options.device))
        self.failed: set[str] = set()
        self.show: Callable[[str], object] = lambda text: None
        self.advance: Callable[[int], object] = lambda rounds: None
        self.plan = [
            (suite, case)
            for suite in options.suites
            for case in self.suites[suite].cases(options.quick, options.optimizers)
        ]

    def rounds(self, suite: str) -> int:
        default = QUICK_ROUNDS if self.options.quick else self.suites[suite].rounds
        return int(self.options.rounds or default)

    @property
    def total_rounds(self) -> int:
        return sum(self.rounds(suite) for suite, _ in self.plan) * len(self.options.threads)

    def measure(self) -> None:
        """Fill the report."""
        threads, target = torch.get_num_threads(), _C.cpu_target()
        try:
            for suite, case in self.plan:
                self.measure_case(suite, case)
        except KeyboardInterrupt:
            self.report.notes.append("what had not been measured when the run was interrupted")
            raise
        finally:
            torch.set_num_threads(threads)
            _C.set_cpu_target(target)
            self.report.machine["load_average"].append(machine.load_average())
            self.report.notes.extend(sorted(self.failed))

    def measure_case(self, suite: str, case: Case) -> None:
        """One case at every thread count."""
        title = f"{suite}: {case.name}, {case.work}"
        self.show(title)
        gc.collect()  # the last case's arrays
        needed = self.suites[suite].needed_bytes(case)
        free = machine.available_bytes(self.options.device)
        if free is not None and needed > free:
            gibibytes = f"{needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} are free"
            self.failed.add(f"{title}: needs {gibibytes}")
            self.advance(self.rounds(suite) * len(self.options.threads))
            return
        shortest = QUICK_SHORTEST if self.options.quick else SHORTEST
        enter = self.suites[suite].prepare(case)
        for threads in self.options.threads:
            torch.set_num_threads(threads)
            contenders = enter(
                Scene(self.options.target, threads, self.options.compile, self.show, self.failed)
            )
            self.show(title)
            interleave(contenders, self.rounds(suite), shortest, lambda: self.advance(1))
            self.report.results.append(
                Result(
                    suite,
                    case.name,
                    case.work,
                    threads,
                    tensors=len(case.shapes),
                    elements=count(case.shapes),
                    entries=[Entry.of(contender) for contender in contenders],
                )
            )
