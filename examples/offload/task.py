"""What the recipes train, and the run without any engine that each is compared with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import fastopt

STEPS = 4
OPTIONS: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(96, 128), nn.GELU(), nn.Linear(128, 96), nn.GELU(), nn.Linear(96, 8))


def loss_of(model: nn.Module, step: int, rank: int = 0) -> Tensor:
    """Of a batch that each process has of its own."""
    x = torch.randn(16, 96, generator=torch.Generator().manual_seed(100 * step + rank))
    x = x.to(next(model.parameters()).dtype)
    return nn.functional.mse_loss(model(x).float(), x[:, :8].float().sin())


def train(model: nn.Module, optimizer: Optimizer, steps: int = STEPS) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()


def by_hand(**options: Any) -> nn.Sequential:
    """The network after the same steps in a plain loop."""
    model = network()
    train(model, fastopt.optim.AdamW(model.parameters(), **OPTIONS, **options))
    return model


def check(engine: str, got: Iterable[Tensor], expected: nn.Module) -> None:
    """Compare parameters, bit for bit."""
    pairs = list(zip(got, expected.parameters(), strict=True))
    different = sum(int((a.detach().float() != b.detach().float()).sum()) for a, b in pairs)
    total = sum(param.numel() for _, param in pairs)
    print(f"{engine}: {different} of {total} parameters differ from a plain loop's")
    if different:
        raise SystemExit(1)
