"""Which parameters of an optimizer take fastopt's kernels, and why the others do not.

    print(optimizer.fused_report())
    print(fastopt.optim.fused_report(optimizer))  # of torch's own classes, too

What decides is the walk that a step makes before it writes; here it is made without the writing.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from fastopt.optim._stepped import Leftover

Path = Literal["fastopt", "torch", "no gradient"]
PATHS: dict[Path, str] = {
    "fastopt": "on fastopt's kernels",
    "torch": "on torch's own step",
    "no gradient": "without gradient",
}


@dataclass(frozen=True)
class ParameterPath:
    """The way that a step takes for one parameter."""

    group: int
    """Index of the group in ``optimizer.param_groups``."""

    index: int
    """Index of the parameter in ``group["params"]``."""

    name: str | None
    """The parameter's name, where the group knows it (``param_names``)."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    path: Path
    """What steps it now: fastopt's kernels, torch's own step, or nothing, for want of a gradient."""

    reason: str
    """Why the kernels do not take it, or would not if it had a gradient; empty if they do."""

    def __str__(self) -> str:
        name = f" {self.name!r}" if self.name is not None else ""
        reason = f": {self.reason}" if self.reason else ""
        return (
            f"group {self.group}, parameter {self.index}{name}, {self.dtype} {self.shape}, "
            f"{PATHS[self.path]}{reason}"
        )


class FusedReport(list[ParameterPath]):
    """One :class:`ParameterPath` for every parameter, in the order of the groups."""

    def __str__(self) -> str:
        counts = Counter(it.path for it in self)
        parts = [f"{counts[path]} {where}" for path, where in PATHS.items() if counts[path]]
        summary = f"{len(self)} parameters: " + ", ".join(parts)
        if self and all(it.path == "no gradient" for it in self):
            would = Counter(PATHS["torch" if it.reason else "fastopt"] for it in self)
            listed = ", ".join(f"{count} {where}" for where, count in would.items())
            summary += f"; between backward() and step() they would be {listed}"
        return "\n  ".join([summary, *(str(it) for it in self if it.reason)])


def torchs_class(kind: type[Optimizer]) -> type[Optimizer] | None:
    """The class of torch.optim that one of fastopt's derives from, if torch has it."""
    bases = (base for base in kind.__mro__ if base.__module__.startswith("torch.optim."))
    return next((base for base in bases if base is not Optimizer), None)


def fused_report(optimizer: Optimizer) -> FusedReport:
    """Tell of fastopt's optimizers and of torch's which parameters take fastopt's kernels.

    Args:
        optimizer: of :mod:`fastopt.optim`, where this is its method ``fused_report``, or of
            :mod:`torch.optim`, all of whose parameters are on torch's own step; or what a framework
            has wrapped around one of these.

    Raises:
        TypeError: for a class of neither.

    Example::

        print(fastopt.optim.fused_report(fastopt.optim.ASGD(model.parameters())))
        # 2 parameters: 2 on torch's own step
        #   group 0, parameter 0, torch.float32 (8, 4), on torch's own step: torch.optim.ASGD is torch's
    """
    while not hasattr(optimizer, "fused_report") and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    if hasattr(optimizer, "fused_report"):
        report: FusedReport = optimizer.fused_report()
        return report
    cls = type(optimizer)
    if not cls.__module__.startswith("torch.optim") or not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer: expected one of fastopt.optim or torch.optim, got a {cls.__module__}."
            f"{cls.__qualname__}"
        )
    return uniform_report(optimizer, f"torch.optim.{cls.__name__} is torch's")


def uniform_report(optimizer: Optimizer, reason: str) -> FusedReport:
    """Of an optimizer whose parameters all take one way: torch's if there is a reason."""
    return FusedReport(
        _path(where, index, group, param, reason)
        for where, group in enumerate(optimizer.param_groups)
        for index, param in enumerate(group["params"])
    )


class Reports(Optimizer):
    """Mixin: what an optimizer tells of the ways that its steps take."""

    _has_warned: bool = False

    def _left_over(self) -> list[Leftover]:
        """What a step would leave to torch."""
        raise NotImplementedError

    def fused_report(self) -> FusedReport:
        """Tell which parameters take fastopt's kernels, and why the others do not.

        The answer is for a step made now: it goes by the gradients, the state and the options as
        they are. Nothing is written, and no state is made.

        Returns:
            One :class:`~fastopt.optim.ParameterPath` for every parameter, in a list whose ``str``
            counts them and names those that the kernels do not take.

        Raises:
            Exception: whatever the step would raise while it reads groups and state.

        Example::

            loss.backward()
            print(optimizer.fused_report())
            # 2 parameters: 1 on fastopt's kernels, 1 on torch's own step
            #   group 0, parameter 1, torch.complex64 (8,), on torch's own step: dtype complex64
        """
        reasons = {(id(group), id(param)): reason for group, param, reason in self._left_over()}
        return FusedReport(
            _path(where, index, group, param, reasons.get((id(group), id(param)), ""))
            for where, group in enumerate(self.param_groups)
            for index, param in enumerate(group["params"])
        )

    def _warn_unfused(self, left_over: Iterable[Leftover]) -> None:
        """Say, once, that a step leaves everything to torch, unless the options ask for that."""
        reasons = Counter(
            reason
            for group, _, reason in left_over
            if not group.get("differentiable") and not group.get("capturable")
        )
        if self._has_warned or not reasons or torchs_class(type(self)) is None:
            return
        self._has_warned = True
        listed = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
        warnings.warn(
            f"fastopt.optim.{type(self).__name__}: no parameter takes fastopt's kernels, so this "
            f"step is torch's and no faster: {listed}. optimizer.fused_report() tells more",
            UserWarning,
            stacklevel=_levels_to_the_caller(),
        )


def _levels_to_the_caller() -> int:
    """How far up the first frame is that belongs neither to fastopt nor to torch's wrappers."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and str(frame.f_globals.get("__name__")).startswith(("fastopt.", "torch.")):
        frame, level = frame.f_back, level + 1
    return level


def _path(where: int, index: int, group: dict[str, Any], param: Tensor, reason: str) -> ParameterPath:
    names = group.get("param_names")
    path: Path = "no gradient" if param.grad is None else "torch" if reason else "fastopt"
    return ParameterPath(
        group=where,
        index=index,
        name=None if names is None else names[index],
        shape=tuple(param.shape),
        dtype=param.dtype,
        path=path,
        reason=reason,
    )
