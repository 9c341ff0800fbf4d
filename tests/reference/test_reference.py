"""The NumPy references against hand-worked steps, closed forms, other forms of a rule, and torch.

`PYTHONPATH=tests python tests/reference/test_reference.py` measures how far the references lie from
torch.optim; TORCH_LIMIT states what it printed, rounded up.
"""

import inspect
import itertools
import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from _kernel_cases import STATES, rule
from _optimizers import RECORDS
from fastopt import reference
from fastopt._facts import facts_of
from fastopt.reference._common import exponential
from fastopt.rules import library

Array = np.ndarray[Any, np.dtype[Any]]
Float = type[np.float32] | type[np.float64]
Options = dict[str, Any]

TORCH = {it.function: it.torchs for it in RECORDS.values() if it.torchs}


def choices(**values: tuple[Any, ...]) -> Iterator[Options]:
    """Every combination of one value for each name."""
    for combination in itertools.product(*values.values()):
        yield dict(zip(values, combination, strict=True))


def torch_options() -> Iterator[tuple[str, Options]]:
    """Every combination of the options that torch.optim has."""
    for it in RECORDS.values():
        if it.torchs:
            yield from ((it.function, options) for options in it.combinations())


def all_options() -> Iterator[tuple[str, Options]]:
    """Those of torch and those of fastopt's own."""
    for name, options in torch_options():
        options.pop("initial_accumulator_value", None)
        yield name, options
        if name == "rmsprop":
            yield name, options | {"eps_inside_sqrt": True}
        if name in ("adam", "adamw"):
            for extra in choices(bias_correction=(False, True), eps_inside_sqrt=(False, True)):
                yield name, options | extra
            if name == "adamw" or options.get("decoupled_weight_decay"):
                yield name, options | {"cautious_decay": True}
    for options in choices(weight_decay=(0.0, 0.1), maximize=(False, True)):
        yield "lion", options
        yield "lion", options | {"cautious_decay": True}
        yield "sgd", options | {"cautious_decay": True}
    for extra in choices(exponential_average=(True,), bias_correction=(False, True)):
        yield "sgd", extra | {"momentum": 0.9}


def name_of(value: object) -> str | None:
    """A short name for a case: the options that differ from a plain step."""
    if isinstance(value, dict):
        return ",".join(f"{key}={it}" for key, it in value.items() if it and key != "lr") or "plain"
    return getattr(value, "__name__", None)


