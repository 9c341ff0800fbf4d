"""L-BFGS's trials: the optimizer's iterates, pairs and directions against the reference.

A trial is one dtype, line search and length of the history. The function's value and gradient are
computed by NumPy, so that they are the same whoever asks, and the parameters are three pieces of one
vector, the second of which has no gradient.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from fastopt import optim, reference

from . import device
from .compare import Report, Row
from .storage import Array

SMALL = (1, 2, 17, 31, 33, 65, 1001, 4097)
LARGE = (40_003,)
STEPS, ITERATIONS = 2, 5  # of each step


@dataclass(frozen=True)
class Options:
    """What a trial takes from the constructor's arguments."""

    history_size: int
    line_search_fn: str | None
    lr: float


OPTIONS = tuple(
    Options(history, search, 1.0 if search else 0.05)
    for history, search in itertools.product((1, 3, 8), ("strong_wolfe", None))
)
DTYPES = ("float32", "float64")


def cases(options: Sequence[Options], quick: bool) -> list[tuple[str, Options]]:
    """Every trial: dtype, options."""
    return list(itertools.product(DTYPES, options[2:4] if quick else options))


class LBFGSTrial:
    """Some steps from one start, computed by the reference once and then by every target."""

    def __init__(self, dtype: str, options: Options, size: int, rng: np.random.Generator) -> None:
        self.T: Any = np.dtype(dtype).type
        self.options, self.size = options, size
        self.cuts = [size // 3, size // 2]
        self.curvature = self.T(10) ** rng.uniform(-1, 1, size).astype(dtype)
        self.curvature[slice(*self.cuts)] = 0
        self.start = rng.standard_normal(size).astype(dtype)
        self.expected = self.reference()

    def function(self, x: Array) -> tuple[float, Array]:
        """Σ c (x²/2 + x⁴/4): convex, and its curvature changes."""
        square = x * x
        value = self.curvature * square * (self.T(0.5) + self.T(0.25) * square)
        grad = self.curvature * x * (self.T(1) + square)
        grad[slice(*self.cuts)] = 0  # and not -0
        return float(np.sum(value, dtype=np.float64)), grad

    def reference(self) -> list[dict[str, Array]]:
        """What there is after each step."""
        found, x, memory = [], self.start, reference.LBFGSMemory()
        for _ in range(STEPS):
            x = reference.lbfgs(self.function, x, memory, max_iter=ITERATIONS, **asdict(self.options))
            assert memory.direction is not None
            found.append(
                {
                    "param": x,
                    "d": memory.direction,
                    "old_stps": np.concatenate([x[:0], *memory.steps]),
                    "old_dirs": np.concatenate([x[:0], *memory.changes]),
                }
            )
        return found

    def check(self, report: Report, row: Row, threads: int) -> None:
        """Take all steps on the row's target, and compare."""
        device.use(row.target, threads)
        pieces = np.split(self.start, self.cuts)
        params = [torch.nn.Parameter(torch.from_numpy(piece.copy())) for piece in pieces]
        optimizer = optim.LBFGS(params, max_iter=ITERATIONS, **asdict(self.options))

        def vector() -> Array:
            return torch.cat([param.detach() for param in params]).numpy()

        def closure() -> float:
            loss, grad = self.function(vector())
            for i, piece in enumerate(np.split(grad, self.cuts)):
                params[i].grad = None if i == 1 else torch.from_numpy(piece)
            return loss

        for number, expected in enumerate(self.expected, 1):
            optimizer.step(closure)
            state = optimizer.state[params[0]]
            found = {"param": vector(), "d": state["d"].numpy()}
            for name in ("old_stps", "old_dirs"):
                found[name] = torch.cat([params[0].detach()[:0], *state[name]]).numpy()
            for name, want in expected.items():
                self.compare(report, row, found[name], want, {"array": name, "step": number})

    def compare(self, report: Report, row: Row, got: Array, want: Array, where: dict[str, Any]) -> None:
        size = max(got.size, want.size)  # fewer pairs than there should be are wrong, too
        got, want = (
            np.concatenate([it, np.full(size - it.size, np.nan, it.dtype)]) for it in (got, want)
        )

        def describe(i: int) -> dict[str, Any]:
            return {
                "call": "fastopt.optim.LBFGS",
                **where,
                "index": f"{i % self.size} of {self.size}",
                "options": asdict(self.options),
            }

        row.elements += got.size
        report.compare(row, got, want, describe)


def check_case(
    report: Report,
    rows: Sequence[Row],
    case: tuple[str, Options],
    threads: Sequence[int],
    rng: np.random.Generator,
    *,
    quick: bool,
) -> None:
    """One case on every target: short vectors on one thread, long ones on several."""
    sizes = SMALL[::3] if quick else SMALL
    for size in (*sizes, *LARGE):
        trial = LBFGSTrial(*case, size, rng)
        for turn, row in enumerate(rows):
            every = threads[turn % len(threads) :][:1] if quick else threads
            for count in every if size in LARGE else threads[:1]:
                trial.check(report, row, count)
