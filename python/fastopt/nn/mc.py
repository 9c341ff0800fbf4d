"""Monte Carlo dropout: predictions with dropout at work, whose spread tells how sure a network is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import nn

from fastopt.nn.convert import torchvisions_depth
from fastopt.nn.modules import BiasDropoutAdd, StochasticDepth

Module = TypeVar("Module", bound=nn.Module)


@contextmanager
def mc_dropout(model: Module) -> Iterator[Module]:
    """Dropout at work and everything else in evaluation mode, for the length of a with block.

        with fastopt.nn.mc_dropout(model), torch.no_grad():
            samples = torch.stack([model(x).softmax(-1) for _ in range(30)])
        mean, spread = samples.mean(0), samples.std(0)

    Gal & Ghahramani 2016, Dropout as a Bayesian approximation. It works with torch's dropout modules
    as with fastopt's; with attention and recurrent layers of torch that have dropout inside; and
    keeps ``torch.nn.TransformerEncoderLayer`` from its fast path, which leaves dropout out. Calls of
    torch.nn.functional.dropout obey the training flag of the module that they stand in, and remain
    idle. Afterwards each module has the training flag that it had.

    Args:
        model: a network.

    Raises:
        TypeError: if it is no module.
        ValueError: if it has no dropout.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    before = [(module, module.training) for module in model.modules()]
    dropping = [module for module, _ in before if _drops(module)]
    if not dropping:
        raise ValueError("model: expected a network with dropout modules, got one without")
    try:
        for module, _ in before:
            module.training = False
        for module in dropping:
            module.training = True
        yield model
    finally:
        for module, training in before:
            module.training = training


def _drops(module: nn.Module) -> bool:
    """Whether its training flag decides about dropout, and about nothing else."""
    kinds = [nn.modules.dropout._DropoutNd, StochasticDepth, BiasDropoutAdd, nn.TransformerEncoderLayer]
    if (theirs := torchvisions_depth()) is not None:
        kinds.append(theirs)
    inside = isinstance(module, (nn.MultiheadAttention, nn.RNNBase)) and module.dropout > 0
    return isinstance(module, tuple(kinds)) or inside
