"""Adadelta: the gradient in units of the parameter, by the ratio of two running root mean squares.

Zeiler 2012, ADADELTA: an adaptive learning rate method, arXiv:1212.5701: algorithm 1.
"""

import numpy as np

from ._common import Array, check_arrays, check_numbers, check_step, gradient, new_arrays
from .storage import stored


@stored
@np.errstate(all="ignore")
def adadelta(
    param: Array,
    grad: Array,
    square_avg: Array,
    acc_delta: Array,
    *,
    step: int = 1,
    lr: float = 1.0,
    rho: float = 0.9,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> tuple[Array, ...]:
    """One step of Adadelta.

    With x = param, s = square_avg, u = acc_delta, ρ = rho, α = lr, ε = eps:

        s' = ρ s + (1 − ρ) g²
        Δ  = √(u + ε) / √(s' + ε) · g
        u' = ρ u + (1 − ρ) Δ²
        x' = x − α Δ

    The paper has no α, which torch offers.

    Args:
        param, grad: arrays of one shape, float64 or stored as :mod:`fastopt.reference` says.
        square_avg, acc_delta: s and u, like param; zeros before step 1.
        step: number of this step, from 1; the rule does not depend on it.
        lr, eps, weight_decay: >= 0.
        rho: in [0, 1].

    Returns:
        (param, square_avg, acc_delta), as new arrays.
    """
    check_step(step)
    lr, eps, weight_decay = check_numbers(lr=lr, eps=eps, weight_decay=weight_decay)
    (rho,) = check_numbers("in [0, 1]", rho=rho)
    check_arrays(param, grad=grad, square_avg=square_avg, acc_delta=acc_delta)

    T = param.dtype.type
    g = gradient(param, grad, weight_decay, maximize)
    square_avg = T(rho) * square_avg + T(1 - rho) * (g * g)
    delta = np.sqrt(acc_delta + T(eps)) / np.sqrt(square_avg + T(eps)) * g
    acc_delta = T(rho) * acc_delta + T(1 - rho) * (delta * delta)
    param = param - T(lr) * delta
    return new_arrays(param, square_avg, acc_delta)
