"""RMSProp: the gradient over the root of a running average of its square.

Tieleman & Hinton 2012, Neural networks for machine learning (Coursera), lecture 6e.
Graves 2013, Generating sequences with recurrent neural networks, arXiv:1308.0850: equations 38 to
41, the centered form, with momentum and with eps inside the root.
"""

import numpy as np

from ._common import Array, check_arrays, check_numbers, check_step, gradient, new_arrays
from .storage import stored


@stored
@np.errstate(all="ignore")
def rmsprop(
    param: Array,
    grad: Array,
    square_avg: Array,
    grad_avg: Array | None = None,
    momentum_buffer: Array | None = None,
    *,
    step: int = 1,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
    maximize: bool = False,
    eps_inside_sqrt: bool = False,
) -> tuple[Array, ...]:
    """One step of RMSProp.

    With x = param, s = square_avg, m = grad_avg, v = momentum_buffer, ρ = alpha, α = lr, ε = eps,
    γ = momentum:

        s' = ρ s + (1 − ρ) g²        d = √s' + ε    or, with eps_inside_sqrt, √(s' + ε)
        x' = x − α g / d             or, with momentum, v' = γ v + g / d    x' = x − α v'

    centered puts the variance s' − m'² in the place of s' in d, where m' = ρ m + (1 − ρ) g. It is
    never negative, but rounding can leave it a little below 0; it is then taken as 0.

    Args:
        param, grad: arrays of one shape, float64 or stored as :mod:`fastopt.reference` says.
        square_avg: s, like param; zeros before step 1.
        grad_avg: m, likewise; needed if centered.
        momentum_buffer: v, likewise; needed if momentum is not 0.
        step: number of this step, from 1; the rule does not depend on it.
        lr, alpha, eps, weight_decay, momentum: >= 0.

    Returns:
        (param, square_avg), then grad_avg and momentum_buffer if they were given, as new arrays.
    """
    check_step(step)
    lr, alpha, eps, weight_decay, momentum = check_numbers(
        lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum
    )
    check_arrays(param, grad=grad, square_avg=square_avg)
    check_arrays(param, grad_avg=grad_avg, needed=centered)
    check_arrays(param, momentum_buffer=momentum_buffer, needed=momentum != 0)

    T = param.dtype.type

    g = gradient(param, grad, weight_decay, maximize)
    square_avg = T(alpha) * square_avg + T(1 - alpha) * (g * g)
    avg = square_avg
    if centered:
        assert grad_avg is not None
        grad_avg = T(alpha) * grad_avg + T(1 - alpha) * g
        avg = square_avg - grad_avg * grad_avg
        avg = np.where(avg < 0, T(0), avg)  # NaN is not below 0, and stays
    denom = np.sqrt(avg + T(eps)) if eps_inside_sqrt else np.sqrt(avg) + T(eps)
    if momentum != 0:
        assert momentum_buffer is not None
        momentum_buffer = T(momentum) * momentum_buffer + g / denom
        param = param - T(lr) * momentum_buffer
    else:
        param = param - T(lr) * (g / denom)
    return new_arrays(param, square_avg, grad_avg, momentum_buffer)
