"""LaProp: Ziyin, Wang & Ueda 2020, arXiv:2002.04839, algorithm 1."""

from __future__ import annotations

from fastopt.rules import rule, sqrt


@rule(numbers=("rates",))
def laprop(
    p, g, exp_avg, exp_avg_sq, rates, *, t, lr=4e-4, betas=(0.9, 0.999), eps=1e-15, weight_decay=0.0
):
    r"""LaProp: Adam whose momentum is of the divided gradient.

    .. math::
        v \leftarrow \beta_2 v + (1-\beta_2) g^2,\qquad
        m \leftarrow \beta_1 m + \alpha(1-\beta_1) \frac{g}{\sqrt{v/(1-\beta_2^t)} + \epsilon},\qquad
        \theta \leftarrow (1 - \alpha\lambda)\left(\theta - \frac{\alpha}{L}\,m\right)

    The rate is in the momentum, and :math:`L \leftarrow \beta_1 L + (1-\beta_1)\alpha`, so that a
    schedule does not rescale what was gathered at other rates.
    """
    b1, b2 = betas
    exp_avg_sq = b2 * exp_avg_sq + (1 - b2) * (g * g)
    u = g / ((1 / sqrt(1 - b2**t)) * sqrt(exp_avg_sq) + eps)
    exp_avg = b1 * exp_avg + (lr * (1 - b1)) * u
    rates = b1 * rates + (1 - b1) * lr
    share = lr / rates if lr > 0 else 1.0
    p = (1 - lr * weight_decay) * (p - share * exp_avg)
    return p, exp_avg, exp_avg_sq, rates
