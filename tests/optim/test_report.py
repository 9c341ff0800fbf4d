"""fused_report and the warning that nothing is fused: which parameters take the kernels, and why."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

import fastopt
from _optim_cases import (
    CASES,
    FULL,
    ODD,
    Snapshot,
    parameters,
    set_gradients,
    set_odd_gradient,
    sparse_gradient,
)
from fastopt.optim import ParameterPath

each_optimizer = pytest.mark.parametrize("name", CASES)

REASONS = {
    "complex64": "dtype complex64",
    "complex128": "dtype complex128",
    "subclass": "of type Subclass",
}


def paths(optimizer: Any) -> list[str]:
    return [it.path for it in optimizer.fused_report()]


@each_optimizer
@pytest.mark.parametrize("odd", ODD)
def test_odd_parameters_among_plain_ones(name: str, odd: str) -> None:
    """Before the first step and after it, whatever the order of the groups."""
    param, plain = ODD[odd](), parameters(shapes=[(5, 7), (3,), (2,)])
    optimizer = CASES[name].ours([{"params": [plain[0], param]}, {"params": plain[1:]}], **FULL[name])
    set_gradients(plain[:2], seed=0)
    set_odd_gradient(param, seed=0)
    expected = [
        ParameterPath(0, 0, None, (5, 7), torch.float32, "fastopt", ""),
        ParameterPath(0, 1, None, (5, 7), param.dtype, "torch", REASONS[odd]),
        ParameterPath(1, 0, None, (3,), torch.float32, "fastopt", ""),
        ParameterPath(1, 1, None, (2,), torch.float32, "no gradient", ""),
    ]
    for _ in range(2):
        assert optimizer.fused_report() == expected
        optimizer.step()


@each_optimizer
def test_it_writes_nothing_and_makes_no_state(name: str) -> None:
    """Nor does it copy what a step would: strided parameters, states of another layout."""
    params = [*parameters(), parameters(shapes=[(6, 4)])[0].detach()[:, ::2].requires_grad_()]
    optimizer = CASES[name].ours(params, **FULL[name], ema_decay=0.9, ema_bias_correction=True)
    set_gradients(params, seed=0)
    before = Snapshot(optimizer)
    assert set(paths(optimizer)) == {"fastopt"}
    before.assert_unchanged()
    set_gradients(params, seed=0)
    optimizer.step()
    after = Snapshot(optimizer)
    assert set(paths(optimizer)) == {"fastopt"}
    after.assert_unchanged()


@each_optimizer
def test_without_gradients_it_tells_what_would_be(name: str) -> None:
    """As after zero_grad, or before the first backward."""
    optimizer = CASES[name].ours([*parameters(shapes=[(3,)]), ODD["complex64"]()], **FULL[name])
    report = optimizer.fused_report()
    assert [it.path for it in report] == ["no gradient"] * 2
    assert [it.reason for it in report] == ["", "dtype complex64"]


def test_the_report_agrees_with_the_step() -> None:
    """A parameter is reported on torch's path where torch's code is what runs for it."""
    params = [*parameters(shapes=[(9, 3), (4,)]), *(make() for make in ODD.values())]
    optimizer = fastopt.optim.SGD(params, lr=0.1)
    set_gradients(params[1:2], seed=0)
    params[0].grad = sparse_gradient(0)
    for param in params[2:]:
        set_odd_gradient(param, seed=0)
    report = optimizer.fused_report()
    given: list[Any] = []
    step_with_torch = optimizer._step_with_torch
    optimizer._step_with_torch = lambda left, *rest: (given.extend(left), step_with_torch(left, *rest))
    optimizer.step()
    reported = [(params[it.index], it.reason) for it in report if it.path == "torch"]
    assert len(reported) == 1 + len(ODD)
    assert {(id(param), reason) for _, param, reason in given} == {
        (id(param), reason) for param, reason in reported
    }


def test_groups_that_go_to_torch_as_a_whole() -> None:
    first, second = parameters(shapes=[(3,), (3,)])
    groups = [{"params": [first], "differentiable": True}, {"params": [second]}]
    optimizer = fastopt.optim.Adam(groups)
    report = optimizer.fused_report()
    assert [it.reason for it in report] == ["differentiable=True", ""]
    optimizer.param_groups[0]["differentiable"] = False
    optimizer.param_groups[0]["params"] = [first, first]
    set_gradients([first, second], seed=0)
    report = optimizer.fused_report()
    assert [it.path for it in report] == ["torch", "torch", "fastopt"]
    assert report[0].reason == "the same parameter twice in a group"


def test_names_and_text() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1, dtype=torch.cfloat))
    optimizer = fastopt.optim.AdamW(model.named_parameters())
    for param in list(model.parameters())[:3]:
        param.grad = torch.ones_like(param)
    report = optimizer.fused_report()
    assert [it.name for it in report] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert str(report).splitlines() == [
        "4 parameters: 2 on fastopt's kernels, 1 on torch's own step, 1 without gradient",
        "  group 0, parameter 2 '1.weight', torch.complex64 (1, 3), "
        "on torch's own step: dtype complex64",
        "  group 0, parameter 3 '1.bias', torch.complex64 (1,), without gradient: dtype complex64",
    ]
    assert str(fastopt.optim.SGD(parameters()).fused_report()) == (
        "6 parameters: 6 without gradient; between backward() and step() they would be 6 on fastopt's "
        "kernels"
    )


def test_it_raises_what_the_step_would() -> None:
    optimizer = fastopt.optim.Adam(parameters(shapes=[(3,)]))
    set_gradients(optimizer.param_groups[0]["params"], seed=0)
    optimizer.param_groups[0]["betas"] = "ab"
    with pytest.raises(TypeError, match="betas: expected"):
        optimizer.fused_report()


# ---- the warning --------------------------------------------------------------------------------


def warnings_of(optimizer: Optimizer, steps: int = 3) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(steps):
            for group in optimizer.param_groups:
                for param in group["params"]:
                    set_odd_gradient(param, seed=step)
            optimizer.step()
    return caught


@each_optimizer
@pytest.mark.parametrize("scheduled", [False, True])
def test_it_warns_once_if_nothing_is_fused(name: str, scheduled: bool) -> None:
    optimizer = CASES[name].ours([ODD["complex64"](), ODD["complex64"](), ODD["subclass"]()])
    if scheduled:
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
    (warning,) = warnings_of(optimizer)
    assert warning.category is UserWarning
    assert warning.filename == __file__  # the line that calls step
    assert str(warning.message) == (
        f"fastopt.optim.{name}: no parameter takes fastopt's kernels, so this step is torch's and no "
        "faster: dtype complex64 (2); of type Subclass (1). optimizer.fused_report() tells more"
    )
    assert not warnings_of(optimizer)
    assert len(warnings_of(CASES[name].ours([ODD["complex128"]()]))) == 1


@each_optimizer
def test_it_does_not_warn_if_anything_is_fused_or_there_is_nothing_to_do(name: str) -> None:
    assert not warnings_of(CASES[name].ours([ODD["complex64"](), *parameters(shapes=[(3,)])]))
    assert not warnings_of(CASES[name].ours(parameters()))
    idle = CASES[name].ours([ODD["complex64"]()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        idle.step()
    assert len(warnings_of(idle)) == 1


def test_it_does_not_warn_where_the_options_ask_for_torch() -> None:
    param = torch.ones(3, requires_grad=True).clone()
    optimizer = fastopt.optim.SGD([param], differentiable=True)
    param.grad = torch.ones(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    assert paths(optimizer) == ["torch"]


# ---- of any optimizer ---------------------------------------------------------------------------


@each_optimizer
def test_the_function_is_the_method_where_there_is_one(name: str) -> None:
    optimizer = CASES[name].ours([*parameters(shapes=[(3,)]), ODD["complex64"]()], **FULL[name])
    assert fastopt.optim.fused_report(optimizer) == optimizer.fused_report()
    assert fastopt.optim.fused_report(wrapped(optimizer)) == optimizer.fused_report()


def wrapped(optimizer: Optimizer) -> Any:
    """As by a framework that keeps what it drives."""

    class Wrapper(Optimizer):
        def __init__(self) -> None:
            self.optimizer = optimizer

    return Wrapper()


@pytest.mark.parametrize(
    "name", ["ASGD", "Adafactor", "Muon", "Rprop", "SparseAdam", "torch's AdamW", "torch's LBFGS"]
)
def test_torchs_own_classes_are_named_as_torchs(name: str) -> None:
    module, name = (torch if "torch's" in name else fastopt), name.split()[-1]
    (param,) = parameters(shapes=[(3, 4)])
    optimizer = getattr(module.optim, name)([param])
    for path in ("no gradient", "torch"):
        for it in (optimizer, wrapped(optimizer)):
            report = fastopt.optim.fused_report(it)
            assert [it.path for it in report] == [path]
            assert [it.reason for it in report] == [f"torch.optim.{name} is torch's"]
        param.grad = torch.ones(3, 4)
    assert str(report) == (
        "1 parameters: 1 on torch's own step\n  group 0, parameter 0, torch.float32 (3, 4), on torch's "
        f"own step: torch.optim.{name} is torch's"
    )


def test_lbfgs_takes_the_kernels_for_all_parameters_or_for_none() -> None:
    fit, other = parameters(shapes=[(3,), (2,)]), parameters(torch.float64, [(4,)])
    for param in (*fit, *other):
        param.grad = torch.ones_like(param)
    report = fastopt.optim.fused_report(fastopt.optim.LBFGS(fit))
    assert [(it.path, it.reason) for it in report] == [("fastopt", "")] * 2
    report = fastopt.optim.LBFGS([*fit, *other]).fused_report()
    assert [it.path for it in report] == ["torch"] * 3
    assert all("all of one dtype" in it.reason for it in report)


def test_other_libraries_classes_are_refused() -> None:
    class Theirs(Optimizer):
        pass

    theirs = Theirs(parameters(shapes=[(3,)]), {})
    for what in (theirs, wrapped(theirs), torch.nn.Linear(2, 2)):
        with pytest.raises(
            TypeError, match=r"optimizer: expected one of fastopt\.optim or torch\.optim"
        ):
            fastopt.optim.fused_report(what)
