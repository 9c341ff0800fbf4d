"""NAdam."""

import torch

from . import Options, Record, Worked
from ._drawn import betas, common_options, decays, flags, numbers

STEP: Options = {"param": 1, "grad": 2, "exp_avg": 2, "exp_avg_sq": 20, "betas": (0.5, 0.75)}
STEP |= {"lr": 2, "momentum_decay": 0, "eps": 0}  # m' = 2, v' = 16, √c₂ = ½, μ = ¼, Π = 0
WORKED = [
    Worked(STEP, 0.5, [2, 16]),
    Worked(STEP | {"eps": 8}, 0.75, [2, 16]),
]


RECORD = Record(
    name="NAdam",
    options=[
        {"eps": 0.01},
        {"betas": (0.5, 0.75), "momentum_decay": 0.1},
        {"weight_decay": 0.1},
        {"maximize": True, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ],
    full={"lr": 0.01, "weight_decay": 0.01, "momentum_decay": 0.01},
    drawn=common_options(
        betas=betas,
        eps=numbers,
        momentum_decay=numbers,
        mu_product=decays,
        decoupled_weight_decay=flags,
    ),
    coded=[
        {"lr": 0.01, "decoupled_weight_decay": True, "weight_decay": 0.01},
    ],
    falling={"NAdam": {"lr": 0.001}},
    hashed=[
        {"lr": 0.001, "mu_product": 0.5, "weight_decay": 0.01, "maximize": 1},
    ],
    program={},
    distance={
        torch.float32: 10,
        torch.float64: 124,
        torch.bfloat16: 8,
    },
    choices={"momentum_decay": (0.004, 0.0), "decoupled_weight_decay": (False, True)},
    epsilons=5.0,  # divides once where torch does twice: 4.2, 4.7
    worked=WORKED,
)
