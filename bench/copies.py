"""What `copy_to` costs: AdamW on float32 weights alone, with a bfloat16 copy in it, and one after it.

python bench/copies.py [elements] [threads]
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import fastopt


def optimizer(size: int, **options: Any) -> fastopt.optim.AdamW:
    param = torch.nn.Parameter(torch.randn(size))
    param.grad = torch.randn(size)
    return fastopt.optim.AdamW([param], **options)


def main(size: int, threads: int) -> None:
    torch.set_num_threads(threads)
    copy = torch.empty(size, dtype=torch.bfloat16)
    plain, copying = optimizer(size), optimizer(size, copy_to=[copy])

    def apart() -> None:
        plain.step()
        copy.copy_(plain.param_groups[0]["params"][0].detach())

    ways: dict[str, Callable[[], Any]] = {
        "alone": plain.step,
        "copy_to": copying.step,
        "and then copy_": apart,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(60):
        for name, step in ways.items():
            begin = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - begin)
    for name, taken in times.items():
        print(f"{name}: {min(taken) / min(times['alone']):.2f}")


if __name__ == "__main__":
    main(*(int(it) for it in [*sys.argv[1:], *["4194304", "1"][len(sys.argv) - 1 :]]))
