"""The optimizers of fastopt.optim against fastopt.reference, parameter by parameter.

The parameters are tensors of odd sizes, the state starts as the optimizer makes it. One parameter
gets its first gradient late, and the step counts jump ahead once, so that parameters of different
steps meet in one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from fastopt import _C, optim

from .cases import Options, Rule
from .compare import Report, Row, Where
from .evaluate import evaluate
from .inputs import Array, Pool

SMALL = (1, 3, 17, 63, 64, 65, 129, 1001)
LARGE = (1, 17, 4097, 65, 35003, 63, 30011, 129)
STEPS = 4
LATE = 2  # the place in the list of the parameter whose first gradient comes in the second step
JUMP_AFTER, JUMP = 2, 997


class OptimizerTrial:
    """One combination of options: parameters, gradients, and what must come out."""

    def __init__(
        self,
        rule: Rule,
        options: Options,
        sizes: Sequence[int],
        pool: Pool,
        rng: np.random.Generator,
    ) -> None:
        self.rule, self.options = rule, options
        self.start = [pool.cut(size, False, rng)[0] for size in sizes]
        self.grads = [
            [pool.cut(size, False, rng)[0] for size in sizes] for _ in range(STEPS)
        ]
        self.expected = self.evaluate_steps()

    def gradient(self, number: int, i: int) -> Array | None:
        return None if i == LATE and number == 0 else self.grads[number][i]

    def evaluate_steps(self) -> list[list[dict[str, Array]]]:
        """param and states of every parameter after every step."""
        names = [state.name for state in self.rule.states if state.used(self.options)]
        arrays: list[dict[str, Array]] = [{"param": param} for param in self.start]
        counts = [0] * len(arrays)
        expected = []
        for number in range(STEPS):
            for i, array in enumerate(arrays):
                if (grad := self.gradient(number, i)) is None:
                    continue
                if counts[i] == 0:
                    array = array | {name: np.zeros_like(grad) for name in names}
                counts[i] += 1
                arrays[i] = evaluate(self.rule, self.options, array | {"grad": grad}, counts[i])
            expected.append(list(arrays))
            if number + 1 == JUMP_AFTER:
                counts = [count + JUMP for count in counts]  # all have begun by then
        return expected

    def check(self, report: Report, row: Row, threads: int) -> None:
        """Run and compare all steps with the target and the thread count that are set."""
        params = [torch.from_numpy(param.copy()) for param in self.start]
        optimizer: torch.optim.Optimizer = getattr(optim, self.rule.optimizer)(
            params, **self.options
        )
        before = [{"param": param} for param in self.start]
        for number, expected in enumerate(self.expected):
            for i, param in enumerate(params):
                grad = self.gradient(number, i)
                param.grad = None if grad is None else torch.from_numpy(grad.copy())
            optimizer.step()
            wrong = 0
            for i, param in enumerate(params):
                place = partial(self.place, i=i, number=number)
                where = Where(row, "optimizer", threads, self.options, place)
                got: dict[str, Any] = {"param": param, **optimizer.state.get(param, {})}
                inputs = before[i] | {"grad": self.grads[number][i]}
                for name, want in expected[i].items():
                    wrong += len(report.compare(where, name, got[name].numpy(), want, inputs))
                    row.elements += len(want)
            if wrong:
                return  # what follows would only repeat it
            before = expected
            if number + 1 == JUMP_AFTER:
                for state in optimizer.state.values():
                    if "step" in state:
                        state["step"] += JUMP

    def place(self, element: int, i: int, number: int) -> str:
        """Which element this is, in words."""
        return (
            f"element {element} of {len(self.start[i])}, parameter {i} of {len(self.start)}, "
            f"call {number + 1} of step()"
        )


def check_optimizers(
    report: Report, trial: OptimizerTrial, runs: Sequence[tuple[Row, int]]
) -> None:
    """One trial on the target of each row, with so many threads."""
    for row, threads in runs:
        _C.set_cpu_target(row.target)
        torch.set_num_threads(threads)
        trial.check(report, row, threads)
