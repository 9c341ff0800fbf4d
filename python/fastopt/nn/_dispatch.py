"""The way from a function to its kernel, or to torch for what the kernels do not take."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._compile import _disable_dynamo

from fastopt import _C
from fastopt._threads import fit_for_forks
from fastopt.nn import _autograd
from fastopt.nn._kernels import Diagonal, copy_

# seed to generator; a seed or an offset may be a tensor of one int64, too, on CUDA the kernel's to read
Draws: TypeAlias = tuple[int | Tensor | None, int | Tensor, int, torch.Generator | None]
Form: TypeAlias = Callable[[Tensor, Diagonal, bool], Tensor]  # of _autograd
TorchDropout: TypeAlias = Callable[[Tensor, float, bool, bool], Tensor]  # of torch.nn.functional

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})
TYPES = frozenset({Tensor, torch.nn.Parameter})


def check_probability(p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")


def identity(input: Tensor, torchs: TorchDropout, p: float, inplace: bool) -> Tensor:
    """The input itself. torch tells what is no tensor, and lets subclasses have their say.

    What is exported keeps an idle dropout, for those who put the program back to training.
    """
    plain = type(input) is Tensor and not torch.compiler.is_exporting()
    return input if plain else torchs(input, p, False, inplace)


# ---- the way --------------------------------------------------------------------------------------


def drop(
    form: Form,
    torchs: TorchDropout,
    input: Tensor,
    p: float,
    inplace: bool,
    draws: Draws,
    inner: int = 0,
) -> Tensor:
    """One of the forms where the kernels take the input; else torch's."""
    if torch.compiler.is_dynamo_compiling():
        if torch.compiler.is_exporting():
            return torchs(input, p, True, inplace)
        return drop_outside_graphs(form, torchs, input, p, inplace, draws, inner)
    return drop_here(form, torchs, input, p, inplace, draws, inner)


def drop_here(
    form: Form,
    torchs: TorchDropout,
    input: Tensor,
    p: float,
    inplace: bool,
    draws: Draws,
    inner: int = 0,
) -> Tensor:
    seed, offset, index, generator = draws
    if seed is not None and generator is not None:
        raise ValueError(f"seed={seed!r} and a generator: expected at most one of them")
    if not takes(input):
        return fall_back(torchs, input, p, inplace, seed, generator)
    drawn = draw_seed(generator, input) if seed is None else kept(seed)
    diagonal = Diagonal(p, drawn, kept(offset), index, inner)
    if inplace and _autograd.is_view_in_a_graph(input):
        return copy_(input, form(input, diagonal, False))  # torch refuses before it writes
    return form(input, diagonal, inplace)


# torch.compile breaks its graph here: a kernel is not for it to trace. Not torch.compiler.disable,
# which would import torch._dynamo with fastopt, for seconds.
drop_outside_graphs = _disable_dynamo(drop_here)


def drop_channels(
    spatial: int,
    torchs: TorchDropout,
    input: Tensor,
    p: float,
    training: bool,
    inplace: bool,
    draws: Draws,
) -> Tensor:
    """Dropout of channels with so many spatial dimensions."""
    check_probability(p)
    if not training or p == 0 or not isinstance(input, Tensor):
        return torchs(input, p, training, inplace)
    dimensions = input.dim()
    if dimensions not in (spatial + 2, 4 if spatial == 2 else spatial + 1):
        torchs(input, p, False, False)  # for its warning or error
    leading = 2 if spatial == 2 or dimensions == spatial + 2 else 1
    if dimensions < leading:
        return torchs(input, p, training, inplace)  # for its error
    inner = math.prod(input.shape[leading:])
    return drop(_autograd.dropout, torchs, input, p, inplace, draws, inner)


def bias_drop_add(
    x: Tensor, bias: Tensor | None, residual: Tensor | None, p: float, draws: Draws
) -> Tensor:
    if torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting():
        return bias_drop_add_outside_graphs(x, bias, residual, p, draws)
    return bias_drop_add_here(x, bias, residual, p, draws)


def bias_drop_add_here(
    x: Tensor, bias: Tensor | None, residual: Tensor | None, p: float, draws: Draws
) -> Tensor:
    def joins(it: Tensor | None, shape: torch.Size) -> bool:
        return it is None or (takes(it) and it.dtype == x.dtype and it.shape == shape)

    def in_one_pass(x: Tensor, d: Diagonal, inplace: bool) -> Tensor:
        return _autograd.bias_dropout_add(x, bias, residual, d)

    columns = x.shape[-1:] or torch.Size([1])
    apart = torch.compiler.is_exporting() or _autograd.is_composed()
    if not apart and takes(x) and joins(bias, columns) and joins(residual, x.shape):
        return drop_here(in_one_pass, F.dropout, x, p, False, draws)
    with fit_for_forks():
        y = x if bias is None else x + bias
        y = drop(_autograd.dropout, F.dropout, y, p, False, draws)
        return y if residual is None else residual + y


