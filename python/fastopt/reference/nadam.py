"""NAdam: Adam with Nesterov's look-ahead in the first moment, and a momentum that warms up.

Dozat 2016, Incorporating Nesterov momentum into Adam, ICLR workshop: algorithm 2, with torch's
schedule of the momentum.
"""

import math

import numpy as np

from ._common import (
    Array,
    check_arrays,
    check_betas,
    check_numbers,
    check_step,
    exponential,
    gradient,
    new_arrays,
    power,
)
from .storage import stored

LOG = -0.040821994520255166  # of 0.96, which the schedule decays by


@stored
@np.errstate(all="ignore")
def nadam(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    *,
    step: int = 1,
    mu_product: float = 0.0,
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum_decay: float = 4e-3,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
) -> tuple[Array, ...]:
    """One step of NAdam.

    With x = param, m = exp_avg, v = exp_avg_sq, α = lr, (β₁, β₂) = betas, ε = eps,
    ψ = momentum_decay, at step t:

        μₜ = β₁ (1 − ½ 0.96^(t ψ))     Πₜ = μ₁ ⋯ μₜ     c₂ = 1 − β₂ᵗ
        m' = β₁ m + (1 − β₁) g
        v' = β₂ v + (1 − β₂) g²
        x' = x − α ( (1 − μₜ)/(1 − Πₜ) · g + μₜ₊₁/(1 − Πₜ₊₁) · m' ) / (√(v'/c₂) + ε)

    It is computed with the corrections folded into three scalars, as Adam's are:

        x' = x − (a g + b m') / (√v' + ε √c₂)
        a  = α (1 − μₜ)/(1 − Πₜ) √c₂        b  = α μₜ₊₁/(1 − Πₜ₊₁) √c₂

    decoupled_weight_decay keeps λ = weight_decay out of g and shrinks x by the factor 1 − α λ first.

    Args:
        param, grad: arrays of one shape, float64 or stored as :mod:`fastopt.reference` says.
        exp_avg, exp_avg_sq: m and v, like param; zeros before step 1.
        step: number of this step, t, from 1.
        mu_product: Πₜ, the product of `nadam_mu` of every step up to this one, in [0, 1); its limit,
            0, corrects nothing.
        lr, eps, weight_decay, momentum_decay: >= 0.
        betas: a pair of numbers in [0, 1).

    Returns:
        (param, exp_avg, exp_avg_sq), as new arrays.
    """
    step = check_step(step)
    lr, eps, weight_decay, momentum_decay = check_numbers(
        lr=lr, eps=eps, weight_decay=weight_decay, momentum_decay=momentum_decay
    )
    (mu_product,) = check_numbers("in [0, 1)", mu_product=mu_product)
    beta1, beta2 = check_betas(betas)
    check_arrays(param, grad=grad, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)

    T = param.dtype.type
    mu = nadam_mu(step, beta1, momentum_decay)
    next_mu = nadam_mu(step + 1, beta1, momentum_decay)
    root = math.sqrt(1 - power(beta2, step))
    of_grad = lr * (1 - mu) / (1 - mu_product) * root
    of_avg = lr * next_mu / (1 - mu_product * next_mu) * root

    g = gradient(param, grad, 0.0 if decoupled_weight_decay else weight_decay, maximize)
    if decoupled_weight_decay and weight_decay != 0:
        param = param * T(1 - lr * weight_decay)
    exp_avg = T(beta1) * exp_avg + T(1 - beta1) * g
    exp_avg_sq = T(beta2) * exp_avg_sq + T(1 - beta2) * (g * g)
    update = T(of_grad) * g + T(of_avg) * exp_avg
    param = param - update / (np.sqrt(exp_avg_sq) + T(eps * root))
    return new_arrays(param, exp_avg, exp_avg_sq)


def nadam_mu(step: int, beta1: float, momentum_decay: float) -> float:
    """μ of a step: β₁ (1 − ½ 0.96^(step momentum_decay))."""
    return beta1 * (1 - 0.5 * exponential(float(step) * momentum_decay * LOG))
