"""StableAdamW: Wortsman et al. 2023, arXiv:2304.13013, algorithm 2."""

from __future__ import annotations

from fastopt.rules import maximum, mean, rule, sqrt


@rule
def stable_adamw(
    p, g, exp_avg, exp_avg_sq, *, t, lr=1e-3, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.01
):
    r"""StableAdamW: AdamW whose rate is clipped where the second moment lags behind the gradient.

    .. math::
        \mathrm{rms} = \sqrt{\mathrm{mean}\bigl(g^2 / \max(v, \epsilon^2)\bigr)},\qquad
        \alpha' = \alpha / \max(1, \mathrm{rms}),\qquad
        \theta \leftarrow (1 - \alpha'\lambda)\theta - \alpha'\frac{m}{\sqrt{v} + \epsilon}

    with m and v averaged by :math:`\hat\beta = \beta(1-\beta^{t-1})/(1-\beta^t)`, so that they need
    no correction.
    """
    b1, b2 = (beta * (1 - beta ** (t - 1)) / (1 - beta**t) for beta in betas)
    exp_avg = b1 * exp_avg + (1 - b1) * g
    exp_avg_sq = b2 * exp_avg_sq + (1 - b2) * (g * g)
    lr = lr / maximum(1.0, sqrt(mean(g * g / maximum(exp_avg_sq, eps * eps))))
    p = (1 - lr * weight_decay) * p - lr * (exp_avg / (sqrt(exp_avg_sq) + eps))
    return p, exp_avg, exp_avg_sq
