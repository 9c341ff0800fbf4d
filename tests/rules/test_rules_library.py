"""Each rule of the library against an independent plain version, in float64, over 200 steps."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fastopt import optim
from fastopt.optim import AdEMAMix
from fastopt.rules import Rule, library

Arrays = Any
STEPS = 200


class Adam:
    """What several of them share."""

    def __init__(self, p: Arrays, **options: Any) -> None:
        self.p, self.m, self.v, self.t = p.copy(), np.zeros_like(p), np.zeros_like(p), 0
        self.last: Any = None
        self.options = options
        self.__dict__.update(options)

    def average(self, g: Arrays, b1: float, b2: float) -> None:
        self.m += (1 - b1) * (g - self.m)
        self.v += (1 - b2) * (g**2 - self.v)

    def step(self, g: Arrays) -> None:
        self.t += 1
        self.update(g, *self.options.get("betas", ()))

    def update(self, g: Arrays, *betas: float) -> None:
        raise NotImplementedError

    def corrected(self, b1: float, b2: float) -> tuple[Arrays, Arrays]:
        return self.m / (1 - b1**self.t), self.v / (1 - b2**self.t)


class AdamW(Adam):
    def update(self, g: Arrays, *betas: float) -> None:
        self.average(g, *betas)
        m, v = self.corrected(*betas)
        self.p *= 1 - self.lr * self.weight_decay
        self.p -= self.lr * m / (np.sqrt(v) + self.eps)


class Adopt(Adam):
    def update(self, g: Arrays, *betas: float) -> None:
        if self.weight_decay and not self.decouple:
            g = g + self.weight_decay * self.p
        if self.t == 1:
            self.v = g**2
            return
        if self.weight_decay and self.decouple:
            self.p *= 1 - self.lr * self.weight_decay
        bound = (self.t - 1) ** 0.25
        n = np.clip(g / np.maximum(np.sqrt(self.v), self.eps), -bound, bound)
        self.m += (1 - betas[0]) * (n - self.m)
        self.p -= self.lr * self.m
        self.v = betas[1] * self.v + (1 - betas[1]) * g**2


class Ademamix(Adam):
    def update(self, g: Arrays, *betas: float) -> None:
        b1, b2, b3 = betas
        alpha, t = self.alpha, self.t
        if self.alpha_warmup and t < self.alpha_warmup:
            alpha = alpha * t / self.alpha_warmup
        if self.beta3_warmup and t < self.beta3_warmup:

            def f(b: float) -> float:
                return math.log(0.5) / math.log(b + 1e-8) - 1

            share = t / self.beta3_warmup
            b3 = 0.5 ** (1 / ((1 - share) * f(b1) + share * f(b3) + 1))
        self.slow = getattr(self, "slow", 0) * b3 + (1 - b3) * g
        self.average(g, b1, b2)
        m, v = self.corrected(b1, b2)
        u = (m + alpha * self.slow) / (np.sqrt(v) + self.eps) + self.weight_decay * self.p
        self.p -= self.lr * u


class Adan(Adam):
    def update(self, g: Arrays, *betas: float) -> None:
        b1, b2, b3 = betas
        difference = 0 if self.last is None else g - self.last
        self.d = getattr(self, "d", 0) * b2 + (1 - b2) * difference
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b3 * self.v + (1 - b3) * (g + b2 * difference) ** 2
        c1, c2, c3 = (1 - b**self.t for b in betas)
        denominator = np.sqrt(self.v / c3) + self.eps
        self.p -= self.lr * (self.m / c1 + b2 * self.d / c2) / denominator
        self.p /= 1 + self.lr * self.weight_decay
        self.last = g


class Laprop(Adam):
    def update(self, g: Arrays, *betas: float) -> None:
        b1, b2 = betas
        self.v = b2 * self.v + (1 - b2) * g**2
        self.sum = getattr(self, "sum", 0) * b1 + (1 - b1) * self.lr
        self.m = b1 * self.m + self.lr * (1 - b1) * g / (np.sqrt(self.v / (1 - b2**self.t)) + self.eps)
        self.p -= self.m * self.lr / self.sum
        self.p -= self.lr * self.weight_decay * self.p


class Signum(Adam):
    def update(self, g: Arrays, *betas: float) -> None:
        self.m = self.momentum * self.m + (1 - self.momentum) * g
        self.p = self.p - self.lr * self.weight_decay * self.p - self.lr * np.sign(self.m)


class Mars(Adam):
    def update(self, g: Arrays, *betas: float) -> None:
        b1, _ = betas
        change = g if self.last is None else g - self.last
        c = g + self.gamma * b1 / (1 - b1) * change
        c = c / max(1, np.linalg.norm(c))
        self.average(c, *betas)
        m, v = self.corrected(*betas)
        self.p *= 1 - self.lr * self.weight_decay
        self.p -= self.lr * m / (np.sqrt(v) + self.eps)
        self.last = g


class CautiousAdamw(Adam):
    def update(self, g: Arrays, *betas: float) -> None:
        self.average(g, *betas)
        m, v = self.corrected(*betas)
        mask = (self.m * g > 0).astype(float)
        mask /= max(mask.mean(), 1e-3)
        self.p *= 1 - self.lr * self.weight_decay
        self.p -= self.lr * mask * m / (np.sqrt(v) + self.eps)


class CautiousLion(Adam):
    def update(self, g: Arrays, *betas: float) -> None:
        b1, b2 = betas
        c = np.sign(b1 * self.m + (1 - b1) * g)
        mask = (c * g > 0).astype(float)
        self.p *= 1 - self.lr * self.weight_decay
        self.p -= self.lr * c * mask * (mask.size / (mask.sum() + 1))
        self.m = b2 * self.m + (1 - b2) * g


class StableAdamw(Adam):
    def update(self, g: Arrays, *betas: float) -> None:
        b1, b2 = (b * (1 - b ** (self.t - 1)) / (1 - b**self.t) for b in betas)
        self.average(g, b1, b2)
        rms = np.sqrt(np.mean(g**2 / np.maximum(self.v, self.eps**2)))
        lr = self.lr / max(1, rms)
        self.p *= 1 - lr * self.weight_decay
        self.p -= lr * self.m / (np.sqrt(self.v) + self.eps)


class Adabelief(Adam):
    def update(self, g: Arrays, *betas: float) -> None:
        b1, b2 = betas
        self.m += (1 - b1) * (g - self.m)
        self.v = b2 * self.v + (1 - b2) * (g - self.m) ** 2 + self.eps
        m, s = self.corrected(*betas)
        self.p *= 1 - self.lr * self.weight_decay
        self.p -= self.lr * m / (np.sqrt(s) + self.eps)


class Yogi(Adam):
    def update(self, g: Arrays, *betas: float) -> None:
        b1, b2 = betas
        if self.t == 1:
            self.m += 1e-6
            self.v += 1e-6
        self.m += (1 - b1) * (g - self.m)
        self.v -= (1 - b2) * np.sign(self.v - g**2) * g**2
        m, v = self.corrected(*betas)
        self.p *= 1 - self.lr * self.weight_decay
        self.p -= self.lr * m / (np.sqrt(v) + self.eps)


class ScheduleFree(Adam):
    """y in the parameter's place, from x and z as the paper has them."""

    def update(self, g: Arrays, *betas: float) -> None:
        b1 = betas[0] if betas else self.momentum
        if self.t == 1:
            self.x, self.z, self.sum, self.largest = self.p.copy(), self.p.copy(), 0.0, 0.0
        lr = self.lr * min(1, self.t / self.warmup_steps) if self.warmup_steps else self.lr
        self.largest = max(self.largest, lr)
        weight = self.t**self.r * self.largest**self.weight_lr_power
        self.sum += weight
        c = weight / self.sum
        if betas:
            self.v = betas[1] * self.v + (1 - betas[1]) * g**2
            g = g / (np.sqrt(self.v / (1 - betas[1] ** self.t)) + self.eps)
        self.z = self.z - lr * (g + self.weight_decay * self.p)
        self.x = (1 - c) * self.x + c * self.z
        self.p = (1 - b1) * self.z + b1 * self.x


