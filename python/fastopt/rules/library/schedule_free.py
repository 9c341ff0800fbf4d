"""Schedule-Free: Defazio et al. 2024, The road less scheduled, arXiv:2405.15682."""

from __future__ import annotations

from fastopt.rules import maximum, minimum, rule, sqrt


@rule(start={"z": "param"}, numbers=("weight_sum", "lr_max"))
def schedule_free_adamw(
    p, g, z, exp_avg_sq, weight_sum, lr_max, *, t, lr=0.0025, betas=(0.9, 0.999), eps=1e-8,
    weight_decay=0.0, warmup_steps=0.0, r=0.0, weight_lr_power=2.0,
):  # fmt: skip
    r"""Schedule-Free AdamW: an average of iterates in the place of a schedule.

    .. math::
        v \leftarrow \beta_2 v + (1-\beta_2) g^2,\qquad
        n = g / (\sqrt{v/(1-\beta_2^t)} + \epsilon) + \lambda y

        y \leftarrow (1 - c)\,y + c z + \alpha(\beta_1(1 - c) - 1)\,n,\qquad z \leftarrow z - \alpha n

    The parameter holds y in training; c is the share of this step's weight
    :math:`t^r\alpha_{max}^p` in the sum of all weights. ``eval()`` puts the average x in its place.
    """
    b1, b2 = betas
    lr, c, weight_sum, lr_max = _weighted(t, lr, weight_sum, lr_max, warmup_steps, r, weight_lr_power)
    exp_avg_sq = b2 * exp_avg_sq + (1 - b2) * (g * g)
    n = g / ((1 / sqrt(1 - b2**t)) * sqrt(exp_avg_sq) + eps) + weight_decay * p
    y = (1 - c) * p + c * z + (lr * (b1 * (1 - c) - 1)) * n
    return y, z - lr * n, exp_avg_sq, weight_sum, lr_max


@rule(start={"z": "param"}, numbers=("weight_sum", "lr_max"))
def schedule_free_sgd(
    p, g, z, weight_sum, lr_max, *, t, lr=1.0, momentum=0.9, weight_decay=0.0, warmup_steps=0.0,
    r=0.0, weight_lr_power=2.0,
):  # fmt: skip
    r"""Schedule-Free SGD: :func:`schedule_free_adamw` with :math:`n = g + \lambda y`."""
    lr, c, weight_sum, lr_max = _weighted(t, lr, weight_sum, lr_max, warmup_steps, r, weight_lr_power)
    n = g + weight_decay * p
    y = (1 - c) * p + c * z + (lr * (momentum * (1 - c) - 1)) * n
    return y, z - lr * n, weight_sum, lr_max


def _weighted(t, lr, weight_sum, lr_max, warmup_steps, r, weight_lr_power):
    """The rate after warm-up, this step's share in the average, and the sums with it."""
    if warmup_steps > 0:
        lr = lr * minimum(1.0, t / warmup_steps)
    lr_max = maximum(lr, lr_max)
    weight = t**r * lr_max**weight_lr_power
    weight_sum = weight_sum + weight
    return lr, weight / maximum(weight_sum, 1e-300), weight_sum, lr_max
