"""Give the dropout modules of a network fastopt's kernels, in place."""

from __future__ import annotations

import sys
from typing import Any, TypeVar

from torch import nn

from fastopt.nn.modules import (
    AlphaDropout,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    StochasticDepth,
)

Module = TypeVar("Module", bound=nn.Module)

CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    nn.Dropout: Dropout,
    nn.Dropout1d: Dropout1d,
    nn.Dropout2d: Dropout2d,
    nn.Dropout3d: Dropout3d,
    nn.AlphaDropout: AlphaDropout,
}


def torchvisions_depth() -> Any:
    """torchvision's StochasticDepth, if somebody has imported that; it is not ours to import."""
    return getattr(sys.modules.get("torchvision.ops"), "StochasticDepth", None)


def convert_dropout(model: Module) -> Module:
    """Make the dropout modules of a network fastopt's, in place.

    Modules that are exactly a torch.nn ``Dropout``, ``Dropout1d``, ``Dropout2d``, ``Dropout3d`` or
    ``AlphaDropout``, or torchvision's ``StochasticDepth``, change their class and nothing else: each
    stays the object it is, with p, mode, training flag, hooks and attributes, wherever it is referred
    to. Those of a ``torch.nn.TransformerEncoderLayer`` (dropout, dropout1, dropout2) are among them.

    What is no module of these is not touched: calls of torch.nn.functional.dropout, the dropout
    inside of ``torch.nn.MultiheadAttention`` and of recurrent layers, ``FeatureAlphaDropout``,
    subclasses, and what torch.jit or torch.compile have made of a network.

    Args:
        model: a network, or a single module.

    Returns:
        ``model``.

    Raises:
        TypeError: if it is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    classes = dict(CLASSES)
    if (theirs := torchvisions_depth()) is not None:
        classes[theirs] = StochasticDepth
    for module in model.modules():
        ours = classes.get(type(module))
        if ours is not None:
            module.__class__ = ours
    return model
