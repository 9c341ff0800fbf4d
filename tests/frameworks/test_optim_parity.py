"""Beside torch.optim: the same signatures, groups, states and errors, and results a few ulp away.

`PYTHONPATH=tests python tests/frameworks/test_optim_parity.py` measures what LIMITS states.
"""

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import Optimizer

from _optim_cases import (
    CASES,
    DTYPES,
    EVERY,
    FULL,
    TORCH_OPTIONS,
    WITH_TORCH,
    Array,
    Options,
    array_of,
    gradients,
    option_id,
    parameters,
    torch_has_fused,
)
from fastopt.optim._entries import torchs_of
from fastopt.reference.storage import widen

each_optimizer = pytest.mark.parametrize("name", WITH_TORCH)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """torch's fused step wakes its threads for each small tensor: slow on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


TAIL: dict[str, object] = {
    "max_grad_norm": None,
    "error_if_nonfinite": False,
    "ema_decay": None,
    "ema_bias_correction": False,
    "copy_to": None,
    "state_dtype": None,
    "master_weights": False,
    "stochastic_rounding": False,
    "rounding_seed": 0,
}
EXTRAS: dict[str, Options] = {
    "SGD": {"exponential_average": False, "bias_correction": False, "cautious_decay": False},
    "RMSprop": {"eps_inside_sqrt": False},
    "Adam": {"bias_correction": True, "eps_inside_sqrt": False, "cautious_decay": False},
    "AdamW": {"bias_correction": True, "eps_inside_sqrt": False, "cautious_decay": False},
}

# ---- distance -----------------------------------------------------------------------------------

ALL_DTYPES = [*DTYPES, torch.bfloat16]


def spacing(values: Array) -> Array:
    """The distance to the next number of the type."""
    if values.dtype != np.float32 and values.dtype != np.float64:  # bfloat16
        return np.spacing(widen(values)) * 2.0**16
    return np.spacing(values)


def distance(name: str, options: Options, dtype: torch.dtype, seed: int, fused: bool) -> float:
    """The largest difference of a parameter, in ulp at the largest value that it has had so far.

    The problem: 600 parameters from a normal distribution and 20 gradients of each, of random signs
    and of magnitudes from 1e-4 to 1e4, the same for both; lr as it is by default.
    """
    shapes = [(599,), ()]
    ours, theirs = parameters(dtype, shapes), parameters(dtype, shapes)
    flags = {"fused": True} if fused else {}
    optimizers = [EVERY[name].ours(ours, **options), EVERY[name].torchs(theirs, **options, **flags)]
    largest = [np.abs(array_of(param)) for param in ours]
    worst = 0.0
    for step in range(20):
        for params in (ours, theirs):
            for param, grad in zip(params, gradients(params, 1000 * seed + step), strict=True):
                param.grad = grad
        for optimizer in optimizers:
            optimizer.step()
        for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            a, b = array_of(mine), array_of(other)
            largest[index] = np.maximum(largest[index], np.abs(b))
            apart = np.abs(widen(a) - widen(b)) / spacing(largest[index])
            worst = max(worst, float(apart.max()))
    return worst


def comparisons() -> Iterator[tuple[str, Options, bool, torch.dtype]]:
    for name in WITH_TORCH:
        for it, fused, dtype in itertools.product(TORCH_OPTIONS[name], (False, True), ALL_DTYPES):
            # torch's fused SGD leaves bfloat16 parameters as they were but for the rest that fills
            # no vector.
            if not fused or (torch_has_fused(name) and (name, dtype) != ("SGD", torch.bfloat16)):
                yield name, it, fused, dtype


@pytest.mark.parametrize(("name", "options", "fused", "dtype"), list(comparisons()), ids=option_id)
def test_parameters_lie_within_the_measured_distance_of_torchs(
    name: str, options: Options, fused: bool, dtype: torch.dtype
) -> None:
    """Within twice what the records tell, for torch's roots and powers are others on other machines.

    Running this file measures it anew.

    Momentum (SGD with dampening, RMSprop) adds up to more than what remains of it in a parameter.
    float64 shows the two ways to 1 - 0.999^t, repeated squaring here and pow in torch: at small t
    it is the difference of two near numbers, and rectified Adam subtracts its inverse from a near
    number again. The rest: torch rounds elsewhere (its fused kernels multiply and add in one), and its
    vector root is not always the nearest number. In bfloat16 its loop rounds after every operation,
    and fastopt only what is stored.
    """
    assert distance(name, options, dtype, 0, fused) <= 2 * EVERY[name].distance[dtype]


def measure() -> None:
    torch.set_num_threads(1)
    worst: dict[tuple[str, torch.dtype], float] = {}
    for name, options, fused, dtype in comparisons():
        for seed in range(20):
            found = distance(name, options, dtype, seed, fused)
            worst[name, dtype] = max(worst.get((name, dtype), 0), found)
    for (name, dtype), ulp in worst.items():
        print(f"{name:8} {dtype} {ulp:6.2f} ulp")


@each_optimizer
def test_the_entries_that_follow_from_the_rule_are_torchs(name: str) -> None:
    case: Any = EVERY[name]
    optimizer = case.torchs(parameters(), **FULL[name])
    for param in optimizer.param_groups[0]["params"]:
        param.grad = torch.ones_like(param)
    optimizer.step()
    for state in optimizer.state.values():
        assert state.keys() == set(torchs_of(case.ours._rule))


# ---- constructors -------------------------------------------------------------------------------


def parameters_of(optimizer_class: type[Optimizer]) -> list[inspect.Parameter]:
    return list(inspect.signature(optimizer_class).parameters.values())


@each_optimizer
def test_signature(name: str) -> None:
    """torch's arguments, in its order, with its defaults; then ours, by keyword alone."""
    ours, theirs = parameters_of(EVERY[name].ours), parameters_of(EVERY[name].torchs)
    shared, extra = ours[: len(theirs)], ours[len(theirs) :]
    assert [(it.name, it.kind, it.default) for it in shared] == [
        (it.name, it.kind, it.default) for it in theirs
    ]
    assert {it.name: it.default for it in extra} == EXTRAS.get(name, {}) | TAIL
    assert all(it.kind == inspect.Parameter.KEYWORD_ONLY for it in extra)
    step = [inspect.signature(it.step).parameters for it in EVERY[name].classes]
    assert list(step[0]) == list(step[1])


