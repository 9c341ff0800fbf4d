"""One trial: a combination of options on one layout, for a few steps in a row.

The reference is computed once. Then every target takes the same steps at several thread counts,
each time from the same start, and after each step everything is compared: results, gradients, and
the memory between the parameters, which must be as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from fastopt import _C, kernels, optim, reference

from .accuracy import Accuracy
from .cases import Options, Rule
from .compare import Report, Row, spell
from .memory import Block, Layout
from .pools import Array, Places, Pool


def evaluate(rule: Rule, options: Options, arrays: Mapping[str, Array], step: int) -> dict[str, Array]:
    """What the reference makes of `arrays`: param and the states that are given."""
    names = ["param", *(state.name for state in rule.states if state.name in arrays)]
    states = (arrays.get(state.name) for state in rule.states)
    function: Any = getattr(reference, rule.name)  # at each call: a test may put a wrong one there
    results = function(arrays["param"], arrays["grad"], *states, step=step, **options)
    return dict(zip(names, results, strict=True))


class Trial:
    """Inputs and expected results; a subclass says what takes the steps."""

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
        names = ["param", "grad", *self.states(rng)]
        shifts = dict(zip(names, rng.integers(4, size=len(names)).tolist(), strict=True))
        self.start = Block(layout.length, shifts, pool.values.dtype)
        self.plain = layout.inside & self.fill(self.start, pool, rng)
        self.expected: list[Block] = []
        self.results = (len(names) - 1) * int(layout.inside.sum())  # compared after a step
        block = self.start
        for number in range(steps):
            block = block.copy()
            block["grad"][:], plain = self.draw_grad(pool, rng)
            self.plain &= plain | (number > 0)
            self.step_reference(block, number)
            self.expected.append(block)
        self.work = self.start.copy()

    @property
    def call(self) -> str:
        """What is tried, as it is called."""
        raise NotImplementedError

    def states(self, rng: np.random.Generator) -> list[str]:
        """The states that take part."""
        return [state.name for state in self.rule.states if state.used(self.options)]

    def draw_grad(self, pool: Pool, rng: np.random.Generator) -> tuple[Array, Places]:
        """A step's gradients; where they are plain random."""
        return pool.cut(self.layout.length, False, rng)

    def fill(self, start: Block, pool: Pool, rng: np.random.Generator) -> Places:
        """Fill in the arrays at the start; where all of them are plain random."""
        raise NotImplementedError

    def step_number(self, first: int, number: int) -> int:
        """What step `number` of the trial, from 0, is to a parameter that began at step `first`."""
        return first + number

    def step_reference(self, block: Block, number: int) -> None:
        """The reference's step `number` on a block, between the gaps."""
        for begin, end, first in self.layout.segments:
            if (step := self.step_number(first, number)) < 1:
                continue
            segment = {name: array[begin:end] for name, array in block.arrays.items()}
            inside = self.layout.inside[begin:end]
            for name, result in evaluate(self.rule, self.options, segment, step).items():
                np.copyto(segment[name], result, where=inside)

    def begin(self) -> None:
        """Make ready for the first step."""
        np.copyto(self.work.memory, self.start.memory)

    def step(self, number: int) -> None:
        """Take step `number` on `self.work`."""
        raise NotImplementedError

    def check(self, report: Report, row: Row, threads: int, accuracy: Accuracy | None = None) -> None:
        """Take all steps on a target with so many threads, and compare."""
        _C.set_cpu_target(row.target)
        torch.set_num_threads(threads)
        self.begin()
        for number, expected in enumerate(self.expected):
            np.copyto(self.work["grad"], expected["grad"])
            self.step(number)
            row.elements += self.results
            if accuracy and number == 0:
                row.max_ulp = max(row.max_ulp or 0.0, accuracy.error(self.work.arrays))

            def describe(i: int, number: int = number) -> dict[str, Any]:
                return {"threads": threads, **self.describe(i, number)}

            if not report.compare(row, self.work.memory, expected.memory, describe):
                return  # what follows would only repeat it

    def describe(self, i: int, number: int) -> dict[str, Any]:
        """Which element work.memory[i] is, and what went into its step."""
        array, i = self.work.locate(i)
        facts = {"call": self.call, "options": self.options, "array": array}
        for k, piece in enumerate(self.layout.pieces):
            if 0 <= i - piece.start < piece.size:
                before = self.expected[number - 1] if number else self.start
                inputs = before.arrays | {"grad": self.expected[number]["grad"]}
                return facts | {
                    "parameter": f"{k} of {len(self.layout.pieces)}",
                    "index": f"{i - piece.start} of {piece.size}",
                    "step": self.step_number(piece.step, number),
                    "inputs": {name: spell(values[i]) for name, values in inputs.items()},
                }
        return facts | {"index": "outside all parameters, where nothing may be written"}


