"""step_parameters: the bits of whole steps, taken in parts, in threads, while backward goes on."""

from __future__ import annotations

import queue
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

import fastopt
from _optim_cases import (
    CASES,
    EVERY,
    FULL,
    Options,
    array_of,
    assert_same_bits,
    parameters,
    set_gradients,
    sparse_gradient,
)
from conftest import takes

SHAPES = [(67, 3), (257,), (1,), (), (0,), (90, 101), (5,)]
PARTS = [[5, 0], [2], [], [6, 4, 3, 1]]
AROUND: list[Options] = [
    {},
    {"ema_decay": 0.9, "ema_bias_correction": True},
    {"state_dtype": torch.bfloat16},
]


def pair(cls: Any, dtype: torch.dtype = torch.float32, **options: Any) -> list[Any]:
    """Two optimizers of equal parameters, in two groups."""
    made = []
    for _ in range(2):
        params = parameters(dtype, SHAPES)
        groups = [{"params": params[:3]}, {"params": params[3:], "lr": 0.03}]
        made.append(cls(groups, **options))
    return made


def params_of(optimizer: Any) -> list[Tensor]:
    return [it for group in optimizer.param_groups for it in group["params"]]


def feed(optimizers: list[Any], seed: int) -> None:
    for optimizer in optimizers:
        set_gradients(params_of(optimizer), seed)


def assert_equal(first: Any, second: Any) -> None:
    for ours, its in zip(params_of(first), params_of(second), strict=True):
        assert_same_bits(ours, its)
        assert first.state.get(ours, {}).keys() == second.state.get(its, {}).keys()
        for key, value in first.state.get(ours, {}).items():
            if isinstance(value, Tensor):
                both = (it.to_dense() for it in (value, second.state[its][key]))
                assert len({array_of(it).tobytes() for it in both}) == 1, key


def in_parts(optimizer: Any, **options: Any) -> None:
    params = params_of(optimizer)
    for part in PARTS:
        optimizer.step_parameters([params[it] for it in part], **options)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("around", AROUND, ids=str)
def test_parts_have_the_bits_of_the_whole(name: str, around: Options, backend: str) -> None:
    if not takes(backend, name) or (name in ("LAMB", "RMSprop") and "state_dtype" in around):
        pytest.skip("which it does not take")
    whole, parts = pair(EVERY[name].ours, **FULL[name], **around)
    for step in range(3):
        feed([whole, parts], step)
        whole.step()
        in_parts(parts)
        assert_equal(whole, parts)
    for kept in parts.state_dict()["state"].values():
        assert kept.get("step", 3) == 3


@pytest.mark.parametrize(
    "options",
    [{"master_weights": True}, {"stochastic_rounding": True}, {"state_dtype": "int8"}],
    ids=lambda it: next(iter(it)),
)
def test_storage_too(options: Options, backend: str) -> None:
    """Seeds go by the places in the whole optimizer."""
    whole, parts = pair(fastopt.optim.AdamW, torch.bfloat16, **options)
    for step in range(2):
        feed([whole, parts], step)
        whole.step()
        in_parts(parts)
        assert_equal(whole, parts)


@pytest.mark.parametrize("name", ["ADOPT", "StableAdamW"])
def test_rules_in_python(name: str) -> None:
    whole, parts = pair(getattr(fastopt.optim, name))
    for step in range(3):
        feed([whole, parts], step)
        whole.step()
        in_parts(parts)
        assert_equal(whole, parts)


def test_only_what_is_named_and_has_a_gradient() -> None:
    whole, parts = pair(fastopt.optim.AdamW)
    feed([parts], 0)
    params = params_of(parts)
    params[1].grad = None
    grad = params[0].grad.clone()
    parts.step_parameters(params[:2])
    assert list(parts.state) == params[:1]
    assert torch.equal(params[0].grad, grad)
    for ours, its in zip(params_of(whole)[1:], params[1:], strict=True):
        assert_same_bits(its, ours)
    parts.step_parameters([])
    parts.step_parameters(iter(params[:1]))  # again: a second step
    assert parts.state[params[0]]["step"] == 2


def test_what_the_kernels_do_not_take() -> None:
    params, others = (parameters(shapes=[(9, 3), (4,)]) for _ in range(2))
    whole, parts = (fastopt.optim.SGD(it, lr=0.1, momentum=0.9) for it in (params, others))
    for step in range(2):
        for it in (params, others):
            set_gradients(it, step)
            it[0].grad = sparse_gradient(step)
        whole.step()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            parts.step_parameters(others[:1])
        parts.step_parameters(others[1:])
        assert_equal(whole, parts)


# ---- clipping, scaling, copies ----------------------------------------------------------------------


