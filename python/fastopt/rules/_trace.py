"""A function called with symbols, and the program that comes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastopt import _C

from ._errors import RuleError
from ._numbers import Guards, Number, is_number
from ._program import Instruction, allocated, numbered
from ._symbols import Symbol

_lock = threading.RLock()


@dataclass(frozen=True)
class Trace:
    """What a function does for some inputs, and for all that answer its guards alike."""

    names: tuple[str, ...]  # of the arrays
    results: tuple[Symbol, ...]  # of the parameter and the states
    arrays: tuple[Symbol, ...]
    inputs: tuple[Number, ...]
    guards: Guards
    code: tuple[Instruction, ...]
    traced: _C.Traced


def trace(
    call: Callable[[Sequence[Symbol], Sequence[Number]], Any],
    names: Sequence[str],
    values: Sequence[float],
    where: str,
) -> Trace:
    """The program of `call(arrays, numbers)` for these values of its numbers."""
    arrays = [Symbol("input", (), ()) for _ in names]
    inputs = [Number("input", (), float(value)) for value in values]
    guards = Guards()
    with _lock:
        kept = Symbol.made, Guards.recording
        Symbol.made, Guards.recording = {}, guards
        try:
            results = checked(call(arrays, inputs), names, where)
        finally:
            Symbol.made, Guards.recording = kept
    wanted = {0 if k == 0 else k + 1: it for k, it in enumerate(results)}
    code = allocated(arrays, wanted)
    traced = numbered(code, inputs, [(it, answer) for it, answer, _ in guards], len(arrays))
    return Trace(tuple(names), results, tuple(arrays), tuple(inputs), guards, tuple(code), traced)


def checked(results: Any, names: Sequence[str], where: str) -> tuple[Symbol, ...]:
    """The results, one for the parameter and each state."""
    found: list[Symbol] = []
    expected = [names[0], *names[2:]]
    listed = ", ".join(expected)
    if not isinstance(results, tuple):
        results = (results,)
    if len(results) != len(expected):
        raise RuleError(f"{where} returns {len(results)} results; expected {len(expected)}: {listed}")
    for name, it in zip(expected, results, strict=True):
        if is_number(it):
            raise RuleError(
                f"{where} returns a number for {name}, which depends on no array; expected an array"
            )
        if not isinstance(it, Symbol):
            raise RuleError(f"{where} returns {type(it).__name__} for {name}; expected an array")
        if it.is_condition:
            raise RuleError(
                f"{where} returns a condition for {name}; expected where(condition, 1.0, 0.0)"
            )
        found.append(it)
    return tuple(found)


def never_negative(found: Trace) -> set[str]:
    """The states that stay non-negative if they begin so: averages of squares and their like."""
    states = found.names[2:]
    assumed = set(states)
    while True:
        inputs = {it for name, it in zip(found.names, found.arrays, strict=True) if name in assumed}
        known = {
            name
            for name, result in zip(states, found.results[1:], strict=True)
            if name in assumed and _is_not_negative(result, inputs)
        }
        if known == assumed:
            return known
        assumed = known


def _is_not_negative(it: Symbol, inputs: set[Symbol]) -> bool:
    args = [_is_not_negative(arg, inputs) for arg in it.args]
    numbers = [number.value >= 0 for number in it.numbers]
    if it.op == "input":
        return it in inputs
    if it.op in ("square", "absolute", "root"):
        return True
    if it.op in ("maximum", "maximum_number"):
        return any(args + numbers)
    if it.op in ("select", "select_else", "select_then", "select_numbers"):
        return all(args[1:] + numbers)
    products = ("add", "multiply", "divide", "minimum")
    by_number = ("add_number", "scale", "over_number", "number_over", "minimum_number", "fill")
    return it.op in products + by_number and all(args + numbers)
