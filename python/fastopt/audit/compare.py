"""Comparing tensors: to the bit, or in units in the last place (ulp) of what they are stored in."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastopt.verify.compare import differing, spell

from .registry import Failed

Doubles: TypeAlias = npt.NDArray[np.float64]


def array(tensor: Tensor) -> npt.NDArray[Any]:
    """A dense copy in C order, as NumPy can print it: bfloat16 as float32, which holds it exactly."""
    plain = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()


def doubles(tensor: Tensor) -> Doubles:
    """The same in float64."""
    return array(tensor).astype(np.float64)


def ulp(numbers: npt.ArrayLike, dtype: torch.dtype) -> Doubles:
    """The distance between neighbours of a dtype, at each number."""
    limits = torch.finfo(dtype)
    size = np.maximum(np.abs(np.asarray(numbers, np.float64)), limits.smallest_normal)
    with np.errstate(invalid="ignore"):
        unit: Doubles = np.ldexp(limits.eps, np.frexp(size)[1] - 1)
    return unit


def same_bits(got: Tensor, want: Tensor) -> None:
    """Failed, with the first element that differs, unless all bits are equal; NaN equals NaN."""
    ours, theirs = array(got), array(want)
    if ours.shape != theirs.shape or got.dtype != want.dtype:
        raise Failed(f"{tuple(got.shape)} {got.dtype}, expected {tuple(want.shape)} {want.dtype}")
    places = differing(ours.reshape(-1), theirs.reshape(-1))[0]
    if len(places):
        i = int(places[0])
        raise Failed(
            f"{len(places)} of {ours.size} elements differ, the first at {place(i, ours)}: "
            f"{spell(ours.reshape(-1)[i])}, expected {spell(theirs.reshape(-1)[i])}"
        )


def within(got: Tensor, want: Doubles, allowed: npt.ArrayLike, before: npt.ArrayLike = 0.0) -> float:
    """The largest distance in ulp of a tensor from exact numbers; Failed where more than allowed.

    The unit is that of the larger of the number before and after the step, since what a step brings
    near 0 has been rounded as the larger number that it was.
    """
    numbers = doubles(got)
    distance = apart(numbers, want, np.maximum(np.abs(want), np.abs(before)), got.dtype)
    bad = np.flatnonzero(~(distance <= np.asarray(allowed, np.float64)))
    if len(bad):
        i = int(bad[0])
        raise Failed(
            f"{len(bad)} of {numbers.size} elements are too far off, the first at {place(i, numbers)}: "
            f"{numbers.reshape(-1)[i]:.9g}, expected {np.reshape(want, -1)[i]:.9g}, "
            f"{distance.reshape(-1)[i]:.3g} ulp away"
        )
    return float(distance.max(initial=0.0))


def apart(got: Doubles, want: Doubles, size: Doubles, dtype: torch.dtype) -> Doubles:
    """Distances in ulp; 0 between equal infinities and between NaNs, infinite where one is NaN."""
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(got - want) / ulp(np.where(np.isfinite(size), size, 1.0), dtype)
    equal = (got == want) | (np.isnan(got) & np.isnan(want))
    return np.where(equal, 0.0, np.where(np.isnan(distance), np.inf, distance))


def place(i: int, of: npt.NDArray[Any]) -> str:
    """An element's index, as it is written."""
    index = tuple(map(int, np.unravel_index(i, of.shape)))
    return str(index[0]) if len(index) == 1 else str(index)