bias_drop_add_outside_graphs = _disable_dynamo(bias_drop_add_here)


# ---- who takes it ---------------------------------------------------------------------------------


def takes(x: Any) -> bool:
    """Whether it is for the kernels."""
    return (
        type(x) in TYPES
        and x.dtype in DTYPES
        and (x.is_cpu or (x.is_cuda and _C.cuda_trouble(x.device.index) is None))
        and x.layout is torch.strided
        and not x.is_nested
        and not is_without_memory(x)
        and not is_traced()
        and not is_misaligned(x)
    )


def is_misaligned(x: Tensor) -> bool:
    """Whether its elements lie between the multiples of their size."""
    return not _autograd.is_composed() and x.data_ptr() % x.element_size() != 0


def is_without_memory(x: Tensor) -> bool:
    """Whether it is a plain tensor by its looks only: zeros that are none, or functionalize's cover."""
    return x._is_zerotensor() or torch._is_functional_tensor(x)


def is_traced() -> bool:
    """Whether somebody records operations of torch, among which a kernel's would be missing."""
    if torch._C._get_tracing_state() is not None or _autograd.is_functionalized():
        return True
    if torch._C._dispatch_tls_is_dispatch_key_included(torch._C.DispatchKey.PreDispatch):
        return True  # make_fx(pre_dispatch=True) and torch.export's
    if not torch._C._len_torch_dispatch_stack():
        return False
    keys = torch._C._TorchDispatchModeKey
    return any(torch._C._get_dispatch_mode(key) is not None for key in (keys.FAKE, keys.PROXY))


def why_not(x: Any) -> str | None:
    """The reason; None if it has no numbers yet, so that no mask is at stake."""
    fake = x.is_meta or hasattr(x, "fake_mode") if isinstance(x, Tensor) else True
    if fake or is_traced():
        return None
    if is_without_memory(x):
        return "without memory"
    if type(x) not in TYPES:
        return f"of type {type(x).__name__}"
    if not x.is_cpu:
        trouble = _C.cuda_trouble(x.device.index) if x.is_cuda else None
        if trouble or not x.is_cuda:
            return f"on {x.device.type}" + (f" ({trouble})" if trouble else "")
    if x.dtype not in DTYPES:
        return f"of {x.dtype}"
    if x.is_nested or x.layout is not torch.strided:
        return "that is nested" if x.is_nested else f"of layout {x.layout}"
    return "at an address between elements"


told: set[str] = set()


def fall_back(
    torchs: TorchDropout,
    x: Any,
    p: float,
    inplace: bool,
    seed: int | Tensor | None,
    generator: torch.Generator | None,
) -> Tensor:
    """torch's dropout, for what the kernels do not take."""
    reason = why_not(x)
    if reason is not None:
        for name, given in (("seed", seed), ("generator", generator)):
            if given is not None:
                raise ValueError(
                    f"{name}={given!r}: expected None, since a tensor {reason} goes to torch's "
                    f"dropout, which has no such argument"
                )
    with fit_for_forks():
        out = torchs(x, p, True, inplace)
    if reason is not None and reason not in told:
        told.add(reason)
        warnings.warn(
            f"fastopt.nn: a tensor {reason} goes to torch's dropout, whose mask is another (said "
            f"once); fastopt's takes dense CPU and CUDA tensors of float32, float64, bfloat16 and "
            f"float16",
            stacklevel=6,
        )
    return out


# ---- where a seed comes from ----------------------------------------------------------------------


class Room(threading.local):
    """Where seeds are drawn; a new tensor each time would double the cost."""

    def __init__(self) -> None:
        with torch.inference_mode(False):
            self.seed = torch.empty((), dtype=torch.int64, device="cpu")


room = Room()


def kept(number: int | Tensor | None) -> Any:
    """A seed or an offset as it is now: a tensor may be another before the backward pass."""
    return number.clone() if isinstance(number, Tensor) else number


def draw_seed(generator: torch.Generator | None, x: Tensor) -> Any:
    """A seed from 0 to 2⁶³ − 1.

    On the CPU, so that masks are the same on every device; but on the GPU, in a tensor, for a
    generator there and while a CUDA graph is captured, since each replay is to draw another.
    """
    if x.is_cuda and is_drawn_there(generator):
        return torch.empty((), dtype=torch.int64, device=x.device).random_(generator=generator)
    if _autograd.is_transformed():  # vmap is to say whether the samples share it
        return torch.randint(2**63 - 1, (), generator=generator, device="cpu")
    return room.seed.random_(generator=generator).item()


def is_drawn_there(generator: torch.Generator | None) -> bool:
    if generator is None:
        return torch.cuda.is_current_stream_capturing()
    return generator.device.type == "cuda"
