"""Adam, with AMSGrad and either kind of weight decay."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from fastopt.optim._copies import CopiesT
from fastopt.optim._fused import Fused
from fastopt.optim._storage import StateDtype
from fastopt.optim._tail import tail_options


class Adam(Fused, torch.optim.Adam):
    r"""Adam: :class:`torch.optim.Adam` on fastopt's kernels.

    .. math::
        m \leftarrow \beta_1 m + (1-\beta_1) g,\quad
        v \leftarrow \beta_2 v + (1-\beta_2) g^2,\quad
        \theta \leftarrow \theta - \alpha\,
            \frac{m / (1-\beta_1^t)}{\sqrt{v / (1-\beta_2^t)} + \epsilon}

    with :math:`g = \nabla f(\theta) + \lambda\theta`, negated for ``maximize``. ``amsgrad`` uses the
    largest :math:`v` so far.

    Args:
        params: parameters, ``(name, parameter)`` pairs, or dicts that define groups.
        lr: learning rate :math:`\alpha`.
        betas: :math:`(\beta_1, \beta_2)`.
        eps: :math:`\epsilon`.
        weight_decay: :math:`\lambda`.
        amsgrad: the variant of Reddi et al. 2018.
        foreach, capturable, differentiable, fused: as for torch; dense parameters take fastopt's
            kernels unless ``differentiable`` is set, or ``capturable`` on the CPU.
        maximize: ascend instead of descend.
        decoupled_weight_decay: decay the parameters, not through the gradient (AdamW).
        bias_correction: divide the moments by :math:`1-\beta^t`; without it, "almost Adam". Not in
            torch, where it is always on.
        eps_inside_sqrt: divide by :math:`\sqrt{v / (1-\beta_2^t) + \epsilon}`. Not in torch.
        cautious_decay: decay only the elements that the update moves towards 0 (Chen et al. 2025,
            arXiv:2510.12402); needs ``decoupled_weight_decay``. Not in torch.
        max_grad_norm, error_if_nonfinite, ema_decay, ema_bias_correction: clip and average in the
            same pass; see :mod:`fastopt.optim`. Not in torch.
        state_dtype, master_weights, stochastic_rounding, rounding_seed: what parameters and states are
            stored in; see :mod:`fastopt.optim._storage`. Not in torch.
        copy_to: a list of tensors that each step also writes its parameters to, rounded; see
            :mod:`fastopt.optim._copies`. Not in torch.

    Raises:
        ValueError: for options out of range, as torch does.

    Source: Kingma & Ba 2015, algorithm 1, with the corrections folded into the rate as at the end of
    section 2.
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
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
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
        if cautious_decay and not decoupled_weight_decay:
            raise ValueError("cautious_decay needs decoupled_weight_decay=True")
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        )
        self._set_extras(
            bias_correction=bias_correction,
            eps_inside_sqrt=eps_inside_sqrt,
            cautious_decay=cautious_decay,
            **tail_options(max_grad_norm, error_if_nonfinite, ema_decay, ema_bias_correction),
            **self._storage_options(state_dtype, master_weights, stochastic_rounding, rounding_seed),
            copy_to=copy_to,
        )
