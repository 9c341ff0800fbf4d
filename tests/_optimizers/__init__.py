"""One record for each optimizer: all that the tests know of it by hand, a file each.

A new optimizer is a file here; the records are found by themselves. What a rule says of itself (its
states, their order, which of them are squares) is asked of it.
"""

from __future__ import annotations

import importlib
import itertools
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch.optim import Optimizer

import fastopt
from fastopt import reference
from fastopt._facts import Facts, facts_of
from fastopt.optim._report import torchs_class

Options = dict[str, Any]


class Worked(NamedTuple):
    """A step whose numbers were worked by hand: what goes in, what comes out."""

    arguments: Options
    param: float
    states: list[float]


@dataclass(frozen=True, kw_only=True)
class Record:
    """An optimizer."""

    name: str
    """Of the class; in lower case of the kernel (with an underscore) and of the reference."""

    options: Sequence[Options]
    """Every option that torch has, alone and where options meet; of classes that it lacks, theirs."""

    extras: Sequence[Options] = ()
    """Options that torch's class lacks, with what they need."""

    full: Options
    """Options that keep every state."""

    few_bits: Options | None = None
    """The same where states may have fewer bits than float32, if those may not."""

    kernel: Options = field(default_factory=dict)
    """Options with which a kernel needs every state."""

    needs: Mapping[str, str] = field(default_factory=dict)
    """By state, the option that it is there for; the others are always there."""

    drawn: st.SearchStrategy[Options]
    """Any options at all."""

    coded: Sequence[Options] = ()
    """Options with which states are kept in 8 bits."""

    uncoded: Sequence[Options] = ()
    """Options with which nothing is kept, or nothing in 8 bits."""

    falling: Mapping[str, Options] = field(default_factory=dict)
    """Options of long averages, by a name."""

    hashed: Sequence[dict[str, float]] = ()
    """Options whose bits are committed, as tests/data/kernel_hashes.txt spells them."""

    program: Options | None = None
    """The options with which the same rule in Python takes its steps, if there is one."""

    distance: Mapping[torch.dtype, float] = field(default_factory=dict)
    """The most ulp between a parameter of ours and torch's after any of 20 steps: what
    test_optim_parity.py has measured with every one of `options` and 20 seeds, against torch's default
    (a loop over parameters) and its fused kernels, on an AVX-512 machine with torch 2.13.
    """

    choices: Mapping[str, tuple[Any, ...]] | None = None
    """Of torch's options, those besides `COMMON`, of which every combination is tried,"""

    allowed: Callable[[Options], bool] = lambda options: True
    """if torch takes it."""

    epsilons: float | None = None
    """How far the reference lies from torch, where test_reference.py's limits are too narrow."""

    worked: Sequence[Worked] = ()
    checks: Sequence[Callable[[], None]] = ()
    """What else is known of the reference."""

    @property
    def function(self) -> str:
        return self.name.lower()

    @property
    def ours(self) -> type[Optimizer]:
        found: type[Optimizer] = getattr(fastopt.optim, self.name)
        return found

    @property
    def torchs(self) -> Any:
        """torch's class; None where it has none."""
        return torchs_class(self.ours)

    @property
    def classes(self) -> tuple[type[Optimizer], Any]:
        return self.ours, self.torchs

    @property
    def rule(self) -> Callable[..., Any]:
        """The reference."""
        found: Callable[..., Any] = getattr(reference, self.function)
        return found

    @property
    def facts(self) -> Facts:
        ours: Any = self.ours
        return facts_of(ours._rule)

    @property
    def states(self) -> tuple[str, ...]:
        return self.facts.states

    def combinations(self) -> Iterator[Options]:
        """Those of `choices`."""
        choices = {**COMMON, **(self.choices or {})}
        for combination in itertools.product(*choices.values()):
            options = dict(zip(choices, combination, strict=True))
            if self.allowed(options):
                yield options


COMMON = {"lr": (0.01,), "weight_decay": (0.0, 0.1), "maximize": (False, True)}

FOUND = [importlib.import_module(f"{__name__}.{it.name}") for it in pkgutil.iter_modules(__path__)]
RECORDS: dict[str, Record] = {it.RECORD.name: it.RECORD for it in FOUND if hasattr(it, "RECORD")}
