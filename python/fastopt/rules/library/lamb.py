"""LAMB: You et al. 2020, Large batch optimization for deep learning, algorithm 2."""

from __future__ import annotations

from fastopt.rules import maximum, norm, rule, sqrt


@rule(name="lamb on devices")  # the CPU has a compiled one
def lamb(
    p, g, exp_avg, exp_avg_sq, *, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01,
    bias_correction=True, always_adapt=False,
):  # fmt: skip
    r"""LAMB: Adam with a rate for each tensor; see :class:`fastopt.optim.LAMB`.

    .. math::
        \theta \leftarrow \theta - \alpha\,\frac{\|\theta\|}{\|u\|}\,u,\qquad
        u = \frac{m / (1-\beta_1^t)}{\sqrt{v / (1-\beta_2^t)} + \epsilon} + \lambda\theta

    The ratio of the norms is 1 where either is 0.
    """
    b1, b2 = betas
    exp_avg = b1 * exp_avg + (1 - b1) * g
    exp_avg_sq = b2 * exp_avg_sq + (1 - b2) * (g * g)
    c1, root = (1 - b1**t, sqrt(1 - b2**t)) if bias_correction else (1.0, 1.0)
    u = (root / c1) * (exp_avg / (sqrt(exp_avg_sq) + eps * root))
    u = u + weight_decay * p if weight_decay != 0 else u
    if weight_decay != 0 or always_adapt:
        size, length = norm(p), norm(u)
        lr = lr * (size / length) ** (1 - maximum(size == 0, length == 0))
    return p - lr * u, exp_avg, exp_avg_sq
