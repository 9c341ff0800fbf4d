"""`copy_to`: what a step writes besides is its parameters, rounded to nearest even; or nothing."""

from __future__ import annotations

import copy
import io
import json
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

import fastopt
from _copy_cases import assert_copied, assert_sevens, copies_for, rounded
from _optim_cases import (
    EVERY,
    FULL,
    Options,
    array_of,
    assert_same_bits,
    parameters,
    set_gradients,
    sparse_gradient,
)
from conftest import takes
from fastopt.reference.storage import join_float32

SHAPES = [(67, 3), (257,), (), (0,), (90, 100)]
PAIRS = [
    (param, copied)
    for param in (torch.float32, torch.bfloat16, torch.float16)
    for copied in (torch.float32, torch.bfloat16, torch.float16)
] + [(torch.float64, torch.float64), (torch.float64, torch.float32)]
each_pair = pytest.mark.parametrize(
    "pair", PAIRS, ids=lambda it: "-".join(str(x).removeprefix("torch.") for x in it)
)
each_optimizer = pytest.mark.parametrize("name", EVERY)


@each_optimizer
@each_pair
def test_bits(
    name: str, pair: tuple[torch.dtype, torch.dtype], backend: str, set_threads: Callable[[int], None]
) -> None:
    if not takes(backend, name):
        pytest.skip("its norms are taken on the CPU only")
    params = parameters(pair[0], SHAPES)
    plain = parameters(pair[0], SHAPES)
    copies = copies_for(params, pair[1])
    set_threads(1 if pair[0] == pair[1] else 3)
    options = {"state_dtype": torch.float32} if pair[0] == torch.float16 else {}
    optimizer = EVERY[name].ours(params, **FULL[name], **options, copy_to=copies)
    without = EVERY[name].ours(plain, **FULL[name], **options)
    for step in range(2):
        set_gradients(params, seed=step)
        set_gradients(plain, seed=step)
        optimizer.step()
        without.step()
        assert_copied(params, copies)
        for param, it in zip(params, plain, strict=True):
            assert_same_bits(param, it)


