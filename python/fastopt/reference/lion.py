"""Lion: a step of one size for every element, along the sign of an interpolated momentum.

Chen et al. 2023, Symbolic discovery of optimization algorithms, arXiv:2302.06675: algorithm 2.
"""

import numpy as np

from ._common import (
    Array,
    check_arrays,
    check_betas,
    check_numbers,
    check_step,
    gradient,
    new_arrays,
    shrunk,
)
from .storage import stored


@stored
@np.errstate(all="ignore")
def lion(
    param: Array,
    grad: Array,
    exp_avg: Array,
    *,
    step: int = 1,
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    maximize: bool = False,
    cautious_decay: bool = False,
) -> tuple[Array, ...]:
    """One step of Lion.

    With x = param, m = exp_avg, α = lr, (β₁, β₂) = betas, λ = weight_decay:

        x' = (1 − α λ) x − α sign(β₁ m + (1 − β₁) g)
        m' = β₂ m + (1 − β₂) g

    g is without weight_decay, which shrinks x as in AdamW, with cautious_decay, too. The sign of 0 is
    0 and that of NaN is NaN: a parameter that stood still where its gradient is NaN would hide it.

    Args:
        param, grad: arrays of one shape, float64 or stored as :mod:`fastopt.reference` says.
        exp_avg: m, like param; zeros before step 1.
        step: number of this step, from 1; the rule does not depend on it.
        lr, weight_decay: >= 0.
        betas: a pair of numbers in [0, 1).

    Returns:
        (param, exp_avg), as new arrays.
    """
    check_step(step)
    lr, weight_decay = check_numbers(lr=lr, weight_decay=weight_decay)
    beta1, beta2 = check_betas(betas)
    check_arrays(param, grad=grad, exp_avg=exp_avg)

    T = param.dtype.type
    g = gradient(param, grad, 0.0, maximize)
    c = T(beta1) * exp_avg + T(1 - beta1) * g
    sign = np.where(c > 0, T(1), np.where(c < 0, T(-1), c))
    update = T(lr) * sign
    if weight_decay != 0:
        param = shrunk(param, update, 1 - lr * weight_decay, cautious_decay)
    param = param - update
    exp_avg = T(beta2) * exp_avg + T(1 - beta2) * g
    return new_arrays(param, exp_avg)
