"""AdaBelief: Zhuang et al. 2020, arXiv:2010.07468, algorithm 2."""

from __future__ import annotations

from fastopt.rules import rule, sqrt


@rule
def adabelief(
    p, g, exp_avg, exp_avg_var, *, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-16, weight_decay=0.0
):
    r"""AdaBelief: Adam that divides by how far gradients are from their average.

    .. math::
        m \leftarrow \beta_1 m + (1-\beta_1) g,\qquad
        s \leftarrow \beta_2 s + (1-\beta_2)(g - m)^2 + \epsilon,\qquad
        \theta \leftarrow (1-\alpha\lambda)\theta
            - \alpha\frac{m/(1-\beta_1^t)}{\sqrt{s/(1-\beta_2^t)} + \epsilon}
    """
    b1, b2 = betas
    exp_avg = b1 * exp_avg + (1 - b1) * g
    surprise = g - exp_avg
    exp_avg_var = b2 * exp_avg_var + (1 - b2) * (surprise * surprise) + eps
    denominator = (1 / sqrt(1 - b2**t)) * sqrt(exp_avg_var) + eps
    p = (1 - lr * weight_decay) * p - (lr / (1 - b1**t)) * (exp_avg / denominator)
    return p, exp_avg, exp_avg_var
