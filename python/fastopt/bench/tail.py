"""The tail suite's peers: torch's clipping, fused step and averaging, one call after another."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.optim import AdamW

from fastopt.bench.timing import Contender
from fastopt.bench.workload import Workload


def torch_tail(workload: Workload) -> Contender:
    """clip_grad_norm_, then fused AdamW, then, where an average is kept, _foreach_lerp_.

    The limit beside it reads and writes what a step with its average must, and leaves out that the
    norm needs every gradient before the first parameter may change.
    """
    params, tail = workload.params, workload.setting.tail
    optimizer = AdamW(params, fused=True, **workload.setting.options)
    optimizer.step()
    workload.share_states(optimizer)
    averages = [states[-1] for states in workload.states] if "ema_decay" in tail else []
    values = [param.detach() for param in params]

    def run() -> None:
        torch.nn.utils.clip_grad_norm_(params, tail["max_grad_norm"])
        optimizer.step()
        if averages:
            torch._foreach_lerp_(averages, values, 1 - tail["ema_decay"])

    calls: Callable[[], None] = run
    name = "torch clip, fused, lerp" if averages else "torch clip, fused"
    moved = workload.setting.moved_bytes(workload.elements)
    return Contender(name=name, run=calls, moved_bytes=moved, version=torch.__version__.split("+")[0])
