"""Compiled optimizers beside the same rules in Python: one gives the other's bits, however stored."""

from typing import Any

import pytest
import torch

from _optimizers import RECORDS
from fastopt import optim
from fastopt.rules import Rule
from fastopt.rules.library import adamw, compiled

RULES: dict[str, tuple[Rule, dict[str, Any]]] = {  # by the compiled class, with options
    name: (getattr(compiled, it.function, adamw), it.program)
    for name, it in RECORDS.items()
    if it.program is not None
}
BY_UPDATE = "the compiled class forms its update of states as they are stored, which are numbers"
EXCEPT = {
    **{("LAMB", it): BY_UPDATE for it in ("float16", "bfloat16", "bfloat16 states")},
    **{("LAMB", it): BY_UPDATE for it in ("int8 states", "bfloat16, int8 states")},
    ("LAMB", "master weights"): "refused",
    ("LAMB", "stochastic rounding"): "refused",
    ("Adagrad", "int8 states"): "refused: its sums only grow",
    ("Adagrad", "bfloat16, int8 states"): "refused: its sums only grow",
    ("NAdam", "float64"): "the compiled class keeps its product in float32, as torch's does",
}
STORED: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "float32": (torch.float32, {}),
    "float64": (torch.float64, {}),
    "float16": (torch.float16, {}),
    "bfloat16": (torch.bfloat16, {}),
    "bfloat16 states": (torch.float32, {"state_dtype": torch.bfloat16}),
    "int8 states": (torch.float32, {"state_dtype": "int8"}),
    "bfloat16, int8 states": (torch.bfloat16, {"state_dtype": "int8"}),
    "master weights": (torch.bfloat16, {"master_weights": True}),
    "stochastic rounding": (torch.bfloat16, {"stochastic_rounding": True}),
}


def stepped(cls: Any, dtype: torch.dtype, options: dict[str, Any]) -> list[torch.Tensor]:
    """The parameters and states after eight steps."""
    draw = torch.Generator().manual_seed(7)
    params = [
        torch.randn(shape, generator=draw).to(dtype).requires_grad_()
        for shape in ((5, 300), (7,), (1,))
    ]
    optimizer = cls(params, **options)
    for _ in range(8):
        for param in params:
            param.grad = torch.randn(param.shape, generator=draw).to(dtype)
        optimizer.step()
    entries = [optimizer.state[param] for param in params]
    kept = sorted(key for key, it in entries[0].items() if isinstance(it, torch.Tensor))
    return [
        *params, *(it[key] for it in entries for key in kept if key not in ("step", "mu_product"))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "stored"), [(a, b) for a in RULES for b in STORED if (a, b) not in EXCEPT]
)
@pytest.mark.parametrize("around", [{}, {"weight_decay": 0.1, "maximize": True}], ids=["", "decay"])
@pytest.mark.filterwarnings("ignore:.*in float16, as torch does")
def test_bits_of_the_compiled_class(name: str, stored: str, around: dict[str, Any]) -> None:
    rule, settings = RULES[name]
    dtype, options = STORED[stored]
    options = options | settings | around
    if "stochastic_rounding" in options:
        options["rounding_seed"] = 3
    ours = stepped(rule.optimizer(name), dtype, options)
    theirs = stepped(getattr(optim, name), dtype, options)
    assert len(ours) == len(theirs) > 3
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype
        assert torch.equal(*(it.detach().view(torch.uint8) for it in (mine, other)))
