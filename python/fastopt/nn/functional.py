"""Dropout as functions: torch.nn.functional's, with a mask that is a function of a few numbers.

    y = fastopt.nn.functional.dropout(x, 0.1)           # a seed from torch's generator
    y = fastopt.nn.functional.dropout(x, 0.1, seed=42)  # a pure function

All share these keyword arguments, whose meaning :mod:`fastopt.reference.dropout` defines.

seed: of the mask, from −2⁶³ to 2⁶⁴ − 1. None draws one from ``generator``.
offset: a second number, from 0 to 2⁵⁶ − 1; the layer's or the step's, say.
index: of the first element, or of the first row or channel where those are dropped as a whole; for a
    part of a larger tensor.
generator: a torch.Generator on the CPU, or on the GPU for tensors there; None for torch's own on the
    CPU, which torch.manual_seed sets, so that masks are the same on every device. While a CUDA graph
    is captured, None is torch's own on the GPU, and each replay draws another mask.

For a CUDA tensor, seed and offset may also be tensors of one int64 on its device, which the kernel
reads there: an offset that counts the steps in a CUDA graph gives the masks of those steps without it.

An element's place in the mask is its logical one, in C order, whatever the tensor's strides are. The
output has the input's shape, dtype and layout. Backward draws the mask again: nothing is kept but
the numbers.

The kernels take dense CPU and CUDA tensors of float32, float64, bfloat16 and float16. Any other goes to
torch.nn.functional, with torch's mask, and a warning tells so once; ``seed`` and ``generator`` are
then refused.

All raise ValueError for a p that is not from 0 to 1, and for numbers out of range; TypeError for what
is no number; RuntimeError, as torch does, for inputs that autograd does not let be written in place.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fastopt.nn import _autograd, _torchs
from fastopt.nn._dispatch import bias_drop_add, check_probability, drop, drop_channels, identity
from fastopt.nn._fx import kept_by_fx

__all__ = [
    "alpha_dropout",
    "bias_dropout_add",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "relu_dropout",
    "stochastic_depth",
]


@kept_by_fx
def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    seed: int | Tensor | None = None,
    offset: int | Tensor = 0,
    index: int = 0,
    generator: torch.Generator | None = None,
    packed_mask: bool = False,
) -> Tensor:
    """Zero elements with probability p, and scale the others by 1 / (1 − p).

        y = m ? s x : 0

    Srivastava et al. 2014, Dropout: a simple way to prevent neural networks from overfitting. A dropped
    element is +0, whatever it was; s is the inverse of the rate of keeping that is in effect, within
    7.6e-6 of 1 − p.

    Args:
        input: of any shape.
        p: the probability that an element is zeroed.
        training: if False, the input is returned as it is.
        inplace: write to the input.
        seed, offset, index, generator: what decides the mask; see :mod:`fastopt.nn.functional`.
        packed_mask: keep one bit an element for backward instead of drawing the mask again. The bits
            of the result are the same.
    """
    check_probability(p)
    if not training or p == 0:
        return identity(input, F.dropout, p, inplace)
    form = _autograd.packed_dropout if packed_mask else _autograd.dropout
    return drop(form, F.dropout, input, p, inplace, (seed, offset, index, generator))


@kept_by_fx
def alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    seed: int | Tensor | None = None,
    offset: int | Tensor = 0,
    index: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Set elements to SELU's saturation with probability p, keeping mean 0 and variance 1.

        y = m ? a x + b : c

    with a, b and c of :func:`fastopt.reference.alpha_dropout`. Klambauer et al. 2017, Self-normalizing
    neural networks, section 3. p = 1 gives zeros, as torch's does.

    Args:
        input: of any shape.
        p: the probability that an element is dropped.
        training: if False, which is the default as in torch, the input is returned as it is.
        inplace: write to the input.
        seed, offset, index, generator: what decides the mask; see :mod:`fastopt.nn.functional`.
    """
    check_probability(p)
    if not training or p == 0:
        return identity(input, F.alpha_dropout, p, inplace)
    draws = (seed, offset, index, generator)
    return drop(_autograd.alpha_dropout, F.alpha_dropout, input, p, inplace, draws)


