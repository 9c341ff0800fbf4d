"""Cautious optimizers: Liang et al. 2024, arXiv:2411.16085, algorithms 1 and 2."""

from __future__ import annotations

from fastopt.rules import count, maximum, mean, rule, sign, size, sqrt, where


@rule
def cautious_adamw(
    p, g, exp_avg, exp_avg_sq, *, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0
):
    r"""Cautious AdamW: only the elements of the update that agree with the gradient in sign.

    .. math::
        k = [m g > 0],\qquad \theta \leftarrow (1 - \alpha\lambda)\theta
            - \alpha\,\frac{k}{\max(\mathrm{mean}(k), 10^{-3})}\,
              \frac{m/(1-\beta_1^t)}{\sqrt{v/(1-\beta_2^t)} + \epsilon}

    with AdamW's averages. The mean is over a tensor, and exact in any order.
    """
    b1, b2 = betas
    exp_avg = b1 * exp_avg + (1 - b1) * g
    exp_avg_sq = b2 * exp_avg_sq + (1 - b2) * (g * g)
    agrees = sign(exp_avg) * g > 0  # their product may be too small for a float
    scale = lr / (1 - b1**t) / maximum(mean(where(agrees, 1.0, 0.0)), 1e-3)
    u = exp_avg / ((1 / sqrt(1 - b2**t)) * sqrt(exp_avg_sq) + eps)
    return (1 - lr * weight_decay) * p - scale * where(agrees, u, 0.0), exp_avg, exp_avg_sq


@rule
def cautious_lion(p, g, exp_avg, *, t, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
    r"""Cautious Lion: Lion's signs where they agree with the gradient's, for their share.

    .. math::
        c = \mathrm{sign}(\beta_1 m + (1-\beta_1) g),\qquad k = [c g > 0],\qquad
        \theta \leftarrow (1 - \alpha\lambda)\theta
            - \alpha\,\frac{n}{\sum k + 1}\,k c,\qquad m \leftarrow \beta_2 m + (1-\beta_2) g

    with n the number of the tensor's elements.
    """
    b1, b2 = betas
    c = sign(b1 * exp_avg + (1 - b1) * g)
    agrees = c * g > 0
    scale = lr * size(agrees) / (count(agrees) + 1)
    p = (1 - lr * weight_decay) * p - scale * where(agrees, c, 0.0)
    return p, b2 * exp_avg + (1 - b2) * g
