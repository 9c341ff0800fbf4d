"""What a rule says of itself in csrc/rules: its states, its options, and what it needs besides."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from fastopt import _C

Value = float | bool | tuple[float, float]


@dataclass(frozen=True)
class Facts:
    """Of one rule, compiled or in Python."""

    rule: str
    states: tuple[str, ...]
    required: tuple[str, ...]  # of the states, those kept whatever the options are
    squares: tuple[str, ...]  # of the states, those that are never negative and divide
    product: str | None  # a number beside the step to which each step has a factor
    kept: tuple[str, ...]  # the numbers that a rule in Python keeps, in double
    norms: bool  # whether a step needs all of a parameter, for norms or other sums of it
    counts_steps: bool  # with its default options
    options: Mapping[str, tuple[Value, str]]  # default and range, of numbers and flags


@functools.cache
def facts_of(rule: str) -> Facts:
    """The facts of the rule of this name; ValueError if there is none."""
    it = _C.rule(rule)
    return Facts(
        rule,
        states=tuple(it["states"]),
        required=tuple(it["required"]),
        squares=tuple(it["squares"]),
        product=it["product"],
        kept=tuple(it["kept"]),
        norms=it["norms"],
        counts_steps=it["counts_steps"],
        options=it["options"],
    )
