"""What the tests of masters, random rounding and 8-bit states share: the definition of such a step.

`Low` is fastopt.reference put together: float32 numbers behind each parameter, the rule on them, and
what is stored of the results.
"""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from _optim_cases import EVERY, Array, Options, array_of, with_product
from fastopt import reference
from fastopt.reference.codes import decode_blocks, encode_blocks
from fastopt.reference.rounding import rounding_draws
from fastopt.reference.storage import (
    from_bfloat16,
    round_stochastic,
    split_float32,
    store_state,
    to_bfloat16,
    widen,
)

RULES = [(name, options) for name, it in EVERY.items() for options in it.coded]
UNCODED = [(name, options) for name, it in EVERY.items() for options in it.uncoded]
TAILS: list[Options] = [
    {"max_grad_norm": 1.0},
    {"ema_decay": 0.9},
    {"max_grad_norm": 1.0, "ema_decay": 0.9, "ema_bias_correction": True},
]

THREADS = (1, 2, 3, 7)
LARGE = [(3, 100003), (331, 407), (131075,)]  # where threads are used, if not in the second


def low_parameters(
    shapes: Sequence[tuple[int, ...]], dtype: torch.dtype = torch.float32, seed: int = 1
) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]


def set_grads(params: Sequence[Tensor], seed: int) -> None:
    generator = torch.Generator().manual_seed(1000 + seed)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)


