"""Optimizers of 16-bit parameters, and state_dtype: bits, dtypes, refusals.

What holds for every dtype is tested beside float32: options (test_optim.py), clipping and averaging
(test_tail.py), layouts (test_optim_layout.py), the distance from torch (test_optim_parity.py).
Checkpoints are in test_storage_checkpoint.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastopt
from _convert_cases import params_of, take_steps
from _optim_cases import (
    CASES,
    FEW_BITS,
    FULL,
    STATE_PAIRS,
    STORED,
    Mirror,
    Options,
    Snapshot,
    array_of,
    assert_same_bits,
    gradients,
    option_id,
    parameters,
    set_gradients,
    state_dtypes,
    step_and_check,
)
from fastopt import reference

each_optimizer = pytest.mark.parametrize("name", CASES)

each_pair = pytest.mark.parametrize(("dtype", "stored"), STATE_PAIRS, ids=option_id)


# ---- bits and dtypes ----------------------------------------------------------------------------


@each_optimizer
@each_pair
def test_states_are_stored_as_asked(
    name: str, dtype: torch.dtype, stored: torch.dtype, target: str
) -> None:
    params = parameters(dtype)
    mirror = Mirror(name, CASES[name].ours(params, **FEW_BITS[name], state_dtype=stored))
    for step in range(4):
        set_gradients(params, seed=step)
        step_and_check(mirror)
    assert not any(it.reason for it in mirror.optimizer.fused_report())
    assert state_dtypes(mirror.optimizer, *CASES[name].states) == {stored}
    assert state_dtypes(mirror.optimizer, "step") <= {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, *STORED], ids=option_id)
def test_momentum_may_be_float16(dtype: torch.dtype) -> None:
    params = parameters(dtype)
    optimizer = fastopt.optim.SGD(params, momentum=0.9, state_dtype=torch.float16)
    mirror = Mirror("SGD", optimizer)
    for step in range(3):
        for param, grad in zip(params, gradients(params, step), strict=True):
            param.grad = grad.clamp(-100, 100)
        step_and_check(mirror)
    assert state_dtypes(optimizer, "momentum_buffer") == {torch.float16}


@each_optimizer
@pytest.mark.parametrize("dtype", STORED, ids=option_id)
def test_by_default_states_are_like_the_parameter(name: str, dtype: torch.dtype) -> None:
    optimizer = CASES[name].ours(parameters(dtype), **FEW_BITS[name])
    assert all(group["state_dtype"] is None for group in optimizer.param_groups)
    take_steps(optimizer, 0, 2)
    assert state_dtypes(optimizer, *CASES[name].states) == {dtype}
    assert state_dtypes(optimizer, "step") <= {torch.float32}


@each_optimizer
def test_groups_may_differ(name: str) -> None:
    low, plain, double = parameters(torch.bfloat16), parameters(), parameters(torch.float64)
    groups = [{"params": low, "state_dtype": torch.float32}, {"params": plain}, {"params": double}]
    optimizer = CASES[name].ours(groups, **FEW_BITS[name], state_dtype=torch.bfloat16)
    mirror = Mirror(name, optimizer)
    for step in range(3):
        set_gradients([*low, *plain, *double], seed=step)
        step_and_check(mirror)
    for params, stored in ((low, torch.float32), (plain, torch.bfloat16), (double, torch.float64)):
        states = [optimizer.state[p] for p in params]
        assert {it[s].dtype for it in states for s in CASES[name].states if s in it} == {stored}


@each_optimizer
@pytest.mark.parametrize("grad_dtype", [*STORED, torch.float32], ids=option_id)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=option_id)
def test_gradients_of_another_dtype(name: str, dtype: torch.dtype, grad_dtype: torch.dtype) -> None:
    """As Tensor.grad_dtype allows; also where they are laid out unlike the parameter."""
    params = parameters(dtype, [(67, 3), (5, 8), ()])
    mirror = Mirror(name, CASES[name].ours(params, **FEW_BITS[name]))
    for param in params:
        param.grad_dtype = grad_dtype
    for step in range(3):
        for param, grad in zip(params, gradients(params, seed=step), strict=True):
            low = grad.clamp(-1000, 1000).to(grad_dtype)
            param.grad = low.t().contiguous().t() if step == 1 and low.ndim == 2 else low
        step_and_check(mirror)
    assert not any(it.reason for it in mirror.optimizer.fused_report())


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda it: it.t().contiguous().t(),
    "strided": lambda it: torch.stack([it, it], 2)[:, :, 0],
}


@each_optimizer
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_beside_states_of_another_dtype(name: str, layout: str) -> None:
    (start,) = parameters(torch.bfloat16, [(12, 7)])
    param = torch.nn.Parameter(LAYOUTS[layout](start.detach()))
    mirror = Mirror(name, CASES[name].ours([param], **FULL[name], state_dtype=torch.float32))
    for step in range(4):
        (grad,) = gradients([param], seed=step)
        param.grad = LAYOUTS[layout](grad) if step % 2 else grad
        if step == 2:  # the states, too, may come to lie otherwise
            for key in CASES[name].states:
                state = mirror.optimizer.state[param]
                state[key] = state[key].t().contiguous().t()
        step_and_check(mirror)
    assert state_dtypes(mirror.optimizer, *CASES[name].states) == {torch.float32}


# ---- around the rule ----------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_the_norm_is_that_of_the_widened_gradients(
    threads: int, set_threads: Callable[[int], None], target: str
) -> None:
    set_threads(threads)
    sizes = [(4097,), (), (33,), (70001,)]
    params = [*parameters(torch.bfloat16, sizes), *parameters(shapes=sizes)]
    params += parameters(torch.float16, sizes)
    optimizer = fastopt.optim.SGD(params, lr=0.1, max_grad_norm=1.0)
    for param, grad in zip(params, gradients(params, seed=0), strict=True):
        param.grad = grad.clamp(-1000, 1000)
    optimizer.step()
    wide = [array_of(param.grad.float()) for param in params]
    assert optimizer.grad_norm.item() == reference.grad_norm(wide)
    assert reference.grad_norm([array_of(p.grad) for p in params]) == reference.grad_norm(wide)


@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7FC12345])
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_a_norm_of_nan_makes_bfloat16_parameters_nan(name: str, bits: int, target: str) -> None:
    """Whatever bits of the NaN reach the factor: rounding them up could give a number again."""
    plain, low = parameters(shapes=[(3,)])[0], parameters(torch.bfloat16, [(70,)])[0]
    plain.grad = torch.from_numpy(np.full(3, bits, np.uint32).view(np.float32))
    low.grad = torch.ones_like(low)
    CASES[name].ours([plain, low], lr=0.1, max_grad_norm=1.0).step()
    assert low.isnan().all()


@each_optimizer
@pytest.mark.parametrize("dtype", STORED, ids=option_id)
@pytest.mark.parametrize("bias_correction", [False, True])
def test_averages_are_float32(name: str, dtype: torch.dtype, bias_correction: bool) -> None:
    """And stand in the parameters' place rounded to their dtype."""
    params = parameters(dtype, [(67, 3), (9,)])
    tail: Options = {"ema_decay": 0.9, "ema_bias_correction": bias_correction}
    optimizer = CASES[name].ours(params, **FEW_BITS[name], **tail)
    start = [param.detach().clone() for param in params]
    for step in range(2):
        set_gradients(params[:1], seed=step)
        optimizer.step()
    assert state_dtypes(optimizer, "ema", "ema_weight") == {torch.float32}
    first, second = optimizer.ema_parameters()
    assert second.dtype == dtype  # it has none yet and stands for itself
    trained = [param.detach().clone() for param in params]
    with optimizer.swap_ema():
        assert params[0].dtype == dtype
        assert torch.equal(params[0], first.to(dtype))
        assert not torch.equal(params[0], trained[0])
        assert torch.equal(params[1], start[1])
    assert all(map(torch.equal, params, trained))


