"""`copy_to` that does not fit its parameters, or lies in memory of theirs, is refused before a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastopt
from _copy_cases import copies_for
from _optim_cases import Options, parameters, set_gradients, sparse_gradient

PARAM = (3, 4)
WRONG: list[tuple[Any, type[Exception], str]] = [
    (torch.zeros(PARAM), TypeError, "copy_to: expected a list of 1 tensors, .* got Tensor"),
    ({}, TypeError, "copy_to: expected a list of 1 tensors, .* got dict"),
    ([], ValueError, "copy_to: expected a list of 1 tensors, one for each .*, got 0"),
    ([None, None], ValueError, "copy_to: expected a list of 1 tensors, one for each .*, got 2"),
    ([np.zeros(PARAM)], TypeError, r"copy_to\[0\]: expected a tensor or None, got ndarray"),
    ([torch.zeros(4, 3)], ValueError, r"copy_to\[0\]: expected shape \(3, 4\) .*, got \(4, 3\)"),
    ([torch.zeros(4, 3).t()], ValueError, r"copy_to\[0\]: expected strides \(4, 1\), .* got \(1, 3\)"),
    ([torch.zeros(3, 8)[:, ::2]], ValueError, r"copy_to\[0\]: expected strides \(4, 1\)"),
    ([torch.zeros(1, 4).expand(PARAM)], ValueError, r"copy_to\[0\]: expected strides \(4, 1\)"),
    (
        [torch.zeros(PARAM, dtype=torch.float64)],
        ValueError,
        r"copy_to\[0\]: expected torch.float32 or ",
    ),
    ([torch.zeros(PARAM, dtype=torch.int8)], ValueError, "torch.bfloat16 or torch.float16 .*int8"),
    ([torch.zeros(PARAM, device="meta")], ValueError, r"copy_to\[0\]: expected one on cpu .* on meta"),
    ([torch.zeros(PARAM).to_sparse()], ValueError, r"copy_to\[0\]: expected plain memory"),
    ([torch.zeros(PARAM, dtype=torch.complex64).conj().imag], ValueError, r"expected (plain|strides)"),
]


@pytest.mark.parametrize(("wrong", "error", "match"), WRONG, ids=[it[2][:40] for it in WRONG])
@pytest.mark.parametrize("when", ["constructor", "group", "added", "step"])
def test_what_does_not_fit(wrong: Any, error: type[Exception], match: str, when: str) -> None:
    param, other = (nn.Parameter(torch.randn(PARAM)) for _ in range(2))
    if when == "constructor":
        with pytest.raises(error, match=match):
            fastopt.optim.AdamW([param], copy_to=wrong)
        return
    if when == "group":
        with pytest.raises(error, match=match):
            fastopt.optim.AdamW([{"params": [param], "copy_to": wrong}])
        return
    optimizer = fastopt.optim.AdamW([other], copy_to=copies_for([other]))
    if when == "added":
        with pytest.raises(error, match=match):
            optimizer.add_param_group({"params": [param], "copy_to": wrong})
        assert len(optimizer.param_groups) == 1
        optimizer.add_param_group({"params": [param]})
        return
    set_gradients([other], seed=0)
    optimizer.param_groups[0]["copy_to"] = wrong
    before = other.detach().clone()
    with pytest.raises(error, match=match):
        optimizer.step()
    assert torch.equal(other, before)
    assert not optimizer.state


def test_float64_parameters_take_no_less_than_float32() -> None:
    param = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"copy_to\[0\]: expected torch.float64 or torch.float32 for"):
        fastopt.optim.SGD([param], copy_to=[torch.zeros(3, dtype=torch.bfloat16)])


def test_a_list_for_several_groups() -> None:
    params = parameters(shapes=[(3,), (4,)])
    groups = [{"params": params[:1]}, {"params": params[1:]}]
    with pytest.raises(ValueError, match=r"copy_to: expected a key of each group, .* got 2 groups"):
        fastopt.optim.SGD(groups, copy_to=copies_for(params))
    own = {"params": params, "copy_to": copies_for(params)}
    with pytest.raises(ValueError, match="copy_to: expected a key of each group"):
        fastopt.optim.SGD([own], copy_to=copies_for(params))


SHARED: dict[str, Callable[[Any, list[nn.Parameter]], Tensor]] = {
    "the parameter": lambda _, params: params[0].data,
    "another parameter": lambda _, params: params[1].data,
    "the gradient": lambda _, params: params[0].grad,
    "another's gradient": lambda _, params: params[1].grad,
    "a state": lambda optimizer, params: optimizer.state[params[0]]["exp_avg"],
    "another's state": lambda optimizer, params: optimizer.state[params[1]]["exp_avg_sq"],
    "an average": lambda optimizer, params: optimizer.state[params[0]]["ema"],
    "half of a parameter": lambda _, params: (
        params[0].data.view(torch.bfloat16)[:, ::2].t()[:3].reshape(3, 3)
    ),
}


@pytest.mark.parametrize("what", SHARED)
def test_shared_memory(what: str, backend: str) -> None:
    params = parameters(shapes=[(3, 3), (3, 3)])
    optimizer = fastopt.optim.AdamW(params, ema_decay=0.9)
    set_gradients(params, seed=0)
    optimizer.step()
    shared = SHARED[what](optimizer, params)
    if what == "half of a parameter":
        shared = params[0].data.view(torch.bfloat16).reshape(-1)[4:13].view(3, 3)
    optimizer.param_groups[0]["copy_to"] = [shared, None]
    before = [it.detach().clone() for it in params]
    with pytest.raises(ValueError, match="copy_to: expected memory of their own, but one of its tens"):
        optimizer.step()
    for param, values in zip(params, before, strict=True):
        assert torch.equal(param, values)
    assert optimizer.state[params[0]]["step"] == 1


def test_copies_that_share_memory_with_each_other() -> None:
    params = parameters(shapes=[(3,), (3,)])
    one = torch.zeros(5)
    for pair in ([one[:3], one[:3]], [one[:3], one[2:]]):
        with pytest.raises(ValueError, match="copy_to: expected memory of their own"):
            fastopt.optim.SGD(params, copy_to=pair)
        optimizer = fastopt.optim.SGD(params)
        optimizer.param_groups[0]["copy_to"] = pair
        set_gradients(params, seed=0)
        with pytest.raises(ValueError, match="copy_to: expected memory of their own"):
            optimizer.step()
    apart = torch.zeros(6)
    fastopt.optim.SGD(params, copy_to=[apart[:3], apart[3:]]).step()


def test_a_parameter_that_is_not_stepped_is_no_copy_either() -> None:
    params = parameters(shapes=[(3,), (3,)])
    with pytest.raises(ValueError, match="copy_to: expected memory of their own"):
        fastopt.optim.SGD(params, copy_to=[params[1].data, None])


def test_shared_memory_beside_torchs_step() -> None:
    params = parameters(shapes=[(9, 3), (9, 3)])
    params[0].grad, params[1].grad = sparse_gradient(0), torch.ones(9, 3)
    optimizer = fastopt.optim.SGD(params, lr=0.1)
    optimizer.param_groups[0]["copy_to"] = [params[1].grad, None]
    before = params[1].detach().clone()
    with pytest.raises(ValueError, match="copy_to: expected memory of their own"):
        optimizer.step()
    assert torch.equal(params[1], before)


def test_masters_and_scales_are_states_too() -> None:
    param = nn.Parameter(torch.randn(70, 64).bfloat16())
    options: Options = {"master_weights": True, "state_dtype": "int8"}
    optimizer = fastopt.optim.AdamW([param], **options)
    param.grad = torch.randn(70, 64).bfloat16()
    optimizer.step()
    low = optimizer.state[param]["param_low"]
    optimizer.param_groups[0]["copy_to"] = [low.view(torch.bfloat16)]
    with pytest.raises(ValueError, match="copy_to: expected memory of their own"):
        optimizer.step()
    scales = optimizer.state[param]["exp_avg_scale"]
    room = scales.untyped_storage()
    assert room.nbytes() == 70 * 4
    large = torch.zeros(70 * 64)
    with torch.no_grad():
        optimizer.state[param]["exp_avg_scale"] = large[:70].view(70, 1).copy_(scales)
    optimizer.param_groups[0]["copy_to"] = [large.view(70, 64)]
    with pytest.raises(ValueError, match="copy_to: expected memory of their own"):
        optimizer.step()
