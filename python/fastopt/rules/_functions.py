"""What a rule may call, each defined for NumPy's arrays, torch's tensors, symbols and Numbers alike."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from fastopt.reference.tail import tree_sum

from ._errors import wrong
from ._numbers import Number, as_number, beside, is_number, number
from ._symbols import Symbol, binary, refused, selected, symbol


class _Reading(threading.local):
    """An array of the function that is being called: what numbers are rounded to beside no other."""

    like: Any = None


_reading = _Reading()


@contextmanager
def reading(like: Any) -> Iterator[None]:
    """Within it, a rule is called with arrays like this one."""
    before, _reading.like = _reading.like, like
    try:
        yield
    finally:
        _reading.like = before


def _like(*operands: Any) -> Any:
    """The array among the operands that tells the type."""
    for it in operands:
        if isinstance(it, (np.ndarray, torch.Tensor)) and it.dtype not in (np.bool_, torch.bool):
            return it
    return _reading.like


def _filled(it: Any, like: Any) -> Any:
    """A number as torch.where takes it."""
    if isinstance(like, torch.Tensor) and is_number(it):
        return torch.as_tensor(beside(it, like), dtype=like.dtype, device=like.device)
    return beside(it, like)


def _is_symbolic(*operands: Any) -> bool:
    return any(isinstance(it, Symbol) for it in operands)


def sqrt(x: Any) -> Any:
    """The square root, correctly rounded."""
    if isinstance(x, Symbol):
        check(x)
        return symbol("root", x)
    if is_number(x):
        return number("root", x)
    return torch.sqrt(x) if isinstance(x, torch.Tensor) else np.sqrt(x)


def square(x: Any) -> Any:
    """x * x."""
    return x * x


def abs(x: Any) -> Any:
    """The magnitude."""
    if is_number(x):
        return as_number(x).__abs__()
    return x.__abs__()


def where(condition: Any, a: Any, b: Any) -> Any:
    """``a`` where the condition holds, else ``b``; of a Number's comparison, one of the two."""
    if _is_symbolic(condition):
        return selected(condition, a, b)
    if isinstance(condition, (bool, Number)):
        return a if condition else b
    if _is_symbolic(a, b):
        raise wrong("expected a condition on arrays, such as x > 0")
    like = _like(a, b)
    if isinstance(condition, torch.Tensor):
        return torch.where(condition, _filled(a, like), _filled(b, like))
    return np.where(condition, beside(a, like), beside(b, like))


def maximum(a: Any, b: Any) -> Any:
    """The larger one, the first of equal ones; NaN if either is."""
    if _is_symbolic(a, b):
        return binary("maximum", a, b)
    if is_number(a) and is_number(b):
        return number("maximum", a, b)
    a, b = _both(a, b)
    return where((a >= b) | (a != a), a, b)


def minimum(a: Any, b: Any) -> Any:
    """The smaller one, the first of equal ones; NaN if either is."""
    if _is_symbolic(a, b):
        return binary("minimum", a, b)
    if is_number(a) and is_number(b):
        return number("minimum", a, b)
    a, b = _both(a, b)
    return where((b >= a) | (a != a), a, b)


def _both(a: Any, b: Any) -> tuple[Any, Any]:
    like = _like(a, b)
    return _filled(a, like), _filled(b, like)


def sign(x: Any) -> Any:
    """1 of what is more than 0, -1 of what is less, and 0 or NaN of themselves."""
    if isinstance(x, Symbol):
        check(x)
        return symbol("sign", x)
    if is_number(x):
        return as_number(x) if not (x > 0 or x < 0) else as_number(1.0 if x > 0 else -1.0)
    return where(x > 0, 1.0, where(x < 0, -1.0, x))


def exp(x: Any) -> Number:
    """e ** x of a Number."""
    if is_number(x):
        return number("exponential", x)
    raise wrong(refused("exp"))


def log(x: Any) -> Number:
    """The natural logarithm of a Number."""
    if is_number(x):
        return number("logarithm", x)
    raise wrong(refused("log"))


def power(x: Any, y: Any) -> Any:
    """x ** y of Numbers: by squaring for a whole y, else exp(y * log(x))."""
    if is_number(x) and is_number(y):
        return number("power", x, y)
    raise wrong(refused("power"))


def total(x: Any) -> Number:
    """The sum over a tensor, in double, by the tree that docs/numerics.md describes."""
    if isinstance(x, Symbol):
        return summed("total", x)
    if isinstance(x, torch.Tensor):
        return _whole(x.detach().double().sum())
    return Number("input", (), float(tree_sum(x.reshape(-1).astype(np.float64))))


def _whole(sum: Any) -> Number:
    """The Number of a torch tensor's sum; of a DTensor's, that of all its parts."""
    return Number("input", (), float(sum.full_tensor() if hasattr(sum, "full_tensor") else sum))


def mean(x: Any) -> Number:
    """The sum over a tensor, divided by the number of its elements."""
    return number("divide", total(x), size(x))


def size(x: Any) -> Number:
    """How many elements a tensor has."""
    if isinstance(x, Symbol):
        counted = where(x, 1.0, 0.0) if x.is_condition else x
        return Number("size", (total(counted),), 1.0)  # which is known with a sum
    return Number("input", (), float(x.numel() if isinstance(x, torch.Tensor) else x.size))


def norm(x: Any) -> Number:
    """The Euclidean norm of a tensor; squares and their sum are in double."""
    if isinstance(x, Symbol):
        return number("root", summed("squares", x))
    if isinstance(x, torch.Tensor):
        return number("root", _whole(x.detach().double().square().sum()))
    wide = x.reshape(-1).astype(np.float64)
    return number("root", Number("input", (), float(tree_sum(wide * wide))))


def count(condition: Any) -> Number:
    """Of how many elements of a tensor a condition holds."""
    if isinstance(condition, Symbol):
        return total(where(condition, 1.0, 0.0))
    if isinstance(condition, torch.Tensor):
        return _whole(condition.sum())
    return Number("input", (), float(np.count_nonzero(condition)))


def summed(op: str, x: Symbol) -> Number:
    """The Number of a sum, which a pass over the tensor makes."""
    check(x)
    made = Number(op, (x,), float("nan"))
    made.stage = x.stage + 1
    return made if Symbol.sums is None else Symbol.sums.setdefault((op, id(x)), made)


def check(x: Any) -> None:
    """Refuse a condition where a number is wanted."""
    if x.is_condition:
        raise wrong("a condition is no number; expected where(condition, 1.0, 0.0)")
