"""A step that fails has written nothing: no parameter, no state, no step count, in no group.

torch's path comes before the kernels', so an error of torch's leaves what they would have written.
"""

import re
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
    Options,
    Snapshot,
    complex64,
    parameters,
    set_gradients,
    set_odd_gradient,
    sparse_gradient,
    subclass,
)

each_optimizer = pytest.mark.parametrize("name", CASES)


def outcome(step: Callable[[], Any]) -> tuple[type[BaseException], str]:
    with pytest.raises(Exception) as caught:  # noqa: PT011  compared with torch's by the caller
        step()
    return caught.type, str(caught.value)


def two_groups(
    optimizer_class: type[Optimizer], options: Options, last: list[Tensor], steps: int
) -> Optimizer:
    """An optimizer of plain parameters and then `last`, after some steps of the former."""
    plain = parameters()
    optimizer = optimizer_class([{"params": plain}, {"params": last}], **options)
    for step in range(steps):
        set_gradients(plain, seed=step)
        optimizer.step()
    set_gradients(plain, seed=99)
    return optimizer


@pytest.mark.parametrize("name", ["RMSprop", "Adam", "AdamW"])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_sparse_gradient_in_the_last_group(name: str, steps: int) -> None:
    messages = []
    for optimizer_class in CASES[name].classes:
        last = [*parameters(shapes=[(4,)]), complex64(), torch.nn.Parameter(torch.ones(9, 3))]
        optimizer = two_groups(optimizer_class, FULL[name], last, steps)
        set_gradients(last[:1], seed=99)
        set_odd_gradient(last[1], seed=99)
        last[2].grad = sparse_gradient(0)
        before = Snapshot(optimizer)
        messages.append(outcome(optimizer.step))
        if optimizer_class is CASES[name].ours:
            before.assert_unchanged()
    assert messages[0] == messages[1]
    assert "does not support sparse gradients" in messages[0][1]


def test_a_sparse_gradient_after_parameters_on_torchs_path() -> None:
    """Those wait as well, although torch by itself would have stepped them."""
    first, last = complex64(), torch.nn.Parameter(torch.ones(9, 3))
    optimizer = CASES["Adam"].ours([{"params": [first]}, {"params": [last]}])
    set_odd_gradient(first, seed=0)
    last.grad = sparse_gradient(0)
    before = Snapshot(optimizer)
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        optimizer.step()
    before.assert_unchanged()


@each_optimizer
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize(
    "change",
    [
        {"lr": "x"},
        {"weight_decay": None},
        {"eps": "1e-8", "momentum": "x"},
        {"lr": torch.ones(3)},
        {"betas": (0.9,), "dampening": "x", "lr_decay": "x", "alpha": "x"},
        {"maximize": torch.ones(3)},
    ],
    ids=str,
)
def test_a_bad_option_in_the_last_group(name: str, steps: int, change: Options) -> None:
    last = parameters(shapes=[(5,)])
    optimizer = two_groups(CASES[name].ours, FULL[name], last, steps)
    set_gradients(last, seed=0)
    group = optimizer.param_groups[-1]
    group.update({key: value for key, value in change.items() if key in group})
    before = Snapshot(optimizer)
    with pytest.raises((TypeError, ValueError, RuntimeError), match="|".join(change)):
        optimizer.step()
    before.assert_unchanged()


@each_optimizer
def test_a_gradient_of_another_shape_in_the_last_group(name: str) -> None:
    """Assigning one is an error in torch; resizing the parameter afterwards is not.

    The error is torch's own, in the middle of its step of this one parameter.
    """
    last = parameters(shapes=[(5,)])
    optimizer = two_groups(CASES[name].ours, FULL[name], last, 2)
    set_gradients(last, seed=0)
    last[0].data = torch.ones(6)
    before = Snapshot(optimizer, first=1)
    with pytest.raises(RuntimeError):
        optimizer.step()
    before.assert_unchanged()


@pytest.mark.parametrize(
    ("name", "key"),
    [("Adagrad", "sum"), ("RMSprop", "square_avg"), ("Adam", "exp_avg"), ("AdamW", "exp_avg")]
    + [(name, "step") for name in ("Adagrad", "RMSprop", "Adam", "AdamW")]
    + [("NAdam", "mu_product")],
)
def test_a_state_entry_that_is_missing(name: str, key: str) -> None:
    optimizer = two_groups(EVERY[name].ours, FULL[name], parameters(shapes=[(5,)]), 0)
    set_gradients(optimizer.param_groups[1]["params"], seed=0)
    optimizer.step()
    state = optimizer.state[optimizer.param_groups[1]["params"][0]]
    del state[key]
    before = Snapshot(optimizer)
    with pytest.raises(KeyError, match=key):
        optimizer.step()
    before.assert_unchanged()


@pytest.mark.parametrize("name", ["RMSprop", "Adam", "AdamW"])
def test_capturable_on_the_cpu_is_torchs_error(name: str) -> None:
    messages = []
    for optimizer_class in CASES[name].classes:
        last = parameters(shapes=[(5,)])
        optimizer = two_groups(optimizer_class, FULL[name], last, 2)
        set_gradients(last, seed=0)
        optimizer.param_groups[-1]["capturable"] = True
        before = Snapshot(optimizer, first=1)  # torch makes a state of zeros for the other
        messages.append(outcome(optimizer.step))
        if optimizer_class is CASES[name].ours:
            before.assert_unchanged()
    assert messages[0] == messages[1]


def test_an_optimizer_that_torch_lacks_where_torchs_step_is_needed() -> None:
    last = complex64()
    optimizer = two_groups(EVERY["Lion"].ours, {}, [last], 1)
    set_odd_gradient(last, seed=0)
    before = Snapshot(optimizer)
    with pytest.raises(
        ValueError, match=r"no Lion for a parameter of shape \(5, 7\) .*dtype complex64"
    ):
        optimizer.step()
    before.assert_unchanged()


EXTRAS: list[tuple[str, Options, str]] = [
    ("SGD", {"momentum": 0.9, "exponential_average": True}, "exponential_average=True"),
    ("RMSprop", {"eps_inside_sqrt": True}, "eps_inside_sqrt=True"),
    ("Adam", {"bias_correction": False}, "bias_correction=False"),
    ("AdamW", {"eps_inside_sqrt": True}, "eps_inside_sqrt=True"),
    ("SGD", {"cautious_decay": True}, "cautious_decay=True"),
    ("Adagrad", {"state_dtype": torch.float32}, "state_dtype='float32'"),
]


@pytest.mark.parametrize(("name", "options", "message"), EXTRAS)
@pytest.mark.parametrize(
    ("make", "reason"),
    [(complex64, "dtype complex64"), (subclass, "Subclass")],
)
def test_an_option_that_torch_lacks_where_torchs_step_is_needed(
    name: str, options: Options, message: str, make: Callable[[], Tensor], reason: str
) -> None:
    last = make()
    optimizer = two_groups(CASES[name].ours, options, [last], 1)
    set_odd_gradient(last, seed=0)
    before = Snapshot(optimizer)
    pattern = f"shape \\(5, 7\\).*{re.escape(reason)}.*{re.escape(message)}.*expected"
    with pytest.raises(ValueError, match=pattern):
        optimizer.step()
    before.assert_unchanged()
