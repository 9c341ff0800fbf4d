"""The step while backward still runs: each parameter in a worker's thread, once its gradient is there.

    python examples/offload/overlap.py

The model computes in bfloat16 (on a GPU, elsewhere); the optimizer steps float32 masters. They are
rounded into the model once backward has ended; the plain loop beside it lets `copy_to` do that in the
step's pass.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from task import OPTIONS, STEPS, check, loss_of, network
from torch import Tensor, nn

import fastopt


def masters_of(model: nn.Module) -> dict[Tensor, nn.Parameter]:
    return {param: nn.Parameter(param.detach().float()) for param in model.parameters()}


def train_overlapped(model: nn.Module) -> None:
    masters = masters_of(model)
    optimizer = fastopt.optim.AdamW(masters.values(), **OPTIONS)
    parts: list[Future[None]] = []

    def begin(param: Tensor) -> None:
        """The gradient is complete: hand it over, as a copy to the host would."""
        assert param.grad is not None
        grad, param.grad = param.grad, None
        parts.append(worker.submit(step, param, grad))

    def step(param: Tensor, grad: Tensor) -> None:
        masters[param].grad = grad.float()
        optimizer.step_parameters([masters[param]])

    for param in masters:
        param.register_post_accumulate_grad_hook(begin)
    with ThreadPoolExecutor(1) as worker:
        for number in range(STEPS):
            loss_of(model, number).backward()
            for part in parts:
                part.result()
            parts.clear()
            for param, master in masters.items():  # once backward needs the old ones no more
                param.data.copy_(master)


def train_plainly(model: nn.Module) -> None:
    masters = masters_of(model)
    copies = [param.detach() for param in masters]
    optimizer = fastopt.optim.AdamW(masters.values(), **OPTIONS, copy_to=copies)
    for number in range(STEPS):
        model.zero_grad()
        loss_of(model, number).backward()
        for param, master in masters.items():
            assert param.grad is not None
            master.grad = param.grad.float()
        optimizer.step()


def main() -> None:
    overlapped, plain = network().bfloat16(), network().bfloat16()
    train_overlapped(overlapped)
    train_plainly(plain)
    check("A step in parts, overlapped", overlapped.parameters(), plain)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
