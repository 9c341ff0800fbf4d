"""The NumPy references refuse wrong arguments with an error that names the argument."""

import inspect
from typing import Any

import numpy as np
import pytest

from _kernel_cases import STATES, USING_ALL_STATES, Options
from fastopt import reference

AVERAGE = {"momentum": 0.5, "exponential_average": True}

ONE = np.ones(2, np.float32)
WRONG_ARRAYS = [
    ([1.0, 2.0], TypeError, "numpy.ndarray, not list"),
    (None, TypeError, "numpy.ndarray, not NoneType"),
    (np.ma.ones(2), TypeError, "numpy.ndarray, not MaskedArray"),
    (np.ones(2, np.longdouble), TypeError, "float32 or float64, not float(96|128)"),
    (np.ones(2, np.int64), TypeError, "float32 or float64, not int64"),
    (np.ones(2, complex), TypeError, "float32 or float64, not complex128"),
    (np.ones(2, ">f4"), TypeError, "float32 or float64, not >f4"),
    (np.ones(2, np.float64), ValueError, r"\(2,\) float32, not \(2,\) float64"),
    (np.ones((1, 2), np.float32), ValueError, r"\(2,\) float32, not \(1, 2\) float32"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG_ARRAYS)
@pytest.mark.parametrize(
    ("name", "argument"),
    [(name, argument) for name, states in STATES.items() for argument in ["grad", *states]],
)
def test_a_wrong_array_is_named(
    name: str, argument: str, wrong: Any, error: type[Exception], message: str
) -> None:
    arrays = dict.fromkeys(["param", "grad", *STATES[name]], ONE) | {argument: wrong}
    with pytest.raises(error, match=f"^{argument} must .*{message}$"):
        getattr(reference, name)(**arrays, **USING_ALL_STATES[name])
    if error is TypeError:
        arrays["param"] = wrong
        with pytest.raises(error, match=f"^param must .*{message}$"):
            getattr(reference, name)(**arrays, **USING_ALL_STATES[name])


@pytest.mark.parametrize("wrong", [-1e-9, float("nan"), float("-inf"), "0.1", None, 1j])
@pytest.mark.parametrize("name", STATES)
def test_a_wrong_hyperparameter_is_named(name: str, wrong: Any) -> None:
    error = ValueError if isinstance(wrong, float) else TypeError
    arrays = [ONE] * (2 + len(STATES[name]))
    parameters = inspect.signature(getattr(reference, name)).parameters
    for key in {"lr", "eps", "alpha", "weight_decay", "momentum", "lr_decay"} & parameters.keys():
        with pytest.raises(error, match=f"^{key} must be a number >= 0, not "):
            getattr(reference, name)(*arrays, **{key: wrong})


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        (
            "adam",
            {"betas": (0.9, 1.0)},
            ValueError,
            r"betas\[1\] must be a number in \[0, 1\), not",
        ),
        ("adam", {"betas": (-0.1, 0.9)}, ValueError, r"betas\[0\] must be a number in \[0, 1\)"),
        ("adam", {"betas": (0.9,)}, TypeError, "betas must be a pair"),
        ("adam", {"betas": 0.9}, TypeError, "betas must be a pair"),
        ("adamw", {"step": 0}, ValueError, "step must be a whole number from 1"),
        ("adagrad", {"step": 1.5}, ValueError, "step must be a whole number from 1"),
        ("rmsprop", {"step": float("inf")}, ValueError, "step must be a whole number from 1"),
        ("rmsprop", {"step": "1"}, TypeError, "step must be a whole number, not str"),
        ("sgd", {"dampening": float("nan")}, ValueError, "dampening must be a number other than"),
        ("sgd", {"nesterov": True}, ValueError, "nesterov needs momentum > 0"),
        ("sgd", AVERAGE | {"momentum": 0.0}, ValueError, "exponential_average needs 0 < momentum"),
        ("sgd", AVERAGE | {"momentum": 1.0}, ValueError, "exponential_average needs 0 < momentum"),
        ("sgd", AVERAGE | {"dampening": 0.1}, ValueError, "exponential_average needs .* dampening"),
        ("sgd", AVERAGE | {"nesterov": True}, ValueError, "exponential_average needs .* nesterov"),
        ("sgd", {"bias_correction": True}, ValueError, "bias_correction needs exponential_average"),
    ],
)
def test_a_wrong_option_is_named(
    name: str, options: Options, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{message}"):
        getattr(reference, name)(*[ONE] * (2 + len(STATES[name])), **options)
