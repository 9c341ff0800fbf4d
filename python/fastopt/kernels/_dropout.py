"""Dropout on arrays; see :mod:`fastopt.kernels`, and :mod:`fastopt.reference.dropout` for its terms."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from fastopt import _C

Array: TypeAlias = Any  # NumPy, torch, CuPy, memoryview, ...: there is no common base class


def _output(x: Array, out: Array | None, **others: Array | None) -> Array:
    """`out`, or a new array of x's kind."""
    for name, array in {"x": x, "out": out, **others}.items():
        if isinstance(array, torch.Tensor) and (array.is_neg() or array.is_conj()):
            raise ValueError(f"{name}: expected plain memory, got a lazily negated view")
    if out is not None:
        return out
    if isinstance(x, torch.Tensor):
        return torch.empty_like(x, requires_grad=False)
    if isinstance(x, np.ndarray):
        return np.empty_like(x)
    if hasattr(x, "__dlpack__"):
        try:
            return np.empty_like(np.from_dlpack(x))
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise TypeError(
                f"x: expected an array that DLPack can export, got {type(x).__name__} ({error})"
            ) from error
    try:
        return np.empty_like(np.asarray(memoryview(x)))
    except TypeError:
        raise TypeError(
            "x: expected a NumPy array, a torch tensor, or an object with DLPack or the buffer "
            f"protocol, got {type(x).__name__}"
        ) from None


def _written(out: Array) -> Array:
    """`out`, once autograd knows that it was written."""
    if isinstance(out, torch.Tensor):
        torch.autograd.graph.increment_version(out)
    return out


def dropout(
    x: Array,
    p: float,
    *,
    seed: int,
    offset: int = 0,
    index: int = 0,
    out: Array | None = None,
    mask: Array | None = None,
) -> Array:
    """Dropout of x: kept elements times 65536 / T, others +0; see :func:`fastopt.reference.dropout`.

    Args:
        x: the array; C-contiguous, float32, float64, float16 or bfloat16.
        p: the rate of dropping, from 0 to 1.
        seed, offset: what the random numbers are a function of, besides the element's place.
        index: of the first element, for a part of a larger array.
        out: where to write, like x; x itself, to work in place; None for a new array.
        mask: packed bits to keep by instead of drawing, of ``dropout_mask(..., packed=True)``; p is
            then used for the scale.

    Returns:
        `out`.
    """
    fresh = out is None
    out = _output(x, out)
    threads = torch.get_num_threads()
    _C.dropout(x, out, p, seed, offset, index, threads, mask, None, None, False, fresh)
    return _written(out)


def relu_dropout(
    x: Array, p: float, *, seed: int, offset: int = 0, index: int = 0, out: Array | None = None
) -> Array:
    """Dropout of max(x, 0); see :func:`fastopt.reference.relu_dropout`. Arguments as in dropout."""
    out = _output(x, out)
    threads = torch.get_num_threads()
    _C.dropout(x, out, p, seed, offset, index, threads, None, None, None, True)
    return _written(out)


def bias_dropout_add(
    x: Array,
    bias: Array | None,
    residual: Array | None,
    p: float,
    *,
    seed: int,
    offset: int = 0,
    index: int = 0,
    out: Array | None = None,
) -> Array:
    """residual + dropout of (x + bias); see :func:`fastopt.reference.bias_dropout_add`.

    `bias` is like x's last dimension, `residual` like x; each may be None. `out` may also be
    `residual`. Other arguments as :func:`dropout`.
    """
    out = _output(x, out, bias=bias, residual=residual)
    _C.bias_dropout_add(x, bias, residual, out, p, seed, offset, index, torch.get_num_threads())
    return _written(out)


def dropout_rows(
    x: Array,
    inner: int,
    p: float,
    *,
    seed: int,
    offset: int = 0,
    index: int = 0,
    out: Array | None = None,
) -> Array:
    """Dropout with one draw for `inner` neighbours; see :func:`fastopt.reference.dropout_rows`.

    `index` is that of the first draw, not element. Other arguments as :func:`dropout`.
    """
    out = _output(x, out)
    _C.dropout_rows(x, out, inner, p, seed, offset, index, torch.get_num_threads())
    return _written(out)


def alpha_dropout(
    x: Array, p: float, *, seed: int, offset: int = 0, index: int = 0, out: Array | None = None
) -> Array:
    """Alpha dropout; see :func:`fastopt.reference.alpha_dropout`. Arguments as :func:`dropout`."""
    out = _output(x, out)
    _C.alpha_dropout(x, out, p, seed, offset, index, torch.get_num_threads())
    return _written(out)


def dropout_mask(
    shape: int | Sequence[int],
    p: float,
    *,
    seed: int,
    offset: int = 0,
    index: int = 0,
    packed: bool = False,
    out: Array | None = None,
) -> npt.NDArray[np.bool_] | npt.NDArray[np.uint8]:
    """Which elements of an array of this shape dropout keeps.

    Args:
        packed: 8 elements a byte, the first in the lowest bit, as numpy.packbits gives with
            ``bitorder="little"``; else one bool each.
        out: where to write: bool, of as many elements, or, if packed, uint8 of (elements + 7) // 8.

    Returns:
        `out`, or a new array: bool of `shape`, or, if packed, uint8 of one dimension.
    """
    extents = tuple(shape) if isinstance(shape, Sequence) else (operator.index(shape),)
    count = math.prod(extents)
    if any(extent < 0 for extent in extents):
        raise ValueError(f"shape: expected whole numbers >= 0, got {shape!r}")
    if out is None:
        out = np.empty((count + 7) // 8, np.uint8) if packed else np.empty(extents, np.bool_)
    kind, wanted = getattr(out, "dtype", None), "uint8" if packed else "bool"
    if kind is not None and str(kind).removeprefix("torch.") != wanted:
        raise TypeError(f"out: expected {wanted} with packed={packed}, got {kind}")
    _C.dropout_mask(out, count, p, seed, offset, index, torch.get_num_threads())
    _written(out)
    return out
