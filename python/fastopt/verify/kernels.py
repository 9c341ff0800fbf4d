"""The kernels of fastopt.kernels against fastopt.reference.

A trial is one combination of options on one `Layout`, for a few steps in a row. The reference is
computed once; then every target runs the same steps at every thread count, each time from the same
start, and all arrays are compared after each step: results, gradients, and the gaps between the
parameters, which must be as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from fastopt import _C, kernels

from .cases import Options, Rule
from .accuracy import Accuracy
from .compare import Report, Row, Where
from .inputs import Array, Layout, Pool
from .evaluate import evaluate

class Trial:
    """One combination of options on one layout: its inputs, and what must come out."""

    def __init__(
        self,
        rule: Rule,
        options: Options,
        layout: Layout,
        pool: Pool,
        rng: np.random.Generator,
        *,
        steps: int,
    ) -> None:
        self.rule, self.options, self.layout = rule, options, layout
        # A state that the options do not use may be left out; given, it must stay as it is.
        everything = bool(rng.integers(2))
        squares = {s.name: s.square for s in rule.states if everything or s.used(options)}
        names = {"param": False, **squares}
        self.start: dict[str, Array] = {}
        harmless = layout.inside.copy()
        for name, square in names.items():
            self.start[name], tame = pool.cut(layout.length, square, rng)
            harmless &= tame
        self.grads: list[Array] = []
        for _ in range(steps):
            grad, tame = pool.cut(layout.length, False, rng)
            harmless &= tame | (len(self.grads) > 0)
            self.grads.append(grad)
        self.expected = self.evaluate_steps()
        # Every array starts at its own distance from an aligned address.
        shifts = rng.integers(4, size=len(names) + 1)
        dtype = pool.values.dtype
        self.work = {
            name: np.empty(layout.length + shift, dtype)[shift:]
            for name, shift in zip(["grad", *names], shifts, strict=True)
        }
        self.harmless = np.flatnonzero(harmless)
        self.arguments = self.build_arguments()

    def evaluate_steps(self) -> list[dict[str, Array]]:
        """All arrays after each step; in the gaps, as they were."""
        arrays, expected = self.start, []
        for number, grad in enumerate(self.grads):
            after = {name: array.copy() for name, array in arrays.items()}
            for begin, end, step in self.layout.segments:
                segment = {name: array[begin:end] for name, array in arrays.items()}
                segment["grad"] = grad[begin:end]
                results = evaluate(self.rule, self.options, segment, step + number)
                for name, result in results.items():
                    inside = self.layout.inside[begin:end]
                    np.copyto(after[name][begin:end], result, where=inside)
            expected.append(after)
            arrays = after
        return expected

    def build_arguments(self) -> list[Any]:
        """The kernel's arrays: one of each where the layout has one piece, lists otherwise."""
        arguments: list[Any] = []
        for name in ["param", "grad", *(state.name for state in self.rule.states)]:
            if (array := self.work.get(name)) is None:
                arguments.append(None)
                continue
            pieces = [array[p.start : p.start + p.size] for p in self.layout.pieces]
            arguments.append(pieces if len(pieces) > 1 else pieces[0])
        return arguments

    def run_kernel(self, number: int) -> None:
        """The kernel's step `number`, from 0, on the working arrays."""
        steps = [piece.step + number for piece in self.layout.pieces]
        function: Any = getattr(kernels, self.rule.name + "_")
        function(*self.arguments, step=steps if len(steps) > 1 else steps[0], **self.options)

    def place(self, i: int, number: int) -> str:
        """Where index i of the buffers lies, in words."""
        for k, piece in enumerate(self.layout.pieces):
            if piece.start <= i < piece.start + piece.size:
                return (
                    f"element {i - piece.start} of {piece.size}, parameter {k} of "
                    f"{len(self.layout.pieces)}, step {piece.step + number}"
                )
        return "outside every parameter, where nothing may be written"

    def accuracy(self) -> Accuracy | None:
        """What the first step would be in more precision, if that can be told."""
        if not (self.harmless.size and Accuracy.applies_to(self.start["param"], self.options)):
            return None
        arrays = self.start | {"grad": self.grads[0]}
        return Accuracy(self.rule, self.options, arrays, self.layout.segments, self.harmless)

    def check(self, report: Report, row: Row, threads: int, accuracy: Accuracy | None) -> None:
        """Run and compare all steps with the target and the thread count that are set."""
        for name, array in self.start.items():
            np.copyto(self.work[name], array)
        before = self.start
        for number, grad in enumerate(self.grads):
            np.copyto(self.work["grad"], grad)
            self.run_kernel(number)
            place = partial(self.place, number=number)
            where = Where(row, "kernel", threads, self.options, place)
            inputs = {**before, "grad": grad}
            before = self.expected[number]
            wrong = 0
            for name, want in (before | {"grad": grad}).items():
                wrong += len(report.compare(where, name, self.work[name], want, inputs))
            row.elements += int(self.layout.inside.sum()) * len(before)
            if accuracy and number == 0:
                row.max_ulp = max(row.max_ulp or 0.0, accuracy.error(self.work))
            if wrong:
                return  # what follows would only repeat it


def check_kernels(
    report: Report, trial: Trial, runs: Sequence[tuple[Row, int]], *, measure: bool
) -> None:
    """One trial on the target of each row, with so many threads; its accuracy if told to."""
    accuracy = trial.accuracy() if measure else None
    for row, threads in runs:
        _C.set_cpu_target(row.target)
        torch.set_num_threads(threads)
        trial.check(report, row, threads, accuracy)
