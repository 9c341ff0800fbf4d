"""A function called with symbols, and the program that comes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastopt import _C

from ._errors import RuleError
from ._listing import listing
from ._numbers import MOST_WAYS, TOO_MANY_WAYS, Guards, Number, as_number, is_number
from ._program import Instruction, Stage, numbered, stages_of
from ._symbols import Symbol

_lock = threading.RLock()


@dataclass(frozen=True)
class Trace:
    """What a function does for some inputs, and for all that answer its guards alike."""

    rule: str
    names: tuple[str, ...]  # of the arrays
    numbers: tuple[str, ...]  # of the inputs
    results: tuple[Symbol, ...]  # of the parameter and the states
    kept: tuple[Number, ...]  # of the numbers that a parameter keeps
    arrays: tuple[Symbol, ...]
    inputs: tuple[Number, ...]
    guards: Guards
    stages: tuple[Stage, ...]
    traced: _C.Traced

    def __str__(self) -> str:
        return listing(self, self.rule)

    @property
    def code(self) -> tuple[Instruction, ...]:
        """The instructions of the last pass."""
        return self.stages[-1].code


def trace(
    call: Callable[[Sequence[Symbol], Sequence[Number]], Any],
    rule: str,
    names: Sequence[str],
    kept: Sequence[str],
    values: Mapping[str, float],
    where: str,
    given: Collection[int] = (),
    answers: Sequence[bool] = (),
) -> Trace:
    """The program of `call(arrays, numbers)` for these values of its numbers.

    The last of these are those that a parameter keeps, `kept`. Of those that are `given` on a device,
    by their places, `answers` say what is asked of them (see :class:`Guards`).
    """
    arrays = [Symbol("input", (), ()) for _ in names]
    inputs = [Number("input", (), float(value)) for value in values.values()]
    for place in given:
        inputs[place].given = True
    guards = Guards(answers)
    with _lock:
        before = Symbol.made, Symbol.sums, Guards.recording
        Symbol.made, Symbol.sums, Guards.recording = {}, {}, guards
        try:
            results, after = checked(call(arrays, inputs), names, kept, where)
        finally:
            Symbol.made, Symbol.sums, Guards.recording = before
    wanted = {0 if k == 0 else k + 1: it for k, it in enumerate(results)}
    stages = stages_of(arrays, wanted)
    asked = [(it, answer) for it, answer, _ in guards]
    traced = numbered(stages, inputs, asked, after, len(arrays))
    return Trace(
        rule,
        tuple(names),
        tuple(values),
        results,
        after,
        tuple(arrays),
        tuple(inputs),
        guards,
        tuple(stages),
        traced,
    )


def branches(traced: Callable[[Sequence[bool]], Trace], where: str) -> list[Trace]:
    """The programs of every way that Python's ifs can go, where what they ask of lies on a device."""
    found: list[Trace] = []
    waiting: list[tuple[bool, ...]] = [()]
    while waiting:
        answers = waiting.pop()
        found.append(traced(answers))
        asked = tuple(found[-1].guards.given)
        waiting += [(*asked[:k], not asked[k]) for k in range(len(answers), len(asked))]
        if len(found) + len(waiting) > MOST_WAYS:
            raise RuleError(f"{where}: {TOO_MANY_WAYS}")
    return found


def checked(
    results: Any, names: Sequence[str], kept: Sequence[str], where: str
) -> tuple[tuple[Symbol, ...], tuple[Number, ...]]:
    """The results, one for the parameter and each state, and the numbers that are kept."""
    expected = [names[0], *names[2:]]
    listed = ", ".join([*expected, *kept])
    if not isinstance(results, tuple):
        results = (results,)
    if len(results) != len(expected) + len(kept):
        raise RuleError(
            f"{where} returns {len(results)} results; expected {len(expected) + len(kept)}: {listed}"
        )
    found: list[Symbol] = []
    for name, it in zip(expected, results, strict=False):
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
    after: list[Number] = []
    for name, it in zip(kept, results[len(expected) :], strict=True):
        if not is_number(it):
            raise RuleError(f"{where} returns {type(it).__name__} for {name}; expected a Number")
        if as_number(it).stage > 0:
            raise RuleError(
                f"{where} keeps {name}, which comes of a sum over the tensor; expected a Number of the "
                "options, the step and what is kept"
            )
        after.append(as_number(it))
    return tuple(found), tuple(after)


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
