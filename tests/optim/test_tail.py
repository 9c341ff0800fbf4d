"""Clipping, unscaling and averaging inside the step: bits, norms, errors, evaluation, checkpoints."""

from __future__ import annotations

import copy
import inspect
import io
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastopt
from _optim_cases import (
    CASES,
    DTYPES,
    FULL,
    STORED,
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
    subclass,
)
from fastopt import reference
from fastopt.reference.storage import widen

each_optimizer = pytest.mark.parametrize("name", CASES)
TAILS: dict[str, Options] = {
    "clip": {"max_grad_norm": 1.0},
    "loose clip": {"max_grad_norm": 1e6},
    "average": {"ema_decay": 0.9},
    "corrected average": {"ema_decay": 0.9, "ema_bias_correction": True},
    "clip and average": {"max_grad_norm": 0.1, "ema_decay": 0.99},
}


class TailMirror(Mirror):
    """The references around the rule's reference."""

    def __init__(self, name: str, optimizer: torch.optim.Optimizer, tail: Options) -> None:
        super().__init__(name, optimizer)
        self.tail = tail
        self.averages: dict[Tensor, Array] = {}
        self.norm = 0.0

    def follow(self) -> None:
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        grads = [param.grad for param in params if param.grad is not None]
        self.norm = reference.grad_norm([array_of(grad) for grad in grads])
        for param in params:
            start = np.zeros_like if self.tail.get("ema_bias_correction") else np.copy
            if param.grad is not None:
                self.averages.setdefault(param, start(widen(array_of(param))))
        super().follow()

    def _grad(self, param: Tensor) -> Array:
        grad = widen(super()._grad(param))
        if "max_grad_norm" not in self.tail:
            return grad
        factor = reference.clip_factor(self.norm, self.tail["max_grad_norm"])
        return np.asarray(grad.dtype.type(factor) * grad)

    def _updated(self, param: Tensor, value: Array) -> None:
        if "ema_decay" in self.tail:
            self.averages[param] = reference.ema(
                self.averages[param], value, decay=self.tail["ema_decay"]
            )

    def check(self) -> None:
        for param, array in self.params.items():
            assert_same_bits(param, array)
            if "ema_decay" in self.tail and param in self.averages:
                assert_same_bits(self.optimizer.state[param]["ema"], self.averages[param])


SPREAD = [*itertools.product(DTYPES, (1, 2, 3)), (torch.bfloat16, 3), (torch.float16, 2)]
# Who cuts the elements up for the threads knows nothing of the rule: AdamW tells of every count.
COMBINATIONS = [
    pytest.param(name, tail, dtype, threads, id=f"{name}-{tail}-{option_id(dtype)}-{threads}")
    for name, tail, (dtype, threads) in itertools.product(CASES, TAILS, SPREAD)
    if name == "AdamW" or threads == {torch.float32: 2, torch.float64: 3}.get(dtype, threads)
]


@pytest.mark.parametrize(("name", "tail", "dtype", "threads"), COMBINATIONS)
def test_every_combination_equals_its_reference(
    name: str, tail: str, dtype: torch.dtype, threads: int, set_threads: Any, backend: str
) -> None:
    set_threads(threads)
    params = parameters(dtype, shapes=[(67, 3), (257,), (), (0,), (300, 301)])
    optimizer = CASES[name].ours(params, **FULL[name], **TAILS[tail])
    mirror = TailMirror(name, optimizer, TAILS[tail])
    for step in range(3):
        set_gradients(params, seed=step)
        if step < 1:
            params[1].grad = None
        before = [None if p.grad is None else p.grad.clone() for p in params]
        mirror.follow()
        optimizer.step()
        mirror.check()
        if "max_grad_norm" in TAILS[tail]:
            assert optimizer.grad_norm.item() == mirror.norm
        for param, grad in zip(params, before, strict=True):
            assert (param.grad is None) == (grad is None)
            assert grad is None or torch.equal(param.grad, grad)


