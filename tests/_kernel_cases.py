"""What the kernel tests share: the rules with options and arrays for them, and how bits compare."""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from _optimizers import RECORDS
from fastopt import kernels, reference
from fastopt.reference.storage import store_state, widen

Array = npt.NDArray[Any]
Options = dict[str, Any]

STATES = {it.function: list(it.states) for it in RECORDS.values()}
USING_ALL_STATES: dict[str, Options] = {it.function: it.kernel for it in RECORDS.values()}
OPTIONS: dict[str, st.SearchStrategy[Options]] = {it.function: it.drawn for it in RECORDS.values()}
DTYPES = [np.dtype(np.float32), np.dtype(np.float64)]


def kernel(name: str) -> Callable[..., None]:
    function: Callable[..., None] = getattr(kernels, name + "_")
    return function


def rule(name: str) -> Callable[..., tuple[Array, ...]]:
    function: Callable[..., tuple[Array, ...]] = getattr(reference, name)
    return function


def arguments_of(name: str) -> list[str]:
    """The names of the array arguments."""
    return ["param", "grad", *STATES[name]]


# ---- values ---------------------------------------------------------------------------------------

KINDS = ["normal", "bits", "extreme", "special"]


def values(random: np.random.Generator, shape: Any, dtype: Any, kind: str = "normal") -> Array:
    """Random numbers: normal ones; any bits at all; of any magnitude; the corners of the format."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape))
    limits = ml_dtypes.finfo(dtype)
    if kind == "bits":
        return np.frombuffer(random.bytes(size * dtype.itemsize), dtype).reshape(shape).copy()
    if kind == "extreme":
        exponents = random.uniform(limits.minexp - limits.nmant, limits.maxexp - 0.01, size)
        numbers = random.choice([-1.0, 1.0], size) * np.exp2(exponents)
    elif kind == "special":
        corners = [limits.smallest_subnormal, limits.tiny, limits.max]
        positive = [0.0, 1.0, *map(float, corners), np.inf, np.nan]
        numbers = random.choice([*positive, *(-x for x in positive)], size)
    else:
        numbers = random.standard_normal(size)
    return numbers.astype(dtype).reshape(shape)


def make_arrays(name: str, random: np.random.Generator, shape: Any, dtype: Any) -> dict[str, Array]:
    """Ordinary arrays for one step of a rule; every state is >= 0."""
    drawn = {argument: values(random, shape, dtype) for argument in arguments_of(name)}
    for state in STATES[name]:
        np.abs(drawn[state], out=drawn[state])
    return drawn


class Producer:
    """Offers nothing of an array but DLPack, and counts how often it was asked."""

    def __init__(self, contents: Array) -> None:
        self.contents, self.asked = contents, 0

    def __dlpack__(self, *, max_version: tuple[int, int] | None = None, **others: Any) -> object:
        self.asked += 1
        return self.contents.__dlpack__(max_version=max_version, **others)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.contents.__dlpack_device__()


# ---- bits -----------------------------------------------------------------------------------------


def assert_same_bits(actual: Array, expected: Array, about: object = "") -> None:
    """Equal dtype, shape and bits; any NaN equals any other."""
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), about
    unsigned = f"u{actual.dtype.itemsize}"
    same = np.ascontiguousarray(actual).view(unsigned) == np.ascontiguousarray(expected).view(unsigned)
    with np.errstate(invalid="ignore"):  # of a signalling NaN
        nan = np.isnan(actual) & np.isnan(expected)
    wrong = np.argwhere(~(same | nan).reshape(actual.shape))
    if len(wrong):
        first = tuple(wrong[0])
        raise AssertionError(
            f"{about}: {len(wrong)} of {actual.size} elements differ, the first at {first}: "
            f"{float(actual[first]).hex()}, expected {float(expected[first]).hex()}"
        )


def assert_step(
    name: str, before: dict[str, Array], after: dict[str, Array], first: int = 0, **options: Any
) -> None:
    """The arrays after a kernel are those that the reference makes of the arrays before it.

    `first`: where they lie in the whole parameter.
    """
    expected = rule(name)(**before, **options)
    if first:
        wide = rule(name)(**{key: widen(array) for key, array in before.items()}, **options)
        expected = expected[:1] + tuple(
            store_state(x, before[key].dtype, step=options.get("step", 1), state=number, first=first)
            for number, (key, x) in enumerate(zip(STATES[name], wide[1:], strict=True))
        )
    for key, array in zip(["param", *STATES[name]], expected, strict=True):
        assert_same_bits(after[key], array, key)
    assert after["grad"].tobytes() == before["grad"].tobytes(), "the gradient was written"


# ---- options --------------------------------------------------------------------------------------

STEPS = st.integers(1, 10) | st.integers(1, 2**53)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7)
SEEDS = st.integers(0, 2**32 - 1).map(np.random.default_rng)


# ---- refusals -------------------------------------------------------------------------------------

Arrays = dict[str, Any]
SHAPE = (3, 4)


def arrays_for(name: str) -> Arrays:
    """Good arguments: one float32 array each."""
    return dict(make_arrays(name, np.random.default_rng(0), SHAPE, np.float32))


def lists_for(name: str, count: int = 3) -> Arrays:
    """Good arguments: a list of arrays each."""
    sets = [arrays_for(name) for _ in range(count)]
    return {argument: [arrays[argument] for arrays in sets] for argument in arguments_of(name)}


def memory(thing: Any) -> Any:
    """The bytes of all memory that an argument reaches, so far as it has any."""
    if isinstance(thing, (list, tuple)):
        return [memory(each) for each in thing]
    if isinstance(thing, Producer):
        return memory(thing.contents)
    if isinstance(thing, np.ndarray):
        while isinstance(thing.base, np.ndarray):
            thing = thing.base
        return thing.tobytes()
    if type(thing) is torch.Tensor and thing.layout == torch.strided and not thing.is_quantized:
        return bytes(thing.untyped_storage()) if thing.device.type == "cpu" else None
    return None


def refuse(name: str, arrays: Arrays, error: type[Exception], match: str, **options: Any) -> None:
    """The kernel raises this error and writes to none of the arrays."""
    before = memory(list(arrays.values()))
    with pytest.raises(error, match=match):
        kernel(name)(**arrays, **USING_ALL_STATES[name] | options)
    assert memory(list(arrays.values())) == before, "written before it was refused"
