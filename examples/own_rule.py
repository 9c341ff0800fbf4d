"""Invent an update rule, verify it, time it, train with it.

    python examples/own_rule.py [--plot own_rule.png]

The rule is a sign of a momentum that is only followed where the gradient agrees, in proportion to how
sure the momentum is of itself. Takes seconds, on the CPU.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from fastopt import optim
from fastopt.rules import abs, maximum, rule, sqrt, where


@rule
def sure_sign(p, g, exp_avg, exp_avg_sq, *, t, lr=3e-3, betas=(0.9, 0.99), eps=1e-8):
    """Momentum over its root mean square, cut to 1, a third of it where the gradient disagrees."""
    b1, b2 = betas
    exp_avg = b1 * exp_avg + (1 - b1) * g
    exp_avg_sq = b2 * exp_avg_sq + (1 - b2) * (g * g)
    c1, root = 1 - b1**t, sqrt(1 - b2**t)
    u = (root / c1) * (exp_avg / (sqrt(exp_avg_sq) + eps))
    u = u / maximum(abs(u), 1.0)
    return p - lr * where(u * g > 0, u, u / 3), exp_avg, exp_avg_sq


SureSign = sure_sign.optimizer("SureSign")


def train(kind: type[torch.optim.Optimizer], lr: float, steps: int = 300) -> list[float]:
    """The losses of a small network that learns a noisy spiral."""
    torch.manual_seed(0)
    angle = torch.rand(512, 1) * 6
    x = torch.cat([angle * angle.cos(), angle * angle.sin()], 1) / 6 + 0.02 * torch.randn(512, 2)
    model = torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
    optimizer = kind(model.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = ((model(x) - angle / 6) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def nanoseconds(kind: type[torch.optim.Optimizer], size: int = 1 << 22) -> float:
    """Of a step, an element; the best of some."""
    param = torch.nn.Parameter(torch.randn(size))
    param.grad = torch.randn(size)
    optimizer = kind([param], lr=1e-3)
    times = []
    for _ in range(12):
        begin = time.perf_counter()
        optimizer.step()
        times.append(time.perf_counter() - begin)
    return min(times) / size * 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description="Invent, verify, time and train an update rule.")
    parser.add_argument("--plot", metavar="FILE", help="save the losses as a picture")
    options = parser.parse_args()

    print(sure_sign.program())
    begin = time.perf_counter()
    wrong = sure_sign.verify()
    print(f"verified in {time.perf_counter() - begin:.1f} s: {wrong} wrong bits")
    for name, kind in (("SureSign", SureSign), ("AdamW, compiled", optim.AdamW)):
        print(f"{name}: {nanoseconds(kind):.2f} ns an element")
    losses = {"SureSign": train(SureSign, 3e-3), "AdamW": train(optim.AdamW, 3e-3)}
    for name, values in losses.items():
        print(f"{name}: loss {values[0]:.4f} -> {np.mean(values[-10:]):.5f}")
    if options.plot:
        import matplotlib.pyplot as plt

        for name, values in losses.items():
            plt.semilogy(values, label=name)
        plt.xlabel("step")
        plt.ylabel("loss")
        plt.legend()
        plt.savefig(options.plot, dpi=120)


if __name__ == "__main__":
    main()
