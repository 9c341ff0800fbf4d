"""ADOPT: Taniguchi et al. 2024, arXiv:2411.02853, algorithm 2."""

from __future__ import annotations

from fastopt.rules import maximum, minimum, rule, sqrt


@rule
def adopt(
    p, g, exp_avg, exp_avg_sq, *, t, lr=1e-3, betas=(0.9, 0.9999), eps=1e-6, weight_decay=0.0,
    decouple=False,
):  # fmt: skip
    r"""ADOPT, which divides by the second moment before the gradient is in it.

    .. math::
        m \leftarrow \beta_1 m + (1-\beta_1)\,\mathrm{clip}_{(t-1)^{1/4}}
            \frac{g}{\max(\sqrt{v}, \epsilon)},\qquad
        \theta \leftarrow \theta - \alpha m,\qquad v \leftarrow \beta_2 v + (1-\beta_2) g^2

    The first step only fills v. Decay is in the gradient, or with ``decouple`` outside of it.
    """
    b1, b2 = betas
    if weight_decay and not decouple:
        g = g + weight_decay * p
    if t == 1:
        return p, exp_avg, g * g
    bound = sqrt(sqrt(t - 1.0))
    step = minimum(maximum(g / maximum(sqrt(exp_avg_sq), eps), -bound), bound)
    exp_avg = b1 * exp_avg + (1 - b1) * step
    if weight_decay and decouple:
        p = (1 - lr * weight_decay) * p
    return p - lr * exp_avg, exp_avg, b2 * exp_avg_sq + (1 - b2) * (g * g)
