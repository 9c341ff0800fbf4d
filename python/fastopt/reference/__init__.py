"""The update rules and dropout in NumPy: what every kernel must equal, bit for bit.

Read a function as a page of a textbook: the formula stands in its docstring and, line for line, in
its body. A symbol with a prime is the value after the step. Dropout's terms stand at the top of
dropout.py; all update rules share these.

Arrays. `param`, `grad` and the states have one shape, any shape, and one dtype, float32 or float64;
    or each is float32, float16 or ml_dtypes.bfloat16, which is computed in float32 and rounded
    where a result is stored, in the type that its array came in: the parameter to nearest even,
    states by the dither of the step (dither.py).
    None is modified: a rule returns a tuple of new arrays, `param` first, then every state that was
    given, in the order of the arguments. A state that the options do not use may be left out; one
    that is given all the same comes back as it was.
Arithmetic. Every operation rounds correctly to the arrays' dtype T, in the order that is written.
    Scalars are computed in double and rounded once, where they meet an array, by `T(...)`. Infinity
    and NaN follow IEEE 754 without a warning.
Step. `step` counts from 1: it is the number of the update that is being computed.
Gradient. Every rule first forms `g`, the gradient that it descends along, from `grad`,
    `weight_decay` and `maximize`: see `_common.gradient`.
Errors. TypeError for a value of the wrong kind; ValueError for one out of range, for a shape or
    dtype other than `param`'s, for options that exclude each other. The message names the argument.

    >>> import numpy as np
    >>> from fastopt import reference
    >>> reference.sgd(np.array([1.0, 2.0]), np.array([0.5, -0.5]), lr=0.5)
    (array([0.75, 2.25]),)

`RULED` are rules in Python: fastopt.rules.library has their text, which is also what the kernels run.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._common import power
from .adadelta import adadelta
from .adagrad import adagrad
from .adam import adam, adamw
from .dropout import (
    alpha_dropout,
    bias_dropout_add,
    dropout,
    dropout_mask,
    dropout_rows,
    philox4x32,
    relu_dropout,
)
from .lamb import lamb
from .lbfgs import LBFGSMemory, lbfgs, lbfgs_direction, newton_step
from .lion import lion
from .nadam import nadam, nadam_mu
from .rmsprop import rmsprop
from .sgd import sgd
from .storage import from_bfloat16, to_bfloat16
from .tail import clip_factor, corrected_ema, ema, grad_norm, unscaled

__all__ = [
    "LBFGSMemory",
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "alpha_dropout",
    "bias_dropout_add",
    "clip_factor",
    "corrected_ema",
    "dropout",
    "dropout_mask",
    "dropout_rows",
    "ema",
    "from_bfloat16",
    "grad_norm",
    "lamb",
    "lbfgs",
    "lbfgs_direction",
    "lion",
    "nadam",
    "nadam_mu",
    "newton_step",
    "philox4x32",
    "power",
    "radam",
    "relu_dropout",
    "rmsprop",
    "sgd",
    "to_bfloat16",
    "unscaled",
]

RULED = ("adamax", "radam")

if TYPE_CHECKING:
    adamax: Callable[..., tuple[Any, ...]]
    radam: Callable[..., tuple[Any, ...]]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Those of `RULED`, once they are asked for: what they are made by stands on this package."""
        if name not in RULED:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from fastopt.rules import library
        from fastopt.rules._reference import reference_of

        made = globals()[name] = reference_of(getattr(library, name))
        return made
