"""Lion."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT

from fastopt.optim._checks import check_options
from fastopt.optim._copies import CopiesT
from fastopt.optim._fused import Fused
from fastopt.optim._storage import StateDtype
from fastopt.optim._tail import tail_options


class Lion(Fused):
    r"""Lion, evolved sign momentum, which torch.optim does not have.

    .. math::
        \theta \leftarrow (1 - \alpha\lambda)\,\theta
            - \alpha\,\mathrm{sign}(\beta_1 m + (1-\beta_1) g),\qquad
        m \leftarrow \beta_2 m + (1-\beta_2) g

    with :math:`g = \nabla f(\theta)`, negated for ``maximize``. The sign of 0 is 0, that of NaN NaN.

    Args:
        params: parameters, ``(name, parameter)`` pairs, or dicts that define groups.
        lr: learning rate :math:`\alpha`, the size of every step: a third to a tenth of AdamW's.
        betas: :math:`(\beta_1, \beta_2)`.
        weight_decay: :math:`\lambda`, decoupled; three to ten times AdamW's.
        maximize: ascend instead of descend.
        cautious_decay: decay only the elements that the update moves towards 0 (Chen et al. 2025,
            arXiv:2510.12402).
        max_grad_norm, error_if_nonfinite, ema_decay, ema_bias_correction: clip and average in the
            same pass; see :mod:`fastopt.optim`.
        state_dtype, master_weights, stochastic_rounding, rounding_seed: what parameters and states are
            stored in; see :mod:`fastopt.optim._storage`.
        copy_to: a list of tensors that each step also writes its parameters to, rounded; see
            :mod:`fastopt.optim._copies`.

    Raises:
        ValueError: for options out of range; from a step for a parameter that fastopt's kernels do
            not take, since there is no step of torch's to leave it to.

    Source: Chen et al. 2023, Symbolic discovery of optimization algorithms, algorithm 2.
    """

    _rule = "lion"
    _extras: ClassVar[dict[str, Any]] = {"cautious_decay": False}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.99),
        weight_decay: float = 0,
        *,
        maximize: bool = False,
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
        options = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        check_options(self._rule, options)
        super().__init__(params, options)
        self._set_extras(
            cautious_decay=cautious_decay,
            **tail_options(max_grad_norm, error_if_nonfinite, ema_decay, ema_bias_correction),
            **self._storage_options(state_dtype, master_weights, stochastic_rounding, rounding_seed),
            copy_to=copy_to,
        )
