"""How training ends with parameters and states in fewer bits, after few steps and after many.

An MLP (64-64-10) on scikit-learn's digits: batches of 64, AdamW with a weight decay of 0.1, lr 10⁻³
after 20 steps of warm-up, then down to 0 along half a cosine. What the optimizer stores is all that
differs: both passes are in float32.

    python bench/long_run.py [STEPS ...]
"""

from __future__ import annotations

import argparse
import math
import statistics
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fastopt
from fastopt.demo import load_digits

STORED: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "float32": (torch.float32, {}),
    "float32, bf16 state": (torch.float32, {"state_dtype": torch.bfloat16}),
    "float32, int8 state": (torch.float32, {"state_dtype": "int8"}),
    "bf16, stochastic": (torch.bfloat16, {"stochastic_rounding": True}),
    "bf16, masters, bf16 state": (
        torch.bfloat16,
        {"master_weights": True, "state_dtype": torch.bfloat16},
    ),
    "bf16, nearest": (torch.bfloat16, {}),
}
LR, WARM_UP, BATCH = 1e-3, 20, 64


class End(NamedTuple):
    """Of a run: mean losses, and the accuracy in percent."""

    train: float
    test: float
    accuracy: float


def output(weights: list[Tensor], x: Tensor) -> Tensor:
    hidden = torch.relu(x @ weights[0].T + weights[1])
    return hidden @ weights[2].T + weights[3]


def run(stored: str, seed: int, steps: int) -> End:
    """Train once."""
    dtype, options = STORED[stored]
    digits = load_digits()
    x, y = digits.train_images.flatten(1).float(), digits.train_labels
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).to(dtype)
    params = list(model.parameters())
    optimizer = fastopt.optim.AdamW(params, lr=LR, weight_decay=0.1, **options)
    batches = torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = LR * min(1, step / WARM_UP) * cosine
        some = torch.randint(len(x), (BATCH,), generator=batches)
        weights = [param.detach().float().requires_grad_() for param in params]
        loss = cross_entropy(output(weights, x[some]), y[some])
        for param, grad in zip(params, torch.autograd.grad(loss, weights), strict=True):
            param.grad = grad.to(dtype)
        optimizer.step()
    with torch.no_grad():
        weights = [param.detach().float() for param in params]
        test = output(weights, digits.test_images.flatten(1).float())
        right = (test.argmax(1) == digits.test_labels).float().mean().item()
        train_loss = cross_entropy(output(weights, x), y).item()
        return End(train_loss, cross_entropy(test, digits.test_labels).item(), 100 * right)


def main() -> None:
    parser = argparse.ArgumentParser(description="Digits with parameters and states in fewer bits.")
    parser.add_argument("steps", nargs="*", type=int, default=[600, 3000, 10000])
    torch.set_num_threads(1)
    for steps in parser.parse_args().steps:
        print(f"{steps} steps: train loss (mean ± deviation over 3 seeds), test loss, accuracy")
        for stored in STORED:
            ends = [run(stored, seed, steps) for seed in range(3)]
            train, test, accuracy = ([end[i] for end in ends] for i in range(3))
            print(
                f"  {stored:26} {statistics.mean(train):.4f} ± {statistics.stdev(train):.4f}"
                f"  {statistics.mean(test):.4f}  {statistics.mean(accuracy):.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
