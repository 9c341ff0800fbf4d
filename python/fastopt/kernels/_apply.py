"""How a rule is applied to whatever is an array; see :mod:`fastopt.kernels`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch

from fastopt import _C
from fastopt._facts import facts_of

Array: TypeAlias = Any  # NumPy, torch, CuPy, memoryview, ...: there is no common base class
Arrays: TypeAlias = Array | Sequence[Array]
Steps: TypeAlias = int | Sequence[int]
Scale: TypeAlias = float | Array  # a number, or an array of one element

AROUND = ("grad_scale", "copy_to")  # what every rule's function takes besides, and is no option of it


def apply_rule(rule: str, given: dict[str, Any]) -> None:
    """Apply a rule to what a function was given: arrays, ``step`` and options; takes the dict apart."""
    arrays = {name: given.pop(name) for name in ("param", "grad", *facts_of(rule).states)}
    around = {name: given.pop(name) for name in AROUND}
    apply(rule, arrays, given.pop("step"), given, **around)


def apply(
    rule: str,
    arrays: dict[str, Arrays | None],
    step: Steps,
    options: dict[str, Any],
    *,
    grad_scale: Scale | None = None,
    copy_to: Arrays | None = None,
) -> None:
    """Apply a rule to arrays by their names, of which the first is written and the second read."""
    written_name, read_name, *_ = arrays
    if arrays[written_name] is None:
        raise TypeError(f"{written_name}: expected an array or a list of arrays, got None")
    listed = isinstance(arrays[written_name], (list, tuple))
    columns: list[Sequence[Array] | None] = []
    for name, column in (*arrays.items(), ("copy_to", copy_to)):
        if column is not None and isinstance(column, (list, tuple)) != listed:
            expected = f"{'a list of arrays' if listed else 'one array'} like {written_name}"
            raise TypeError(f"{name}: expected {expected}, got {type(column).__name__}")
        columns.append(column if column is None else list(column) if listed else [column])
        for i, tensor in enumerate(columns[-1] or ()):
            if isinstance(tensor, torch.Tensor) and (tensor.is_neg() or tensor.is_conj()):
                index = f"[{i}]" if listed else ""
                raise ValueError(f"{name}{index}: expected plain memory, got a lazily negated view")
    count = len(columns[0] or ())
    steps: list[Any] = list(step) if isinstance(step, (list, tuple)) else [step] * count
    names = (written_name, read_name)
    copies, threads = columns.pop(), torch.get_num_threads()
    _C.apply(rule, columns, steps, options, listed, threads, names, grad_scale, copies)
    for it, copy in zip(columns[0] or (), copies or (), strict=False):
        if isinstance(it, torch.Tensor) and it.is_cuda:
            with torch.no_grad():
                copy.copy_(it)
    columns.append(copies)
    written = [t for i, column in enumerate(columns) if i != 1 for t in column or ()]
    torch.autograd.graph.increment_version([t for t in written if isinstance(t, torch.Tensor)])


def number(name: str, value: Any) -> float:
    """The value as a float, for a check that compares it before the kernel sees it."""
    try:
        return math.ldexp(value, 0)  # float() would take text, too
    except OverflowError:
        message = f"{name}: expected a number within a double's range, got {value!r}"
        raise ValueError(message) from None
    except (TypeError, ValueError, RuntimeError):  # the last two from arrays
        raise TypeError(f"{name}: expected a number, got {value!r}") from None


def flag(name: str, value: Any) -> bool:
    """The value as a bool, likewise."""
    try:
        return bool(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name}: expected True or False, got {value!r}") from None
