"""AdEMAMix: Pagliardini et al. 2024, arXiv:2409.03137, algorithm 1."""

from __future__ import annotations

from fastopt.rules import exp, log, rule, sqrt


@rule
def ademamix(
    p, g, exp_avg_fast, exp_avg_slow, exp_avg_sq, *, t, lr=1e-3, betas=(0.9, 0.999, 0.9999),
    alpha=2.0, eps=1e-8, weight_decay=0.0, alpha_warmup=None, beta3_warmup=None,
):  # fmt: skip
    r"""AdEMAMix: AdamW with a second, slow average of the gradient.

    .. math::
        \theta \leftarrow \theta - \alpha_{lr}\left(
            \frac{m_1/(1-\beta_1^t) + \alpha\, m_2}{\sqrt{v}/\sqrt{1-\beta_2^t} + \epsilon}
            + \lambda\theta\right)

    Over the first ``alpha_warmup`` steps :math:`\alpha` grows from 0, and over ``beta3_warmup``
    :math:`\beta_3` from :math:`\beta_1`, so that the half-life of the slow average grows evenly.
    """
    b1, b2, b3 = betas
    if alpha_warmup is not None and t < alpha_warmup:
        alpha = alpha * (t / alpha_warmup)
    if beta3_warmup is not None and t < beta3_warmup:
        b3 = _beta_of(_lifetime(b1) + t / beta3_warmup * (_lifetime(b3) - _lifetime(b1)))
    exp_avg_fast = b1 * exp_avg_fast + (1 - b1) * g
    exp_avg_slow = b3 * exp_avg_slow + (1 - b3) * g
    exp_avg_sq = b2 * exp_avg_sq + (1 - b2) * (g * g)
    denominator = (1 / sqrt(1 - b2**t)) * sqrt(exp_avg_sq) + eps
    u = ((1 / (1 - b1**t)) * exp_avg_fast + alpha * exp_avg_slow) / denominator
    return p - lr * (u + weight_decay * p), exp_avg_fast, exp_avg_slow, exp_avg_sq


def _lifetime(beta):
    return log(0.5) / log(beta + 1e-8) - 1


def _beta_of(lifetime):
    return exp(log(0.5) / (lifetime + 1))
