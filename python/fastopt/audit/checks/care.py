"""Is anything left half done, or left behind?"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fastopt.audit.compare import same_bits
from fastopt.audit.registry import Failed, NotApplicable, case, check
from fastopt.audit.subject import Subject

STATM = Path("/proc/self/statm")  # pages; the second number is of those in memory
PAGE = 4096
GROWTH = 4 << 20  # bytes that may come and go for other reasons


@check()
def errors_write_nothing(subject: Subject) -> None:
    """A step that raises has stepped some parameters and not others: who catches the error trains on
    with a model that no step has made."""
    subject.needs("lr")
    for steps in (2, 0):
        for about, spoil in SPOILT.items():
            params = subject.parameters([(33,), (7,)])
            optimizer = subject.optimizer([{"params": params[:1]}, {"params": params[1:]}])
            subject.train(optimizer, params, range(steps))
            subject.set_gradients(params, 9)
            spoil(optimizer.param_groups[1])
            before = snapshot(optimizer, params)
            try:
                optimizer.step()
            except Exception:
                with case(f"{about} in the last of two groups, after {steps} steps"):
                    assert_same(before, snapshot(optimizer, params))
                break
        else:
            raise NotApplicable("no option could be found without which a step raises an error")


SPOILT: dict[str, Callable[[dict[str, Any]], object]] = {
    "no rate": lambda group: group.pop("lr"),
    "a rate that is a word": lambda group: group.update(lr="fast"),
}


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Of two snapshots."""
    if before.keys() != after.keys():
        new = sorted(before.keys() ^ after.keys())
        raise Failed(f"other entries of states than before: {', '.join(new)}")
    for name, old in before.items():
        with case(name):
            if isinstance(old, torch.Tensor):
                same_bits(after[name], old)
            elif after[name] != old:
                raise Failed(f"{after[name]}, was {old}")


def snapshot(optimizer: torch.optim.Optimizer, params: list[torch.nn.Parameter]) -> dict[str, Any]:
    """Parameters, states and counts, by name."""
    found: dict[str, Any] = {}
    for i, param in enumerate(params):
        found[f"parameter {i}"] = param.detach().clone()
        for key, it in optimizer.state.get(param, {}).items():
            if isinstance(it, torch.Tensor):
                found[f"{key} of parameter {i}"] = it.detach().clone()
            elif isinstance(it, (int, float)):
                found[f"{key} of parameter {i}"] = it
    for i, group in enumerate(optimizer.param_groups):
        if isinstance(group.get("step"), (int, float)):
            found[f"step of group {i}"] = group["step"]
    return found


@check()
def leaks(subject: Subject) -> str:
    """Every step leaves something in memory: long runs end when it is full."""
    count = 2000 if subject.quick else 10_000
    params = subject.parameters([(4096,), (17,)])
    optimizer = subject.optimizer(params)
    subject.set_gradients(params, 0)
    for _ in range(200):
        optimizer.step()
    gc.collect()
    objects, bytes_before = len(gc.get_objects()), in_memory()
    for number in range(count):
        if number % 100 == 0:
            subject.set_gradients(params, number)  # a step must not hold on to these, either
        optimizer.step()
    gc.collect()
    more, grown = len(gc.get_objects()) - objects, in_memory() - bytes_before
    if more > count // 4:
        raise Failed(f"{count} steps leave {more} objects")
    if grown > GROWTH:
        raise Failed(f"{count} steps over 4096 elements leave {grown >> 20} MB")
    return f"{count} steps"


def in_memory() -> int:
    """Bytes of this process in memory; 0 where that cannot be told."""
    return int(STATM.read_text().split()[1]) * PAGE if STATM.exists() else 0
