"""Step each parameter inside ``backward()``, as soon as its gradient is complete, and free that.

    handle = fastopt.optim.step_in_backward(model, fastopt.optim.AdamW, lr=1e-3)
    loss.backward()  # which also trains

No two gradients live at once, so their memory is the largest parameter's instead of the model's.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from fastopt.optim._fused import Fused
from fastopt.optim._parts import part_of, place_of, some_of


class StepInBackward:
    """What :func:`step_in_backward` returns: the optimizer, and the hooks that drive it.

    Args:
        optimizer: one whose parameters are to be stepped in backward from now on.

    Raises:
        ValueError: if it clips by the global norm.
    """

    optimizer: Fused
    """The optimizer, for schedulers, checkpoints and reports. Its own ``step()`` finds no gradients,
    so that a loop which still calls it trains the same."""

    def __init__(self, optimizer: Fused) -> None:
        _refuse_clipping(optimizer.param_groups)
        self.optimizer = optimizer
        vars(optimizer)["_in_backward"] = self  # alive as long as either of them
        left_over = optimizer._left_over()
        if len(left_over) == sum(len(group["params"]) for group in optimizer.param_groups):
            optimizer._warn_unfused(left_over)
        self._hooks = [
            _when_complete(param, functools.partial(_step_one, weakref.ref(self), place))
            for place, group in enumerate(optimizer.param_groups)
            for param in group["params"]
        ]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups; what is set there holds from the next gradient on."""
        return self.optimizer.param_groups

    def state_dict(self) -> dict[str, Any]:
        """The state as one plain optimizer over the same parameters would have it."""
        packed = self.optimizer.state_dict()
        packed["state"] = dict(sorted(packed["state"].items()))  # not in the order of backward
        return packed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` gave, here or of a plain optimizer.

        Raises:
            ValueError: if it clips by the global norm, or does not fit the parameters.
        """
        _refuse_clipping(state_dict["param_groups"])
        self.optimizer.load_state_dict(state_dict)

    def remove(self) -> None:
        """Leave the gradients to whoever comes next: ``self.optimizer`` is a plain one again."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        vars(self.optimizer).pop("_in_backward", None)


def step_in_backward(model: Module, optimizer_class: type[Fused], **options: Any) -> StepInBackward:
    """Train inside ``backward()``: step each parameter when its gradient is complete, and free that.

    The results are the plain loop's, bit for bit. Every ``backward()`` is a step, so gradients
    cannot be accumulated over several, nor looked at as a whole: not clipped by their norm, nor
    unscaled by a GradScaler, nor reduced by DistributedDataParallel. Hooks of the optimizer's step
    run when ``handle.optimizer.step()`` is called.

    Args:
        model: the parameters to train are ``model.parameters()``, frozen ones too if they are
            unfrozen later.
        optimizer_class: :class:`fastopt.optim.AdamW`, for example.
        options: the optimizer's, as its constructor takes them.

    Returns:
        A handle that owns the optimizer; ``handle.optimizer`` is what a scheduler takes. Keep one
        of the two, as one keeps an optimizer.

    Raises:
        TypeError: if ``optimizer_class`` is not one of fastopt's, or has a ``step`` of its own.
        ValueError: for ``max_grad_norm``, or a model that averages its gradients over processes.

    Example::

        handle = fastopt.optim.step_in_backward(model, fastopt.optim.AdamW, lr=1e-3)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(handle.optimizer, T_max=100)
        for data, target in batches:
            loss_of(model(data), target).backward()
            scheduler.step()
        torch.save(handle.state_dict(), "optimizer.pt")  # loads into a plain AdamW, too
    """
    if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, Fused)):
        raise TypeError(
            f"optimizer_class: expected an optimizer of fastopt's own, got {optimizer_class!r}"
        )
    if inspect.unwrap(optimizer_class.step) is not inspect.unwrap(Fused.step):
        raise TypeError(
            f"optimizer_class: {optimizer_class.__name__} has a step of its own, which a step in "
            "backward would pass over; expected one of fastopt.optim's classes"
        )
    if isinstance(model, DistributedDataParallel):
        raise ValueError(
            "model: DistributedDataParallel averages the gradients after they are complete on each "
            "process, too late for a step in backward; expected a model of one process"
        )
    create: Callable[..., Fused] = optimizer_class
    return StepInBackward(create(model.parameters(), **options))


def _refuse_clipping(groups: Iterable[dict[str, Any]]) -> None:
    for group in groups:
        if group.get("max_grad_norm") is not None:
            raise ValueError(
                f"max_grad_norm={group['max_grad_norm']!r}: the norm of all gradients is not known "
                "while they are being computed, so a step in backward cannot clip by it; expected None"
            )


def _step_one(owner: weakref.ref[StepInBackward], place: int, param: Tensor) -> None:
    """Step one parameter of the group in this place.

    The owner is known weakly: what a tensor's hook holds is never collected while the tensor lives,
    and an optimizer holds its parameters.
    """
    handle = owner()
    if handle is None:
        raise RuntimeError(
            "the optimizer that steps this parameter in backward is gone: keep what "
            "step_in_backward returned, or call its remove() before letting go of it"
        )
    whole = handle.optimizer
    group = whole.param_groups[place]
    _refuse_clipping([group])
    if group.get("copy_to") is None:
        alone = {**group, "params": [param]}
    else:
        alone = some_of(group, [place_of(whole, param)[1]])
    inspect.unwrap(Fused.step)(part_of(whole, [alone]))  # without hooks, which are for a whole step
    param.grad = None
    vars(whole)["_opt_called"] = True  # what a scheduler looks for


def _when_complete(param: Tensor, call: Callable[[Tensor], None]) -> RemovableHandle:
    """A hook for when backward has added the last part to ``param.grad``."""
    frozen = not param.requires_grad
    param.requires_grad_()  # or torch takes no hook; the hook stays when it is frozen again
    register: Callable[..., RemovableHandle] = param.register_post_accumulate_grad_hook
    hook = register(call)
    param.requires_grad_(not frozen)
    return hook
