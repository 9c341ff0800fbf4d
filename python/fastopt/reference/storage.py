"""bfloat16 in NumPy, which has no such type: its bits as uint16.

float16 is NumPy's own; its conversion from float32 rounds as `to_bfloat16` does, to nearest even.
Arrays of ml_dtypes.bfloat16, where that package is installed, are taken wherever float16 is.

States are rounded up or down by a dither instead (dither.py): `store_state`.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ._common import memory_axes
from .dither import half_draws

Bits: TypeAlias = npt.NDArray[np.uint16]
Single: TypeAlias = npt.NDArray[np.float32]
Array: TypeAlias = npt.NDArray[Any]


def to_bfloat16(x: Single) -> Bits:
    """Round float32 to bfloat16, to nearest even: the upper half of the bits.

    Denormals are kept; NaN stays a NaN, made quiet; what is too large becomes infinite.
    """
    if x.dtype != np.float32:
        raise TypeError(f"x must be of dtype float32, not {x.dtype}")
    bits = np.ascontiguousarray(x).view(np.uint32).reshape(x.shape)
    half = np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))  # ties to even
    with np.errstate(over="ignore"):
        rounded = (bits + half) >> np.uint32(16)
    quiet = bits >> np.uint32(16) | np.uint32(0x40)
    return np.asarray(np.where(np.isnan(x), quiet, rounded)).astype(np.uint16)


def from_bfloat16(bits: Bits) -> Single:
    """The float32 numbers that bfloat16's bits stand for."""
    if bits.dtype != np.uint16:
        raise TypeError(f"bits must be of dtype uint16, not {bits.dtype}")
    wide = np.asarray(bits.astype(np.uint32) << np.uint32(16))
    return wide.view(np.float32)


def is_bfloat16(dtype: Any) -> bool:
    """Whether it is ml_dtypes.bfloat16."""
    return bool(np.dtype(dtype).name == "bfloat16")


def is_stored(dtype: Any) -> bool:
    """Whether it is a type that numbers are stored in but not computed in."""
    return np.dtype(dtype) == np.float16 or is_bfloat16(dtype)


def widen(x: npt.NDArray[Any]) -> npt.NDArray[np.floating[Any]]:
    """The numbers in the type that they are computed in."""
    if is_bfloat16(x.dtype):
        return from_bfloat16(x.view(np.uint16))
    return x.astype(np.float32) if x.dtype == np.float16 else x


def narrow(y: npt.NDArray[Any], dtype: Any) -> npt.NDArray[Any]:
    """The numbers in the type that they are stored in."""
    if is_bfloat16(dtype):
        return to_bfloat16(y).view(dtype)
    with np.errstate(all="ignore"):
        return np.asarray(y).astype(dtype)


