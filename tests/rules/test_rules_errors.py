# ruff: noqa: E501
"""A mistake in a rule meets one sentence that names its line, before anything is written."""

import math
import pickle
import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch

from conftest import RunPython
from fastopt import _C
from fastopt.rules import Rule, RuleError, exp, log, maximum, mean, minimum, rule, sqrt, where

OUTSIDE = np.ones(3, np.float32)
TENSOR = torch.ones(3)
TWO = np.float64(2)

MISTAKES: dict[str, tuple[Callable[..., Any], str]] = {
    "too few results": (lambda p, g, m, *, t: p - g, r"returns 1 results; expected 2: p, m"),
    "too many": (lambda p, g, m, *, t: (p, m, g), "returns 3 results; expected 2: p, m"),
    "an if": (lambda p, g, m, *, t: (p if g > 0 else g, m), "expected where"),
    "and": (lambda p, g, m, *, t: (where(g > 0 and p > 0, p, g), m), "and & | ~ between conditions"),
    "not": (lambda p, g, m, *, t: (where(not (g > 0), p, g), m), "expected where"),
    "exp": (lambda p, g, m, *, t: (p - exp(g), m), "exp of an array is not correctly rounded"),
    "log": (lambda p, g, m, *, t: (p - log(g), m), "log of an array is not correctly rounded"),
    "numpy.tanh": (lambda p, g, m, *, t: (p - np.tanh(g), m), "numpy.tanh of an array is not correctly"),
    "numpy.sqrt": (lambda p, g, m, *, t: (p - np.sqrt(g), m), "expected sqrt of fastopt.rules"),
    "numpy.where": (lambda p, g, m, *, t: (np.where(g > 0, p, g), m), "expected where of fastopt.rules"),
    "numpy.mean": (lambda p, g, m, *, t: (p - np.mean(g), m), "expected mean of fastopt.rules"),
    "numpy.reshape": (lambda p, g, m, *, t: (np.reshape(p, -1), m), "element by element"),
    "numpy.clip": (lambda p, g, m, *, t: (np.clip(p, 0, 1), m), "expected minimum and maximum"),
    "torch.sqrt": (lambda p, g, m, *, t: (torch.sqrt(p), m), "torch.sqrt is NumPy's or torch's alone"),
    "a method": (lambda p, g, m, *, t: (p.sum() * g, m), "x.sum is NumPy's or torch's alone; expected total"),
    "math.sqrt": (lambda p, g, m, *, t: (math.sqrt(g), m), "an array is no number"),
    "math of a Number": (lambda p, g, m, *, t: (p - math.sqrt(t) * g, m), "a Number is made an int or float"),
    "a power": (lambda p, g, m, *, t: (g**0.5, m), r"expected x \* x, x\*\*2 or sqrt"),
    "a power by a Number": (lambda p, g, m, *, t: (g**t, m), "a power of an array"),
    "an exponent": (lambda p, g, m, *, t: (2.0**g, m), "an array as an exponent"),
    "whole division": (lambda p, g, m, *, t: (g // 2, m), "are not for arrays"),
    "whole division of a Number": (lambda p, g, m, *, t: (g * (t // 2), m), "a Number has no //"),
    "an index": (lambda p, g, m, *, t: (g[0] * p, m), "no indices"),
    "a matrix product": (lambda p, g, m, *, t: (g @ p, m), "are not for arrays"),
    "a condition as a number": (lambda p, g, m, *, t: (p * (g > 0), m), r"expected where\(condition, 1.0, 0.0\)"),
    "a condition for a result": (lambda p, g, m, *, t: (p, g > 0), "returns a condition for m"),
    "a number for a result": (lambda p, g, m, *, t: (p, 0.0), "returns a number for m, which depends on no"),
    "a list": (lambda p, g, m, *, t: (p, [g]), "returns list for m"),
    "an array from outside": (lambda p, g, m, *, t: (p * OUTSIDE, m), "a ndarray from outside the rule"),
    "the same, first": (lambda p, g, m, *, t: (OUTSIDE * p, m), "a ndarray from outside the rule"),
    "a tensor from outside": (lambda p, g, m, *, t: (TENSOR * p, m), "a Tensor from outside the rule"),
    "a NumPy scalar": (lambda p, g, m, *, t: (TWO.astype(np.float32) * p, m), "NumPy scalar"),
    "a bool": (lambda p, g, m, *, t: (p * True, m), "True is no number"),
    "a text": (lambda p, g, m, *, t: (p * "2", m), "a str in arithmetic"),
    "numbers for where": (lambda p, g, m, *, t: (where(g, p, m), m), "expected a condition"),
    "int of a Number": (lambda p, g, m, *, t: (p * int(t), m), "a Number is made an int or float"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_its_line(name: str) -> None:
    function, said = MISTAKES[name]
    with pytest.raises(RuleError, match=said) as error:
        rule(function)
    line = function.__code__.co_firstlineno
    assert f"test_rules_errors.py, line {line}" in str(error.value)


def test_an_operator_in_place_is_refused() -> None:
    with pytest.raises(RuleError, match=r"(?s)m \*= 0.9\n.*operator in place"):

        @rule
        def in_place(p, g, m, *, t):
            m *= 0.9
            return p - m, m


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: rule(lambda p, g: p), "expected a keyword-only parameter t"),
        (lambda: rule(lambda p, *, t: p), "expected the parameter and its gradient"),
        (lambda: rule(lambda p, g, *, t, lr: p), "option lr has no default"),
        (lambda: rule(lambda p, g, m=1, *, t: p), "expected arrays without default"),
        (lambda: rule(lambda p, g, a, b, c, d, e, f, *, t: (p, a, b, c, d, e, f)), "6 states; expected at most 5"),
        (lambda: rule(squares=("n",))(lambda p, g, m, *, t: (p, m)), r"has no state 'n'; it has \['m'\]"),
        (lambda: rule(start={"m": "grad"})(lambda p, g, m, *, t: (p, m)), "expected 'param' or a number"),
        (lambda: rule(lambda p, g, *, t: many(p, g)), "instructions; expected at most"),
        (lambda: rule(lambda p, g, *, t, lr=[1]: p), "Invalid lr value"),
    ],
)  # fmt: skip
def test_a_signature_is_looked_at(make: Callable[[], Any], said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        make()


def many(p: Any, g: Any) -> Any:
    for k in range(300):
        p = p * g + float(k)
    return p


@rule
def plain(p, g, m, *, t, lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0, kind=None):
    """A rule without mistakes."""
    m = betas[0] * m + (1 - betas[0]) * g
    return (1 - lr * weight_decay) * p - lr * (m / (sqrt(m * m) + eps)), m


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"lr": -1.0}, ValueError, "Invalid learning rate: -1.0"),
        ({"lr": float("nan")}, ValueError, "Invalid learning rate: nan"),
        ({"eps": -1.0}, ValueError, "Invalid eps value: -1.0"),
        ({"betas": (0.9, 1.0)}, ValueError, "Invalid beta parameter at index 1: 1.0"),
        ({"betas": (0.9,)}, ValueError, "expected 2 numbers"),
        ({"weight_decay": "1"}, TypeError, "expected a number"),
        ({"lr": float("inf")}, ValueError, "expected a finite number"),
        ({"kind": [1]}, TypeError, "expected a number, a bool, a string or None"),
    ],
)
def test_options_are_checked(options: dict[str, Any], error: type[Exception], said: str) -> None:
    arrays = [np.ones(3, np.float32) for _ in range(3)]
    for call in (
        lambda: Plain([torch.nn.Parameter(torch.ones(3))], **options),
        lambda: plain.kernel_(*arrays, **options),
        lambda: plain.reference(*arrays, **options),
    ):
        with pytest.raises(error, match=said):
            call()
    assert all((it == 1).all() for it in arrays)


def test_kernels_ranges_are_those_of_compiled_ones() -> None:
    """Where the class's words are not asked first: by the name of a rule of fastopt's own."""
    arrays = [[np.ones(3, np.float32)] for _ in range(3)]
    for options, error, said in (
        ({"lr": -1.0}, ValueError, r"^lr: expected a number >= 0, got -1\.0$"),
        ({"lr": float("nan")}, ValueError, "^lr: expected a number >= 0, got nan$"),
        ({"lr": 10**400}, ValueError, "^lr: expected a number within a double's range, got 1000"),
        ({"lr": "1"}, TypeError, "^lr: expected a number >= 0, got '1'$"),
        ({"betas": (0.9, 1.0)}, ValueError, r"^betas: expected a number in \[0, 1\), got 1\.0$"),
        ({"betas": (0.9,)}, ValueError, r"^betas: expected two numbers, got \(0\.9,\)$"),
        ({"betas": 0.9}, TypeError, r"^betas: expected two numbers, got 0\.9$"),
        ({"maximize": np.ones(2)}, TypeError, "^maximize: expected True or False, got array"),
    ):
        with pytest.raises(error, match=said):
            _C.apply(plain.name, arrays, [1], options, False, 1, ("param", "grad"))
    assert all((it[0] == 1).all() for it in arrays)


@pytest.mark.parametrize("flag", [1, np.True_, torch.tensor(True), "yes"], ids=repr)
def test_flags_are_read_by_their_truth(flag: Any) -> None:
    def stepped(maximize: Any) -> torch.Tensor:
        param = torch.nn.Parameter(torch.ones(3))
        param.grad = torch.ones(3)
        optimizer = Plain([param])
        optimizer.param_groups[0]["maximize"] = maximize
        optimizer.step()
        return param.detach()

    assert torch.equal(stepped(flag), stepped(True))
    assert not torch.equal(stepped(True), stepped(False))


def test_unknown_options_are_named() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'foo'"):
        Plain([torch.nn.Parameter(torch.ones(3))], foo=1)
    with pytest.raises(TypeError, match="plain has no option 'foo'"):
        plain.kernel_(*(np.ones(3, np.float32) for _ in range(3)), foo=1)


def test_arrays_are_checked() -> None:
    single, double = np.ones(3, np.float32), np.ones(3)
    for arrays, said in (
        ((single, double, single), "g is float64, p float32"),
        ((single, single), "expected 3 arrays: p, g, m"),
        ((single, single[:2], single), "g must have shape"),
        ((single, [1.0], single), "g must be a numpy.ndarray"),
        ((single, np.ones(3, np.int32), single), "g must be of dtype"),
    ):
        with pytest.raises((TypeError, ValueError), match=said):
            plain.reference(*arrays)
    with pytest.raises(TypeError, match="g: expected float32"):
        plain.kernel_(single, double, single.copy())


def test_numpy_alone_cannot_widen_a_result() -> None:
    """What the tracer does not see: a branch that is taken on arrays only."""

    @rule
    def widened(p, g, *, t):
        return p - (g.astype(np.float64) if isinstance(g, np.ndarray) else g)

    with pytest.raises(RuleError, match="returns float64"):
        widened.reference(np.ones(3, np.float32), np.ones(3, np.float32))


def test_nothing_is_written_when_a_later_branch_is_wrong() -> None:
    @rule
    def late(p, g, m, *, t):
        return (p - g, m + g) if t < 3 else (p - np.exp(g), m)

    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizer: Any = late.optimizer("Late")(params)
    for it in params:
        it.grad = torch.ones(3)
    optimizer.step()
    optimizer.step()
    before = deepcopy(optimizer.state_dict()), [it.detach().clone() for it in params]
    with pytest.raises(RuleError, match=r"numpy.exp of an array"):
        optimizer.step()
    assert str(optimizer.state_dict()) == str(before[0])
    assert all(torch.equal(a, b) for a, b in zip(params, before[1], strict=True))


# ---- where there are no kernels ----


def test_what_kernels_do_not_take_is_stepped_by_the_function() -> None:
    """An expanded parameter's gradient of another class goes to the function on tensors."""

    class Odd(torch.Tensor):
        pass

    plain_param = torch.nn.Parameter(torch.linspace(-1, 1, 40))
    odd = torch.nn.Parameter(torch.linspace(-1, 1, 40).as_subclass(Odd))
    optimizer: Any = Plain([plain_param, odd], weight_decay=0.1)
    for t in range(5):
        for it in (plain_param, odd):
            it.grad = torch.sin(torch.arange(40.0) + t).as_subclass(type(it.data))
        optimizer.step()
    assert [it.path for it in optimizer.fused_report()] == ["fastopt", "torch"]
    torch.testing.assert_close(odd.data.as_subclass(torch.Tensor), plain_param.data)


@pytest.mark.parametrize("kind", ["sparse", "complex"])
def test_sparse_and_complex_are_refused_with_a_reason(kind: str) -> None:
    param = torch.nn.Parameter(torch.ones(3, dtype=torch.complex64 if kind == "complex" else None))
    param.grad = torch.ones_like(param).to_sparse() if kind == "sparse" else torch.ones_like(param)
    optimizer: Any = Plain([param])
    with pytest.raises(ValueError, match="dense gradient" if kind == "sparse" else "real numbers"):
        optimizer.step()


# ---- pickles ----

Plain: Any = plain.optimizer("Plain")


def stepped(optimizer: Any) -> Any:
    for param in optimizer.param_groups[0]["params"]:
        param.grad = torch.ones_like(param)
    optimizer.step()
    return optimizer


def test_pickled_and_copied() -> None:
    hidden: Any = plain.optimizer("Hidden")
    for kind in (Plain, hidden):
        optimizer = stepped(kind([torch.nn.Parameter(torch.ones(5))], lr=0.3))
        for other in (pickle.loads(pickle.dumps(optimizer)), deepcopy(optimizer)):
            assert type(other).__name__ == kind.__name__
            assert other.param_groups[0]["lr"] == 0.3
            stepped(other)
        stepped(optimizer)
        ours, others = (it.param_groups[0]["params"][0] for it in (optimizer, other))
        assert torch.equal(ours, others)
    assert pickle.loads(pickle.dumps(plain)) is plain


def test_a_rule_of_a_function_is_pickled_by_value() -> None:
    factor = 0.5

    @rule(start={"m": 1.0})
    def local(p, g, m, *, t, lr=0.1):
        return p - lr * helper(g) * factor, maximum(minimum(m, mean(g)), exp(-t) * m)

    other: Rule = pickle.loads(pickle.dumps(local))
    arrays = [np.linspace(-1, 1, 50).astype(np.float32) for _ in range(3)]
    for a, b in zip(local.reference(*arrays, t=2), other.reference(*arrays, t=2), strict=True):
        assert np.array_equal(a, b)
    assert other.start == {"m": 1.0}
    assert other.__name__ == "local"


def helper(x: Any) -> Any:
    return x * x


SCRIPT = """
import multiprocessing, sys, torch
from fastopt.rules import rule, sqrt

scale = 3.0

@rule
def mine(p, g, m, *, t, lr=0.1):
    m = 0.9 * m + g
    return p - lr * scale * m, m

Mine = mine.optimizer("Mine")

def work(optimizer, queue):
    param = optimizer.param_groups[0]["params"][0]
    param.grad = torch.ones_like(param)
    optimizer.step()
    queue.put(param.detach().tolist())

if __name__ == "__main__":
    for method in ("spawn", "fork"):
        optimizer = Mine([torch.nn.Parameter(torch.ones(2))])
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        child = context.Process(target=work, args=(optimizer, queue))
        child.start()
        print(queue.get(timeout=100))
        child.join()
"""


def test_in_main_under_spawn_and_fork(run_python: RunPython, tmp_path: Any) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    result = run_python(str(tmp_path / "script.py"))
    assert result.returncode == 0, result.stderr
    found = re.findall(r"\[.*\]", result.stdout)
    assert len(found) == 2
    assert found[0] == found[1]


def test_a_class_shows_its_options() -> None:
    import inspect

    parameters = inspect.signature(Plain).parameters
    assert list(parameters)[:6] == ["params", "lr", "betas", "eps", "weight_decay", "kind"]
    assert parameters["betas"].annotation == tuple[float, float]
    assert parameters["lr"].default == 0.1
    assert "A rule without mistakes." in Plain.__doc__
    assert list(stepped(Plain([torch.nn.Parameter(torch.ones(5))])).state_dict()["state"][0]) == [
        "step",
        "m",
    ]
