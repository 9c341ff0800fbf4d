"""Give the dropout modules of a network fastopt's kernels, in place, and take them back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
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
    ours = classes()
    for _, module in _modules_of(model):
        module.__class__ = ours.get(type(module), type(module))
    return model


def revert_dropout(model: Module) -> Module:
    """Make the dropout modules of a network torch's again, in place: :func:`convert_dropout` undone.

    Modules that are exactly of one of fastopt's classes that torch.nn has, too, change their class and
    lose what only fastopt's have: ``packed_mask``, which decides where memory goes and nothing else,
    and ``generator``. Each stays the object it is, with p, mode, training flag, hooks and attributes,
    wherever it is referred to. ``StochasticDepth`` becomes torchvision's where that is imported; else
    it stays, and so does ``BiasDropoutAdd``, which torch does not have.

    Args:
        model: a network, or a single module.

    Returns:
        ``model``.

    Raises:
        TypeError: if it is no module.
        ValueError: if one of these modules has a generator of its own, before any is changed.
    """
    theirs = {ours: torchs for torchs, ours in classes().items()}
    found = [(name, module) for name, module in _modules_of(model) if type(module) in theirs]
    for name, module in found:
        if module.generator is not None:
            raise ValueError(
                f"{name or 'model'}: generator={module.generator!r}; expected None in a "
                f"{type(module).__name__} to revert, since torch's draws from torch's own generator"
            )
    for _, module in found:
        for attribute in ("generator", "packed_mask"):
            vars(module).pop(attribute, None)
        module.__class__ = theirs[type(module)]
    return model


def classes() -> dict[type[nn.Module], type[nn.Module]]:
    """torch's classes and torchvision's, each with ours."""
    depth = torchvisions_depth()
    return CLASSES if depth is None else {**CLASSES, depth: StochasticDepth}


def _modules_of(model: nn.Module) -> Iterator[tuple[str, Any]]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    yield from model.named_modules()
