"""Adadelta."""

import torch
from hypothesis import strategies as st

from . import Options, Record, Worked
from ._drawn import common_options, numbers

STEP: Options = {"param": 1, "grad": 2, "square_avg": 28, "rho": 0.5, "eps": 9, "lr": 0.5}
WORKED = [
    Worked(STEP | {"square_avg": 10, "acc_delta": 55}, -1, [7, 35.5]),
    Worked(STEP | {"acc_delta": 16, "eps": 0}, 0, [16, 10]),
]


RECORD = Record(
    name="Adadelta",
    options=[
        {},
        {"rho": 0.5, "eps": 0.001},
        {"weight_decay": 0.1},
        {"maximize": True, "weight_decay": 0.1},
    ],
    full={"lr": 0.5, "weight_decay": 0.01},
    drawn=common_options(rho=st.floats(0, 1), eps=numbers),
    coded=[
        {"lr": 0.5},
    ],
    falling={"Adadelta": {"lr": 1.0, "rho": 0.99}},
    hashed=[
        {"lr": 0.1, "weight_decay": 0.01, "maximize": 1},
    ],
    program={},
    distance={
        torch.float32: 6,
        torch.float64: 4,
        torch.bfloat16: 6,
    },
    choices={},
    epsilons=18.0,  # steps by roots of steps add up torch's, which are not the nearest: 10.5, 17.7
    worked=WORKED,
)
