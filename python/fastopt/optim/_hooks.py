"""Hooks and the profiler's label around a step, at the price of what is there to see them.

torch.optim wraps every ``step`` in a label for the profiler and the loops over its hooks, which takes
about 10 us, as much as stepping a few dozen small tensors. Where no hook is registered and no profiler
runs, a label that costs a tenth of a microsecond serves the remaining observers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks


def hooked(step: Callable[..., Any]) -> Callable[..., Any]:
    """``step`` wrapped as torch.optim would wrap it, and marked so that it does not."""
    as_torch_does = Optimizer.profile_hook_step(step)
    profiler_enabled = torch._C._autograd._profiler_enabled
    label = torch._C._profiler._RecordFunctionFast

    @functools.wraps(step)
    def wrapper(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if type(self).step is not wrapper:  # a subclass has its own, whose hooks have run
            return step(self, *args, **kwargs)
        if (
            torch.compiler.is_dynamo_compiling()
            or self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
            or profiler_enabled()
        ):
            return as_torch_does(self, *args, **kwargs)
        with label(f"Optimizer.step#{type(self).__name__}.step"):
            return step(self, *args, **kwargs)

    cast(Any, wrapper).hooked = True
    return wrapper
