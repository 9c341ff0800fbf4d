"""The optimizers that fastopt compiles, as rules: their programs give the compiled kernels' bits.

They are what a compiled kernel is judged by: ``python -m fastopt bench rules`` measures both.
"""

from __future__ import annotations

from fastopt.rules import exp, rule, sign, sqrt
from fastopt.rules.library.lamb import lamb as lamb

LOG_096 = -0.040821994520255166


def decayed(g, p, weight_decay):
    """The gradient with L2 decay in it."""
    return g + weight_decay * p if weight_decay != 0 else g


def shrunk(p, lr, weight_decay):
    """The parameter after decoupled decay."""
    return (1 - lr * weight_decay if weight_decay != 0 else 1.0) * p


@rule
def sgd(p, g, momentum_buffer, *, t, lr=1e-3, momentum=0.9, weight_decay=0.0, nesterov=False):
    """SGD with momentum; see :class:`fastopt.optim.SGD`."""
    g = decayed(g, p, weight_decay)
    momentum_buffer = g if t == 1 else momentum * momentum_buffer + 1.0 * g
    return p - lr * (g + momentum * momentum_buffer if nesterov else momentum_buffer), momentum_buffer


@rule
def adagrad(p, g, sum, *, t, lr=1e-2, lr_decay=0.0, weight_decay=0.0, eps=1e-10):
    """Adagrad; see :class:`fastopt.optim.Adagrad`."""
    g = decayed(g, p, weight_decay)
    sum = sum + g * g
    return p - (lr / (1 + (t - 1) * lr_decay)) * (g / (sqrt(sum) + eps)), sum


@rule
def rmsprop(p, g, square_avg, *, t, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0.0):
    """RMSprop, neither centered nor with momentum; see :class:`fastopt.optim.RMSprop`."""
    g = decayed(g, p, weight_decay)
    square_avg = alpha * square_avg + (1 - alpha) * (g * g)
    return p - lr * (g / (sqrt(square_avg) + eps)), square_avg


@rule
def lion(p, g, exp_avg, *, t, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
    """Lion; see :class:`fastopt.optim.Lion`."""
    b1, b2 = betas
    p = shrunk(p, lr, weight_decay) - lr * sign(b1 * exp_avg + (1 - b1) * g)
    return p, b2 * exp_avg + (1 - b2) * g


@rule
def adadelta(p, g, square_avg, acc_delta, *, t, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0):
    """Adadelta; see :class:`fastopt.optim.Adadelta`."""
    g = decayed(g, p, weight_decay)
    square_avg = rho * square_avg + (1 - rho) * (g * g)
    delta = sqrt(acc_delta + eps) / sqrt(square_avg + eps) * g
    return p - lr * delta, square_avg, rho * acc_delta + (1 - rho) * (delta * delta)


@rule(numbers={"mu_product": 1.0})
def nadam(
    p, g, exp_avg, exp_avg_sq, mu_product, *, t, lr=2e-3, betas=(0.9, 0.999), eps=1e-8,
    weight_decay=0.0, momentum_decay=4e-3,
):  # fmt: skip
    """NAdam; see :class:`fastopt.optim.NAdam`."""
    b1, b2 = betas
    g = decayed(g, p, weight_decay)
    exp_avg = b1 * exp_avg + (1 - b1) * g
    exp_avg_sq = b2 * exp_avg_sq + (1 - b2) * (g * g)
    mu, ahead = (b1 * (1 - exp(step * momentum_decay * LOG_096) * 0.5) for step in (t, t + 1))
    mu_product = mu_product * mu
    root = sqrt(1 - b2**t)
    of_grad = lr * (1 - mu) / (1 - mu_product) * root
    of_avg = lr * ahead / (1 - mu_product * ahead) * root
    p = 1.0 * p - (of_grad * g + of_avg * exp_avg) / (sqrt(exp_avg_sq) + eps * root)
    return p, exp_avg, exp_avg_sq, mu_product
