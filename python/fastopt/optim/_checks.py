"""The checks of optimizers that torch lacks, in the words of torch's own."""

from __future__ import annotations

from torch import Tensor


def check_options(
    lr: float | Tensor,
    betas: tuple[float | Tensor, float | Tensor],
    **non_negative: float,
) -> None:
    """ValueError for the first option that is out of range."""
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    if not lr >= 0:
        raise ValueError(f"Invalid learning rate: {lr}; expected >= 0")
    for index, beta in enumerate(betas):
        if not 0 <= beta < 1:
            raise ValueError(f"Invalid beta parameter at index {index}: {beta}; expected 0 <= beta < 1")
    for name, value in non_negative.items():
        if not value >= 0:
            raise ValueError(f"Invalid {name} value: {value}; expected >= 0")
