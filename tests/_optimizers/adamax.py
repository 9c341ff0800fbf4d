"""Adamax."""

import torch

from . import Options, Record, Worked
from ._drawn import betas, common_options, numbers

STEP: Options = {"param": 1, "grad": -2, "exp_avg": 10, "exp_inf": 32, "betas": (0.5, 0.25)}
STEP |= {"lr": 0.5, "eps": 2}  # m' = 4, u' = max(8, 4)
WORKED = [
    Worked(STEP, 0.5, [4, 8]),
    Worked(STEP | {"exp_inf": 8}, 0, [4, 4]),
    Worked(STEP | {"grad": -3, "weight_decay": 1}, 0.5, [4, 8]),
]


RECORD = Record(
    name="Adamax",
    options=[
        {"eps": 0.01},
        {"betas": (0.5, 0.75)},
        {"weight_decay": 0.1},
        {"maximize": True, "weight_decay": 0.1},
    ],
    full={"lr": 0.01, "weight_decay": 0.01},
    drawn=common_options(betas=betas, eps=numbers),
    coded=[
        {"lr": 0.01, "weight_decay": 0.01},
    ],
    falling={"Adamax": {"lr": 0.001}},
    hashed=[
        {"lr": 0.001, "weight_decay": 0.01, "maximize": 1},
    ],
    distance={
        torch.float32: 5,
        torch.float64: 8,
        torch.bfloat16: 3,
    },
    choices={"betas": ((0.9, 0.999), (0.0, 0.5))},
    worked=WORKED,
)