def test_an_average_takes_in_the_parameter_before_it_is_rounded() -> None:
    """Steps too small for bfloat16 are lost to the parameter."""
    param = torch.nn.Parameter(torch.ones(40, dtype=torch.bfloat16))
    optimizer = fastopt.optim.SGD([param], lr=1.0, ema_decay=0.5)
    param.grad = torch.full_like(param, 2.0**-12)
    optimizer.step()
    assert (param == 1).all()
    assert (optimizer.state[param]["ema"] == 1 - 2.0**-13).all()


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "Adam", "AdamW"])
@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=option_id)
def test_a_scaler(name: str, fused: bool | None, dtype: torch.dtype) -> None:
    """Scaled by a power of two, and skipped at an infinity, as without it.

    float16 parameters themselves only with fused=True: torch's scaler does not unscale their
    gradients.
    """
    if fused is None and dtype == torch.float16:
        pytest.skip("torch: attempting to unscale FP16 gradients")
    trained = []
    for enabled in (False, True):
        params = parameters(dtype)
        optimizer = CASES[name].ours(params, **FEW_BITS[name], fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=16.0, enabled=enabled)
        scaler.scale(torch.ones(()))
        for step in range(4):
            for param, grad in zip(params, gradients(params, seed=step), strict=True):
                param.grad = grad.clamp(-100, 100) * (scaler.get_scale() if enabled else 1)
            if step == 2:
                params[0].grad[0] = torch.inf
                before = Snapshot(optimizer)
                if enabled:
                    scaler.step(optimizer)
                    scaler.update()
                before.assert_unchanged()
                continue
            scaler.step(optimizer)
            scaler.update()
        trained.append(params)
    for plain, scaled in zip(*trained, strict=True):
        assert_same_bits(scaled, plain)


