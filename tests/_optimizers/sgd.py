"""SGD."""

import torch
from hypothesis import strategies as st

from . import Options, Record, Worked
from ._drawn import decays, flags, numbers, penalties


@st.composite
def sgd_options(draw: st.DrawFn) -> Options:
    form = draw(st.sampled_from(["plain", "momentum", "nesterov", "average"]))
    options: Options = {"lr": draw(numbers), "weight_decay": draw(penalties)}
    options["maximize"], options["cautious_decay"] = draw(flags), draw(flags)
    if form == "momentum":
        return options | {"momentum": draw(numbers), "dampening": draw(st.floats(-2, 2))}
    if form == "nesterov":
        return options | {"momentum": draw(decays.filter(bool)), "nesterov": True}
    if form == "average":
        options |= {"momentum": draw(decays.filter(bool)), "exponential_average": True}
        options["bias_correction"] = draw(flags)
    return options


def allowed(options: Options) -> bool:
    """Nesterov's momentum needs one, and no dampening."""
    return not options["nesterov"] or (options["momentum"] > 0 and options["dampening"] == 0)


STEP: Options = {"param": 1, "grad": 2, "momentum_buffer": 4, "step": 2, "lr": 0.5}
CAUTIOUS = {"weight_decay": 0.5, "cautious_decay": True}
AVERAGE = {"momentum": 0.5, "exponential_average": True}
WORKED = [
    Worked(STEP, 0, [4]),
    Worked(STEP | {"maximize": True}, 2, [4]),
    Worked(STEP | {"weight_decay": 2}, -1, [4]),
    Worked(STEP | {"momentum": 0.5}, -1, [4]),
    Worked(STEP | {"momentum": 0.5, "dampening": 0.5}, -0.5, [3]),
    Worked(STEP | {"momentum": 0.5, "dampening": 0.5, "step": 1}, 0, [2]),
    Worked(STEP | {"momentum": 0.5, "nesterov": True}, -1, [4]),
    Worked(STEP | {"momentum": 0.5, "nesterov": True, "step": 1}, -0.5, [2]),
    Worked(STEP | CAUTIOUS, -0.25, [4]),
    Worked(STEP | CAUTIOUS | {"param": -1}, -2, [4]),
    Worked(STEP | AVERAGE, -0.5, [3]),
    Worked(STEP | AVERAGE | {"bias_correction": True, "step": 1}, -2, [3]),
]


RECORD = Record(
    name="SGD",
    options=[
        {},
        {"weight_decay": 0.1},
        {"maximize": True, "weight_decay": 0.1},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.4, "weight_decay": 0.1},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.8, "nesterov": True, "maximize": True, "weight_decay": 0.01},
    ],
    extras=[
        {"momentum": 0.9, "exponential_average": True},
        {"momentum": 0.9, "exponential_average": True, "bias_correction": True},
        {"momentum": 0.9, "weight_decay": 0.1, "cautious_decay": True},
    ],
    full={"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    kernel={"momentum": 0.9},
    needs={"momentum_buffer": "momentum"},
    drawn=sgd_options(),
    coded=[
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        {"lr": 0.1, "momentum": 0.9, "exponential_average": True, "bias_correction": True},
    ],
    uncoded=[
        {"lr": 0.1, "weight_decay": 0.01},
    ],
    falling={
        "SGD": {"lr": 0.001, "momentum": 0.999},
        "SGD, average": {"lr": 0.001, "momentum": 0.999, "exponential_average": True},
    },
    hashed=[
        {"lr": 0.1},
        {"lr": 0.1, "weight_decay": 0.01, "maximize": 1},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.1},
        {"lr": 0.1, "momentum": 0.9, "nesterov": 1, "weight_decay": 0.01},
        {"lr": 0.1, "momentum": 0.9, "exponential_average": 1},
        {"lr": 0.1, "momentum": 0.9, "exponential_average": 1, "bias_correction": 1},
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "cautious_decay": 1},
    ],
    program={"momentum": 0.9},
    distance={
        torch.float32: 17,
        torch.float64: 12,
        torch.bfloat16: 14,
    },
    choices={"momentum": (0.0, 0.9), "dampening": (0.0, 0.4), "nesterov": (False, True)},
    allowed=allowed,
    worked=WORKED,
)
