"""What surrounds a step in a training loop: autograd's version counters, closures, schedulers,
hooks, the gradient scaler, the profiler; and nothing is kept of what is deleted.
"""

import gc
import sys
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import fastopt
from _optim_cases import (
    CASES,
    FULL,
    WITH_TORCH,
    Mirror,
    parameters,
    set_gradients,
    step_and_check,
)
from conftest import RunPython

each_optimizer = pytest.mark.parametrize("name", CASES)

# ---- what autograd is told ----------------------------------------------------------------------


@each_optimizer
def test_backward_through_a_value_that_a_step_overwrote_is_an_error(name: str) -> None:
    param = torch.nn.Parameter(torch.randn(5))
    optimizer = CASES[name].ours([param], **FULL[name])
    loss = (param * param).sum()  # saves the parameter for the backward pass
    param.grad = torch.ones(5)
    version = param._version
    optimizer.step()
    assert param._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@each_optimizer
def test_a_step_records_nothing_for_autograd(name: str) -> None:
    params = parameters()
    optimizer = CASES[name].ours(params, **FULL[name])
    set_gradients(params, seed=0)
    with torch.enable_grad():
        optimizer.step()
    tensors = [tensor for state in optimizer.state.values() for tensor in state.values()]
    assert not any(tensor.requires_grad for tensor in tensors)
    assert all(param.is_leaf and param.requires_grad for param in params)
    assert torch.is_grad_enabled()


# ---- around the step ----------------------------------------------------------------------------


@each_optimizer
def test_a_closure_runs_with_gradients_enabled_and_its_loss_is_returned(name: str) -> None:
    params = parameters(shapes=[(5,)])
    optimizer = CASES[name].ours(params, **FULL[name])
    mirror = Mirror(name, optimizer)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (params[0] ** 2).sum()
        loss.backward()
        mirror.follow()
        return loss

    expected = (params[0].detach() ** 2).sum()
    with torch.no_grad():
        loss = optimizer.step(closure)
    assert loss is not None
    assert torch.equal(loss, expected)
    mirror.check()
    assert optimizer.step() is None


@each_optimizer
@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_tensor_lr_is_read_anew_at_each_step(name: str, shape: tuple[int, ...]) -> None:
    lr = torch.full(shape, 0.1)
    params = parameters()
    mirror = Mirror(name, CASES[name].ours(params, **FULL[name] | {"lr": lr}))
    for step in range(5):
        set_gradients(params, seed=step)
        step_and_check(mirror)
        lr.mul_(0.5)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_betas_may_be_tensors(name: str) -> None:
    betas = (torch.tensor(0.8), torch.tensor([0.95]))
    params = parameters()
    mirror = Mirror(name, CASES[name].ours(params, betas=betas))
    for step in range(3):
        set_gradients(params, seed=step)
        step_and_check(mirror)


@each_optimizer
def test_a_scheduler_changes_lr(name: str) -> None:
    params = parameters()
    optimizer = CASES[name].ours(params, **FULL[name])
    mirror = Mirror(name, optimizer)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    start = optimizer.param_groups[0]["lr"]
    for step in range(6):
        set_gradients(params, seed=step)
        step_and_check(mirror)
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(start * 0.5**6)


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam", "AdamW"])
def test_one_cycle_changes_lr_and_momentum(name: str) -> None:
    params = parameters()
    optimizer = CASES[name].ours(params, **FULL[name])
    mirror = Mirror(name, optimizer)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=6)
    for step in range(6):
        set_gradients(params, seed=step)
        step_and_check(mirror)
        if step < 5:
            scheduler.step()


@each_optimizer
@pytest.mark.parametrize("fused", [None, True])
def test_a_grad_scaler_unscales_and_skips(name: str, fused: bool | None) -> None:
    params = parameters(shapes=[(67, 3)])
    options = FULL[name] | ({"fused": fused} if name != "RMSprop" else {})
    mirror = Mirror(name, CASES[name].ours(params, **options))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # a power of two rounds nothing
    for step in range(4):
        set_gradients(params, seed=step)
        assert params[0].grad is not None
        if step == 2:
            params[0].grad[1, 1] = torch.inf
        else:
            mirror.follow()
        params[0].grad *= scaler.scale(torch.ones(()))
        scaler.step(mirror.optimizer)
        scaler.update()
        mirror.check()


