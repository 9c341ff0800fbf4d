"""Adam."""

import torch
from hypothesis import strategies as st

from . import Options, Record, Worked
from ._drawn import adam_options, flags

STEP: Options = {"param": 1, "grad": 2, "exp_avg": 2, "exp_avg_sq": 20, "max_exp_avg_sq": 64}
STEP |= {"betas": (0.5, 0.75), "lr": 0.5, "eps": 0}  # m' = 2, m̂ = 4, v' = 16, v̂ = 64
PLAIN = {"bias_correction": False}
WORKED = [
    Worked(STEP, 0.75, [2, 16, 64]),
    Worked(STEP | PLAIN, 0.75, [2, 16, 64]),
    Worked(STEP | {"eps": 8}, 0.875, [2, 16, 64]),
    Worked(STEP | PLAIN | {"eps": 4}, 0.875, [2, 16, 64]),
    Worked(STEP | {"eps": 192, "eps_inside_sqrt": True}, 0.875, [2, 16, 64]),
    Worked(STEP | PLAIN | {"eps": 48, "eps_inside_sqrt": True}, 0.875, [2, 16, 64]),
    Worked(STEP | {"amsgrad": True}, 0.875, [2, 16, 64]),
    Worked(STEP | {"amsgrad": True, "max_exp_avg_sq": 4}, 0.75, [2, 16, 16]),
    Worked(STEP | {"grad": 1, "weight_decay": 1}, 0.75, [2, 16, 64]),
    Worked(STEP | {"weight_decay": 0.5, "decoupled_weight_decay": True}, 0.5, [2, 16, 64]),
]


RECORD = Record(
    name="Adam",
    options=[
        {},
        {"betas": (0.5, 0.75), "eps": 0.01},
        {"betas": (0.0, 0.0)},
        {"amsgrad": True, "betas": (0.9, 0.5)},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
        {"maximize": True, "amsgrad": True, "weight_decay": 0.1},
    ],
    extras=[
        {"bias_correction": False},
        {"eps_inside_sqrt": True},
        {"bias_correction": False, "eps_inside_sqrt": True, "amsgrad": True},
        {"decoupled_weight_decay": True, "weight_decay": 0.1, "cautious_decay": True},
    ],
    full={"lr": 0.01, "amsgrad": True, "weight_decay": 0.01},
    kernel={"amsgrad": True},
    needs={"max_exp_avg_sq": "amsgrad"},
    drawn=adam_options(decoupled_weight_decay=flags)
    | adam_options(decoupled_weight_decay=st.just(True), cautious_decay=st.just(True)),
    coded=[
        {"lr": 0.01, "amsgrad": True, "weight_decay": 0.01},
    ],
    hashed=[
        {"lr": 0.001},
        {"lr": 0.001, "amsgrad": 1, "weight_decay": 0.01},
        {"lr": 0.001, "decoupled_weight_decay": 1, "weight_decay": 0.01, "maximize": 1},
        {"lr": 0.001, "bias_correction": 0},
        {"lr": 0.001, "eps_inside_sqrt": 1, "eps": 1e-06, "amsgrad": 1},
        {"lr": 0.001, "beta1": 0.8, "beta2": 0.99, "eps": 0},
        {"lr": 0.001, "decoupled_weight_decay": 1, "weight_decay": 0.01, "cautious_decay": 1},
    ],
    distance={
        torch.float32: 9,
        torch.float64: 75,
        torch.bfloat16: 5,
    },
    choices={"amsgrad": (False, True), "decoupled_weight_decay": (False, True), "eps": (1e-8, 0.1)},
    worked=WORKED,
)
