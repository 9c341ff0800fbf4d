"""States in 16 bits, rounded by a dither: its numbers, what it makes right, who counts steps for it.

That the kernels have the bits of the reference is tested with every rule (test_storage_kernels.py),
every optimizer (test_storage_optim.py, test_masters.py, test_stochastic_rounding.py) and on processes
(test_distributed_storage.py).
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor

import fastopt
from _kernel_cases import assert_same_bits, values
from _optim_cases import EVERY, FEW_BITS, Mirror, Options, parameters, set_gradients, step_and_check
from fastopt import kernels, reference
from fastopt.reference.dither import BLOCK, half_draws
from fastopt.reference.storage import round_float16, round_stochastic, store_state, widen

F32, F16, BF16 = np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)
each_half = pytest.mark.parametrize("half", [F16, BF16], ids=str)

# ---- the draws ----------------------------------------------------------------------------------


def test_draws_are_uniform_over_steps_and_places() -> None:
    draws = np.stack([half_draws(np.arange(5 * BLOCK), step=t, state=0) for t in range(1, 2001)])
    x = draws / 2**16
    assert abs(x.mean() - 0.5) < 1e-3
    assert np.abs(x.mean(0) - 0.5).max() < 5 * np.sqrt(1 / 12 / 2000)
    assert abs(x.var() - 1 / 12) < 1e-3
    lower = (draws & 0xFF) / 2**8  # which decides where little is cut off
    assert np.abs(lower.mean(0) - 0.5 + 2**-9).max() < 5 * np.sqrt(1 / 12 / 2000)


@pytest.mark.parametrize("lag", [1, 2, 3, 7])
def test_draws_of_one_place_do_not_follow_from_each_other(lag: int) -> None:
    x = np.stack([half_draws(np.arange(512), step=t, state=0) for t in range(1, 2001)]) / 2**16 - 0.5
    assert np.abs((x[lag:] * x[:-lag]).mean(0)).max() * 12 < 5 / np.sqrt(2000)
    assert abs((x[:, lag:] * x[:, :-lag]).mean()) * 12 < 1e-2


def test_states_and_blocks_have_draws_of_their_own() -> None:
    places = np.arange(8 * BLOCK)
    states = [half_draws(places, step=3, state=number) for number in range(5)]
    for i, one in enumerate(states):
        for other in states[i + 1 :]:
            assert (one == other).mean() < 0.01
        blocks = one.reshape(8, BLOCK)
        assert all((blocks[0] == other).mean() < 0.01 for other in blocks[1:])


# ---- rounding -----------------------------------------------------------------------------------


def rounded(x: Any, draws: Any, half: Any) -> Any:
    if half == BF16:
        return round_stochastic(x, draws).view(BF16)
    return round_float16(x, draws)


@each_half
def test_what_the_type_holds_stays(half: np.dtype[Any]) -> None:
    every = np.arange(2**16, dtype=np.uint16).view(half)
    every = every[~np.isnan(widen(every))]
    for draw in (0, 1, 7, 8, 4095, 32768, 65527, 65535):
        got = rounded(widen(every), np.full(every.size, draw, np.uint16), half)
        assert_same_bits(got, every, draw)


@each_half
def test_it_is_right_on_average(half: np.dtype[Any], random: np.random.Generator) -> None:
    """Over all draws, by less than the part of a last place that 13 bits can tell; denormals, too."""
    every = np.arange(0, 2**16, 8, dtype=np.uint16)
    limits = ml_dtypes.finfo(half)
    exponents = random.uniform(limits.minexp - limits.nmant, limits.maxexp - 0.01, 100)
    x = (random.choice([-1, 1], 100) * np.exp2(exponents)).astype(F32)
    tiny = [float(limits.smallest_subnormal) * part for part in (0.01, 0.5, 0.75, 1.25, 3.0)]
    for number in [*x, *np.asarray(tiny, F32)]:
        got = widen(rounded(np.full(every.size, number, F32), every, half)).astype(np.float64)
        last = np.unique(got)
        assert len(last) <= 2
        assert last[0] <= number <= last[-1]
        place = last[-1] - last[0] if len(last) == 2 else abs(number) * 2.0**-limits.nmant
        assert abs(got.mean() - number) <= max(place, float(limits.smallest_subnormal)) * 2.0**-12


@each_half
def test_infinities_and_nans(half: np.dtype[Any]) -> None:
    bits = np.array([0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFFFFFFF, 0x7F7FFFFF], np.uint32)
    for draw in (0, 65535):
        got = widen(rounded(bits.view(F32), np.full(6, draw, np.uint16), half))
        assert got[:2].tolist() == [np.inf, -np.inf]
        assert np.isnan(got[2:5]).all()
    assert np.isposinf(got[5])


@each_half
@pytest.mark.parametrize("kind", ["normal", "bits", "extreme", "special"])
def test_kernels_round_by_it(
    half: np.dtype[Any], kind: str, target: str, random: np.random.Generator
) -> None:
    """At every size around a vector and a block; x is what lion makes of 0 and x with β₂ = 0."""
    for size in [*range(1, 70), 255, 256, 257, 511, 513, 1000]:
        x = values(random, size, F32, kind)
        state = np.zeros(size, half)
        kernels.lion_(np.zeros(size, F32), x, state, step=5, lr=0.0, betas=(0.0, 0.0))
        with np.errstate(all="ignore"):
            x = np.float32(0) * np.float32(0) + x
        assert_same_bits(state, store_state(x, half, step=5, state=0))


# ---- what it is for -----------------------------------------------------------------------------

FALLING = {case: (name, options) for name, it in EVERY.items() for case, options in it.falling.items()}
STORED: dict[str, tuple[torch.dtype, Options]] = {
    "states": (torch.float32, {"state_dtype": torch.bfloat16}),
    "model": (torch.bfloat16, {}),
    "masters": (torch.bfloat16, {"master_weights": True, "state_dtype": torch.bfloat16}),
    "random rounding": (torch.bfloat16, {"stochastic_rounding": True}),
}


def step_size(name: str, options: Options, dtype: torch.dtype, steps: int = 2000) -> float:
    """The mean step of 2048 elements, long after their noisy gradients have fallen tenfold."""
    param = torch.ones(2048, dtype=dtype)
    optimizer: Any = getattr(fastopt.optim, name)([param], **options)
    generator = torch.Generator().manual_seed(0)
    total = 0.0
    for step in range(steps):
        size = 1.0 if step < 200 else 0.1
        param.data.fill_(1 if name == "LAMB" else 0)
        before = param.float().mean().item()
        param.grad = (size * (1 + 0.3 * torch.randn(2048, generator=generator))).to(dtype)
        optimizer.step()
        if step >= steps - 100:
            total += before - param.float().mean().item()
    return total / 100


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("case", FALLING)
def test_states_shrink_when_gradients_do(case: str, stored: str) -> None:
    """Rounded to nearest, averages of a decay near 1 cannot: AdamW's step was a quarter of this."""
    name, options = FALLING[case]
    dtype, storage = STORED[stored]
    if name == "LAMB" and stored != "states":
        return  # which has no masters, and steps too small for bfloat16 beside 1
    ratio = step_size(name, options | storage, dtype) / step_size(name, options, torch.float32)
    assert 0.9 < ratio < 1.1


