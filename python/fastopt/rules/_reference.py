"""A rule as fastopt.reference has all of fastopt's own: with its names of arguments and its errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fastopt.reference._common import (
    Array,
    check_arrays,
    check_betas,
    check_numbers,
    check_step,
    new_arrays,
)
from fastopt.reference.storage import stored

from ._optimizer import type_of

if TYPE_CHECKING:
    from ._rule import Option, Rule

ACCEPTED = {"non_negative": ">= 0", "unit": "in [0, 1)", "any": "other than NaN"}
ARGUMENTS = """
    param, grad: arrays of one shape, float64 or stored as :mod:`fastopt.reference` says.
    {states}: the states, like param, as they begin before step 1.
    step: number of this step, t, from 1.
    {options}: of the rule.

Returns:
    (param, {states}), as new arrays.
"""


def reference_of(rule: Rule) -> Callable[..., tuple[Array, ...]]:
    """The function ``(param, grad, states…, *, step, options…)`` of a rule that keeps no numbers."""

    def function(*args: Any, **kwargs: Any) -> tuple[Array, ...]:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        step = float(check_step(given["step"]))
        numbers, choice = checked(rule.options, given)
        arrays = {name: given[name] for name in ("param", "grad", *rule.states)}
        check_arrays(**arrays)
        results, _ = rule._on_numpy(list(arrays.values()), [step, *numbers], choice)
        return new_arrays(*results)

    signature = signature_of(rule)
    listed = ", ".join(it.name for it in rule.options)
    function.__name__ = function.__qualname__ = rule.__name__
    function.__module__ = "fastopt.reference"
    arguments = ARGUMENTS.format(states=", ".join(rule.states), options=listed)
    function.__doc__ = f"{inspect.cleandoc(rule.__doc__ or '')}\n\nArgs:{arguments}"
    function.__annotations__ = {it.name: it.annotation for it in signature.parameters.values()}
    function.__annotations__["return"] = signature.return_annotation
    function.__signature__ = signature  # type: ignore[attr-defined]
    return stored(function)


def signature_of(rule: Rule) -> inspect.Signature:
    """That of the reference."""
    either, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(name, either, annotation=Array) for name in ("param", "grad", *rule.states)
    ]
    parameters.append(inspect.Parameter("step", keyword, default=1, annotation=int))
    for it in rule.options:
        annotation = type_of(it.default)
        parameters.append(
            inspect.Parameter(it.name, keyword, default=it.default, annotation=annotation)
        )
    return inspect.Signature(parameters, return_annotation=tuple[Array, ...])


def checked(options: tuple[Option, ...], given: Mapping[str, Any]) -> tuple[list[float], list[bool]]:
    """Numbers and flags as a rule is called with them; TypeError or ValueError, as references have."""
    numbers: list[float] = []
    flags: list[bool] = []
    for option in options:
        value = given[option.name]
        if option.is_flag:
            flags.append(bool(value))
            numbers.append(0.0)
        elif option.name == "betas":
            numbers += check_betas(value)
        else:
            numbers += check_numbers(ACCEPTED[option.range], **{option.name: value})
    return numbers, flags
