"""A run of an optimizer beside its model in float64."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .compare import doubles, ulp, within
from .subject import Subject, normal

SIZE = 67  # elements
CONDITION = 4.0  # allowed besides: so often what moves when the gradients do by a few roundings


class Course:
    """Two parameters on their way: one set to 0 before each step, one of normal numbers.

    What a step makes of 0 is the step itself, so that each of its digits counts. A late one has the
    first parameter only, and takes no notice of how much the gradients' last digits weigh.
    """

    def __init__(self, subject: Subject, *, late: bool = False, **options: object) -> None:
        self.subject, self.dtype = subject, subject.dtype
        self.params = [subject.parameter((SIZE,), seed) for seed in ((1,) if late else (1, 2))]
        with torch.no_grad():
            self.params[0].zero_()
        self.optimizer = subject.optimizer([{"params": self.params, **subject.only(**options)}])
        # The second and third model have other gradients, by up to 4 roundings.
        self.nudges = (0.0,) if late else (0.0, 1.0, -1.0)
        self.models = [[subject.model(self.optimizer, it) for it in self.params] for _ in self.nudges]
        self.largest = [np.abs(doubles(it)) for it in self.params]
        spread = (-0.3, 0.3) if self.dtype == torch.float16 else (-2.0, 1.0)
        generator = torch.Generator().manual_seed(7)
        exponents = torch.empty(SIZE, dtype=torch.float64).uniform_(*spread, generator=generator)
        self.scale = torch.sign(normal((SIZE,), 8)) * 10.0**exponents

    def gradient(self, number: int) -> Tensor:
        """Each element keeps its sign and about its magnitude, so that averages do not cancel."""
        factor = torch.exp2(torch.sin(1.7 * number + torch.arange(SIZE, dtype=torch.float64)))
        return self.subject.tensor(self.scale * factor)

    def step(self, number: int) -> None:
        """Step number `number`."""
        with torch.no_grad():
            self.params[0].zero_()
        self.largest[0][:] = 0
        for models in self.models:
            models[0].set_to_zero()
        grad = self.gradient(number)
        for param in self.params:
            param.grad = grad.clone()
        self.optimizer.step()
        exact = doubles(grad)
        nudge = 2 * torch.finfo(self.dtype).eps * np.cos(np.arange(SIZE) + number)
        for models, factor in zip(self.models, self.nudges, strict=True):
            for model in models:
                model.step(exact * (1 + factor * nudge), number)
        for largest, model in zip(self.largest, self.models[0], strict=True):
            np.fmax(largest, np.abs(model.param), out=largest)

    def error(self, which: int, allowed: float) -> float:
        """The distance of a parameter from its model in ulp; Failed where it is too large.

        The unit is that of the largest number that an element has been since it was set.
        """
        exact, *others = (models[which].param for models in self.models)
        moved = np.max([np.zeros(SIZE), *(np.abs(it - exact) for it in others)], axis=0)
        with np.errstate(invalid="ignore"):
            bound = allowed + CONDITION * moved / ulp(self.largest[which], self.dtype)
        return within(self.params[which], exact, bound, self.largest[which])
