"""What the optimizer tests share: the classes with their options, and the reference beside them.

`Mirror` is the specification of fastopt.optim: fastopt.reference, applied to each parameter by
itself, with the options that its group holds at the time.
"""

import functools
import inspect
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

import fastopt
from _optimizers import RECORDS, Options
from fastopt import reference
from fastopt.reference.storage import narrow, widen

Array = np.ndarray[Any, np.dtype[Any]]

# What depends on the rule is tested for every one.
EVERY = RECORDS

# What surrounds a rule is the same code for all of them: its tests go through these.
CASES = {name: EVERY[name] for name in ("SGD", "Adagrad", "RMSprop", "Adam", "AdamW")}

WITH_TORCH = [name for name, case in EVERY.items() if case.torchs]
CAPTURABLE = [
    name for name, case in EVERY.items() if "capturable" in inspect.signature(case.ours).parameters
]

TORCH_OPTIONS = {name: list(it.options) for name, it in EVERY.items()}
EXTRA_OPTIONS = {name: list(it.extras) for name, it in EVERY.items()}
FULL = {name: it.full for name, it in EVERY.items()}
FEW_BITS = {name: it.few_bits or it.full for name, it in EVERY.items()}

DTYPES = [torch.float32, torch.float64]
STORED = [torch.bfloat16, torch.float16]  # computed in float32

# Dtypes of parameters, and of states beside them.
STATE_PAIRS = [
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float32),
    (torch.float16, torch.bfloat16),
]


def torch_has_fused(name: str) -> bool:
    return "fused" in inspect.signature(EVERY[name].torchs).parameters


def option_cases() -> Iterator[tuple[str, Options]]:
    for name in EVERY:
        for options in itertools.chain(TORCH_OPTIONS[name], EXTRA_OPTIONS[name]):
            yield name, options


def option_id(value: object) -> str | None:
    """A short name for a parametrized value."""
    if isinstance(value, dict):
        return ",".join(f"{key}={it}" for key, it in value.items()) or "defaults"
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else None


SHAPES = [(67, 3), (257,), (1,), (), (0,), (3, 1, 5)]


def parameters(
    dtype: torch.dtype = torch.float32, shapes: Sequence[tuple[int, ...]] = tuple(SHAPES)
) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.nn.Parameter(torch.randn(shape, dtype=dtype, generator=generator)) for shape in shapes
    ]


@functools.lru_cache(maxsize=64)
def _drawn(shapes: tuple[tuple[int, ...], ...], seed: int) -> list[Tensor]:
    """Kept, since every target and thread count is fed the same."""
    generator = torch.Generator().manual_seed(seed)
    grads = []
    for shape in shapes:
        grad = torch.randn(shape, dtype=torch.float64, generator=generator)
        scale = torch.rand(shape, dtype=torch.float64, generator=generator)
        grads.append(grad * 10.0 ** (8 * scale - 4))
    return grads


def gradients(params: Iterable[Tensor], seed: int) -> list[Tensor]:
    """One for each parameter, of magnitudes from 1e-4 to 1e4."""
    params = list(params)
    drawn = _drawn(tuple(tuple(param.shape) for param in params), seed)
    return [grad.to(param.dtype, copy=True) for grad, param in zip(drawn, params, strict=True)]


def set_gradients(params: Iterable[Tensor], seed: int) -> None:
    params = list(params)
    for param, grad in zip(params, gradients(params, seed), strict=True):
        param.grad = grad


class Subclass(torch.Tensor):
    """As plain as a subclass can be."""


def complex64(dtype: torch.dtype = torch.complex64) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.nn.Parameter(torch.randn(5, 7, dtype=dtype, generator=generator))


def complex128() -> Tensor:
    return complex64(torch.complex128)


def subclass() -> Tensor:
    return parameters(shapes=[(5, 7)])[0].detach().as_subclass(Subclass).requires_grad_()


# Parameters that the kernels do not take.
ODD: dict[str, Callable[[], Tensor]] = {
    "complex64": complex64,
    "complex128": complex128,
    "subclass": subclass,
}


