"""What the rules share: the gradient to descend along, whole powers, checked arguments."""

from collections.abc import Callable
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.floating[Any]]


def gradient(param: Array, grad: Array, weight_decay: float, maximize: bool) -> Array:
    """g = ±∇f(x) + λ x: turned round to maximize, with the gradient of the penalty λ/2 ‖x‖²."""
    T = param.dtype.type
    g = -grad if maximize else grad
    if weight_decay != 0:
        g = g + T(weight_decay) * param
    return g


def power(base: float, exponent: int) -> float:
    """base ** exponent by repeated squaring in double, for a whole exponent of at least 0.

    The order of the multiplications decides the last bit, and the libraries' pow differ from system
    to system; so the decay rates β^t have this one definition, here and in the kernels.
    """
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


def exponential(x: float) -> float:
    """e ** x for x of at most 0, in double: halved until a series will do, then squared as often.

    Its own definition for the reason that `power` has one.
    """
    if x < -746:  # less than any double
        return 0.0
    halvings = 0
    while x < -1 / 16:
        x *= 0.5
        halvings += 1
    result = 1.0
    for n in range(12, 0, -1):
        result = 1 + x / n * result
    for _ in range(halvings):
        result *= result
    return result


def shrunk(param: Array, update: Array, factor: float, cautious: bool) -> Array:
    """param after decoupled decay, before ``update`` is taken from it; see `adam` for cautious."""
    whole: Array = param * param.dtype.type(factor)
    if not cautious:
        return whole
    along = np.where(update > 0, param, np.where(update < 0, -param, 0))
    return np.where(along >= 0, whole, param)


def maximum(a: Array, b: Array) -> Array:
    """The larger one; NaN if either is."""
    larger: Array = np.where((a >= b) | np.isnan(a), a, b)
    return larger


def memory_axes(array: npt.NDArray[Any]) -> list[int]:
    """The axes, from that along which neighbours lie furthest apart in memory to the nearest."""
    return sorted(range(array.ndim), key=lambda axis: -array.strides[axis])


def new_arrays(*arrays: Array | None) -> tuple[Array, ...]:
    """What a rule returns: a copy of each array that is there.

    The copy keeps a result from sharing memory with an argument, and makes an array again of the
    scalar that NumPy turns a 0-dimensional operand into.
    """
    return tuple(np.array(array) for array in arrays if array is not None)


def check_arrays(param: Array, *, needed: bool = True, **arrays: Array | None) -> None:
    """Check that all are float32 or float64 and like `param`; None passes where not `needed`."""
    for name, array in {"param": param, **arrays}.items():
        if array is None and not needed:
            continue
        if type(array) is not np.ndarray:  # a subclass, as np.matrix, may redefine the operators
            raise TypeError(f"{name} must be a numpy.ndarray, not {type(array).__name__}")
        if array.dtype not in (np.float32, np.float64):
            raise TypeError(f"{name} must be of dtype float32 or float64, not {array.dtype}")
        if (array.shape, array.dtype) != (param.shape, param.dtype):
            raise ValueError(
                f"{name} must have param's shape and dtype, {param.shape} {param.dtype}, "
                f"not {array.shape} {array.dtype}"
            )


# What a hyperparameter may be, in words and as a test that NaN fails.
RANGES: dict[str, Callable[[float], bool]] = {
    "other than NaN": lambda value: value == value,
    ">= 0": lambda value: value >= 0,
    "in [0, 1)": lambda value: 0 <= value < 1,
    "in [0, 1]": lambda value: 0 <= value <= 1,
}


def check_numbers(accepted: str = ">= 0", /, **values: float) -> tuple[float, ...]:
    """Return the hyperparameters, each a number `accepted` by RANGES, as Python floats."""
    for name, value in values.items():
        if not isinstance(value, Real):
            raise TypeError(f"{name} must be a number {accepted}, not {type(value).__name__}")
        if not RANGES[accepted](value):
            raise ValueError(f"{name} must be a number {accepted}, not {value}")
    return tuple(float(value) for value in values.values())


def check_betas(betas: tuple[float, float]) -> tuple[float, ...]:
    """Return the two decay rates as Python floats."""
    if not (isinstance(betas, (tuple, list)) and len(betas) == 2):
        raise TypeError(f"betas must be a pair of numbers, not {betas!r}")
    return check_numbers("in [0, 1)", **{"betas[0]": betas[0], "betas[1]": betas[1]})


def check_step(step: int) -> int:
    """Return the number of the step as an int; a double, in the kernels, counts up to 2**53."""
    if not isinstance(step, Real):
        raise TypeError(f"step must be a whole number, not {type(step).__name__}")
    if not (1 <= step <= 2**53 and step == int(step)):
        raise ValueError(f"step must be a whole number from 1 to 2**53, not {step}")
    return int(step)