CASES: list[tuple[Rule, type[Adam], dict[str, Any]]] = [
    (library.adamw, AdamW, {}),
    (library.adopt, Adopt, {"weight_decay": 0.1}),
    (library.adopt, Adopt, {"weight_decay": 0.1, "decouple": True, "lr": 1e-2}),
    (library.ademamix, Ademamix, {"alpha": 5.0, "weight_decay": 0.1}),
    (library.ademamix, Ademamix, {"alpha_warmup": 150, "beta3_warmup": 120.0}),
    (library.adan, Adan, {"weight_decay": 0.02}),
    (library.laprop, Laprop, {"weight_decay": 0.1}),
    (library.signum, Signum, {"weight_decay": 0.1}),
    (library.mars, Mars, {"weight_decay": 0.1}),
    (library.cautious_adamw, CautiousAdamw, {"weight_decay": 0.1}),
    (library.cautious_lion, CautiousLion, {"weight_decay": 0.1}),
    (library.stable_adamw, StableAdamw, {"weight_decay": 0.1}),
    (library.adabelief, Adabelief, {"weight_decay": 0.1}),
    (library.yogi, Yogi, {"weight_decay": 0.1}),
    (library.schedule_free_adamw, ScheduleFree, {"weight_decay": 0.1, "warmup_steps": 20}),
    (library.schedule_free_adamw, ScheduleFree, {"r": 1.0}),
    (library.schedule_free_sgd, ScheduleFree, {"weight_decay": 0.1, "lr": 0.1}),
]


