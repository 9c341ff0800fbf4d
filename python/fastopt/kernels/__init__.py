"""The kernels on arrays: NumPy, torch, or anything with DLPack or the buffer protocol.

The update rules work in place:

    param, grad = numpy.ones(1000, numpy.float32), numpy.ones(1000, numpy.float32)
    exp_avg, exp_avg_sq = numpy.zeros_like(param), numpy.zeros_like(param)
    fastopt.kernels.adam_(param, grad, exp_avg, exp_avg_sq, step=1, lr=1e-3)

Every rule takes one array per argument, or one list of arrays per argument, all updated in one
call; ``step`` is then one number for all or a list. Arrays are C-contiguous, in the CPU's memory:
float64 all of them, or float32, float16 and bfloat16 (torch's, or ml_dtypes' in NumPy) in any mix,
computed in float32. grad and states have the parameter's shape, and nothing that is written may
share memory with another array. ``step`` is 1 for the first update. Everything is checked before
anything is written: a TypeError (wrong kind or dtype) or ValueError (wrong value, shape, layout)
names the argument, what came and what is accepted.

``grad_scale`` of every rule is what the gradients have been multiplied by, a number above 0 or an
array of one element: each is divided by it as a GradScaler's scale is in an optimizer's step, by one
multiplication in the same pass (:func:`fastopt.reference.unscaled`). The arrays of gradients stay as
they are.

``copy_to`` of every rule is an array, or a list of arrays, that becomes the parameter after the step,
rounded to nearest even to what it is stored in: float32, bfloat16 or float16, or float64 or float32 of
float64 parameters. It is written in the same pass (on CUDA devices after it).

``ema_`` is an average that is kept in the same way, of anything:

    fastopt.kernels.ema_(average, value, corrected, decay=0.9, step=1)

Dropout gives a new array, or writes to ``out``, which may be ``x`` itself:

    x = numpy.ones(1000, numpy.float32)
    y = fastopt.kernels.dropout(x, 0.1, seed=0, offset=0)
    kept = fastopt.kernels.dropout_mask(x.shape, 0.1, seed=0, offset=0)

Its arrays are C-contiguous float32, float64, float16 or bfloat16.

The formulas, with their sources, stand in :mod:`fastopt.reference`, whose bits these kernels give.
"""

from . import _rules
from ._dropout import (
    alpha_dropout,
    bias_dropout_add,
    dropout,
    dropout_mask,
    dropout_rows,
    relu_dropout,
)
from ._rules import *  # noqa: F403

__all__ = [
    "alpha_dropout",
    "bias_dropout_add",
    "dropout",
    "dropout_mask",
    "dropout_rows",
    "relu_dropout",
]
__all__ += _rules.__all__
