"""A kernel refuses wrong hyperparameters and steps: the message names what, came and is accepted.

And nothing has been written. What one kernel refuses, its reference refuses, too.
"""

import inspect
import re
from typing import Any

import numpy as np
import pytest
import torch

from _kernel_cases import (
    SHAPE,
    STATES,
    USING_ALL_STATES,
    Options,
    arrays_for,
    kernel,
    lists_for,
    refuse,
    rule,
)
from fastopt import kernels


def number_options(name: str) -> list[str]:
    parameters = inspect.signature(kernel(name)).parameters.values()
    return [it.name for it in parameters if type(it.default) is float]


NOT_NUMBERS = ["0.1", None, 1j, [0.1], (), np.array([0.1, 0.2]), torch.tensor([0.1, 0.2])]
NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize("name", STATES)
def test_a_wrong_number(name: str) -> None:
    options = number_options(name)
    assert {"lr", "weight_decay"} <= set(options)
    for option in options:
        for wrong in [NAN, -INFINITY, -1, -1e-9, *NOT_NUMBERS]:
            if option == "dampening" and isinstance(wrong, (int, float)) and wrong == wrong:
                continue
            error = ValueError if isinstance(wrong, (int, float)) else TypeError
            match = rf"^{option}: expected a number .*, got {re.escape(repr(wrong))}$"
            refuse(name, arrays_for(name), error, match, **{option: wrong})
            with pytest.raises(error):  # as does the reference
                rule(name)(**arrays_for(name), **USING_ALL_STATES[name] | {option: wrong})
        refuse(name, arrays_for(name), ValueError, f"^{option}: expected", **{option: 10**400})


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_wrong_betas(name: str) -> None:
    for wrong in [-1e-9, 1.0, 2, NAN, INFINITY, *NOT_NUMBERS]:
        error = ValueError if isinstance(wrong, (int, float)) else TypeError
        match = rf"^betas: expected a number in \[0, 1\), got {re.escape(repr(wrong))}$"
        for betas in ((wrong, 0.9), (0.9, wrong)):
            refuse(name, arrays_for(name), error, match, betas=betas)
    for wrong, error in ((0.9, TypeError), (None, TypeError), ((), ValueError), ((0.9,), ValueError)):
        match = rf"^betas: expected two numbers, got {re.escape(repr(wrong))}$"
        refuse(name, arrays_for(name), error, match, betas=wrong)
    refuse(name, arrays_for(name), ValueError, "^betas: expected two numbers", betas=(0.1, 0.2, 0.3))


def test_a_flag_that_is_neither_true_nor_false() -> None:
    flags = ("sgd", "maximize"), ("sgd", "nesterov"), ("sgd", "exponential_average")
    more = ("sgd", "bias_correction"), ("adam", "amsgrad"), ("rmsprop", "centered")
    for name, option in (*flags, *more):
        match = rf"^{option}: expected True or False, got array\(\[1, 2\]\)$"
        refuse(name, arrays_for(name), TypeError, match, **{option: np.array([1, 2])})


AVERAGE = {"momentum": 0.9, "exponential_average": True}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"nesterov": True, "momentum": 0.0}, "nesterov: expected momentum > 0 .* momentum=0.0"),
        ({"nesterov": True, "dampening": 0.1}, "nesterov: expected .* dampening=0.1"),
        ({"nesterov": True, "momentum": "0.9"}, "momentum: expected a number, got '0.9'"),
        (AVERAGE | {"momentum": 0.0}, "exponential_average: expected 0 < momentum < 1.*=0.0"),
        (AVERAGE | {"momentum": 1.0}, "exponential_average: expected 0 < momentum < 1.*=1.0"),
        (AVERAGE | {"momentum": 10**400}, "momentum: expected a number within a double's range"),
        (AVERAGE | {"momentum": NAN}, "momentum: expected a number >= 0, got nan"),
        (AVERAGE | {"dampening": 0.1}, "exponential_average: expected .* dampening=0.1"),
        (AVERAGE | {"dampening": None}, "dampening: expected a number, got None"),
        (AVERAGE | {"nesterov": True}, "exponential_average: expected .* nesterov=True"),
        ({"bias_correction": True}, "bias_correction: expected exponential_average=True"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_that_exclude_each_other(options: Options, match: str) -> None:
    error = TypeError if match.endswith(("'0.9'", "None")) else ValueError
    refuse("sgd", arrays_for("sgd"), error, "^" + match, **options)


@pytest.mark.parametrize(
    "wrong",
    [0, -1, 1.5, NAN, INFINITY, 2**53 + 1, 2**53 + 2, 10**400, *NOT_NUMBERS[:3]],
    ids=lambda it: str(it)[:9],
)
def test_a_wrong_step(wrong: Any) -> None:
    error = ValueError if isinstance(wrong, (int, float)) else TypeError
    accepted_got = rf": expected a whole number from 1 to 2\*\*53, got {re.escape(repr(wrong))}$"
    for name in STATES:
        refuse(name, arrays_for(name), error, "^step" + accepted_got, step=wrong)
        match = r"^step\[2\]" + accepted_got
        refuse(name, lists_for(name), error, match, step=[1, 2, wrong])


@pytest.mark.parametrize("kind", [int, float, np.int64, torch.tensor])
def test_the_last_step(kind: Any) -> None:
    """An integer is compared as it is, not as the double that it is rounded to."""
    kernel("adam")(**arrays_for("adam"), step=kind(2**53))
    if kind is not float:
        with pytest.raises(ValueError, match=r"^step: expected a whole number from 1 to"):
            kernel("adam")(**arrays_for("adam"), step=kind(2**53 + 1))


class Raises:
    """What is no number, for a reason of its own."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __float__(self) -> float:
        raise self.error("as it is")

    def __bool__(self) -> bool:
        raise self.error("as it is")

    def __index__(self) -> int:
        raise self.error("as it is")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError, RecursionError, OSError])
def test_what_is_no_refusal_comes_through(error: type[BaseException]) -> None:
    raises = Raises(error)
    options: list[tuple[str, Options]] = [
        ("sgd", {"lr": raises}),
        ("sgd", {"maximize": raises}),
        ("sgd", {"step": raises}),
        ("adam", {"betas": (0.9, raises)}),
    ]
    for name, wrong in options:
        refuse(name, arrays_for(name), error, "^as it is$", **wrong)
    x = np.ones(SHAPE, np.float32)
    for dropout in ({"p": raises, "seed": 1}, {"p": 0.5, "seed": raises}):
        with pytest.raises(error, match=r"^as it is$"):
            kernels.dropout(x, **dropout)


def test_betas_that_the_first_of_them_empties() -> None:
    class Empties:
        def __float__(self) -> float:
            betas.clear()
            return 0.5

    betas: list[Any] = [Empties(), 0.25]
    emptied, plain = arrays_for("adam"), arrays_for("adam")
    kernel("adam")(**emptied, betas=betas)
    kernel("adam")(**plain, betas=(0.5, 0.25))
    for key, array in plain.items():
        assert np.array_equal(emptied[key], array), key


def test_a_list_of_steps_of_another_length() -> None:
    match = "^step: expected one number or a list of 3 like param, got a list of 2$"
    refuse("adam", lists_for("adam"), ValueError, match, step=[1, 2])
    match = "^step: expected one number, got a list of 2$"
    refuse("adam", arrays_for("adam"), ValueError, match, step=[1, 2])
