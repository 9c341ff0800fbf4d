"""The seeds by which bfloat16 parameters are rounded at random.

They are a function of the option ``rounding_seed`` and of the parameter's place in the groups, not of
torch's generator, whose seed differs from process to process where dropout is to differ: replicas of a
parameter must be rounded alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastopt.optim import _distributed
from fastopt.optim._parts import place_of
from fastopt.reference.rounding import seed_of_parameter

if TYPE_CHECKING:
    from fastopt.optim._fused import Fused


def new_rounding(optimizer: Fused, group: dict[str, Any], param: Tensor) -> Tensor:
    """The state ``rounding`` of a parameter that has not been stepped yet: its seed, and no step."""
    optimizer._check_storage(group)
    optimizer._find_grad_norm_group()
    rank = _distributed.rank_in(optimizer.grad_norm_group)
    seed = seed_of_parameter(group.get("rounding_seed", 0), place_of(optimizer, param), rank)
    return torch.tensor([seed, 0], dtype=torch.int64, device=param.device)
