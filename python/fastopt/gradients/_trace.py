"""Which module has the wrong backward: each is checked by itself, on the inputs that it really gets.

A wrong gradient spoils all that comes before it, so the parameters alone leave it open whether the
last of the wrong ones or what follows it is to blame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastopt.gradients._differences import Loss, Settings, compare

ELEMENTS = 16  # of each input and parameter of a module


class Call(NamedTuple):
    """One module's first call in a forward pass."""

    name: str
    module: nn.Module
    args: Any
    kwargs: Any


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """``value`` with the function's results in the place of the tensors in tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: map_tensors(function, it) for key, it in value.items()}
    if isinstance(value, (tuple, list)):
        mapped = [map_tensors(function, it) for it in value]
        return type(value)(*mapped) if hasattr(value, "_fields") else type(value)(mapped)
    return value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in tuples, lists and dicts."""
    found: list[Tensor] = []
    map_tensors(found.append, value)
    return iter(found)


def weighted_sum(output: Any) -> Tensor:
    """Σ w y over all floating-point outputs, w drawn from a standard normal distribution.

    Not the plain sum: that of a softmax or a normalisation is constant.
    """
    generator = torch.Generator().manual_seed(0)
    parts = [it for it in tensors_in(output) if it.is_floating_point()]
    if not parts:
        raise TypeError(f"output: expected floating-point tensors, got {type(output).__name__}")
    weights = [torch.randn(it.shape, generator=generator, dtype=torch.float64) for it in parts]
    return torch.stack([(w.to(y) * y).sum() for w, y in zip(weights, parts, strict=True)]).sum()


def calls_of(model: nn.Module, run: Callable[[], object]) -> list[Call]:
    """The first call of every module while ``run`` calls the model, in the order of their ends.

    Modules without floating-point output have no derivative, and are left out.
    """
    begun: dict[nn.Module, tuple[Any, Any]] = {}
    ended: list[Call] = []

    def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
        # A copy, since the module may write to its input.
        begun.setdefault(module, map_tensors(lambda it: it.detach().clone(), (args, kwargs)))

    def end(name: str, module: nn.Module, args: Any, output: Any) -> None:
        differentiable = any(it.is_floating_point() for it in tensors_in(output))
        if differentiable and all(call.module is not module for call in ended):
            ended.append(Call(name, module, *begun[module]))

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(begin, with_kwargs=True))
        handles.append(module.register_forward_hook(partial(end, name)))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return ended


def wrong_modules(calls: list[Call], settle: Callable[[], None], settings: Settings) -> list[str]:
    """The modules whose own backward is wrong: of modules within modules the innermost.

    ``settle`` puts random numbers back to their start.
    """
    found: list[str] = []
    settings = settings._replace(elements=ELEMENTS)
    for call in calls:
        inner = [it for it in calls if it.name != call.name and it.name.startswith(_prefix(call.name))]
        if found and inner:  # it holds the culprit, or its parts are checked by themselves
            continue
        loss, tensors = _alone(call, settle)
        compared = compare(loss, tensors, settings).values() if tensors else ()
        if any(it.is_wrong(settings.tolerance) for it in compared):
            found.append(f"{call.name or 'the model'} ({type(call.module).__name__})")
    return found


def _prefix(name: str) -> str:
    return f"{name}." if name else ""


def _alone(call: Call, settle: Callable[[], None]) -> tuple[Loss, dict[str, Tensor]]:
    """A loss of this module's output, and the tensors that it depends on."""

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.requires_grad_() if tensor.is_floating_point() else tensor

    args, kwargs = map_tensors(leaf, (call.args, call.kwargs))
    inputs = [it for it in tensors_in((args, kwargs)) if it.requires_grad]
    tensors = {f"input {index}": it for index, it in enumerate(inputs)}
    tensors |= {name: it for name, it in call.module.named_parameters() if it.requires_grad}

    def loss() -> Tensor:
        settle()
        own_args, own_kwargs = map_tensors(Tensor.clone, (args, kwargs))
        return weighted_sum(call.module(*own_args, **own_kwargs))

    return loss, tensors