@pytest.mark.parametrize("name", ["ADOPT", "StableAdamW", "CautiousAdamW"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rules_in_python(name: str, dtype: torch.dtype, backend: str) -> None:
    params = parameters(dtype, SHAPES)
    copies = copies_for(params, torch.float16)
    optimizer = getattr(fastopt.optim, name)(params, copy_to=copies)
    for step in range(3):
        set_gradients(params, seed=step)
        optimizer.step()
        assert_copied(params, copies)


STORAGES: list[Options] = [
    {"state_dtype": "int8"},
    {"state_dtype": torch.bfloat16, "max_grad_norm": 1.0, "ema_decay": 0.9},
    {"state_dtype": "int8", "master_weights": True},
    {"stochastic_rounding": True},
    {"master_weights": True, "max_grad_norm": 1.0, "ema_decay": 0.9},
]


@pytest.mark.parametrize("options", STORAGES, ids=lambda it: ",".join(map(str, it)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("copied", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("threads", [1, 3])
def test_of_masters_and_codes(
    options: Options,
    dtype: torch.dtype,
    copied: torch.dtype,
    threads: int,
    backend: str,
    set_threads: Callable[[int], None],
) -> None:
    """It is the number behind the parameter that is rounded."""
    set_threads(threads)
    params = parameters(dtype, [(70, 131), (5, 3), (257,), (331, 407)])
    copies = copies_for(params, copied)
    given = {"state_dtype": torch.float32} | options if dtype == torch.float16 else options
    optimizer = fastopt.optim.AdamW(params, lr=1e-2, **given, copy_to=copies)
    for step in range(2):
        set_gradients(params, seed=step)
        optimizer.step()
        for param, it in zip(params, copies, strict=True):
            state, values = optimizer.state[param], array_of(param)
            if "param_low" in state:
                values = join_float32(values.view(np.uint16), state["param_low"].numpy())
            elif "master" in state:
                values = array_of(state["master"])
            assert_same_bits(it, rounded(values, copied))


def test_ties_go_to_even() -> None:
    """A bfloat16 with a master rounds ties up, its copy to even."""
    param = nn.Parameter(torch.tensor([1.0], dtype=torch.bfloat16))
    copied = [torch.zeros(1, dtype=torch.bfloat16)]
    optimizer = fastopt.optim.SGD([param], lr=1.0, master_weights=True, copy_to=copied)
    param.grad = torch.tensor([-(2.0**-8)], dtype=torch.bfloat16)  # half of the last place of 1
    optimizer.step()
    assert param.item() == 1 + 2**-7
    assert copied[0].item() == 1.0


# ---- what a step leaves alone ---------------------------------------------------------------------


def test_only_what_is_stepped_is_copied(backend: str) -> None:
    params = parameters(shapes=[(5, 3), (4,), (6,), (2, 2)])
    copies = copies_for(params)
    given: list[Tensor | None] = [*copies[:2], None, copies[3]]
    optimizer = fastopt.optim.AdamW(params, copy_to=given)
    set_gradients(params, seed=0)
    params[1].grad = None
    optimizer.step()
    assert_copied([params[0], params[3]], [copies[0], copies[3]])
    assert_sevens(copies[1:3])


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
@pytest.mark.parametrize("odd", [False, True])
def test_a_skipped_step_writes_nothing(name: str, odd: bool, backend: str) -> None:
    params = parameters(shapes=[(5, 3), (9, 3)])
    copies = copies_for(params)
    optimizer = EVERY[name].ours(params, fused=not odd, lr=0.1, copy_to=copies)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(1.0)
    set_gradients(params, seed=0)
    if odd and name == "SGD":
        params[1].grad = sparse_gradient(0)
    optimizer.step()
    assert_sevens(copies)
    optimizer.found_inf = torch.tensor(0.0)
    if odd:  # of which torch's SGD knows nothing
        del optimizer.grad_scale, optimizer.found_inf
    optimizer.step()
    assert_copied(params, copies)


def test_a_grad_scaler() -> None:
    param = nn.Parameter(torch.ones(3))
    copies = copies_for([param])
    optimizer = fastopt.optim.Adam([param], copy_to=copies)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale((param * torch.tensor([1.0, float("inf"), 1.0])).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert_sevens(copies)
    optimizer.zero_grad()
    scaler.scale(param.sum()).backward()
    scaler.step(optimizer)
    assert_copied([param], copies)


def test_closures_and_frozen_copies() -> None:
    """A copy may be another model's parameter, and be counted by autograd as written."""
    param = nn.Parameter(torch.randn(4, 4))
    working = nn.Parameter(param.detach().bfloat16())
    optimizer = fastopt.optim.AdamW([param], copy_to=[working])
    version = working._version

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (param * param).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) is not None
    assert_copied([param], [working])
    assert working._version > version
    assert working.requires_grad


def test_step_in_backward() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    params = list(model.parameters())
    copies = copies_for(params)
    handle = fastopt.optim.step_in_backward(model, fastopt.optim.AdamW, lr=1e-2, copy_to=copies)
    for _ in range(2):
        model(torch.randn(6, 5)).square().mean().backward()
        assert_copied(params, copies)
    assert handle.optimizer.param_groups[0]["copy_to"] == copies


@pytest.mark.parametrize("name", ["SGD", "Adagrad"])
def test_what_torchs_step_takes_is_copied_after_it(name: str) -> None:
    params = parameters(shapes=[(9, 3), (4, 2)])
    copies = copies_for(params)
    optimizer = EVERY[name].ours(params, lr=0.1, copy_to=copies)
    for step in range(2):
        set_gradients(params, seed=step)
        params[0].grad = sparse_gradient(step)
        optimizer.step()
        assert_copied(params, copies)


def test_a_rule_in_python_as_torch_steps_it() -> None:
    params = parameters(shapes=[(9, 3)])
    copies = copies_for(params)
    optimizer = fastopt.optim.ADOPT(params, lr=0.1, copy_to=copies)
    set_gradients(params, seed=0)

    class Counts(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    with Counts():
        optimizer.step()
    assert_copied(params, copies)


LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "channels_last": lambda: torch.randn(2, 3, 5, 7).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(5, 7).t(),
    "columns": lambda: torch.randn(5, 11)[:, 2:9],
    "every second": lambda: torch.randn(40)[1::2],
    "size 1": lambda: torch.randn(5, 1, 7).as_strided((5, 1, 7), (7, 99, 1)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, backend: str) -> None:
    param = nn.Parameter(LAYOUTS[layout]())
    copies = [torch.empty_like(param, dtype=torch.bfloat16)]
    optimizer = fastopt.optim.AdamW([param], copy_to=copies)
    for step in range(2):
        set_gradients([param], seed=step)
        optimizer.step()
        assert torch.equal(copies[0], param.bfloat16())


# ---- groups, checkpoints, copies of the optimizer ---------------------------------------------------


def test_groups() -> None:
    params = parameters(shapes=[(5, 3), (4,), (6,)])
    copies = copies_for(params)
    groups = [
        {"params": iter(params[:1]), "copy_to": (copies[0],)},
        {"params": [("name", params[1])], "lr": 0.5},
    ]
    groups[0]["params"] = [("first", params[0])]
    optimizer = fastopt.optim.AdamW(groups)
    optimizer.add_param_group({"params": [("last", params[2])], "copy_to": copies[2:]})
    set_gradients(params, seed=0)
    optimizer.step()
    assert_copied([params[0], params[2]], [copies[0], copies[2]])
    assert_sevens(copies[1:2])
    optimizer.param_groups[1]["copy_to"] = copies[1:2]  # from the next step on
    optimizer.param_groups[0]["copy_to"] = None
    copies[0].fill_(7)
    set_gradients(params, seed=1)
    optimizer.step()
    assert_copied(params[1:], copies[1:])
    assert_sevens(copies[:1])
    assert "<1 tensors>" in repr(optimizer)


def trained(**options: Any) -> tuple[list[nn.Parameter], list[Tensor], Any]:
    params = parameters(shapes=[(5, 3), (4,)])
    copies = copies_for(params)
    optimizer = fastopt.optim.AdamW(params, copy_to=copies, **options)
    set_gradients(params, seed=0)
    optimizer.step()
    return params, copies, optimizer


def test_a_checkpoint_has_none_and_a_load_keeps_the_live_ones() -> None:
    params, copies, optimizer = trained()
    saved = optimizer.state_dict()
    assert [group["copy_to"] for group in saved["param_groups"]] == [None]
    json.dumps(saved["param_groups"])
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer)
    for state in (
        loaded,
        torch.optim.AdamW(params).state_dict(),
        {**saved, "param_groups": [{**saved["param_groups"][0], "copy_to": [torch.zeros(5, 3)]}]},
    ):
        optimizer.load_state_dict(state)
        assert all(a is b for a, b in zip(optimizer.param_groups[0]["copy_to"], copies, strict=True))
        for it in copies:
            it.fill_(7)
        set_gradients(params, seed=1)
        optimizer.step()
        assert_copied(params, copies)
    without = fastopt.optim.AdamW(params)
    without.load_state_dict(saved)
    assert without.param_groups[0]["copy_to"] is None
    assert "copy_to" not in optimizer.state_dict(as_torch=True)["param_groups"][0]


def test_flat_checkpoints_of_torch_distributed() -> None:
    model = nn.Linear(3, 2)
    copies = copies_for(list(model.parameters()))
    optimizer = fastopt.optim.AdamW(model.parameters(), copy_to=copies)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    flat = get_optimizer_state_dict(model, optimizer, options=options)
    assert flat["param_groups.weight.copy_to"] is None


def test_a_failed_load_keeps_them() -> None:
    _, copies, optimizer = trained()
    saved = optimizer.state_dict()
    saved["param_groups"][0]["state_dtype"] = "nothing"
    with pytest.raises(ValueError, match="state_dtype"):
        optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["copy_to"] == copies


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_of_the_optimizer_has_copies_of_its_own(how: str) -> None:
    _, copies, optimizer = trained()
    other = copy.deepcopy(optimizer) if how == "deepcopy" else pickle.loads(pickle.dumps(optimizer))
    kept = [it.clone() for it in copies]
    params = other.param_groups[0]["params"]
    set_gradients(params, seed=5)
    other.step()
    assert_copied(params, other.param_groups[0]["copy_to"])
    for it, before in zip(copies, kept, strict=True):
        assert torch.equal(it, before)


def test_torchs_class_has_no_such_option() -> None:
    params, _, optimizer = trained()
    with pytest.raises(ValueError, match=r"copy_to=<2 tensors> in group 0: torch.optim.AdamW has no"):
        fastopt.to_torch(optimizer)
    theirs = fastopt.from_torch(torch.optim.AdamW(params))
    copies = copies_for(params)
    theirs.param_groups[0]["copy_to"] = copies
    theirs.step()
    assert_copied(params, copies)


def test_a_report_says_nothing_of_copies() -> None:
    params, _, optimizer = trained()
    assert re.match("2 parameters: 2 on fastopt's kernels$", str(optimizer.fused_report()))
    assert len(params) == 2
