"""Do closures, hooks, schedulers and scalers work as torch promises?"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from fastopt.audit.compare import same_bits
from fastopt.audit.registry import Failed, case, check, refusable
from fastopt.audit.subject import Subject

SHAPES = [(33,), (4, 5)]
RATE = 2.0**-7  # which float32 holds


@check()
def closures(subject: Subject) -> None:
    """`step(closure)` does not call the closure, forbids it to call backward(), or loses its loss."""
    param, twin = subject.parameter((33,)), subject.parameter((33,))
    optimizer: Any = subject.optimizer([param])
    modes: list[bool] = []

    def closure() -> torch.Tensor:
        modes.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = (param * subject.gradient(twin, 0)).sum()
        torch.autograd.backward(loss)
        return loss

    with case("step(closure)"), torch.no_grad():
        loss: Any = optimizer.step(closure)
        if modes != [True]:
            raise Failed(f"the closure was called with gradients enabled: {modes or 'not at all'}")
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            raise Failed(f"it returned {loss!r}, not the loss")
        if torch.is_grad_enabled():
            raise Failed("gradients are enabled afterwards, which they were not before")
    twin.grad = subject.gradient(twin, 0)
    other: Any = subject.optimizer([twin])
    if (result := other.step()) is not None:
        raise Failed(f"step() without a closure returned {result!r}, not None")
    with case("step(closure) against step()"):
        same_bits(param, twin)


@check()
def hooks(subject: Subject) -> None:
    """Hooks around a step do not run, run twice, or run in another order than torch's: profilers,
    loggers and frameworks that build on them see another training."""
    ours = hooked(subject.optimizer, subject)
    theirs = hooked(lambda params: torch.optim.SGD(params, lr=0.1), subject)
    if ours != theirs:
        raise Failed(f"of one step, a save and a load were seen {ours}; torch's order is {theirs}")


def hooked(make: Callable[[Any], Optimizer], subject: Subject) -> list[str]:
    """What hooks of every kind see, in order."""
    param = subject.parameter((33,))
    optimizer, seen = make([param]), []
    before = param.detach().clone()

    def note(about: str) -> Callable[..., None]:
        def hook(it: Optimizer, *_: Any) -> None:
            if it is optimizer:
                stepped = not torch.equal(param.detach(), before)
                seen.append(f"{about}{' (stepped)' if stepped else ''}")

        return hook

    handles = [
        register_optimizer_step_pre_hook(note("every pre")),
        register_optimizer_step_post_hook(note("every post")),
        optimizer.register_step_pre_hook(note("pre")),
        optimizer.register_step_post_hook(note("post")),
        optimizer.register_state_dict_pre_hook(note("save pre")),
        optimizer.register_state_dict_post_hook(note("save post")),
        optimizer.register_load_state_dict_pre_hook(note("load pre")),
        optimizer.register_load_state_dict_post_hook(note("load post")),
    ]
    try:
        for number in range(2):  # the first step of some changes nothing
            del seen[:]
            before.copy_(param.detach())
            param.grad = subject.gradient(param, number)
            optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
    finally:
        for handle in handles:
            handle.remove()
    return seen


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """As torch's schedulers do: a tensor keeps its place."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


@check()
def schedulers(subject: Subject) -> None:
    """A scheduler's rate is not used: the rate that a run begins with stays for good."""
    subject.needs("lr")
    rate = float(subject.defaults["lr"])
    results = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for factor, by_hand in ((0.25, False), (0.25, True), (1.0, True)):
            params = subject.parameters(SHAPES)
            optimizer = subject.optimizer(params)
            scheduler = None
            if not by_hand:
                scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, factor)
            for number in range(3):
                subject.train(optimizer, params, range(number, number + 1))
                if scheduler is not None:
                    scheduler.step()
                else:
                    set_rate(optimizer, rate * factor ** (number + 1))
            results.append(params)
    for got, want, other in zip(*results, strict=True):
        with case("ExponentialLR against the same rates set by hand, three steps"):
            same_bits(got, want)
        if torch.equal(want, other):
            raise Failed("a rate that falls after each step has the results of one that stays")
    order = [str(it.message) for it in caught if "lr_scheduler.step()" in str(it.message)]
    if order:
        raise Failed(f"torch warns of the order of steps, which was right: {order[0][:80]}")


@check()
def tensor_rates(subject: Subject) -> None:
    """A rate that is a tensor, which torch.compile needs and users change in place, is read once."""
    subject.needs("lr")
    results = []
    for is_tensor in (False, True):
        params = subject.parameters(SHAPES)
        lr: Any = torch.tensor(RATE) if is_tensor else RATE
        with refusable("a tensor as rate"):
            optimizer = subject.optimizer([{"params": params, "lr": lr}])
            subject.train(optimizer, params, range(1))
        if is_tensor:
            lr.mul_(0.25)
        else:
            set_rate(optimizer, RATE / 4)
        subject.train(optimizer, params, range(1, 3))
        results.append(params)
    for got, want in zip(*results[::-1], strict=True):
        with case("three steps at 2**-7, then 2**-9, against the same numbers"):
            subject.close(got, want.detach())


@check()
def grad_scaler(subject: Subject) -> None:
    """Under torch.amp.GradScaler, a step is taken by scaled gradients, or is not left out when they
    overflow, or counts though it was left out."""
    if subject.dtype == torch.float16:
        with refusable("GradScaler, which unscales no float16 gradients"):
            raise TypeError("parameters of float16")
    params, twins = subject.parameters(SHAPES), subject.parameters(SHAPES)
    optimizer, plain = subject.optimizer(params), subject.optimizer(twins)
    scaler = torch.amp.GradScaler(
        subject.device.partition(":")[0], init_scale=1024.0, growth_interval=100
    )
    scaler.scale(torch.ones((), device=subject.device))
    for number in range(4):
        overflow = number == 2
        subject.set_gradients(params, number)
        for param in params:
            if param.grad is not None:
                param.grad.mul_(scaler.get_scale())
        if overflow and params[0].grad is not None:
            params[0].grad[3] = float("inf")
        with case(f"step {number + 1} of 4" + (", whose gradients overflow" if overflow else "")):
            scaler.step(optimizer)
            scaler.update()
            if not overflow:
                subject.train(plain, twins, range(number, number + 1))
            for got, want in zip(params, twins, strict=True):
                same_bits(got, want.detach())
