"""The three decays of a rate, by their formulas: step, exponential, 1/t; and warm-up before them.

That each drives every optimizer to the reference's bits, with numbers and tensors for rates, and again
after a resume, is in test_schedulers.py.
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import (
    ConstantLR,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    SequentialLR,
    StepLR,
)

import fastopt
from _optim_cases import array_of, assert_same_bits, parameters, set_gradients
from fastopt import reference
from fastopt.schedules import InverseTimeLR

ALPHA = 0.05
STEPS = 40

# The scheduler, and the rate at step t that the lecture gives.
DECAYS: dict[str, tuple[Callable[[Any], LRScheduler], Callable[[int], float]]] = {
    "step": (lambda it: StepLR(it, 10, gamma=0.5), lambda t: ALPHA * 0.5 ** (t // 10)),
    "exponential": (lambda it: ExponentialLR(it, math.exp(-0.1)), lambda t: ALPHA * math.exp(-0.1 * t)),
    "1/t": (lambda it: InverseTimeLR(it, 0.1), lambda t: ALPHA / (1 + 0.1 * t)),
}
each_decay = pytest.mark.parametrize("decay", DECAYS)


def sgd(**options: Any) -> fastopt.optim.SGD:
    return fastopt.optim.SGD(parameters(shapes=[(3,)]), lr=ALPHA, **options)


def rates(optimizer: torch.optim.Optimizer, scheduler: LRScheduler, steps: int = STEPS) -> list[float]:
    """The rate of each step."""
    seen = []
    for index in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        set_gradients(optimizer.param_groups[0]["params"], index)
        optimizer.step()
        scheduler.step()
    return seen


@each_decay
def test_a_decay_follows_its_formula(decay: str) -> None:
    make, formula = DECAYS[decay]
    optimizer = sgd()
    seen = rates(optimizer, make(optimizer))
    assert seen[0] == ALPHA
    assert seen == pytest.approx([formula(t) for t in range(STEPS)], rel=1e-13)


@each_decay
def test_a_scheduled_run_has_the_references_bits(decay: str) -> None:
    """The reference is given the scheduler's rate, and nothing else of it."""
    make, _ = DECAYS[decay]
    (param,) = parameters(shapes=[(257,)])
    optimizer = fastopt.optim.AdamW([param], lr=ALPHA)
    scheduler = make(optimizer)
    expected = (array_of(param), np.zeros(257, np.float32), np.zeros(257, np.float32))
    for step in range(1, STEPS + 1):
        set_gradients([param], step)
        (rate,) = scheduler.get_last_lr()
        value, *moments = expected
        expected = reference.adamw(value, array_of(param.grad), *moments, step=step, lr=float(rate))
        optimizer.step()
        scheduler.step()
        assert_same_bits(param, expected[0])


@each_decay
def test_warm_up_comes_before_by_sequential_lr(decay: str) -> None:
    make, formula = DECAYS[decay]
    optimizer = sgd()
    parts = [LinearLR(optimizer, 0.1, total_iters=5), make(optimizer)]
    seen = rates(optimizer, SequentialLR(optimizer, parts, milestones=[5]), 20)
    up = [ALPHA * (0.1 + 0.9 * t / 5) for t in range(5)]
    assert seen == pytest.approx(up + [formula(t) for t in range(15)], rel=1e-13)


@pytest.mark.parametrize("decay", [0.0, 0.5, 3])
def test_the_chainable_form_is_the_closed_one(decay: float) -> None:
    optimizer = sgd()
    scheduler = InverseTimeLR(optimizer, decay)
    expected = []
    for _ in range(STEPS):
        expected += scheduler._get_closed_form_lr()
        rates(optimizer, scheduler, 1)
    again = sgd()
    assert rates(again, InverseTimeLR(again, decay)) == pytest.approx(expected, rel=1e-13)
    with pytest.warns(UserWarning, match="epoch parameter"):
        scheduler.step(7)
    assert optimizer.param_groups[0]["lr"] == ALPHA / (1 + decay * 7)


def test_it_chains_with_another_scheduler() -> None:
    optimizer = sgd()
    warm, inverse = ConstantLR(optimizer, 0.5, total_iters=3), InverseTimeLR(optimizer, 0.2)
    seen = []
    for index in range(8):
        seen.append(optimizer.param_groups[0]["lr"])
        set_gradients(optimizer.param_groups[0]["params"], index)
        optimizer.step()
        warm.step()
        inverse.step()
    expected = [ALPHA / (1 + 0.2 * t) * (0.5 if t < 3 else 1) for t in range(8)]
    assert seen == pytest.approx(expected, rel=1e-13)


def test_every_group_decays_from_its_own_rate() -> None:
    first, second = parameters(shapes=[(3,), (2,)])
    groups = [{"params": [first]}, {"params": [second], "lr": 0.5}]
    optimizer = fastopt.optim.SGD(groups, lr=ALPHA)
    scheduler = InverseTimeLR(optimizer, 1.0)
    rates(optimizer, scheduler, 3)
    assert scheduler.get_last_lr() == pytest.approx([ALPHA / 4, 0.5 / 4])


def test_a_state_dict_goes_through_a_file() -> None:
    optimizer = sgd()
    scheduler = InverseTimeLR(optimizer, 0.3)
    rates(optimizer, scheduler, 5)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = sgd()
    other = InverseTimeLR(resumed, 99.0)  # its k comes from the file
    resumed.load_state_dict(saved["optimizer"])
    other.load_state_dict(saved["scheduler"])
    assert rates(resumed, other) == rates(optimizer, scheduler)


def test_last_epoch_goes_on_from_an_optimizers_state() -> None:
    optimizer = sgd()
    scheduler = InverseTimeLR(optimizer, 0.3)
    rates(optimizer, scheduler, 5)
    resumed = sgd()
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other = InverseTimeLR(resumed, 0.3, last_epoch=scheduler.last_epoch - 1)
    assert rates(resumed, other) == rates(optimizer, scheduler)


@pytest.mark.parametrize("decay", [-0.1, math.inf, math.nan])
def test_a_decay_out_of_range(decay: float) -> None:
    with pytest.raises(ValueError, match=r"decay: expected a finite number >= 0, got (-0.1|inf|nan)"):
        InverseTimeLR(sgd(), decay)


def test_what_is_no_optimizer() -> None:
    with pytest.raises(TypeError, match="list is not an Optimizer"):
        InverseTimeLR([], 0.1)  # type: ignore[arg-type]
