"""RAdam."""

import numpy as np
import torch

from fastopt import reference

from . import Options, Record, Worked
from ._drawn import betas, common_options, flags, numbers

STEP: Options = {
    "param": 1,
    "grad": 2,
    "exp_avg": 2,
    "exp_avg_sq": 20,
    "betas": (0.5, 0.75),
    "lr": 0.5,
}
WORKED = [
    Worked(STEP, -1, [2, 16]),
    Worked(STEP | {"weight_decay": 1, "decoupled_weight_decay": True}, -1.5, [2, 16]),
]


def adapts_when_its_average_is_long_enough() -> None:
    """With β₂ = 0.999 and ρ∞ = 1999, ρ is below 5 at step 5 and above at step 6."""
    x, square = np.zeros(1), np.full(1, 4.0)
    options: Options = {"lr": 1.0, "betas": (0.0, 0.999), "eps": 0.0}
    moved = [reference.radam(x, np.ones(1), x, square, step=step, **options)[0] for step in (5, 6)]
    assert moved[0] == -1
    assert 0 > moved[1] > -0.1
    longest, c2 = 1999.0, 1 - 0.999**1000
    length = longest - 2000 * (1 - c2) / c2
    r = ((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)) ** 0.5
    (found, *_) = reference.radam(x, np.ones(1), x, square, step=1000, **options)
    np.testing.assert_allclose(found, -r * (c2 / (0.999 * 4 + 0.001)) ** 0.5, rtol=1e-10)


RECORD = Record(
    name="RAdam",
    options=[
        {"eps": 0.01},
        {"betas": (0.5, 0.75)},
        {"weight_decay": 0.1},
        {"maximize": True, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ],
    full={"lr": 0.01, "weight_decay": 0.01, "betas": (0.9, 0.8)},
    drawn=common_options(betas=betas, eps=numbers, decoupled_weight_decay=flags),
    coded=[
        {"lr": 0.01, "betas": (0.9, 0.8)},
    ],
    falling={"RAdam": {"lr": 0.001}},
    hashed=[
        {"lr": 0.001, "weight_decay": 0.01, "decoupled_weight_decay": 1, "maximize": 1},
    ],
    distance={
        torch.float32: 8,
        torch.float64: 4928,
        torch.bfloat16: 4,
    },
    choices={"decoupled_weight_decay": (False, True)},
    epsilons=12.0,  # the first lengths are small differences of large numbers: 2.9, 11.4
    worked=WORKED,
    checks=[adapts_when_its_average_is_long_enough],
)
