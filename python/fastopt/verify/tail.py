"""Trials of what a step does around its rule: clipping by the global norm, averaging the parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastopt import reference

from .cases import Options, Rule
from .memory import Block, Layout
from .pools import Array, Places, Pool
from .trial import OptimizerTrial

MAX_GRAD_NORM = (1.0, 1e-3, 1e30)
EMA_DECAY = (0.9, 0.999, 0.0, 1e-60)

TAILS: tuple[Options, ...] = (
    {"max_grad_norm": MAX_GRAD_NORM},
    {"ema_decay": EMA_DECAY},
    {"max_grad_norm": MAX_GRAD_NORM, "ema_decay": EMA_DECAY},
    {"ema_decay": EMA_DECAY, "ema_bias_correction": (True,)},
)
"""Options of the tail and the values that they are drawn from."""


class TailTrial(OptimizerTrial):
    """An optimizer with one of `TAILS`."""

    def __init__(
        self,
        rule: Rule,
        options: Options,
        layout: Layout,
        pool: Pool,
        rng: np.random.Generator,
        *,
        tail: Options,
        steps: int,
    ) -> None:
        self.tail = {name: values[rng.integers(len(values))] for name, values in tail.items()}
        super().__init__(rule, options, layout, pool, rng, steps=steps)

    @property
    def constructor_options(self) -> Options:
        return self.options | self.tail

    def states(self, rng: np.random.Generator) -> list[str]:
        return [*super().states(rng), *(["ema"] if "ema_decay" in self.tail else [])]

    def draw_grad(self, pool: Pool, rng: np.random.Generator) -> tuple[Array, Places]:
        grads, plain = super().draw_grad(pool, rng)
        if rng.integers(4):  # else a NaN, an infinity or one huge number decides alone
            grads = np.where(np.abs(grads) <= 1000, grads, grads.dtype.type(1))
        return grads, plain

    def fill(self, start: Block, pool: Pool, rng: np.random.Generator) -> Places:
        plain = super().fill(start, pool, rng)
        if "ema_decay" in self.tail and not self.tail.get("ema_bias_correction"):
            np.copyto(start["ema"], start["param"], where=self.layout.inside)
        return plain

    def step_reference(self, block: Block, number: int) -> None:
        stepped = [p for p in self.layout.pieces if self.step_number(p.step, number) > 0]
        grads = block["grad"].copy()
        if "max_grad_norm" in self.tail:
            norm = reference.grad_norm([grads[piece.elements] for piece in stepped])
            factor: Any = reference.clip_factor(norm, self.tail["max_grad_norm"])
            with np.errstate(all="ignore"):
                block["grad"][:] = grads.dtype.type(factor) * grads
        super().step_reference(block, number)
        block["grad"][:] = grads
        if "ema_decay" in self.tail:
            for piece in stepped:
                average, param = block["ema"][piece.elements], block["param"][piece.elements]
                average[:] = reference.ema(average, param, decay=self.tail["ema_decay"])
