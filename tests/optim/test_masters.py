"""master_weights: 16-bit parameters that train as float32 ones, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from _low_cases import (
    COPIES,
    LARGE,
    RULES,
    TAILS,
    THREADS,
    UNCODED,
    Low,
    assert_equal,
    assert_same_everything,
    low_parameters,
    numbers,
    raw,
    set_grads,
    train,
)
from _optim_cases import CASES, EVERY, Options, option_id
from fastopt.reference.storage import from_bfloat16, join_float32, split_float32, to_bfloat16

SHAPES = [(7,), (33, 5), (1023,), (1025,), (4, 513), (), (0,)]
HALVES = [torch.bfloat16, torch.float16]
each_half = pytest.mark.parametrize("dtype", HALVES, ids=option_id)
each_rule = pytest.mark.parametrize(("name", "options"), RULES + UNCODED, ids=option_id)


def float32_of(params: list[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(param.detach().float()) for param in params]


# ---- splitting ------------------------------------------------------------------------------------

LOWS = [0, 1, 2, 0x7FFE, 0x7FFF, 0x8000, 0x8001, 0xFFFE, 0xFFFF, 0x1234, 0xABCD]


def floats() -> Any:
    """Every upper half with the lower ones that matter."""
    high = np.arange(1 << 16, dtype=np.uint32)[:, None] << np.uint32(16)
    return (high | np.array(LOWS, np.uint32)).view(np.float32)


def test_splitting_loses_nothing_but_the_payload_of_nan() -> None:
    x = floats()
    back = join_float32(*split_float32(x)).view(np.uint32)
    assert (back == np.where(np.isnan(x), np.uint32(0x7FC00000), x.view(np.uint32))).all()


def test_the_high_half_is_the_nearest_bfloat16_and_ties_go_up() -> None:
    x = floats()
    high, low = split_float32(x)
    nearest = to_bfloat16(x)
    is_tie = (x.view(np.uint32) & 0x1FFFF) == 0x8000  # between an even and an odd one
    differs = (high != nearest) & ~np.isnan(x)
    assert (differs == (is_tie & ~np.isnan(x))).all()
    assert (high[differs] == nearest[differs] + 1).all()
    assert (low[differs] == -32768).all()


def test_a_high_half_that_was_written_to_stands_alone_where_both_would_be_nan() -> None:
    high = np.arange(1 << 16, dtype=np.uint16)[:, None]
    low = np.array(LOWS, np.uint16).view(np.int16)
    high, low = np.broadcast_arrays(high, low)
    joined, own = join_float32(high, low), from_bfloat16(high)
    assert (np.isnan(joined) == np.isnan(own)).all()
    zero = own == 0
    assert (np.abs(joined[zero]) < 1e-40).all()
    assert np.isinf(joined[np.isinf(own) & (low >= 0)]).all()


# ---- steps ----------------------------------------------------------------------------------------


@each_half
@each_rule
def test_steps_equal_the_reference(
    backend: str, name: str, options: Options, dtype: torch.dtype
) -> None:
    params = low_parameters(SHAPES, dtype)
    low = Low(name, EVERY[name].ours(params, **options, master_weights=True))
    for step in range(3):
        set_grads(params, step)
        low.step()


@each_half
@pytest.mark.parametrize("tail", TAILS, ids=option_id)
def test_clipping_and_averaging_go_by_the_master(
    backend: str, tail: Options, dtype: torch.dtype
) -> None:
    params = low_parameters(SHAPES, dtype)
    low = Low("AdamW", CASES["AdamW"].ours(params, **tail, master_weights=True))
    for step in range(3):
        set_grads(params, step)
        low.step()


@each_half
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_threads(
    backend: str, shape: tuple[int, ...], threads: int, dtype: torch.dtype, set_threads: Any
) -> None:
    set_threads(threads)
    params = low_parameters([shape], dtype)
    low = Low("RMSprop", CASES["RMSprop"].ours(params, momentum=0.9, master_weights=True))
    for step in range(2):
        set_grads(params, step)
        low.step()


@each_half
@each_rule
def test_training_is_that_of_float32_parameters(
    name: str, options: Options, dtype: torch.dtype
) -> None:
    """Steps far below a 16-bit number's last bit, 50 of them."""
    params = low_parameters([(40, 30)], dtype)
    wide = float32_of(params)
    options = options | {"lr": 1e-5}
    ours = EVERY[name].ours(params, **options, master_weights=True)
    theirs = EVERY[name].ours(wide, **options)
    for step in range(50):
        set_grads(params, step)
        wide[0].grad = params[0].grad.float()  # type: ignore[union-attr]
        ours.step()
        theirs.step()
    trained = wide[0].detach()
    if dtype == torch.bfloat16:
        assert_equal(raw(params[0]), split_float32(trained.numpy())[0], "parameter")
    else:
        assert_equal(raw(params[0]), raw(trained.half()), "parameter")
    for key, value in theirs.state[wide[0]].items():
        assert_equal(raw(ours.state[params[0]][key]), raw(value), key)


