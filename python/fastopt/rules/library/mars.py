"""MARS: Yuan et al. 2024, arXiv:2411.10438, algorithm 2 with AdamW."""

from __future__ import annotations

from fastopt.rules import maximum, norm, rule, sqrt


@rule
def mars(
    p, g, exp_avg, exp_avg_sq, last_grad, *, t, lr=3e-3, betas=(0.95, 0.99), eps=1e-8,
    weight_decay=0.0, gamma=0.025,
):  # fmt: skip
    r"""MARS-AdamW: AdamW on gradients whose variance a difference of two reduces.

    .. math::
        c = g + \gamma\frac{\beta_1}{1-\beta_1}(g - g'),\qquad c \leftarrow c / \max(1, \|c\|)

    with :math:`g'` the gradient of the step before and the norm of the whole tensor; then AdamW's
    step on c. At the first step :math:`g'` is 0, as in the authors' code.
    """
    b1, b2 = betas
    c = g + (gamma * (b1 / (1 - b1))) * (g - last_grad)
    c = c * (1 / maximum(1.0, norm(c)))
    exp_avg = b1 * exp_avg + (1 - b1) * c
    exp_avg_sq = b2 * exp_avg_sq + (1 - b2) * (c * c)
    u = exp_avg / ((1 / sqrt(1 - b2**t)) * sqrt(exp_avg_sq) + eps)
    p = (1 - lr * weight_decay) * p - (lr / (1 - b1**t)) * u
    return p, exp_avg, exp_avg_sq, g