@each_optimizer
def test_hooks_run_once_in_order_and_may_change_what_the_step_sees(name: str) -> None:
    params = parameters()
    optimizer = CASES[name].ours(params, **FULL[name])
    mirror = Mirror(name, optimizer)
    set_gradients(params, seed=0)
    order: list[str] = []

    def halve(*_: Any) -> None:
        order.append("pre")
        optimizer.param_groups[0]["lr"] /= 2
        mirror.follow()

    handles = [
        optimizer.register_step_pre_hook(halve),
        optimizer.register_step_post_hook(lambda *_: order.append("post")),
        register_optimizer_step_pre_hook(lambda *_: order.append("global pre")),
        register_optimizer_step_post_hook(lambda *_: order.append("global post")),
    ]
    try:
        optimizer.step()
    finally:
        for handle in handles:
            handle.remove()
    assert order == ["global pre", "pre", "post", "global post"]
    mirror.check()


@each_optimizer
def test_the_profiler_sees_the_step_under_torchs_name(name: str) -> None:
    optimizer = CASES[name].ours(parameters(shapes=[(3,)]))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
    names = [event.name for event in profile.events()]
    assert names.count(f"Optimizer.step#{name}.step") == 1


@each_optimizer
@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(name: str, set_to_none: bool) -> None:
    params = parameters()
    optimizer = CASES[name].ours(params)
    set_gradients(params, seed=0)
    optimizer.step()
    optimizer.zero_grad(set_to_none)
    for param in params:
        if set_to_none:
            assert param.grad is None
        else:
            assert param.grad is not None
            assert not param.grad.any()


@each_optimizer
def test_nothing_is_kept_of_what_is_deleted(name: str) -> None:
    params = parameters()
    optimizer = CASES[name].ours(params, **FULL[name])
    for step in range(2):
        set_gradients(params, seed=step)
        params[0].grad = torch.empty(3, 67).t().copy_(params[0])  # goes through a copy
        optimizer.step()
    kept = [weakref.ref(param.grad) for param in params]
    kept += [weakref.ref(it) for state in optimizer.state.values() for it in state.values()]
    optimizer.zero_grad()
    gc.collect()
    assert all(ref() is None for ref in kept[: len(params)]), "gradients"
    kept += [weakref.ref(param) for param in params] + [weakref.ref(optimizer)]
    del params, optimizer
    gc.collect()
    assert all(ref() is None for ref in kept)


def test_reference_counts_do_not_grow_with_the_steps() -> None:
    param = torch.nn.Parameter(torch.randn(5))
    param.grad = torch.ones(5)
    optimizer = fastopt.optim.AdamW([param])
    optimizer.step()
    state = optimizer.state[param]
    watched = [param, param.grad, state, *state.values(), optimizer, optimizer.param_groups[0]]
    before = [sys.getrefcount(it) for it in watched]
    for _ in range(20):
        optimizer.step()
    assert [sys.getrefcount(it) for it in watched] == before


# ---- the module in the place of torch.optim -----------------------------------------------------


def test_the_module_has_all_that_torchs_has() -> None:
    """Ours where there is a class of ours; else torch's own objects."""
    ours = {*WITH_TORCH, "LBFGS"}
    assert {"Optimizer", "lr_scheduler", "swa_utils", "SparseAdam", "ASGD"} <= set(torch.optim.__all__)
    for name in torch.optim.__all__:
        mine, theirs = getattr(fastopt.optim, name), getattr(torch.optim, name)
        if name in ours:
            assert issubclass(mine, theirs)
            assert mine.__module__.startswith("fastopt.")
        else:
            assert mine is theirs
    starred: dict[str, Any] = {}
    exec("from fastopt.optim import *", starred)
    assert set(fastopt.optim.__all__) <= starred.keys()
    assert {"Optimizer", "lr_scheduler", "swa_utils", "Muon", "Adafactor"} <= starred.keys()
    with pytest.raises(AttributeError, match=r"'fastopt\.optim' has no attribute 'Nothing'"):
        _ = fastopt.optim.Nothing


def test_the_modules_of_torch_can_be_imported_from_it(run_python: RunPython) -> None:
    lines = (
        "import fastopt.optim.lr_scheduler as schedules",
        "from fastopt.optim.lr_scheduler import CosineAnnealingLR",
        "from fastopt.optim.swa_utils import update_bn",
        "from fastopt.optim import lr_scheduler, Optimizer, AdamW",
        "import torch",
        "assert schedules is lr_scheduler is torch.optim.lr_scheduler",
        "assert CosineAnnealingLR is torch.optim.lr_scheduler.CosineAnnealingLR",
        "assert update_bn is torch.optim.swa_utils.update_bn and issubclass(AdamW, Optimizer)",
    )
    done = run_python("-c", "\n".join(lines))
    assert done.returncode == 0, done.stderr