def store_state(
    y: npt.NDArray[Any],
    dtype: Any,
    *,
    step: int,
    state: int,
    first: int = 0,
    like: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """A state's numbers in the type that it is stored in, rounded by the dither if that has 16 bits.

    Args:
        y: float32 numbers, or those of a type that is computed in.
        dtype: what it is stored in.
        step: the number of the step.
        state: the state's number among the rule's, from 0.
        first: where the elements lie in the whole parameter, for a part of it.
        like: the array in whose order of memory the elements are counted; by default `y`.
    """
    if not is_stored(dtype):
        return np.asarray(y).astype(dtype)
    axes = memory_axes(y if like is None else like)
    places = first + np.arange(y.size).reshape([y.shape[axis] for axis in axes])
    draws = half_draws(places, step=step, state=state).transpose(np.argsort(axes).astype(int))
    if is_bfloat16(dtype):
        return np.asarray(round_stochastic(y, draws)).view(dtype)
    return round_float16(y, draws)


def stored(rule: Callable[..., tuple[Array, ...]]) -> Callable[..., tuple[Array, ...]]:
    """A rule that also takes arrays of 16-bit types, in any mix with float32.

    It computes in float32, and returns each result in the type that its array came in: the parameter
    rounded to nearest, states by the step's dither. One that goes on with what it has stored asks for
    that as `as_stored`.
    """
    signature = inspect.signature(rule)
    numbers = {name: number for number, name in enumerate(list(signature.parameters)[2:])}

    @functools.wraps(rule)
    def on_stored(*args: Any, **kwargs: Any) -> tuple[Array, ...]:
        given = signature.bind(*args, **kwargs).arguments
        arrays = {name: it for name, it in given.items() if isinstance(it, np.ndarray)}
        if not any(is_stored(array.dtype) for array in arrays.values()):
            return rule(*args, **kwargs)
        wide = {name: widen(it) if is_stored(it.dtype) else it for name, it in arrays.items()}

        def rounded(name: str, x: Array) -> Array:
            dtype = arrays[name].dtype
            if name not in numbers:
                return narrow(x, dtype)
            step, state = given.get("step", 1), numbers[name]
            return store_state(x, dtype, step=step, state=state, like=arrays["param"])

        if "as_stored" in signature.parameters:
            given.setdefault("as_stored", lambda name, x: widen(rounded(name, x)))
        results = rule(**{**given, **wide})
        names = [name for name in arrays if name != "grad"]
        return tuple(map(rounded, names, results))

    return on_stored


def split_float32(x: Single) -> tuple[Bits, npt.NDArray[np.int16]]:
    """Each float32 as the bits of a bfloat16 near it and the lower half of its own.

    The bfloat16 is the upper half, plus one if the lower, as a signed number, is negative: rounding to
    nearest, ties upwards. NaN becomes the canonical one, 0x7fc00000.
    """
    bits = np.ascontiguousarray(x).view(np.uint32).reshape(x.shape)
    bits = np.where(np.isnan(x), np.uint32(0x7FC00000), bits)
    low = (bits & np.uint32(0xFFFF)).astype(np.uint16).view(np.int16)
    high = (bits >> np.uint32(16)) + (low < 0)
    return high.astype(np.uint16), low


def join_float32(high: Bits, low: npt.NDArray[np.int16]) -> Single:
    """The float32 numbers that `split_float32` split.

    It never splits a number so that the halves would make a NaN of a `high` that is none: such a high
    has been written to since, and stands alone.
    """
    upper = (high - (low < 0).astype(np.uint16)).astype(np.uint32)
    joined = np.asarray(upper << np.uint32(16) | low.view(np.uint16)).view(np.float32)
    return np.where(np.isnan(joined), from_bfloat16(high), joined)


def round_stochastic(x: Single, draws: npt.NDArray[np.uint16]) -> Bits:
    """Round float32 to bfloat16, up with the probability of the part that is cut off.

    `draws` are uniform: an element whose lower half is h goes up if draw + h >= 65536. Infinity stays,
    NaN is made quiet.
    """
    bits = np.ascontiguousarray(x).view(np.uint32).reshape(x.shape)
    rounded = np.where(np.isfinite(x), bits + draws, bits)
    return ((rounded | np.where(np.isnan(x), np.uint32(0x400000), 0)) >> np.uint32(16)).astype(
        np.uint16
    )


def round_float16(x: Single, draws: npt.NDArray[np.uint16]) -> npt.NDArray[np.float16]:
    """Round float32 to float16, up with the probability of the part that is cut off.

    By the upper 13 bits of the draws, uniform numbers: they are added to the 13 bits that float16
    lacks. Below 2^-14, where it lacks more, both are added as multiples of 2^-24, which leaves every
    number that float16 holds as it is. What is too large becomes infinite, NaN the plain one.
    """
    bits = np.ascontiguousarray(x).view(np.uint32).reshape(x.shape)
    magnitude, part = bits & np.uint32(0x7FFFFFFF), draws.astype(np.uint32) >> np.uint32(3)
    with np.errstate(all="ignore"):
        normal = np.minimum((magnitude + part - np.uint32(0x38000000)) >> np.uint32(13), 0x7C00)
        multiple = np.asarray(magnitude).view(np.float32) * np.float32(2.0**24)
        small = multiple + part.astype(np.float32) * np.float32(2.0**-13)
        is_small = magnitude < np.uint32(0x38800000)
        half = np.where(is_small, np.where(is_small, small, 0).astype(np.uint32), normal)
    half = np.where(np.isnan(x), np.uint32(0x7E00), half) | bits >> np.uint32(16) & np.uint32(0x8000)
    return np.asarray(half.astype(np.uint16)).view(np.float16)
