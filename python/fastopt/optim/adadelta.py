"""Adadelta."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from fastopt.optim._copies import CopiesT
from fastopt.optim._fused import Fused
from fastopt.optim._storage import StateDtype
from fastopt.optim._tail import tail_options


class Adadelta(Fused, torch.optim.Adadelta):
    r"""Adadelta: :class:`torch.optim.Adadelta` on fastopt's kernels.

    .. math::
        s \leftarrow \rho s + (1-\rho) g^2,\quad
        \Delta = \frac{\sqrt{u + \epsilon}}{\sqrt{s + \epsilon}}\,g,\quad
        u \leftarrow \rho u + (1-\rho) \Delta^2,\quad
        \theta \leftarrow \theta - \alpha\Delta

    with :math:`g = \nabla f(\theta) + \lambda\theta`, negated for ``maximize``.

    Args:
        params: parameters, ``(name, parameter)`` pairs, or dicts that define groups.
        lr: :math:`\alpha`.
        rho: :math:`\rho`.
        eps: :math:`\epsilon`.
        weight_decay: :math:`\lambda`.
        foreach, capturable, differentiable: as for torch; dense parameters take fastopt's kernels
            unless ``differentiable`` is set, or ``capturable`` on the CPU.
        maximize: ascend instead of descend.
        max_grad_norm, error_if_nonfinite, ema_decay, ema_bias_correction: clip and average in the
            same pass; see :mod:`fastopt.optim`. Not in torch.
        state_dtype, master_weights, stochastic_rounding, rounding_seed: what parameters and states are
            stored in; see :mod:`fastopt.optim._storage`. Not in torch.
        copy_to: a list of tensors that each step also writes its parameters to, rounded; see
            :mod:`fastopt.optim._copies`. Not in torch.

    Raises:
        ValueError: for options out of range, as torch does.

    Source: Zeiler 2012, algorithm 1.
    """

    _rule = "adadelta"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        max_grad_norm: float | None = None,
        error_if_nonfinite: bool = False,
        ema_decay: float | None = None,
        ema_bias_correction: bool = False,
        state_dtype: StateDtype = None,
        master_weights: bool = False,
        stochastic_rounding: bool = False,
        rounding_seed: int = 0,
        copy_to: CopiesT = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rho,
            eps,
            weight_decay,
            foreach,
            capturable=capturable,
            maximize=maximize,
            differentiable=differentiable,
        )
        self._set_extras(
            **tail_options(max_grad_norm, error_if_nonfinite, ema_decay, ema_bias_correction),
            **self._storage_options(state_dtype, master_weights, stochastic_rounding, rounding_seed),
            copy_to=copy_to,
        )
