"""Numbers: what comes of hyperparameters and the number of the step, in double.

A Number knows its value and how it came about. Beside an array it is rounded to the array's type,
once, and the operation is the array's; beside a symbol it becomes a part of the program. When Python
branches on one while a function is traced, the answer is recorded as a guard of the program.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch

from . import _doubles
from ._errors import line_of_rule, wrong

OPERATIONS: dict[str, Callable[..., float]] = {
    "negative": operator.neg,
    "root": _doubles.root,
    "exponential": _doubles.exponential,
    "logarithm": _doubles.logarithm,
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": _doubles.divide,
    "remainder": _doubles.remainder,
    "power": _doubles.power_of,
    "maximum": _doubles.maximum,
    "minimum": _doubles.minimum,
    "less": lambda a, b: float(a < b),
    "at_most": lambda a, b: float(a <= b),
    "equal": lambda a, b: float(a == b),
    "unequal": lambda a, b: float(a != b),
}


MOST_WAYS = 32
TOO_MANY_WAYS = (
    f"ifs lead more than {MOST_WAYS} ways, on numbers that lie on the device, as the step's does under "
    "capturable=True; expected fewer, or maximum and minimum, or capturable=False"
)


class Guards(list[tuple["Number", bool, str]]):
    """The answers that a function was given while it was traced, each with its line.

    Numbers that are given on a device have no value here. What is asked of them is answered by
    `answers`, one after another, and true from there on; what is asked again, alike.
    """

    recording: Guards | None = None

    def __init__(self, answers: Sequence[bool] = ()) -> None:
        super().__init__()
        self.answers = answers
        self.given: list[bool] = []  # of numbers that are given, in their order
        self._answered: dict[int, bool] = {}
        self._same: dict[tuple[Any, ...], int] = {}
        self._places: dict[int, tuple[Number, int]] = {}

    def ask(self, it: Number) -> bool:
        """Whether a number is true."""
        if not it.given:
            answer = it.value != 0
        elif (place := self._place(it)) in self._answered:
            return self._answered[place]
        else:
            asked = len(self.given)
            if asked == MOST_WAYS:
                raise wrong(TOO_MANY_WAYS)
            answer = self.answers[asked] if asked < len(self.answers) else True
            self.given.append(answer)
            self._answered[place] = answer
        self.append((it, answer, line_of_rule()))
        return answer

    def _place(self, it: Number) -> int:
        """The same for numbers that are computed alike."""
        if id(it) not in self._places:
            own = {"input": id(it), "constant": it.value.hex()}.get(it.op)
            key = it.op, own, *(self._place(arg) for arg in it.args)
            self._places[id(it)] = it, self._same.setdefault(key, len(self._same))
        return self._places[id(it)][1]


class Number:
    """A double, and what it was made of."""

    __slots__ = ("args", "given", "op", "stage", "value")
    __array_ufunc__ = None  # NumPy's operators leave it to these
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, op: str, args: tuple[Any, ...], value: float) -> None:
        self.op, self.args, self.value = op, args, value
        self.stage: int = max((it.stage for it in args), default=0)  # how many sums come before it
        self.given: bool = any(it.given for it in args)  # it comes of a number on a device

    def __repr__(self) -> str:
        return repr(self.value)

    def __bool__(self) -> bool:
        if self.stage > 0:
            raise wrong(
                "an if on a sum over a tensor, which is known only once the tensor has been seen; "
                "expected maximum or minimum of it"
            )
        if Guards.recording is not None and self.op != "constant":
            return Guards.recording.ask(self)
        return self.value != 0

    if TYPE_CHECKING:  # they are set below, alike

        def __add__(self, other: Any) -> Any: ...
        def __sub__(self, other: Any) -> Any: ...
        def __mul__(self, other: Any) -> Any: ...
        def __truediv__(self, other: Any) -> Any: ...
        def __mod__(self, other: Any) -> Any: ...
        def __pow__(self, other: Any) -> Any: ...
        def __eq__(self, other: object) -> Any: ...

    def __neg__(self) -> Number:
        return number("negative", self)

    def __pos__(self) -> Number:
        return self

    def __abs__(self) -> Number:
        return number("maximum", self, -self)

    def _plain(self) -> NoReturn:
        raise wrong(
            "a Number is made an int or float, which forgets where it came from; expected +, -, *, /, "
            "%, **, comparisons, and sqrt, exp, log, minimum, maximum of fastopt.rules"
        )

    __float__ = __int__ = __index__ = __complex__ = __round__ = __trunc__ = __floor__ = __ceil__ = (
        _plain
    )

    def __floordiv__(self, other: object) -> NoReturn:
        raise wrong("a Number has no //; expected / for division, or % with it for whole parts")

    __rfloordiv__ = __floordiv__


def number(op: str, *operands: Any) -> Number:
    """A Number of Numbers and Python's own."""
    args = tuple(as_number(it) for it in operands)
    return Number(op, args, float(OPERATIONS[op](*(it.value for it in args))))