@each_half
def test_nan_and_infinity(backend: str, dtype: torch.dtype) -> None:
    params = low_parameters([(2000,)], dtype)
    low = Low("SGD", CASES["SGD"].ours(params, lr=1.0, master_weights=True))
    set_grads(params, 0)
    grad = params[0].grad
    assert grad is not None
    grad[::5], grad[1::5] = float("nan"), float("inf")
    with torch.no_grad():
        params[0][2::5] = -float("inf")
    low = Low("SGD", low.optimizer)
    low.step()
    low.step()
    assert params[0][::5].isnan().all()
    assert params[0][1::5].isinf().all()
    if dtype == torch.bfloat16:
        assert (params[0][::5].view(torch.int16) == 0x7FC0).all()
        assert (low.optimizer.state[params[0]]["param_low"][::5] == 0).all()


@each_half
def test_what_does_not_lie_in_c_order(backend: str, dtype: torch.dtype) -> None:
    values = torch.randn(40, 50, 2).to(dtype)
    for view in (values.mT[..., 0].T, values[..., 0], values.transpose(0, 1)):
        param, straight = (
            torch.nn.Parameter(view.clone(memory_format=torch.preserve_format)),
            (torch.nn.Parameter(view.clone(memory_format=torch.contiguous_format))),
        )
        strided = view.detach().requires_grad_()
        found = []
        for it in (param, straight, strided):
            optimizer = CASES["AdamW"].ours([it], master_weights=True)
            train(optimizer, range(2))
            found.append([raw(it), raw(optimizer.state[it]["exp_avg"])])
        for other in found[1:]:
            for a, b in zip(found[0], other, strict=True):
                assert_equal(a, b, str(view.stride()))


# ---- from outside ---------------------------------------------------------------------------------


@each_half
def test_a_parameter_may_be_written_to(backend: str, dtype: torch.dtype) -> None:
    """What is written counts; of bfloat16 the lower half stays, which is half of its last bit."""
    model = torch.nn.Linear(60, 50).to(dtype)
    optimizer = CASES["SGD"].ours(model.parameters(), lr=1e-3, momentum=0.9, master_weights=True)
    train(optimizer, range(3))
    new = torch.nn.Linear(60, 50).to(dtype)
    with torch.no_grad():
        new.weight[:10], new.weight[10:20] = 0.0, -0.0
        new.weight[20, ::2] = model.weight[20, ::2]  # or is not
    model.load_state_dict(new.state_dict())
    train(optimizer, range(3, 4))
    momentum = optimizer.state[model.weight]["momentum_buffer"]
    expected = new.weight.float() - 1e-3 * momentum
    bits = 8 if dtype == torch.bfloat16 else 11
    bound = expected.abs() * 2.0**-bits + new.weight.float().abs() * 2.0**-bits + 1e-7
    assert ((model.weight.float() - expected).abs() <= bound).all()


def test_what_was_not_written_to_keeps_its_master() -> None:
    param = low_parameters([(1000,)], torch.float16)[0]
    optimizer = CASES["SGD"].ours([param], lr=1e-6, master_weights=True)
    train(optimizer, range(2))
    master = optimizer.state[param]["master"]
    before = master.clone()
    with torch.no_grad():
        param[::2] = 3.0
    param.grad = torch.zeros_like(param)
    optimizer.step()
    assert (master[::2] == 3).all()
    assert torch.equal(master[1::2], before[1::2])
    assert not torch.equal(before, before.half().float())


