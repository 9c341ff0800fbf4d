"""Forms that torch.nn.functional lacks, made of what it has, for what the kernels do not take."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def relu_dropout(input: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
    return F.dropout(F.relu(input, inplace), p, training, inplace)


def depth_of_rows(input: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
    return _depth(input, p, [input.shape[0]] + [1] * (input.dim() - 1))


def depth_of_batch(input: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
    return _depth(input, p, [1] * input.dim())


def _depth(input: Tensor, p: float, size: list[int]) -> Tensor:
    """As torchvision.ops.stochastic_depth."""
    noise = torch.empty(size, dtype=input.dtype, device=input.device).bernoulli_(1 - p)
    return input * (noise.div_(1 - p) if p < 1 else noise)


def scripted_depth(input: Tensor, p: float, mode: str, training: bool) -> Tensor:
    """Either, as torch.jit.script can compile it."""
    if not training or p == 0.0:
        return input
    size = [1] * input.dim()
    if mode == "row":
        size[0] = input.shape[0]
    return _depth(input, p, size)
