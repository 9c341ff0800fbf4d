"""Does a run go on as if it had not been saved, copied or moved to another class?"""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from fastopt.audit.compare import doubles, same_bits
from fastopt.audit.model import name_of
from fastopt.audit.registry import Failed, NotApplicable, case, check, refusable
from fastopt.audit.subject import Subject

SHAPES = [(33,), (4, 5), (7,), (64, 72)]  # the last is long enough for states in blocks
FAR = 1e-3  # of the way that a run goes: how far two classes' roundings may lead apart


def late(i: int, number: int) -> bool:
    """The last parameter has its first gradient in the third step, so that counts differ."""
    return i == 2 and number < 2


def begun(subject: Subject, steps: int = 4) -> tuple[Optimizer, list[torch.nn.Parameter]]:
    """A run of three groups."""
    params = subject.parameters(SHAPES)
    optimizer = subject.optimizer(in_groups(params))
    subject.train(optimizer, params, range(steps), late)
    return optimizer, params


def in_groups(params: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": params[:2]}, {"params": params[2:3]}, {"params": params[3:]}]


def through_file(state: Any, *, safe: bool) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=safe)


def resumed(subject: Subject, optimizer: Optimizer, params: list[Any]) -> tuple[Optimizer, list[Any]]:
    """A new optimizer of copies, with the state of the old one."""
    copies = [torch.nn.Parameter(it.detach().clone()) for it in params]
    other = subject.optimizer(in_groups(copies))
    other.load_state_dict(through_file(optimizer.state_dict(), safe=False))
    return other, copies


def tensors_of(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {key: it for key, it in state.items() if isinstance(it, torch.Tensor)}


@check(each_dtype=True)
def resuming(subject: Subject) -> None:
    """A run that is resumed from a checkpoint is another run: states are lost, rounded or given to the
    wrong parameters."""
    optimizer, params = begun(subject)
    other, copies = resumed(subject, optimizer, params)
    random = torch.get_rng_state()
    subject.train(optimizer, params, range(4, 7))
    torch.set_rng_state(random)
    subject.train(other, copies, range(4, 7))
    for i, (got, want) in enumerate(zip(copies, params, strict=True)):
        with case(f"parameter {i} of 4, saved after 4 of 7 steps"):
            same_bits(got, want)


@check(each_dtype=True)
def loaded_states(subject: Subject) -> None:
    """Loading a checkpoint changes what states are stored in: float32 averages of 16-bit parameters
    lose two thirds of their digits, step counts stop counting."""
    optimizer, params = begun(subject)
    other, copies = resumed(subject, optimizer, params)
    for i, (param, twin) in enumerate(zip(params, copies, strict=True)):
        before, after = tensors_of(optimizer.state[param]), tensors_of(other.state[twin])
        with case(f"parameter {i} of 4"):
            if before.keys() != after.keys():
                raise Failed(f"states {sorted(after)}, saved were {sorted(before)}")
            for key, want in before.items():
                if (after[key].dtype, after[key].shape) != (want.dtype, want.shape):
                    raise Failed(
                        f"{key} is {after[key].dtype} of shape {tuple(after[key].shape)}, saved was "
                        f"{want.dtype} of shape {tuple(want.shape)}"
                    )


@check()
def safe_files(subject: Subject) -> None:
    """A checkpoint holds objects that torch.load refuses by default (weights_only=True)."""
    optimizer, _ = begun(subject)
    with case("torch.load of its state_dict()"):
        through_file(optimizer.state_dict(), safe=True)


@check()
def loading_twice(subject: Subject) -> None:
    """Loading a state into an optimizer that has trained already leaves some of what it had."""
    optimizer, params = begun(subject)
    state = through_file(optimizer.state_dict(), safe=False)
    kept = [param.detach().clone() for param in params]
    random = torch.get_rng_state()
    results = []
    for _ in range(2):
        torch.set_rng_state(random)
        subject.train(optimizer, params, range(4, 7))
        results.append([param.detach().clone() for param in params])
        with torch.no_grad():
            for param, old in zip(params, kept, strict=True):
                param.copy_(old)
        optimizer.load_state_dict(copy.deepcopy(state))
    for i, (got, want) in enumerate(zip(*results[::-1], strict=True)):
        with case(f"parameter {i} of 4, three steps, a load, and the three steps again"):
            same_bits(got, want)


@check()
def copies(subject: Subject) -> None:
    """A deep copy of an optimizer fails, forgets its state, or steps the original's parameters."""
    continue_with(subject, copy.deepcopy, "copy.deepcopy")


@check()
def pickles(subject: Subject) -> None:
    """A pickled optimizer fails, or forgets its state."""
    continue_with(subject, lambda it: pickle.loads(pickle.dumps(it)), "pickle")


def continue_with(subject: Subject, clone: Any, about: str) -> None:
    optimizer, params = begun(subject)
    with case(about):
        other: Optimizer = clone(optimizer)
        twins = [param for group in other.param_groups for param in group["params"]]
        before = [param.detach().clone() for param in params]
        random = torch.get_rng_state()
        subject.train(other, twins, range(4, 6))
        for param, old in zip(params, before, strict=True):
            same_bits(param, old)
        torch.set_rng_state(random)
        subject.train(optimizer, params, range(4, 6))
        for got, want in zip(twins, params, strict=True):
            same_bits(got, want)


@check()
def round_trips_with_torch(subject: Subject) -> str:
    """A checkpoint cannot be taken to torch's own optimizer of the same name and back, though it looks
    as if it could."""
    name = type(subject.optimizer([subject.parameter((1,))])).__name__
    rule = subject.rule
    named = getattr(rule, "optimizer", name) if rule is not None else name
    torchs = getattr(torch.optim, named if isinstance(named, str) else name, None)
    if torchs is None or torchs is Optimizer:
        raise NotApplicable(f"torch.optim has no {name_of(rule) if rule is not None else name}")
    optimizer, params = begun(subject)
    start = [doubles(it) for it in subject.parameters(SHAPES)]
    known = inspect.signature(torchs).parameters.keys() - {"params"}
    given = subject.options | subject.defaults
    options = {key: given[key] for key in sorted(known & given.keys())}
    theirs = torchs(subject.parameters(SHAPES), **options)
    subject.train(theirs, theirs.param_groups[0]["params"], range(3))
    keys = [{key for state in it.state.values() for key in state} for it in (optimizer, theirs)]
    if keys[0] != keys[1]:
        raise NotApplicable(f"its states are {sorted(keys[0])}, torch's {sorted(keys[1])}")
    twins = [torch.nn.Parameter(it.detach().clone()) for it in params]
    other = torchs(in_groups(twins), **options)
    with refusable("being loaded by torch's class"):
        other.load_state_dict(through_file(optimizer.state_dict(), safe=False))
        subject.train(other, twins, range(4, 7))
    back, again = resumed(subject, other, twins)
    with case("loaded back"):
        subject.train(back, again, range(7, 10))
    subject.train(optimizer, params, range(4, 10))
    worst = 0.0
    for got, want, old in zip(again, params, start, strict=True):
        way = np.abs(doubles(want) - old).max()
        distance = np.abs(doubles(got) - doubles(want)).max()
        worst = max(worst, float(distance / way) if way else float(distance))
    if not worst <= FAR * (1 if subject.dtype in (torch.float32, torch.float64) else 1000):
        raise Failed(f"10 steps, 3 of them by torch's class, end {worst:.2g} of their way elsewhere")
    return f"{worst:.1g} of the way apart"
