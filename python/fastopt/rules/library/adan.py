"""Adan: Xie et al. 2022, arXiv:2208.06677, algorithm 1."""

from __future__ import annotations

from fastopt.rules import rule, sqrt


@rule
def adan(
    p, g, exp_avg, exp_avg_diff, exp_avg_sq, last_grad, *, t, lr=1e-3, betas=(0.98, 0.92, 0.99),
    eps=1e-8, weight_decay=0.0,
):  # fmt: skip
    r"""Adan, Nesterov's momentum from differences of gradients.

    .. math::
        m \leftarrow \beta_1 m + (1-\beta_1) g,\quad
        v \leftarrow \beta_2 v + (1-\beta_2)(g - g'),\quad
        n \leftarrow \beta_3 n + (1-\beta_3)(g + \beta_2(g - g'))^2

        \theta \leftarrow \left(\theta - \alpha\,
            \frac{m/c_1 + \beta_2 v/c_2}{\sqrt{n/c_3} + \epsilon}\right) / (1 + \alpha\lambda),
        \qquad c_i = 1 - \beta_i^t

    with :math:`g'` the gradient of the step before, which is :math:`g` at the first step.
    """
    b1, b2, b3 = betas
    change = g - (g if t == 1 else last_grad)
    exp_avg = b1 * exp_avg + (1 - b1) * g
    exp_avg_diff = b2 * exp_avg_diff + (1 - b2) * change
    ahead = g + b2 * change
    exp_avg_sq = b3 * exp_avg_sq + (1 - b3) * (ahead * ahead)
    denominator = (1 / sqrt(1 - b3**t)) * sqrt(exp_avg_sq) + eps
    u = (lr / (1 - b1**t)) * exp_avg + (lr * b2 / (1 - b2**t)) * exp_avg_diff
    p = (p - u / denominator) * (1 / (1 + lr * weight_decay))
    return p, exp_avg, exp_avg_diff, exp_avg_sq, g
