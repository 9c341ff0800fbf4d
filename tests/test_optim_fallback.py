"""What the kernels do not take goes through torch's own step, and equals torch.optim bit for bit.

Hooks run once all the same, whether or not a program has also built torch's class.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from _optim_cases import (
    CASES,
    EVERY,
    FULL,
    ODD,
    WITH_TORCH,
    Mirror,
    Options,
    Subclass,
    assert_same_bits,
    complex64,
    failures_in_fresh_processes,
    parameters,
    set_gradients,
    set_odd_gradient,
    sparse_gradient,
)

each_optimizer = pytest.mark.parametrize("name", CASES)
each_odd = pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())


def train(optimizer_class: type[Optimizer], odd: Tensor, options: Options) -> Optimizer:
    optimizer = optimizer_class([odd], **options)
    for step in range(5):
        set_odd_gradient(odd, seed=step)
        optimizer.step()
    return optimizer


def assert_same_state(ours: Optimizer, theirs: Optimizer) -> None:
    for mine, other in zip(ours.state.values(), theirs.state.values(), strict=True):
        assert mine.keys() == other.keys()
        for key, value in mine.items():
            assert value.dtype == other[key].dtype, key
            assert torch.equal(value, other[key]), key


# ---- equal to torch -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_TORCH)
@each_odd
def test_parameters_that_the_kernels_do_not_take(name: str, odd: Callable[[], Tensor]) -> None:
    ours, theirs = odd(), odd()
    mine = train(EVERY[name].ours, ours, FULL[name])
    other = train(EVERY[name].torchs, theirs, FULL[name])
    assert torch.equal(ours, theirs)
    assert type(ours) is type(theirs)
    assert_same_state(mine, other)


@each_optimizer
def test_odd_and_plain_parameters_mixed(name: str) -> None:
    """Each odd one equals torch's, each plain one the reference, in whatever order they come."""
    odd = [make() for make in ODD.values()]
    plain = parameters(shapes=[(5, 7), (3,)])
    mirror = Mirror(name, CASES[name].ours(plain, **FULL[name]))
    groups = [[odd[0], plain[0], odd[1]], [plain[1], odd[2]]]
    optimizer = CASES[name].ours([{"params": group} for group in groups], **FULL[name])
    for step in range(5):
        set_gradients(plain, seed=step)
        for param in odd:
            set_odd_gradient(param, seed=step)
        mirror.follow()
        optimizer.step()
    for param in plain:
        assert_same_bits(param, mirror.params[param])
    for param, make in zip(odd, ODD.values(), strict=True):
        expected = make()
        train(CASES[name].torchs, expected, FULL[name])
        assert torch.equal(param, expected)
    assert [group["params"] for group in optimizer.param_groups] == groups


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {}),
        ("SGD", {"maximize": True}),
        ("SGD", {"momentum": 0.9}),
        ("Adagrad", {"lr": 0.1}),
        ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "maximize": True}),
    ],
)
def test_sparse_gradients(name: str, options: Options) -> None:
    results = []
    for optimizer_class in CASES[name].classes:
        param, plain = parameters(shapes=[(9, 3), (5,)])
        optimizer = optimizer_class([plain, param], **options)
        for step in range(5):
            plain.grad = torch.zeros(5)  # of which both make nothing
            param.grad = sparse_gradient(step)
            optimizer.step()
        results.append((param, optimizer))
    assert_same_bits(results[0][0], results[1][0])
    if not options.get("momentum"):  # torch keeps a sparse buffer
        assert_same_state(results[0][1], results[1][1])


def test_sparse_gradients_of_an_embedding_and_a_dense_layer() -> None:
    embedding, layer = torch.nn.Embedding(50, 4, sparse=True), torch.nn.Linear(4, 2)
    start = [p.detach().clone() for p in (*embedding.parameters(), *layer.parameters())]
    results = []
    for optimizer_class in CASES["Adagrad"].classes:
        params = [*embedding.parameters(), *layer.parameters()]
        for param, value in zip(params, start, strict=True):
            param.data = value.clone()
        optimizer = optimizer_class(params, lr=0.1)
        for step in range(5):
            optimizer.zero_grad()
            words = torch.arange(6) * (step + 3) % 50
            layer(embedding(words)).square().sum().backward()
            optimizer.step()
        results.append([param.detach().clone() for param in params])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


