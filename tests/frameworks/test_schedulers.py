"""Every scheduler of torch.optim.lr_scheduler, and ours, drives fastopt's optimizers as it drives
torch's: the same options at each step, the reference's parameters bit for bit, and the same again after
a resume. Then torch.optim.swa_utils: SWALR, and averaged models.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer, lr_scheduler
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn

from _optim_cases import (
    CASES,
    FULL,
    Mirror,
    Options,
    assert_same_bits,
    parameters,
    set_gradients,
    step_and_check,
)
from fastopt.schedules import InverseTimeLR

each_optimizer = pytest.mark.parametrize("name", CASES)
STEPS = 12
SHAPES = [(17, 3), (5,)]


@pytest.fixture(autouse=True)
def one_thread(set_threads: Callable[[int], None]) -> None:
    """Waking threads for each small tensor is slow on a busy machine."""
    set_threads(1)


class Cyclic(NamedTuple):
    """A scheduler that turns betas or momentum, too, where the optimizer has them."""

    make: Callable[..., Any]

    def __call__(self, optimizer: Optimizer) -> Any:
        turns = bool({"betas", "momentum"} & optimizer.defaults.keys())
        return self.make(optimizer, cycle_momentum=turns)


def sequential(optimizer: Optimizer) -> Any:
    warmup = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4)
    rest = lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    return lr_scheduler.SequentialLR(optimizer, [warmup, rest], milestones=[4])


def chained(optimizer: Optimizer) -> Any:
    parts = [lr_scheduler.ConstantLR(optimizer, 0.5, 3), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    return lr_scheduler.ChainedScheduler(parts, optimizer)


SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "LambdaLR": lambda it: lr_scheduler.LambdaLR(it, lambda epoch: 0.7**epoch),
    "MultiplicativeLR": lambda it: lr_scheduler.MultiplicativeLR(it, lambda epoch: 0.8),
    "StepLR": lambda it: lr_scheduler.StepLR(it, 3),
    "MultiStepLR": lambda it: lr_scheduler.MultiStepLR(it, [2, 5, 6], gamma=0.3),
    "ConstantLR": lambda it: lr_scheduler.ConstantLR(it, 0.3, 4),
    "LinearLR": lambda it: lr_scheduler.LinearLR(it, 0.2, total_iters=7),
    "ExponentialLR": lambda it: lr_scheduler.ExponentialLR(it, 0.9),
    "PolynomialLR": lambda it: lr_scheduler.PolynomialLR(it, 9, power=2),
    "CosineAnnealingLR": lambda it: lr_scheduler.CosineAnnealingLR(it, 5, eta_min=1e-4),
    "CosineAnnealingWarmRestarts": lambda it: lr_scheduler.CosineAnnealingWarmRestarts(it, 3, 2),
    "CyclicLR": Cyclic(
        lambda it, **kw: lr_scheduler.CyclicLR(
            it, 1e-3, 0.1, 4, base_momentum=0.7, max_momentum=0.95, **kw
        )
    ),
    "OneCycleLR": Cyclic(
        lambda it, **kw: lr_scheduler.OneCycleLR(it, 0.1, STEPS + 1, three_phase=True, **kw)
    ),
    "ReduceLROnPlateau": lambda it: lr_scheduler.ReduceLROnPlateau(it, factor=0.3, patience=1),
    "SequentialLR": sequential,
    "ChainedScheduler": chained,
    "SWALR": lambda it: SWALR(it, swa_lr=0.002, anneal_epochs=6),
    "InverseTimeLR": lambda it: InverseTimeLR(it, 0.3),
}
each_scheduler = pytest.mark.parametrize("scheduler", SCHEDULERS)


def test_no_scheduler_of_torch_is_missing() -> None:
    others = {"SWALR", "InverseTimeLR"}
    assert set(lr_scheduler.__all__) - {"LRScheduler"} == SCHEDULERS.keys() - others


def advance(scheduler: Any, index: int) -> None:
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        scheduler.step([3.0, 2.0, 2.0, 2.0, 2.0, 1.0][index % 6])
    else:
        scheduler.step()


def groups() -> list[Options]:
    """Two, of different rates."""
    first, second = (parameters(shapes=SHAPES) for _ in range(2))
    return [{"params": first}, {"params": second, "lr": 0.02}]


def step_with_gradients(optimizer: Optimizer, index: int) -> None:
    set_gradients([param for group in optimizer.param_groups for param in group["params"]], index)


def options_of(optimizer: Optimizer, keys: set[str]) -> list[Options]:
    return [{key: copy.copy(group[key]) for key in keys} for group in optimizer.param_groups]


@each_optimizer
@each_scheduler
def test_trajectories_equal_the_reference(name: str, scheduler: str) -> None:
    optimizer = CASES[name].ours(groups(), **FULL[name])
    theirs = CASES[name].torchs(groups(), **FULL[name])
    schedulers = [SCHEDULERS[scheduler](it) for it in (optimizer, theirs)]
    keys = theirs.param_groups[0].keys() - {"params"}
    mirror, seen = Mirror(name, optimizer), []
    for index in range(STEPS):
        step_with_gradients(optimizer, index)
        step_and_check(mirror)
        theirs.step()
        assert options_of(optimizer, keys) == options_of(theirs, keys)
        seen.append(options_of(optimizer, keys))
        for it in schedulers:
            advance(it, index)
        if scheduler != "ReduceLROnPlateau":
            assert schedulers[0].get_last_lr() == schedulers[1].get_last_lr()
    assert any(options != seen[0] for options in seen)
    if isinstance(SCHEDULERS[scheduler], Cyclic):
        turned = [options[0].get("betas", options[0].get("momentum")) for options in seen]
        assert len(set(turned)) > 2 or name == "Adagrad"


@each_scheduler
def test_a_tensor_rate_is_changed_in_place_and_seen(scheduler: str) -> None:
    rate = torch.tensor(0.05, dtype=torch.float64)
    optimizer = CASES["AdamW"].ours(parameters(shapes=SHAPES), lr=rate)
    made = SCHEDULERS[scheduler](optimizer)
    mirror = Mirror("AdamW", optimizer)
    start = rate.item()
    rates = set()
    for index in range(STEPS):
        step_with_gradients(optimizer, index)
        step_and_check(mirror)
        advance(made, index)
        rates.add(float(optimizer.param_groups[0]["lr"]))
    assert len(rates | {start}) > 1


@each_optimizer
@each_scheduler
def test_a_resumed_schedule_is_an_unbroken_one(name: str, scheduler: str) -> None:
    def run(optimizer: Optimizer, made: Any, start: int, stop: int) -> None:
        for index in range(start, stop):
            step_with_gradients(optimizer, index)
            optimizer.step()
            advance(made, index)

    unbroken = CASES[name].ours(groups(), **FULL[name])
    made = SCHEDULERS[scheduler](unbroken)
    run(unbroken, made, 0, 5)
    resumed = CASES[name].ours(groups(), **FULL[name])
    remade = SCHEDULERS[scheduler](resumed)
    for ours, theirs in zip(flat(resumed), flat(unbroken), strict=True):
        ours.data.copy_(theirs.data)
    resumed.load_state_dict(copy.deepcopy(unbroken.state_dict()))
    remade.load_state_dict(copy.deepcopy(made.state_dict()))
    run(unbroken, made, 5, STEPS)
    run(resumed, remade, 5, STEPS)
    for ours, theirs in zip(flat(resumed), flat(unbroken), strict=True):
        assert_same_bits(ours, theirs)


def flat(optimizer: Optimizer) -> list[Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def test_a_scheduler_counts_our_steps() -> None:
    """It wraps the instance's step, and warns when it was called before the first one."""
    optimizer = CASES["AdamW"].ours(parameters(shapes=SHAPES))
    scheduler = lr_scheduler.StepLR(optimizer, 3)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        scheduler.step()
    optimizer = CASES["AdamW"].ours(parameters(shapes=SHAPES))
    scheduler = lr_scheduler.StepLR(optimizer, 3)
    step_with_gradients(optimizer, 0)
    optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler.step()