def as_number(it: Any) -> Number:
    """A constant for one of Python's numbers."""
    if isinstance(it, Number):
        return it
    if isinstance(it, (bool, np.generic)) and not isinstance(it, float):
        raise wrong(f"{it!r} is no number of Python's; expected an int or float")
    return Number("constant", (), float(it))


def is_number(it: Any) -> bool:
    """Whether it is a Number or one of Python's."""
    return isinstance(it, Number) or (isinstance(it, (int, float)) and not isinstance(it, bool))


def beside(it: Any, array: Any) -> Any:
    """A number as it meets an array: rounded to its type. Anything else as it is."""
    if not is_number(it):
        return it
    value = it.value if isinstance(it, Number) else it
    return array.dtype.type(value) if isinstance(array, np.ndarray) else float(value)


def _operator(op: str, act: Callable[[Any, Any], Any]) -> tuple[Any, Any]:
    def forward(self: Number, other: Any) -> Any:
        if is_number(other):
            return number(op, self, other)
        if isinstance(other, (np.ndarray, torch.Tensor)):
            return act(beside(self, other), other)
        return NotImplemented

    def backward(self: Number, other: Any) -> Any:
        if is_number(other):
            return number(op, other, self)
        if isinstance(other, (np.ndarray, torch.Tensor)):
            return act(other, beside(self, other))
        return NotImplemented

    return forward, backward


for _name, _op, _act in (
    ("add", "add", operator.add),
    ("sub", "subtract", operator.sub),
    ("mul", "multiply", operator.mul),
    ("truediv", "divide", operator.truediv),
    ("mod", "remainder", operator.mod),
):
    _forward, _backward = _operator(_op, _act)
    setattr(Number, f"__{_name}__", _forward)
    setattr(Number, f"__r{_name}__", _backward)


def _power(self: Number, other: Any) -> Any:
    if is_number(other):
        return number("power", self, other)
    raise wrong("an array as an exponent is not correctly rounded; expected a Number")


def _power_of(self: Number, other: Any) -> Any:
    if is_number(other):
        return number("power", other, self)
    raise wrong("a power of an array is not correctly rounded; expected x * x, or sqrt(x)")


setattr(Number, "__pow__", _power)  # noqa: B010
setattr(Number, "__rpow__", _power_of)  # noqa: B010


def _comparison(op: str, act: Callable[[Any, Any], Any], swaps: bool = False) -> Any:
    def compare(self: Number, other: Any) -> Any:
        if is_number(other):
            return number(op, other, self) if swaps else number(op, self, other)
        if isinstance(other, (np.ndarray, torch.Tensor)):
            return act(beside(self, other), other)
        if other is None and op in ("equal", "unequal"):
            return op == "unequal"
        return NotImplemented

    return compare


for _name, _op, _act, _swaps in (
    ("lt", "less", operator.lt, False),
    ("le", "at_most", operator.le, False),
    ("gt", "less", operator.gt, True),
    ("ge", "at_most", operator.ge, True),
    ("eq", "equal", operator.eq, False),
    ("ne", "unequal", operator.ne, False),
):
    setattr(Number, f"__{_name}__", _comparison(_op, _act, _swaps))
