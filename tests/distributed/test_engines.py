"""Engines that put tensors of their own in the parameters' place, and what is refused there.

DeepSpeed, Megatron and torchao are known by the modules of the calls under way, so stand-ins under
their names do here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastopt
from _optim_cases import Options

SOURCE = """
class Wrapper:
    def __init__(self, *optimizers):
        self.{attribute} = {value}

    def step(self, optimizer):
        optimizer.step()

    def step_part(self, optimizer, params):
        optimizer.step_parameters(params)

class FP32Optimizer(Wrapper): pass
class DeepSpeedEngine(Wrapper): pass
class PipelineEngine(DeepSpeedEngine):
    dp_world_size = 0
class Stage3(Wrapper):
    fp32_partitioned_groups_flat = ["one", "another"]
"""
ONE = {"attribute": "optimizer", "value": "optimizers[0]"}
MODULES = {
    "deepspeed.runtime.zero.stage3": ONE,
    "megatron.core.optimizer.distrib_optimizer": ONE,
    "torchao.optim.cpu_offload": {
        "attribute": "optim_dict",
        "value": "dict(enumerate(optimizers))",
    },
}
each_module = pytest.mark.parametrize("module", MODULES)


@pytest.fixture
def classes(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """The classes of a stand-in for a module, in which their code runs."""

    def make(module: str) -> dict[str, Any]:
        names = module.split(".")
        for end in range(1, len(names) + 1):
            name = ".".join(names[:end])
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        namespace = vars(sys.modules[module])
        exec(SOURCE.format(**MODULES[module]), namespace)
        return namespace

    return make


@pytest.fixture
def flat() -> Iterator[list[Tensor]]:
    param = nn.Parameter(torch.ones(5000))
    param.grad = torch.ones(5000)
    yield [param]
    assert torch.equal(param, torch.ones(5000))


def refused(wrapper: Any, optimizer: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        wrapper.step(optimizer)
    assert not optimizer.state


@each_module
def test_clipping_by_the_norm_of_a_piece(classes: Any, flat: list[Tensor], module: str) -> None:
    found = classes(module)
    optimizer = fastopt.optim.SGD(flat, lr=1.0, max_grad_norm=1.0)
    remedy = {
        "d": 'set "gradient_clipping" in',
        "m": "set clip_grad in",
        "t": "call torch.nn.utils.clip",
    }
    for name in ("Wrapper", "FP32Optimizer", "Stage3"):
        refused(found[name](optimizer), optimizer, f"max_grad_norm: {name} of .*{remedy[module[0]]}")


@each_module
@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        (
            "AdamW",
            {"ema_decay": 0.9},
            "ema_decay=0.9: .* got what .*; expected ema_decay=None",
        ),
        (
            "AdamW",
            {"state_dtype": "int8"},
            'state_dtype="int8": .*; expected torch.bfloat16',
        ),
        ("LAMB", {}, "LAMB, which steps by norms or sums of whole parameters: .*; expected a class"),
        ("StableAdamW", {}, "StableAdamW, which steps by norms or sums of .*; expected a class"),
    ],
)
def test_what_is_of_whole_parameters(
    classes: Any, flat: list[Tensor], module: str, name: str, options: Options, match: str
) -> None:
    optimizer = getattr(fastopt.optim, name)(flat, **options)
    refused(classes(module)["Wrapper"](optimizer), optimizer, match)


@each_module
@pytest.mark.parametrize("how", ["flat", "fewer"])
def test_copies_of_what_is_no_longer_there(
    classes: Any, flat: list[Tensor], module: str, how: str
) -> None:
    """The engine has put flat tensors in the place of the parameters that copies were given for."""
    given = [nn.Parameter(torch.ones(50, 40)), nn.Parameter(torch.ones(3000))]
    given = given[: 1 if how == "flat" else 2]
    copies = [torch.zeros(it.shape, dtype=torch.bfloat16) for it in given]
    optimizer = fastopt.optim.AdamW(given, copy_to=copies)
    optimizer.param_groups[0]["params"] = flat
    wrapper = classes(module)["Wrapper"](optimizer)
    match = "copy_to: expected the model's own parameters, got what Wrapper of .* expected None"
    refused(wrapper, optimizer, match)
    assert not any(it.any() for it in copies)


@each_module
@pytest.mark.parametrize("options", [{"ema_decay": 0.9}, {"state_dtype": "int8"}], ids=str)
def test_parts_of_what_is_of_whole_parameters(
    classes: Any, flat: list[Tensor], module: str, options: Options
) -> None:
    optimizer = fastopt.optim.AdamW(flat, **options)
    wrapper = classes(module)["Wrapper"](optimizer)
    with pytest.raises(ValueError, match=r"expected the model's own parameters, got what Wrapper of"):
        wrapper.step_part(optimizer, flat)
    assert not optimizer.state


@each_module
def test_parts_of_what_an_engine_has_put_there(classes: Any, module: str) -> None:
    own, flat = nn.Parameter(torch.ones(50, 40)), nn.Parameter(torch.ones(2000))
    flat.grad = torch.ones(2000)
    optimizer = fastopt.optim.AdamW([own], lr=0.1, max_grad_norm=1.0)
    optimizer.param_groups[0]["params"] = [flat]
    wrapper = classes(module)["Wrapper"](optimizer)
    with pytest.raises(ValueError, match=r"params\[0\]: expected one of the optimizer's parameters"):
        optimizer.step_parameters([own], grad_norm=10.0)
    with pytest.raises(ValueError, match=r"max_grad_norm=1.0: a step of some parameters does not"):
        wrapper.step_part(optimizer, [flat])
    optimizer.param_groups[0]["max_grad_norm"] = None  # the engine clips
    wrapper.step_part(optimizer, [flat])
    assert torch.equal(own, torch.ones(50, 40))
    assert optimizer.state[flat]["step"] == 1


@each_module
def test_copies_of_the_tensors_that_an_engine_steps(classes: Any, module: str) -> None:
    """Such as torchao's, of one parameter each, are right."""
    param = nn.Parameter(torch.ones(5000))
    param.grad = torch.ones(5000)
    copies = [torch.zeros(5000, dtype=torch.bfloat16)]
    optimizer = fastopt.optim.AdamW([{"params": param, "copy_to": copies}], lr=0.1)
    classes(module)["Wrapper"](optimizer).step(optimizer)
    assert torch.equal(copies[0], param.bfloat16())


