"""LAMB, the rule with norms: what its two passes add to the tests that every rule goes through.

Sizes lie around a chunk (4096 elements) and around what a thread takes at a time (16,384), from which
on a parameter's second pass begins when its first is done everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from _kernel_cases import DTYPES as NUMPY_DTYPES
from _kernel_cases import assert_same_bits as assert_arrays_equal
from _kernel_cases import make_arrays
from _optim_cases import (
    DTYPES,
    STATE_PAIRS,
    Array,
    Mirror,
    Options,
    Snapshot,
    array_of,
    assert_same_bits,
    complex64,
    option_id,
    parameters,
    set_gradients,
    set_odd_gradient,
    step_and_check,
)
from _walk import Walk
from fastopt import kernels, reference
from fastopt.optim import LAMB

CHUNK, UNIT = 4096, 16384
SIZES = [0, 1, 31, CHUNK - 1, CHUNK, CHUNK + 1, UNIT - 1, UNIT, UNIT + 1, 5 * UNIT - 7, 70_001]


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("dtype", NUMPY_DTYPES, ids=str)
def test_arrays_around_chunks_and_units(
    dtype: np.dtype[Array],
    threads: int,
    target: str,
    set_threads: Callable[[int], None],
    random: np.random.Generator,
) -> None:
    set_threads(threads)
    drawn = [make_arrays("lamb", random, size, dtype) for size in SIZES]
    expected = [reference.lamb(*arrays.values(), step=3, lr=0.1) for arrays in drawn]
    columns = {name: [arrays[name] for arrays in drawn] for name in drawn[0]}
    kernels.lamb_(**columns, step=3, lr=0.1)
    for arrays, results in zip(drawn, expected, strict=True):
        for name, result in zip(("param", "exp_avg", "exp_avg_sq"), results, strict=True):
            assert_arrays_equal(arrays[name], result, (name, result.size))


@pytest.mark.parametrize(("dtype", "stored"), STATE_PAIRS, ids=option_id)
def test_the_update_is_that_of_the_states_as_they_are_stored(
    dtype: torch.dtype, stored: torch.dtype, target: str
) -> None:
    params = parameters(dtype, [(5 * UNIT - 7,), (129, 513), (3,)])
    mirror = Mirror("LAMB", LAMB(params, lr=0.1, betas=(0.8, 0.9), state_dtype=stored))
    for step in range(4):
        set_gradients(params, seed=step)
        step_and_check(mirror)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.t().contiguous().t(),
    "channels_last": lambda x: x.view(31, 3, 43, 37).to(memory_format=torch.channels_last),
    "columns": lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
    "columns, transposed": lambda x: torch.cat([x.t(), x.t()], 1)[:, : x.shape[0]].t(),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=option_id)
def test_norms_are_summed_up_in_the_order_of_memory(
    dtype: torch.dtype, layout: Callable[[Tensor], Tensor]
) -> None:
    (made,) = parameters(dtype, [(37 * 3, 31 * 43)])
    param = torch.nn.Parameter(layout(made.detach()))
    mirror = Mirror("LAMB", LAMB([param], lr=0.1))
    for step in range(3):
        set_gradients([param], seed=step)
        step_and_check(mirror)


def test_a_norm_of_zero_makes_the_ratio_one() -> None:
    options: Options = {"lr": 0.5, "betas": (0.5, 0.5), "eps": 0.0, "bias_correction": False}
    options["always_adapt"] = True
    zero, one = np.zeros(2), np.ones(2)
    for param, exp_avg, expected in [(zero, 8 * one, -0.5 * one), (one, zero, one)]:
        arrays = [param.copy(), zero.copy(), exp_avg.copy(), 32 * one]  # the update is 4 / 4 or 0
        kernels.lamb_(*arrays, **options, weight_decay=0.0)
        assert_arrays_equal(arrays[0], expected)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16], ids=option_id)
def test_a_nan_of_any_payload_is_in_all_of_its_parameter_and_in_no_other(dtype: torch.dtype) -> None:
    params = parameters(dtype, [(2 * UNIT + 1,), (UNIT,), (7,)])
    optimizer = LAMB(params)
    set_gradients(params, seed=0)
    for param in params[:2]:
        assert param.grad is not None
        param.grad.view(torch.int16)[-1 if dtype == torch.bfloat16 else 3] = 0x7FFF
        param.grad[5] = float("nan")
    optimizer.step()
    assert [bool(param.isnan().all()) for param in params] == [True, True, False]
    assert not params[2].isnan().any()


def test_the_ratio_does_not_depend_on_the_callers_floating_point_mode() -> None:
    """Squares of 1e-160 are denormal, of the parameter and, by the decay alone, of the update."""
    params = parameters(torch.float64, [(2 * UNIT + 1,), (5,)])
    with torch.no_grad():
        for param in params:
            param.mul_(1e-160)
            param.grad = torch.zeros_like(param)
    mirror = Mirror("LAMB", LAMB(params, lr=0.5, weight_decay=1.0))
    mirror.follow()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        mirror.optimizer.step()
    finally:
        torch.set_flush_denormal(False)
    mirror.check()


def test_parameters_in_one_memory_are_stepped_one_after_the_other(
    set_threads: Callable[[int], None],
) -> None:
    set_threads(2)
    first = parameters(shapes=[(5 * UNIT,)])[0]
    second = torch.nn.Parameter(first.data)
    set_gradients([first, second], seed=0)
    expected = first.detach().numpy().copy()
    zeros = np.zeros_like(expected)
    for param in (first, second):
        assert param.grad is not None
        expected, *_ = reference.lamb(expected, param.grad.numpy(), zeros, zeros, lr=0.1)
    LAMB([first, second], lr=0.1).step()
    assert_same_bits(first, expected)


def test_what_has_no_decay_moves_as_by_adam_unless_told_otherwise() -> None:
    """A bias that begins at 0: by the ratio, its steps are in proportion to itself."""
    moved = []
    for options in ({}, {"always_adapt": True}):
        bias = torch.nn.Parameter(torch.zeros(8))
        optimizer = LAMB([bias], lr=2e-3, weight_decay=0.0, **options)
        for _ in range(1000):
            bias.grad = bias.detach() - 5
            optimizer.step()
        moved.append(bias.mean().item())
    assert moved[0] > 1.5
    assert 0 < moved[1] < 0.1
    older = optimizer.state_dict()
    del older["param_groups"][0]["always_adapt"]
    other = LAMB([bias], always_adapt=True)
    other.load_state_dict(older)
    assert other.param_groups[0]["always_adapt"] is True


@pytest.mark.parametrize("state_dtype", [None, torch.bfloat16])
def test_states_of_float16_parameters_are_float32_by_default(state_dtype: torch.dtype | None) -> None:
    params = parameters(torch.float16, [(33, 5)])
    optimizer = LAMB(params, state_dtype=state_dtype)
    set_gradients(params, seed=0)
    optimizer.step()
    state = optimizer.state[params[0]]
    expected = state_dtype or torch.float32
    assert [state[name].dtype for name in ("exp_avg", "exp_avg_sq")] == [expected] * 2


# ---- beside a plain implementation --------------------------------------------------------------


class Plain(torch.optim.Optimizer):
    """Algorithm 2 as it is printed."""

    def __init__(self, params: list[torch.nn.Parameter], lr: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for x in group["params"]:
                state = self.state[x]
                m, v = state.get("m", torch.zeros_like(x)), state.get("v", torch.zeros_like(x))
                t = state["t"] = state.get("t", 0) + 1
                m = state["m"] = 0.9 * m + 0.1 * x.grad
                v = state["v"] = 0.999 * v + 0.001 * x.grad**2
                u = m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-6) + 0.01 * x
                x -= group["lr"] * x.norm() / u.norm() * u


# The most of 20 seeds, in epsilon of the dtype times the largest element:
# `PYTHONPATH=tests python tests/optim/test_lamb.py`.
MEASURED = {torch.float32: 1.3, torch.float64: 1.8}


def distance_from_plain(dtype: torch.dtype, seed: int) -> float:
    ours, theirs = (parameters(dtype, [(301, 67), (64,)]) for _ in range(2))
    optimizers = LAMB(ours, lr=0.01), Plain(theirs, lr=0.01)
    worst = 0.0
    for step in range(20):
        for params, optimizer in zip((ours, theirs), optimizers, strict=True):
            set_gradients(params, seed=1000 * seed + step)
            optimizer.step()
        for a, b in zip(ours, theirs, strict=True):
            apart = (a - b).abs().max() / b.abs().max() / torch.finfo(dtype).eps
            worst = max(worst, apart.item())
    return worst


@pytest.mark.parametrize("dtype", DTYPES, ids=option_id)
def test_twenty_steps_agree_with_a_plain_implementation(dtype: torch.dtype) -> None:
    """Within twice MEASURED: torch's norms and roots are other ones on other machines."""
    assert distance_from_plain(dtype, seed=0) <= 2 * MEASURED[dtype]