def set_odd_gradient(param: Tensor, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    grad = torch.randn(param.shape, dtype=param.dtype, generator=generator)
    param.grad = grad.as_subclass(type(param)) if type(param) is Subclass else grad


def sparse_gradient(step: int, shape: tuple[int, int] = (9, 3)) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    indices = torch.randint(shape[0], (1, 4), generator=generator)  # uncoalesced now and then
    values = torch.randn(4, shape[1], generator=generator)
    return torch.sparse_coo_tensor(indices, values, shape, check_invariants=True)


def state_dtypes(optimizer: Optimizer, *names: str) -> set[torch.dtype]:
    """Of the states of these names, over all parameters."""
    return {state[name].dtype for state in optimizer.state.values() for name in names if name in state}


def array_of(tensor: Tensor) -> Array:
    """A copy, as NumPy sees it: dense, in the same order of memory, and not lazily negated."""
    plain = tensor.detach().resolve_neg()
    if plain.dtype == torch.bfloat16:  # which torch does not export
        return np.array(plain.view(torch.uint16).numpy(), order="K").view(ml_dtypes.bfloat16)
    return np.array(plain.numpy(), order="K")


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    return array_of(torch.empty(0, dtype=dtype)).dtype


def assert_same_bits(actual: Tensor, expected: Array | Tensor, what: str = "") -> None:
    ours = array_of(actual)
    theirs = array_of(expected) if isinstance(expected, Tensor) else expected
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), what
    if ours.tobytes() != theirs.tobytes():
        wrong = np.flatnonzero(ours.view(f"u{ours.itemsize}") != theirs.view(f"u{ours.itemsize}"))
        first = np.unravel_index(wrong[0], ours.shape) if ours.shape else ()
        raise AssertionError(
            f"{what}: {wrong.size} of {ours.size} elements differ, the first at "
            f"{tuple(map(int, first))}: {ours[first]!r}, expected {theirs[first]!r}"
        )


class Mirror:
    """fastopt.reference on a copy of an optimizer's parameters, fed the same gradients."""

    def __init__(self, name: str, optimizer: Optimizer) -> None:
        self.case, self.optimizer = EVERY[name], optimizer
        keywords = inspect.signature(self.case.rule).parameters.values()
        self.keys = {it.name for it in keywords if it.kind == it.KEYWORD_ONLY} - {"step"}
        self.products: dict[Tensor, float] = {}
        self.params: dict[Tensor, Array] = {}
        self.states: dict[Tensor, dict[str, Array]] = {}
        self.steps: dict[Tensor, int] = {}

    def follow(self) -> None:
        """Take in the parameters and step them by the gradients that they have now."""
        for group in self.optimizer.param_groups:
            options = {key: _plain(group[key]) for key in self.keys & group.keys()}
            for param in group["params"]:
                if param not in self.params:
                    self._take_in(param, group)
                if param.grad is not None:
                    self._step(param, options)

    def _take_in(self, param: Tensor, group: Options) -> None:
        array = self.params[param] = array_of(param)
        start = self.optimizer.defaults.get("initial_accumulator_value", 0)
        is_double = param.dtype == torch.float64
        asked = group.get("state_dtype")
        stored = param.dtype if is_double or asked is None else getattr(torch, asked)
        if isinstance(self.optimizer, fastopt.optim.LAMB) and asked is None:
            stored = torch.float32 if stored == torch.float16 else stored  # which holds its squares
        dtypes = dict.fromkeys(self.case.states, numpy_dtype(stored))
        if group.get("centered") and not is_double:  # it divides by the difference of two averages
            dtypes |= {"square_avg": np.dtype(np.float32), "grad_avg": np.dtype(np.float32)}
        self.states[param] = {key: np.full(array.shape, start, it) for key, it in dtypes.items()}
        self.steps[param], self.products[param] = 0, 1.0

    def _grad(self, param: Tensor) -> Array:
        """The gradient as the rule takes it."""
        assert param.grad is not None
        return array_of(param.grad)

    def _step(self, param: Tensor, options: Options) -> None:
        self.steps[param] += 1
        states, before = self.states[param], self.params[param]
        options, self.products[param] = with_product(
            self.keys, options, self.products[param], self.steps[param]
        )
        updated, *new = self.case.rule(
            widen(before), self._grad(param), *states.values(), step=self.steps[param], **options
        )
        states.update(zip(states, new, strict=True))
        self._updated(param, updated)
        self.params[param] = np.empty_like(before)  # in its order of memory, which counts for states
        self.params[param][...] = narrow(updated, before.dtype)

    def _updated(self, param: Tensor, value: Array) -> None:
        """Hear of a parameter's new value, before it is rounded to what it is stored in."""

    def reread(self) -> None:
        """Take the parameters' values as they are now."""
        for param in self.params:
            self.params[param] = array_of(param)

    def check(self) -> None:
        """Parameters, states and step counts equal the optimizer's, bit for bit."""
        for index, (param, array) in enumerate(self.params.items()):
            assert_same_bits(param, array, f"parameter {index}")
            for key, value in self.optimizer.state.get(param, {}).items():
                if key == "step":
                    assert value == self.steps[param], f"step of parameter {index}"
                elif key == "mu_product":
                    assert value == self.products[param], f"{key} of {index}"
                else:
                    assert_same_bits(value, self.states[param][key], f"{key} of {index}")


