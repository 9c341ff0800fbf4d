"""prime-rl's step on the host: float32 masters, bfloat16 gradients that come scaled, from a thread.

    python examples/offload/prime_rl.py

`adamw_step` has the arguments of prime-rl's native step, on one call of `fastopt.kernels`. Gradients
are divided by their scale in the step's own pass, and are read only; the bfloat16 parameters that the
GPU computes with are written in it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from task import OPTIONS, STEPS, loss_of, network
from torch import Tensor

import fastopt


def adamw_step(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    state_steps: list[int],
    compute_params: list[Tensor],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
    eps: float,
    gradient_scale: float,
) -> None:
    for index in range(len(state_steps)):
        state_steps[index] += 1
    fastopt.kernels.adam_(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        step=state_steps,
        lr=lr,
        betas=(beta1, beta2),
        eps=eps,
        weight_decay=weight_decay,
        decoupled_weight_decay=True,
        grad_scale=gradient_scale,
        copy_to=compute_params,
    )


def main() -> None:
    scale, model = 1024.0, network().bfloat16()
    compute = [param.detach() for param in model.parameters()]
    masters = [it.float() for it in compute]
    averages, squares = ([torch.zeros_like(it) for it in masters] for _ in range(2))
    counts = [0] * len(masters)
    expected = [torch.nn.Parameter(it.clone()) for it in masters]
    optimizer = fastopt.optim.AdamW(expected, **OPTIONS)
    with ThreadPoolExecutor(1) as worker:
        for step in range(STEPS):
            model.zero_grad()
            (scale * loss_of(model, step)).backward()
            grads = [it.grad for it in model.parameters() if it.grad is not None]
            for param, grad in zip(expected, grads, strict=True):
                param.grad = grad.float() / scale
            optimizer.step()
            worker.submit(
                adamw_step, masters, grads, averages, squares, counts, compute,
                lr=OPTIONS["lr"], beta1=OPTIONS["betas"][0], beta2=OPTIONS["betas"][1],
                weight_decay=OPTIONS["weight_decay"], eps=1e-8, gradient_scale=scale,
            ).result()  # fmt: skip
    different = sum(int((a != b).sum()) for a, b in zip(masters, expected, strict=True))
    print(f"prime-rl's step: {different} masters differ from those of an optimizer of its own")
    if different or any(bool((a != b.bfloat16()).any()) for a, b in zip(compute, masters, strict=True)):
        raise SystemExit(1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
