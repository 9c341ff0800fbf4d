"""AdaGrad: each element's rate falls with the root of the sum of its squared gradients.

Duchi, Hazan & Singer 2011, Adaptive subgradient methods for online learning and stochastic
optimization, JMLR 12: equation 1, the diagonal form, without the projection.
"""

import numpy as np

from ._common import Array, check_arrays, check_numbers, check_step, gradient, new_arrays
from .storage import stored


@stored
@np.errstate(all="ignore")
def adagrad(
    param: Array,
    grad: Array,
    sum: Array,
    *,
    step: int = 1,
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    eps: float = 1e-10,
    maximize: bool = False,
) -> tuple[Array, ...]:
    """One step of AdaGrad.

    With x = param, s = sum, α = lr, η = lr_decay, ε = eps, at step t:

        s' = s + g²
        x' = x − α / (1 + (t − 1) η) · g / (√s' + ε)

    The paper has neither η, a decay of the rate that torch offers, nor ε outside the root.

    Args:
        param, grad: arrays of one shape, float64 or stored as :mod:`fastopt.reference` says.
        sum: s, like param; before step 1 the initial accumulator, a constant >= 0.
        step: number of this step, from 1.
        lr, lr_decay, weight_decay, eps: >= 0.

    Returns:
        (param, sum), as new arrays.
    """
    step = check_step(step)
    lr, lr_decay, weight_decay, eps = check_numbers(
        lr=lr, lr_decay=lr_decay, weight_decay=weight_decay, eps=eps
    )
    check_arrays(param, grad=grad, sum=sum)

    T = param.dtype.type
    rate = lr / (1 + (step - 1) * lr_decay)

    g = gradient(param, grad, weight_decay, maximize)
    sum = sum + g * g
    param = param - T(rate) * (g / (np.sqrt(sum) + T(eps)))
    return new_arrays(param, sum)
