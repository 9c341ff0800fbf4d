"""Dropout for PyTorch whose mask is a function of (seed, offset, index) and needs no memory.

    layer = fastopt.nn.Dropout(0.1)               # torch.nn.Dropout's signature
    fastopt.nn.convert_dropout(model)             # or those of a whole network, in place
    fastopt.nn.revert_dropout(model)              # and torch's again
    with fastopt.nn.mc_dropout(model): ...        # dropout at work, the rest evaluating
    y = fastopt.nn.functional.dropout(x, 0.1, seed=42)  # a pure function

The same seed gives the same mask in NumPy (:mod:`fastopt.reference`), on every instruction set and at
every thread count.
"""

from fastopt.nn import functional
from fastopt.nn.convert import convert_dropout, revert_dropout
from fastopt.nn.mc import mc_dropout
from fastopt.nn.modules import (
    AlphaDropout,
    BiasDropoutAdd,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    DropPath,
    StochasticDepth,
)

__all__ = [
    "AlphaDropout",
    "BiasDropoutAdd",
    "DropPath",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "StochasticDepth",
    "convert_dropout",
    "functional",
    "mc_dropout",
    "revert_dropout",
]
