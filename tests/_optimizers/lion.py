"""Lion."""

from . import Options, Record, Worked
from ._drawn import betas, common_options, flags

STEP: Options = {"param": 1, "grad": 2, "exp_avg": -4, "betas": (0.5, 0.75), "lr": 0.5}
WORKED = [
    Worked(STEP, 1.5, [-2.5]),
    Worked(STEP | {"exp_avg": 2}, 0.5, [2]),
    Worked(STEP | {"exp_avg": -2}, 1, [-1]),
    Worked(STEP | {"maximize": True, "weight_decay": 1}, 1, [-3.5]),
    Worked(STEP | {"weight_decay": 1, "cautious_decay": True}, 1.5, [-2.5]),
]


RECORD = Record(
    name="Lion",
    options=[
        {},
        {"betas": (0.5, 0.75)},
        {"weight_decay": 0.1},
        {"maximize": True, "weight_decay": 0.1},
    ],
    extras=[{"lr": 0.01, "weight_decay": 0.1, "cautious_decay": True}],
    full={"lr": 0.01, "weight_decay": 0.1},
    drawn=common_options(betas=betas, cautious_decay=flags),
    coded=[
        {"lr": 0.01, "weight_decay": 0.01},
    ],
    hashed=[
        {"lr": 0.001, "weight_decay": 0.01, "maximize": 1},
        {"lr": 0.001, "weight_decay": 0.01, "cautious_decay": 1},
    ],
    program={},
    worked=WORKED,
)
