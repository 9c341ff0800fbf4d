"""Symbols: what a function is called with to be traced. They stand for arrays, and for conditions.

What an array has and a program has not meets one sentence that says what would do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

import numpy as np

from ._errors import wrong
from ._numbers import Number, as_number, is_number

OF_NUMBERS = "by the basic operations, so that its last bits differ from machine to machine"
NAMESAKES = {
    "sqrt": "sqrt",
    "where": "where",
    "maximum": "maximum",
    "minimum": "minimum",
    "sign": "sign",
    "abs": "abs",
    "absolute": "abs",
    "fabs": "abs",
    "square": "square",
    "clip": "minimum and maximum",
    "mean": "mean",
    "sum": "total",
    "add.reduce": "total",
    "count_nonzero": "count",
    "linalg.norm": "norm",
    "norm": "norm",
}
INEXACT = [
    "exp",
    "exp2",
    "expm1",
    "log",
    "log2",
    "log10",
    "log1p",
    "sin",
    "cos",
    "tan",
    "tanh",
    "sinh",
    "cosh",
    "arctan",
    "arctanh",
    "arcsin",
    "arccos",
    "arcsinh",
    "arccosh",
    "atan",
    "atanh",
    "sigmoid",
    "erf",
    "power",
    "float_power",
    "pow",
    "cbrt",
    "hypot",
    "logaddexp",
    "softplus",
]


def refused(name: str) -> str:
    """Why a function of another library is none of a rule's, and what would do."""
    short = name.rsplit(".", 1)[-1]
    if short in INEXACT:
        return (
            f"{name} of an array is not correctly rounded {OF_NUMBERS}; expected + - * / sqrt, "
            "comparisons, where, or exp, log and ** of Numbers"
        )
    for known in (name, short):
        if known in NAMESAKES:
            return (
                f"{name} is NumPy's or torch's alone; expected {NAMESAKES[known]} of fastopt.rules, "
                "which arrays, tensors and symbols know"
            )
    return f"{name}: a rule works element by element, with operators and the functions of fastopt.rules"


class Symbol:
    """An array that is an input of a program or comes of others by one operation."""

    __slots__ = ("args", "is_condition", "numbers", "op", "stage")
    __hash__ = object.__hash__
    __array_priority__ = 1000

    # Of the function that is being traced:
    made: ClassVar[dict[Any, Symbol] | None] = None
    sums: ClassVar[dict[Any, Number] | None] = None

    given: ClassVar[bool] = False  # a Number of a sum is asked for it

    def __init__(self, op: str, args: tuple[Symbol, ...], numbers: tuple[Number, ...]) -> None:
        self.op, self.args, self.numbers = op, args, numbers
        self.is_condition = op in CONDITIONS
        self.stage: int = max([0, *(it.stage for it in args), *(it.stage for it in numbers)])

    def __repr__(self) -> str:
        return "<a condition of a rule>" if self.is_condition else "<an array of a rule>"

    # Operators of two make another symbol below.

    def __invert__(self) -> Symbol:
        check_condition(self)
        return symbol("opposite", self)

    def __neg__(self) -> Symbol:
        check_array(self)
        return symbol("negative", self)

    def __abs__(self) -> Symbol:
        check_array(self)
        return symbol("absolute", self)

    def __pos__(self) -> Symbol:
        return self

    def __ne__(self, other: object) -> Symbol:  # type: ignore[override]
        return symbol("opposite", binary("equal", self, other))

    # What follows is refused.

    def __bool__(self) -> bool:
        raise wrong(
            "if, and, or, not ask for one answer, and this has one for each element; "
            "expected where(condition, a, b), and & | ~ between conditions"
        )

    def _in_place(self, other: object) -> NoReturn:
        raise wrong("an operator in place would write into an argument; expected x = x + ...")

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ipow__ = __imod__ = _in_place
    __iand__ = __ior__ = __ixor__ = __ifloordiv__ = __imatmul__ = _in_place

    def _no_number(self, *ignored: object) -> NoReturn:
        raise wrong("an array is no number; expected + - * / and the functions of fastopt.rules")

    __float__ = __int__ = __index__ = __complex__ = __len__ = __iter__ = _no_number

    def _no_elements(self, *ignored: object) -> NoReturn:
        raise wrong("a rule works element by element and has no indices, slices or items")

    __getitem__ = __setitem__ = __contains__ = _no_elements

    def _no_operator(self, *ignored: object) -> NoReturn:
        raise wrong("//, %, @ and shifts are not for arrays; expected + - * /")

    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __matmul__ = __rmatmul__ = _no_operator
    __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = _no_operator

    def __pow__(self, other: Any) -> Symbol:
        if isinstance(other, (int, float)) and not isinstance(other, bool) and other == 2:
            return binary("multiply", self, self)
        raise wrong(
            f"a power of an array is not correctly rounded {OF_NUMBERS}; "
            "expected x * x, x**2 or sqrt(x)"
        )

    def __rpow__(self, other: Any) -> NoReturn:
        raise wrong(f"an array as an exponent is not correctly rounded {OF_NUMBERS}; expected a Number")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> NoReturn:
        for it in inputs:
            check_operand(it)
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        raise wrong(refused(f"numpy.{name}"))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> NoReturn:
        raise wrong(refused(f"numpy.{func.__name__}"))

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        for it in args:
            check_operand(it)
        raise wrong(refused(f"torch.{getattr(func, '__name__', func)}"))

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise wrong(refused(f"x.{name}"))


