"""The lowbit suite's works: AdamW with its numbers stored in fewer bits.

Each work is one choice of what parameters and states are stored in. Beside fastopt stands torch's
fused AdamW on parameters of the same dtype, with the states that torch gives it, and, where the
states are int8, the packages that have an 8-bit AdamW of their own.

Here the limit has memory of its own: float32 arrays of as many bytes as a step of fastopt reads and
writes, since the bits of codes and halves, taken for float32, would be denormals and NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

import fastopt.optim
from fastopt import _C
from fastopt.bench.peers import PEERS, Peer
from fastopt.bench.shapes import Shape, count
from fastopt.bench.timing import Contender
from fastopt.bench.workload import MAX_STATES, SETTINGS, Workload, drawn_params

PEER_ROUNDS = 3  # of the 8-bit packages, which may take seconds for a step on the CPU
NEEDED = 72  # bytes an element at the peak: limit 28, master weights 14, torch and a peer the rest
PIECE = 1 << 16  # elements of float32 that stay in a second-level cache


@dataclass(frozen=True)
class Storage:
    """What the numbers are stored in."""

    dtype: torch.dtype  # of parameters and gradients
    options: dict[str, Any]  # of fastopt.optim.AdamW

    @property
    def is_eight_bit(self) -> bool:
        return self.options.get("state_dtype") == "int8"


WORKS = {
    "AdamW float32": Storage(torch.float32, {}),
    "AdamW float32, bf16 state": Storage(torch.float32, {"state_dtype": torch.bfloat16}),
    "AdamW float32, int8 state": Storage(torch.float32, {"state_dtype": "int8"}),
    "AdamW bf16": Storage(torch.bfloat16, {}),
    "AdamW bf16, stochastic rounding": Storage(torch.bfloat16, {"stochastic_rounding": True}),
    "AdamW bf16, master weights": Storage(torch.bfloat16, {"master_weights": True}),
    "AdamW bf16, int8 state": Storage(torch.bfloat16, {"state_dtype": "int8"}),
}


def tensor_bytes(tensor: Tensor) -> int:
    """The memory of a tensor's elements; of its parts, where a subclass is made of some."""
    if hasattr(tensor, "__tensor_flatten__"):
        parts, _ = tensor.__tensor_flatten__()
        return sum(tensor_bytes(getattr(tensor, part)) for part in parts)
    return tensor.nbytes


def total_state_bytes(optimizer: Optimizer) -> int:
    """The memory of all states that are tensors."""
    values = (value for entries in optimizer.state.values() for value in entries.values())
    return sum(tensor_bytes(value) for value in values if isinstance(value, Tensor))


class LowbitWorkload(Workload):
    """Parameters with gradients of one dtype; the states are each contender's own."""

    def __init__(self, work: str, shapes: tuple[Shape, ...]) -> None:
        self.optimizer, self.setting, self.storage = "AdamW", SETTINGS["AdamW"], WORKS[work]
        self.elements = count(shapes)
        self.params = drawn_params(shapes, self.storage.dtype)

    def share_states(self, optimizer: Optimizer) -> None:
        """Nothing is shared: states differ in kind."""

    def moved_bytes(self, optimizer: Optimizer, state_size: int = 4) -> int:
        arrays = 3 * self.elements * self.storage.dtype.itemsize  # parameters twice, gradients once
        return arrays + 2 * total_state_bytes(optimizer)

    def state_bytes(self, optimizer: Optimizer) -> float:
        return total_state_bytes(optimizer) / self.elements

    def new_optimizer(self) -> Optimizer:
        """fastopt's, with its states made."""
        options = self.setting.options | self.storage.options
        optimizer = fastopt.optim.AdamW(self.params, **options)
        optimizer.step()
        return optimizer

    def ours(self, target: str) -> Contender:
        optimizer = self.new_optimizer()
        return Contender(
            name="fastopt",
            run=optimizer.step,
            moved_bytes=self.moved_bytes(optimizer),
            target=target,
            version=fastopt.__version__,
            prepare=partial(_C.set_cpu_target, target),
            state_bytes=self.state_bytes(optimizer),
        )

    def limit(self, target: str, threads: int) -> Contender:
        """As many bytes as fastopt's step reads only (gradients) and reads and writes (the rest)."""
        optimizer = self.new_optimizer()
        grad_bytes = self.elements * self.storage.dtype.itemsize
        return limit_contender(target, threads, grad_bytes, grad_bytes + total_state_bytes(optimizer))


def limit_contender(target: str, threads: int, read: int, written: int) -> Contender:
    """The limit for so many bytes that are read only, and that are read and written."""
    calls = limit_calls(read, written)

    def run() -> None:
        for arrays, states in calls:
            unused, steps = [None] * (MAX_STATES - states), [1.0] * len(arrays[0])
            options = {"states": float(states)}
            _C.apply("limit", [*arrays, *unused], steps, options, False, threads)

    return Contender(
        name="limit",
        run=run,
        moved_bytes=read + 2 * written,
        target=target,
        prepare=partial(_C.set_cpu_target, target),
    )


def limit_calls(grad_bytes: int, written_bytes: int) -> list[tuple[list[list[Tensor]], int]]:
    """Arrays for the rule "limit", and how many states are among them, for each call.

    The first call reads ``grad_bytes`` and writes as many of the rest as whole arrays can hold. What
    remains is written by a second call, whose gradient is one small array again and again: it stays
    in the cache and adds nothing to what memory must move.
    """
    if grad_bytes > written_bytes:  # the loop writes an array at least for each one that it reads
        grad_bytes = written_bytes = (grad_bytes + 2 * written_bytes) // 3  # as many bytes in all
    size, written = -(-grad_bytes // 4), -(-written_bytes // 4)
    states = min(MAX_STATES, written // size - 1)
    calls = [([[torch.full((size,), 1e-3)] for _ in range(2 + states)], states)]
    if rest := written - size * (1 + states):
        pieces = torch.split(torch.full((rest,), 1e-3), PIECE)
        grad = torch.full((PIECE,), 1e-3)
        calls.append(([list(pieces), [grad[: len(piece)] for piece in pieces]], 0))
    return calls


def peers_of(storage: Storage) -> Sequence[Peer]:
    """torch's fused step, and for int8 states the 8-bit packages."""
    return [p for p in PEERS if p.name == "torch fused" or (storage.is_eight_bit and p.state_size == 1)]
