"""SGD with momentum, Nesterov's momentum and the exponentially weighted form."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from fastopt.optim._copies import CopiesT
from fastopt.optim._fused import Fused
from fastopt.optim._storage import StateDtype
from fastopt.optim._tail import tail_options


class SGD(Fused, torch.optim.SGD):
    r"""Stochastic gradient descent: :class:`torch.optim.SGD` on fastopt's kernels.

    With :math:`g = \nabla f(\theta) + \lambda\theta` (negated for ``maximize``), momentum
    :math:`\gamma` and dampening :math:`\tau`:

    .. math::
        v \leftarrow \gamma v + (1 - \tau) g \quad (v \leftarrow g \text{ at the first step}),\qquad
        \theta \leftarrow \theta - \alpha v

    ``nesterov`` steps along :math:`g + \gamma v` instead. ``exponential_average`` makes the buffer an
    average, :math:`v \leftarrow \gamma v + (1-\gamma) g` from :math:`v = 0`, and ``bias_correction``
    divides it by :math:`1 - \gamma^t`.

    Args:
        params: parameters, ``(name, parameter)`` pairs, or dicts that define groups.
        lr: learning rate :math:`\alpha`.
        momentum: :math:`\gamma`; 0 keeps no buffer.
        dampening: :math:`\tau`.
        weight_decay: :math:`\lambda`.
        nesterov: Nesterov's momentum (needs a momentum and no dampening).
        maximize: ascend instead of descend.
        foreach, differentiable, fused: as for torch; dense parameters take fastopt's kernel
            unless ``differentiable`` is set.
        exponential_average: the exponentially weighted form (needs 0 < momentum < 1; excludes
            dampening and ``nesterov``). Not in torch.
        bias_correction: correct that average for its start at 0. Not in torch.
        cautious_decay: decay only the elements that the update moves towards 0 (Chen et al. 2025,
            arXiv:2510.12402); takes the decay out of the gradient, by the
            factor :math:`1 - \alpha\lambda`. Not in torch.
        max_grad_norm, error_if_nonfinite, ema_decay, ema_bias_correction: clip and average in the
            same pass; see :mod:`fastopt.optim`. Not in torch.
        state_dtype, master_weights, stochastic_rounding, rounding_seed: what parameters and states are
            stored in; see :mod:`fastopt.optim._storage`. Not in torch.
        copy_to: a list of tensors that each step also writes its parameters to, rounded; see
            :mod:`fastopt.optim._copies`. Not in torch.

    Raises:
        ValueError: for options out of range or that exclude each other, as torch does.

    Source: Polyak 1964; Nesterov 1983 in the form of Sutskever et al. 2013; the average as in
    Kingma & Ba 2015, section 3.
    """

    _rule = "sgd"
    _unread = ("differentiable",)
    _extras: ClassVar[dict[str, Any]] = {
        "exponential_average": False,
        "bias_correction": False,
        "cautious_decay": False,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        exponential_average: bool = False,
        bias_correction: bool = False,
        cautious_decay: bool = False,
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
        if exponential_average and (not 0 < momentum < 1 or dampening != 0 or nesterov):
            raise ValueError(
                "exponential_average needs 0 < momentum < 1, dampening = 0 and nesterov=False, got "
                f"momentum={momentum}, dampening={dampening}, nesterov={nesterov}"
            )
        if bias_correction and not exponential_average:
            raise ValueError("bias_correction needs exponential_average=True")
        super().__init__(
            params,
            lr,
            momentum,
            dampening,
            weight_decay,
            nesterov,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
        )
        self._set_extras(
            exponential_average=exponential_average,
            bias_correction=bias_correction,
            cautious_decay=cautious_decay,
            **tail_options(max_grad_norm, error_if_nonfinite, ema_decay, ema_bias_correction),
            **self._storage_options(state_dtype, master_weights, stochastic_rounding, rounding_seed),
            copy_to=copy_to,
        )
