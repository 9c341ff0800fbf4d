"""Signum: Bernstein et al. 2018, arXiv:1802.04434, algorithm 2."""

from __future__ import annotations

from fastopt.rules import rule, sign


@rule
def signum(p, g, momentum_buffer, *, t, lr=1e-3, momentum=0.9, weight_decay=0.0):
    r"""Signum, the sign of a momentum; with ``momentum=0`` that of the gradient (signSGD).

    .. math::
        m \leftarrow \beta m + (1-\beta) g,\qquad
        \theta \leftarrow (1 - \alpha\lambda)\,\theta - \alpha\,\mathrm{sign}(m)
    """
    momentum_buffer = momentum * momentum_buffer + (1 - momentum) * g
    return (1 - lr * weight_decay) * p - lr * sign(momentum_buffer), momentum_buffer
