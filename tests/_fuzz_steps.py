"""What one step of an optimizer is to do, from all that it holds before: the fuzzer's judge.

Where fastopt's kernels are at work, fastopt.reference says it, starting from the parameters, states
and options as they are, whoever put them there; where torch's own step is, torch's class does, on
copies. A step that raises leaves everything as it was.
"""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from _low_cases import check_state, numbers, raw
from _optim_cases import EVERY, Array, Options, _plain, array_of, with_product
from fastopt import reference
from fastopt.reference.codes import decode_blocks
from fastopt.reference.rounding import rounding_draws
from fastopt.reference.storage import (
    from_bfloat16,
    join_float32,
    narrow,
    round_stochastic,
    split_float32,
    store_state,
    to_bfloat16,
    widen,
)

HALVES = (torch.bfloat16, torch.float16)
REFUSALS = (TypeError, ValueError, RuntimeError, KeyError, NotImplementedError)


# ---- all that an optimizer holds ------------------------------------------------------------------


def contents(value: Any) -> Any:
    """What can be compared: bytes of a tensor, other things as they show."""
    if not isinstance(value, Tensor):
        return repr(value)
    if value.layout != torch.strided or value.device.type != "cpu":
        return repr(value)
    plain = value.detach().resolve_neg().resolve_conj().clone(memory_format=torch.contiguous_format)
    return value.dtype, value.shape, plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def params_of(optimizer: Optimizer) -> list[Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


class Picture:
    """Groups, parameters, gradients and states: which objects they are, and what is in them."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.groups = [
            (group, {key: (value, repr(_shown(value))) for key, value in group.items()})
            for group in optimizer.param_groups
        ]
        self.params = [
            (param, contents(param), param.grad, contents(param.grad)) for param in params_of(optimizer)
        ]
        self.states = {
            param: {key: (value, contents(value)) for key, value in state.items()}
            for param, state in optimizer.state.items()
            if hasattr(state, "items")
        }

    def assert_same(self, but: tuple[Tensor, ...] = ()) -> None:
        """Nothing has changed, except of these parameters."""
        groups = self.optimizer.param_groups
        assert len(groups) == len(self.groups), "groups came or went"
        for now, (group, entries) in zip(groups, self.groups, strict=True):
            assert now is group, "a group was replaced"
            filled_in = {key: self.optimizer.defaults.get(key) for key in now.keys() - entries.keys()}
            assert entries.keys() <= now.keys(), "a group lost an option"
            assert all(now[key] is it for key, it in filled_in.items()), "a group got an option"
            for key, (value, shown) in entries.items():
                assert now[key] is value, f"{key} of a group was replaced"
                assert repr(_shown(value)) == shown, f"{key} of a group has changed"
        left = {id(param) for param in but}
        for param, before, grad, grad_before in self.params:
            if id(param) not in left:
                assert contents(param) == before, "a parameter has changed"
            assert param.grad is grad, "a gradient was replaced"
            assert contents(grad) == grad_before, "a gradient has changed"
        for param, state in self.optimizer.state.items():
            if id(param) not in left and hasattr(state, "items"):
                assert state.keys() == self.states.get(param, {}).keys(), "states came or went"
                for key, (value, before) in self.states.get(param, {}).items():
                    assert state[key] is value, f"{key} was replaced"
                    assert contents(value) == before, f"{key} has changed"
        assert self.states.keys() <= self.optimizer.state.keys() | set(but), "states were dropped"


def _shown(value: Any) -> Any:
    """Of a group's entry: parameters by identity, other tensors by their contents."""
    if isinstance(value, list):
        return [id(it) for it in value]
    return contents(value) if isinstance(value, Tensor) else value


# ---- what the reference says ----------------------------------------------------------------------

USED: dict[str, Callable[[Options], bool]] = {
    "momentum_buffer": lambda group: group["momentum"] != 0,
    "grad_avg": lambda group: group["centered"],
    "max_exp_avg_sq": lambda group: group["amsgrad"],
}


def in_memory(array: Array, like: Tensor) -> Array:
    """The elements in the order in which those of `like` lie in memory."""
    axes = sorted(range(like.ndim), key=lambda axis: -like.stride(axis))
    return array.transpose(axes)


def master_of(param: Tensor, group: Options, state: Options) -> Array:
    """The numbers behind a parameter, in its order of memory."""
    if param.dtype not in HALVES or not group["master_weights"]:
        return widen(array_of(param))
    value = numbers(param)
    if param.dtype == torch.bfloat16 and "param_low" in state:
        value[...] = join_float32(raw(param), raw(state["param_low"]))
    if param.dtype == torch.float16 and "master" in state:
        master = raw(state["master"])
        value[...] = np.where(narrow(master, np.float16) == raw(param), master, value)
    return value


@dataclass
class Wanted:
    """What a step is to make of one parameter."""

    name: str
    group: Options
    param: Tensor
    step: int
    value: Array
    states: dict[str, Array]
    average: Array | None
    product: float
    before: Options = field(default_factory=dict)

    def check(self, state: Options) -> None:
        self.check_param(state)
        for key, value in self.states.items():
            if state[key].dtype in (torch.int8, torch.uint8):
                check_state(state, key, value, self.step, key)
            else:
                assert_equal_bits(widen(array_of(state[key])), widen(value), key)
        if self.average is not None:
            average = array_of(state["ema"])
            assert_equal_bits(widen(average), widen(narrow(self.average, average.dtype)), "ema")
        if "step" in state and self.name not in ("SGD", "Lion"):  # which count for some alone
            assert float(state["step"]) == self.step, "step"
        if "mu_product" in state:
            assert float(state["mu_product"]) == self.product, "mu_product"
        kept = self.before.keys() - self.states.keys() - WRITTEN
        for key in kept & state.keys():
            if key.removesuffix("_scale") in self.states:
                continue
            assert contents(state[key]) == self.before[key], f"{key} was written"

    def check_param(self, state: Options) -> None:
        param, expected = self.param, self.value
        if param.dtype == torch.bfloat16 and self.group["stochastic_rounding"]:
            seed, count = state["rounding"].tolist()
            flat = in_memory(self.value, param)
            draws = rounding_draws(flat.size, seed=seed, offset=count, index=0).reshape(flat.shape)
            got = in_memory(raw(param), param)
            rounded = round_stochastic(flat.copy(), draws)
            assert_equal_bits(from_bfloat16(got), from_bfloat16(rounded))
        elif param.dtype == torch.bfloat16 and self.group["master_weights"]:
            high, low = split_float32(expected)
            assert_equal_bits(raw(param), high)
            assert_equal_bits(raw(state["param_low"]), low, "param_low")
        elif param.dtype == torch.bfloat16:
            assert_equal_bits(numbers(param), from_bfloat16(to_bfloat16(expected)))
        else:
            if param.dtype == torch.float16 and self.group["master_weights"]:
                assert_equal_bits(raw(state["master"]), expected, "master")
            assert_equal_bits(raw(param), narrow(expected, raw(param).dtype))


WRITTEN = {"step", "mu_product", "ema", "ema_step", "ema_weight", "param_low", "master", "rounding"}


def assert_equal_bits(got: Array, want: Array, what: str = "parameter") -> None:
    """Bit for bit; NaNs are equal to each other."""
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    unsigned = f"u{got.itemsize}"
    same = np.ascontiguousarray(got).view(unsigned) == np.ascontiguousarray(want).view(unsigned)
    if got.dtype.kind == "f":
        same |= (np.isnan(got) & np.isnan(want)).reshape(same.shape)
    assert same.all(), f"{what}: {(~same).sum()} of {same.size} elements differ"


def filled(optimizer: Any, group: Options) -> Options:
    """A group with what it may lack: the constructor's options, where they are not torch's."""
    torchs = EVERY[type(optimizer).__name__].torchs
    ours = optimizer.defaults.keys() if torchs is None else optimizer._neutral().keys()
    return {**{key: optimizer.defaults[key] for key in ours}, **group}


def clip_factor_of(optimizer: Optimizer) -> float:
    limit = filled(optimizer, optimizer.param_groups[0])["max_grad_norm"]
    if limit is None:
        return 1.0
    grads = [in_memory(array_of(it.grad), it) for it in params_of(optimizer) if it.grad is not None]
    return reference.clip_factor(reference.grad_norm([widen(it) for it in grads]), limit)


def wanted(name: str, optimizer: Optimizer, group: Options, param: Tensor, factor: float) -> Wanted:
    """By the reference; TypeError or ValueError where it refuses the options."""
    case, group = EVERY[name], filled(optimizer, group)
    keywords = inspect.signature(case.rule).parameters.values()
    keys = {it.name for it in keywords if it.kind == it.KEYWORD_ONLY} - {"step", "as_stored"}
    options = {key: _plain(group[key]) for key in keys & optimizer.defaults.keys()}
    state = {key: it for key, it in optimizer.state.get(param, {}).items() if it is not None}
    value = master_of(param, group, state)
    used = [it for it in case.states if it not in USED or USED[it](group)]
    before = {it: state_before(optimizer, group, param, state, it) for it in used}
    step = reference._common.check_step(float(state["step"]) + 1 if "step" in state else 1)
    at = step
    if name == "SGD" and not (group["exponential_average"] and group["bias_correction"]):
        at = 1 if "momentum_buffer" not in state else max(step, 2)  # it asks whether it is the first
        if at == 1 < step:
            raise ValueError("a first step that is not the first that was counted")
    product = float(state["mu_product"]) if "mu_product" in state else 1.0
    if "mu_product" in state and state["mu_product"].dtype != torch.float32:
        raise ValueError("a product in another type than the reference keeps it in")
    options, product = with_product(keys, options, product, step)

    def stored(key: str, x: Array) -> Array:  # by the step that is counted, whatever the rule is told
        number = case.states.index(key)
        return store_state(x, before[key].dtype, step=step, state=number, like=value)

    wide = {key: widen(it) for key, it in before.items()}
    if name == "LAMB":
        options["as_stored"] = lambda key, x: widen(stored(key, x))
    with np.errstate(all="ignore"):
        grad = np.asarray(value.dtype.type(factor) * widen(array_of(param.grad)))
        result, *states = case.rule(value, grad, **wide, step=at, **options)
        average = None
        if group["ema_decay"] is not None:
            start = np.zeros_like(value) if group["ema_bias_correction"] else widen(array_of(param))
            old = widen(array_of(state["ema"])) if "ema" in state else start
            average = reference.ema(old, result, decay=group["ema_decay"])
    kept = {key: contents(it) for key, it in state.items()}
    after = {key: stored(key, x) for key, x in zip(used, states, strict=True)}
    return Wanted(name, group, param, step, result, after, average, product, kept)


def state_before(optimizer: Any, group: Options, param: Tensor, state: Options, name: str) -> Array:
    """A state as it is stored, for the rule, which rounds what it makes of it; of codes the numbers."""
    there, stored = state.get(name), optimizer._dtype_of_state(group, param, name)
    small, codes = (torch.float32, *HALVES), (torch.int8, torch.uint8)
    if there is not None and there.dtype != stored and param.dtype in small:
        has_scale = f"{name}_scale" in state  # without which codes are refused
        if there.dtype in small or (there.dtype in codes and has_scale):
            state = {**state, **optimizer._stored(group, param, name, state)}  # as a load would
            there = state[name]
    if there is not None and there.dtype in (torch.int8, torch.uint8):
        return np.asarray(decode_blocks(raw(there), raw(state[f"{name}_scale"])))
    if there is not None:
        return array_of(there)
    new = torch.empty_like(param, dtype=stored if stored.is_floating_point else torch.float32)
    return array_of(new.fill_(group.get("initial_accumulator_value", 0)))  # which is Adagrad's


# ---- what torch says ------------------------------------------------------------------------------


def torchs_twin(name: str, optimizer: Any, left: list[tuple[Options, Tensor]]) -> Optimizer:
    """torch's optimizer of copies of these parameters, with copies of their states."""
    twin: Optimizer = EVERY[name].torchs([torch.nn.Parameter(torch.zeros(1))])
    twin.defaults = optimizer.defaults  # by which torch makes a state that is not there yet
    ours = set(optimizer._neutral())
    groups: dict[int, Options] = {}
    twin.state = defaultdict(dict)
    for group, param in left:
        mine = copy.deepcopy(
            {key: it for key, it in group.items() if key != "params" and key not in ours}
        )
        mine = groups.setdefault(id(group), {**mine, "params": []})
        other = copied(param).as_subclass(type(param)).requires_grad_(param.requires_grad)
        other.grad = None if param.grad is None else copied(param.grad)
        mine["params"].append(other)
        if param in optimizer.state:
            twin.state[other] = {key: copied(it) for key, it in optimizer.state[param].items()}
    twin.param_groups = list(groups.values())
    return twin


def copied(value: Any) -> Any:
    """A copy; of a tensor with the same strides, by which torch's last bits may go."""
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    if value.layout != torch.strided or value.is_meta:
        return value.detach().clone()
    with torch.no_grad():
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype).copy_(value)


