"""torch.compile around a training step: it runs, with eager mode's bits, and breaks its graph at the
update alone, silently and without compiling anew when a scheduler changes the options.
"""

import functools
import shutil
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch._subclasses import FakeTensorMode
from torch.optim import Optimizer

from _optim_cases import (
    CASES,
    FULL,
    Mirror,
    Options,
    assert_same_bits,
    complex64,
    parameters,
    set_gradients,
    set_odd_gradient,
)
from conftest import RunPython

each_optimizer = pytest.mark.parametrize("name", CASES)


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))


def trained(
    optimizer_class: Callable[..., Optimizer], options: Options, compiled: Callable[[Any], Any]
) -> list[Tensor]:
    """A network after six steps of a function that does all of a training step."""
    model = network()
    optimizer = optimizer_class(model.parameters(), **options)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    inputs = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))

    def train() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(inputs).square().sum()
        loss.backward()
        optimizer.step()
        return loss

    train = compiled(train)
    losses = []
    for _ in range(6):
        losses.append(train())
        scheduler.step()
    assert losses[-1] < losses[0]
    return [*model.parameters(), torch.stack(losses)]


def assert_all_same_bits(actual: list[Tensor], expected: list[Tensor]) -> None:
    for index, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
        assert_same_bits(ours, theirs, f"tensor {index}")


@each_optimizer
def test_a_compiled_training_step_has_eagers_bits(name: str) -> None:
    """Compiled once: only the forward pass is a graph."""
    train = functools.partial(trained, CASES[name].ours, FULL[name])
    counter = CompileCounter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compiled = train(torch.compile(backend=counter))
    assert counter.frame_count == 1
    about_us = [str(it.message) for it in caught if "fastopt" in str(it.message)]
    assert about_us == []  # as Dynamo would warn of an extension that it meets
    assert_all_same_bits(compiled, train(lambda it: it))


def test_it_has_eagers_bits_behind_autograds_graphs() -> None:
    train = functools.partial(trained, CASES["AdamW"].ours, FULL["AdamW"] | {"max_grad_norm": 1.0})
    assert_all_same_bits(train(torch.compile(backend="aot_eager")), train(lambda it: it))


@pytest.mark.slow  # the first C++ that Inductor compiles takes 20 to 40 seconds
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
def test_a_step_equals_the_reference_behind_inductors_code() -> None:
    """Inductor computes gradients by code of its own, so they need not be eager mode's."""
    params = parameters(shapes=[(67, 3), (3,)])
    optimizer = CASES["AdamW"].ours(params, lr=0.01)
    mirror = Mirror("AdamW", optimizer)
    optimizer.register_step_pre_hook(lambda *_: mirror.follow())

    @torch.compile(backend="inductor")
    def train() -> None:
        optimizer.zero_grad()
        (params[0] * params[1]).square().sum().backward()
        optimizer.step()

    for _ in range(3):
        train()
        mirror.check()
    assert mirror.steps == dict.fromkeys(params, 3)


@each_optimizer
def test_a_compiled_step_alone(name: str) -> None:
    params = parameters()
    optimizer = CASES[name].ours(params, **FULL[name])
    mirror = Mirror(name, optimizer)
    step = torch.compile(optimizer.step, backend="eager")
    for index in range(3):
        set_gradients(params, seed=index)
        mirror.follow()
        step()
        mirror.check()


def test_a_compiled_step_calls_its_closure_and_hooks() -> None:
    params = parameters()
    optimizer = CASES["Adam"].ours(params)
    mirror = Mirror("Adam", optimizer)
    order: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: order.append("pre"))
    optimizer.register_step_post_hook(lambda *_: order.append("post"))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.stack([(param * param).sum() for param in params]).sum()
        loss.backward()
        return loss

    for param in params:
        param.grad = 2 * param.detach()
    mirror.follow()
    loss = torch.compile(optimizer.step, backend="eager")(closure)
    assert loss is not None
    assert loss.requires_grad
    assert order == ["pre", "post"]
    mirror.check()


def test_parameters_on_torchs_path_step_within_a_compiled_function() -> None:
    """complex64 beside float32, which makes the update call back into torch's own step."""
    made = []
    for compiled in (torch.compile(backend="eager"), lambda it: it):
        params = [*parameters(shapes=[(5, 7)]), complex64()]
        optimizer = CASES["AdamW"].ours(params)
        step = compiled(optimizer.step)
        for index in range(3):
            set_gradients(params[:1], seed=index)
            set_odd_gradient(params[1], seed=index)
            step()
        made.append(params)
    assert_same_bits(made[0][0], made[1][0])
    assert torch.equal(made[0][1], made[1][1])


def test_a_whole_graph_cannot_be_asked_for() -> None:
    params = parameters()
    optimizer = CASES["SGD"].ours(params)
    set_gradients(params, seed=0)
    step = torch.compile(optimizer.step, backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        step()


@each_optimizer
@pytest.mark.filterwarnings("ignore:fastopt.*no parameter takes")
def test_fake_tensors_take_torchs_path(name: str) -> None:
    """They have no memory; who runs a model on them wants shapes and state keys."""
    with FakeTensorMode():
        params = [torch.nn.Parameter(torch.empty(3, 4))]
        optimizers = [it(params, **FULL[name]) for it in CASES[name].classes]
        params[0].grad = torch.empty(3, 4)
        for optimizer in optimizers:
            optimizer.step()
        ours, theirs = ({k: v.shape for k, v in it.state[params[0]].items()} for it in optimizers)
    assert ours == theirs


def test_importing_fastopt_does_not_import_the_compiler(run_python: RunPython) -> None:
    """Which takes seconds, and not every program compiles."""
    done = run_python("-c", "import sys, fastopt; print('torch._dynamo' in sys.modules)")
    assert done.stdout.split() == ["False"], done.stderr