@pytest.mark.parametrize("scale", [None, 1024.0, 3.0])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_the_norm_is_given(scale: float | None, as_tensor: bool, backend: str) -> None:
    whole, parts = pair(fastopt.optim.AdamW, max_grad_norm=0.7)
    for step in range(2):
        feed([whole, parts], step)
        if scale is not None:
            whole.grad_scale = torch.tensor(scale)
        whole.step()
        norm = whole.grad_norm if as_tensor else whole.grad_norm.item()
        given = torch.tensor(scale) if as_tensor and scale else scale
        in_parts(parts, grad_norm=norm, grad_scale=given)
        assert_equal(whole, parts)
        assert parts.grad_norm == whole.grad_norm


def test_a_norm_that_is_not_given_or_of_no_use() -> None:
    _, parts = pair(fastopt.optim.AdamW, max_grad_norm=1.0)
    feed([parts], 0)
    match = r"max_grad_norm=1.0: a step of some parameters does not know the norm of all .*grad_norm"
    with pytest.raises(ValueError, match=match):
        parts.step_parameters(params_of(parts)[:2])
    assert not parts.state
    _, plain = pair(fastopt.optim.AdamW)
    feed([plain], 0)
    with pytest.raises(ValueError, match="grad_norm: expected max_grad_norm with it, or None"):
        plain.step_parameters(params_of(plain)[:2], grad_norm=1.0)
    with pytest.raises(ValueError, match=r"grad_norm: expected a number >= 0, got -1.0"):
        parts.step_parameters(params_of(parts)[:2], grad_norm=-1.0)
    assert not parts.state


@pytest.mark.parametrize("norm", [float("inf"), float("nan")])
def test_a_norm_that_is_not_finite(norm: float) -> None:
    _, parts = pair(fastopt.optim.AdamW, max_grad_norm=1.0, error_if_nonfinite=True)
    feed([parts], 0)
    with pytest.raises(RuntimeError, match="total norm of the gradients is non-finite"):
        parts.step_parameters(params_of(parts)[:2], grad_norm=norm)
    assert not parts.state


def test_what_a_grad_scaler_would_set() -> None:
    whole, parts = pair(fastopt.optim.AdamW)
    feed([whole, parts], 0)
    for it in (whole, parts):
        it.grad_scale, it.found_inf = torch.tensor(16.0), torch.tensor(0.0)
    whole.step()
    in_parts(parts)
    assert_equal(whole, parts)
    parts.found_inf = torch.tensor(1.0)
    in_parts(parts)
    assert_equal(whole, parts)


@pytest.mark.parametrize("wrong", [0.0, -1, float("inf"), float("nan")])
def test_what_is_no_scale(wrong: float) -> None:
    _, parts = pair(fastopt.optim.AdamW)
    feed([parts], 0)
    with pytest.raises(ValueError, match="grad_scale: expected a finite number above 0 or None, got "):
        parts.step_parameters(params_of(parts)[:1], grad_scale=wrong)
    assert not parts.state


def test_copies() -> None:
    params = parameters(shapes=[(5, 3), (4,), (6,)])
    copies = [torch.full_like(it, 7, dtype=torch.bfloat16).detach() for it in params]
    optimizer = fastopt.optim.AdamW(params, copy_to=copies)
    set_gradients(params, 0)
    optimizer.step_parameters([params[2], params[0]])
    assert torch.equal(copies[0], params[0].bfloat16())
    assert (copies[1] == 7).all()
    assert torch.equal(copies[2], params[2].bfloat16())
    others = [torch.zeros(6, dtype=torch.float16), None]  # in their place
    before = copies[2].clone()
    set_gradients(params, 1)
    optimizer.step_parameters([params[2], params[0]], copy_to=others)
    assert torch.equal(others[0], params[2].half())
    assert torch.equal(copies[2], before)
    assert optimizer.param_groups[0]["copy_to"] == copies
    for wrong, got in (([], "0"), (others[0], "Tensor")):
        with pytest.raises(ValueError, match=f"copy_to: expected a list of 1 tensors .*, got {got}"):
            optimizer.step_parameters(params[:1], copy_to=wrong)
    with pytest.raises(ValueError, match=r"copy_to\[0\]: expected shape \(5, 3\)"):
        optimizer.step_parameters(params[:1], copy_to=[torch.zeros(3)])


# ---- around a step ----------------------------------------------------------------------------------


