"""Turn a live torch.optim optimizer into fastopt's, in place, and back.

    fastopt.from_torch(optimizer)  # from here on optimizer.step() runs fastopt's kernels
    fastopt.to_torch(optimizer)    # and from here on torch's code again

The object stays the one it is, with its groups, its state and its hooks, so whatever refers to it
(schedulers, GradScalers, a training loop) goes on driving it. Only its class changes.
"""

from __future__ import annotations

import functools
import inspect
import sys
import weakref
from collections.abc import Callable, MutableMapping
from typing import Any, TypeVar, cast

import torch
from torch.optim import Optimizer

from fastopt import optim
from fastopt.optim._fused import Fused
from fastopt.optim._report import torchs_class

CLASSES: dict[type[Optimizer], type[Fused]] = {
    torchs: ours
    for ours in (getattr(optim, name) for name in optim.__all__)
    if isinstance(ours, type) and issubclass(ours, Fused) and (torchs := torchs_class(ours)) is not None
}

From = TypeVar("From", bound=Optimizer)
To = TypeVar("To", bound=Optimizer)


def from_torch(optimizer: Optimizer) -> Fused:
    """Make a torch.optim optimizer one of fastopt's, in place.

    It goes on from its groups, state and step counts as if it had been fastopt's all along. Options
    that torch's class lacks are set so that they change nothing; ``fused``, ``foreach`` and the
    others keep their values. Hooks stay, and run once a step. A bound method taken before
    (``step = optimizer.step``) is still torch's: take it again.

    Args:
        optimizer: exactly of a class that :mod:`fastopt.optim` has, too, as
            :class:`torch.optim.AdamW`; no subclass, whose own code would be lost.

    Returns:
        The same object, which is now a :class:`fastopt.optim.AdamW`, and so on.

    Raises:
        TypeError: if it is of another class.
        ValueError: if its ``step`` has been replaced by other than a scheduler of torch.

    Example::

        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
        fastopt.from_torch(optimizer)  # the scheduler keeps driving it
    """
    ours = _partner(optimizer, CLASSES)
    _become(optimizer, ours)
    for options in (optimizer.defaults, *optimizer.param_groups):
        for key, neutral in ours._neutral().items():
            options.setdefault(key, neutral)
    return cast(Fused, optimizer)


def to_torch(optimizer: Optimizer) -> Optimizer:
    """Make an optimizer of fastopt's one of torch.optim's, in place: :func:`from_torch` undone.

    Group options that torch's class lacks are removed, and so is the state that only they use.

    Args:
        optimizer: exactly of a class that torch.optim has, too, as :class:`fastopt.optim.AdamW`.

    Returns:
        The same object, which is now a :class:`torch.optim.AdamW`, and so on.

    Raises:
        TypeError: if it is of another class.
        ValueError: if a group asks for what torch's class cannot do (``ema_decay``, say), or if
            its ``step`` has been replaced by other than a scheduler of torch.

    Example::

        fastopt.to_torch(optimizer)
        torch.save(optimizer, "optimizer.pt")  # for a machine without fastopt
    """
    theirs = _partner(optimizer, {ours: torchs for torchs, ours in CLASSES.items()})
    ours = cast(Fused, optimizer)
    neutral = ours._neutral()
    for index, group in enumerate(optimizer.param_groups):
        for key, value in neutral.items():
            if group.get(key, value) != value:
                raise ValueError(
                    f"{key}={group[key]!r} in group {index}: torch.optim.{theirs.__name__} has no "
                    f"such option; expected {key}={value!r}"
                )
    states = _states_of_torch(ours)
    _become(optimizer, theirs)
    for options in (optimizer.defaults, *optimizer.param_groups):
        for key in neutral:
            options.pop(key, None)
    for state, entries in states:
        state.clear()
        state.update(entries)
    vars(optimizer).pop("_has_warned", None)
    return optimizer


def _states_of_torch(optimizer: Fused) -> list[tuple[Any, dict[Any, Any]]]:
    """Each parameter's state, and what of it torch's class keeps, as it stores that.

    What a program keeps there under other keys, of a parameter or of none, stays.
    """
    found = []
    for group in optimizer.param_groups:
        for param in group["params"]:
            state = optimizer.state.get(param)
            if isinstance(state, MutableMapping):
                found.append((state, optimizer._without_ours(param, state)))
    return found


def _partner(optimizer: Optimizer, classes: dict[type[From], type[To]]) -> type[To]:
    """The class that stands for this optimizer's on the other side; all that may be refused."""
    partner = classes.get(cast("type[From]", type(optimizer)))
    if partner is None:
        accepted = ", ".join(_name(it) for it in classes)
        raise TypeError(f"optimizer: expected exactly one of {accepted}, got {_name(type(optimizer))}")
    step = vars(optimizer).get("step")
    if step is not None and not _tracks(step, type(optimizer)):
        raise ValueError(
            f"optimizer.step has been replaced on this object by {step!r}, which may hold on to the "
            f"old class's; convert the optimizer before that"
        )
    return partner


def _become(optimizer: Optimizer, new: type[Optimizer]) -> None:
    """Change the class and what hangs on it besides the groups."""
    # What either constructor sets for these options, such as the flag that a GradScaler looks for.
    before, after = (_attributes(it, optimizer.defaults) for it in (type(optimizer), new))
    optimizer.__class__ = new
    optimizer._patch_step_function()
    for key in before.keys() - after.keys():
        vars(optimizer).pop(key, None)
    for key, value in after.items():
        vars(optimizer).setdefault(key, value)
    if "step" in vars(optimizer):
        vars(optimizer)["step"] = _tracked(new.step, weakref.ref(optimizer))


def _attributes(kind: type[Optimizer], defaults: dict[str, Any]) -> dict[str, Any]:
    """Those of a new object with these defaults."""
    accepted = inspect.signature(kind).parameters
    options = {key: value for key, value in defaults.items() if key in accepted}
    return vars(kind([torch.zeros(1, requires_grad=True)], **options))


# A scheduler replaces `step` on its optimizer by a function that notes the call, so that it can warn
# if it is itself stepped first. That function holds on to the step of the class of that time.


def _tracks(step: Any, owner: type[Optimizer]) -> bool:
    return hasattr(step, "_wrapped_by_lr_sched") and step.__wrapped__ is owner.step


def _tracked(step: Callable[..., Any], owner: weakref.ref[Optimizer]) -> Callable[..., Any]:
    """What a scheduler would make of this step of its optimizer's."""

    @functools.wraps(step)
    def tracked(*args: Any, **kwargs: Any) -> Any:
        optimizer: Any = owner()
        optimizer._opt_called = True
        return step(optimizer, *args, **kwargs)

    cast(Any, tracked)._wrapped_by_lr_sched = True
    return tracked


def _name(kind: type) -> str:
    """As its users call it: torch.optim.SGD, not torch.optim.sgd.SGD."""
    for module in ("torch.optim", "fastopt.optim"):
        if getattr(sys.modules[module], kind.__name__, None) is kind:
            return f"{module}.{kind.__name__}"
    return f"{kind.__module__}.{kind.__qualname__}"