def with_product(keys: set[str], options: Options, before: float, step: int) -> tuple[Options, float]:
    """The options, with the product that NAdam keeps if the rule is it; and that product."""
    if "mu_product" not in keys:
        return options, before
    mu = reference.nadam_mu(step, options["betas"][0], options["momentum_decay"])
    product = float(np.float32(before) * np.float32(mu))
    return options | {"mu_product": product}, product


def _plain(value: Any) -> Any:
    """A hyperparameter as a number: tensors are worth their values in double."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, Tensor) else value


def step_and_check(mirror: Mirror) -> None:
    mirror.follow()
    mirror.optimizer.step()
    mirror.check()


class Snapshot:
    """All that a step may write: parameters, states, their keys and identities.

    Of every group, or of the `first` ones.
    """

    def __init__(self, optimizer: Optimizer, first: int | None = None) -> None:
        self.optimizer = optimizer
        params = [param for group in optimizer.param_groups[:first] for param in group["params"]]
        self.params = [(param, param.detach().clone(), param._version) for param in params]
        self.states = {
            param: {key: (value, _clone(value)) for key, value in optimizer.state[param].items()}
            for param in params
            if param in optimizer.state
        }

    def assert_unchanged(self) -> None:
        for param, before, version in self.params:
            assert torch.equal(param.detach(), before)
            assert param._version == version
            assert (param in self.optimizer.state) == (param in self.states)
        for param, state in self.states.items():
            assert self.optimizer.state[param].keys() == state.keys()
            for key, (value, before) in state.items():
                now = self.optimizer.state[param][key]
                assert now is value
                assert torch.equal(now, before) if isinstance(now, Tensor) else now == before


def _clone(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


CHILDREN = """
import os, sys, traceback
import torch._dynamo  # by torch's first step, which would be each child's

exec(sys.argv[1])
for argument in sys.argv[2:]:
    child = os.fork()
    if child == 0:
        try:
            check(argument)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(os.waitpid(child, 0)[1])
"""


def failures_in_fresh_processes(code: str, arguments: Iterable[str]) -> dict[str, str]:
    """What went wrong in `check(argument)`, a function in `code`, called once in a process each.

    They are forks of one interpreter, so what `code` imports is imported once.
    """
    arguments = list(arguments)
    done = subprocess.run(
        [sys.executable, "-c", CHILDREN, code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    statuses = dict(zip(arguments, done.stdout.split(), strict=True))
    return {
        argument: f"wait status {status}\n{done.stderr}"
        for argument, status in statuses.items()
        if status != "0"
    }
