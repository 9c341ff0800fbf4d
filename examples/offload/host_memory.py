"""Bytes of host memory for each weight, counted and measured, for the ways of storing it.

    python examples/offload/host_memory.py [--weights MILLIONS]

Counted: weight, gradient and states. Measured: what the process grows by over one step and more.
"""

from __future__ import annotations

import argparse
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import fastopt

WAYS: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "float32": (torch.float32, {}),
    "float32, bfloat16 states": (torch.float32, {"state_dtype": "bfloat16"}),
    "float32, int8 states": (torch.float32, {"state_dtype": "int8"}),
    "bfloat16, master weights": (torch.bfloat16, {"master_weights": True}),
    "bfloat16, master weights, bfloat16 states": (
        torch.bfloat16,
        {"master_weights": True, "state_dtype": "bfloat16"},
    ),
    "bfloat16, master weights, int8 states": (
        torch.bfloat16,
        {"master_weights": True, "state_dtype": "int8"},
    ),
    "bfloat16, stochastic rounding": (torch.bfloat16, {"stochastic_rounding": True}),
}
PAGE = 4096


def resident() -> int:
    return PAGE * int(Path("/proc/self/statm").read_text().split()[1])


def measure(way: str, rows: int) -> tuple[float, float]:
    """Bytes a weight, counted and as the process grows."""
    dtype, options = WAYS[way]
    warm_up(dtype, options)
    before = resident()
    params = [torch.nn.Parameter(torch.full((rows, 1024), 0.5, dtype=dtype)) for _ in range(4)]
    optimizer = fastopt.optim.AdamW(params, **options)
    for param in params:
        param.grad = torch.full_like(param, 0.5)
    for _ in range(2):
        optimizer.step()
    tensors = [it for param in params for it in (param, param.grad, *optimizer.state[param].values())]
    weights = sum(param.numel() for param in params)
    counted = sum(it.nbytes for it in tensors if it is not None)
    return counted / weights, (resident() - before) / weights


def warm_up(dtype: torch.dtype, options: dict[str, Any]) -> None:
    """What a first step loads."""
    param = torch.nn.Parameter(torch.ones(64, 64, dtype=dtype))
    param.grad = torch.ones_like(param)
    fastopt.optim.AdamW([param], **options).step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--weights", type=float, default=64, help="millions of them")
    rows = max(1, round(parser.parse_args().weights * 1e6 / 4096))
    print("| stored | counted | measured |\n|---|---|---|")
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:  # each in a process of its own
        for way in WAYS:
            counted, grown = pool.apply(measure, (way, rows))
            print(f"| {way} | {counted:.2f} | {grown:.2f} |", flush=True)


if __name__ == "__main__":
    main()