# ---- options and states ---------------------------------------------------------------------------


@each_half
@pytest.mark.parametrize("way", COPIES)
@each_rule
def test_a_copy_continues(name: str, options: Options, way: str, dtype: torch.dtype) -> None:
    first = EVERY[name].ours(
        low_parameters([(9, 31)], dtype), **options, master_weights=True, ema_decay=0.9
    )
    train(first, range(2))
    other = COPIES[way](first)
    assert_same_everything(other, first)
    train(first, range(2, 5))
    train(other, range(2, 5))
    assert_same_everything(other, first)


@each_half
@pytest.mark.parametrize(
    ("name", "options"), [it for it in RULES + UNCODED if EVERY[it[0]].torchs], ids=option_id
)
def test_a_checkpoint_of_float32_parameters_drives_16_bit_ones(
    name: str, options: Options, dtype: torch.dtype
) -> None:
    """torch.optim's states come in as they are, unrounded; the masters begin as the parameters."""
    ours_only = {"exponential_average", "bias_correction"}
    if ours_only & options.keys():
        options = {"lr": 0.1, "momentum": 0.5}
    params = low_parameters([(9, 31)], dtype)
    wide = float32_of(params)
    theirs = EVERY[name].torchs(wide, **options)
    train(theirs, range(2))
    ours = EVERY[name].ours(params, **options, master_weights=True)
    ours.load_state_dict(theirs.state_dict())
    for key, value in theirs.state[wide[0]].items():
        if value is not None:
            assert_equal(raw(ours.state[params[0]][key]), raw(value), key)
    train(ours, range(2, 3))
    assert {"master", "param_low"} & ours.state[params[0]].keys()


def test_groups_and_dtypes_mix(backend: str) -> None:
    params = low_parameters([(50, 7)] * 4)
    for param, dtype in zip(params, [*HALVES, torch.float32, torch.bfloat16], strict=True):
        param.data = param.data.to(dtype)
    groups: list[Options] = [
        {"params": params[:3], "master_weights": True},
        {"params": params[3:], "lr": 0.1},
    ]
    optimizer = CASES["AdamW"].ours(groups)
    low = Low("AdamW", optimizer)
    for step in range(3):
        set_grads(params, step)
        low.step()
    extra = [optimizer.state[it].keys() - {"step", "exp_avg", "exp_avg_sq"} for it in params]
    assert extra == [{"param_low"}, {"master"}, set(), set()]
    dtypes = [optimizer.state[it]["exp_avg"].dtype for it in params]
    assert dtypes == [torch.float32] * 3 + [torch.bfloat16]


@pytest.mark.parametrize("name", CASES)
def test_masters_exclude_random_rounding(name: str) -> None:
    build: Callable[..., Any] = EVERY[name].ours
    params = low_parameters([(3,)], torch.bfloat16)
    with pytest.raises(ValueError, match="stochastic_rounding=True: expected master_weights=False"):
        build(params, master_weights=True, stochastic_rounding=True)
    optimizer = build(params, master_weights=True)
    with pytest.raises(ValueError, match="stochastic_rounding=True"):
        optimizer.add_param_group({"params": low_parameters([(2,)]), "stochastic_rounding": True})
    optimizer.param_groups[0]["stochastic_rounding"] = True
    set_grads(params, 0)
    with pytest.raises(ValueError, match="stochastic_rounding=True"):
        optimizer.step()
    assert not {"rounding", "exp_avg"} & optimizer.state.get(params[0], {}).keys()


@each_half
@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.zeros(2, 5), torch.zeros(4, 2).half()])
def test_a_wrong_master_is_refused(dtype: torch.dtype, wrong: torch.Tensor) -> None:
    params = low_parameters([(4, 2)], dtype)
    optimizer = CASES["SGD"].ours(params, master_weights=True)
    train(optimizer, range(1))
    key = "param_low" if dtype == torch.bfloat16 else "master"
    optimizer.state[params[0]][key] = wrong
    before = numbers(params[0])
    with pytest.raises(ValueError, match=r"torch\.optim has no such option as master_weights=True"):
        optimizer.step()
    assert_equal(numbers(params[0]), before, "parameter")
