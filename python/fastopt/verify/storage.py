"""What arrays are stored in: as memory, as kernels take them, as the numbers that they stand for.

NumPy has no bfloat16, so that its arrays are uint16 here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from fastopt import reference
from fastopt.reference.storage import round_float16, round_stochastic

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Storage:
    """A dtype by its name."""

    name: str

    @property
    def dtype(self) -> np.dtype[Any]:
        """What NumPy sees in memory."""
        return np.dtype(np.uint16 if self.name == "bfloat16" else self.name)

    @property
    def compute(self) -> np.dtype[Any]:
        """What rules compute in."""
        return np.dtype(np.float64 if self.name == "float64" else np.float32)

    @property
    def bits(self) -> np.dtype[Any]:
        return np.dtype(f"u{self.dtype.itemsize}")

    def visible(self, stored: Array) -> Array:
        """As NumPy can print it and tell NaN: bfloat16 as float32, which holds it exactly."""
        return reference.from_bfloat16(stored) if self.name == "bfloat16" else stored

    def numbers(self, stored: Array) -> Array:
        """In the type that rules compute in."""
        return stored.astype(np.float32) if self.name == "float16" else self.visible(stored)

    def rounded(self, numbers: Array, draws: Array | None = None) -> Array:
        """As they are stored: to nearest, or by a draw each if that has 16 bits."""
        if draws is not None and self.name == "bfloat16":
            return round_stochastic(numbers, draws)
        if draws is not None and self.name == "float16":
            return round_float16(numbers, draws)
        if self.name == "bfloat16":
            return reference.to_bfloat16(numbers)
        with np.errstate(over="ignore"):
            return numbers.astype(self.dtype, copy=False)

    def argument(self, stored: Array) -> Any:
        """The same memory as a kernel takes it."""
        return self.tensor(stored) if self.name == "bfloat16" else stored

    def tensor(self, stored: Array) -> torch.Tensor:
        """The same memory as a tensor."""
        tensor = torch.from_numpy(stored)
        return tensor.view(torch.bfloat16) if self.name == "bfloat16" else tensor

    def of_tensor(self, tensor: torch.Tensor) -> Array:
        """A tensor's memory."""
        stored: Array = (tensor.view(torch.uint16) if self.name == "bfloat16" else tensor).numpy()
        return stored


@dataclass(frozen=True)
class Mix:
    """What the arrays of a step are stored in."""

    column: str  # of the table
    param: str
    grad: str
    states: tuple[str, ...]  # of the first state, the second, and so on in a circle

    @property
    def compute(self) -> np.dtype[Any]:
        return Storage(self.param).compute

    def storage(self, name: str, state: int = 0) -> Storage:
        """Of an array by its name; of a state also by its number."""
        if name == "ema":
            return Storage(self.compute.name)
        return Storage({"param": self.param, "grad": self.grad}.get(name) or self.state(state))

    def state(self, number: int) -> str:
        return self.states[number % len(self.states)]


def alike(name: str) -> Mix:
    """All arrays in one type."""
    return Mix(name, name, name, (name,))


MIXES = (
    Mix("mixed", "float32", "float32", ("bfloat16",)),
    Mix("mixed", "bfloat16", "bfloat16", ("float32",)),
    Mix("mixed", "float32", "bfloat16", ("float32",)),
    Mix("mixed", "float16", "bfloat16", ("float32", "bfloat16", "float16")),
    Mix("mixed", "bfloat16", "float16", ("bfloat16", "float32")),
    Mix("mixed", "bfloat16", "float32", ("bfloat16", "float16")),
    Mix("mixed", "float16", "float16", ("float32",)),
)

STORED = ((alike("bfloat16"),), (alike("float16"),), MIXES)
"""What is computed in float32 and stored otherwise: the mixes of each column, to be taken in turn."""

COLUMNS = tuple(mixes[0].column for mixes in STORED)
