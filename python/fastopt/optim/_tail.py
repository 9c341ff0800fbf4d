"""What a step can do besides its rule, in the same pass over memory: clip, unscale, average.

Every fastopt optimizer takes these keyword-only options:

max_grad_norm
    Scale the gradients down to this Euclidean norm over all groups, as
    ``torch.nn.utils.clip_grad_norm_`` before the step would; ``.grad`` stays as it is.
    ``optimizer.grad_norm`` tells the norm. The same in every group.
error_if_nonfinite
    Raise RuntimeError, before anything is written, if that norm is infinite or NaN.
ema_decay
    Keep a running average of each parameter, ``average = decay average + (1 - decay) param`` after
    each step, in ``optimizer.state[param]["ema"]``. It starts as the parameter before its first step.
ema_bias_correction
    Start the average at 0 and divide it, when it is read, by the sum of the weights in it, which
    ``ema_weight`` in the state holds: ``1 - decay**t`` where the decay is always the same.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch import distributed as dist
from torch.optim import Optimizer

from fastopt._threads import fit_for_forks
from fastopt.optim import _distributed, _engines
from fastopt.optim._distributed import local_part
from fastopt.optim._stepped import Part
from fastopt.reference import power


def tail_options(
    max_grad_norm: float | None,
    error_if_nonfinite: bool,
    ema_decay: float | None,
    ema_bias_correction: bool,
) -> dict[str, Any]:
    """The options as a group holds them, checked."""
    if max_grad_norm is not None and not max_grad_norm >= 0:
        raise ValueError(f"Invalid max_grad_norm value: {max_grad_norm}; expected >= 0 or None")
    if error_if_nonfinite and max_grad_norm is None:
        raise ValueError("error_if_nonfinite=True needs max_grad_norm")
    if ema_decay is not None and not 0 <= ema_decay < 1:
        raise ValueError(f"Invalid ema_decay value: {ema_decay}; expected 0 <= ema_decay < 1 or None")
    if ema_bias_correction and ema_decay is None:
        raise ValueError("ema_bias_correction=True needs ema_decay")
    return {
        "max_grad_norm": max_grad_norm,
        "error_if_nonfinite": error_if_nonfinite,
        "ema_decay": ema_decay,
        "ema_bias_correction": ema_bias_correction,
    }


def with_weight(group: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    """A parameter's state; an older one, which counted the steps of its average, with their weight."""
    if "ema_step" not in state:
        return state
    decay, steps = group.get("ema_decay"), state["ema_step"]
    state = {key: it for key, it in state.items() if key != "ema_step"}
    if decay is None:  # what the average lacks is not known
        return {key: it for key, it in state.items() if key != "ema"}
    dtype = torch.float64 if state["ema"].dtype == torch.float64 else torch.float32
    weight = torch.tensor(1 - power(decay, int(steps)), dtype=dtype, device=steps.device)
    return {**state, "ema_weight": weight}


@dataclass(eq=False)
class Norm:
    """What belongs to the gradients' norm: one object, so that it is the same in wrappers (Fabric's,
    for example) that copy an optimizer's attributes.
    """

    latest: float | Tensor | None = None
    group: dist.ProcessGroup | None = None