# ---- refusals -----------------------------------------------------------------------------------


@each_optimizer
@pytest.mark.parametrize("wrong", [torch.float64, torch.int8, torch.complex64, "bf16", 16, np.float32])
def test_wrong_values(name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"^Invalid state_dtype value: .*expected torch.float32"):
        CASES[name].ours(parameters(), state_dtype=wrong)


@pytest.mark.parametrize("name", [name for name in CASES if name != "SGD"])
def test_float16_is_refused_where_squares_are_kept(name: str) -> None:
    match = rf"^state_dtype=torch.float16: {name} keeps squares"
    with pytest.raises(ValueError, match=match):
        CASES[name].ours(parameters(), state_dtype=torch.float16)
    optimizer = CASES[name].ours(parameters())
    group = {"params": parameters(shapes=[(3,)]), "state_dtype": torch.float16}
    with pytest.raises(ValueError, match=match):
        optimizer.add_param_group(group)
    optimizer.add_param_group({**group, "state_dtype": None})
    optimizer.param_groups[-1]["state_dtype"] = torch.float16  # by hand
    set_gradients(params_of(optimizer), seed=0)
    before = Snapshot(optimizer)
    with pytest.raises(ValueError, match=match):
        optimizer.step()
    before.assert_unchanged()


def test_to_torch_refuses_what_torch_lacks() -> None:
    optimizer = fastopt.optim.AdamW(parameters(), state_dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"^state_dtype='bfloat16' in group 0"):
        fastopt.to_torch(optimizer)


@each_optimizer
def test_states_of_float64_beside_16_bits_take_torchs_step(name: str) -> None:
    """Which the kernels do not mix; the report names the first."""
    (param,) = parameters(torch.bfloat16, [(5, 7)])
    optimizer: Any = CASES[name].ours([param], **FEW_BITS[name])
    take_steps(optimizer, 0, 1)
    key = CASES[name].states[0]
    optimizer.state[param][key] = optimizer.state[param][key].double()
    (path,) = optimizer.fused_report()
    assert path.reason == f"{key} of dtype float64 for a parameter of bfloat16"
