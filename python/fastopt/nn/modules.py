"""Dropout as modules: torch.nn's classes with fastopt's kernels.

Each is a subclass of torch's, with its arguments, and these by keyword:

generator: a torch.Generator on the CPU to draw the masks' seeds from; None for torch's own. It is
    copied and pickled with the module, state included, and is no part of the state dict.
    torch.utils.checkpoint restores torch's own generator only.
packed_mask: (Dropout) keep one bit an element for backward instead of drawing the mask again.

In training mode each call draws one seed, so torch.manual_seed decides all masks. In evaluation mode
a module returns its input.

torch.jit.script makes torch's dropout of them, with torch's masks, and torch.fx keeps calls of them.
"""

# No `from __future__ import annotations`: torch.jit.script reads those of a class as they are.

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastopt.nn import _fx, _torchs, functional
from fastopt.nn._dispatch import check_probability

__all__ = [
    "AlphaDropout",
    "BiasDropoutAdd",
    "DropPath",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "StochasticDepth",
]

is_scripting = torch.jit.is_scripting  # type: ignore[attr-defined]


class _Generating(nn.Module):
    """What ours have besides torch's. Defaults of the class, for objects that torch's have become."""

    generator: torch.Generator | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _fx.is_tracing() and (tracer := _fx.symbolic_tracer()) is not None:
            return _fx.call_of_module(tracer, self, args, kwargs)
        return nn.Module.__call__(self, *args, **kwargs)  # not super(): a fifth of an idle call

    def __prepare_scriptable__(self) -> nn.Module:
        """What torch.jit.script calls first."""
        if self.generator is not None:
            raise ValueError(
                f"generator={self.generator!r}: expected None in a {type(self).__name__} for "
                f"torch.jit.script, whose dropout draws from torch's own"
            )
        return self

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.generator is None else f"{text}, generator={self.generator}"


class _Drawing(_Generating):
    """torch's constructor with a generator, and without its gap: it lets NaN pass."""

    def __init__(
        self, p: float = 0.5, inplace: bool = False, *, generator: torch.Generator | None = None
    ) -> None:
        check_probability(p)
        super().__init__(p, inplace)
        self.generator = generator


class Dropout(_Drawing, nn.Dropout):
    """Zero elements with probability p, and scale the others by 1 / (1 − p).

    :func:`fastopt.nn.functional.dropout` of the input. Srivastava et al. 2014.

    Args:
        p: the probability that an element is zeroed.
        inplace: write to the input.
        generator: what the masks' seeds are drawn from; None for torch's own.
        packed_mask: keep one bit an element for backward instead of drawing the mask again.

    Raises:
        ValueError: for a p that is not from 0 to 1.
    """

    packed_mask: bool = False

    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        generator: torch.Generator | None = None,
        packed_mask: bool = False,
    ) -> None:
        super().__init__(p, inplace, generator=generator)
        self.packed_mask = packed_mask

    def forward(self, input: Tensor) -> Tensor:
        """Dropout of the input in training mode, else the input."""
        if is_scripting():
            return F.dropout(input, self.p, self.training, self.inplace)
        return functional.dropout(
            input,
            self.p,
            self.training,
            self.inplace,
            generator=self.generator,
            packed_mask=self.packed_mask,
        )

    def extra_repr(self) -> str:
        return super().extra_repr() + (", packed_mask=True" if self.packed_mask else "")


class Dropout1d(_Drawing, nn.Dropout1d):
    """Zero whole channels of (N, C, L) or (C, L) with probability p, and scale the others.

    :func:`fastopt.nn.functional.dropout1d` of the input. Tompson et al. 2015.

    Args:
        p: the probability that a channel is zeroed.
        inplace: write to the input.
        generator: what the masks' seeds are drawn from; None for torch's own.

    Raises:
        ValueError: for a p that is not from 0 to 1.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Dropout of the input's channels in training mode, else the input."""
        if is_scripting():
            return F.dropout1d(input, self.p, self.training, self.inplace)
        return functional.dropout1d(
            input, self.p, self.training, self.inplace, generator=self.generator
        )


