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

from fastopt import kernels, optim, reference
from fastopt.reference.dither import half_draws

from . import device
from .accuracy import Accuracy
from .cases import Options, Rule
from .compare import Report, Row, spell
from .memory import Block, Layout
from .pools import Places, Pool
from .storage import Array, Mix, Storage


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
        mix: Mix,
        steps: int,
    ) -> None:
        self.rule, self.options, self.layout, self.mix = rule, options, layout, mix
        if rule.norms and rng.integers(4):
            pool = pool.tame
        names = ["param", "grad", *self.states(rng)]
        shifts = dict(zip(names, rng.integers(4, size=len(names)).tolist(), strict=True))
        self.storages = {name: self.storage(name) for name in names}
        dtypes = {name: storage.dtype for name, storage in self.storages.items()}
        self.start = Block(layout.length, shifts, dtypes)
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

    def storage(self, name: str) -> Storage:
        """What an array is stored in."""
        states = [state.name for state in self.rule.states]
        return self.mix.storage(name, states.index(name) if name in states else 0)

    def draw_grad(self, pool: Pool, rng: np.random.Generator) -> tuple[Array, Places]:
        """A step's gradients; where they are plain random."""
        return pool.cut(self.storages["grad"], self.layout.length, False, rng)

    def fill(self, start: Block, pool: Pool, rng: np.random.Generator) -> Places:
        """Fill in the arrays at the start; where all of them are plain random."""
        raise NotImplementedError

    def step_number(self, first: int, number: int) -> int:
        """What step `number` of the trial, from 0, is to a parameter that began at step `first`."""
        return first + number

    @property
    def segments(self) -> Sequence[tuple[int, int, int]]:
        """What one call of the reference serves: of a rule with norms, one parameter."""
        if not self.rule.norms:
            return self.layout.segments
        return [(it.start, it.start + it.size, it.step) for it in self.layout.pieces]

    def step_reference(self, block: Block, number: int) -> None:
        """The reference's step `number` on a block, between the gaps."""
        for begin, end, first in self.segments:
            if (step := self.step_number(first, number)) < 1:
                continue
            segment = {name: array[begin:end] for name, array in block.arrays.items()}
            inside = self.layout.inside[begin:end]
            numbers = {name: self.storages[name].numbers(it) for name, it in segment.items()}
            options = self.options_at(first, number)
            self.stretch, self.at_step = slice(begin, end), step
            for name, result in self.results_of(numbers, step, options).items():
                np.copyto(segment[name], self.rounded(name, result), where=inside)

    def rounded(self, name: str, numbers: Array) -> Array:
        """What is stored of an array's part that the reference is at."""
        storage, states = self.storages[name], [state.name for state in self.rule.states]
        if name not in states or storage.name not in ("bfloat16", "float16"):
            return storage.rounded(numbers)
        places = self.layout.places[self.stretch]
        draws = half_draws(places, step=self.at_step, state=states.index(name))
        return storage.rounded(numbers, draws)

    def options_at(self, first: int, number: int) -> Options:
        """What the rule takes at step `number` of the trial."""
        return self.options

    def results_of(self, numbers: Mapping[str, Array], step: int, options: Options) -> dict[str, Array]:
        """What the references make of numbers, before it is rounded to what it is stored in."""
        if self.rule.norms:
            options = options | {"as_stored": self.as_stored}
        return evaluate(self.rule, options, numbers, step)

    def as_stored(self, name: str, numbers: Array) -> Array:
        """What an array reads as once it has been stored."""
        return self.storages[name].numbers(self.rounded(name, numbers))

    def begin(self, target: str) -> None:
        """Make ready for the first step on a target."""
        self.target = target
        self.work.assign(self.start)

    def memory(self, name: str) -> torch.Tensor:
        """All that belongs to an array, what surrounds it too, as a tensor."""
        return self.storages[name].tensor(self.work.memory[name])

    def cut(self, name: str, memory: torch.Tensor) -> list[torch.Tensor]:
        """The parameters' parts of it, or of a copy."""
        first = self.work.shifts[name]
        array = memory[first : first + self.layout.length]
        return [array[piece.elements] for piece in self.layout.pieces]

    def step(self, number: int) -> None:
        """Take step `number` on `self.work`."""
        raise NotImplementedError

    def check(self, report: Report, row: Row, threads: int, accuracy: Accuracy | None = None) -> None:
        """Take all steps on a target with so many threads, and compare."""
        device.use(row.target, threads)
        self.begin(row.target)
        for number, expected in enumerate(self.expected):
            np.copyto(self.work["grad"], expected["grad"])
            self.step(number)
            row.elements += self.results
            if accuracy and number == 0:
                row.max_ulp = max(row.max_ulp or 0.0, accuracy.error(self.work.arrays))
            if not self.compare(report, row, threads, number):
                return  # what follows would only repeat it

    def compare(self, report: Report, row: Row, threads: int, number: int) -> bool:
        """Whether all memory is as it should be after step `number`."""
        right = True
        for name, storage in self.storages.items():

            def describe(i: int, name: str = name) -> dict[str, Any]:
                return {"threads": threads, **self.describe(name, i, number)}

            got, want = self.work.memory[name], self.expected[number].memory[name]
            right &= report.compare(row, storage.visible(got), storage.visible(want), describe)
        return right

    def describe(self, array: str, i: int, number: int) -> dict[str, Any]:
        """Which element work.memory[array][i] is, and what went into its step."""
        i -= self.work.shifts[array]
        facts = {"call": self.call, "options": self.options, "array": array}
        for k, piece in enumerate(self.layout.pieces):
            if 0 <= i - piece.start < piece.size:
                before = self.expected[number - 1] if number else self.start
                inputs = before.arrays | {"grad": self.expected[number]["grad"]}
                return facts | {
                    "parameter": f"{k} of {len(self.layout.pieces)}",
                    "index": f"{i - piece.start} of {piece.size}",
                    "step": self.step_number(piece.step, number),
                    "inputs": {
                        name: spell(self.storages[name].visible(stored[i : i + 1])[0])
                        for name, stored in inputs.items()
                    },
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
            square = squares.get(name, False)
            array[:], places = pool.cut(self.storages[name], self.layout.length, square, rng)
            plain &= places
        return plain

    @cached_property
    def arguments(self) -> list[Any]:
        """The working arrays as the kernel takes them: one of each, or lists; None if left out."""
        columns: list[Any] = []
        for name in ["param", "grad", *(state.name for state in self.rule.states)]:
            column: list[Any] | None = None
            if (array := self.work.arrays.get(name)) is not None:
                argument = self.storages[name].argument
                column = [argument(array[piece.elements]) for piece in self.layout.pieces]
            columns.append(column[0] if column and len(column) == 1 else column)
        return columns

    def arguments_there(self, there: Mapping[str, torch.Tensor]) -> list[Any]:
        """The same from copies on the device."""
        columns: list[Any] = []
        for name in ["param", "grad", *(state.name for state in self.rule.states)]:
            column = self.cut(name, there[name]) if name in there else None
            columns.append(column[0] if column and len(column) == 1 else column)
        return columns

    def step(self, number: int) -> None:
        steps = [self.step_number(piece.step, number) for piece in self.layout.pieces]
        function: Any = getattr(kernels, self.rule.name + "_")
        step = steps if len(steps) > 1 else steps[0]
        if self.target != device.CUDA:
            function(*self.arguments, step=step, **self.options)
            return
        there = {name: device.placed(self.target, self.memory(name)) for name in self.work.arrays}
        function(*self.arguments_there(there), step=step, **self.options)
        for name, tensor in there.items():
            device.put_back(tensor, self.memory(name))

    def accuracy(self) -> Accuracy | None:
        """The first step in more precision, if that means something here."""
        sample = np.flatnonzero(self.plain)
        if self.rule.norms or {storage.name for storage in self.storages.values()} != {"float32"}:
            return None  # a sample has not the norms of the whole
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
        return self.rule.called

    def fill(self, start: Block, pool: Pool, rng: np.random.Generator) -> Places:
        storage = self.storages["param"]
        start["param"][:], plain = pool.cut(storage, self.layout.length, False, rng)
        return plain

    def storage(self, name: str) -> Storage:
        if name in ("square_avg", "grad_avg") and self.options.get("centered"):
            return Storage(self.mix.compute.name)  # of which a difference is taken
        if name == "momentum_buffer" and not self.chooses_states:
            return Storage(self.mix.param)
        if self.rule.norms and self.mix.state(0) == "float16":
            return Storage(self.mix.compute.name)  # LAMB's default: float16 cannot hold squares
        return self.mix.storage(name)  # one for all states

    @property
    def chooses_states(self) -> bool:
        """Whether the optimizer takes the mix's type of states as an option."""
        state = self.mix.state(0)
        return state != self.mix.param and (state == "float32" or not self.options.get("centered"))

    @property
    def constructor_options(self) -> Options:
        options = self.rule.constructed(self.options)
        if not self.chooses_states:
            return options
        return options | {"state_dtype": getattr(torch, self.mix.state(0))}

    def options_at(self, first: int, number: int) -> Options:
        steps = (self.step_number(first, earlier) for earlier in range(number + 1))
        return self.rule.within(self.options, (step for step in steps if step > 0))

    def step_number(self, first: int, number: int) -> int:
        return first + number + (self.JUMP if number >= self.JUMP_AFTER else 0)

    @property
    def given(self) -> tuple[str, ...]:
        """The arrays that the optimizer is given; all others it makes."""
        return ("param", "grad")

    def begin(self, target: str) -> None:
        super().begin(target)
        self.here = {name: self.memory(name) for name in self.given}
        self.there = {name: device.placed(target, it) for name, it in self.here.items()}
        self.params, self.grads = (self.cut(name, self.there[name]) for name in ("param", "grad"))
        if self.mix.grad != self.mix.param:
            for param in self.params:
                param.grad_dtype = getattr(torch, self.mix.grad)
        self.optimizer: torch.optim.Optimizer = getattr(optim, self.rule.optimizer)(
            self.params, **self.constructor_options
        )

    def step(self, number: int) -> None:
        if number == self.JUMP_AFTER:
            for state in self.optimizer.state.values():
                if "step" in state:
                    state["step"] += self.JUMP
        device.put_back(self.here["grad"], self.there["grad"])
        for piece, param, grad in zip(self.layout.pieces, self.params, self.grads, strict=True):
            param.grad = grad if piece.step + number > 0 else None
        self.optimizer.step()
        for name, memory in self.there.items():
            device.put_back(memory, self.here[name])
        for name in self.storages:
            if name not in self.given:
                for param, part in zip(self.params, self.cut(name, self.memory(name)), strict=True):
                    if param.grad is not None:
                        part.copy_(self.optimizer.state[param][name])


def check_all(report: Report, trial: Trial, runs: Sequence[tuple[Row, int]]) -> None:
    """Check a trial on the target of each row, with so many threads."""
    accuracy = trial.accuracy() if isinstance(trial, KernelTrial) else None
    for row, threads in runs:
        trial.check(report, row, threads, accuracy)
