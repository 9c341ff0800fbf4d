"""What the tests of fastopt.nn share: each function beside its reference, compared as bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastopt import nn, reference
from fastopt.nn import functional

Array = np.ndarray[Any, np.dtype[Any]]

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPE = (3, 4, 2, 3)
SHAPES = [(3, 4, 5, 7), (2, 3, 8, 8), (1, 1, 1, 1), (2, 3, 0, 4)]
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Form(NamedTuple):
    """One function of fastopt.nn.functional, and its definition on a float32 or float64 array."""

    ours: Callable[..., Tensor]
    definition: Callable[..., Array]
    torchs: Callable[..., Tensor]
    inplace: bool = True


def rows(leading: int) -> Callable[..., Array]:
    def definition(x: Array, p: float, **numbers: int) -> Array:
        inner = math.prod(x.shape[leading:])
        return reference.dropout_rows(x, inner, p, **numbers) if inner else x

    return definition


def by_row(x: Tensor, p: float = 0.5, training: bool = True, **rest: Any) -> Tensor:
    return functional.stochastic_depth(x, p, "row", training, **rest)


def by_batch(x: Tensor, p: float = 0.5, training: bool = True, **rest: Any) -> Tensor:
    return functional.stochastic_depth(x, p, "batch", training, **rest)


def packed(x: Tensor, *arguments: Any, **rest: Any) -> Tensor:
    return functional.dropout(x, *arguments, packed_mask=True, **rest)


def torchs_relu(x: Tensor, p: float, training: bool = True) -> Tensor:
    return F.dropout(F.relu(x), p, training)


FORMS = {  # of four dimensions
    "dropout": Form(functional.dropout, reference.dropout, F.dropout),
    "packed": Form(packed, reference.dropout, F.dropout),
    "relu": Form(functional.relu_dropout, reference.relu_dropout, torchs_relu),
    "alpha": Form(functional.alpha_dropout, reference.alpha_dropout, F.alpha_dropout),
    "2d": Form(functional.dropout2d, rows(2), F.dropout2d),
    "3d": Form(functional.dropout3d, rows(1), F.dropout3d),
    "row": Form(by_row, rows(1), F.dropout, inplace=False),
    "batch": Form(by_batch, rows(0), F.dropout, inplace=False),
}


# fastopt's class, torch's, and a shape that it takes
MODULES: list[tuple[Any, Any, tuple[int, ...]]] = [
    (nn.Dropout, torch.nn.Dropout, (4, 6)),
    (nn.Dropout1d, torch.nn.Dropout1d, (2, 3, 8)),
    (nn.Dropout2d, torch.nn.Dropout2d, (2, 3, 4, 4)),
    (nn.Dropout3d, torch.nn.Dropout3d, (2, 3, 2, 2, 2)),
    (nn.AlphaDropout, torch.nn.AlphaDropout, (4, 6)),
]


def fixed(name: str, **more: Any) -> Callable[[Tensor], Tensor]:
    """One of the functions with a seed."""
    return lambda x: FORMS[name].ours(x, 0.4, True, seed=11, offset=2, index=3, **more)


def bits(x: Tensor) -> Array:
    """The bits in C order, NaNs all alike."""
    x = x.detach().contiguous()
    quiet = torch.where(x.isnan(), torch.full_like(x, math.nan), x)
    return quiet.view(BITS[x.element_size()]).numpy()


def expected(name: str, x: Tensor, p: float, **numbers: int) -> Tensor:
    """What the reference makes of x, in x's dtype."""
    definition = FORMS[name].definition
    source = x.detach().contiguous()
    if x.dtype is torch.bfloat16:  # the reference's in float32, rounded once
        wide = reference.from_bfloat16(source.view(torch.int16).numpy().view(np.uint16))
        y = np.ascontiguousarray(definition(wide.reshape(x.shape), p, **numbers))
        narrow = reference.to_bfloat16(y).view(np.int16)
        return torch.from_numpy(narrow).view(torch.bfloat16).reshape(x.shape)
    y = np.ascontiguousarray(definition(source.numpy(), p, **numbers))
    return torch.from_numpy(y).reshape(x.shape)


def numbers(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Of all magnitudes, with what is special among them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    x = (x * 10 ** torch.randn(shape, dtype=torch.float64, generator=generator)).to(dtype)
    special = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-42], dtype=dtype)
    flat = x.view(-1)
    if flat.numel() > 40:
        flat[3:39:6] = special
        flat[-6:] = special
    return x


def normal(*shape: int, dtype: torch.dtype = torch.float32, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, dtype=dtype, generator=generator).requires_grad_(grad)


def assert_same(got: Tensor, wanted: Tensor) -> None:
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    np.testing.assert_array_equal(bits(got), bits(wanted))
