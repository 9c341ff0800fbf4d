"""The optimizers on CUDA's kernels, without a GPU: what lies on the device and stays there.

test_optim.py and test_tail.py run on these kernels, too, with the fixture ``backend``.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastopt
from _optim_cases import (
    CAPTURABLE,
    EVERY,
    FULL,
    Mirror,
    Options,
    Snapshot,
    array_of,
    assert_same_bits,
    parameters,
    set_gradients,
    step_and_check,
)
from _walk import Walk
from fastopt import reference

pytestmark = pytest.mark.usefixtures("cuda_walk")

FUSED = ["SGD", "Adagrad", "Adam", "AdamW"]
SUM_CHUNK = 4096


def no_item(self: Tensor) -> float:
    raise AssertionError("the host waited for the device")


@pytest.fixture
def nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a graph's capture, no number may be asked for on the host."""
    monkeypatch.setattr(Tensor, "item", no_item)
    monkeypatch.setattr(Tensor, "__float__", no_item)


@pytest.mark.parametrize("name", CAPTURABLE)
def test_capturable_steps_wait_for_nothing(name: str, nothing_waits: None) -> None:
    """A rate in a tensor, step counts, the norm and the averages."""
    params = parameters()
    options = FULL[name] | {"max_grad_norm": 1.0, "ema_decay": 0.9, "ema_bias_correction": True}
    optimizer = EVERY[name].ours(params, **options, capturable=True)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.25)
    for step in range(3):
        set_gradients(params, seed=step)
        optimizer.step()
    assert all(float_of(optimizer.state[param]["step"]) == 3 for param in params)
    weight = np.zeros((), np.float32)
    for _ in range(3):
        weight = reference.ema(weight, np.ones((), np.float32), decay=0.9)
    assert all(float_of(optimizer.state[param]["ema_weight"]) == weight for param in params)


def float_of(tensor: Tensor) -> float:
    return float(tensor.numpy())


@pytest.mark.parametrize("name", CAPTURABLE)
def test_capturable_steps_equal_the_reference(name: str) -> None:
    """While the rate in the tensor changes, as a scheduler changes it."""
    rates = [torch.tensor(0.25), torch.tensor(0.125, dtype=torch.float64)]
    groups = [
        {"params": parameters(dtype), "lr": lr}
        for dtype, lr in zip((torch.float32, torch.float64), rates, strict=True)
    ]
    options = {key: value for key, value in FULL[name].items() if key != "lr"}
    optimizer = EVERY[name].ours(groups, **options, capturable=True)
    mirror = Mirror(name, optimizer)
    for step in range(5):
        for group in groups:
            set_gradients(group["params"], seed=step)
        step_and_check(mirror)
        for lr in rates:
            lr.mul_(0.7)


@pytest.mark.parametrize("name", ["SGD", *CAPTURABLE])
def test_the_tail_equals_the_cpus(name: str, walk: Walk) -> None:
    """Norm, clipping and average, of an optimizer that a GradScaler feeds."""
    steps = [True, True, False, True]
    tail: Options = {"max_grad_norm": 0.5, "ema_decay": 0.9}
    tail |= {"capturable": True} if name in CAPTURABLE else {"fused": True}
    assert train(name, steps, tail) == train_on_cpu(name, steps, walk)


def train_on_cpu(name: str, steps: list[bool], walk: Walk) -> Any:
    with walk.out_of_use():
        return train(name, steps, {"max_grad_norm": 0.5, "ema_decay": 0.9})


def train(name: str, finite: list[bool], tail: Options) -> list[bytes]:
    """The bits that steps leave, the others being skipped."""
    params = parameters(shapes=[(67, 3), (70, 130), (5,)])
    optimizer = EVERY[name].ours(params, **FULL[name], **tail)
    optimizer.grad_scale = torch.tensor(1024.0)  # as a GradScaler does for fused=True
    norms = []
    for step, is_finite in enumerate(finite):
        set_gradients(params, seed=step)
        optimizer.found_inf = torch.tensor(0.0 if is_finite else 1.0)
        before = Snapshot(optimizer)
        optimizer.step()
        if is_finite:
            norms.append(float(optimizer.grad_norm))
        else:
            for param, values, _ in before.params:
                assert_same_bits(param, array_of(values))
    states = [optimizer.state[param] for param in params]
    tensors = [*params, *(state[key] for state in states for key in sorted(state))]
    return [array_of(it).tobytes() for it in [*tensors, torch.tensor(norms, dtype=torch.float64)]]


@pytest.mark.parametrize("name", FUSED)
def test_a_skipped_step_counts_nothing(name: str) -> None:
    """Neither the first one nor a later one; a momentum buffer begins with the first that is made."""
    params = parameters()
    optimizer = EVERY[name].ours(params, **FULL[name] | {"fused": True})
    mirror = Mirror(name, optimizer)
    for step, found in enumerate([1.0, 0.0, 1.0, 1.0, 0.0]):
        set_gradients(params, seed=step)
        optimizer.found_inf = torch.tensor(found)
        if found:
            optimizer.step()
            mirror.check() if step else None
        else:
            step_and_check(mirror)


