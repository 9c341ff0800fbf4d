"""Central differences beside the gradient that autograd gives, element by element, in float64.

Three things besides a wrong backward keep the two apart, and each is told from it.

Rounding. A loss is known to some last bits, and a difference over 2h turns these into an error of
    about noise / h. The noise is measured: the spread of the loss when its arguments move by a last
    bit (as stochastic arithmetic does: Vignes 1993). Where it hides the gradient there is no verdict.
Curvature. The error of a central difference is h² f''' / 6: with h = 1e-5 far below the tolerance.
Kinks. Where ReLU or max turns within h, the difference mixes two slopes. An element that disagrees is
    measured again with h / 10 and h / 100: a kink that is farther than that is out of the way. If the
    slopes on the two sides still differ, the kink lies at the point itself, where any number between
    them would do: the element is left out, and counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

EPSILON = torch.finfo(torch.float64).eps
SAFETY = 4  # between the measured noise and what is called rounding
TRIALS = 8  # evaluations that measure it
SHRINK = (10, 100)  # from a step to those that look for kinks

Loss = Callable[[], Tensor]


class Compared(NamedTuple):
    """Both gradients of a tensor, at the elements that were compared."""

    analytic: Tensor
    numeric: Tensor
    noise: float  # the norm of the error that rounding may have made in `numeric`
    kinks: int  # elements left out

    @property
    def size(self) -> float:
        """‖d̃‖ + ‖d‖."""
        return float(self.numeric.norm() + self.analytic.norm())

    @property
    def ratio(self) -> float:
        """‖d̃ − d‖ / (‖d̃‖ + ‖d‖); 0 where both are 0."""
        return float((self.numeric - self.analytic).norm()) / self.size if self.size else 0.0

    @property
    def rounding(self) -> float:
        """The ratio that rounding can make by itself, at most 1."""
        return min(1.0, self.noise / self.size) if self.size else 0.0

    def is_wrong(self, tolerance: float) -> bool:
        """Whether the ratio is above the tolerance, and not by rounding; NaN is wrong, too."""
        return not self.ratio <= max(tolerance, self.rounding)


class Slopes(NamedTuple):
    """What three evaluations say of one element."""

    central: float
    bend: float  # by how much the slopes on the two sides differ
    noise: float  # of either


class Settings(NamedTuple):
    """How to compare."""

    elements: int | None  # of each tensor, at most: drawn, but the largest is always among them
    step: float
    tolerance: float
    seed: int


def compare(loss: Loss, tensors: dict[str, Tensor], settings: Settings) -> dict[str, Compared]:
    """Both gradients of ``loss()``, a float64 scalar, with respect to each of some leaf tensors."""
    generator = torch.Generator().manual_seed(settings.seed)
    value = loss()
    found: tuple[Tensor | None, ...] = (None,) * len(tensors)
    if value.requires_grad:
        found = torch.autograd.grad(value, [*tensors.values()], allow_unused=True)
    with torch.no_grad():
        gradients = [
            torch.zeros(it.numel()) if grad is None else grad.to_dense().reshape(-1).cpu()
            for it, grad in zip(tensors.values(), found, strict=True)
        ]
        noise = _noise(loss, value.item(), [*tensors.values()], generator)
        measure = _Measure(loss, value.item(), noise)
        return {
            name: _compare_one(
                measure, tensor, gradient, _choose(gradient, settings.elements, generator), settings
            )
            for (name, tensor), gradient in zip(tensors.items(), gradients, strict=True)
        }


def _choose(gradient: Tensor, elements: int | None, generator: torch.Generator) -> Tensor:
    """The places to look at in a flat gradient."""
    count = gradient.numel()
    if elements is None or count <= elements:
        return torch.arange(count)
    chosen = torch.randperm(count, generator=generator)[:elements]
    largest = gradient.abs().argmax()
    if not (chosen == largest).any():
        chosen[0] = largest
    return chosen


def _noise(loss: Loss, value: float, tensors: list[Tensor], generator: torch.Generator) -> float:
    """By how much the loss varies with the last bits of its arguments."""
    before = [tensor.detach().clone() for tensor in tensors]
    largest = EPSILON * abs(value)
    for _ in range(TRIALS):
        for tensor, old in zip(tensors, before, strict=True):
            bits = torch.randint(-1, 2, old.shape, generator=generator).to(old.device)
            tensor.copy_(old * (1 + EPSILON * bits))
        largest = max(largest, abs(loss().item() - value))
    for tensor, old in zip(tensors, before, strict=True):
        tensor.copy_(old)
    return SAFETY * largest


class _Measure:
    """Differences of a loss around the point where it has ``value``, known to ``noise``."""

    def __init__(self, loss: Loss, value: float, noise: float) -> None:
        self.loss, self.value, self.noise = loss, value, noise

    def slopes(self, tensor: Tensor, place: tuple[np.intp, ...], step: float) -> Slopes:
        """Move one element up and down by a step and put it back."""
        old = tensor[place].item()
        step *= max(1.0, abs(old))
        ends = []
        for moved in (old + step, old - step):
            tensor[place] = moved
            ends.append((moved - old, self.loss().item() - self.value))
        tensor[place] = old
        (ahead, rise), (behind, fall) = ends  # with the steps that were really made
        return Slopes(
            central=(rise - fall) / (ahead - behind),
            bend=abs(rise / ahead - fall / behind),
            noise=self.noise / step,
        )


def _compare_one(
    measure: _Measure, tensor: Tensor, gradient: Tensor, chosen: Tensor, settings: Settings
) -> Compared:
    leaf, analytic, step = tensor.detach(), gradient[chosen].double(), settings.step
    numeric, noises, kept = [], [], []
    for index, expected in zip(chosen.tolist(), analytic.tolist(), strict=True):
        place = np.unravel_index(index, leaf.shape)
        wide = measure.slopes(leaf, place, step)
        found: Slopes | None = wide
        allowed = settings.tolerance * (abs(wide.central) + abs(expected)) + wide.noise
        if not abs(wide.central - expected) <= allowed:
            narrower = [measure.slopes(leaf, place, step / shrink) for shrink in SHRINK]
            found = _beside_kinks(wide, narrower)
        kept.append(found is not None)
        if found is not None:
            numeric.append(found.central)
            noises.append(found.noise)
    mask = torch.tensor(kept, dtype=torch.bool)
    return Compared(
        analytic[mask],
        torch.tensor(numeric, dtype=torch.float64),
        math.hypot(*noises),
        kinks=len(kept) - len(numeric),
    )


def _beside_kinks(wide: Slopes, narrower: Sequence[Slopes]) -> Slopes | None:
    """The slopes over a step without a kink; None if there is one at the point itself."""
    narrowest = narrower[-1]
    if narrowest.bend > wide.bend / 10 and narrowest.bend > 4 * narrowest.noise:
        return None  # on a smooth function the slopes differ in proportion to the step
    best = wide
    for narrow in narrower:
        if abs(best.central - narrow.central) > narrow.noise:  # something turns in between
            best = narrow
    return best
