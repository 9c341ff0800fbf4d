"""Checkpoints, copies and conversions where states are stored in other dtypes than parameters."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

import fastopt
from _convert_cases import assert_same, params_of, take_steps
from _optim_cases import (
    CASES,
    FEW_BITS,
    STATE_PAIRS,
    STORED,
    assert_same_bits,
    option_id,
    parameters,
    state_dtypes,
)

each_optimizer = pytest.mark.parametrize("name", CASES)
each_pair = pytest.mark.parametrize(("dtype", "stored"), STATE_PAIRS, ids=option_id)


def through_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def continued(first: Optimizer, resumed: Optimizer) -> None:
    """Load one's parameters and, through a file, its state into another; then step it."""
    for ours, theirs in zip(params_of(resumed), params_of(first), strict=True):
        ours.data.copy_(theirs.data)
    resumed.load_state_dict(through_file(first.state_dict()))
    take_steps(resumed, 3, 3)


@each_optimizer
@each_pair
@pytest.mark.parametrize("asked", [True, False])
def test_a_resumed_run_is_an_unbroken_one(
    name: str, dtype: torch.dtype, stored: torch.dtype, asked: bool
) -> None:
    """The dtype of the states comes from the file, like every option."""
    options = FEW_BITS[name] | {"state_dtype": stored, "ema_decay": 0.9}
    unbroken = CASES[name].ours(parameters(dtype), **options)
    take_steps(unbroken, 0, 6)
    first = CASES[name].ours(parameters(dtype), **options)
    take_steps(first, 0, 3)
    resumed = CASES[name].ours(parameters(dtype), **options if asked else {})
    continued(first, resumed)
    assert state_dtypes(resumed, *CASES[name].states) == {stored}
    assert state_dtypes(resumed, "ema") == {torch.float32}
    assert_same(resumed, unbroken)


@each_optimizer
@each_pair
@pytest.mark.parametrize("theirs_dtype", [torch.float32, torch.bfloat16], ids=option_id)
def test_checkpoints_of_torch(
    name: str, dtype: torch.dtype, stored: torch.dtype, theirs_dtype: torch.dtype
) -> None:
    """States are rounded once, from what the checkpoint holds to what is asked for."""
    theirs = CASES[name].torchs(parameters(theirs_dtype), **FEW_BITS[name])
    take_steps(theirs, 0, 2)
    saved = theirs.state_dict()
    kept = copy.deepcopy(saved)
    ours = CASES[name].ours(parameters(dtype), **FEW_BITS[name], state_dtype=stored)
    ours.load_state_dict(saved)
    for index, param in enumerate(params_of(ours)):
        for key, value in kept["state"][index].items():
            expected = value if key == "step" else value.to(stored)
            assert_same_bits(ours.state[param][key], expected, key)
            assert_same_bits(saved["state"][index][key], value, key)
    mine = [{**group, "params": 0} for group in ours.param_groups]
    assert [group.pop("state_dtype") for group in mine] == [stored]
    assert not any(it.reason for it in ours.fused_report())


@each_optimizer
def test_a_hook_before_loading_is_heeded(name: str) -> None:
    """States come from the dict that it returns."""
    first = CASES[name].ours(parameters(), **FEW_BITS[name])
    take_steps(first, 0, 2)
    options = FEW_BITS[name] | {"state_dtype": torch.bfloat16}
    second = CASES[name].ours(parameters(), **options)

    def ones(_: Optimizer, given: dict[str, Any]) -> dict[str, Any]:
        states = {
            index: {key: torch.ones_like(value) for key, value in state.items()}
            for index, state in given["state"].items()
        }
        groups = [{**group, "state_dtype": torch.bfloat16} for group in given["param_groups"]]
        return {"state": states, "param_groups": groups}

    second.register_load_state_dict_pre_hook(ones)
    second.load_state_dict(first.state_dict())
    assert state_dtypes(second, *CASES[name].states) == {torch.bfloat16}
    for state, key in itertools.product(second.state.values(), CASES[name].states):
        assert key not in state or (state[key] == 1).all()


@each_optimizer
@each_pair
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copied_or_pickled_optimizer_continues(
    name: str, dtype: torch.dtype, stored: torch.dtype, clone: Callable[[Optimizer], Optimizer]
) -> None:
    unbroken = CASES[name].ours(parameters(dtype), **FEW_BITS[name], state_dtype=stored)
    take_steps(unbroken, 0, 3)
    copied = clone(unbroken)
    assert copied.defaults["state_dtype"] == stored
    take_steps(copied, 3, 3)
    take_steps(unbroken, 3, 3)
    assert state_dtypes(copied, *CASES[name].states) == {stored}
    assert_same(copied, unbroken)


@each_optimizer
@pytest.mark.parametrize("dtype", STORED, ids=option_id)
def test_a_converted_optimizer_takes_the_kernels(name: str, dtype: torch.dtype) -> None:
    optimizer: Any = CASES[name].torchs(parameters(dtype), **FEW_BITS[name])
    take_steps(optimizer, 0, 2)
    fastopt.from_torch(optimizer)
    assert not any(it.reason for it in optimizer.fused_report())
    take_steps(optimizer, 2, 2)
    assert state_dtypes(optimizer, *CASES[name].states) == {dtype}
    fastopt.to_torch(optimizer)
    assert "state_dtype" not in optimizer.param_groups[0].keys() | optimizer.defaults.keys()
    take_steps(optimizer, 4, 1)