class Tail(Optimizer):
    """Mixin: what an optimizer that clips and averages in its step offers besides ``step``."""

    _tail: ClassVar[dict[str, Any]] = tail_options(None, False, None, False)
    """The options that ask for nothing."""

    _its_norm: Norm

    _has_exchanged: bool = False
    """Whether the other processes have this one's part of the norm of the step that is under way."""

    _zero: weakref.ref[Any] | None = None
    """The ZeroRedundancyOptimizer whose part this is."""

    @property
    def grad_norm(self) -> Tensor | None:
        """The norm of all gradients at the last step with ``max_grad_norm``, before clipping.

        A float64 tensor without dimensions; None before the first such step. Where one CUDA device
        holds all parameters and no other process a part of them, it lies on that device, and the
        step did not wait for it.
        """
        latest = self._norm.latest
        if latest is None or isinstance(latest, Tensor):
            return latest
        return torch.tensor(latest, dtype=torch.float64, device="cpu")

    @property
    def grad_norm_group(self) -> dist.ProcessGroup | None:
        """Processes that hold different parameters, over which ``max_grad_norm`` takes the norm.

        ``ZeroRedundancyOptimizer`` sets its own. Neither DTensors nor DistributedDataParallel need
        one. It can be set.
        """
        return self._norm.group

    @grad_norm_group.setter
    def grad_norm_group(self, group: dist.ProcessGroup | None) -> None:
        self._norm.group = group

    @property
    def _norm(self) -> Norm:
        try:  # not in the instance's own attributes alone: a wrapper may ask what it wraps
            return self._its_norm
        except AttributeError:
            self._its_norm = Norm()
            return self._its_norm

    @fit_for_forks()
    def ema_parameters(self) -> list[Tensor]:
        """The average of every parameter, in the order of the groups.

        A parameter that has not been averaged stands for itself. With ``ema_bias_correction`` the
        corrected values, which are copies; else the averages themselves. Under
        ``ZeroRedundancyOptimizer`` of the parameters that this process steps.
        """
        return [
            self._average(group, param) if "ema" in self.state.get(param, {}) else param.detach()
            for group in self.param_groups
            for param in group["params"]
        ]

    @contextmanager
    def swap_ema(self) -> Iterator[None]:
        """``with optimizer.swap_ema(): evaluate(model)``: the averages in the parameters' place.

        Under ``ZeroRedundancyOptimizer`` (``zero.optim.swap_ema()``) all parameters are swapped on
        every process, from the averages of that which keeps them, so every process must call this.
        """
        averages = self._averages()
        with fit_for_forks():
            trained = {param: param.detach().clone() for param in averages}
        try:
            _write(averages)
            yield
        finally:
            _write(trained)

    def _averages(self) -> dict[Tensor, Tensor]:
        """The average of every parameter that the model's processes train, in all of them."""
        params = [param for group in self.param_groups for param in group["params"]]
        own = dict(zip(params, self.ema_parameters(), strict=True))
        owner = None if self._zero is None else self._zero()
        return own if owner is None else _engines.averages_of_all(owner, own)

    # What C++ asks for (_stepped.py), and what that needs.

    def _set_grad_norm(self, norm: float | Tensor) -> None:
        self._norm.latest = norm

    def _total_squares(self, parts: list[Part]) -> float:
        """The sum of squares over all processes, of those in this one."""
        if not self._is_spread() and len(parts) == 1:
            return parts[0][2]
        self._has_exchanged = True
        return _distributed.total_squares(parts, self.grad_norm_group)

    def _norm_is_local(self) -> bool:
        """Whether this process's gradients are all that the norm is of."""
        return not self._is_spread() or self.grad_norm_group is None

    def _is_spread(self) -> bool:
        """Whether other processes may hold gradients; ValueError if nothing says what they hold."""
        for package in _engines.PACKAGES:
            if package in sys.modules:  # without a call, which every step would pay for
                _engines.refuse_clipping(self, self.grad_norm_group is not None)
                break  # which has asked for all of them
        if not _distributed.is_distributed():
            return False
        params = (param for group in self.param_groups for param in group["params"])
        self._find_grad_norm_group()
        _distributed.refuse_hidden_shards(params, self.grad_norm_group)
        return True

    def _find_grad_norm_group(self) -> None:
        """Take over the group of the ZeroRedundancyOptimizer that builds or steps this one."""
        norm = self._norm  # which is there from the first, for wrappers to share
        owner = _engines.zero_around() if self._zero is None else None
        if owner is None:
            return
        self._zero = weakref.ref(owner)
        if norm.group is None:
            norm.group = owner.process_group

    def _announce_failure(self) -> None:
        """Let processes that wait for this one's part of the norm know that none will come."""
        groups = [it for it in self.param_groups if isinstance(it, Mapping)]  # what is none is refused
        clips = any(group.get("max_grad_norm") is not None for group in groups)
        if self._has_exchanged or not clips or not _distributed.is_distributed():
            return
        self._find_grad_norm_group()
        params = [param for group in groups for param in group["params"]]
        _distributed.announce_refusal(params, self.grad_norm_group)

    def _average(self, group: dict[str, Any], param: Tensor) -> Tensor:
        state = self.state[param]
        average: Tensor = state["ema"]
        if (weight := state.get("ema_weight")) is None:
            return average
        weight = weight.to(local_part(average).device)
        # The sum of weights is rounded as the average is, so that that of a constant 1 is 1.
        if weight == 0:  # nothing has been averaged yet
            return param.detach()
        divided: Tensor = average / (weight.item() if _distributed.is_dtensor(average) else weight)
        return divided


@fit_for_forks()
@torch.no_grad()
def _write(values: dict[Tensor, Tensor]) -> None:
    """Into parameters, what each is to be."""
    for param, value in values.items():
        param.copy_(value)