@each_optimizer
def test_is_torchs_class(name: str) -> None:
    case = EVERY[name]
    optimizer = case.ours(parameters())
    assert isinstance(optimizer, case.torchs)
    assert case.ours.__name__ == case.torchs.__name__
    assert repr(optimizer).startswith(f"{name} (\nParameter Group 0\n")


@each_optimizer
def test_groups_and_defaults_are_torchs_and_the_extras(name: str) -> None:
    options = [{"lr": 0.5}, {"weight_decay": 0.25}]
    made = []
    for optimizer_class in EVERY[name].classes:
        groups = [{"params": parameters(), **it} for it in options]
        optimizer = optimizer_class(groups, lr=0.125)
        optimizer.add_param_group({"params": parameters()})
        rest = [{k: v for k, v in it.items() if k != "params"} for it in optimizer.param_groups]
        made.append([optimizer.defaults, *rest])
    for ours, theirs in zip(*made, strict=True):
        assert ours == theirs | EXTRAS.get(name, {}) | TAIL
        assert all(type(ours[key]) is type(theirs[key]) for key in theirs)


@pytest.mark.parametrize("name", EXTRAS)
def test_extras_may_differ_between_groups(name: str) -> None:
    key, neutral = list(EXTRAS[name].items())[-1]
    first, second, third = (parameters(shapes=[(3,)]) for _ in range(3))
    optimizer = EVERY[name].ours([{"params": first, key: not neutral}, {"params": second}])
    optimizer.add_param_group({"params": third, key: not neutral})
    assert [group[key] for group in optimizer.param_groups] == [not neutral, neutral, not neutral]


def test_adagrad_starts_every_sum_from_the_constructors_value() -> None:
    """As torch does, whatever a group says, also for a group that is added later."""
    states = []
    for optimizer_class in CASES["Adagrad"].classes:
        first, second = parameters(shapes=[(3,), (4,)])
        groups = [{"params": [first], "initial_accumulator_value": 7.0}]
        optimizer = optimizer_class(groups, initial_accumulator_value=0.5)
        optimizer.add_param_group({"params": [second], "initial_accumulator_value": 9.0})
        assert optimizer.state.keys() == {first}
        for param in (first, second):
            param.grad = torch.zeros_like(param)
        optimizer.step()
        states.append([optimizer.state[param]["sum"].tolist() for param in (first, second)])
    assert states[0] == states[1] == [[0.5] * 3, [0.5] * 4]


# ---- errors -------------------------------------------------------------------------------------