@each_optimizer
@pytest.mark.filterwarnings("error")
def test_differentiable(name: str) -> None:
    """The derivative of a loss after a step by the start, the gradient and a tensor lr."""
    results = []
    for optimizer_class in CASES[name].classes:
        leaves = [*parameters(torch.float64, [(7,), (7,)]), torch.tensor(0.1, dtype=torch.float64)]
        start, grad, lr = leaves
        lr.requires_grad_()
        param = start.clone()
        options = FULL[name] | ({"lr": lr} if name == "SGD" else {})
        optimizer = optimizer_class([param], **options, differentiable=True)
        param.grad = grad * 2
        optimizer.step()
        (param**2).sum().backward()
        results.append([param.detach(), start.grad, grad.grad, lr.grad])
    for ours, theirs in zip(*results, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)
    assert results[0][2].any()
    assert (results[0][3] is not None) == (name == "SGD")


@each_optimizer
def test_a_gradient_of_another_type(name: str) -> None:
    """A plain parameter whose gradient is a subclass: torch's step, and its result."""
    results = []
    for optimizer_class in CASES[name].classes:
        param = parameters(shapes=[(5, 7)])[0]
        optimizer = optimizer_class([param], **FULL[name])
        for step in range(3):
            set_gradients([param], seed=step)
            assert param.grad is not None
            param.grad = param.grad.as_subclass(Subclass)
            optimizer.step()
        results.append(param.detach())
    assert torch.equal(results[0], results[1])


@each_optimizer
def test_torchs_step_keeps_the_callers_way_with_denormals(name: str) -> None:
    """The kernels keep denormals whatever the caller's mode; torch's code goes by that mode."""
    results = []
    if not torch.set_flush_denormal(True):
        pytest.skip("this machine cannot flush denormals")
    try:
        for optimizer_class in CASES[name].classes:
            param = complex64()
            optimizer = optimizer_class([param], **FULL[name] | {"lr": 1e-3})
            param.grad = torch.full((5, 7), 1e-37 + 1e-37j)
            optimizer.step()
            results.append(list(optimizer.state[param].values()))
    finally:
        torch.set_flush_denormal(False)
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


@each_optimizer
def test_states_of_another_dtype(name: str) -> None:
    """float64 states of a float32 parameter: torch's step decides what becomes of them."""
    results: list[Any] = []
    for optimizer_class in CASES[name].classes:
        param = parameters(shapes=[(5, 7)])[0]
        optimizer = optimizer_class([param], **FULL[name])
        param.grad = torch.zeros(5, 7)
        optimizer.step()
        state = optimizer.state[param]
        for key in CASES[name].states:
            state[key] = state[key].double()
        set_gradients([param], seed=1)
        try:
            optimizer.step()
            results.append(param.detach())
        except RuntimeError as error:
            results.append(str(error))
    assert type(results[0]) is type(results[1])
    if isinstance(results[0], str):
        assert results[0] == results[1]
    else:
        assert torch.equal(results[0], results[1])


# ---- hooks --------------------------------------------------------------------------------------

# torch adds the hooks to a class when the first of its objects is built.
HOOKS = """
import torch, fastopt

def build(module, name):
    return getattr(module, name)([torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))])

def count_hooks(optimizer):
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    param = optimizer.param_groups[0]["params"][0]
    for step in range(2):
        param.grad = torch.ones_like(param)
        optimizer.step()
        scheduler.step()
    assert calls == ["pre", "post"] * 2, calls
    steps = optimizer.state[param].get("step", 2)  # SGD counts none
    assert steps == 2, steps

def check(order):
    names = ["SGD", "Adagrad", "RMSprop", "Adam", "AdamW"]
    for name in reversed(names) if order == "torch's first, in reverse" else names:
        if order.startswith("torch's first"):
            build(torch.optim, name).step()
        optimizer = build(fastopt.optim, name)
        if order == "fastopt's first":
            build(torch.optim, name).step()
        count_hooks(optimizer)
        count_hooks(build(fastopt.optim, name))
"""
ORDERS = ["fastopt's alone", "fastopt's first", "torch's first", "torch's first, in reverse"]


@pytest.fixture(scope="module")
def hook_failures() -> dict[str, str]:
    return failures_in_fresh_processes(HOOKS, ORDERS)


@pytest.mark.parametrize("order", ORDERS)
def test_hooks_run_once_on_torchs_path(order: str, hook_failures: dict[str, str]) -> None:
    assert hook_failures.get(order) is None
