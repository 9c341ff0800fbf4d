"""Adagrad."""

import torch

from . import Options, Record, Worked
from ._drawn import common_options, numbers, penalties

STEP: Options = {"param": 1, "grad": 2, "sum": 12, "lr": 0.5, "eps": 0}
WORKED = [
    Worked(STEP, 0.75, [16]),
    Worked(STEP | {"eps": 4}, 0.875, [16]),
    Worked(STEP | {"lr_decay": 1, "step": 2}, 0.875, [16]),
]


RECORD = Record(
    name="Adagrad",
    options=[
        {},
        {"lr_decay": 0.1},
        {"initial_accumulator_value": 0.5, "eps": 0.001},
        {"weight_decay": 0.1},
        {"maximize": True, "lr_decay": 0.01, "weight_decay": 0.1},
    ],
    full={"lr": 0.1, "lr_decay": 0.01, "initial_accumulator_value": 0.1},
    drawn=common_options(lr_decay=penalties, eps=numbers),
    uncoded=[
        {"lr": 0.1, "lr_decay": 0.01, "initial_accumulator_value": 0.1},
    ],
    falling={"Adagrad": {"lr": 0.01}},
    hashed=[
        {"lr": 0.01},
        {"lr": 0.01, "lr_decay": 0.1, "weight_decay": 0.01, "eps": 1e-06, "maximize": 1},
    ],
    program={},
    distance={
        torch.float32: 5,
        torch.float64: 6,
        torch.bfloat16: 6,
    },
    choices={"lr_decay": (0.0, 0.2), "initial_accumulator_value": (0.0, 0.5)},
    worked=WORKED,
)
