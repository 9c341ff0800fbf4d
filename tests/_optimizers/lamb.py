"""LAMB."""

from . import Record
from ._drawn import betas, common_options, flags, numbers

RECORD = Record(
    name="LAMB",
    options=[
        {},
        {"betas": (0.5, 0.75), "eps": 0.01},
        {"weight_decay": 0.0},
        {"weight_decay": 0.0, "always_adapt": True},
        {"maximize": True, "weight_decay": 0.1, "bias_correction": False},
    ],
    full={"lr": 0.01, "weight_decay": 0.1},
    drawn=common_options(betas=betas, eps=numbers, bias_correction=flags, always_adapt=flags),
    falling={"LAMB": {"lr": 0.001, "weight_decay": 0}},
    hashed=[
        {"lr": 0.001},
        {"lr": 0.001, "weight_decay": 0.0, "maximize": 1, "bias_correction": 0},
        {"lr": 0.001, "weight_decay": 0.0, "always_adapt": 1},
    ],
    program={},
)
