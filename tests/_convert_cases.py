"""What the tests of from_torch and to_torch share: steps, twins, comparisons."""

from __future__ import annotations

import copy

import pytest
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from _optim_cases import (
    assert_same_bits,
    set_gradients,
)

each_start = pytest.mark.parametrize("start", [0, 1, 3], ids=lambda n: f"after {n} steps")


def params_of(optimizer: Optimizer) -> list[Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def take_steps(optimizer: Optimizer, first: int, count: int) -> None:
    for step in range(first, first + count):
        set_gradients(params_of(optimizer), seed=step)
        optimizer.step()


def twin(optimizer: Optimizer, kind: type[Optimizer]) -> Optimizer:
    """An optimizer of another class, built anew, with copies of all that this one holds."""
    params = [param.detach().clone().requires_grad_() for param in params_of(optimizer)]
    given = iter(params)
    groups = [{**it, "params": [next(given) for _ in it["params"]]} for it in optimizer.param_groups]
    made = kind(groups)
    made.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    made.defaults.update(optimizer.defaults)
    return made


def assert_same(actual: Optimizer, expected: Optimizer) -> None:
    for mine, other in zip(params_of(actual), params_of(expected), strict=True):
        assert_same_bits(mine, other)
        ours, theirs = actual.state.get(mine, {}), expected.state.get(other, {})
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            if value is None:  # SGD's buffer before its first step
                assert theirs[key] is None
            else:
                assert_same_bits(value, theirs[key], key)
    for mine, other in zip(actual.param_groups, expected.param_groups, strict=True):
        assert {**mine, "params": 0} == {**other, "params": 0}


def warm_up(optimizer: Optimizer) -> LRScheduler:
    return LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch))