BAD: list[Options] = [
    {"lr": -0.1},
    {"lr": float("nan")},
    {"lr": torch.ones(3)},
    {"lr": "x"},
    {"weight_decay": -0.1},
    {"eps": -1e-8},
    {"eps": float("nan")},
    {"momentum": -0.5},
    {"nesterov": True},
    {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
    {"lr_decay": -0.1},
    {"initial_accumulator_value": -0.1},
    {"alpha": -0.1},
    {"betas": (1.0, 0.9)},
    {"betas": (0.9, -0.1)},
    {"betas": (0.9, float("nan"))},
    {"betas": (0.9, torch.tensor(0.9))},
    {"betas": (torch.tensor([0.9, 0.9]), torch.tensor(0.9))},
    {"betas": (0.9,)},
    {"foreach": True, "fused": True},
    {"differentiable": True, "fused": True},
    {"lr": torch.tensor(0.1), "foreach": True},
    {"rho": 1.1},
    {"momentum_decay": -0.1},
    {"no_such_option": 1},
]


def error_of(optimizer_class: Any, *arguments: Any, **options: Any) -> tuple[Any, str] | None:
    try:
        optimizer_class(*arguments, **options)
    except Exception as error:
        return type(error), str(error)
    return None


def bad_options() -> Iterator[tuple[str, Options]]:
    for name, options in itertools.product(WITH_TORCH, BAD):
        known = inspect.signature(EVERY[name].torchs).parameters.keys() | {"no_such_option"}
        if options.keys() <= known:
            yield name, options


@pytest.mark.parametrize(("name", "options"), list(bad_options()), ids=str)
def test_bad_options_are_torchs_errors(name: str, options: Options) -> None:
    """Or torch's silence: SGD takes a NaN for lr."""
    ours, theirs = (error_of(it, parameters(), **options) for it in EVERY[name].classes)
    assert ours == theirs


@each_optimizer
@pytest.mark.parametrize(
    "params",
    [
        [],
        torch.ones(3),
        [1.0],
        [{"params": [torch.ones(3)], "lr": -1.0}],
        [{"params": {torch.ones(3)}}],
        [{"lr": 0.1}],
        [torch.ones(3, requires_grad=True) * 2],
        [("a", torch.nn.Parameter(torch.ones(3))), torch.nn.Parameter(torch.ones(3))],
    ],
    ids=[
        "none",
        "a tensor",
        "a number",
        "negative lr in a group",
        "a set",
        "no params",
        "not a leaf",
        "some named",
    ],
)
def test_bad_parameters_are_torchs_errors(name: str, params: Any) -> None:
    assert error_of(EVERY[name].ours, params) == error_of(EVERY[name].torchs, params)


@each_optimizer
def test_a_parameter_in_two_groups_is_torchs_error(name: str) -> None:
    shared = parameters(shapes=[(3,)])
    messages = []
    for optimizer_class in EVERY[name].classes:
        optimizer = optimizer_class(shared)
        with pytest.raises(ValueError, match="more than one parameter group") as caught:
            optimizer.add_param_group({"params": shared})
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -0.1}, "Invalid learning rate: -0.1"),
        ({"lr": float("nan")}, "Invalid learning rate: nan"),
        ({"lr": torch.ones(3)}, "Tensor lr must be 1-element"),
        ({"betas": (0.9, 1.0)}, "Invalid beta parameter at index 1: 1.0"),
        ({"betas": (-0.1, 0.9)}, "Invalid beta parameter at index 0: -0.1"),
        ({"weight_decay": -0.1}, "Invalid weight_decay value: -0.1"),
    ],
    ids=str,
)
def test_bad_options_of_lion_are_refused_in_torchs_words(options: Options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EVERY["Lion"].ours(parameters(), **options)


def test_the_product_of_nadam_is_torchs() -> None:
    params = [parameters(shapes=[(3,)]) for _ in range(2)]
    made = zip(EVERY["NAdam"].classes, params, strict=True)
    optimizers = [kind(it, momentum_decay=0.01) for kind, it in made]
    for step in range(40):
        for optimizer, it in zip(optimizers, params, strict=True):
            it[0].grad = gradients(it, step)[0]
            optimizer.step()
        ours, theirs = (o.state[p[0]] for o, p in zip(optimizers, params, strict=True))
        assert ours["mu_product"] == theirs["mu_product"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exponential_average": True}, "exponential_average needs"),
        ({"exponential_average": True, "momentum": 1.0}, "exponential_average needs"),
        ({"exponential_average": True, "momentum": 0.9, "dampening": 0.1}, "dampening=0.1"),
        ({"exponential_average": True, "momentum": 0.9, "nesterov": True}, "nesterov=True"),
        ({"bias_correction": True, "momentum": 0.9}, "needs exponential_average=True"),
    ],
    ids=str,
)
def test_bad_extras_of_sgd(options: Options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CASES["SGD"].ours(parameters(), **options)


if __name__ == "__main__":
    measure()
