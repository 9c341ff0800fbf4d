"""The lbfgs suite's work: one iteration of L-BFGS with a full history.

The loss is a quadratic whose gradient takes one multiplication an element; what that takes is in
every figure. The rate is so small that thousands of iterations do not reach the minimum. The limit
is a loop that moves as many bytes as an iteration of fastopt (docs/second_order.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

import fastopt
from fastopt import _C
from fastopt.bench.shapes import Shape, count
from fastopt.bench.timing import Contender

HISTORY = 10
VECTORS = 4 * HISTORY + 12  # read or written by an iteration
NEEDED = 4 * (2 * (2 * HISTORY + 8) + VECTORS)  # bytes an element: two optimizers, the limit


def iteration(library: Any, shapes: Sequence[Shape]) -> Callable[[], object]:
    """A ``step`` of one iteration."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    curvatures = [torch.empty_like(param).uniform_(0.1, 10, generator=generator) for param in params]
    for param in params:
        param.grad = torch.empty_like(param)
    optimizer = library.optim.LBFGS(
        params, lr=1e-3, max_iter=1, history_size=HISTORY, tolerance_grad=0, tolerance_change=0
    )

    def closure() -> float:
        for param, curvature in zip(params, curvatures, strict=True):
            torch.mul(param.detach(), curvature, out=param.grad)
        return 0.0

    step = partial(optimizer.step, closure)
    for _ in range(HISTORY + 2):
        step()
    return step


def contenders(shapes: Sequence[Shape], targets: Sequence[str], threads: int) -> list[Contender]:
    moved = 4 * VECTORS * count(tuple(shapes))
    arrays = [torch.zeros(moved // 12) for _ in range(2)]  # one of them is read and written
    unused = [None] * 3
    limit = partial(
        _C.apply,
        "limit",
        [*([array] for array in arrays), *unused],
        [1.0],
        {"states": 0.0},
        False,
        threads,
    )
    joined = []
    for target in targets:
        common: dict[str, Any] = {"target": target, "prepare": partial(_C.set_cpu_target, target)}
        ours = iteration(fastopt, shapes)
        joined.append(Contender("limit", limit, moved, **common))
        joined.append(Contender("fastopt", ours, moved, version=fastopt.__version__, **common))
    version = torch.__version__.split("+")[0]
    theirs = 4 * (10 * HISTORY + 29) * count(tuple(shapes))
    return [*joined, Contender("torch", iteration(torch, shapes), theirs, version=version)]
