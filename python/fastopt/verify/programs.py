"""Rules in Python (fastopt.rules): their programs against the functions themselves on NumPy arrays."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fastopt._facts import Facts, facts_of
from fastopt.reference.dither import half_draws

from . import cases as compiled
from . import device
from .cases import STEPS, Options
from .compare import Report, Row, spell
from .memory import EDGES
from .pools import Pool
from .storage import MIXES, Array, Mix, alike

if TYPE_CHECKING:
    from fastopt.rules import Rule, RuleOptimizer

WHOLE = (alike("float32"), alike("float64"))
HALVES = (alike("bfloat16"), alike("float16"), *MIXES)
SMALL = tuple(size for size in EDGES if size > 0)
CHUNKS = (4095, 4097, 16385)  # around what a thread takes of a rule with sums
LARGE = (70001,)  # for threads
FACTORS = (0.0, 1e-60, 0.5, 3.0)  # of an option's number


def find(path: str) -> Rule:
    """The rule at ``package.module:name``; ValueError if there is none."""
    from fastopt.rules import Rule

    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{path!r}: {error}") from error
    found = getattr(found, "rule", found)  # of an optimizer's class
    if not isinstance(found, Rule):
        raise ValueError(f"{path!r} is {type(found).__name__}, not a rule of fastopt.rules")
    return found


def library() -> tuple[Rule, ...]:
    """The rules that come with fastopt, but for those that are verified as classes of torch's names."""
    from fastopt.rules import library

    named = (getattr(library, name) for name in library.__all__)
    others = {it.name for it in compiled.RULES}
    return tuple(it for it in named if it.name not in others)


def cases(rules: Sequence[Rule], *, quick: bool) -> list[tuple[Rule, Mix, Options]]:
    """Each rule in each storage, with the choices of its options dealt out where that is quick."""
    found = []
    for rule in rules:
        options = list(choices(rule))
        for mix in (*WHOLE, *HALVES):
            for number, choice in enumerate(options):
                if not quick or number == 0 or mix is WHOLE[0]:
                    found.append((rule, mix, choice))
    return found


def choices(rule: Rule) -> Iterator[Options]:
    """The defaults; each flag turned; each number another one that it may be."""
    yield {}
    for option in rule.options:
        if isinstance(option.default, bool):
            yield {option.name: not option.default}
        elif option.default is None:
            yield {option.name: 3.0}
        elif isinstance(option.default, (int, float)):
            for factor in FACTORS:
                base = option.default if option.default != 0 else 0.1
                yield {option.name: base * factor}
        elif isinstance(option.default, tuple):
            yield {option.name: tuple(0.5 * it for it in option.default)}


def check_case(
    report: Report,
    rows: Sequence[Row],
    case: tuple[Rule, Mix, Options],
    threads: Sequence[int],
    pool: Pool,
    rng: np.random.Generator,
    *,
    quick: bool,
) -> None:
    """The kernel on arrays of every size, at every step, on the target of each row."""
    rule, mix, options = case
    sizes = (*SMALL, *(CHUNKS if rule.sums else ()), *(() if quick and options else LARGE))
    steps = itertools.cycle(STEPS[: 2 if quick else None])
    if rule.sums:  # in which a NaN, an infinity or one huge number decides alone
        pool = pool.tame if rng.integers(4) else pool
    for number, size in enumerate(sizes):
        trial = Trial(rule, mix, options, size, next(steps), pool, rng)
        for turn, row in enumerate(rows):
            trial.check(report, row, threads[(number + turn) % len(threads)])


class Stored(compiled.Rule):
    """A rule as packed.py takes one, to see what its optimizer stores."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(f"{rule.__name__}, program", rule.__name__, choices={}, numbers={})
        vars(self)["rule"] = rule

    rule: Rule

    @cached_property
    def cls(self) -> type[RuleOptimizer]:
        return self.rule.optimizer(self.rule.__name__)

    @property
    def called(self) -> str:
        return f"{self.rule.__name__}.optimizer()"

    @property
    def kept(self) -> dict[str, float]:
        return dict(self.rule.kept)

    @property
    def takes_packings(self) -> bool:
        return True

    @cached_property
    def facts(self) -> Facts:
        return facts_of(self.rule.name)

    def reference(self, *arrays: Any, step: int, **options: Any) -> tuple[Any, ...]:
        return self.rule.reference(*arrays, t=step, **options)

    def start(self, state: str, param: Any) -> Any:
        begins = self.rule.start.get(state, 0.0)
        return param.copy() if begins == "param" else np.full_like(param, begins)

    def takes_codes(self, state: str) -> bool:
        return state not in self.rule.start  # of which some are parameters, too


class Trial:
    """Arrays of one size and one step of a rule."""

    def __init__(
        self,
        rule: Rule,
        mix: Mix,
        options: Options,
        size: int,
        step: int,
        pool: Pool,
        rng: np.random.Generator,
    ) -> None:
        self.rule, self.mix, self.options, self.step = rule, mix, options, step
        states = list(rule.states)
        self.storages = [
            mix.storage("param"),
            mix.storage("grad"),
            *(mix.storage(name, k) for k, name in enumerate(states)),
        ]
        names = list(rule.arrays)
        self.start = [
            pool.cut(it, size, name in rule.squares, rng)[0]
            for it, name in zip(self.storages, names, strict=True)
        ]
        wide = [it.numbers(x) for it, x in zip(self.storages, self.start, strict=True)]
        results = rule.reference(*wide, t=step, **options)[: len(names) - 1]
        places = np.arange(size)
        self.expected: list[Array] = [self.storages[0].rounded(results[0])]
        for state, (it, x) in enumerate(zip(self.storages[2:], results[1:], strict=True)):
            self.expected.append(it.rounded(x, half_draws(places, step=step, state=state)))

    def check(self, report: Report, row: Row, threads: int) -> None:
        """One call of the kernel, compared."""
        device.use(row.target, threads)
        got = [it.copy() for it in self.start]
        if row.target != device.CUDA:
            arguments = [it.argument(x) for it, x in zip(self.storages, got, strict=True)]
            self.rule.kernel_(*arguments, t=self.step, **self.options)
        else:
            here = [it.tensor(x) for it, x in zip(self.storages, got, strict=True)]
            there = [device.placed(row.target, it) for it in here]
            self.rule.kernel_(*there, t=self.step, **self.options)
            for one, other in zip(there, here, strict=True):
                device.put_back(one, other)
        wanted = [self.expected[0], self.start[1], *self.expected[1:]]
        for name, storage, array, want in zip(
            self.rule.arrays, self.storages, got, wanted, strict=True
        ):
            row.elements += want.size

            def describe(i: int, name: str = name, size: int = want.size) -> dict[str, Any]:
                return {
                    "threads": threads,
                    "call": f"{self.rule.__name__}.kernel_",
                    "options": self.options,
                    "array": name,
                    "index": f"{i} of {size}",
                    "step": self.step,
                    "inputs": {
                        of: spell(it.visible(x[i : i + 1])[0])
                        for of, it, x in zip(self.rule.arrays, self.storages, self.start, strict=True)
                    },
                }

            report.compare(row, storage.visible(array), storage.visible(want), describe)