class Dropout2d(_Drawing, nn.Dropout2d):
    """Zero whole channels of (N, C, H, W) with probability p, and scale the others.

    :func:`fastopt.nn.functional.dropout2d` of the input. Tompson et al. 2015.

    Args:
        p: the probability that a channel is zeroed.
        inplace: write to the input.
        generator: what the masks' seeds are drawn from; None for torch's own.

    Raises:
        ValueError: for a p that is not from 0 to 1.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Dropout of the input's channels in training mode, else the input."""
        if is_scripting():
            return F.dropout2d(input, self.p, self.training, self.inplace)
        return functional.dropout2d(
            input, self.p, self.training, self.inplace, generator=self.generator
        )


class Dropout3d(_Drawing, nn.Dropout3d):
    """Zero whole channels of (N, C, D, H, W) or (C, D, H, W) with probability p, scale the others.

    :func:`fastopt.nn.functional.dropout3d` of the input. Tompson et al. 2015.

    Args:
        p: the probability that a channel is zeroed.
        inplace: write to the input.
        generator: what the masks' seeds are drawn from; None for torch's own.

    Raises:
        ValueError: for a p that is not from 0 to 1.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Dropout of the input's channels in training mode, else the input."""
        if is_scripting():
            return F.dropout3d(input, self.p, self.training, self.inplace)
        return functional.dropout3d(
            input, self.p, self.training, self.inplace, generator=self.generator
        )


class AlphaDropout(_Drawing, nn.AlphaDropout):
    """Set elements to SELU's saturation with probability p, keeping mean 0 and variance 1.

    :func:`fastopt.nn.functional.alpha_dropout` of the input. Klambauer et al. 2017.

    Args:
        p: the probability that an element is dropped.
        inplace: without effect, as in torch.
        generator: what the masks' seeds are drawn from; None for torch's own.

    Raises:
        ValueError: for a p that is not from 0 to 1.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Alpha dropout of the input in training mode, else the input."""
        if is_scripting():
            return F.alpha_dropout(input, self.p, self.training)
        return functional.alpha_dropout(input, self.p, self.training, generator=self.generator)


class StochasticDepth(_Generating):
    """Zero whole samples, or the whole batch, with probability p, and scale the others.

    :func:`fastopt.nn.functional.stochastic_depth` of the input, as torchvision.ops.StochasticDepth,
    also called DropPath. Huang et al. 2016.

    Args:
        p: the probability of dropping.
        mode: "row" for samples, "batch" for the batch as one.
        generator: what the masks' seeds are drawn from; None for torch's own.

    Raises:
        ValueError: for a p that is not from 0 to 1, or another mode.
    """

    p: float
    mode: str

    def __init__(
        self, p: float, mode: str = "row", *, generator: torch.Generator | None = None
    ) -> None:
        functional.stochastic_depth(torch.empty(0, device="meta"), p, mode, False)  # checks them
        super().__init__()
        self.p = p
        self.mode = mode
        self.generator = generator

    def forward(self, input: Tensor) -> Tensor:
        """Stochastic depth of the input in training mode, else the input."""
        if is_scripting():
            return _torchs.scripted_depth(input, self.p, self.mode, self.training)
        return functional.stochastic_depth(
            input, self.p, self.mode, self.training, generator=self.generator
        )

    def extra_repr(self) -> str:
        return f"p={self.p}, mode={self.mode}" + super().extra_repr()


DropPath = StochasticDepth


class BiasDropoutAdd(_Generating):
    """residual + dropout of (x + bias), in one pass.

    :func:`fastopt.nn.functional.bias_dropout_add` of its inputs; the bias is then left out of the
    linear layer before it.

    Args:
        p: the probability that an element of x + bias is zeroed.
        generator: what the masks' seeds are drawn from; None for torch's own.

    Raises:
        ValueError: for a p that is not from 0 to 1.
    """

    p: float

    def __init__(self, p: float = 0.5, *, generator: torch.Generator | None = None) -> None:
        check_probability(p)
        super().__init__()
        self.p = p
        self.generator = generator

    def forward(self, x: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        """residual + (x + bias), with dropout of the latter in training mode."""
        if is_scripting():
            y = F.dropout(x if bias is None else x + bias, self.p, self.training)
            return y if residual is None else residual + y
        return functional.bias_dropout_add(
            x, bias, residual, self.p, self.training, generator=self.generator
        )

    def extra_repr(self) -> str:
        return f"p={self.p}" + super().extra_repr()
