"""RMSprop."""

import torch
from hypothesis import strategies as st

from . import Options, Record, Worked
from ._drawn import common_options, decays, flags, numbers

STEP: Options = {"param": 1, "grad": 2, "square_avg": 28, "alpha": 0.5, "lr": 0.5, "eps": 0}
WORKED = [
    Worked(STEP, 0.75, [16]),
    Worked(STEP | {"eps": 4}, 0.875, [16]),
    Worked(STEP | {"eps": 48, "eps_inside_sqrt": True}, 0.875, [16]),
    Worked(STEP | {"momentum": 0.5, "momentum_buffer": 1}, 0.5, [16, 1]),
    Worked(STEP | {"square_avg": 36, "centered": True, "grad_avg": 2}, 0.75, [20, 2]),
]


RECORD = Record(
    name="RMSprop",
    options=[
        {},
        {"alpha": 0.5, "eps": 0.01},
        {"momentum": 0.9},
        {"centered": True},
        {"weight_decay": 0.1, "maximize": True},
        {"momentum": 0.9, "centered": True, "weight_decay": 0.1},
    ],
    extras=[
        {"eps_inside_sqrt": True},
        {"eps_inside_sqrt": True, "momentum": 0.9, "centered": True},
    ],
    full={"lr": 0.01, "momentum": 0.9, "centered": True},
    few_bits={"lr": 0.01, "momentum": 0.9},
    kernel={"centered": True, "momentum": 0.9},
    needs={"grad_avg": "centered", "momentum_buffer": "momentum"},
    drawn=common_options(
        alpha=decays | numbers,
        eps=numbers,
        momentum=st.just(0.0) | decays | numbers,
        centered=flags,
        eps_inside_sqrt=flags,
    ),
    coded=[
        {"lr": 0.01},
        {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01},
    ],
    falling={"RMSprop": {"lr": 0.001, "alpha": 0.999}},
    hashed=[
        {"lr": 0.01},
        {"lr": 0.01, "eps_inside_sqrt": 1, "weight_decay": 0.01, "maximize": 1},
        {"lr": 0.01, "centered": 1},
        {"lr": 0.01, "momentum": 0.9},
        {"lr": 0.01, "centered": 1, "momentum": 0.9, "eps_inside_sqrt": 1},
    ],
    program={},
    distance={
        torch.float32: 27,
        torch.float64: 28,
        torch.bfloat16: 26,
    },
    choices={"momentum": (0.0, 0.9), "centered": (False, True)},
    worked=WORKED,
)
