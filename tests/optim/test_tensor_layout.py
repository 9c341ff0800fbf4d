"""Tensors and gradients read where torch keeps them, and by its calls: one answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import fastopt
from _optim_cases import CASES, FULL, assert_same_bits
from fastopt import _C


def inference(make: Callable[[], Tensor]) -> Tensor:
    with torch.inference_mode():
        return make()


def negated() -> Tensor:
    return torch.randn(6, dtype=torch.complex64).conj().imag


def freed() -> Tensor:
    tensor = torch.zeros(5)
    tensor.untyped_storage().resize_(0)
    return tensor


DATA: dict[str, Callable[[], Tensor]] = {
    "plain": lambda: torch.randn(5),
    "0-dim": lambda: torch.randn(()),
    "no element": lambda: torch.randn(0, 3),
    "float64": lambda: torch.randn(3, 4, dtype=torch.float64),
    "channels_last": lambda: torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(4, 3).t(),
    "part of a larger one": lambda: torch.randn(9, 4)[2:7],
    "five dimensions": lambda: torch.randn(1, 2, 3, 1, 2),
    "six dimensions": lambda: torch.randn(1, 2, 3, 1, 2, 2),
    "NumPy's memory": lambda: torch.from_numpy(np.ones(7, np.float32)),
    "copied when written": lambda: torch._lazy_clone(torch.randn(4)),
    "lazily negated": negated,
    "made in inference mode": lambda: inference(lambda: torch.randn(3)).clone(),
    "shared between processes": lambda: torch.randn(8).share_memory_(),
    "bfloat16": lambda: torch.randn(4).bfloat16(),
    "float16": lambda: torch.randn(4, 3).half().t(),
    "complex64": lambda: torch.randn(4, dtype=torch.complex64),
    "without memory": freed,
}


OTHERS = {
    *("six dimensions", "NumPy's memory", "lazily negated", "complex64"),
    *("without memory", "no element", "shared between processes"),
}


@pytest.mark.parametrize("kind", DATA)
def test_what_is_read_where_torch_keeps_it(kind: str) -> None:
    assert _C.reads_in_place(DATA[kind]()) == (kind not in OTHERS)


def stepped(name: str, data: Tensor, with_layout: bool) -> tuple[Tensor, list[str]]:
    """The parameter after three steps, and why the kernels did not take it."""
    assert _C.use_tensor_layout(with_layout) == with_layout
    param = torch.nn.Parameter(data)
    optimizer = CASES[name].ours([param], **FULL[name])
    reasons = [it.reason for it in optimizer.fused_report()]
    for step in range(0 if any(reasons) else 3):
        torch.manual_seed(step)
        param.grad = torch.randn(param.shape, dtype=param.dtype)
        optimizer.step()
    return param.detach(), reasons


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("name", CASES)
def test_both_ways_of_reading_agree(name: str, kind: str, restored_layout: None) -> None:
    results = []
    for with_layout in (True, False):
        torch.manual_seed(0)
        results.append(stepped(name, DATA[kind](), with_layout))
    (ours, reasons), (theirs, other_reasons) = results
    assert reasons == other_reasons
    assert [bool(reason) for reason in reasons] == [kind in ("complex64", "without memory")]
    if not any(reasons):
        assert_same_bits(ours.clone(), theirs.clone())


def test_memory_that_is_copied_when_written_is_copied() -> None:
    source = torch.ones(4)
    param = torch.nn.Parameter(torch._lazy_clone(source))
    param.grad = torch.ones(4)
    fastopt.optim.SGD([param], lr=0.5).step()
    assert source.tolist() == [1] * 4
    assert param.tolist() == [0.5] * 4


def test_replaced_data_is_seen() -> None:
    param = torch.nn.Parameter(torch.ones(4))
    optimizer = fastopt.optim.SGD([param], lr=0.5, momentum=0.9)
    first = param.data
    for data in (first, torch.full((4,), 3.0), torch.full((4,), 5.0)):
        param.data = data
        param.grad = torch.zeros(4)
        optimizer.state[param].pop("momentum_buffer", None)
        param.grad = torch.ones(4)
        before = data.clone()
        optimizer.step()
        assert torch.equal(data, before - 0.5)


class Marked(Tensor):
    """A class that only Python knows of."""


def unseen(param: Tensor) -> None:
    """A gradient that has no Python object yet."""
    (param * torch.arange(12.0).reshape(3, 4)).sum().backward()


def given(make: Callable[[], Tensor]) -> Callable[[Tensor], None]:
    def give(param: Tensor) -> None:
        param.grad = make()

    return give


GRADS: dict[str, Callable[[Tensor], None]] = {
    "made by backward": unseen,
    "plain": given(lambda: torch.arange(12.0).reshape(3, 4)),
    "a parameter": given(lambda: torch.nn.Parameter(torch.ones(3, 4))),
    "transposed": given(lambda: torch.arange(12.0).reshape(4, 3).t()),
    "one place for all": given(lambda: torch.ones(()).expand(3, 4)),
    "NumPy's memory": given(lambda: torch.from_numpy(np.ones((3, 4), np.float32))),
    "made in inference mode": given(lambda: inference(lambda: torch.ones(3, 4))),
    "sparse": given(lambda: torch.eye(3, 4).to_sparse()),
    "of another class": given(lambda: torch.ones(3, 4).as_subclass(Marked)),
}


@pytest.mark.parametrize("kind", GRADS)
@pytest.mark.parametrize("beside", [False, True], ids=("alone", "beside others"))
def test_both_ways_of_finding_gradients_agree(kind: str, beside: bool, restored_layout: None) -> None:
    results = []
    for with_layout in (True, False):
        assert _C.use_tensor_layout(with_layout) == with_layout
        params = [torch.nn.Parameter(torch.ones(3, 4)) for _ in range(4 if beside else 1)]
        optimizer = fastopt.optim.Adagrad(params, lr=0.5)  # takes sparse gradients, as torch's does
        for _ in range(2):
            GRADS[kind](params[-1])
            for other in params[1:-1]:  # the first never has one
                unseen(other)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        results.append([(it.detach().as_subclass(Tensor), it._version) for it in params])
    for (ours, written), (theirs, also_written) in zip(*results, strict=True):
        assert_same_bits(ours, theirs)
        assert written == also_written
    assert results[0][-1][1] >= 2
    assert results[0][0][1] == (0 if beside else results[0][-1][1])


class Entries(dict[str, Any]):
    """Read as a dict is, or not."""


class Lookups(dict[str, Any]):
    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(key)


def nothing(optimizer: Any) -> None:
    pass


def other_order(optimizer: Any) -> None:
    state = optimizer.state
    for param in list(state)[::7]:
        state[param] = state.pop(param)


def entries_of(kind: type) -> Callable[[Any], None]:
    def change(optimizer: Any) -> None:
        for param in list(optimizer.state)[-3:]:
            optimizer.state[param] = kind(optimizer.state[param])

    return change


@pytest.mark.parametrize(
    "change",
    [nothing, other_order, entries_of(Entries), entries_of(Lookups)],
    ids=["as made", "states in another order", "a dict's class", "a mapping"],
)
@pytest.mark.parametrize("lone", ["plain", "NumPy's memory", "no element", "six dimensions"])
def test_both_ways_of_reading_a_long_list_agree(
    lone: str, change: Callable[[Any], None], restored_layout: None
) -> None:
    """Whose objects are fetched some parameters ahead."""
    results = []
    for with_layout in (True, False):
        _C.use_tensor_layout(with_layout)
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(i % 3 + 1, 2)) for i in range(1200)]
        params[-100] = torch.nn.Parameter(DATA[lone]())
        optimizer = CASES["Adam"].ours([{"params": params[:1]}, {"params": params[1:]}], lr=0.1)
        for step in range(3):
            for i, param in enumerate(params):
                has_grad = i % 5 != 4 and (i % 6 != 1 or step > 0)
                param.grad = torch.randn(param.shape) if has_grad else None
            optimizer.step()
            change(optimizer)
        results.append([(param.detach(), param._version) for param in params])
    for (ours, written), (theirs, also_written) in zip(*results, strict=True):
        assert_same_bits(ours.clone(), theirs.clone())
        assert written == also_written
    assert {written for _, written in results[0]} == {0, 2, 3}


@pytest.mark.parametrize("with_layout", [True, False])
def test_a_step_counts_as_one_write(with_layout: bool, restored_layout: None) -> None:
    _C.use_tensor_layout(with_layout)
    params = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2, 3).t())]
    optimizer = fastopt.optim.SGD(params, lr=0.5)
    loss = torch.cat([(it * it).flatten() for it in params]).sum()  # which keeps them for backward
    for param in params:
        param.grad = torch.ones_like(param)
    detached = params[0].detach()
    optimizer.step()
    assert [it._version for it in (*params, detached)] == [1, 1, 1]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("with_layout", [True, False])
def test_a_mode_of_functions_is_asked_for_gradients(with_layout: bool, restored_layout: None) -> None:
    class Doubled(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            is_grad = getattr(func, "__self__", None) is Tensor.grad
            return result * 2 if is_grad and result is not None else result

    _C.use_tensor_layout(with_layout)
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    optimizer = fastopt.optim.SGD([param], lr=0.25)
    with Doubled():
        optimizer.step()
    assert param.tolist() == [0.5] * 3


@pytest.mark.parametrize("with_layout", [True, False])
def test_what_is_no_leaf_is_told_to_have_no_gradient(with_layout: bool, restored_layout: None) -> None:
    _C.use_tensor_layout(with_layout)
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = fastopt.optim.SGD([param], lr=0.5)
    optimizer.param_groups[0]["params"] = [param * 2]
    with pytest.warns(UserWarning, match="not a leaf Tensor"):
        optimizer.step()


def test_this_torch_is_read_where_it_keeps_its_tensors() -> None:
    """A torch that moves its fields makes small steps slower, and this test fail, and nothing else."""
    assert _C.use_tensor_layout(True)
    assert _C.knows_autograd_layout() == (True, True, True)