def params_of(optimizer: Optimizer) -> list[Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def raw(tensor: Tensor) -> Array:
    """A copy for NumPy, of bfloat16 the bits."""
    tensor = tensor.detach()
    return array_of(tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor)


def numbers(tensor: Tensor) -> Array:
    return array_of(tensor.detach().to(torch.float32))


def assert_equal(got: Array, want: Array, what: str) -> None:
    """Bit for bit; NaNs are equal to each other."""
    want = np.asarray(want)
    assert (got.shape, got.dtype) == (want.shape, want.dtype), what
    unsigned = f"u{got.itemsize}"
    wrong = got.view(unsigned) != want.view(unsigned) if got.shape else np.asarray(got != want)
    if got.dtype.kind == "f":
        wrong &= ~(np.isnan(got) & np.isnan(want))
    places = np.argwhere(wrong)
    assert len(places) == 0, f"{what}: {len(places)} of {got.size} differ, the first at {places[0]}"


@dataclass
class Record:
    """A parameter as the reference sees it."""

    param: Array
    states: dict[str, Array] = field(default_factory=dict)
    ema: Array | None = None
    step: int = 0
    product: float = 1.0


class Low:
    """The reference beside an optimizer; what is stored must agree after each step."""

    def __init__(self, name: str, optimizer: Optimizer) -> None:
        self.case, self.optimizer = EVERY[name], optimizer
        keywords = inspect.signature(self.case.rule).parameters.values()
        self.keys = {it.name for it in keywords if it.kind == it.KEYWORD_ONLY} - {"step"}
        self.records: dict[Tensor, Record] = {}
        for group in optimizer.param_groups:
            for param in group["params"]:
                it = self.records[param] = Record(numbers(param))
                it.states = {key: np.zeros_like(it.param) for key in self.case.states}
                for key, value in optimizer.state.get(param, {}).items():  # Adagrad begins with one
                    if key != "step":
                        it.states[key] = numbers(value)
                if group["ema_decay"] is not None:
                    corrected = group["ema_bias_correction"]
                    it.ema = np.zeros_like(it.param) if corrected else it.param.copy()

    def step(self) -> None:
        """Step both and compare."""
        self.optimizer.step()
        params = [param for param in params_of(self.optimizer) if param.grad is not None]
        limit, factor = self.optimizer.param_groups[0]["max_grad_norm"], 1.0
        if limit is not None:
            norm = reference.grad_norm([numbers(param.grad) for param in params])
            factor = reference.clip_factor(norm, limit)
        for group in self.optimizer.param_groups:
            for index, param in enumerate(group["params"]):
                if param.grad is not None:
                    self._step(group, param, np.float32(factor), f"parameter {index}")

    def _step(self, group: Options, param: Tensor, factor: np.float32, what: str) -> None:
        it, state = self.records[param], self.optimizer.state[param]
        it.step += 1
        options = {key: group[key] for key in self.keys & group.keys()}
        options, it.product = with_product(self.keys, options, it.product, it.step)
        with np.errstate(all="ignore"):
            grad = np.asarray(factor * numbers(param.grad))
            it.param, *results = self.case.rule(
                it.param, grad, *it.states.values(), step=it.step, **options
            )
            it.states = dict(zip(it.states, results, strict=True))
            if it.ema is not None:
                average = reference.ema(it.ema, it.param, decay=group["ema_decay"])
                it.ema = check_state(state, "ema", average, it.step, f"{what}: ema")
        self._check_param(group, param, it, what)
        for key in it.states.keys() & state.keys():
            number = list(it.states).index(key)
            it.states[key] = check_state(state, key, it.states[key], it.step, f"{what}: {key}", number)

    def _check_param(self, group: Options, param: Tensor, it: Record, what: str) -> None:
        state = self.optimizer.state[param]
        expected = it.param
        if param.dtype == torch.bfloat16 and group["stochastic_rounding"]:
            seed, count = state["rounding"].tolist()
            assert count == it.step
            draws = rounding_draws(param.numel(), seed=seed, offset=count, index=0)
            expected = round_stochastic(it.param, draws.reshape(it.param.shape))
            it.param = from_bfloat16(expected)
        elif param.dtype == torch.bfloat16 and group["master_weights"]:
            expected, low = split_float32(it.param)
            assert_equal(raw(state["param_low"]), low, f"{what}: param_low")
        elif param.dtype == torch.bfloat16:
            it.param = from_bfloat16(to_bfloat16(it.param))
            assert_equal(numbers(param), it.param, what)
            return
        elif param.dtype == torch.float16:
            assert_equal(raw(state["master"]), it.param, f"{what}: master")
            expected = numbers(torch.from_numpy(it.param).half()).astype(np.float16)
        assert_equal(raw(param), expected, what)


def check_state(state: Options, key: str, x: Array, step: int, what: str, number: int = 0) -> Array:
    """Compare a stored state with the numbers that were to be stored; what can be read of it."""
    stored: Tensor = state[key]
    if stored.dtype in (torch.int8, torch.uint8):
        code = "signed8" if stored.dtype == torch.int8 else "root8"
        codes, scales = encode_blocks(x, code, step=step)
        assert_equal(raw(stored), codes, what)
        assert_equal(raw(state[f"{key}_scale"]), scales, f"{what}_scale")
        return decode_blocks(codes, scales)
    if stored.dtype == torch.bfloat16:
        x = widen(store_state(x, ml_dtypes.bfloat16, step=step, state=number))
        assert_equal(numbers(stored), x, what)
        return x
    assert_equal(raw(stored), x, what)
    return x


def train(optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        set_grads(params_of(optimizer), step)
        optimizer.step()


def assert_same_everything(ours: Optimizer, theirs: Optimizer) -> None:
    """Parameters and states, with their dtypes."""
    for index, (a, b) in enumerate(zip(params_of(ours), params_of(theirs), strict=True)):
        assert_equal(raw(a), raw(b), f"parameter {index}")
        assert ours.state[a].keys() == theirs.state[b].keys()
        for key, value in theirs.state[b].items():
            assert_equal(raw(ours.state[a][key]), raw(value), f"{key} of parameter {index}")


def through_file(optimizer: Optimizer) -> Optimizer:
    """Another, loaded from what the first has saved."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    params = [torch.nn.Parameter(param.detach().clone()) for param in params_of(optimizer)]
    other = type(optimizer)(params)
    other.load_state_dict(torch.load(file, weights_only=True))
    return other


COPIES: dict[str, Callable[[Optimizer], Optimizer]] = {
    "file": through_file,
    "deepcopy": copy.deepcopy,
    "pickle": lambda it: pickle.loads(pickle.dumps(it)),
}
