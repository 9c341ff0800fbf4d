"""AdamW."""

import torch

from . import Options, Record, Worked
from ._drawn import adam_options, flags

STEP: Options = {"param": 1, "grad": 2, "exp_avg": 2, "exp_avg_sq": 20, "max_exp_avg_sq": 64}
STEP |= {"betas": (0.5, 0.75), "lr": 0.5, "eps": 0}  # m' = 2, m̂ = 4, v' = 16, v̂ = 64
CAUTIOUS = {"weight_decay": 0.5, "cautious_decay": True}
WORKED = [
    Worked(STEP | {"weight_decay": 0.5}, 0.5, [2, 16, 64]),
    Worked(STEP | CAUTIOUS, 0.5, [2, 16, 64]),
    Worked(STEP | CAUTIOUS | {"param": -1}, -1.25, [2, 16, 64]),
]


RECORD = Record(
    name="AdamW",
    options=[
        {},
        {"betas": (0.5, 0.75), "eps": 0.01},
        {"weight_decay": 0.0},
        {"amsgrad": True, "betas": (0.9, 0.5), "weight_decay": 0.1},
        {"maximize": True, "weight_decay": 0.1},
    ],
    extras=[
        {"bias_correction": False},
        {"eps_inside_sqrt": True, "amsgrad": True},
        {"weight_decay": 0.1, "cautious_decay": True},
    ],
    full={"lr": 0.01, "amsgrad": True},
    kernel={"amsgrad": True},
    needs={"max_exp_avg_sq": "amsgrad"},
    drawn=adam_options(cautious_decay=flags),
    coded=[
        {"lr": 0.01},
        {"lr": 0.01, "amsgrad": True, "maximize": True},
    ],
    falling={"AdamW": {"lr": 0.001, "weight_decay": 0}},
    program={},
    distance={
        torch.float32: 8,
        torch.float64: 75,
        torch.bfloat16: 5,
    },
    choices={"amsgrad": (False, True), "betas": ((0.9, 0.999), (0.0, 0.5))},
    worked=WORKED,
)
