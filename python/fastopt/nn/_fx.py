"""What torch.fx records of dropout: the call, whose training flag remains the module's to change.

fx keeps calls of modules that live in torch.nn, "leaves", and follows all others, which would bake
in the flag as it is. Ours ask to be kept by the same call that a tracer makes of a leaf.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from torch import nn
from torch.fx import Proxy, Tracer, _symbolic_trace

P = ParamSpec("P")
R = TypeVar("R")


def _flag() -> bool:
    return bool(_symbolic_trace._is_fx_tracing_flag)


# Whether fx is at work, as torch asks itself: from 2.14 on of each thread.
is_tracing: Callable[[], bool] = getattr(_symbolic_trace, "_get_is_fx_tracing", _flag)


def symbolic_tracer() -> Tracer | None:
    """The tracer that follows modules by a function of its own in the place of their ``__call__``.

    None where it is make_fx's, which records operations of torch instead.
    """
    if not is_tracing():
        return None
    make_fx = sys.modules.get("torch.fx.experimental.proxy_tensor")
    of_operations = () if make_fx is None else make_fx.PythonKeyTracer
    for cell in getattr(nn.Module.__call__, "__closure__", None) or ():
        found = cell.cell_contents
        if isinstance(found, Tracer) and not isinstance(found, of_operations):
            return found
    return None


def call_of_module(tracer: Tracer, module: nn.Module, args: Any, kwargs: Any) -> Any:
    """Have a call of the module recorded."""

    def record(*args: Any, **kwargs: Any) -> Any:
        return tracer.create_proxy("call_module", tracer.path_of_module(module), args, kwargs)

    return tracer.call_module(module, record, args, kwargs)


def kept_by_fx(function: Callable[P, R]) -> Callable[P, R]:
    """A function that fx records as a call of it, seed and all, not as torch's dropout."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if is_tracing():
            for it in (*args, *kwargs.values()):
                if isinstance(it, Proxy):
                    return cast(R, it.tracer.create_proxy("call_function", wrapper, args, kwargs))
        return function(*args, **kwargs)

    return wrapper
