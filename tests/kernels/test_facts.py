"""What the rules say of themselves (fastopt._facts), beside the signatures that are written by hand."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from _kernel_cases import OPTIONS, USING_ALL_STATES, arrays_for, kernel, rule
from fastopt import _C, rules
from fastopt._facts import Facts, facts_of
from fastopt.optim._checks import RANGES

ADAMW = {"decoupled_weight_decay": True, "weight_decay": 1e-2}  # what of it is not Adam's
OUTSIDE = {"any": ["nan"], "non_negative": [-1e-9], "unit": [-1e-9, 1.0], "closed_unit": [-0.1, 1.1]}


def facts_behind(name: str) -> Facts:
    """Those of a function's rule."""
    return facts_of("adam" if name == "adamw" else name)


def parameters(function: Callable[..., Any], kind: Any) -> dict[str, Any]:
    found = inspect.signature(function).parameters.values()
    return {it.name: it.default for it in found if it.kind is kind}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("function", [kernel, rule])
def test_signatures_have_the_rules_arrays(name: str, function: Callable[..., Any]) -> None:
    facts = facts_behind(name)
    given = parameters(function(name), inspect.Parameter.POSITIONAL_OR_KEYWORD)
    assert list(given) == ["param", "grad", *facts.states]
    optional = {it for it, default in given.items() if default is None}
    assert optional == set(facts.states) - set(facts.required)
    assert set(facts.squares) <= set(facts.states)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("function", [kernel, rule])
def test_signatures_have_the_rules_options_and_defaults(
    name: str, function: Callable[..., Any]
) -> None:
    facts = facts_behind(name)
    given = parameters(function(name), inspect.Parameter.KEYWORD_ONLY)
    assert given.pop("step") == 1
    given.pop("as_stored", None)  # of references with norms
    for around in ("grad_scale", "copy_to"):  # of kernels
        assert given.pop(around, None) is None
    if facts.product is not None:
        assert given.pop(facts.product) == 0
    expected = {option: default for option, (default, _) in facts.options.items()}
    assert given | ({} if name != "adamw" else ADAMW) == expected | ({} if name != "adamw" else ADAMW)


@pytest.mark.parametrize("name", OPTIONS)
def test_each_range_refuses_what_lies_outside(name: str) -> None:
    facts, arrays, tried = facts_behind(name), arrays_for(name), 0
    for option, (default, accepted) in facts.options.items():
        for value in map(float, OUTSIDE.get(accepted, [])):
            given = (value, 0.5) if isinstance(default, tuple) else value
            with pytest.raises(ValueError, match=f"^{option}: expected"):
                kernel(name)(**arrays, **USING_ALL_STATES[name] | {option: given})
            assert not RANGES[accepted][0](value)
            tried += 1
    assert tried >= 2


def test_a_rule_in_python_has_facts() -> None:
    @rules.rule(squares=["v"], numbers=["k"])
    def example(
        p: Any, g: Any, m: Any, v: Any, k: Any, *, t: Any,
        lr: float = 0.1, betas: Any = (0.5, 0.9), gain: float = 2.0, kind: str | None = None,
    ) -> Any:  # fmt: skip
        return p - lr * g, m, v + g * g, k + 1

    facts = facts_of(example.name)
    assert (facts.states, facts.required, facts.squares) == (("m", "v"), ("m", "v"), ("v",))
    assert (facts.product, facts.kept, facts.norms) == (None, ("k",), False)
    assert facts.options == {
        "lr": (0.1, "non_negative"),
        "betas": ((0.5, 0.9), "unit"),
        "gain": (2.0, "any"),
        "maximize": (False, "flag"),
    }


def test_a_rule_in_python_is_known_by_its_own_name() -> None:
    def example(p: Any, g: Any, *, t: Any, lr: float = 0.1) -> Any:
        return p - lr * g

    made = rules.Rule(example, name="test_facts.example")
    assert made.name == "test_facts.example"
    assert facts_of("test_facts.example").options["lr"] == (0.1, "non_negative")
    assert rules.Rule(example).name != made.name
    with pytest.raises(ValueError, match="name: a compiled rule is named 'sgd'"):
        rules.Rule(example, name="sgd")


def test_there_are_no_facts_of_nothing() -> None:
    with pytest.raises(ValueError, match="rule: there is no rule named 'nothing'"):
        _C.rule("nothing")