@pytest.mark.parametrize("dtype", [*DTYPES, *STORED], ids=option_id)
def test_the_norm_has_the_same_bits_on_every_target_and_thread_count(
    dtype: torch.dtype, set_threads: Any, backend: str
) -> None:
    decades = 3 if dtype == torch.float16 else 18
    rng = np.random.default_rng(1)
    for sizes in ([1], [31, 33], [4095, 4096, 4097], [70001], [3] * 5000, [0, 5, 0], [1 << 20]):
        params = [torch.nn.Parameter(torch.zeros(size, dtype=dtype)) for size in sizes]
        for param in params:
            scale = 10.0 ** rng.integers(-decades, decades)
            param.grad = torch.from_numpy(rng.standard_normal(param.numel()) * scale).to(dtype)
        expected = reference.grad_norm([array_of(p.grad) for p in params])
        for threads in (1, 2, 5):
            set_threads(threads)
            optimizer = fastopt.optim.SGD(params, lr=0.0, max_grad_norm=1.0)
            optimizer.step()
            assert optimizer.grad_norm.item() == expected
        torch_norm = torch.nn.utils.get_total_norm([p.grad.double() for p in params])
        assert expected == pytest.approx(torch_norm.item(), rel=1e-12)


@each_optimizer
def test_there_is_no_norm_before_the_first_clipped_step(name: str) -> None:
    params = parameters(shapes=[(5,)])
    set_gradients(params, seed=0)
    for options in ({}, {"max_grad_norm": 1.0}):
        optimizer: Any = CASES[name].ours(params, **options)
        assert optimizer.grad_norm is None
        assert hasattr(optimizer, "grad_norm")
        assert dict(inspect.getmembers(optimizer))["grad_norm"] is None
        optimizer.step()
        assert (optimizer.grad_norm is None) == (not options)
        for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
            assert again.grad_norm is None  # of no step of its own
            again.grad_norm_group = "of the copy"
            assert optimizer.grad_norm_group is None


class Asking(fastopt.optim.SGD):
    """A wrapper that asks what it wraps for what it lacks, as Lightning's does."""

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["wrapped"], name)


@pytest.mark.parametrize("way", ["copying", "asking"])
@pytest.mark.parametrize("start", ["new", "unpickled", "converted", "loaded"])
def test_a_wrapper_has_the_norm_and_its_group(start: str, way: str) -> None:
    """Made before the first step, and of a class of its own."""
    params = parameters(shapes=[(5,)])
    options = {"lr": 0.1, "max_grad_norm": 1.0}
    optimizer: Any = fastopt.optim.SGD(params, **options)
    if start == "unpickled":
        optimizer = pickle.loads(pickle.dumps(optimizer))
        params = optimizer.param_groups[0]["params"]
    elif start == "converted":
        optimizer = fastopt.from_torch(torch.optim.SGD(params, lr=0.1))
        optimizer.param_groups[0].update(options)
    elif start == "loaded":
        optimizer.load_state_dict(optimizer.state_dict())
    wrapper: Any = object.__new__(Asking)
    vars(wrapper).update(vars(optimizer) if way == "copying" else {"wrapped": optimizer})
    set_gradients(params, seed=0)
    optimizer.step()
    assert optimizer.grad_norm.item() == reference.grad_norm([array_of(params[0].grad)])
    assert torch.equal(wrapper.grad_norm, optimizer.grad_norm)
    wrapper.grad_norm_group = "a group"
    assert optimizer.grad_norm_group == "a group"


def test_the_norm_lies_on_the_cpu_whatever_the_default_device() -> None:
    params = parameters(shapes=[(5,)])
    set_gradients(params, seed=0)
    optimizer = fastopt.optim.SGD(params, max_grad_norm=1.0)
    with torch.device("meta"):
        optimizer.step()
        norm = optimizer.grad_norm
    assert norm.item() == reference.grad_norm([array_of(params[0].grad)])


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_norm_that_is_not_finite_is_handled_as_by_clip_grad_norm(bad: float) -> None:
    ours, theirs = parameters(shapes=[(5,), (7,)]), parameters(shapes=[(5,), (7,)])
    for params in (ours, theirs):
        set_gradients(params, seed=0)
        params[1].grad[2] = bad
    optimizer = fastopt.optim.SGD(ours, lr=0.1, max_grad_norm=1.0)
    optimizer.step()
    torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    torch.optim.SGD(theirs, lr=0.1).step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, equal_nan=True)
    assert not np.isfinite(optimizer.grad_norm.item())