CONDITIONS = frozenset(
    [
        "less",
        "at_most",
        "equal",
        "both",
        "either",
        "opposite",
        "less_number",
        "greater_number",
        "at_most_number",
        "at_least_number",
        "equal_number",
    ]
)


def symbol(op: str, *operands: Any) -> Symbol:
    """A symbol of symbols and Numbers; the same one for the same operands."""
    args = tuple(it for it in operands if isinstance(it, Symbol))
    numbers = tuple(as_number(it) for it in operands if not isinstance(it, Symbol))
    made = Symbol(op, args, numbers)
    if Symbol.made is None:
        return made
    constants = tuple(("constant", it.value.hex()) if it.op == "constant" else id(it) for it in numbers)
    key = (op, tuple(map(id, args)), constants)
    return Symbol.made.setdefault(key, made)


def check_operand(it: Any) -> None:
    """Refuse what is neither a symbol nor a number."""
    if isinstance(it, Symbol) or is_number(it):
        return
    if isinstance(it, bool):
        raise wrong(f"{it!r} is no number; expected 1.0 or 0.0, or an if on the option")
    if isinstance(it, np.generic):
        raise wrong(
            f"{it!r} is a NumPy scalar, whose type would decide the result's; expected float(...)"
        )
    if isinstance(it, np.ndarray) or hasattr(it, "__array__") or hasattr(it, "__dlpack__"):
        raise wrong(
            f"a {type(it).__name__} from outside the rule: expected only its arguments; "
            "what is kept from step to step is a state"
        )
    raise wrong(f"a {type(it).__name__} in arithmetic; expected arrays and numbers")


def check_array(it: Any) -> None:
    """Refuse a condition where a number is wanted."""
    check_operand(it)
    if isinstance(it, Symbol) and it.is_condition:
        raise wrong("a condition is no number; expected where(condition, 1.0, 0.0)")


def check_condition(it: Any) -> None:
    """Refuse anything but a condition."""
    check_operand(it)
    if not (isinstance(it, Symbol) and it.is_condition):
        raise wrong("expected a condition, such as x > 0, got numbers")


# What an operation on two symbols is called where the second, or the first, is a number.
SECOND = {
    "add": "add_number",
    "multiply": "scale",
    "divide": "over_number",
    "maximum": "maximum_number",
    "minimum": "minimum_number",
    "less": "less_number",
    "at_most": "at_most_number",
    "equal": "equal_number",
}
FIRST = {
    "add": "add_number",
    "subtract": "from_number",
    "multiply": "scale",
    "divide": "number_over",
    "less": "greater_number",
    "at_most": "at_least_number",
    "equal": "equal_number",
}


def binary(op: str, a: Any, b: Any) -> Symbol:
    """An operation on two of which at least one is a symbol."""
    check_array(a)
    check_array(b)
    if isinstance(a, Symbol) and isinstance(b, Symbol):
        return symbol("square", a) if op == "multiply" and a is b else symbol(op, a, b)
    if isinstance(a, Symbol):
        if op == "subtract":
            return symbol("add_number", a, -as_number(b))
        return symbol(SECOND[op], a, b)
    if op in FIRST:
        return symbol(FIRST[op], b, a)
    return symbol(op, symbol("fill", b, a), b)


def combined(op: str, a: Any, b: Any) -> Symbol:
    """Both or either of two conditions."""
    check_condition(a)
    check_condition(b)
    return symbol(op, a, b)


def selected(condition: Any, a: Any, b: Any) -> Symbol:
    """a where the condition holds, else b."""
    check_condition(condition)
    check_array(a)
    check_array(b)
    if isinstance(a, Symbol):
        return symbol("select" if isinstance(b, Symbol) else "select_else", condition, a, b)
    if isinstance(b, Symbol):
        return symbol("select_then", condition, b, a)
    return symbol("select_numbers", condition, a, b)


def _set(name: str, op: str, make: Callable[[str, Any, Any], Symbol] = binary) -> None:
    setattr(Symbol, f"__{name}__", lambda self, other: make(op, self, other))
    setattr(Symbol, f"__r{name}__", lambda self, other: make(op, other, self))


for _name, _op in (("add", "add"), ("sub", "subtract"), ("mul", "multiply"), ("truediv", "divide")):
    _set(_name, _op)
_set("and", "both", combined)
_set("or", "either", combined)
for _name, _op in (("lt", "less"), ("le", "at_most"), ("eq", "equal")):
    setattr(Symbol, f"__{_name}__", lambda self, other, op=_op: binary(op, self, other))
for _name, _op in (("gt", "less"), ("ge", "at_most")):
    setattr(Symbol, f"__{_name}__", lambda self, other, op=_op: binary(op, other, self))
