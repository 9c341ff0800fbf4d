"""A step that somebody follows: make_fx, functionalize, a mode of torch's dispatcher, torch.jit.trace.

They see operations of torch and no kernel, so the step is torch's.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

import fastopt
from _optim_cases import EVERY, FULL, WITH_TORCH, Options


def step_as_function(
    cls: Any, options: Options
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A first step, from tensors to a tensor."""

    def step(weight: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        optimizer = cls([torch.nn.Parameter(torch.zeros(3))], **options)
        if (
            cls is fastopt.optim.Adagrad or cls is torch.optim.Adagrad
        ):  # has state before its first step
            optimizer.state[weight] = {"step": torch.tensor(0.0), "sum": torch.full((3,), 0.1)}
        optimizer.param_groups[0]["params"] = [weight]
        weight.grad = grad
        optimizer.step()
        return weight * 1

    return step


MODES = list(itertools.product(("real", "fake", "symbolic"), (False, True)))


@pytest.mark.parametrize(("mode", "pre_dispatch"), MODES)
@pytest.mark.parametrize("name", WITH_TORCH)
def test_make_fx_records_a_step_as_torchs(name: str, mode: str, pre_dispatch: bool) -> None:
    weight, grad = torch.ones(3), torch.tensor([1.0, -2.0, 3.0])

    def recorded(cls: Any) -> torch.Tensor:
        function = step_as_function(cls, FULL[name])
        with torch.no_grad():
            graph = make_fx(function, tracing_mode=mode, pre_dispatch=pre_dispatch)(
                weight.clone(), grad
            )
            result: torch.Tensor = graph(weight.clone(), grad)
        return result

    ours, theirs = map(recorded, EVERY[name].classes)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, weight)


@pytest.mark.parametrize("name", WITH_TORCH)
def test_functionalize_takes_a_step(name: str) -> None:
    weight, grad = torch.ones(3), torch.tensor([1.0, -2.0, 3.0])
    results = []
    for cls in EVERY[name].classes:
        step = step_as_function(cls, FULL[name])
        with torch.no_grad():
            results.append(torch.func.functionalize(step)(weight.clone(), grad))
    assert torch.equal(*results)
    assert not torch.equal(results[0], weight)


class Counting(TorchDispatchMode):
    """Any mode of a program's own."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func.namespace == "aten"  # and no label for the profiler
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", WITH_TORCH)
def test_a_dispatch_mode_sees_torchs_step(name: str) -> None:
    ours, theirs = (copy_of_step(cls, FULL[name]) for cls in EVERY[name].classes)
    assert ours[1] == theirs[1] > 0
    assert torch.equal(ours[0], theirs[0])


def copy_of_step(cls: Any, options: Options) -> tuple[torch.Tensor, int]:
    param = torch.nn.Parameter(torch.linspace(-1, 1, 5))
    param.grad = torch.ones(5)
    optimizer = cls([param], **options)
    with Counting() as mode:
        optimizer.step()
    return param.detach(), mode.calls


def test_a_trace_sees_torchs_step() -> None:
    weight, grad = torch.ones(3), torch.tensor([1.0, -2.0, 3.0])
    step = step_as_function(fastopt.optim.SGD, {"lr": 0.1})
    with torch.no_grad():
        traced = torch.jit.trace(step, (weight.clone(), grad), check_trace=False)
        assert torch.equal(traced(weight.clone(), grad), weight - 0.1 * grad)


@pytest.mark.parametrize(
    ("name", "options"),
    [("Lion", {}), ("LAMB", {}), ("AdamW", {"ema_decay": 0.9}), ("SGD", {"max_grad_norm": 1.0})],
)
def test_what_torch_cannot_do_is_refused_under_a_mode(name: str, options: Options) -> None:
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    optimizer = getattr(fastopt.optim, name)([param], **options)
    with Counting() as mode, pytest.raises(ValueError, match="a mode or a trace of torch is to see"):
        optimizer.step()
    assert param.tolist() == [1.0, 1.0, 1.0]
    assert not optimizer.state
    report = optimizer.fused_report()
    with mode:
        assert optimizer.fused_report()[0].path == "torch"
    assert report[0].path == "fastopt"


@pytest.mark.parametrize("name", WITH_TORCH)
@pytest.mark.parametrize("which", ["gradient", "state"])
def test_zeros_without_memory_take_torchs_path(name: str, which: str) -> None:
    results = []
    for cls in EVERY[name].classes:
        param = torch.nn.Parameter(torch.linspace(-1, 1, 5))
        zeros = torch._efficientzerotensor(5)
        param.grad = zeros if which == "gradient" else torch.ones(5)
        optimizer = cls([param], **FULL[name])
        if which == "state":
            optimizer.step()
            for key, value in optimizer.state[param].items():
                if isinstance(value, torch.Tensor) and value.dim():
                    optimizer.state[param][key] = zeros
        try:
            optimizer.step()
            results.append((param.tolist(), ""))
        except RuntimeError as error:  # torch cannot write to them either
            results.append(([], str(error)[:60]))
    assert results[0][1] == results[1][1]
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-6)
