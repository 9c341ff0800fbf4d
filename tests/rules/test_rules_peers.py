"""The library beside widely used packages, in float64 over 200 steps.

Of pytorch-optimizer only what is the paper's: its ADOPT clips and begins otherwise, its LaProp keeps
no average of rates, its MARS corrects otherwise, and AdEMAMix's warm-up of beta_3 lacks the authors'
guard against log(0).
"""

from typing import Any

import numpy as np
import pytest
import torch

from fastopt import optim

STEPS = 200
TOLERANCE = 1e-13  # of numbers up to 4; 8e-15 is the most that has been measured

# Ours, and theirs by package and class, with the options of both and those of theirs alone.
CASES: list[tuple[str, str, str, dict[str, Any], dict[str, Any]]] = [
    (
        "ScheduleFreeAdamW",
        "schedulefree",
        "AdamWScheduleFree",
        {"lr": 1e-2, "warmup_steps": 20, "weight_decay": 0.1},
        {},
    ),
    ("ScheduleFreeSGD", "schedulefree", "SGDScheduleFree", {"lr": 0.1, "weight_decay": 0.1}, {}),
    ("Adan", "optimi", "Adan", {"lr": 1e-2, "weight_decay": 0.02, "eps": 1e-8}, {}),
    (
        "Adan",
        "pytorch_optimizer",
        "Adan",
        {"lr": 1e-2, "weight_decay": 0.02, "eps": 1e-8},
        {"weight_decouple": False},
    ),
    (
        "StableAdamW",
        "optimi",
        "StableAdamW",
        {"lr": 1e-2, "betas": (0.9, 0.99), "weight_decay": 0.1, "eps": 1e-6},
        {},
    ),
    (
        "StableAdamW",
        "pytorch_optimizer",
        "StableAdamW",
        {"lr": 1e-2, "betas": (0.9, 0.99), "weight_decay": 0.1, "eps": 1e-8},
        {"kahan_sum": False},
    ),
    (
        "AdEMAMix",
        "pytorch_optimizer",
        "AdEMAMix",
        {"lr": 1e-2, "betas": (0.9, 0.999, 0.9999), "alpha": 5.0},
        {},
    ),
    (
        "AdaBelief",
        "pytorch_optimizer",
        "AdaBelief",
        {"lr": 1e-2, "weight_decay": 0.1, "eps": 1e-16},
        {"rectify": False},
    ),
    ("Yogi", "pytorch_optimizer", "Yogi", {"lr": 1e-2, "weight_decay": 0.1}, {}),
    (
        "Signum",
        "pytorch_optimizer",
        "SignSGD",
        {"lr": 1e-2, "momentum": 0.9, "weight_decay": 0.1},
        {},
    ),
    (
        "CautiousLion",
        "pytorch_optimizer",
        "Lion",
        {"lr": 1e-2, "weight_decay": 0.1},
        {"cautious": True},
    ),
]


@pytest.mark.parametrize(
    ("name", "package", "cls", "options", "theirs"),
    CASES,
    ids=[f"{name} {package}" for name, package, *_ in CASES],
)
def test_a_rule_agrees_with_a_package(
    name: str, package: str, cls: str, options: dict[str, Any], theirs: dict[str, Any]
) -> None:
    peers = pytest.importorskip(package, reason="needs others: pip install fastopt[peers]")
    start = np.random.default_rng(1).standard_normal((6, 10))
    ours, other = (torch.nn.Parameter(torch.from_numpy(start.copy())) for _ in range(2))
    a = getattr(optim, name)([ours], **options)
    b = getattr(peers, cls)([other], **options, **theirs)
    if package == "schedulefree":
        b.train()
    scales, rng = np.logspace(-2, 1, 60).reshape(6, 10), np.random.default_rng(0)
    for _ in range(STEPS):
        # The same gradients for both, at their place: the distance does not feed back.
        g = scales * other.detach().numpy() + 0.3 * rng.standard_normal(start.shape)
        for optimizer, param in ((a, ours), (b, other)):
            param.grad = torch.from_numpy(g.copy())
            optimizer.step()
        np.testing.assert_allclose(
            ours.detach().numpy(), other.detach().numpy(), rtol=0, atol=TOLERANCE
        )
    assert np.abs(other.detach().numpy() - start).max() > 0.5