def test_error_if_nonfinite_comes_before_anything_is_written() -> None:
    params = parameters(shapes=[(5,), (7,)])
    set_gradients(params, seed=0)
    params[1].grad[2] = torch.inf
    before = [param.detach().clone() for param in params]
    optimizer = fastopt.optim.Adam(params, max_grad_norm=1.0, error_if_nonfinite=True)
    with pytest.raises(RuntimeError, match="non-finite"):
        optimizer.step()
    assert not optimizer.state
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_grad_norm": -1.0}, "max_grad_norm"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm"),
        ({"error_if_nonfinite": True}, "error_if_nonfinite"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"ema_decay": float("nan")}, "ema_decay"),
        ({"ema_bias_correction": True}, "ema_bias_correction"),
    ],
)
@each_optimizer
def test_options_out_of_range(name: str, options: Options, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        CASES[name].ours(parameters(), **options)


def test_groups_that_clip_differently_are_refused() -> None:
    params = parameters(shapes=[(5,), (7,)])
    set_gradients(params, seed=0)
    groups = [{"params": params[:1]}, {"params": params[1:], "max_grad_norm": 2.0}]
    optimizer = fastopt.optim.SGD(groups, max_grad_norm=1.0)
    with pytest.raises(ValueError, match="max_grad_norm: expected the same in every group"):
        optimizer.step()


@pytest.mark.parametrize("options", [{"max_grad_norm": 1.0}, {"ema_decay": 0.9}])
def test_parameters_on_torchs_path_are_refused_before_anything_is_written(options: Options) -> None:
    params = [*parameters(shapes=[(5,)]), complex64()]
    for param in params:
        param.grad = torch.ones_like(param)
    before = params[0].detach().clone()
    optimizer = fastopt.optim.SGD(params, lr=0.1, **options)
    with pytest.raises(ValueError, match=next(iter(options))):
        optimizer.step()
    assert torch.equal(params[0], before)


def test_swap_ema_and_ema_parameters() -> None:
    for bias in (False, True):
        params = parameters(shapes=[(5,), (7,)])
        optimizer = fastopt.optim.AdamW(params, ema_decay=0.5, ema_bias_correction=bias)
        start = [param.detach().clone() for param in params]
        history: list[list[Tensor]] = []
        for step in range(4):
            set_gradients(params, seed=step)
            params[1].grad = None
            optimizer.step()
            history.append([param.detach().clone() for param in params])
        weights = torch.tensor([0.5**k for k in (4, 3, 2, 1)])
        mean = sum(w * values[0] for w, values in zip(weights, history, strict=True))
        expected = mean / (1 - 0.5**4) if bias else mean + 0.5**4 * start[0]
        averages = optimizer.ema_parameters()
        torch.testing.assert_close(averages[0], expected)
        assert torch.equal(averages[1], start[1])
        trained = [param.detach().clone() for param in params]
        with optimizer.swap_ema():
            assert torch.equal(params[0], averages[0])
        assert all(torch.equal(a, b) for a, b in zip(params, trained, strict=True))


def decays(steps: int) -> list[float]:
    return [0.9 if step < steps // 3 else 0.999 if step < steps // 2 else 0.5 for step in range(steps)]


@each_optimizer
@pytest.mark.parametrize("dtype", [*DTYPES, *STORED], ids=option_id)
def test_a_corrected_average_of_a_constant_is_that_whatever_the_decay(
    name: str, dtype: torch.dtype
) -> None:
    """The weights' sum has the bits of their average of 1; 3 comes within 8 units in the last place."""
    for value in (1.0, 3.0):
        params = [torch.nn.Parameter(torch.full((5,), value, dtype=dtype))]
        optimizer: Any = CASES[name].ours(params, lr=0.0, ema_decay=0.9, ema_bias_correction=True)
        one = np.ones((), np.float64 if dtype == torch.float64 else np.float32)
        weight = np.zeros_like(one)
        for decay in decays(60):
            optimizer.param_groups[0]["ema_decay"] = decay
            params[0].grad = torch.zeros_like(params[0])
            optimizer.step()
            weight = reference.ema(weight, one, decay=decay)
            assert_same_bits(optimizer.state[params[0]]["ema_weight"], weight)
            (average,) = optimizer.ema_parameters()
            exact = torch.full_like(average, value)
            within = 0 if value == 1 else 8 * torch.finfo(average.dtype).eps
            torch.testing.assert_close(average, exact, rtol=within, atol=0)


def test_the_correction_goes_by_how_an_average_began() -> None:
    """Not by what the option says later: an average that began at the parameter needs none."""
    for first, then in ((True, False), (False, True)):
        params = [torch.nn.Parameter(torch.ones(5))]
        optimizer = fastopt.optim.SGD(params, lr=0.0, ema_decay=0.9, ema_bias_correction=first)
        for step in range(6):
            optimizer.param_groups[0]["ema_bias_correction"] = first if step < 3 else then
            params[0].grad = torch.zeros(5)
            optimizer.step()
            torch.testing.assert_close(optimizer.ema_parameters()[0], params[0].detach())


def test_an_average_of_nothing_yet_stands_for_its_parameter() -> None:
    """As a checkpoint may hold it, for parameters that have state before a step."""
    params = parameters(shapes=[(5,)])
    options = {"ema_decay": 0.9, "ema_bias_correction": True}
    saved = fastopt.optim.Adagrad(params, **options).state_dict()
    assert saved["state"][0]["ema_weight"] == 0
    optimizer = fastopt.optim.Adagrad(params, **options)
    optimizer.load_state_dict(saved)
    assert torch.equal(optimizer.ema_parameters()[0], params[0])


@pytest.mark.parametrize("dtype", [*DTYPES, *STORED], ids=option_id)
@pytest.mark.parametrize("way", ["load", "unpickle"])
def test_an_average_that_counted_its_steps_goes_on(dtype: torch.dtype, way: str) -> None:
    """Older checkpoints have ``ema_step``, a float32 number, in place of the weights' sum."""
    options = {"lr": 0.1, "ema_decay": 0.9, "ema_bias_correction": True}
    params = parameters(dtype, shapes=[(5,)])
    unbroken = fastopt.optim.SGD(params, **options)
    for step in range(300):
        set_gradients(params, seed=step)
        unbroken.step()
    older: Any = copy.deepcopy(unbroken)
    (state,) = older.state.values()
    del state["ema_weight"]
    state["ema_step"] = torch.tensor(300.0)
    if way == "load":
        resumed = fastopt.optim.SGD(older.param_groups[0]["params"], **options)
        resumed.load_state_dict(older.state_dict())
    else:
        resumed = pickle.loads(pickle.dumps(older))
    (state,), (expected,) = resumed.state.values(), unbroken.state.values()
    assert state.keys() == expected.keys()
    torch.testing.assert_close(state["ema_weight"], expected["ema_weight"], rtol=1e-6, atol=0)


@each_optimizer
def test_checkpoints_hold_the_average(name: str) -> None:
    def run(steps: range, params: list[Any], optimizer: Any) -> None:
        for step in steps:
            set_gradients(params, seed=step)
            optimizer.step()

    options = {**FULL[name], "ema_decay": 0.9, "ema_bias_correction": True, "max_grad_norm": 1.0}
    params = parameters()
    optimizer = CASES[name].ours(params, **options)
    run(range(3), params, optimizer)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other_params = copy.deepcopy(params)
    other = CASES[name].ours(other_params, **FULL[name])
    other.load_state_dict(torch.load(file, weights_only=True))
    run(range(3, 6), params, optimizer)
    run(range(3, 6), other_params, other)
    for mine, theirs in zip(params, other_params, strict=True):
        assert_same_bits(mine, theirs)
        assert_same_bits(optimizer.state[mine]["ema"], other.state[theirs]["ema"])
    for mine, theirs in zip(optimizer.ema_parameters(), other.ema_parameters(), strict=True):
        assert_same_bits(mine, theirs)


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "Adam", "AdamW"])
def test_fused_honours_the_scaler_for_every_parameter(name: str) -> None:
    """Those that go through torch's step are unscaled and skipped with the rest."""
    results = []
    for fused in (None, True):
        params = [*parameters(shapes=[(9,)]), subclass(), *parameters(torch.bfloat16, [(4,)])]
        optimizer = CASES[name].ours(params, lr=0.1, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for step in range(4):
            set_gradients(params, seed=step)
            for param in params:
                param.grad *= scaler.scale(torch.ones(())).to(param.dtype)
            if step == 2:
                params[0].grad[0] = torch.inf
            before = Snapshot(optimizer)
            scaler.step(optimizer)
            scaler.update()
            if step == 2:
                before.assert_unchanged()
        results.append([param.detach().clone() for param in params])
    for plain, fused_result in zip(*results, strict=True):
        tolerance = 1e-6 if plain.dtype == torch.float32 else 2e-2
        torch.testing.assert_close(plain, fused_result, rtol=tolerance, atol=tolerance)
