"""fastopt.optim in a training loop: each step is the reference's, bit for bit, and torch's customs
around it hold (hooks, closures, schedulers, autograd's version counters, the profiler, no leaks).
"""

import gc
import sys
import threading
import weakref
from typing import Any

import pytest
import torch
from _optim_cases import (
    CASES,
    DTYPES,
    FULL,
    Mirror,
    Options,
    assert_same_bits,
    option_cases,
    option_id,
    parameters,
    run_python,
    set_gradients,
    step_and_check,
)
from torch import Tensor
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import fastopt

each_optimizer = pytest.mark.parametrize("name", CASES)

# ---- equal to the reference ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=option_id)
@pytest.mark.parametrize(("name", "options"), list(option_cases()), ids=option_id)
def test_steps_equal_the_reference(
    name: str, options: Options, dtype: torch.dtype, target: str
) -> None:
    optimizer = CASES[name].ours(parameters(dtype), **options)
    mirror = Mirror(name, optimizer)
    for step in range(6):
        set_gradients(optimizer.param_groups[0]["params"], seed=step)
        step_and_check(mirror)


@each_optimizer
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_step_large_enough_for_threads_equals_the_reference(name: str, threads: int) -> None:
    before = torch.get_num_threads()
    params = parameters(shapes=[(70_001,), (3,), (129, 513), (1,)])
    mirror = Mirror(name, CASES[name].ours(params, **FULL[name]))
    torch.set_num_threads(threads)
    try:
        for step in range(2):
            set_gradients(params, seed=step)
            step_and_check(mirror)
    finally:
        torch.set_num_threads(before)


GROUPS: dict[str, list[Options]] = {
    "SGD": [{"momentum": 0.9}, {"momentum": 0.5, "dampening": 0.1}, {"lr": 0.5, "maximize": True}],
    "Adagrad": [{"lr_decay": 0.1}, {"eps": 1e-2}, {"lr": 0.5, "weight_decay": 0.1}],
    "RMSprop": [{"alpha": 0.5}, {"momentum": 0.9}, {"lr": 0.5, "centered": True}],
    "Adam": [{"betas": (0.5, 0.9)}, {"amsgrad": True}, {"lr": 0.5, "weight_decay": 0.1}],
    "AdamW": [{"betas": (0.5, 0.9)}, {"weight_decay": 0.5}, {"lr": 0.5, "amsgrad": True}],
}


@each_optimizer
def test_groups_differ_in_options_and_dtypes(name: str, target: str) -> None:
    """Also two dtypes within one group, and a group that is added between two steps."""
    first, second, third = GROUPS[name]
    optimizer = CASES[name].ours(
        [
            {"params": parameters(torch.float64), **first},
            {"params": parameters(torch.float32) + parameters(torch.float64), **second},
        ],
        lr=0.1,
    )
    mirror = Mirror(name, optimizer)
    for step in range(6):
        if step == 2:
            optimizer.add_param_group({"params": parameters(torch.float32), **third})
        for group in optimizer.param_groups:
            set_gradients(group["params"], seed=step)
        step_and_check(mirror)


@each_optimizer
def test_parameters_without_a_gradient_stay_and_join_late(name: str, target: str) -> None:
    """The step counts then differ within a group, and with them torch's first momentum step."""
    params = parameters()
    optimizer = CASES[name].ours(params, **FULL[name])
    mirror = Mirror(name, optimizer)
    optimizer.step()
    mirror.follow()
    for step in range(8):
        set_gradients(params, seed=step)
        params[0].requires_grad_(step not in (3, 4))  # frozen for two steps
        for index, param in enumerate(params):
            if index > step or not param.requires_grad:
                param.grad = None
        step_and_check(mirror)
    assert [mirror.steps[param] for param in params] == [6, 7, 6, 5, 4, 3]


@each_optimizer
def test_gradients_are_left_as_they_are(name: str) -> None:
    params = parameters()
    optimizer = CASES[name].ours(params, **FULL[name], maximize=True)
    set_gradients(params, seed=0)
    grads = [(param.grad, param.grad.clone(), param.grad._version) for param in params]
    optimizer.step()
    for param, (grad, before, version) in zip(params, grads, strict=True):
        assert param.grad is grad
        assert torch.equal(grad, before)
        assert grad._version == version


