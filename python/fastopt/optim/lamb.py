"""LAMB."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from fastopt.optim._checks import check_options
from fastopt.optim._copies import CopiesT
from fastopt.optim._fused import Fused
from fastopt.optim._storage import StateDtype
from fastopt.optim._tail import tail_options


class LAMB(Fused):
    r"""Adam with a rate for each tensor, for large batches, which torch.optim does not have.

    .. math::
        m \leftarrow \beta_1 m + (1-\beta_1) g,\quad
        v \leftarrow \beta_2 v + (1-\beta_2) g^2,\quad
        u = \frac{m / (1-\beta_1^t)}{\sqrt{v / (1-\beta_2^t)} + \epsilon} + \lambda\theta,

    .. math::
        \theta \leftarrow \theta - \alpha\,\frac{\|\theta\|}{\|u\|}\,u

    with :math:`g = \nabla f(\theta)`, negated for ``maximize``, and the norms of each parameter
    tensor; their ratio is 1 where either is 0, and in groups without decay unless ``always_adapt`` is
    set. A NaN in a tensor's gradient is in all of it after the
    step.

    A step passes over memory twice, and moves 40 bytes for each float32 element where Adam's moves
    28; parameters of up to 16,384 elements have both passes in the cache.

    Args:
        params: parameters, ``(name, parameter)`` pairs, or dicts that define groups.
        lr: learning rate :math:`\alpha`, the length of a step over that of the tensor.
        betas: :math:`(\beta_1, \beta_2)`.
        eps: :math:`\epsilon`.
        weight_decay: :math:`\lambda`. Biases and the weights of normalizations mostly go without, in a
            group of their own.
        bias_correction: divide the moments by :math:`1-\beta^t`.
        maximize: ascend instead of descend.
        always_adapt: take the ratio of the norms where ``weight_decay`` is 0, too, as the paper's
            algorithm does. A bias that begins at 0 then hardly moves: its steps are in proportion to
            itself.
        max_grad_norm, error_if_nonfinite, ema_decay, ema_bias_correction: clip and average in the
            same passes; see :mod:`fastopt.optim`.
        state_dtype: what the states are stored in, as numbers; see :mod:`fastopt.optim._storage`. By
            default float32 beside float16 parameters, since float16 cannot hold squares below 6e-8.
        copy_to: a list of tensors that each step also writes its parameters to, rounded; see
            :mod:`fastopt.optim._copies`.

    CUDA's kernels take it where states are stored in what is computed in (float32 beside any
    parameters of up to 32 bits, float64), as a program (:mod:`fastopt.rules.library`).

    What the other optimizers have and this one has not: states in 16 bits on CUDA and in 8 bits,
    ``master_weights``, ``stochastic_rounding``, and parameters of which a process holds a part, whose
    norm it does not know: DTensors and those of FullyShardedDataParallel. Such parameters are refused.

    Raises:
        ValueError: for options out of range; from a step for a parameter that fastopt's kernels do
            not take, since there is no step of torch's to leave it to.

    Source: You et al. 2020, Large batch optimization for deep learning, algorithm 2, with the
    identity for :math:`\phi`.
    """

    _rule = "lamb"
    _extras: ClassVar[dict[str, Any]] = {"always_adapt": False}
    _no_int8 = "forms its update twice, from states that are numbers"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        *,
        bias_correction: bool = True,
        maximize: bool = False,
        always_adapt: bool = False,
        max_grad_norm: float | None = None,
        error_if_nonfinite: bool = False,
        ema_decay: float | None = None,
        ema_bias_correction: bool = False,
        state_dtype: StateDtype = None,
        copy_to: CopiesT = None,
    ) -> None:
        options = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
            "maximize": maximize,
            "always_adapt": always_adapt,
        }
        check_options(self._rule, options)
        super().__init__(params, options)
        self._set_extras(
            **tail_options(max_grad_norm, error_if_nonfinite, ema_decay, ema_bias_correction),
            **self._storage_options(state_dtype, False, False),
            copy_to=copy_to,
        )

    def _dtype_of_state(self, group: dict[str, Any], param: Tensor, name: str) -> torch.dtype:
        """As the other optimizers', but that there is no class of torch's for float16 to be like."""
        dtype = super()._dtype_of_state(group, param, name)
        is_default = group.get("state_dtype") is None
        return torch.float32 if is_default and dtype == torch.float16 else dtype
