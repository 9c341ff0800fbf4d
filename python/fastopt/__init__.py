"""Fused SIMD optimizers for PyTorch and NumPy, equal to their NumPy references bit for bit.

    optimizer = fastopt.optim.AdamW(model.parameters(), lr=1e-3)   # torch.optim.AdamW's signature
    fastopt.from_torch(optimizer)                                  # a live torch.optim.AdamW, in place
    fastopt.nn.Dropout(0.1)                                        # torch.nn.Dropout's signature
    fastopt.gradcheck(model, images)                               # is backward() right?
    fastopt.kernels.adam_(param, grad, exp_avg, exp_avg_sq, step=1)  # the same, on arrays
    fastopt.reference.adam(param, grad, exp_avg, exp_avg_sq, step=1)  # its definition, in NumPy

On the command line: ``python -m fastopt info | verify | audit | bench | demo``.
"""

import sys as _sys

import torch as _torch  # noqa: F401  before _C, which then shares torch's OpenMP pool

try:
    from fastopt import _C  # noqa: F401
except ImportError as _error:
    if _sys.argv[:1] != ["-m"] or "fastopt" not in _sys.orig_argv:
        raise
    print(f"fastopt cannot be imported: {_error}", file=_sys.stderr)
    raise SystemExit(2) from None  # the command line's status 1 has another meaning

from fastopt import averages, gradients, integrations, kernels, nn, optim, reference, rules, schedules
from fastopt._info import __version__, info
from fastopt.convert import from_torch, to_torch
from fastopt.gradients.check import gradcheck

__all__ = [
    "__version__",
    "averages",
    "from_torch",
    "gradcheck",
    "gradients",
    "info",
    "integrations",
    "kernels",
    "nn",
    "optim",
    "reference",
    "rules",
    "schedules",
    "to_torch",
]
