"""AdaGrad."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastopt.optim._fused import Fused


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
        foreach, differentiable, fused: as for torch; dense CPU parameters take fastopt's kernel
            unless ``differentiable`` is set.

    Raises:
        ValueError: for options out of range, as torch does.

    Source: Duchi, Hazan, Singer 2011, equation 1 with the diagonal matrix.
    """

    _rule = "adagrad"

    def _new_state(self, group: dict[str, Any], param: Tensor, name: str) -> Tensor:
        state = super()._new_state(group, param, name)
        return state.fill_(self.defaults["initial_accumulator_value"]) if name == "sum" else state
