"""The checks of optimizers that torch lacks, in the words of torch's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from fastopt._facts import facts_of

RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {  # those of csrc/rules/rule.h
    "any": (lambda value: value == value, "a number"),
    "non_negative": (lambda value: value >= 0, ">= 0"),
    "unit": (lambda value: 0 <= value < 1, "0 <= {} < 1"),
    "closed_unit": (lambda value: 0 <= value <= 1, "0 <= {} <= 1"),
}


def check_options(rule: str, options: Mapping[str, Any]) -> None:
    """ValueError for the first of a rule's options that is out of its range."""
    for name, (default, accepted) in facts_of(rule).options.items():
        if accepted not in RANGES:  # which any flag is
            continue
        holds, text = RANGES[accepted]
        value = options[name]
        if isinstance(default, tuple):
            for index, beta in enumerate(value):
                if not holds(beta):
                    what = f"beta parameter at index {index}: {beta}"
                    raise ValueError(f"Invalid {what}; expected {text.format('beta')}")
            continue
        if name == "lr" and isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        if not holds(value):
            what = "learning rate" if name == "lr" else f"{name} value"
            raise ValueError(f"Invalid {what}: {value}; expected {text.format(name)}")
