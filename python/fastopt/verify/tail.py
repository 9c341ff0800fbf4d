"""Trials of what a step does around its rule: clipping by the global norm, averages and copies of the
parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastopt import reference

from .cases import Options, Rule
from .memory import Block, Layout
from .pools import Places, Pool
from .storage import Array, Mix, Storage
from .trial import OptimizerTrial

MAX_GRAD_NORM = (1.0, 1e-3, 1e30)
EMA_DECAY = (0.9, 0.999, 0.0, 1e-60)
COPIES = ("bfloat16", "float16", "float32")

TAILS: tuple[Options, ...] = (
    {"max_grad_norm": MAX_GRAD_NORM},
    {"ema_decay": EMA_DECAY},
    {"max_grad_norm": MAX_GRAD_NORM, "ema_decay": EMA_DECAY},
    {"ema_decay": EMA_DECAY, "ema_bias_correction": (True,)},
    {"copy_to": COPIES},
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
        mix: Mix,
        tail: Options,
        steps: int,
    ) -> None:
        self.tail = {name: values[rng.integers(len(values))] for name, values in tail.items()}
        self.factor = 1.0  # of the gradients, at the step that the reference is at
        self.copied = self.tail.pop("copy_to", None)
        if self.copied is not None and mix.compute == np.float64:
            self.copied = "float32"  # float64 parameters take no copy of 16 bits
        super().__init__(rule, options, layout, pool, rng, mix=mix, steps=steps)

    @property
    def constructor_options(self) -> Options:
        options = super().constructor_options | self.tail
        if self.copied is not None:
            options["copy_to"] = self.cut("copy", self.there["copy"])
        return options

    def states(self, rng: np.random.Generator) -> list[str]:
        average = ["ema"] if "ema_decay" in self.tail else []
        return [*super().states(rng), *average, *(["copy"] if self.copied is not None else [])]

    def storage(self, name: str) -> Storage:
        return Storage(str(self.copied)) if name == "copy" else super().storage(name)

    @property
    def given(self) -> tuple[str, ...]:
        return (*super().given, *(["copy"] if self.copied is not None else []))

    def draw_grad(self, pool: Pool, rng: np.random.Generator) -> tuple[Array, Places]:
        return super().draw_grad(pool.tame if rng.integers(4) else pool, rng)

    def fill(self, start: Block, pool: Pool, rng: np.random.Generator) -> Places:
        plain = super().fill(start, pool, rng)
        if "ema_decay" in self.tail and not self.tail.get("ema_bias_correction"):
            params = self.storages["param"].numbers(start["param"])
            np.copyto(start["ema"], params, where=self.layout.inside)
        return plain

    def step_reference(self, block: Block, number: int) -> None:
        if "max_grad_norm" in self.tail:
            stepped = [p for p in self.layout.pieces if self.step_number(p.step, number) > 0]
            grads = self.storages["grad"].numbers(block["grad"])
            norm = reference.grad_norm([grads[piece.elements] for piece in stepped])
            self.factor = reference.clip_factor(norm, self.tail["max_grad_norm"])
        super().step_reference(block, number)

    def results_of(self, numbers: Mapping[str, Array], step: int, options: Options) -> dict[str, Array]:
        if "max_grad_norm" in self.tail:
            T: Any = numbers["grad"].dtype.type
            with np.errstate(all="ignore"):
                numbers = {**numbers, "grad": T(self.factor) * numbers["grad"]}
        results = super().results_of(numbers, step, options)
        if "ema_decay" in self.tail:
            decay = self.tail["ema_decay"]
            results["ema"] = reference.ema(numbers["ema"], results["param"], decay=decay)
        if self.copied is not None:
            results["copy"] = self.as_stored("param", results["param"])
        return results
