"""A launch of eight kernels on large arrays, for a profiler that starts when it is told to.

    ncu --profile-from-start off ... python scripts/gpu_kernels.py

The first step of each makes its states and loads its kernel; the second is what a profiler sees.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fastopt import nn, optim

SHAPE = (1 << 14, 1 << 12)  # of two dimensions: codes go by rows
STEPS: dict[str, tuple[type, torch.dtype, dict[str, Any]]] = {
    "AdamW float32": (optim.AdamW, torch.float32, {}),
    "AdamW bfloat16": (optim.AdamW, torch.bfloat16, {}),
    "AdamW float32, bfloat16 states": (optim.AdamW, torch.float32, {"state_dtype": torch.bfloat16}),
    "AdamW float32, int8 states": (optim.AdamW, torch.float32, {"state_dtype": "int8"}),
    "AdamW bfloat16, masters": (optim.AdamW, torch.bfloat16, {"master_weights": True}),
    "AdamW bfloat16, random rounding": (optim.AdamW, torch.bfloat16, {"stochastic_rounding": True}),
    "SGD float32": (optim.SGD, torch.float32, {"momentum": 0.9}),
}


def step(cls: Any, dtype: torch.dtype, options: dict[str, Any], device: str) -> Callable[[], object]:
    param = torch.nn.Parameter(torch.rand(SHAPE, device=device).to(dtype))
    param.grad = torch.rand(SHAPE, device=device).to(dtype)
    optimizer = cls([param], lr=1e-4, **options)
    return lambda: optimizer.step()


def dropout(device: str) -> Callable[[], object]:
    x = torch.rand(SHAPE, device=device).to(torch.bfloat16)
    return lambda: nn.functional.dropout(x, 0.1)


def main(device: str = "cuda") -> None:
    makers: dict[str, Callable[[], Callable[[], object]]] = {
        name: lambda it=it: step(*it, device) for name, it in STEPS.items()
    }
    makers["dropout bfloat16"] = lambda: dropout(device)
    for name, make in makers.items():
        print(name, flush=True)
        run = make()
        run()
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        run()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


if __name__ == "__main__":
    main()
