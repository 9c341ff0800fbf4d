"""Yogi: Zaheer et al. 2018, Adaptive methods for nonconvex optimization, algorithm 2."""

from __future__ import annotations

from fastopt.rules import rule, sign, sqrt


@rule(start={"exp_avg": 1e-6, "exp_avg_sq": 1e-6})
def yogi(p, g, exp_avg, exp_avg_sq, *, t, lr=1e-2, betas=(0.9, 0.999), eps=1e-3, weight_decay=0.0):
    r"""Yogi: Adam whose second moment moves by at most :math:`g^2`.

    .. math::
        m \leftarrow \beta_1 m + (1-\beta_1) g,\qquad
        v \leftarrow v - (1-\beta_2)\,\mathrm{sign}(v - g^2)\,g^2,\qquad
        \theta \leftarrow (1-\alpha\lambda)\theta
            - \alpha\frac{m/(1-\beta_1^t)}{\sqrt{v/(1-\beta_2^t)} + \epsilon}

    Both averages begin at :math:`10^{-6}`.
    """
    b1, b2 = betas
    square = g * g
    exp_avg = b1 * exp_avg + (1 - b1) * g
    exp_avg_sq = exp_avg_sq - (1 - b2) * (sign(exp_avg_sq - square) * square)
    denominator = (1 / sqrt(1 - b2**t)) * sqrt(exp_avg_sq) + eps
    p = (1 - lr * weight_decay) * p - (lr / (1 - b1**t)) * (exp_avg / denominator)
    return p, exp_avg, exp_avg_sq
