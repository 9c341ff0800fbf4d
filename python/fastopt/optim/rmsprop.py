"""RMSProp."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from fastopt.optim._copies import CopiesT
from fastopt.optim._fused import Fused
from fastopt.optim._storage import HALVES, StateDtype
from fastopt.optim._tail import tail_options


class RMSprop(Fused, torch.optim.RMSprop):
    r"""RMSProp: :class:`torch.optim.RMSprop` on fastopt's kernels.

    .. math::
        s \leftarrow \rho s + (1-\rho) g^2,\qquad
        \theta \leftarrow \theta - \alpha\,\frac{g}{\sqrt{s} + \epsilon}

    with :math:`g = \nabla f(\theta) + \lambda\theta`, negated for ``maximize``. ``centered`` replaces
    :math:`s` in the root by :math:`s - \bar g^2`, where
    :math:`\bar g \leftarrow \rho\bar g + (1-\rho) g`; rounding below 0 counts as 0 (torch gives NaN).
    ``momentum`` :math:`\gamma` steps along :math:`b \leftarrow \gamma b + g / (\sqrt{s} + \epsilon)`.

    Args:
        params: parameters, ``(name, parameter)`` pairs, or dicts that define groups.
        lr: learning rate :math:`\alpha`.
        alpha: :math:`\rho`.
        eps: :math:`\epsilon`.
        weight_decay: :math:`\lambda`.
        momentum: :math:`\gamma`; 0 keeps no buffer.
        centered: normalize by an estimate of the variance. It is a difference of two averages, which
            are float32 beside 16-bit parameters; a ``state_dtype`` of fewer bits is refused.
        capturable, foreach, differentiable: as for torch; dense parameters take fastopt's kernels
            unless ``differentiable`` is set, or ``capturable`` on the CPU.
        maximize: ascend instead of descend.
        eps_inside_sqrt: divide by :math:`\sqrt{s + \epsilon}`, as TensorFlow does. Not in torch.
        max_grad_norm, error_if_nonfinite, ema_decay, ema_bias_correction: clip and average in the
            same pass; see :mod:`fastopt.optim`. Not in torch.
        state_dtype, master_weights, stochastic_rounding, rounding_seed: what parameters and states are
            stored in; see :mod:`fastopt.optim._storage`. Not in torch.
        copy_to: a list of tensors that each step also writes its parameters to, rounded; see
            :mod:`fastopt.optim._copies`. Not in torch.

    Raises:
        ValueError: for options out of range, as torch does; for ``centered`` with a ``state_dtype``
            of less than float32.

    Source: Tieleman & Hinton 2012, lecture 6e; centered: Graves 2013, equations 38 to 41.
    """

    _rule = "rmsprop"
    _extras: ClassVar[dict[str, Any]] = {"eps_inside_sqrt": False}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        eps_inside_sqrt: bool = False,
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
            alpha,
            eps,
            weight_decay,
            momentum,
            centered,
            capturable,
            foreach,
            maximize,
            differentiable,
        )
        self._set_extras(
            eps_inside_sqrt=eps_inside_sqrt,
            **tail_options(max_grad_norm, error_if_nonfinite, ema_decay, ema_bias_correction),
            **self._storage_options(state_dtype, master_weights, stochastic_rounding, rounding_seed),
            copy_to=copy_to,
        )
        for group in self.param_groups:  # whose own options met the constructor's here
            self._check_storage(group)

    def _check_storage(self, group: dict[str, Any]) -> None:
        super()._check_storage(group)
        if group.get("centered") and group.get("state_dtype") not in (None, torch.float32, "float32"):
            raise ValueError(
                f"state_dtype={group['state_dtype']!r}: RMSprop(centered=True) divides by the "
                "difference of two averages, of which fewer bits than float32's leave noise; expected "
                "torch.float32 or None"
            )

    def _dtype_of_state(self, group: dict[str, Any], param: Tensor, name: str) -> torch.dtype:
        if group.get("centered") and name in ("square_avg", "grad_avg") and param.dtype in HALVES:
            return torch.float32
        return super()._dtype_of_state(group, param, name)