@each_optimizer
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e-42])
def test_special_values_equal_the_reference(name: str, value: float) -> None:
    """NaNs are compared by class: the reference and torch give them other bits."""
    params = parameters(shapes=[(35,)])
    mirror = Mirror(name, CASES[name].ours(params, **FULL[name]))
    for step in range(3):
        set_gradients(params, seed=step)
        assert params[0].grad is not None
        params[0].grad[::3] = value
        mirror.follow()
        mirror.optimizer.step()
        expected = torch.from_numpy(mirror.params[params[0]])
        assert_same_bits(params[0].nan_to_num(77.0), expected.nan_to_num(77.0))


def test_two_threads_that_step_optimizers_of_one_class_do_not_mix_their_options() -> None:
    """A gradient in another layout sends the walk through Python, where threads take turns; a change
    of dtype from one parameter to the next makes it read the options again.
    """

    def train(lr: float) -> list[Tensor]:
        singles, doubles = (parameters(dtype, [(5, 7)] * 20) for dtype in DTYPES)
        params = [param for pair in zip(singles, doubles, strict=True) for param in pair]
        optimizer = fastopt.optim.AdamW(params, lr=lr)
        for step in range(10):
            set_gradients(params, seed=step)
            for param in params:
                assert param.grad is not None
                param.grad = param.grad.t().contiguous().t()
            optimizer.step()
        return [param.detach() for param in params]

    rates = [1e-4, 1e-1]
    expected = [train(lr) for lr in rates]
    actual: dict[int, list[Tensor]] = {}
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=lambda i=i, lr=lr: actual.update({i: train(lr)}))
            for i, lr in enumerate(rates)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    for i, params in enumerate(expected):
        for ours, theirs in zip(actual[i], params, strict=True):
            assert_same_bits(ours, theirs, f"lr={rates[i]}")


def test_a_step_within_a_step_does_not_change_the_outer_ones_options() -> None:
    inner = fastopt.optim.Adam(parameters(), lr=7.0)
    set_gradients(inner.param_groups[0]["params"], seed=0)

    class Nested(fastopt.optim.Adam):
        def _new_state(self, group: Any, param: Tensor, name: str) -> Tensor:
            inner.step()
            return super()._new_state(group, param, name)

    params = parameters()
    mirror = Mirror("Adam", Nested(params, lr=0.1))
    set_gradients(params, seed=1)
    step_and_check(mirror)


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


# ---- groups that a user bent --------------------------------------------------------------------

BENT_GROUPS = {
    "a tuple of parameters": "optimizer.param_groups[0]['params'] = tuple(params)",
    "a view of dict keys": "optimizer.param_groups[0]['params'] = dict.fromkeys(params).keys()",
    "the same parameter twice": "optimizer.param_groups[0]['params'].append(params[0])",
}
# In children of a fresh interpreter, because what goes wrong here may be memory.
BENT = """
import os, sys, torch, fastopt

def compare(change):
    results = []
    for optimizer_class in (torch.optim.Adam, fastopt.optim.Adam):
        params = [torch.nn.Parameter(torch.arange(1.0, 2000.0)) for _ in range(3)]
        optimizer = optimizer_class(params, lr=0.1)
        exec(change)
        for step in range(4):
            for param in params:
                param.grad = param.detach().sin() + step
            optimizer.step()
        state = [optimizer.state[param]["exp_avg"] for param in params]
        results.append([param.detach() for param in params] + state)
    for theirs, ours in zip(*results):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)

for change in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        compare(change)
        os._exit(0)
    print(os.waitpid(child, 0)[1])
"""


@pytest.fixture(scope="module")
def bent_outcomes() -> dict[str, str]:
    output = run_python(BENT, *BENT_GROUPS.values())
    return dict(zip(BENT_GROUPS, output.split(), strict=True))


@pytest.mark.parametrize("change", BENT_GROUPS)
def test_groups_that_torch_takes_are_taken(change: str, bent_outcomes: dict[str, str]) -> None:
    assert bent_outcomes[change] == "0"
