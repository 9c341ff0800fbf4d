"""Adamax: Kingma & Ba 2015, Adam: a method for stochastic optimization, algorithm 2."""

from __future__ import annotations

from fastopt.rules import abs, maximum, rule


@rule(name="adamax", squares=("exp_inf",))  # a divisor, like them
def adamax(p, g, exp_avg, exp_inf, *, t, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    r"""Adamax: Adam with a decaying maximum of the gradients' magnitude in the place of the root.

    .. math::
        m \leftarrow \beta_1 m + (1-\beta_1) g,\qquad
        u \leftarrow \max(\beta_2 u, |g| + \epsilon),\qquad
        \theta \leftarrow \theta - \frac{\alpha}{1-\beta_1^t}\,\frac{m}{u}

    with :math:`g = \nabla f(\theta) + \lambda\theta`. The paper has no :math:`\epsilon`; this is
    torch's form.
    """
    b1, b2 = betas
    if weight_decay != 0:
        g = g + weight_decay * p
    exp_avg = b1 * exp_avg + (1 - b1) * g
    exp_inf = maximum(b2 * exp_inf, abs(g) + eps)
    return p - (lr / (1 - b1**t)) * (exp_avg / exp_inf), exp_avg, exp_inf
