"""Converted optimizers under what drove them before: schedulers, hooks, a GradScaler."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

import fastopt
from _convert_cases import assert_same, each_start, params_of, take_steps, twin, warm_up
from _optim_cases import (
    CASES,
    FULL,
    Options,
    assert_same_bits,
    failures_in_fresh_processes,
    parameters,
)

each_optimizer = pytest.mark.parametrize("name", CASES)


def one_cycle(optimizer: Optimizer) -> LRScheduler:
    cycles = any(key in optimizer.defaults for key in ("momentum", "betas"))
    return OneCycleLR(optimizer, 0.1, total_steps=12, cycle_momentum=cycles)


SCHEDULERS = {"LambdaLR": warm_up, "OneCycleLR": one_cycle}
SCHEDULED: dict[str, Options] = {**FULL, "SGD": {"lr": 0.1, "momentum": 0.9}}


@each_optimizer
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@each_start
@pytest.mark.filterwarnings("error")
def test_a_scheduler_made_before_drives_the_new_step(name: str, scheduler: str, start: int) -> None:
    made = [CASES[name].torchs(parameters(), **SCHEDULED[name]) for _ in range(2)]
    schedulers = [SCHEDULERS[scheduler](it) for it in made]
    for optimizer, its in zip(made, schedulers, strict=True):
        for step in range(start):
            take_steps(optimizer, step, 1)
            its.step()
    optimizer, plain = made
    expected = twin(plain, CASES[name].ours)  # without a scheduler: its groups follow plain's
    fastopt.from_torch(optimizer)
    assert schedulers[0].optimizer is optimizer
    ran: list[str] = []
    optimizer.register_step_post_hook(lambda it, *_: ran.append(type(it).__module__))
    for step in range(start, start + 4):
        take_steps(optimizer, step, 1)
        schedulers[0].step()
        for group, other in zip(expected.param_groups, plain.param_groups, strict=True):
            group.update({key: value for key, value in other.items() if key != "params"})
        take_steps(expected, step, 1)
        plain._opt_called = True  # type: ignore[attr-defined]
        schedulers[1].step()
    for mine, other in zip(params_of(optimizer), params_of(expected), strict=True):
        assert_same_bits(mine, other)
    assert ran == [CASES[name].ours.__module__] * 4

    fastopt.to_torch(optimizer)
    take_steps(optimizer, 9, 1)
    schedulers[0].step()
    assert ran[4:] == [CASES[name].torchs.__module__]


def test_a_scheduler_that_is_stepped_first_warns_as_ever() -> None:
    optimizer = torch.optim.SGD(parameters())
    scheduler = warm_up(optimizer)
    fastopt.from_torch(optimizer)
    with pytest.warns(UserWarning, match=r"`lr_scheduler.step\(\)` before"):
        scheduler.step()


def test_a_scheduler_made_after_the_conversion() -> None:
    optimizer = fastopt.from_torch(torch.optim.SGD(parameters()))
    scheduler = warm_up(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        take_steps(optimizer, 0, 1)
        scheduler.step()
    fastopt.to_torch(optimizer)
    fastopt.from_torch(optimizer)
    take_steps(optimizer, 1, 1)
    assert optimizer.param_groups[0]["lr"] == 1e-3 / 2


@each_optimizer
def test_hooks_stay_and_run_once(name: str) -> None:
    optimizer = CASES[name].torchs(parameters(), **FULL[name])
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    optimizer.register_state_dict_pre_hook(lambda *_: calls.append("saving"))
    optimizer.register_load_state_dict_post_hook(lambda *_: calls.append("loaded"))
    warm_up(optimizer)
    for convert in (fastopt.from_torch, fastopt.to_torch, fastopt.from_torch):
        convert(optimizer)
        calls.clear()
        take_steps(optimizer, 0, 1)
        optimizer.load_state_dict(optimizer.state_dict())
        assert calls == ["pre", "post", "saving", "loaded"]


@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_grad_scaler_goes_on_with_it(name: str, fused: bool | None) -> None:
    """The scaler has its own notes about the optimizer, by identity; one step is skipped."""
    results = []
    for start in (0, 2):  # converted at once, or between two steps of a scaler in use
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 3)
        kinds = {0: CASES[name].ours, 2: CASES[name].torchs}
        optimizer = kinds[start](model.parameters(), lr=0.01, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for step in range(6):
            if step == start and start:
                fastopt.from_torch(optimizer)
            optimizer.zero_grad()
            data = torch.full((2, 4), float(step)) * (float("inf") if step == 3 else 1)
            with torch.autocast("cpu", enabled=False):
                loss = model(data).square().mean()
            scaler.scale(loss).backward()
            before = model.weight.detach().clone()
            scaler.step(optimizer)
            scaler.update()
            if step == 3:
                assert torch.equal(model.weight, before)
        results.append(model.weight.detach())
        assert scaler.get_scale() == 512.0
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)  # two steps were torch's


# torch's classes get their hooks when the first object is built; converting must not depend on it.
FRESH = """
import torch, fastopt

def build(module, name):
    return getattr(module, name)([torch.nn.Parameter(torch.ones(3))], lr=0.1)

def count_hooks(optimizer):
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
    for step in range(2):
        optimizer.step()
    assert calls == ["pre", "post"] * 2, calls

def check(direction):
    for name in ["AdamW", "Adam", "RMSprop", "SGD", "Adagrad"]:
        if direction == "from torch":
            optimizer = fastopt.from_torch(build(torch.optim, name))
        else:
            optimizer = fastopt.to_torch(build(fastopt.optim, name))
        count_hooks(optimizer)
        count_hooks(build(fastopt.optim, name))
        count_hooks(build(torch.optim, name))
"""


@pytest.fixture(scope="module")
def fresh_failures() -> dict[str, str]:
    return failures_in_fresh_processes(FRESH, ["from torch", "to torch"])


@pytest.mark.parametrize("direction", ["from torch", "to torch"])
def test_hooks_run_once_in_a_fresh_process(direction: str, fresh_failures: dict[str, str]) -> None:
    assert fresh_failures.get(direction) is None


@each_optimizer
def test_torchs_class_is_left_alone(name: str) -> None:
    """Another torch optimizer, made before, steps with torch's code to torch's bits."""
    other = CASES[name].torchs(parameters(), **FULL[name])
    expected = twin(other, CASES[name].torchs)
    take_steps(expected, 0, 3)
    attributes = dict(vars(CASES[name].torchs))
    take_steps(fastopt.from_torch(CASES[name].torchs(parameters(), **FULL[name])), 0, 1)
    assert dict(vars(CASES[name].torchs)) == attributes
    take_steps(other, 0, 3)
    assert_same(other, expected)