# ---- counting -----------------------------------------------------------------------------------

COUNTLESS: dict[str, Options] = {"SGD": {"lr": 0.1, "momentum": 0.9}, "Lion": {"lr": 0.01}}


@pytest.mark.parametrize("name", COUNTLESS)
def test_who_does_not_count_steps_does_so_for_16_bits(name: str) -> None:
    params = [*parameters(torch.bfloat16), *parameters()]
    optimizer = EVERY[name].ours(params, **COUNTLESS[name])
    mirror = Mirror(name, optimizer)
    for seed in range(3):
        set_gradients(params, seed)
        step_and_check(mirror)
    steps = [optimizer.state[param].get("step") for param in params]
    half = len(params) // 2
    assert all(step == 3 for step in steps[:half])
    assert all(step is None for step in steps[half:])


def test_torchs_checkpoint_has_no_count_of_sgd_and_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Momentum goes on from what it was; the dither begins with step 1."""
    params, theirs = parameters(torch.bfloat16), parameters(torch.bfloat16)
    options = COUNTLESS["SGD"]
    torchs = torch.optim.SGD(theirs, **options)
    set_gradients(theirs, 0)
    torchs.step()
    optimizer: Any = fastopt.optim.SGD(params, **options)
    optimizer.load_state_dict(torchs.state_dict())
    with torch.no_grad():
        for ours, other in zip(params, theirs, strict=True):
            ours.copy_(other)
    mirror = Mirror("SGD", optimizer)
    for group in optimizer.param_groups:
        for param in group["params"]:
            mirror._take_in(param, group)
            buffer = optimizer.state[param]["momentum_buffer"]
            mirror.states[param]["momentum_buffer"] = mirror_array(buffer)
    rule = mirror.case.rule

    def going_on(*arrays: Any, step: int, **more: Any) -> Any:
        """As a step that is not the first, with the dither of one that is."""
        results = rule(*(widen(it) for it in arrays), step=2, **more)
        return results[0], store_state(results[1], BF16, step=step, state=0, like=arrays[0])

    monkeypatch.setattr(reference, "sgd", going_on)
    for seed in range(1, 4):
        set_gradients(params, seed)
        step_and_check(mirror)
    saved = optimizer.state_dict(as_torch=True)
    assert all(state.keys() == {"momentum_buffer"} for state in saved["state"].values())
    torch.optim.SGD(parameters(torch.bfloat16), **options).load_state_dict(saved)


def mirror_array(tensor: Tensor) -> Any:
    return tensor.view(torch.uint16).numpy().copy().view(BF16)


# ---- a difference of two averages ---------------------------------------------------------------


@pytest.mark.parametrize("state_dtype", [torch.bfloat16, torch.float16, "int8"], ids=str)
def test_centered_rmsprop_refuses_few_bits(state_dtype: Any) -> None:
    match = r"^state_dtype=.*: RMSprop(\(centered=True\) divides by the difference| keeps squares)"
    low, centered = {"state_dtype": state_dtype}, {"centered": True}
    RMSprop = fastopt.optim.RMSprop
    with pytest.raises(ValueError, match=match):
        RMSprop(parameters(), **centered, **low)
    with pytest.raises(ValueError, match=match):
        RMSprop([{"params": parameters(), **centered}], **low)
    with pytest.raises(ValueError, match=match):
        RMSprop([{"params": parameters(), **low}], **centered)
    optimizer = RMSprop(parameters(), **centered)
    with pytest.raises(ValueError, match=match):
        optimizer.add_param_group({"params": parameters(shapes=[(3,)]), **low})
    optimizer.param_groups[0]["state_dtype"] = state_dtype  # by hand
    set_gradients(optimizer.param_groups[0]["params"], 0)
    with pytest.raises(ValueError, match=match):
        optimizer.step()
    if state_dtype != torch.float16:
        saved = RMSprop(parameters(), **low).state_dict()
        saved["param_groups"][0]["centered"] = True
        with pytest.raises(ValueError, match=match):
            RMSprop(parameters()).load_state_dict(saved)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_centered_rmsprop_keeps_its_averages_in_float32(dtype: torch.dtype) -> None:
    """Of 16-bit parameters, whose other states are as the parameter; from torch's checkpoint, too."""
    options = FEW_BITS["RMSprop"] | {"centered": True}
    params = parameters(dtype)
    optimizer: Any = fastopt.optim.RMSprop(params, **options)
    mirror = Mirror("RMSprop", optimizer)
    for seed in range(3):
        set_gradients(params, seed)
        step_and_check(mirror)
    theirs = torch.optim.RMSprop(parameters(dtype), **options)
    set_gradients(theirs.param_groups[0]["params"], 0)
    theirs.step()
    loaded: Any = fastopt.optim.RMSprop(parameters(dtype), **options)
    loaded.load_state_dict(theirs.state_dict())
    for state in [*optimizer.state.values(), *loaded.state.values()]:
        assert state["square_avg"].dtype == state["grad_avg"].dtype == torch.float32
        assert state["momentum_buffer"].dtype == dtype


