"""Rules with sums over a tensor, and rules that keep numbers."""

from collections.abc import Callable
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from test_rules import SIZES, check, numbers

from fastopt.reference import lamb
from fastopt.reference.storage import store_state
from fastopt.rules import (
    RuleError,
    count,
    library,
    maximum,
    mean,
    minimum,
    norm,
    rule,
    sqrt,
    total,
    where,
)
from fastopt.rules.library import compiled
from fastopt.verify import packed, programs
from fastopt.verify.compare import Report
from fastopt.verify.pools import Pools


@rule
def lamb_rule(
    p, g, exp_avg, exp_avg_sq, *, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01
):
    """LAMB but for what it does where a norm is 0."""
    b1, b2 = betas
    exp_avg = b1 * exp_avg + (1 - b1) * g
    exp_avg_sq = b2 * exp_avg_sq + (1 - b2) * (g * g)
    c1, root = 1 - b1**t, sqrt(1 - b2**t)
    u = (root / c1) * (exp_avg / (sqrt(exp_avg_sq) + eps * root)) + weight_decay * p
    return p - (lr * (norm(p) / norm(u))) * u, exp_avg, exp_avg_sq


@rule
def four(p, g, m, *, t, lr=0.1):
    """Every kind of sum in one pass, one of them in a second."""
    kept = where(g > 0, 1.0, 0.0)
    share = count(g > 0) / maximum(mean(abs(g)), 1e-3)
    m = m + g * minimum(share, 10.0)
    size = total(m * kept) + norm(g)
    return p - lr / (1 + abs(size)) * m, m


LARGE = (4095, 4096, 4097, 16384, 16385, 200_003)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [*SIZES, *LARGE])
def test_sums_have_the_bits_of_the_function(
    target: str, size: int, dtype: Any, set_threads: Callable[[int], None]
) -> None:
    rng = np.random.default_rng(size)
    arrays = [rng.standard_normal(size).astype(dtype) for _ in range(4)]
    arrays[3] = abs(arrays[3])
    for threads in (1, 2):
        set_threads(threads)
        check(lamb_rule, arrays, t=3)
        check(four, arrays[:3], t=3)
    if size:
        param, m, v = lamb(*arrays, step=3)
        for a, b in zip(lamb_rule.reference(*arrays, t=3), (param, m, v), strict=True):
            np.testing.assert_array_equal(a, b)


def test_sums_of_numbers_of_every_kind(target: str) -> None:
    rng = np.random.default_rng(0)
    check(four, [numbers(rng, 5000, np.float32) for _ in range(3)])


def test_a_list_of_tensors_of_all_sizes_and_steps(set_threads: Callable[[int], None]) -> None:
    @rule(sums=True)
    def at_times(p, g, m, *, t, lr=0.1):
        if t == 1:
            return p, g
        if t == 2:
            return p - lr * norm(g) * m, m + g
        return p - lr * m * (1.0 / maximum(total(m * mean(g)), 1.0)), m + g

    rng = np.random.default_rng(0)
    sizes = [1, 100, 40_000, 7, 16_384, 100_000, 3, 5]
    steps = [1, 2, 3, 1, 3, 2, 2, 3]
    columns = [[rng.standard_normal(n).astype(np.float32) for n in sizes] for _ in range(3)]
    for threads in (1, 2):
        set_threads(threads)
        got = [[it.copy() for it in column] for column in columns]
        at_times.kernel_(*got, t=steps)
        for k, t in enumerate(steps):
            want = at_times.reference(*(column[k] for column in columns), t=t)
            for a, b in zip((got[0][k], got[2][k]), want, strict=True):
                np.testing.assert_array_equal(a, b)


# ---- however stored ----

PACKED = {it.__name__: it for it in (library.stable_adamw, library.mars, library.cautious_adamw)}
PACKED["lamb"] = compiled.lamb
# Rows that end within blocks, blocks that end within chunks, and all of a unit, around one, of many.
SHAPES = ((64, 64), (5, 1023), (4, 4096), (3, 16_385), (70, 900), (40_001,), (1,), (0,))


@cache
def stored(number: int, name: str) -> packed.PackedTrial:
    kind = packed.KINDS[number]
    rule = programs.Stored(PACKED[name])
    pool = Pools(np.dtype(np.float32), seed=0).runs.tame
    return packed.PackedTrial(kind, rule, {}, SHAPES, pool, np.random.default_rng(0))


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize(
    "number", range(len(packed.KINDS)), ids=[f"{it.dtype_name} {it.name}" for it in packed.KINDS]
)
def test_sums_have_the_bits_of_the_function_however_stored(
    target: str, number: int, name: str, set_threads: Callable[[int], None]
) -> None:
    """Sums are of what the parameter and the states stand for: masters, and codes read."""
    report = Report()
    for threads in (1, 2):
        set_threads(threads)
        stored(number, name).check(report, report.row(name, "", target), threads)
    assert report.elements > 2_000_000
    assert report.wrong_bits == 0, report.examples[0]


@pytest.mark.parametrize("options", [{"state_dtype": "int8"}, {"master_weights": True}], ids=str)
def test_sums_clip_and_average_however_stored(options: Any) -> None:
    """As in float32 beside float32 states: the first step's sums see no code yet."""
    results = []
    for around in ({}, options):
        torch.manual_seed(0)
        start = torch.randn(300, 70).bfloat16()
        param = torch.nn.Parameter(start if "master_weights" in around else start.float())
        optimizer: Any = four.optimizer("Four")([param], max_grad_norm=1.0, ema_decay=0.5, **around)
        param.grad = torch.randn(300, 70).bfloat16().to(param.dtype)
        optimizer.step()
        state = optimizer.state[param]
        results.append((param.detach().bfloat16(), state["ema"], optimizer.grad_norm))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert results[0][2] == results[1][2]