def numbers_in(value: Any) -> Any:
    """As `contents`, but NaN is NaN, which torch's vectors and its loops over the rest make unlike."""
    if not isinstance(value, Tensor) or value.is_meta or not value.is_floating_point():
        return contents(value)
    return contents(torch.isnan(value)), contents(torch.nan_to_num(value, 0.0, torch.inf, -torch.inf))


def check_twin(optimizer: Optimizer, left: list[tuple[Options, Tensor]], twin: Optimizer) -> None:
    for (_, param), other in zip(left, params_of(twin), strict=True):
        assert numbers_in(param) == numbers_in(other), "torch's step of its own makes something else"
        mine, theirs = optimizer.state.get(param, {}), twin.state.get(other, {})
        for key, value in theirs.items():
            assert numbers_in(mine[key]) == numbers_in(value), f"torch's step: {key}"


# ---- a step held against both ---------------------------------------------------------------------


def outcome(act: Callable[[], Any]) -> Exception | None:
    try:
        act()
    except Exception as error:
        return error
    return None


def step(name: str, optimizer: Any, log: Callable[[str], None]) -> bool:
    """Make one. Whether all of it could be held against the reference or torch."""
    before = Picture(optimizer)
    try:
        report = optimizer.fused_report()
    except REFUSALS:  # and so may the step, unless what is in the way has no gradient
        report = None
    before.assert_same()
    paths = [(it.path, *parameter_at(optimizer, it)) for it in report or ()]
    left = [(group, param) for path, group, param in paths if path == "torch"]
    twin = torchs_twin(name, optimizer, left) if left and EVERY[name].torchs else None
    twins_error = outcome(twin.step) if twin is not None else None
    expected: list[Wanted] = []
    unsaid: Exception | None = None
    try:
        factor = clip_factor_of(optimizer)
        for path, group, param in paths:
            if path == "fastopt":
                expected.append(wanted(name, optimizer, group, param, factor))
    except (*REFUSALS, AttributeError, OverflowError) as error:  # of odd options and states
        unsaid = error
    refusal = outcome(optimizer.step)
    log(f"step: {refusal!r:.150}" if refusal else f"step, {len(left)} with torch's")
    if refusal is not None:
        assert isinstance(refusal, (*REFUSALS, type(twins_error))), repr(refusal)
        # What torch's own step has done before it raised is torch's.
        before.assert_same(but=tuple(param for _, param in left) if twins_error else ())
        good = report is not None and unsaid is None and twins_error is None
        assert not good or asks_too_much(optimizer, left), f"a good step was refused: {refusal!r}"
        return False
    assert twins_error is None, f"torch refuses what was done: {twins_error!r}"
    assert not isinstance(unsaid, KeyError), f"a group lacks {unsaid}"
    if twin is not None:
        check_twin(optimizer, left, twin)
    if report is None or unsaid is not None:
        return False
    for it in expected:
        it.check(optimizer.state.get(it.param, {}))
    return True


def parameter_at(optimizer: Optimizer, place: Any) -> tuple[Options, Tensor]:
    group = optimizer.param_groups[place.group]
    return group, group["params"][place.index]


def asks_too_much(optimizer: Any, left: list[tuple[Options, Tensor]]) -> bool:
    """Whether torch's step is needed under options that torch lacks, or by a class that it lacks; or
    states are to be made in a dtype that the other options forbid."""
    neutral = optimizer._neutral()
    asked = any(group.get(key, it) != it for group, _ in left for key, it in neutral.items())
    groups = [dict(group) for group in optimizer.param_groups]
    forbidden = any(outcome(lambda it=it: optimizer._check_storage(it)) for it in groups)
    lacking = len(left) > 0 and EVERY[type(optimizer).__name__].torchs is None
    return asked or forbidden or lacking