# ---- steps worked by hand -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("name", "arguments", "param", "states"),
    [(it.function, *worked) for it in RECORDS.values() for worked in it.worked],
    ids=name_of,
)
def test_a_step_worked_by_hand(
    name: str, arguments: Options, param: float, states: list[float], dtype: type
) -> None:
    """Binary fractions throughout, so nothing is rounded and the results are exact."""
    arrays = {
        key: np.full(3, value, dtype) if key in ("param", "grad", *STATES[name]) else value
        for key, value in arguments.items()
    }
    results = rule(name)(**arrays)
    assert [result.dtype for result in results] == [dtype] * len(results)
    assert [result.tolist() for result in results] == [[value] * 3 for value in [param, *states]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_step_of_lamb_worked_by_hand(dtype: type) -> None:
    """Norms of 5 and 10; and, with the corrections and a decay, of 5 and √18."""
    param, grad, m, v = (np.array(it, dtype) for it in ((3, 4), (2, -2), (22, 34), (4, 4)))
    options: Options = {"lr": 0.5, "betas": (0.5, 0.75), "eps": 0, "weight_decay": 0}
    plain = reference.lamb(param, grad, m, v, **options, bias_correction=False)  # as Adam's
    assert plain[0].tolist() == [0, 0]
    options["always_adapt"] = True
    found = reference.lamb(param, grad, m, v, **options, bias_correction=False)  # u = (6, 8)
    assert [array.tolist() for array in found] == [[1.5, 2], [12, 16], [4, 4]]
    m = np.array((4, 6), dtype)  # m' = (3, 2), m̂ = (6, 4), √v̂ = 4, so r = (1.5, 1)
    found = reference.lamb(param, grad, m, v, **options | {"weight_decay": 0.5})  # u = (3, 3)
    ratio = 5 / 18**0.5
    expected = param - dtype(0.5 * ratio) * np.array([3, 3], dtype)
    assert found[0].tolist() == expected.tolist()
    (flipped, *_) = reference.lamb(param, -grad, m, v, **options, maximize=True)
    assert flipped.tolist() == reference.lamb(param, grad, m, v, **options)[0].tolist()


def test_scalars_are_computed_in_double_and_rounded_once() -> None:
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    _, average = reference.sgd(one, one, zero, momentum=0.9, exponential_average=True)
    assert average == np.float32(1 - 0.9) != 1 - np.float32(0.9)
    lr: Any = np.float32(0.1)  # a NumPy scalar stands for its value as a double
    x = np.ones(1)
    ours, theirs = (reference.adam(x, x, x, x, step=7, lr=it) for it in (lr, lr.item()))
    np.testing.assert_array_equal(ours, theirs)


def test_power_is_exact_where_a_double_is() -> None:
    assert [reference.power(0.5, n) for n in range(1080)] == [0.5**n for n in range(1080)]
    assert [reference.power(3.0, n) for n in range(34)] == [float(3**n) for n in range(34)]
    assert reference.power(0.0, 0) == 1.0


def test_the_exponential_is_that_of_the_library_within_its_squarings() -> None:
    """Measured: 1.6e-12 at most, relative, above 1e-300; and exactly 1 and 0 at the ends."""
    for x in np.concatenate([-(10.0 ** np.linspace(-20, 2.8, 500)), [-0.0625, -0.0626]]):
        assert exponential(float(x)) == pytest.approx(math.exp(x), rel=4e-12, abs=1e-300)
    assert [exponential(x) for x in (0.0, -0.0, -1e-17, -747.0, -np.inf)] == [1, 1, 1, 0, 0]


def test_centered_takes_a_variance_that_rounding_left_below_zero_as_zero() -> None:
    grad = np.full(8, 0.1, np.float32)
    param, square_avg, grad_avg = (np.zeros_like(grad) for _ in range(3))
    variances = []
    for step in range(1, 3000):
        param, square_avg, grad_avg = reference.rmsprop(
            param, grad, square_avg, grad_avg, step=step, centered=True, eps=1e-3
        )
        variances.append(float((square_avg - grad_avg * grad_avg)[0]))
    assert min(variances) < 0
    assert np.isfinite(param).all()


@pytest.mark.parametrize("check", [it for record in RECORDS.values() for it in record.checks])
def test_what_else_is_known_of_a_rule(check: Callable[[], None]) -> None:
    check()


def test_lion_tells_of_a_nan_and_steps_from_the_smallest_number() -> None:
    zero, smallest = np.zeros(4), 5e-324
    param, _ = reference.lion(zero, zero, np.array([np.nan, smallest, -smallest, 0]), betas=(0.9, 0))
    np.testing.assert_array_equal(param, [np.nan, -1e-4, 1e-4, 0])


def test_maxima_keep_nan_from_either_side() -> None:
    largest, grad = np.array([np.nan, 1.0]), np.array([1.0, np.nan])
    zero = np.zeros(2)
    *_, largest = reference.adam(zero, grad, zero, zero, largest, amsgrad=True)
    assert np.isnan(largest).all()
    _, _, largest = reference.adamax(zero, grad, zero, np.array([np.nan, 1.0]))
    assert np.isnan(largest).all()


# ---- any input at all ---------------------------------------------------------------------------


def bits(value: Any) -> bytes | str:
    """What tells two numbers apart: all bits, of which any make a NaN."""
    return "NaN" if np.isnan(value) else value.tobytes()


@pytest.mark.parametrize("name", STATES)
@pytest.mark.filterwarnings("error")
def test_overflow_and_nan_give_no_warning(name: str) -> None:
    array = np.array([0.0, 1e38, np.inf, -np.inf, np.nan], np.float32)
    param, *_ = rule(name)(*[array] * (2 + len(STATES[name])), lr=1e300)
    assert not np.isfinite(param).any()


@st.composite
def steps(draw: st.DrawFn) -> tuple[str, Options, list[Array]]:
    """A rule, its options and arrays of any shape and content: subnormal, huge, Inf and NaN too."""
    name, options = draw(st.sampled_from(list(all_options())))
    options = options | {"step": draw(st.integers(1, 2**53))}
    dtype, elements = draw(st.sampled_from([("f4", st.floats(width=32)), ("f8", st.floats(width=64))]))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
    array = hnp.arrays(dtype, shape, elements=elements)
    return name, options, [draw(array) for _ in ("param", "grad", *STATES[name])]


@given(steps())
@pytest.mark.filterwarnings("error")
def test_a_step_acts_on_each_element_alone_and_modifies_no_argument(
    case: tuple[str, Options, list[Array]],
) -> None:
    name, options, arrays = case
    before = [array.tobytes() for array in arrays]
    results = rule(name)(*arrays, **options)
    assert [array.tobytes() for array in arrays] == before
    assert len(results) == len(arrays) - 1
    for result in results:
        assert type(result) is np.ndarray
        assert (result.shape, result.dtype) == (arrays[0].shape, arrays[0].dtype)
        assert not any(np.shares_memory(result, array) for array in arrays)
    for index in np.ndindex(arrays[0].shape):
        alone = rule(name)(*(np.array(array[index]) for array in arrays), **options)
        for result, scalar in zip(results, alone, strict=True):
            assert (scalar.shape, scalar.dtype) == ((), result.dtype)
            assert bits(scalar) == bits(result[index])


# ---- momentum in its other forms ----------------------------------------------------------------


def quadratic(x: Array) -> Array:
    """Gradient of ½ xᵀ H x with the curvatures 1, 10 and 100."""
    return np.array([1.0, 10.0, 100.0]) * x


def rosenbrock(x: Array) -> Array:
    """Gradient of (1 − x₀)² + 100 (x₁ − x₀²)²."""
    valley = x[1] - x[0] ** 2
    return np.array([-2 * (1 - x[0]) - 400 * x[0] * valley, 200 * valley])


@pytest.mark.parametrize(
    ("gradient", "start", "rate"),
    [(quadratic, [1.0, -2.0, 3.0], 5e-3), (rosenbrock, [-1.2, 1.0], 2e-4)],
    ids=name_of,
)
def test_nesterov_as_torch_writes_it_is_the_look_ahead_form(
    gradient: Callable[[Array], Array], start: list[float], rate: float
) -> None:
    """At constant α. torch's first step, buffer = g, is the look-ahead's from v = 0."""
    gamma, tolerance = 0.9, 1e-14  # measured over the 500 steps: 1.2e-15
    # x: looking ahead; ahead: its change of variables; y: as torch writes it
    x: Array = np.array(start)
    ahead = y = x
    v = u = buffer = np.zeros_like(x)
    for step in range(1, 501):
        v = gamma * v - rate * gradient(x + gamma * v)
        x = x + v
        u, previous = gamma * u - rate * gradient(ahead), u
        ahead = ahead + u + gamma * (u - previous)
        y, buffer = reference.sgd(
            y, gradient(y), buffer, step=step, lr=rate, momentum=gamma, nesterov=True
        )
        np.testing.assert_allclose(y, x + gamma * v, rtol=0, atol=tolerance)
        np.testing.assert_allclose(y, ahead, rtol=0, atol=tolerance)
        np.testing.assert_allclose(-rate * buffer, v, rtol=0, atol=tolerance)


@given(
    momentum=st.floats(0.01, 0.999),
    grads=hnp.arrays(np.float64, st.tuples(st.integers(1, 30), st.just(3)), elements=st.floats(-1, 1)),
    bias_correction=st.booleans(),
)
def test_exponential_average_is_a_weighted_sum_of_the_gradients(
    momentum: float, grads: Array, bias_correction: bool
) -> None:
    """Measured over 6000 random cases: the buffer within 3.4e-16, the parameters 2.7e-14."""
    param: Array = np.ones(3)
    buffer, expected = np.zeros_like(param), param
    for step in range(1, len(grads) + 1):
        param, buffer = reference.sgd(
            param,
            grads[step - 1],
            buffer,
            step=step,
            lr=0.1,
            momentum=momentum,
            exponential_average=True,
            bias_correction=bias_correction,
        )
        weights = (1 - momentum) * momentum ** np.arange(step - 1, -1, -1.0)
        average = weights @ grads[:step]
        np.testing.assert_allclose(buffer, average, rtol=0, atol=1e-15)
        # corrected, the weights sum to 1: this divides by their sum and not by 1 − γᵗ
        expected = expected - 0.1 * average / (weights.sum() if bias_correction else 1)
    np.testing.assert_allclose(param, expected, rtol=0, atol=1e-13)


# ---- rules in Python ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", reference.RULED)
def test_a_rule_in_python_is_a_reference_of_its_name(name: str) -> None:
    function = getattr(reference, name)
    assert function is getattr(reference, name)
    assert pickle.loads(pickle.dumps(function)) is function
    assert name in reference.__all__
    assert facts_of(name).states == getattr(library, name).states
    with pytest.raises(TypeError, match="unexpected keyword argument 'foo'"):
        function(*[np.ones(3)] * 4, foo=1)
    with pytest.raises(TypeError, match="missing a required argument"):
        function(np.ones(3), np.ones(3))


def test_there_is_no_other_name() -> None:
    with pytest.raises(AttributeError, match=r"'fastopt\.reference' has no attribute 'nothing'"):
        reference.__getattr__("nothing")  # type: ignore[attr-defined]


# ---- torch --------------------------------------------------------------------------------------

# Largest difference in param and states after each of 10 steps, in units of the dtype's epsilon
# times the array's largest magnitude. Largest of 50 seeds: float32 3.50 (adam), float64 2.74
# (rmsprop).
TORCH_LIMIT: dict[Float, float] = {np.float32: 4.0, np.float64: 3.0}
FARTHER = {it.function: it.epsilons for it in RECORDS.values() if it.epsilons}


def distance_from_torch(name: str, options: Options, dtype: Float, seed: int) -> float:
    """Run 10 steps with normal parameters and gradients here and in torch's for-loop optimizer."""
    random = np.random.default_rng(seed)
    param: Array = random.standard_normal(257).astype(dtype)
    there = torch.from_numpy(param.copy())
    optimizer = TORCH[name]([there], foreach=False, **options)
    here = dict(options)
    initial = here.pop("initial_accumulator_value", 0.0)
    states = [np.full_like(param, initial) for _ in STATES[name]]
    distances = []
    for step in range(1, 11):
        grad: Array = random.standard_normal(257).astype(dtype)
        there.grad = torch.from_numpy(grad)
        optimizer.step()
        if name == "nadam":  # torch keeps the product in float32
            mu = reference.nadam_mu(step, 0.9, here["momentum_decay"])
            here["mu_product"] = float(np.float32(here.get("mu_product", 1)) * np.float32(mu))
        param, *states = rule(name)(param, grad, *states, step=step, **here)
        ours = {"param": param} | dict(zip(STATES[name], states, strict=True))
        for key, theirs in ({"param": there} | optimizer.state[there]).items():
            if key in ours and theirs is not None:
                error = np.abs(ours[key].astype(np.float64) - theirs.numpy()).max()
                distances.append(error / (np.finfo(dtype).eps * np.abs(ours[key]).max()))
    return float(np.max(distances))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "options"), list(torch_options()), ids=name_of)
def test_ten_steps_agree_with_torch(name: str, options: Options, dtype: Float) -> None:
    limit = FARTHER.get(name, TORCH_LIMIT[dtype])
    assert distance_from_torch(name, options, dtype, seed=0) <= limit


@pytest.mark.parametrize("name", TORCH)
def test_defaults_are_torchs(name: str) -> None:
    ours = inspect.signature(rule(name)).parameters
    theirs = inspect.signature(TORCH[name]).parameters
    shared = ours.keys() & theirs.keys()
    assert {"lr", "weight_decay", "maximize"} < shared
    assert {key: ours[key].default for key in shared} == {key: theirs[key].default for key in shared}


if __name__ == "__main__":
    for dtype in TORCH_LIMIT:
        for name in TORCH:
            distances = [
                (distance_from_torch(name, options, dtype, seed), options)
                for rule_name, options in torch_options()
                if rule_name == name
                for seed in range(50)
            ]
            worst, options = max(distances, key=lambda pair: pair[0])
            print(f"{dtype.__name__} {name:8} {worst:6.2f} epsilon, at {options}")