def test_a_step_is_as_long_as_its_parameter_times_the_rate() -> None:
    params = parameters(torch.float64, [(2 * UNIT + 1,), (33, 5)])
    before = [param.detach().clone() for param in params]
    set_gradients(params, seed=0)
    LAMB(params, lr=0.125).step()
    for param, start in zip(params, before, strict=True):
        moved = (param.detach() - start).norm().item()
        assert math.isclose(moved, 0.125 * start.norm().item(), rel_tol=1e-12)


# ---- what it does not take ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -0.1}, "Invalid learning rate: -0.1"),
        ({"betas": (0.9, 1.0)}, "Invalid beta parameter at index 1: 1.0"),
        ({"eps": -1.0}, "Invalid eps value: -1.0"),
        ({"weight_decay": -0.1}, "Invalid weight_decay value: -0.1"),
        ({"state_dtype": "int8"}, 'state_dtype="int8": LAMB forms its update twice'),
        ({"state_dtype": torch.float16}, "state_dtype=torch.float16: LAMB keeps squares"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: Options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LAMB(parameters(), **options)


@pytest.mark.parametrize("key", ["master_weights", "stochastic_rounding"])
def test_parameters_that_are_more_than_their_type_are_refused(key: str) -> None:
    first, last = parameters(shapes=[(5,)]), parameters(torch.bfloat16, [(5,)])
    optimizer = LAMB([{"params": first}, {"params": last, key: True}])
    set_gradients([*first, *last], seed=0)
    refused(optimizer, "master_weights and stochastic_rounding are not for a rule with norms")


def test_states_that_came_in_8_bits_become_numbers() -> None:
    params = parameters(shapes=[(5,), (7, 3)])
    optimizer = LAMB(params)
    set_gradients(params, seed=0)
    optimizer.step()
    state = optimizer.state[params[1]]
    state["exp_avg"] = torch.zeros(7, 3, dtype=torch.int8)
    state["exp_avg_scale"] = torch.zeros(7, 1)
    mirror = Mirror("LAMB", optimizer)
    for param in params:
        mirror._take_in(param, optimizer.param_groups[0])
        mirror.steps[param] = 1
        mirror.states[param]["exp_avg_sq"] = array_of(optimizer.state[param]["exp_avg_sq"])
    mirror.states[params[0]]["exp_avg"] = array_of(optimizer.state[params[0]]["exp_avg"])
    step_and_check(mirror)
    assert {key: it.dtype for key, it in state.items()} == dict.fromkeys(state, torch.float32)
    assert "exp_avg_scale" not in state


def test_what_no_kernel_takes_is_refused() -> None:
    first, last = parameters(shapes=[(5,)])[0], complex64()
    optimizer = LAMB([{"params": first}, {"params": last}])
    set_gradients([first], seed=0)
    set_odd_gradient(last, seed=0)
    refused(optimizer, "no LAMB for a parameter of shape .*dtype complex64")


# ---- on CUDA's kernels, where it is a program ----------------------------------------------------

ON_CUDA: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "float32": (torch.float32, {}),
    "float64": (torch.float64, {}),
    "bfloat16, float32 states": (torch.bfloat16, {"state_dtype": torch.float32}),
    "float16": (torch.float16, {}),
    "no decay": (torch.float32, {"weight_decay": 0.0}),
    "always_adapt": (torch.float32, {"weight_decay": 0.0, "always_adapt": True}),
    "maximize": (torch.float32, {"maximize": True, "bias_correction": False}),
    "clipped, averaged": (torch.float32, {"max_grad_norm": 0.5, "ema_decay": 0.9}),
}