class KernelTrial(Trial):
    """A function of fastopt.kernels, from any state and step number."""

    @property
    def call(self) -> str:
        return f"fastopt.kernels.{self.rule.name}_"

    def states(self, rng: np.random.Generator) -> list[str]:
        # One that the options do not use may be left out; given, it must stay as it is.
        everything = [state.name for state in self.rule.states]
        return everything if rng.integers(2) else super().states(rng)

    def fill(self, start: Block, pool: Pool, rng: np.random.Generator) -> Places:
        squares = {state.name: state.square for state in self.rule.states}
        plain = np.ones(self.layout.length, np.bool_)
        for name, array in start.arrays.items():
            array[:], places = pool.cut(self.layout.length, squares.get(name, False), rng)
            plain &= places
        return plain

    @cached_property
    def arguments(self) -> list[Any]:
        """The working arrays as the kernel takes them: one of each, or lists; None if left out."""
        columns: list[Any] = []
        for name in ["param", "grad", *(state.name for state in self.rule.states)]:
            array = self.work.arrays.get(name)
            column = None if array is None else [array[p.elements] for p in self.layout.pieces]
            columns.append(column[0] if column and len(column) == 1 else column)
        return columns

    def step(self, number: int) -> None:
        steps = [self.step_number(piece.step, number) for piece in self.layout.pieces]
        function: Any = getattr(kernels, self.rule.name + "_")
        function(*self.arguments, step=steps if len(steps) > 1 else steps[0], **self.options)

    def accuracy(self) -> Accuracy | None:
        """The first step in more precision, if that means something here."""
        sample = np.flatnonzero(self.plain)
        if not Accuracy.applies_to(sample, self.start["param"], self.options):
            return None
        arrays = self.start.arrays | {"grad": self.expected[0]["grad"]}

        def step(arrays: Mapping[str, Array], step: int) -> dict[str, Array]:
            return evaluate(self.rule, self.options, arrays, step)

        return Accuracy(step, arrays, self.layout.segments, sample)


class OptimizerTrial(Trial):
    """An optimizer of fastopt.optim on a list of tensors, from its own first state.

    A parameter whose first step is 0 gets its first gradient in the second call, so that parameters
    of different steps meet in one; and all step counts jump ahead once.
    """

    JUMP_AFTER, JUMP = 2, 997

    @property
    def call(self) -> str:
        return f"fastopt.optim.{self.rule.optimizer}"

    def fill(self, start: Block, pool: Pool, rng: np.random.Generator) -> Places:
        start["param"][:], plain = pool.cut(self.layout.length, False, rng)
        return plain

    @property
    def constructor_options(self) -> Options:
        return self.options

    def step_number(self, first: int, number: int) -> int:
        return first + number + (self.JUMP if number >= self.JUMP_AFTER else 0)

    def begin(self) -> None:
        super().begin()
        self.params = [torch.from_numpy(p) for p in self.cut("param")]
        self.grads = [torch.from_numpy(g) for g in self.cut("grad")]
        self.optimizer: torch.optim.Optimizer = getattr(optim, self.rule.optimizer)(
            self.params, **self.constructor_options
        )

    def cut(self, name: str) -> list[Array]:
        return [self.work[name][piece.elements] for piece in self.layout.pieces]

    def step(self, number: int) -> None:
        if number == self.JUMP_AFTER:
            for state in self.optimizer.state.values():
                if "step" in state:
                    state["step"] += self.JUMP
        for piece, param, grad in zip(self.layout.pieces, self.params, self.grads, strict=True):
            param.grad = grad if piece.step + number > 0 else None
        self.optimizer.step()
        for name in self.work.shifts:
            if name not in ("param", "grad"):
                for param, array in zip(self.params, self.cut(name), strict=True):
                    if param.grad is not None:
                        array[:] = self.optimizer.state[param][name].numpy()


def check_all(report: Report, trial: Trial, runs: Sequence[tuple[Row, int]]) -> None:
    """Check a trial on the target of each row, with so many threads."""
    accuracy = trial.accuracy() if isinstance(trial, KernelTrial) else None
    for row, threads in runs:
        trial.check(report, row, threads, accuracy)
