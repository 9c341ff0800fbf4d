"""What the tests of `copy_to` share: tensors to copy to, and what is to be in them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from _optim_cases import Array, array_of, assert_same_bits, numpy_dtype
from fastopt.reference.storage import narrow, widen


def rounded(values: Array, dtype: torch.dtype) -> Array:
    """The definition."""
    to = numpy_dtype(dtype)
    if values.dtype == np.float64:
        return values.astype(to)
    return narrow(widen(values), to)


def copies_for(params: Sequence[Tensor], dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """Full of sevens."""
    return [torch.full_like(param, 7, dtype=dtype).detach() for param in params]


def assert_copied(params: Sequence[Tensor], copies: Sequence[Tensor]) -> None:
    for param, it in zip(params, copies, strict=True):
        expected = rounded(array_of(param), it.dtype)
        assert_same_bits(it, np.array(expected, order="K").reshape(expected.shape), str(param.shape))


def assert_sevens(copies: Sequence[Tensor]) -> None:
    for it in copies:
        assert (it == 7).all()