@pytest.mark.parametrize("kind", ON_CUDA)
def test_cudas_kernels_have_the_cpus_bits(kind: str, walk: Walk) -> None:
    dtype, options = ON_CUDA[kind]
    shapes = [(), (7,), (0,), (64, 65), (3, 5000)]

    def run() -> list[Tensor]:
        params = [it.detach().to(dtype).requires_grad_() for it in parameters(shapes=shapes)]
        with torch.no_grad():
            params[1].zero_()  # whose norm is 0
        optimizer = LAMB(params, **options)
        for step in range(4):
            set_gradients(params, seed=step)
            optimizer.step()
        states = (optimizer.state[param] for param in params)
        return [*params, *(state[name] for state in states for name in sorted(state))]

    expected = run()
    with walk.in_use():
        got = run()
    for one, two in zip(got, expected, strict=True):
        assert_same_bits(one, array_of(two))


def test_the_function_on_cudas_kernels(walk: Walk) -> None:
    def run() -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        arrays = [torch.rand(3000, generator=generator) for _ in range(4)]
        kernels.lamb_(*arrays, step=3, lr=0.1, weight_decay=0.5)
        return arrays

    expected = run()
    with walk.in_use():
        got = run()
    assert all(map(torch.equal, got, expected))


def test_states_in_16_bits_are_refused_on_cuda(cuda_walk: Walk) -> None:
    """The CPU's step goes by states as they are stored, a program's by those that are computed."""
    message = "states in 16 bits of a rule with norms are for the CPU; devices take them in float32"
    params = parameters(shapes=[(5,)])
    set_gradients(params, seed=0)
    refused(LAMB(params, state_dtype=torch.bfloat16), message)
    ones = [torch.ones(3, dtype=torch.bfloat16) for _ in range(4)]
    with pytest.raises(ValueError, match="param: " + message):
        kernels.lamb_(*ones)
    assert all(bool((it == 1).all()) for it in ones)


def test_parameters_in_16_bits_step_on_cuda_beside_float32_states(walk: Walk) -> None:
    def run() -> list[Tensor]:
        params = parameters(torch.bfloat16, shapes=[(5,), (64, 33)])
        optimizer = LAMB(params, state_dtype=torch.float32)
        for seed in range(3):
            set_gradients(params, seed=seed)
            optimizer.step()
        assert [it.path for it in optimizer.fused_report()].count("torch") == 0
        return [*params, *(optimizer.state[p][k] for p in params for k in ("exp_avg", "exp_avg_sq"))]

    expected = run()
    with walk.in_use():
        got = run()
    assert all(map(torch.equal, got, expected))


def refused(optimizer: LAMB, message: str) -> None:
    """The report tells why, and a step raises and writes nothing."""
    before = Snapshot(optimizer)
    assert [it.path for it in optimizer.fused_report()].count("torch") == 1
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    before.assert_unchanged()


if __name__ == "__main__":
    for dtype in DTYPES:
        print(dtype, max(distance_from_plain(dtype, seed) for seed in range(20)))
