"""Adam and AdamW: a running average of the gradient over the root of one of its square.

Kingma & Ba 2015, Adam: a method for stochastic optimization, arXiv:1412.6980: algorithm 1, in the
order that the end of section 2 gives.
Reddi, Kale & Kumar 2018, On the convergence of Adam and beyond: algorithm 2, AMSGrad.
Loshchilov & Hutter 2019, Decoupled weight decay regularization, arXiv:1711.05101: algorithm 2.
Chen et al. 2025, Cautious weight decay, arXiv:2510.12402: algorithm 1.
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
    maximum,
    new_arrays,
    power,
    shrunk,
)
from .storage import stored


@stored
@np.errstate(all="ignore")
def adam(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    max_exp_avg_sq: Array | None = None,
    *,
    step: int = 1,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    decoupled_weight_decay: bool = False,
    bias_correction: bool = True,
    eps_inside_sqrt: bool = False,
    maximize: bool = False,
    cautious_decay: bool = False,
) -> tuple[Array, ...]:
    """One step of Adam.

    With x = param, m = exp_avg, v = exp_avg_sq, α = lr, (β₁, β₂) = betas, ε = eps, at step t:

        m' = β₁ m + (1 − β₁) g       m̂ = m' / c₁    c₁ = 1 − β₁ᵗ    (1 without bias_correction)
        v' = β₂ v + (1 − β₂) g²      v̂ = v' / c₂    c₂ = 1 − β₂ᵗ    (1 without bias_correction)
        x' = x − α m̂ / (√v̂ + ε)      or, with eps_inside_sqrt,    x' = x − α m̂ / √(v̂ + ε)

    It is computed with the corrections folded into two scalars, which divides once an element where
    the lines above divide three times:

        x' = x − α √c₂/c₁ · m' / (√v' + ε √c₂)    or    x' = x − α √c₂/c₁ · m' / √(v' + ε c₂)

    amsgrad puts the largest v' so far, max_exp_avg_sq, in the place of v'; the corrections stay, as
    in torch (the paper leaves them out). decoupled_weight_decay keeps λ = weight_decay out of g and
    shrinks x by the factor 1 − α λ first, as in torch (the paper's factor has no α). cautious_decay
    shrinks only the elements that the update, u, moves towards 0 or not at all: those with u x >= 0,
    by their signs.

    Args:
        param, grad: arrays of one shape, float64 or stored as :mod:`fastopt.reference` says.
        exp_avg, exp_avg_sq: m and v, like param; zeros before step 1.
        max_exp_avg_sq: largest v, likewise; needed if amsgrad.
        step: number of this step, t, from 1.
        lr, eps, weight_decay: >= 0.
        betas: a pair of numbers in [0, 1).
        cautious_decay: needs decoupled_weight_decay.

    Returns:
        (param, exp_avg, exp_avg_sq), then max_exp_avg_sq if it was given, as new arrays.
    """
    step = check_step(step)
    lr, eps, weight_decay = check_numbers(lr=lr, eps=eps, weight_decay=weight_decay)
    beta1, beta2 = check_betas(betas)
    if cautious_decay and not decoupled_weight_decay:
        raise ValueError("cautious_decay needs decoupled_weight_decay=True, not False")
    check_arrays(param, grad=grad, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)
    check_arrays(param, max_exp_avg_sq=max_exp_avg_sq, needed=amsgrad)

    T = param.dtype.type
    c1 = 1 - power(beta1, step) if bias_correction else 1.0
    c2 = 1 - power(beta2, step) if bias_correction else 1.0
    step_size = lr * math.sqrt(c2) / c1
    eps = eps * (c2 if eps_inside_sqrt else math.sqrt(c2))

    g = gradient(param, grad, 0.0 if decoupled_weight_decay else weight_decay, maximize)
    exp_avg = T(beta1) * exp_avg + T(1 - beta1) * g
    exp_avg_sq = T(beta2) * exp_avg_sq + T(1 - beta2) * (g * g)
    v: Array = exp_avg_sq
    if amsgrad:
        assert max_exp_avg_sq is not None
        v = max_exp_avg_sq = maximum(max_exp_avg_sq, v)
    denom = np.sqrt(v + T(eps)) if eps_inside_sqrt else np.sqrt(v) + T(eps)
    update = T(step_size) * (exp_avg / denom)
    if decoupled_weight_decay and weight_decay != 0:
        param = shrunk(param, update, 1 - lr * weight_decay, cautious_decay)
    param = param - update
    return new_arrays(param, exp_avg, exp_avg_sq, max_exp_avg_sq)


def adamw(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    max_exp_avg_sq: Array | None = None,
    *,
    step: int = 1,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
    bias_correction: bool = True,
    eps_inside_sqrt: bool = False,
    maximize: bool = False,
    cautious_decay: bool = False,
) -> tuple[Array, ...]:
    """One step of AdamW: `adam` with decoupled_weight_decay, and weight_decay 0.01 unless told."""
    return adam(
        param,
        grad,
        exp_avg,
        exp_avg_sq,
        max_exp_avg_sq,
        step=step,
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        amsgrad=amsgrad,
        decoupled_weight_decay=True,
        bias_correction=bias_correction,
        eps_inside_sqrt=eps_inside_sqrt,
        maximize=maximize,
        cautious_decay=cautious_decay,
    )