def test_hooks_are_for_whole_steps_and_schedulers_count_parts() -> None:
    _, parts = pair(fastopt.optim.AdamW)
    seen: list[str] = []
    parts.register_step_pre_hook(lambda *_: seen.append("before"))
    parts.register_step_post_hook(lambda *_: seen.append("after"))
    scheduler = LambdaLR(parts, lambda epoch: 0.5**epoch)
    feed([parts], 0)
    in_parts(parts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that the scheduler comes before the optimizer
        scheduler.step()
    assert not seen
    assert parts.param_groups[1]["lr"] == 0.015


class Counts(torch.utils._python_dispatch.TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


REFUSED: list[tuple[Callable[[list[Tensor]], Any], type[Exception], str]] = [
    (lambda it: it[0], TypeError, "params: expected a list of parameters, got a tensor"),
    (lambda it: [it[0], 1], TypeError, r"params\[1\]: expected a parameter, got int"),
    (lambda it: [it[0], torch.ones(3)], ValueError, r"params\[1\]: .* shape \(3,\) that is in none of"),
    (lambda it: [it[0], it[0].data], ValueError, r"params\[1\]: expected one of the optimizer's"),
    (lambda it: [it[0], it[1], it[0]], ValueError, r"params\[2\]: expected each parameter once, got"),
]


@pytest.mark.parametrize(("make", "error", "match"), REFUSED, ids=[it[2][:30] for it in REFUSED])
def test_what_is_no_part_is_refused(make: Any, error: type[Exception], match: str) -> None:
    whole, parts = pair(fastopt.optim.AdamW)
    feed([parts], 0)
    with pytest.raises(error, match=match):
        parts.step_parameters(make(params_of(parts)))
    assert not parts.state
    for ours, its in zip(params_of(whole), params_of(parts), strict=True):
        assert_same_bits(its, ours)
    parts.step_parameters(params_of(parts)[:1])  # nothing is left behind


def test_parameters_that_were_added_or_replaced() -> None:
    _, parts = pair(fastopt.optim.AdamW)
    feed([parts], 0)
    parts.step_parameters(params_of(parts)[:1])
    late = nn.Parameter(torch.ones(3))
    late.grad = torch.ones(3)
    parts.add_param_group({"params": [late], "lr": 0.5})
    parts.step_parameters([late])
    assert late[0].item() == pytest.approx(0.5, abs=0.01)
    gone = params_of(parts)[0]
    parts.param_groups[0]["params"] = parts.param_groups[0]["params"][1:]
    with pytest.raises(ValueError, match="in none of its groups"):
        parts.step_parameters([gone])


# ---- threads ----------------------------------------------------------------------------------------


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(40, 40) for _ in range(6)]
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh())))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_step_while_backward_goes_on(name: str, workers: int) -> None:
    models = [network(), network()]
    plain, overlapped = (
        CASES[name].ours(it.parameters(), **FULL[name], ema_decay=0.9) for it in models
    )
    ready: queue.Queue[Tensor | None] = queue.Queue()
    troubles: list[BaseException] = []

    def work() -> None:
        while (param := ready.get()) is not None:
            try:
                overlapped.step_parameters([param])
                param.grad = None
            except BaseException as error:
                troubles.append(error)
            ready.task_done()

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    hooks = [it.register_post_accumulate_grad_hook(ready.put) for it in models[1].parameters()]
    for step in range(5):
        data = torch.randn(8, 40, generator=torch.Generator().manual_seed(step))
        for model in models:
            model(data).square().mean().backward()
        plain.step()
        plain.zero_grad()
        ready.join()
    for _ in threads:
        ready.put(None)
    for thread in threads:
        thread.join()
    assert not troubles
    assert len(hooks) == 12
    assert_equal(plain, overlapped)


def test_a_parameter_that_another_thread_is_stepping(monkeypatch: pytest.MonkeyPatch) -> None:
    _, parts = pair(fastopt.optim.AdamW)
    feed([parts], 0)
    params = params_of(parts)
    inside, go_on = threading.Event(), threading.Event()
    new_state = fastopt.optim.AdamW._new_state

    def slow(self: Any, *arguments: Any) -> Tensor:
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            assert go_on.wait(30)
        return new_state(self, *arguments)

    monkeypatch.setattr(fastopt.optim.AdamW, "_new_state", slow)
    thread = threading.Thread(target=parts.step_parameters, args=(params[:2],))
    thread.start()
    assert inside.wait(30)
    try:
        with pytest.raises(RuntimeError, match="expected parameters that no other thread steps"):
            parts.step_parameters(params[1:3])
        assert not parts.state
        parts.step_parameters(params[2:])  # others may be
    finally:
        go_on.set()
        thread.join()
    parts.step_parameters(params[1:3])
    assert parts.state[params[1]]["step"] == 2


def test_groups_of_chunks_that_a_program_puts_in_the_groups_place() -> None:
    """As one engine takes its steps: the same numbers, until copies no longer fit."""
    whole, parts = pair(fastopt.optim.AdamW)
    feed([whole, parts], 0)
    whole.step()
    groups = parts.param_groups
    for number, group in enumerate(groups):
        for param in group["params"]:
            parts.param_groups = [{**groups[number], "params": [param]}]
            parts.step()
    parts.param_groups = groups
    assert_equal(whole, parts)
    for group in groups:
        group["copy_to"] = [torch.empty_like(it, dtype=torch.bfloat16) for it in group["params"]]
    parts.param_groups = [{**groups[0], "params": groups[0]["params"][:1]}]
    with pytest.raises(ValueError, match=r"copy_to: expected a list of 1 tensors, .*, got 3"):
        parts.step()
    parts.param_groups = groups
    in_parts(parts)
    for group in groups:
        for param, it in zip(group["params"], group["copy_to"], strict=True):
            assert torch.equal(it, param.bfloat16())