@each_module
def test_other_options_and_other_optimizers_of_theirs_step(classes: Any, module: str) -> None:
    found = classes(module)
    param = nn.Parameter(torch.ones(5000))
    param.grad = torch.ones(5000)
    plain = fastopt.optim.AdamW([param], lr=0.1)
    found["Wrapper"](plain).step(plain)
    everything = fastopt.optim.AdamW([param], lr=0.1, max_grad_norm=1.0, ema_decay=0.9)
    found["Wrapper"](plain).step(everything)  # which it calls, but does not drive
    assert everything.grad_norm.item() == pytest.approx(5000**0.5)
    kept = fastopt.optim.AdamW([param], lr=0.1, ema_decay=0.9)
    found["FP32Optimizer"](kept).step(kept)
    assert "ema" in kept.state[param]


def test_a_deepspeed_engine_of_whole_parameters_and_one_of_stages(
    classes: Any, flat: list[Tensor]
) -> None:
    found = classes("deepspeed.runtime.zero.stage3")
    optimizer = fastopt.optim.SGD(flat, lr=0.0, max_grad_norm=1.0, ema_decay=0.9)
    found["DeepSpeedEngine"](optimizer).step(optimizer)
    assert optimizer.grad_norm.item() == pytest.approx(5000**0.5)
    optimizer = fastopt.optim.SGD(flat, lr=1.0, max_grad_norm=1.0)
    refused(found["PipelineEngine"](optimizer), optimizer, "max_grad_norm: PipelineEngine of deepspeed")


@pytest.mark.parametrize("size", [1 << 18, (1 << 18) + 1])
def test_int8_states_of_a_vector_longer_than_any_bias_are_warned_of(
    size: int, recwarn: pytest.WarningsRecorder
) -> None:
    params = [nn.Parameter(torch.zeros(size)) for _ in range(2)]
    optimizer = fastopt.optim.AdamW(params, state_dtype="int8")
    for param in params:
        param.grad = torch.ones(size)
    optimizer.step()
    messages = [str(it.message) for it in recwarn]
    assert len(messages) == (size > 1 << 18)
    assert all(f"a parameter of shape ({size},) stay float32" in it for it in messages)