def optimizer_of(it: Rule) -> Any:
    """The class in fastopt.optim that has this rule."""
    return next(
        kind
        for kind in vars(optim).values()
        if isinstance(kind, type) and getattr(kind, "rule", None) is it
    )


def gradients() -> tuple[Arrays, Callable[[Arrays, np.random.Generator], Arrays]]:
    """A start, and noisy gradients of an ill-conditioned bowl."""
    scales = np.logspace(-2, 1, 60).reshape(6, 10)
    start = np.random.default_rng(1).standard_normal((6, 10))
    return start, lambda p, rng: scales * p + 0.3 * rng.standard_normal(p.shape)


@pytest.mark.parametrize(
    ("it", "plain", "options"), CASES, ids=[f"{it.__name__} {options}" for it, _, options in CASES]
)
def test_a_rule_agrees_with_its_equations(it: Rule, plain: type[Adam], options: dict[str, Any]) -> None:
    start, grad = gradients()
    defaults = {option.name: option.default for option in it.options}
    want = plain(start, **defaults | options)
    param = torch.nn.Parameter(torch.from_numpy(start.copy()))
    kind = optim.AdamW if it is library.adamw else optimizer_of(it)
    optimizer = kind([param], **options)
    rng = np.random.default_rng(0)
    moved = 0.0
    for _ in range(STEPS):
        # The same noise for both, at the plain version's place: their distance does not feed back.
        g = grad(want.p, rng)
        param.grad = torch.from_numpy(g)
        want.step(g.copy())
        optimizer.step()
        moved = max(moved, float(np.abs(want.p - start).max()))
        np.testing.assert_allclose(param.detach().numpy(), want.p, rtol=1e-10, atol=1e-12)
    assert moved > 0.01


@pytest.mark.parametrize("it", [it for it, *_ in CASES], ids=lambda it: it.__name__)
def test_a_rule_says_where_it_comes_from(it: Rule) -> None:
    assert it.__doc__
    assert ".. math::" in it.__doc__ or ":func:" in it.__doc__


def test_a_classes_options_are_typed_and_documented() -> None:
    assert AdEMAMix.__doc__ is not None
    assert "max_grad_norm" in AdEMAMix.__doc__


def test_a_cautious_step_takes_gradients_whose_squares_no_float_holds() -> None:
    """Average and gradient agree in sign, though their product is 0 in float32."""
    param = torch.zeros(9, requires_grad=True)
    param.grad = torch.full_like(param, -1e-30)
    optim.CautiousAdamW([param], lr=0.5).step()
    want = 0.5 * 1e-30 / 1e-6
    assert np.allclose(param.detach(), want, rtol=1e-5, atol=0)
