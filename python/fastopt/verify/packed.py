"""Trials of masters, random rounding and 8-bit states: an optimizer beside the rule's reference.

What is stored after each step is the reference's result, split, rounded or coded by the functions of
fastopt.reference.storage and fastopt.reference.codes; all of it is compared, masters and scales, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastopt.reference import codes, dither, storage
from fastopt.reference.rounding import rounding_draws, seed_of_parameter

from . import device
from .cases import Options, Rule
from .compare import Report, Row, spell
from .pools import Pool
from .storage import Storage

Stored = npt.NDArray[Any]


class Kind(NamedTuple):
    """A way of storing."""

    name: str
    dtype: torch.dtype  # of the parameters
    options: Options

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


INT8: Options = {"state_dtype": "int8"}
MASTER: Options = {"master_weights": True}
RANDOM: Options = {"stochastic_rounding": True}
HALF: Options = {"state_dtype": torch.bfloat16}
KINDS = (
    Kind("int8", torch.float32, INT8),
    Kind("master", torch.bfloat16, MASTER),
    Kind("master", torch.float16, MASTER),
    Kind("random rounding", torch.bfloat16, RANDOM | {"state_dtype": torch.float32}),
    Kind("int8, master", torch.bfloat16, INT8 | MASTER),
    Kind("int8, random rounding", torch.bfloat16, INT8 | RANDOM),
    Kind("int8", torch.bfloat16, INT8),
    Kind("bf16 states, master", torch.bfloat16, MASTER | HALF),
    Kind("bf16 states, rounding", torch.bfloat16, RANDOM),
)

SMALL = ((64, 64), (5, 1023), (7, 3, 200), (33, 5), (65,), (), (0,))
LARGE = ((3, 50003), (131, 601), (70001,))
STEPS = 3


PackedCase = tuple[Kind, Rule, int, Options]


def cases(kinds: Sequence[Kind], rules: Sequence[Rule], *, quick: bool) -> Iterator[PackedCase]:
    """Every trial: kind, rule and the combination of options with its number."""
    for turn, kind in enumerate(kinds):
        for rule in rules:
            if rule.cls._no_int8 and "int8" in kind.options.values():
                continue
            if not rule.takes_packings:
                continue
            few_bits = kind.options.get("state_dtype") in ("int8", torch.bfloat16)
            combinations = [
                (number, choice)
                for number, choice in enumerate(rule.combinations())
                if not (few_bits and choice.get("centered"))  # which is refused
            ]
            first = turn % min(5, len(combinations))
            for number, choice in combinations[first::11][: 1 if quick else None]:
                yield kind, rule, number, choice


@dataclass
class Numbers:
    """The float32 numbers behind a parameter and its states."""

    param: Stored
    states: dict[str, Stored]
    kept: dict[str, float]


class PackedTrial:
    """One combination of options on a list of parameters, computed by the reference once."""

    def __init__(
        self,
        kind: Kind,
        rule: Rule,
        options: Options,
        shapes: Sequence[tuple[int, ...]],
        pool: Pool,
        rng: np.random.Generator,
    ) -> None:
        self.kind, self.rule, self.options, self.shapes = kind, rule, options, shapes
        self.names = [state.name for state in rule.states if state.used(options)]
        self.seed = int(rng.integers(2**32))
        self.start = [self.draw(shape, pool, rng) for shape in shapes]
        self.grads = [[self.draw(shape, pool, rng) for shape in shapes] for _ in range(STEPS)]
        self.expected = list(self.reference())

    def draw(self, shape: tuple[int, ...], pool: Pool, rng: np.random.Generator) -> Tensor:
        values, _ = pool.cut(Storage("float32"), math.prod(shape), False, rng)
        return torch.from_numpy(values.reshape(shape)).to(self.kind.dtype)

    def reference(self) -> Iterator[list[dict[str, Stored]]]:
        """What every parameter and its states are after each step."""
        seeds = [seed_of_parameter(self.seed, (0, index)) for index in range(len(self.shapes))]
        behind = []
        for start in self.start:
            param = start.float().numpy()
            states = {name: self.begin(name, param) for name in self.names}
            behind.append(Numbers(param, states, dict(self.rule.kept)))
        for step in range(1, STEPS + 1):
            options = self.rule.within(self.options, range(1, step + 1))
            found = []
            for numbers, grad, seed in zip(behind, self.grads[step - 1], seeds, strict=True):
                given = (numbers.states.get(state.name) for state in self.rule.states)
                numbers.param, *results = self.rule.reference(
                    numbers.param, grad.float().numpy(), *given, step=step, **options, **numbers.kept
                )
                stored = self.pack_param(numbers, seed, step)
                kept = results[len(self.names) :]
                numbers.kept = dict(zip(numbers.kept, kept, strict=True))
                for name, result in zip(self.names, results, strict=False):
                    stored |= self.pack_state(numbers, name, result, step)
                found.append(stored)
            yield found

    def begin(self, name: str, param: Stored) -> Stored:
        """What a state reads as before the first step."""
        x: Stored = self.rule.start(name, param)
        return storage.from_bfloat16(storage.to_bfloat16(x)) if self.is_half(name) else x

    def pack_param(self, numbers: Numbers, seed: int, step: int) -> dict[str, Stored]:
        x = numbers.param
        if self.kind.dtype == torch.float32:
            return {"param": x}
        if self.kind.dtype == torch.float16:
            return {"param": storage.narrow(x, np.float16), "master": x}
        if self.kind.options.get("master_weights"):
            high, low = storage.split_float32(x)
            numbers.param = storage.join_float32(high, low)
            return {"param": high, "param_low": low}
        if self.kind.options.get("stochastic_rounding"):
            draws = rounding_draws(x.size, seed=seed, offset=step, index=0)
            high = storage.round_stochastic(x, draws.reshape(x.shape))
        else:
            high = storage.to_bfloat16(x)
        numbers.param = storage.from_bfloat16(high)
        return {"param": high}

    def pack_state(self, numbers: Numbers, name: str, x: Stored, step: int) -> dict[str, Stored]:
        square = next(state.square for state in self.rule.states if state.name == name)
        numbers.states[name] = x
        if self.is_half(name):
            number = [state.name for state in self.rule.states].index(name)
            draws = dither.half_draws(np.arange(x.size).reshape(x.shape), step=step, state=number)
            bits = storage.round_stochastic(x, draws)
            numbers.states[name] = storage.from_bfloat16(bits)
            return {name: bits}
        coded = self.kind.options.get("state_dtype") == "int8" and self.rule.takes_codes(name)
        if not coded or not codes.is_worth_codes(x.shape):
            return {name: x}
        code, scale = codes.encode_blocks(x, "root8" if square else "signed8", step=step)
        numbers.states[name] = codes.decode_blocks(code, scale)
        return {name: code, f"{name}_scale": scale}

    def is_half(self, name: str) -> bool:
        """Whether a state is bfloat16: by the option, or as the parameter is."""
        if self.options.get("centered") and name in ("square_avg", "grad_avg"):
            return False
        of_param = None if self.kind.options.get("master_weights") else self.kind.dtype
        return self.kind.options.get("state_dtype", of_param) == torch.bfloat16

    def check(self, report: Report, row: Row, threads: int) -> None:
        """Take all steps on the row's target, and compare."""
        device.use(row.target, threads)
        params = [device.placed(row.target, start.clone()) for start in self.start]
        options = self.rule.constructed(self.options) | self.kind.options
        create: Any = self.rule.cls
        optimizer = create(params, rounding_seed=self.seed, **options)
        for number, expected in enumerate(self.expected):
            for param, grad in zip(params, self.grads[number], strict=True):
                param.grad = device.placed(row.target, grad)
            optimizer.step()
            for index, (param, stored) in enumerate(zip(params, expected, strict=True)):
                found = {"param": param, **optimizer.state[param]}
                for name, want in stored.items():
                    where = {"array": name, "parameter": index, "step": number + 1}
                    self.compare(report, row, found[name].cpu(), want, {"threads": threads, **where})

    def compare(self, report: Report, row: Row, got: Tensor, want: Stored, where: Options) -> None:
        expected = np.asarray(want).reshape(-1)
        if got.dtype == torch.bfloat16:  # as numbers, since NaNs are equal
            got, expected = got.float(), storage.from_bfloat16(expected)
        array = got.numpy().reshape(-1)
        if array.dtype != expected.dtype:
            raise TypeError(f"{where['array']}: expected {expected.dtype}, got {array.dtype}")

        def describe(i: int) -> dict[str, Any]:
            grad = self.grads[where["step"] - 1][where["parameter"]].float().numpy().reshape(-1)
            return {
                "call": self.rule.called,
                **where,
                "index": f"{i} of {array.size}",
                "options": self.options | {key: str(it) for key, it in self.kind.options.items()},
                "inputs": {"grad": spell(grad[i])} if array.size == grad.size else {},
            }

        row.elements += array.size
        report.compare(row, array, expected, describe)


def check_case(
    report: Report,
    rows: Sequence[Row],
    case: PackedCase,
    threads: Sequence[int],
    pool: Pool,
    rng: np.random.Generator,
    *,
    quick: bool,
) -> None:
    """One case on every target: small parameters on one thread, large ones on several."""
    kind, rule, number, choice = case
    if rule.norms and rng.integers(4):  # as of programs' arrays
        pool = pool.tame
    small = PackedTrial(kind, rule, rule.draw(choice, rng), SMALL, pool, rng)
    trials = [small]
    if not quick or rule.norms or rule.name == "rmsprop":
        large = LARGE[:1] if quick else LARGE
        trials.append(PackedTrial(kind, rule, rule.draw(choice, rng), large, pool, rng))
    for turn, row in enumerate(rows):
        for trial in trials:
            trial.check(report, row, threads[(number + turn) % len(threads)])