SIZES = [0, 1, 31, 33, SUM_CHUNK - 1, SUM_CHUNK, SUM_CHUNK + 1, 9 * SUM_CHUNK + 5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_norm_equals_the_reference(dtype: torch.dtype) -> None:
    check_norm([torch.randn(size).to(dtype) for size in SIZES])


def test_the_norm_of_many_and_of_large_tensors() -> None:
    """More than a table holds; more chunks than one sum takes, twice over."""
    check_norm([torch.randn(int(size)) for size in np.random.default_rng(0).integers(0, 50, 3000)])
    check_norm([torch.randn(SUM_CHUNK**2 + SUM_CHUNK + 1), torch.randn(3)])


def check_norm(grads: list[Tensor]) -> None:
    params = [torch.nn.Parameter(torch.zeros_like(grad)) for grad in grads]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    optimizer = fastopt.optim.SGD(params, max_grad_norm=1.0)
    optimizer.step()
    assert optimizer.grad_norm.shape == ()
    assert float(optimizer.grad_norm) == reference.grad_norm([array_of(grad) for grad in grads])


@pytest.mark.parametrize("options", [{}, {"capturable": True}], ids=["eager", "capturable"])
def test_parameters_at_different_steps(options: Options) -> None:
    """Each with a product of its own, in one launch."""
    params = parameters()
    optimizer = fastopt.optim.NAdam(params, **FULL["NAdam"], **options)
    mirror = Mirror("NAdam", optimizer)
    for step in range(6):
        set_gradients(params, seed=step)
        for number, param in enumerate(params):
            if step % (number + 1):
                param.grad = None
        step_and_check(mirror)
    assert len({float_of(optimizer.state[param]["mu_product"]) for param in params}) > 3


def test_more_numbers_than_a_launch_takes() -> None:
    params = parameters(shapes=[(2,)] * 2100)
    optimizer = fastopt.optim.NAdam(params, **FULL["NAdam"], capturable=True)
    mirror = Mirror("NAdam", optimizer)
    for step in range(2):
        set_gradients(params, seed=step)
        step_and_check(mirror)


@pytest.mark.parametrize("tail", [{}, {"max_grad_norm": 1.0}], ids=["plain", "clipped"])
@pytest.mark.parametrize("name", CAPTURABLE)
def test_parameters_without_elements_count_their_steps(name: str, tail: Options) -> None:
    params = parameters(shapes=[(0,), (0, 3)])
    optimizer = EVERY[name].ours(params, **FULL[name], **tail, capturable=True)
    mirror = Mirror(name, optimizer)
    for step in range(3):
        set_gradients(params, seed=step)
        step_and_check(mirror)


def test_a_norm_that_is_not_finite() -> None:
    params = parameters()
    set_gradients(params, seed=0)
    assert params[0].grad is not None
    params[0].grad[0, 0] = torch.inf
    optimizer = fastopt.optim.SGD(params, max_grad_norm=1.0, error_if_nonfinite=True)
    with pytest.raises(RuntimeError, match="non-finite"):
        optimizer.step()
    optimizer = fastopt.optim.AdamW(params, max_grad_norm=1.0, error_if_nonfinite=True, capturable=True)
    before = Snapshot(optimizer)
    with pytest.raises(ValueError, match="error_if_nonfinite=True: expected capturable=False"):
        optimizer.step()
    before.assert_unchanged()


def test_parameters_that_share_memory_step_one_after_the_other(cuda_walk: Walk) -> None:
    """As on the CPU, and whatever order blocks come in."""
    results = []
    for backwards in (False, True):
        shared = torch.nn.Parameter(torch.ones(20_000))
        tied = torch.nn.Parameter(torch.empty(0))
        tied.data = shared.data
        shared.grad, tied.grad = torch.full((20_000,), 0.5), torch.full((20_000,), 0.25)
        optimizer = fastopt.optim.SGD([shared, tied], lr=1.0, weight_decay=0.5)
        with cuda_walk.going(backwards=backwards):
            optimizer.step()
        results.append(shared.detach())
    expected = np.float32(1) - np.float32(0.5 + 0.5)
    expected = expected - (np.float32(0.25) + np.float32(0.5) * expected)
    for result in results:
        assert (result.numpy() == expected).all()


def test_a_counter_of_the_host_is_used_without_capturable() -> None:
    params = parameters()
    optimizer = fastopt.optim.AdamW(params)
    mirror = Mirror("AdamW", optimizer)
    for step in range(3):
        set_gradients(params, seed=step)
        step_and_check(mirror)


def test_a_checkpoint_moves_between_host_and_device_counters() -> None:
    params = parameters()
    optimizer = fastopt.optim.Adam(params, **FULL["Adam"])
    mirror = Mirror("Adam", optimizer)
    for step in range(6):
        set_gradients(params, seed=step)
        if step == 2:  # what load_state_dict of a capturable optimizer's checkpoint sets
            optimizer.param_groups[0]["capturable"] = True
        if step == 4:
            optimizer.param_groups[0]["capturable"] = False
        step_and_check(mirror)
