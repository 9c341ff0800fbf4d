"""A program as people read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastopt import _C

from ._numbers import Number

if TYPE_CHECKING:
    from ._program import Instruction
    from ._trace import Trace

# x, y, z: the operands; s, t: the numbers.
FORMS = {
    "copy": "{x}",
    "negative": "-{x}",
    "absolute": "abs({x})",
    "root": "sqrt({x})",
    "square": "{x} * {x}",
    "sign": "sign({x})",
    "add": "{x} + {y}",
    "subtract": "{x} - {y}",
    "multiply": "{x} * {y}",
    "divide": "{x} / {y}",
    "maximum": "maximum({x}, {y})",
    "minimum": "minimum({x}, {y})",
    "less": "{x} < {y}",
    "at_most": "{x} <= {y}",
    "equal": "{x} == {y}",
    "both": "{x} & {y}",
    "either": "{x} | {y}",
    "opposite": "~{x}",
    "select": "where({x}, {y}, {z})",
    "select_else": "where({x}, {y}, {s})",
    "select_then": "where({x}, {s}, {y})",
    "select_numbers": "where({x}, {s}, {t})",
    "fill": "{s}",
    "add_number": "{x} + {s}",
    "from_number": "{s} - {x}",
    "scale": "{s} * {x}",
    "over_number": "{x} / {s}",
    "number_over": "{s} / {x}",
    "maximum_number": "maximum({x}, {s})",
    "minimum_number": "minimum({x}, {s})",
    "clip": "minimum(maximum({x}, {s}), {t})",
    "less_number": "{x} < {s}",
    "greater_number": "{x} > {s}",
    "at_most_number": "{x} <= {s}",
    "at_least_number": "{x} >= {s}",
    "equal_number": "{x} == {s}",
    "sum": "{s} * {x} + {t} * {y}",
    "sum_square": "{s} * {x} + {t} * ({y} * {y})",
    "sum_product": "{s} * {x} + {t} * ({y} * {z})",
    "sum_quotient": "{s} * {x} + {t} * ({y} / {z})",
    "sum_sign": "{s} * {x} + {t} * sign({y})",
    "sum_root": "{s} * sqrt({x}) + {t}",
    "root_plus": "sqrt({x}) + {s}",
    "root_maximum": "maximum(sqrt({x}), {s})",
}


def listing(found: Trace, name: str) -> str:
    """The program, instruction by instruction, with its numbers at this step."""
    lines = [
        f"{name}: {sum(len(it.code) for it in found.stages)} instructions on {len(found.names) - 2} "
        f"states, {bytes_of(found)} bytes an element in float32"
    ]
    sums: dict[int, str] = {}
    for stage in found.stages:
        lines += [f"  {_line(found, it, sums)}" for it in stage.code]
        for k, it in enumerate(stage.sums):
            sums[id(it)] = f"S{len(sums)}"
            what = "sum of squares" if it.op == "squares" else "sum"
            lines.append(f"  {sums[id(it)]}: the {what} of x{k} over the tensor; another pass")
    for guard, answer, _ in found.guards:
        lines.append(f"  as long as {_number(guard, sums, found)} is {'true' if answer else 'false'}")
    return "\n".join(lines)


def bytes_of(found: Trace) -> int:
    """What all passes read and write of an element, in float32."""
    moved = 0
    for stage in found.stages:
        read = {k for it in stage.code for k in it.operands if k < len(found.names)}
        written = {it.to for it in stage.code if it.to < len(found.names)}
        moved += 4 * (len(read | written) + len(written))
    return moved


def _line(found: Trace, it: Instruction, sums: dict[int, str]) -> str:
    operands = dict(zip("xyz", (_place(found, k) for k in it.operands), strict=False))
    numbers = dict(zip("st", (_number(n, sums, found) for n in it.numbers), strict=False))
    return f"{_place(found, it.to)} = {FORMS[it.op].format(**operands, **numbers)}"


def _place(found: Trace, place: int) -> str:
    if place < len(found.names):
        return found.names[place]
    if place < _C.first_register:
        return f"x{place - _C.first_summand}"
    return f"r{place - _C.first_register}"


def _number(it: Number, sums: dict[int, str], found: Trace) -> str:
    if id(it) in sums:
        return sums[id(it)]
    for name, known in zip(found.numbers, found.inputs, strict=True):
        if known is it:
            return name
    if it.stage > 0:
        args = [_number(arg, sums, found) for arg in it.args if isinstance(arg, Number)]
        return f"{it.op}({', '.join(args)})"
    if it.op in ("less", "at_most", "equal", "unequal"):
        sign = {"less": "<", "at_most": "<=", "equal": "==", "unequal": "!="}[it.op]
        first, second = (_number(arg, sums, found) for arg in it.args)
        return f"{first} {sign} {second}"
    return f"{it.value:.6g}"
