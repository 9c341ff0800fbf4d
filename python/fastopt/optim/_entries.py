"""What a parameter's state may hold, by the names of its entries.

A rule's own are named by its facts; what is kept around it has the same names for all rules.
"""

from __future__ import annotations

import functools
from enum import Enum, auto
from typing import ClassVar

from torch.optim import Optimizer

from fastopt._facts import Facts, facts_of


class Kind(Enum):
    """What an entry is."""

    COUNT = auto()  # of the steps
    NUMBER = auto()  # another one: a product or others that the rule keeps, an average's weight
    STATE = auto()  # an array of the rule's
    SCALE = auto()  # what the blocks of a state's codes are multiplied by
    AVERAGE = auto()  # of the parameter
    LOW = auto()  # the lower halves of a bfloat16 parameter's master
    MASTER = auto()  # a float16 parameter's
    ROUNDING = auto()  # a seed, and how often it was used
    FOREIGN = auto()  # none of ours: a program's own


AROUND = {
    "step": Kind.COUNT,
    "ema": Kind.AVERAGE,
    "ema_weight": Kind.NUMBER,
    "param_low": Kind.LOW,
    "master": Kind.MASTER,
    "rounding": Kind.ROUNDING,
}


def scale_of(state: str) -> str:
    """The name of the scales beside a state."""
    return f"{state}_scale"


@functools.cache
def kinds_of(rule: str) -> dict[str, Kind]:
    """Every entry that a state may have under this rule."""
    facts = facts_of(rule)
    numbers = (*facts.kept, *([] if facts.product is None else [facts.product]))
    return {
        **{scale_of(name): Kind.SCALE for name in facts.states},
        **AROUND,
        **dict.fromkeys(numbers, Kind.NUMBER),
        **dict.fromkeys(facts.states, Kind.STATE),
    }


@functools.cache
def torchs_of(rule: str) -> tuple[str, ...]:
    """Those of them that torch's class keeps, too, in its order."""
    facts = facts_of(rule)
    return (
        *(["step"] if facts.counts_steps else []),
        *([] if facts.product is None else [facts.product]),
        *facts.states,
    )


class Ruled(Optimizer):
    """Mixin: an optimizer with a rule."""

    _rule: ClassVar[str]
    """The rule's name, from which follows what its states hold."""

    @property
    def _facts(self) -> Facts:
        return facts_of(self._rule)

    def _kind(self, name: str) -> Kind:
        """What the entry of this name is."""
        return kinds_of(self._rule).get(name, Kind.FOREIGN)