def test_centered_rmsprop_of_a_bfloat16_model_takes_no_leap() -> None:
    """With averages in bfloat16, single weights moved by 132 at a rate of 10⁻³."""
    param = torch.zeros(4096, dtype=torch.bfloat16)
    optimizer = fastopt.optim.RMSprop([param], lr=1e-3, centered=True)
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for _ in range(300):
        param.zero_()
        param.grad = (1 + 0.01 * torch.randn(4096, generator=generator)).bfloat16()
        optimizer.step()
        largest = max(largest, param.abs().max().item())
    assert largest < 0.5


# ---- what 16 bits cannot hold -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["AdamW", "Adagrad", "RMSprop"])
def test_squares_in_float16_warn(name: str) -> None:
    def steps(**options: Any) -> None:
        params = parameters(torch.float16, [(3, 4)])
        optimizer = EVERY[name].ours(params, **options)
        set_gradients(params, 0)
        optimizer.step()

    with pytest.warns(UserWarning, match=rf"fastopt.optim.{name} keeps .* set state_dtype"):
        steps()


@pytest.mark.filterwarnings("error")
def test_nothing_else_warns() -> None:
    for dtype, options in [
        (torch.float16, {"state_dtype": torch.float32}),
        (torch.float16, {"master_weights": True}),
        (torch.bfloat16, {}),
    ]:
        params = parameters(dtype, [(3, 4)])
        optimizer = fastopt.optim.AdamW(params, **options)
        set_gradients(params, 0)
        optimizer.step()
    params = parameters(torch.float16, [(3, 4)])
    optimizer = fastopt.optim.SGD(params, momentum=0.9)
    set_gradients(params, 0)
    optimizer.step()


def test_the_references_average_is_a_state() -> None:
    average, value = np.ones(600, BF16), np.full(600, 1.3, BF16)
    after, corrected = reference.tail.corrected_ema(average, value, decay=0.9, step=7)
    ours, state = average.copy(), np.zeros(600, BF16)
    kernels.ema_(ours, value, state, step=7, decay=0.9)
    assert_same_bits(ours, after)
    assert_same_bits(state, corrected)


# ---- long runs ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("steps", [600, 3000, 10000])
def test_long_runs_end_where_float32_does(steps: int, set_threads: Any) -> None:
    """Rounded to nearest, states in bfloat16 ended at 3.6 times the loss after 10,000 steps."""
    run = runpy.run_path(str(Path(__file__).parents[2] / "bench" / "long_run.py"))["run"]
    set_threads(1)
    losses = {
        stored: np.array([run(stored, seed, steps).train for seed in range(3)])
        for stored in (
            "float32",
            "float32, bf16 state",
            "bf16, stochastic",
            "bf16, masters, bf16 state",
        )
    }
    spread = losses["float32"].std(ddof=1)
    for stored, ends in losses.items():
        assert abs(ends.mean() - losses["float32"].mean()) < spread, stored
