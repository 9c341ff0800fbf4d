"""AdaGrad."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from fastopt.optim._copies import CopiesT
from fastopt.optim._fused import Fused
from fastopt.optim._storage import StateDtype
from fastopt.optim._tail import tail_options


class Adagrad(Fused, torch.optim.Adagrad):
    r"""AdaGrad: :class:`torch.optim.Adagrad` on fastopt's kernels.

    .. math::
        s \leftarrow s + g^2,\qquad
        \theta \leftarrow \theta - \frac{\alpha}{1 + (t-1)\eta}\,\frac{g}{\sqrt{s} + \epsilon}

    with :math:`g = \nabla f(\theta) + \lambda\theta`, negated for ``maximize``.

    Args:
        params: parameters, ``(name, parameter)`` pairs, or dicts that define groups.
        lr: learning rate :math:`\alpha`.
        lr_decay: :math:`\eta`.
        weight_decay: :math:`\lambda`.
        initial_accumulator_value: where :math:`s` starts.
        eps: :math:`\epsilon`.
        maximize: ascend instead of descend.
        foreach, differentiable, fused: as for torch; dense parameters take fastopt's kernel
            unless ``differentiable`` is set.
        max_grad_norm, error_if_nonfinite, ema_decay, ema_bias_correction: clip and average in the
            same pass; see :mod:`fastopt.optim`. Not in torch.
        state_dtype, master_weights, stochastic_rounding, rounding_seed: what parameters and states are
            stored in; see :mod:`fastopt.optim._storage`. Not in torch.
        copy_to: a list of tensors that each step also writes its parameters to, rounded; see
            :mod:`fastopt.optim._copies`. Not in torch.

    Raises:
        ValueError: for options out of range, as torch does.

    Source: Duchi, Hazan, Singer 2011, equation 1 with the diagonal matrix.
    """

    _rule = "adagrad"
    _unread = ("initial_accumulator_value",)  # but when the state is made
    _no_int8 = "keeps sums that only grow, to which steps of 8 bits add more noise than gradient"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
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
            lr_decay,
            weight_decay,
            initial_accumulator_value,
            eps,
            foreach,
            maximize=maximize,
            differentiable=differentiable,
            fused=fused,
        )
        self._set_extras(
            **tail_options(max_grad_norm, error_if_nonfinite, ema_decay, ema_bias_correction),
            **self._storage_options(state_dtype, master_weights, stochastic_rounding, rounding_seed),
            copy_to=copy_to,
        )
        for group in self.param_groups:  # torch's constructor has made the sums
            for param in group["params"]:
                state = self.state[param]
                self._warn_of_squares(group, param, "sum")
                if state["sum"].dtype != self._dtype_of_state(group, param, "sum"):
                    state["sum"] = self._new_state(group, param, "sum")

    def _new_state(self, group: dict[str, Any], param: Tensor, name: str) -> Tensor:
        state = super()._new_state(group, param, name)
        return state.fill_(self.defaults["initial_accumulator_value"]) if name == "sum" else state
