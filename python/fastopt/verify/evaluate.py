"""One step of the reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastopt import reference

from .cases import Options, Rule
from .inputs import Array


def evaluate(
    rule: Rule, options: Options, arrays: Mapping[str, Array], step: int
) -> dict[str, Array]:
    """What the reference makes of `arrays`: param and the states that are given."""
    names = ["param", *(state.name for state in rule.states if state.name in arrays)]
    states = (arrays.get(state.name) for state in rule.states)
    function: Any = getattr(reference, rule.name)  # at each call: a test may put a wrong one there
    results = function(arrays["param"], arrays["grad"], *states, step=step, **options)
    return dict(zip(names, results, strict=True))