@kept_by_fx
def relu_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    seed: int | Tensor | None = None,
    offset: int | Tensor = 0,
    index: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Dropout of max(x, 0) in one pass.

        y = m and x > 0 ? s x : 0

    A kept NaN stays NaN. Backward keeps the output, which the layer after it mostly keeps too.

    Args:
        input: of any shape.
        p: the probability that an element is zeroed.
        training: if False, max(x, 0) is returned.
        inplace: write to the input.
        seed, offset, index, generator: what decides the mask; see :mod:`fastopt.nn.functional`.
    """
    check_probability(p)
    if not training or p == 0:
        return F.relu(input, inplace)
    draws = (seed, offset, index, generator)
    return drop(_autograd.relu_dropout, _torchs.relu_dropout, input, p, inplace, draws)


@kept_by_fx
def bias_dropout_add(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int | Tensor | None = None,
    offset: int | Tensor = 0,
    index: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """What stands between a linear layer and the next block of a transformer, in one pass.

        y = residual + (m ? s (x + bias) : 0)

    In bfloat16 and float16 it is computed in float32 and rounded once. Where dtypes or shapes differ,
    under torch.func, and in forward-mode differentiation, the operations follow one another, with the
    same mask.

    Args:
        x: of any shape.
        bias: of x's last dimension, or whatever broadcasts; or None.
        residual: of x's shape, or whatever broadcasts; or None.
        p: the probability that an element of x + bias is zeroed.
        training: if False, residual + (x + bias).
        seed, offset, index, generator: what decides the mask; see :mod:`fastopt.nn.functional`.
    """
    check_probability(p)
    if not training or p == 0:
        y = x if bias is None else x + bias
        return y if residual is None else residual + y
    draws = (seed, offset, index, generator)
    return bias_drop_add(x, bias, residual, p, draws)


@kept_by_fx
def dropout1d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    seed: int | Tensor | None = None,
    offset: int | Tensor = 0,
    index: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Zero whole channels of (N, C, L) or (C, L) with probability p, and scale the others.

    Tompson et al. 2015, Efficient object localization using convolutional networks. A channel is a row
    of :func:`fastopt.reference.dropout_rows`.

    Args:
        input: (N, C, L) or (C, L); RuntimeError else.
        p: the probability that a channel is zeroed.
        training: if False, the input is returned as it is.
        inplace: write to the input.
        seed, offset, index, generator: what decides the mask; see :mod:`fastopt.nn.functional`.
    """
    return drop_channels(1, F.dropout1d, input, p, training, inplace, (seed, offset, index, generator))


@kept_by_fx
def dropout2d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    seed: int | Tensor | None = None,
    offset: int | Tensor = 0,
    index: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Zero whole channels of (N, C, H, W) with probability p, and scale the others.

    Tompson et al. 2015, as :func:`dropout1d`. Three dimensions mean (N, C, L), with a warning, as in
    torch.

    Args:
        input: (N, C, H, W) or (N, C, L).
        p: the probability that a channel is zeroed.
        training: if False, the input is returned as it is.
        inplace: write to the input.
        seed, offset, index, generator: what decides the mask; see :mod:`fastopt.nn.functional`.
    """
    return drop_channels(2, F.dropout2d, input, p, training, inplace, (seed, offset, index, generator))


@kept_by_fx
def dropout3d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    seed: int | Tensor | None = None,
    offset: int | Tensor = 0,
    index: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Zero whole channels of (N, C, D, H, W) or (C, D, H, W) with probability p, and scale the others.

    Tompson et al. 2015, as :func:`dropout1d`.

    Args:
        input: (N, C, D, H, W) or (C, D, H, W).
        p: the probability that a channel is zeroed.
        training: if False, the input is returned as it is.
        inplace: write to the input.
        seed, offset, index, generator: what decides the mask; see :mod:`fastopt.nn.functional`.
    """
    return drop_channels(3, F.dropout3d, input, p, training, inplace, (seed, offset, index, generator))


@kept_by_fx
def stochastic_depth(
    input: Tensor,
    p: float,
    mode: str = "row",
    training: bool = True,
    *,
    seed: int | Tensor | None = None,
    offset: int | Tensor = 0,
    index: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Zero whole samples, or the whole batch, with probability p, and scale the others.

    Huang et al. 2016, Deep networks with stochastic depth; torchvision.ops.stochastic_depth. Where the
    input is added to a residual, a dropped sample skips the layer.

    Args:
        input: (N, ...).
        p: the probability of dropping.
        mode: "row" for samples, "batch" for the batch as one.
        training: if False, the input is returned as it is.
        seed, offset, index, generator: what decides the mask; see :mod:`fastopt.nn.functional`.

    Raises:
        ValueError: for another mode.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"drop probability has to be between 0 and 1, but got {p}")
    if mode not in ("batch", "row"):
        raise ValueError(f"mode has to be either 'batch' or 'row', but got {mode}")
    if not training or p == 0:
        return input
    torchs = _torchs.depth_of_rows if mode == "row" else _torchs.depth_of_batch
    inner = math.prod(input.shape[mode == "row" :])
    draws = (seed, offset, index, generator)
    return drop(_autograd.dropout, torchs, input, p, False, draws, inner)