AS_STORED = {
    torch.float32: np.float32,
    torch.bfloat16: ml_dtypes.bfloat16,
    torch.float16: np.float16,
}


@pytest.mark.parametrize("dtype", AS_STORED, ids=str)
def test_an_optimizer_with_sums_clips_and_averages(dtype: torch.dtype) -> None:
    """The average takes part in the last pass only; the gradient's factor in all."""
    torch.manual_seed(0)
    param = torch.nn.Parameter(torch.randn(300, 70).to(dtype))
    optimizer: Any = four.optimizer("Four")([param], max_grad_norm=1.0, ema_decay=0.5)
    state = [param.detach().float().numpy().copy(), np.zeros((300, 70), np.float32)]
    average = state[0].copy()
    for t in (1, 2, 3):
        param.grad = torch.randn(300, 70).to(dtype)
        optimizer.step()
        factor = min(1.0, 1.0 / (float(optimizer.grad_norm) + 1e-6))
        grad = np.float32(factor) * param.grad.float().numpy()
        state = list(four.reference(state[0], grad, state[1], t=t))
        average = np.float32(0.5) * average + np.float32(0.5) * state[0]
        stored = store_state(state[1], AS_STORED[dtype], step=t, state=0)
        state = [torch.from_numpy(state[0]).to(dtype).float().numpy(), stored.astype(np.float32)]
        np.testing.assert_array_equal(param.detach().float().numpy(), state[0])
        np.testing.assert_array_equal(optimizer.state[param]["ema"].numpy(), average)


def test_options_with_sums_are_announced() -> None:
    @rule
    def hidden(p, g, *, t, by_norm=False):
        return p - g / norm(g) if by_norm else p - g

    with pytest.raises(TypeError, match=r"expected @rule\(sums=True\)"):
        hidden.kernel_(np.ones(3, np.float32), np.ones(3, np.float32), by_norm=True)


def test_nothing_branches_on_a_sum() -> None:
    with pytest.raises(RuleError, match="an if on a sum"):

        @rule
        def branching(p, g, *, t):
            return p - g if norm(g) > 1 else p


# ---- numbers that are kept ----


@rule(numbers={"weights": 0.0, "largest": -1.0})
def weighted(p, g, z, weights, largest, *, t, lr=0.1):
    """A running sum and a maximum of rates, as Schedule-Free has them."""
    largest = maximum(largest, lr)
    weight = largest * largest * t
    weights = weights + weight
    z = z - lr * g
    c = weight / weights
    return (1 - c) * p + c * z, z, weights, largest


def test_kept_numbers_go_in_and_come_out(target: str) -> None:
    rng = np.random.default_rng(0)
    arrays = [numbers(rng, 130, np.float32) for _ in range(3)]
    *_, weights, largest = weighted.reference(*arrays, t=3, weights=2.5, largest=0.3)
    assert largest == 0.3
    assert weights == 2.5 + 0.3 * 0.3 * 3
    got = [it.copy() for it in arrays]
    weighted.kernel_(*got, t=3, weights=2.5, largest=0.3)
    want = weighted.reference(*arrays, t=3, weights=2.5, largest=0.3)
    np.testing.assert_array_equal(got[0], want[0])


def test_an_optimizer_keeps_them_for_each_parameter() -> None:
    torch.manual_seed(0)
    kind: Any = weighted.optimizer("Weighted")
    params = [torch.nn.Parameter(torch.randn(n)) for n in (3, 100, 5)]
    optimizer = kind(params)
    mirror = [[it.detach().numpy().copy(), np.zeros(it.shape, np.float32), 0.0, -1.0] for it in params]
    for t, lr in enumerate((0.1, 0.3, 0.05, 0.2)):
        optimizer.param_groups[0]["lr"] = lr
        for k, param in enumerate(params):
            if k == 2 and t == 0:
                continue  # it begins later
            param.grad = torch.randn_like(param)
            p, z, weights, largest = mirror[k]
            mirror[k] = list(
                weighted.reference(
                    p, param.grad.numpy(), z, t=t + (k != 2), lr=lr, weights=weights, largest=largest
                )
            )
        optimizer.step()
        if t == 1:  # a checkpoint in between
            saved = optimizer.state_dict()
            assert saved["state"][0]["weights"].dtype == torch.float64
            optimizer = kind(params)
            optimizer.load_state_dict(saved)
    for param, (p, z, weights, largest) in zip(params, mirror, strict=True):
        state = optimizer.state[param]
        np.testing.assert_array_equal(param.detach().numpy(), p)
        np.testing.assert_array_equal(state["z"].numpy(), z)
        assert (float(state["weights"]), float(state["largest"])) == (weights, largest)
        assert state["weights"].dtype == torch.float64


def test_what_is_kept_is_checked() -> None:
    with pytest.raises(RuleError, match=r"returns .* for k; expected a Number"):

        @rule(numbers=("k",))
        def array_kept(p, g, k, *, t):
            return p - g, g

    with pytest.raises(RuleError, match="comes of a sum over the tensor"):

        @rule(numbers=("k",))
        def sum_kept(p, g, k, *, t):
            return p - g, k + norm(g)

    with pytest.raises(RuleError, match="not its last arguments"):

        @rule(numbers=("k",))
        def none_kept(p, g, *, t):
            return p - g
