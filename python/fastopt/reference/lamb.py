"""LAMB: Adam's step for each tensor, as long as the tensor itself times the rate.

You et al. 2020, Large batch optimization for deep learning: training BERT in 76 minutes,
arXiv:1904.00962: algorithm 2, with the identity for the paper's φ.
"""

import math
from collections.abc import Callable

import numpy as np

from ._common import Array, check_arrays, check_betas, check_numbers, check_step, new_arrays, power
from .storage import stored
from .tail import tensor_norm


def unrounded(name: str, x: Array) -> Array:
    """What a state reads as that is stored in what it is computed in."""
    return x


@stored
@np.errstate(all="ignore")
def lamb(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    *,
    step: int = 1,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 0.01,
    bias_correction: bool = True,
    maximize: bool = False,
    always_adapt: bool = False,
    as_stored: Callable[[str, Array], Array] = unrounded,
) -> tuple[Array, ...]:
    """One step of LAMB.

    With x = param, m = exp_avg, v = exp_avg_sq, α = lr, (β₁, β₂) = betas, ε = eps, λ = weight_decay,
    at step t:

        m' = β₁ m + (1 − β₁) g         c₁ = 1 − β₁ᵗ
        v' = β₂ v + (1 − β₂) g²        c₂ = 1 − β₂ᵗ
        u  = (m'/c₁) / (√(v'/c₂) + ε) + λ x
        x' = x − α ‖x‖/‖u‖ u

    g is without weight_decay. The ratio of the norms is 1 for λ = 0, unless always_adapt is set, so
    that what goes without decay (biases, the weights of normalizations) has Adam's steps: by the
    ratio, a bias that begins at 0 would hardly move. It is 1 where either of them is 0, and NaN where
    an element is: one NaN is then in all of x'. The corrections are folded into two scalars, as Adam's
    are:

        u  = (√c₂/c₁) m' / (√v' + ε √c₂) + λ x

    The squares of x and u are summed up in double, by the tree of `grad_norm` and in the order in
    which x lies in memory; their roots, the ratio and its product with α are in double, too, and that
    product is rounded once. m' and v' in u are the states as they are stored: rounded, where that is
    in 16 bits.

    Args:
        param, grad: arrays of one shape, float64 or stored as :mod:`fastopt.reference` says: one
            tensor, whose norm is taken.
        exp_avg, exp_avg_sq: m and v, like param; zeros before step 1.
        step: number of this step, t, from 1.
        lr, eps, weight_decay: >= 0.
        betas: a pair of numbers in [0, 1).
        bias_correction: without it, c₁ = c₂ = 1.
        always_adapt: take the ratio for λ = 0, too, as the paper's algorithm does.
        as_stored: what a state, by its name, reads as once these numbers have been stored in it; by
            default what its array's dtype makes of them.

    Returns:
        (param, exp_avg, exp_avg_sq), as new arrays.
    """
    step = check_step(step)
    lr, eps, weight_decay = check_numbers(lr=lr, eps=eps, weight_decay=weight_decay)
    beta1, beta2 = check_betas(betas)
    check_arrays(param, grad=grad, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)

    T = param.dtype.type
    c1 = 1 - power(beta1, step) if bias_correction else 1.0
    c2 = 1 - power(beta2, step) if bias_correction else 1.0
    root = math.sqrt(c2)

    g = -grad if maximize else grad
    exp_avg = as_stored("exp_avg", T(beta1) * exp_avg + T(1 - beta1) * g)
    exp_avg_sq = as_stored("exp_avg_sq", T(beta2) * exp_avg_sq + T(1 - beta2) * (g * g))
    u = T(root / c1) * (exp_avg / (np.sqrt(exp_avg_sq) + T(eps * root)))
    if weight_decay != 0:
        u = u + T(weight_decay) * param
    norms = tensor_norm(param, param), tensor_norm(u, param)
    adapts = weight_decay != 0 or always_adapt
    ratio = norms[0] / norms[1] if adapts and all(norms) else 1.0
    param = param - T(lr * ratio) * u
    return new_arrays(param, exp_avg, exp_avg_sq)
