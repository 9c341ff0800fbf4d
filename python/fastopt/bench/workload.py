"""The arrays that all contenders of a case work on, and the contenders that fastopt itself enters.

Every contender steps the same parameters and gradients and, where its state has the parameter's
shape and dtype, the same states: pages, alignment and caches are then the same for all. Each kind of
array (parameters, gradients, a state) is one block of memory in which the tensors lie end to end,
each on a cache line of its own, so that the limit can move the same bytes in one go.

Values stay finite for any number of steps: gradients are positive, so that neither a rule nor the
limit's additions can make a second moment negative, nothing decays into the denormals, and learning
rates are small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

import fastopt.optim
from fastopt import _C
from fastopt.bench.shapes import Shape, count
from fastopt.bench.timing import Contender

LINE = 16  # elements of float32 in a cache line, on which allocators place a tensor
MAX_STATES = 3  # of the limit's loop


@dataclass(frozen=True)
class Setting:
    """One optimizer as it is measured."""

    options: dict[str, Any]  # with what packages have other defaults for
    states: int  # arrays of the parameter's size that a step reads and writes
    optimizer: str | None = None  # the class, where it is not the work's name
    tail: dict[str, Any] = field(default_factory=dict)  # options that only fastopt has

    def moved_bytes(self, elements: int, state_size: int = 4) -> int:
        """What a step must at least read (all) and write (all but the gradient)."""
        return elements * (3 * 4 + self.states * 2 * state_size)


ADAM = {"betas": (0.9, 0.999), "eps": 1e-8}

SETTINGS = {
    "AdamW": Setting({"lr": 1e-4, "weight_decay": 1e-2, **ADAM}, states=2),
    "Adam": Setting({"lr": 1e-4, **ADAM}, states=2),
    "SGD": Setting({"lr": 1e-4, "momentum": 0.9}, states=1),
    "Adagrad": Setting({"lr": 1e-4}, states=1),
    "RMSprop": Setting({"lr": 1e-4}, states=1),
    "clip + AdamW": Setting(
        {"lr": 1e-4, **ADAM}, states=2, optimizer="AdamW", tail={"max_grad_norm": 1.0}
    ),
    "clip + AdamW + EMA": Setting(  # the average is one more state
        {"lr": 1e-4, **ADAM},
        states=3,
        optimizer="AdamW",
        tail={"max_grad_norm": 1.0, "ema_decay": 0.999},
    ),
}


def cut(block: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
    """Tensors end to end in ``block``, each from a line's start; not views in autograd's sense."""
    tensors, offset = [], 0
    for shape in shapes:
        strides = torch.empty(shape, device="meta").stride()
        tensors.append(torch.empty(0).set_(block.untyped_storage(), offset, shape, strides))
        offset += -(-prod(shape) // LINE) * LINE
    return tensors


def block_size(shapes: Sequence[Shape]) -> int:
    """Elements from the first tensor's start to the last one's end."""
    *others, last = (prod(shape) for shape in shapes)
    return sum(-(-size // LINE) * LINE for size in others) + last


def needed_bytes(optimizer: str, shapes: Sequence[Shape]) -> int:
    """Memory at the peak, when a contender has yet to give up the states that it made itself, or
    holds as many temporary arrays."""
    return 4 * block_size(shapes) * (2 + 2 * SETTINGS[optimizer].states)


def drawn_params(shapes: Sequence[Shape], dtype: torch.dtype) -> list[torch.nn.Parameter]:
    """Parameters with gradients of one dtype, each in memory of its own."""
    draw = torch.Generator().manual_seed(0)

    def fill(low: float, high: float) -> list[Tensor]:
        made = (torch.empty(shape).uniform_(low, high, generator=draw) for shape in shapes)
        return [tensor.to(dtype) for tensor in made]

    params = [torch.nn.Parameter(param) for param in fill(-1, 1)]
    for param, grad in zip(params, fill(5e-4, 1.5e-3), strict=True):
        param.grad = grad
    return params


class Workload:
    """Parameters with gradients and the memory of their states."""

    def __init__(self, optimizer: str, shapes: tuple[Shape, ...]) -> None:
        self.optimizer = optimizer
        self.setting = SETTINGS[optimizer]
        self.elements = count(shapes)
        size = block_size(shapes)
        generator = torch.Generator().manual_seed(0)
        self.blocks = [
            torch.empty(size).uniform_(low, high, generator=generator)
            for low, high in ((-1, 1), (5e-4, 1.5e-3))
        ]
        self.blocks += [torch.full((size,), 1e-3) for _ in range(self.setting.states)]
        params, grads, *states = (cut(block, shapes) for block in self.blocks)
        self.params = [torch.nn.Parameter(param) for param in params]
        for param, grad in zip(self.params, grads, strict=True):
            param.grad = grad
        self.states = list(zip(*states, strict=True))  # the states of each parameter

    def share_states(self, optimizer: Optimizer) -> None:
        """Put the workload's states in the place of an optimizer's own."""
        for param, shared in zip(self.params, self.states, strict=True):
            entries = optimizer.state[param]
            own = [
                key
                for key, value in entries.items()
                if isinstance(value, Tensor)
                and value.shape == param.shape
                and value.dtype == param.dtype
            ]
            # Some packages keep no array of this kind (8-bit states) and leave `own` empty.
            for key, tensor in zip(own, shared, strict=False):
                entries[key] = tensor

    def moved_bytes(self, optimizer: Optimizer, state_size: int = 4) -> int:
        """What a step of ``optimizer`` must at least read and write."""
        return self.setting.moved_bytes(self.elements, state_size)

    def state_bytes(self, optimizer: Optimizer) -> float | None:
        """The memory of the states for each element, in suites where it differs."""
        return None

    def limit(self, target: str, threads: int) -> Contender:
        """The same reads and writes with one addition between them, in one call over each block."""
        params, grads, *states = ([block] for block in self.blocks)
        unused = [None] * (MAX_STATES - len(states))
        return Contender(
            name="limit",
            run=partial(
                _C.apply,
                "limit",
                [params, grads, *states, *unused],
                [1.0],
                {"states": float(len(states))},
                False,
                threads,
            ),
            moved_bytes=self.setting.moved_bytes(self.elements),
            target=target,
            prepare=partial(_C.set_cpu_target, target),
        )

    def ours(self, target: str) -> Contender:
        """``step`` of the optimizer in fastopt.optim."""
        name = self.setting.optimizer or self.optimizer
        options = self.setting.options | self.setting.tail
        optimizer = getattr(fastopt.optim, name)(self.params, **options)
        optimizer.step()
        self.share_states(optimizer)
        return Contender(
            name="fastopt",
            run=optimizer.step,
            moved_bytes=self.setting.moved_bytes(self.elements),
            target=target,
            version=fastopt.__version__,
            prepare=partial(_C.set_cpu_target, target),
        )
