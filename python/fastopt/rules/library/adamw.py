"""AdamW: Loshchilov & Hutter 2019, algorithm 2, as :class:`fastopt.optim.AdamW` computes it."""

from __future__ import annotations

from fastopt.rules import rule, sqrt


@rule
def adamw(p, g, exp_avg, exp_avg_sq, *, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
    r"""AdamW, the rule that :class:`fastopt.optim.AdamW` compiles.

    .. math::
        m \leftarrow \beta_1 m + (1-\beta_1) g,\quad v \leftarrow \beta_2 v + (1-\beta_2) g^2,\quad
        \theta \leftarrow (1 - \alpha\lambda)\theta
            - \alpha \frac{m / (1-\beta_1^t)}{\sqrt{v / (1-\beta_2^t)} + \epsilon}
    """
    b1, b2 = betas
    exp_avg = b1 * exp_avg + (1 - b1) * g
    exp_avg_sq = b2 * exp_avg_sq + (1 - b2) * (g * g)
    c1, root = 1 - b1**t, sqrt(1 - b2**t)
    p = (1 - lr * weight_decay) * p - (lr * root / c1) * (exp_avg / (sqrt(exp_avg_sq) + eps * root))
    return p, exp_avg, exp_avg_sq
