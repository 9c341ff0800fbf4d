"""What a step costs in Python, counted instead of timed: calls, whatever the number of tensors."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from _optim_cases import CASES, FULL, Options

BOUND = 25  # calls of Python and C functions in one step; torch's wrapper alone makes more


def calls_of_a_step(optimizer_class: type[Optimizer], tensors: int, **options: Any) -> int:
    """How many functions one step calls, as Python's profiler sees them."""
    params = [torch.nn.Parameter(torch.ones(64)) for _ in range(tensors)]
    for param in params:
        param.grad = torch.full((64,), 1e-3)
    optimizer = optimizer_class(params, **options)
    for _ in range(3):
        optimizer.step()
    calls = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        optimizer.step()
    finally:
        sys.setprofile(before)
    return calls


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("tail", [{}, {"max_grad_norm": 1.0, "ema_decay": 0.9}])
def test_a_step_makes_a_fixed_number_of_calls(name: str, full: bool, tail: Options) -> None:
    options = tail | (FULL[name] if full else {})
    calls = calls_of_a_step(CASES[name].ours, 200, **options)
    assert calls == calls_of_a_step(CASES[name].ours, 1, **options)
    assert calls <= BOUND


def test_the_counter_counts() -> None:
    """torch's fused step calls several functions for each tensor."""
    assert calls_of_a_step(torch.optim.AdamW, 200, fused=True) > 1000
