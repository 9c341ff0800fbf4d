"""Dropout's kernels on plain tensors of any layout, without autograd.

A mask goes by an element's place in C order, whatever its strides are; an output is laid out like its
input.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fastopt import _C
from fastopt._threads import fit_for_forks
from fastopt.reference.dropout import DRAW_BITS, alpha_scalars, keep_scale, keep_threshold

Form = Literal["plain", "relu", "alpha"]

WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # dtypes of bits, by their bytes


class Diagonal(NamedTuple):
    """What dropout multiplies each element with, 0 or a scale: a diagonal matrix D.

    The numbers are those of :mod:`fastopt.reference.dropout`.
    """

    p: float
    seed: Any  # int; a tensor, in the hands of torch.func (maybe one for each sample) or of CUDA
    offset: int | Tensor
    start: int  # index of the first draw
    inner: int = 0  # so many neighbours share a draw; 0: elements are drawn one by one
    scale: float | None = None  # None: 1 / the rate of keeping

    @property
    def kept_scale(self) -> float:
        return keep_scale(keep_threshold(float(self.p))) if self.scale is None else self.scale


def alpha_terms(p: float) -> tuple[float, float, float]:
    """a, b and c of alpha dropout."""
    threshold = keep_threshold(float(p))
    if threshold in (0, 1 << DRAW_BITS):
        return keep_scale(threshold), 0.0, 0.0
    return alpha_scalars(threshold)


def product(x: Tensor, d: Diagonal, form: Form = "plain", mask_out: Tensor | None = None) -> Tensor:
    """D x; for "relu", D max(x, 0); for "alpha", alpha dropout. ``mask_out`` gets D's bits."""
    if not in_c_order(x):
        if d.inner:
            return product_by_rows(x, d)
        return laid_out_like(x, product(to_c_order(x), d, form, mask_out))
    out = torch.empty_like(x)
    try:
        write(x, out, d, form, mask_out)
    except TypeError:
        if not is_batched_gradient(x):
            raise
        kept = product(torch.ones(x.shape, dtype=x.dtype, device=x.device), d) != 0
        return torch.where(kept, x * d.kept_scale, torch.zeros((), dtype=x.dtype))
    return out


def product_(x: Tensor, d: Diagonal, form: Form = "plain", mask_out: Tensor | None = None) -> None:
    """The same, written to x. Autograd is not told."""
    if in_c_order(x):
        write(x, x, d, form, mask_out)
    else:
        copy_(x, product(x, d, form, mask_out))  # which refuses elements that share their memory


@fit_for_forks()
def product_by_rows(x: Tensor, d: Diagonal) -> Tensor:
    """D x in another layout than C order: torch spreads a mask that has one number a row.

    As bits, since a product would make NaN of a dropped infinity, and -0 of a negative number.
    """
    leading = x.dim()
    while leading > 0 and math.prod(x.shape[leading - 1 :]) <= d.inner:
        leading -= 1
    kept = torch.empty(x.shape[:leading], dtype=torch.bool, device=x.device)
    _C.dropout_mask(kept, kept.numel(), d.p, d.seed, d.offset, d.start, torch.get_num_threads())
    whole = WHOLE[x.element_size()]
    ones = kept.to(whole).neg_().view(*kept.shape, *(1,) * (x.dim() - leading))
    bits = torch.bitwise_and(x.resolve_neg().view(whole), ones)
    return bits.view(x.dtype).mul_(d.kept_scale)


def product_by_bits(x: Tensor, d: Diagonal, bits: Tensor) -> Tensor:
    """D x, with the bits of D read instead of drawn."""
    source = to_c_order(x)
    out = torch.empty_like(source)
    _C.dropout(source, out, d.p, 0, 0, 0, torch.get_num_threads(), bits, None, d.scale, False, True)
    return laid_out_like(x, out)


def bias_add_product(x: Tensor, bias: Tensor | None, residual: Tensor | None, d: Diagonal) -> Tensor:
    """residual + D (x + bias)."""
    source = to_c_order(x)
    bias = None if bias is None else to_c_order(bias)
    residual = None if residual is None else to_c_order(residual)
    out = torch.empty_like(source)
    threads = torch.get_num_threads()
    _C.bias_dropout_add(source, bias, residual, out, d.p, d.seed, d.offset, d.start, threads)
    return laid_out_like(x, out)


def new_bits(x: Tensor) -> Tensor:
    """Room for a bit an element."""
    return torch.empty((x.numel() + 7) // 8, dtype=torch.uint8, device=x.device)


def write(x: Tensor, out: Tensor, d: Diagonal, form: Form, mask_out: Tensor | None) -> None:
    threads = torch.get_num_threads()
    if form == "alpha":
        _C.alpha_dropout(x, out, d.p, d.seed, d.offset, d.start, threads, mask_out)
    elif d.inner:
        _C.dropout_rows(x, out, d.inner, d.p, d.seed, d.offset, d.start, threads)
    else:
        relu = form == "relu"
        draws = (d.p, d.seed, d.offset, d.start, threads)
        _C.dropout(x, out, *draws, None, mask_out, d.scale, relu, out is not x)


def is_batched_gradient(x: Tensor) -> bool:
    """Whether it comes from torch.autograd.grad(..., is_grads_batched=True): many under the cover of
    one, by a vmap that is not torch.func's."""
    return torch._C._dispatch_keys(x).has(torch._C._dispatch_key_parse("Batched"))


def in_c_order(x: Tensor) -> bool:
    return x.is_contiguous() and not x.is_neg()


def to_c_order(x: Tensor) -> Tensor:
    return x if in_c_order(x) else contiguous_copy(x)


def laid_out_like(x: Tensor, y: Tensor) -> Tensor:
    """y, in C order, with x's strides."""
    return y if in_c_order(x) else copy_(torch.empty_like(x), y)


@fit_for_forks()
def copy_(to: Tensor, source: Tensor) -> Tensor:
    return to.copy_(source)


@fit_for_forks()
def contiguous_copy(x: Tensor) -> Tensor:
    return x.resolve_neg().contiguous()