# ---- torch.optim.swa_utils ----------------------------------------------------------------------


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7), torch.nn.ReLU(), torch.nn.Linear(7, 3)
    )


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 5, generator=generator) for _ in range(STEPS)]


@each_optimizer
@pytest.mark.parametrize("average", [None, get_ema_multi_avg_fn(0.9)], ids=["SWA", "EMA"])
def test_averaged_models_average_the_references_parameters(name: str, average: Any) -> None:
    model = network()
    optimizer = CASES[name].ours(model.parameters(), **FULL[name])
    mirror = Mirror(name, optimizer)
    follower = network()  # holds the reference's parameters
    averages = [AveragedModel(it, multi_avg_fn=average) for it in (model, follower)]
    scheduler = SWALR(optimizer, swa_lr=0.002, anneal_epochs=4)
    for inputs in batches():
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        step_and_check(mirror)
        with torch.no_grad():
            for param, array in zip(follower.parameters(), mirror.params.values(), strict=True):
                param.copy_(torch.from_numpy(array))
        for averaged, it in zip(averages, (model, follower), strict=True):
            averaged.update_parameters(it)
        scheduler.step()
    update_bn(batches(), averages[0])
    for ours, theirs in zip(averages[0].parameters(), averages[1].parameters(), strict=True):
        assert_same_bits(ours, theirs)
    assert averages[0](batches()[0]).isfinite().all()
