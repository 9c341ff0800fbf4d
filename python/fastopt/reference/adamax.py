"""Adamax: Adam with a decaying maximum of the gradients' magnitude in the place of the root.

Kingma & Ba 2015, Adam: a method for stochastic optimization, arXiv:1412.6980: algorithm 2.
"""

import numpy as np

from ._common import (
    Array,
    check_arrays,
    check_betas,
    check_numbers,
    check_step,
    gradient,
    maximum,
    new_arrays,
    power,
)
from .storage import stored


@stored
@np.errstate(all="ignore")
def adamax(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_inf: Array,
    *,
    step: int = 1,
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> tuple[Array, ...]:
    """One step of Adamax.

    With x = param, m = exp_avg, u = exp_inf, α = lr, (β₁, β₂) = betas, ε = eps, at step t:

        m' = β₁ m + (1 − β₁) g
        u' = max(β₂ u, |g| + ε)
        x' = x − α / (1 − β₁ᵗ) · m' / u'

    The maximum with a NaN is NaN, as in torch, whose ε the paper does not have.

    Args:
        param, grad: arrays of one shape, float64 or stored as :mod:`fastopt.reference` says.
        exp_avg, exp_inf: m and u, like param; zeros before step 1.
        step: number of this step, t, from 1.
        lr, eps, weight_decay: >= 0.
        betas: a pair of numbers in [0, 1).

    Returns:
        (param, exp_avg, exp_inf), as new arrays.
    """
    step = check_step(step)
    lr, eps, weight_decay = check_numbers(lr=lr, eps=eps, weight_decay=weight_decay)
    beta1, beta2 = check_betas(betas)
    check_arrays(param, grad=grad, exp_avg=exp_avg, exp_inf=exp_inf)

    T = param.dtype.type
    step_size = lr / (1 - power(beta1, step))

    g = gradient(param, grad, weight_decay, maximize)
    exp_avg = T(beta1) * exp_avg + T(1 - beta1) * g
    exp_inf = maximum(T(beta2) * exp_inf, np.abs(g) + T(eps))
    param = param - T(step_size) * (exp_avg / exp_inf)
    return new_arrays(param, exp_avg, exp_inf)
