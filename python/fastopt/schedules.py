"""Learning-rate decay that torch.optim.lr_scheduler lacks.

    scheduler = fastopt.schedules.InverseTimeLR(optimizer, decay=0.01)

Step decay is torch's ``StepLR``, exponential decay α₀ e^(−kt) its ``ExponentialLR`` with a gamma of
e^(−k), warm-up its ``LinearLR`` joined on by ``SequentialLR``; all of them drive fastopt's optimizers.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["InverseTimeLR"]


class InverseTimeLR(LRScheduler):
    """1/t decay: after t calls of ``step()`` the rate of a group is α₀ / (1 + k t).

    Such rates fall slowly enough that their sum grows without bound, and fast enough that the sum of
    their squares does not: what Robbins & Monro 1951, A stochastic approximation method, ask of rates
    for noisy steps to converge. Bottou 2012, Stochastic gradient descent tricks, section 5.2, takes
    this form.

    A call multiplies the rate as it stands by (1 + k (t − 1)) / (1 + k t), so other schedulers may
    change it as well; joined on by ``SequentialLR`` it starts with α₀ at its milestone.

    Args:
        optimizer: whose groups' ``lr`` it sets. α₀ is a group's ``initial_lr``, or its ``lr``.
        decay: k >= 0, per call of ``step()``: after 1 / k calls the rate is half of α₀.
        last_epoch: the number of the last call, to go on from; −1 to start.

    Raises:
        TypeError: for an ``optimizer`` that is none.
        ValueError: for a ``decay`` that is negative, infinite or NaN.
    """

    def __init__(self, optimizer: Optimizer, decay: float, last_epoch: int = -1) -> None:
        if not (decay >= 0 and math.isfinite(decay)):
            raise ValueError(f"decay: expected a finite number >= 0, got {decay}")
        self.decay = decay
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """The rates of the groups at ``last_epoch``, from those before it; ``step()`` calls this."""
        factor = self._divisor(self.last_epoch - 1) / self._divisor(self.last_epoch)
        if self._is_initial:  # a rate that was loaded with its optimizer stays as it is
            factor = 1.0
        return [group["lr"] * factor for group in self.optimizer.param_groups]

    def _get_closed_form_lr(self) -> list[float | Tensor]:
        """The rates at ``last_epoch`` whatever came before; SequentialLR asks for them."""
        return [rate / self._divisor(self.last_epoch) for rate in self.base_lrs]

    def _divisor(self, calls: int) -> float:
        return 1 + self.decay * calls
