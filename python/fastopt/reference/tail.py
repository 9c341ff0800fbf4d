"""What a step does around its rule: the gradients' norm, clipping, the parameters' average."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ._common import Array, check_step, memory_axes, power
from .storage import narrow, store_state, widen

CHUNK, LANES = 4096, 32


def _chunk_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum of every 4096 values: 32 lanes, value i in lane i mod 32, then combined pairwise."""
    chunks = -(-values.size // CHUNK)
    padded = np.zeros(chunks * CHUNK)
    padded[: values.size] = values
    lanes = np.zeros((chunks, LANES))
    for row in padded.reshape(chunks, CHUNK // LANES, LANES).swapaxes(0, 1):
        lanes = lanes + row
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]


def _total(sums: NDArray[np.float64]) -> float:
    """The chunks' sums, summed up by the same tree until one is left."""
    while sums.size > 1:
        sums = _chunk_sums(sums)
    return float(sums[0]) if sums.size else 0.0


def tree_sum(values: NDArray[np.float64]) -> float:
    r"""The sum of doubles by the tree of :func:`grad_norm`."""
    return _total(_chunk_sums(values))


def dot(a: Array, b: Array) -> float:
    r"""The inner product :math:`\sum_i a_i b_i` in double, by the tree of :func:`grad_norm`."""
    with np.errstate(all="ignore"):
        return _total(_chunk_sums(a.astype(np.float64) * b.astype(np.float64)))


def tensor_norm(x: Array, like: Array) -> float:
    r"""The Euclidean norm of one tensor, by the tree of :func:`grad_norm`.

    Its elements count in the order in which those of ``like`` lie in memory.
    """
    return grad_norm([x.transpose(memory_axes(like))])


def grad_norm(grads: Sequence[Array]) -> float:
    r"""The Euclidean norm of all gradients together, :math:`\sqrt{\sum_i g_i^2}`.

    Squares and sums are in double, in a fixed order that any number of threads can follow: each
    array is summed in chunks of 4096 elements, then the chunks' sums of all arrays, one array after
    another, are summed in the same way until one is left.

    Args:
        grads: arrays of any shapes, in the order of the parameters.

    Returns:
        The norm; infinite or NaN if a gradient is.
    """
    with np.errstate(all="ignore"):
        flat = [np.asarray(grad).reshape(-1).astype(np.float64) for grad in grads]
        sums = np.concatenate([np.zeros(0), *(_chunk_sums(g * g) for g in flat)])
        return math.sqrt(_total(sums))


def clip_factor(norm: float, max_grad_norm: float) -> float:
    r"""What gradients of this norm are multiplied by: :math:`\min(1, c / (\|g\| + 10^{-6}))`.

    NaN for a norm that is NaN, 0 for an infinite one, as in torch.nn.utils.clip_grad_norm_.
    Source: Pascanu, Mikolov, Bengio 2013, algorithm 1.
    """
    factor = max_grad_norm / (norm + 1e-6)
    return 1.0 if factor > 1 else factor


def unscaled(grad: Array, grad_scale: float) -> Array:
    r"""A gradient that was multiplied by a scale, as a rule sees it: :math:`g \cdot (1/s)`.

    Args:
        grad: g, of any dtype that is computed in or stored.
        grad_scale: s, above 0, as a GradScaler's.

    Returns:
        A new array of what g is computed in; 1/s is computed in double and rounded to that once.
    """
    wide = widen(grad)
    with np.errstate(all="ignore"):
        return np.asarray(wide.dtype.type(1 / grad_scale) * wide)


def ema(average: Array, param: Array, *, decay: float) -> Array:
    r"""The running average of a parameter: :math:`a \leftarrow \rho a + (1-\rho)\theta`.

    Args:
        average: :math:`a` before, of the parameter's shape. It starts as the parameter, or as 0 if
            it is corrected for its start, by dividing by :math:`1 - \rho^t`, when it is read.
        param: :math:`\theta`, after the step's rule; where it is stored in 16 bits, the float32
            number before it is rounded to them, as a step averages it.
        decay: :math:`\rho`, in [0, 1).

    Returns:
        A new array of the average's dtype.

    Source: Polyak & Juditsky 1992, with exponential weights; Kingma & Ba 2015, section 7.2.
    """
    with np.errstate(all="ignore"):
        return narrow(_averaged(average, param, decay), average.dtype)


def corrected_ema(average: Array, value: Array, *, decay: float, step: int) -> tuple[Array, Array]:
    r"""The average :func:`ema` and, of it, what does not remember that it began at 0.

    .. math:: v \leftarrow \rho v + (1-\rho) x, \qquad \hat v = v / (1 - \rho^t)

    Args:
        average: v before; zeros before step 1.
        value: x, of its shape.
        decay: :math:`\rho`, in [0, 1).
        step: t, the number of this value, from 1.

    Returns:
        :math:`v` and :math:`\hat v`, new arrays of the average's dtype; in 16 bits, the first is
        rounded to nearest and the second as states are.

    Source: Kingma & Ba 2015, section 3.
    """
    with np.errstate(all="ignore"):
        after = _averaged(average, value, decay)
        corrected = np.asarray(after / after.dtype.type(1 - power(decay, check_step(step))))
    return narrow(after, average.dtype), store_state(corrected, average.dtype, step=step, state=0)


def _averaged(average: Array, value: Array, decay: float) -> Array:
    average, value = widen(average), widen(value)
    T = value.dtype.type
    return np.asarray(T(decay) * average + T(1 - decay) * value)
