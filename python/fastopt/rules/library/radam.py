"""RAdam: Liu et al. 2020, On the variance of the adaptive learning rate and beyond, arXiv:1908.03265.

Algorithm 2.
"""

from __future__ import annotations

from fastopt.rules import rule, sqrt


@rule(name="radam")
def radam(
    p, g, exp_avg, exp_avg_sq, *, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0,
    decoupled_weight_decay=False,
):  # fmt: skip
    r"""Rectified Adam: its rate waits until the variance of that rate can be known, and is scaled.

    .. math::
        m \leftarrow \beta_1 m + (1-\beta_1) g,\qquad
        v \leftarrow \beta_2 v + (1-\beta_2) g^2,\qquad
        \theta \leftarrow \theta - \frac{\alpha}{1-\beta_1^t}\,
            r_t\,\frac{\sqrt{1-\beta_2^t}}{\sqrt{v} + \epsilon}\,m

    with :math:`g = \nabla f(\theta) + \lambda\theta`, or, decoupled, the parameter shrunk by
    :math:`1-\alpha\lambda` first, and

    .. math::
        r_t = \sqrt{\frac{(\rho_t-4)(\rho_t-2)\rho_\infty}{(\rho_\infty-4)(\rho_\infty-2)\rho_t}},\quad
        \rho_t = \rho_\infty - \frac{2t\beta_2^t}{1-\beta_2^t},\quad
        \rho_\infty = \frac{2}{1-\beta_2} - 1.

    Where :math:`\rho_t \le 5`, :math:`\theta \leftarrow \theta - \alpha m / (1-\beta_1^t)`. The paper
    rectifies from :math:`\rho_t > 4` on and has no :math:`\epsilon`; this is torch's form.
    """
    b1, b2 = betas
    if weight_decay != 0 and decoupled_weight_decay:
        p = (1 - lr * weight_decay) * p
    elif weight_decay != 0:
        g = g + weight_decay * p
    exp_avg = b1 * exp_avg + (1 - b1) * g
    exp_avg_sq = b2 * exp_avg_sq + (1 - b2) * (g * g)
    rate, decay = lr / (1 - b1**t), b2**t
    c2, longest = 1 - decay, 2 / (1 - b2) - 1
    length = longest - 2 * t * decay / c2
    if not length > 5:
        return p - rate * exp_avg, exp_avg, exp_avg_sq
    r = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    p = p - (rate * (sqrt(r) * sqrt(c2))) * (exp_avg / (sqrt(exp_avg_sq) + eps))
    return p, exp_avg, exp_avg_sq
