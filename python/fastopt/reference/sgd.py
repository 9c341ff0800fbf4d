"""Stochastic gradient descent: plain, with momentum, Nesterov's momentum or a weighted average.

Robbins & Monro 1951, A stochastic approximation method: the plain rule.
Polyak 1964, Some methods of speeding up the convergence of iteration methods: momentum.
Nesterov 1983, A method of solving a convex programming problem with convergence rate O(1/k²).
Sutskever, Martens, Dahl & Hinton 2013, On the importance of initialization and momentum in deep
learning: equations 1 and 2 (momentum), 3 and 4 (Nesterov's, by looking ahead).
"""

import numpy as np

from ._common import Array, check_arrays, check_numbers, check_step, gradient, new_arrays, power, shrunk
from .storage import stored


@stored
@np.errstate(all="ignore")
def sgd(
    param: Array,
    grad: Array,
    momentum_buffer: Array | None = None,
    *,
    step: int = 1,
    lr: float = 1e-3,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    exponential_average: bool = False,
    bias_correction: bool = False,
    cautious_decay: bool = False,
) -> tuple[Array, ...]:
    """One step of stochastic gradient descent.

    With x = param, v = momentum_buffer, α = lr, γ = momentum, τ = dampening:

        plain (γ = 0)                           x' = x − α g
        momentum             v' = γ v + (1 − τ) g    x' = x − α v'            v' = g at step 1
        nesterov             v' = γ v + g            x' = x − α (g + γ v')    v' = g at step 1
        exponential_average  v' = γ v + (1 − γ) g    x' = x − α v'            v  = 0 before step 1
            and bias_correction                      x' = x − α v' / (1 − γᵗ)   at step t

    Momentum follows torch: v is a sum of gradients, not of moves as in the papers (u = −α v), which
    differs once α changes. Nesterov's gradient is taken at the point looked ahead to, y = x + γ u,
    and y is what is stored as `param`. In terms of the moves, at constant α:

        u' = γ u − α ∇f(x + γ u)    x' = x + u'    ⇔    y' = y + u' + γ (u' − u)

    cautious_decay takes weight_decay out of g and shrinks x by 1 − α λ before the update, where
    both have one sign, as :func:`adam` does.

    After t steps the exponential average is v = (1 − γ) Σᵢ γᵗ⁻ⁱ gᵢ, whose weights sum to 1 − γᵗ:
    the bias that the correction divides out (as Kingma & Ba 2015, section 3, do for Adam).

    Args:
        param, grad: arrays of one shape, float64 or stored as :mod:`fastopt.reference` says.
        momentum_buffer: v, like param; needed if momentum is not 0. At step 1 only
            exponential_average reads it, and expects zeros.
        step: number of this step, from 1.
        lr, momentum, weight_decay: >= 0. dampening: any number.
        nesterov: needs momentum > 0 and dampening 0.
        exponential_average: needs 0 < momentum < 1, dampening 0 and no nesterov.
        bias_correction: needs exponential_average.

    Returns:
        (param,) or (param, momentum_buffer), as new arrays.
    """
    step = check_step(step)
    lr, momentum, weight_decay = check_numbers(lr=lr, momentum=momentum, weight_decay=weight_decay)
    (dampening,) = check_numbers("other than NaN", dampening=dampening)
    if nesterov and not (momentum > 0 and dampening == 0):
        raise ValueError(f"nesterov needs momentum > 0 and dampening 0, not {momentum} and {dampening}")
    if exponential_average and not (0 < momentum < 1 and dampening == 0 and not nesterov):
        raise ValueError(
            "exponential_average needs 0 < momentum < 1, dampening 0 and nesterov False, "
            f"not {momentum}, {dampening} and {nesterov}"
        )
    if bias_correction and not exponential_average:
        raise ValueError("bias_correction needs exponential_average=True, not False")
    check_arrays(param, grad=grad)
    check_arrays(param, momentum_buffer=momentum_buffer, needed=momentum != 0)

    T = param.dtype.type
    rate = lr / (1 - power(momentum, step)) if bias_correction else lr

    g = gradient(param, grad, 0.0 if cautious_decay else weight_decay, maximize)
    if momentum != 0:
        assert momentum_buffer is not None
        if exponential_average:
            momentum_buffer = T(momentum) * momentum_buffer + T(1 - momentum) * g
        elif step == 1:
            momentum_buffer = g
        else:
            momentum_buffer = T(momentum) * momentum_buffer + T(1 - dampening) * g
        g = g + T(momentum) * momentum_buffer if nesterov else momentum_buffer
    update = T(rate) * g
    if cautious_decay and weight_decay != 0:
        param = shrunk(param, update, 1 - lr * weight_decay, cautious=True)
    param = param - update
    return new_arrays(param, momentum_buffer)
