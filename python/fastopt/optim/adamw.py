"""AdamW."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from fastopt.optim._copies import CopiesT
from fastopt.optim._fused import Fused
from fastopt.optim._storage import StateDtype
from fastopt.optim._tail import tail_options


class AdamW(Fused, torch.optim.AdamW):
    r"""AdamW: :class:`torch.optim.AdamW` on fastopt's kernels.

    :class:`Adam` with the decay taken out of the gradient: first
    :math:`\theta \leftarrow \theta - \alpha\lambda\theta`, then Adam's step with
    :math:`g = \nabla f(\theta)`.

    Args:
        params: parameters, ``(name, parameter)`` pairs, or dicts that define groups.
        lr: learning rate :math:`\alpha`.
        betas: :math:`(\beta_1, \beta_2)`.
        eps: :math:`\epsilon`.
        weight_decay: :math:`\lambda`.
        amsgrad: the variant of Reddi et al. 2018.
        maximize: ascend instead of descend.
        foreach, capturable, differentiable, fused: as for torch; dense parameters take fastopt's
            kernels unless ``differentiable`` is set, or ``capturable`` on the CPU.
        bias_correction, eps_inside_sqrt: as for :class:`Adam`. Not in torch.
        cautious_decay: decay only the elements that the update moves towards 0 (Chen et al. 2025,
            arXiv:2510.12402). Not in torch.
        max_grad_norm, error_if_nonfinite, ema_decay, ema_bias_correction: clip and average in the
            same pass; see :mod:`fastopt.optim`. Not in torch.
        state_dtype, master_weights, stochastic_rounding, rounding_seed: what parameters and states are
            stored in; see :mod:`fastopt.optim._storage`. Not in torch.
        copy_to: a list of tensors that each step also writes its parameters to, rounded; see
            :mod:`fastopt.optim._copies`. Not in torch.

    Raises:
        ValueError: for options out of range, as torch does.

    Source: Loshchilov & Hutter 2019, algorithm 2.
    """

    _rule = "adam"
    _extras: ClassVar[dict[str, Any]] = {
        "bias_correction": True,
        "eps_inside_sqrt": False,
        "cautious_decay": False,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        bias_correction: bool = True,
        eps_inside_sqrt: bool = False,
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
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
        )
        self._set_extras(
            bias_correction=bias_correction,
            eps_inside_sqrt=eps_inside_sqrt,
            cautious_decay=cautious_decay,
            **tail_options(max_grad_norm, error_if_nonfinite, ema_decay, ema_bias_correction),
            **self._storage_options(state_dtype, master_weights, stochastic_rounding, rounding_seed),
            copy_to=copy_to,
        )
