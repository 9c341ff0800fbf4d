"""RAdam: Adam whose adaptive rate waits until the variance of that rate can be known, and is scaled.

Liu et al. 2020, On the variance of the adaptive learning rate and beyond, arXiv:1908.03265:
algorithm 2.
"""

import math

import numpy as np

from ._common import (
    Array,
    check_arrays,
    check_betas,
    check_numbers,
    check_step,
    gradient,
    new_arrays,
    power,
)
from .storage import stored


@stored
@np.errstate(all="ignore")
def radam(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    *,
    step: int = 1,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
) -> tuple[Array, ...]:
    """One step of RAdam.

    With x = param, m = exp_avg, v = exp_avg_sq, α = lr, (β₁, β₂) = betas, ε = eps, at step t:

        m' = β₁ m + (1 − β₁) g       c₁ = 1 − β₁ᵗ
        v' = β₂ v + (1 − β₂) g²      c₂ = 1 − β₂ᵗ
        ρ∞ = 2 / (1 − β₂) − 1        ρ = ρ∞ − 2 t β₂ᵗ / c₂
        x' = x − α r √c₂/c₁ · m' / (√v' + ε)    where ρ > 5, and else    x' = x − α/c₁ · m'
        r  = √( (ρ − 4)(ρ − 2) ρ∞ / ((ρ∞ − 4)(ρ∞ − 2) ρ) )

    The paper rectifies from ρ > 4 on and has no ε; this is torch's form. decoupled_weight_decay keeps
    λ = weight_decay out of g and shrinks x by the factor 1 − α λ first.

    Args:
        param, grad: arrays of one shape, float64 or stored as :mod:`fastopt.reference` says.
        exp_avg, exp_avg_sq: m and v, like param; zeros before step 1.
        step: number of this step, t, from 1.
        lr, eps, weight_decay: >= 0.
        betas: a pair of numbers in [0, 1).

    Returns:
        (param, exp_avg, exp_avg_sq), as new arrays.
    """
    step = check_step(step)
    lr, eps, weight_decay = check_numbers(lr=lr, eps=eps, weight_decay=weight_decay)
    beta1, beta2 = check_betas(betas)
    check_arrays(param, grad=grad, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)

    T = param.dtype.type
    step_size = lr / (1 - power(beta1, step))
    rectification = rectified(beta2, step)

    g = gradient(param, grad, 0.0 if decoupled_weight_decay else weight_decay, maximize)
    if decoupled_weight_decay and weight_decay != 0:
        param = param * T(1 - lr * weight_decay)
    exp_avg = T(beta1) * exp_avg + T(1 - beta1) * g
    exp_avg_sq = T(beta2) * exp_avg_sq + T(1 - beta2) * (g * g)
    if rectification > 0:
        param = param - T(step_size * rectification) * (exp_avg / (np.sqrt(exp_avg_sq) + T(eps)))
    else:
        param = param - T(step_size) * exp_avg
    return new_arrays(param, exp_avg, exp_avg_sq)


def rectified(beta2: float, step: int) -> float:
    """r √c₂, or 0 where ρ ≤ 5."""
    decay = power(beta2, step)
    c2 = 1 - decay
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * float(step) * decay / c2
    if not length > 5:
        return 0.0
    r = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return math.sqrt(r) * math.sqrt(c2)
