"""What `fastopt.kernels` do around a rule in the same pass: gradients divided by their scale."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from _kernel_cases import (
    SHAPE,
    STATES,
    USING_ALL_STATES,
    Array,
    arguments_of,
    arrays_for,
    assert_same_bits,
    kernel,
    lists_for,
    make_arrays,
    refuse,
    rule,
    values,
)
from conftest import takes
from fastopt import kernels, optim, reference
from fastopt.rules import RuleError
from fastopt.rules import rule as as_rule
from fastopt.rules.library.adopt import adopt

Arrays = dict[str, Array]

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
F16, BF16 = np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)
MIXES = [(F32, F32, F32), (F64, F64, F64), (BF16, BF16, BF16), (F32, BF16, F32), (F16, F32, BF16)]
SCALES = [65536.0, 3.0, 1e-3, 1.0]

each_rule = pytest.mark.parametrize("name", STATES)
each_mix = pytest.mark.parametrize("mix", MIXES, ids=lambda it: "-".join(map(str, it)))


def drawn(name: str, mix: tuple[np.dtype[Any], ...], size: Any, seed: int = 0) -> Arrays:
    """Arrays for one step in the dtypes of the parameter, the gradient and the states."""
    random = np.random.default_rng(seed)
    arrays = {
        key: values(random, size, mix[min(place, 2)]) for place, key in enumerate(arguments_of(name))
    }
    for state in STATES[name]:
        np.abs(arrays[state], out=arrays[state])
    return arrays


def copies(arrays: Arrays) -> Arrays:
    return {key: it.copy() for key, it in arrays.items()}


def expected_of(name: str, before: Arrays, scale: float, step: int) -> Arrays:
    """What the reference makes of arrays whose gradient is divided by a scale first."""
    grad = reference.unscaled(before["grad"], scale)
    expected = rule(name)(**{**before, "grad": grad}, step=step, **USING_ALL_STATES[name])
    return dict(zip(["param", *STATES[name]], expected, strict=True))


@each_rule
@each_mix
def test_gradients_are_divided_by_their_scale(
    backend: str, name: str, mix: tuple[np.dtype[Any], ...]
) -> None:
    for scale, size in zip(SCALES, [(5, 13), 0, 4097, 70], strict=True):
        before = drawn(name, mix, size)
        after = copies(before)
        kernel(name)(**after, step=3, grad_scale=scale, **USING_ALL_STATES[name])
        for key, expected in expected_of(name, before, scale, 3).items():
            assert_same_bits(after[key], expected, (key, scale))
        assert after["grad"].tobytes() == before["grad"].tobytes()


@each_rule
def test_a_scale_of_lists_and_threads(name: str, backend: str, set_threads: Any) -> None:
    set_threads(3)
    before = [
        drawn(name, (F32,) * 3, size, seed) for seed, size in enumerate([(300, 301), 17, (70, 90)])
    ]
    after = [copies(it) for it in before]
    columns = {key: [it[key] for it in after] for key in arguments_of(name)}
    kernel(name)(**columns, step=[1, 2, 9], grad_scale=1024.0, **USING_ALL_STATES[name])
    for arrays, was, step in zip(after, before, (1, 2, 9), strict=True):
        for key, expected in expected_of(name, was, 1024.0, step).items():
            assert_same_bits(arrays[key], expected, key)


def test_a_scale_is_that_of_an_optimizers_step() -> None:
    param = torch.nn.Parameter(torch.randn(9, 11))
    optimizer = optim.Adam([param])
    param.grad = torch.randn(9, 11)
    arrays = [param.detach().clone(), param.grad.clone(), torch.zeros(9, 11), torch.zeros(9, 11)]
    optimizer.grad_scale = torch.tensor(7.0)
    optimizer.step()
    kernels.adam_(*arrays, grad_scale=7.0)
    state = optimizer.state[param]
    for ours, its in zip(
        [arrays[0], *arrays[2:]], [param, state["exp_avg"], state["exp_avg_sq"]], strict=True
    ):
        assert torch.equal(ours, its)


@pytest.mark.parametrize(
    "scale", [8, np.float32(8), np.array(8.0), torch.tensor(8.0), torch.tensor([8.0])], ids=repr
)
def test_kinds_of_scales(scale: Any) -> None:
    before = make_arrays("adam", np.random.default_rng(0), SHAPE, np.float32)
    after, like = copies(before), copies(before)
    kernel("adam")(**after, grad_scale=scale)
    kernel("adam")(**like, grad_scale=8.0)
    for key, it in after.items():
        assert_same_bits(it, like[key], key)


def test_a_rule_in_python_takes_a_scale(backend: str) -> None:
    random = np.random.default_rng(1)
    before = [np.abs(values(random, 1000, np.float32)) for _ in range(4)]
    after = [it.copy() for it in before]
    adopt.kernel_(*after, t=2, grad_scale=48.0)
    scaled = reference.unscaled(before[1], 48.0)
    expected = adopt.reference(before[0], scaled, *before[2:], t=2)
    for got, it in zip([after[0], *after[2:]], expected, strict=True):
        assert_same_bits(got, it)


def test_a_rule_in_python_has_no_such_option() -> None:
    with pytest.raises(RuleError, match="option grad_scale is what kernel_ takes around every rule"):
        as_rule(lambda p, g, *, t, grad_scale=1.0: p - grad_scale * g)


NOT_SCALES = [0, -1.0, float("nan"), float("inf"), "2", [2.0], torch.tensor([1.0, 2.0])]


@each_rule
def test_what_is_no_scale_is_refused(name: str) -> None:
    for wrong in NOT_SCALES:
        error = ValueError if isinstance(wrong, (int, float)) else TypeError
        match = "^grad_scale: expected a finite number above 0 or None, got "
        refuse(name, arrays_for(name), error, match, grad_scale=wrong)
        refuse(name, lists_for(name), error, match, grad_scale=wrong)
    if takes("cuda walk", name):
        refuse(name, arrays_for(name), ValueError, "grad_scale: expected", grad_scale=10**400)
