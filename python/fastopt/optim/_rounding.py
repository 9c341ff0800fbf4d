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
from fastopt.reference.rounding import seed_of_parameter

if TYPE_CHECKING:
    from fastopt.optim._fused import Fused


def new_rounding(optimizer: Fused, group: dict[str, Any], param: Tensor) -> Tensor:
    """The state ``rounding`` of a parameter that has not been stepped yet: its seed, and no step."""
    optimizer._check_storage(group)
    optimizer._find_grad_norm_group()
    rank = _distributed.rank_in(optimizer.grad_norm_group)
    seed = seed_of_parameter(group.get("rounding_seed", 0), _place_of(optimizer, param), rank)
    return torch.tensor([seed, 0], dtype=torch.int64, device=param.device)


def _place_of(optimizer: Fused, param: Tensor) -> tuple[int, int]:
    """The index of the parameter's group, and its own index there.

    Found once for all, by the parameters' identities: with thousands of them a search for each would
    take seconds.
    """
    whole: Fused = vars(optimizer).get("_whole", optimizer)  # of which a step in backward is a part
    places = {} if whole._places is None else whole._places
    group, index = places.get(id(param), (0, 0))
    groups = whole.param_groups
    params = groups[group]["params"] if group < len(groups) else []  # engines take groups away
    if index < len(params) and params[index] is param:
        return group, index
    whole._places = {
        id(it): (group, index)
        for group, params in enumerate(it["params"] for it in groups)
        for index, it in enumerate(params)
    }
    return whole._places[id(param)]
