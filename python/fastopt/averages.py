"""Averages over a training run: of a network's weights, and of several networks' predictions.

    averaged = fastopt.averages.AveragedModel(model, optimizer)  # an optimizer with ema_decay
    averaged.update_parameters(model)                            # before each evaluation

    ensemble = fastopt.averages.SnapshotEnsemble(model)
    ensemble.take(model)                                         # at the end of each cycle
    probabilities = ensemble(images)

The weights are averaged by the optimizer, inside its step (:mod:`fastopt.optim`, ``ema_decay``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import swa_utils

from fastopt._threads import fit_for_forks
from fastopt.optim._tail import Tail

__all__ = ["AveragedModel", "SnapshotEnsemble"]


class AveragedModel(swa_utils.AveragedModel):
    """torch's AveragedModel, holding the averages that an optimizer keeps in its own step.

    With d = ``ema_decay`` and x₀ the parameters before training, the averages after t steps are

        a₀ = x₀,   aₜ = d aₜ₋₁ + (1 − d) xₜ

    Polyak & Juditsky 1992, Acceleration of stochastic approximation by averaging, with exponential
    weights. torch's ``AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(d))`` makes the same, to
    rounding, if it is updated once before the first step and once after each; else it starts at x₁.
    Here ``update_parameters`` only copies, so calling it once, before an evaluation, is enough.

    What works with torch's class works with this: ``update_bn``, ``module``, calls, a state dict
    whose parameters torch's class loads, too. Parameters that the optimizer does not average (frozen
    ones) and buffers are the model's own. Under ``ZeroRedundancyOptimizer`` the optimizer is its
    ``.optim``, and making and updating this are calls of every process.

    Args:
        model: the network that is trained. It is copied.
        optimizer: a fastopt optimizer of the model's parameters, with ``ema_decay`` in a group.

    Raises:
        TypeError: for an ``optimizer`` that is not one of fastopt's.
        ValueError: if it averages nothing, or has none of the model's parameters.
    """

    def __init__(self, model: nn.Module, optimizer: Tail) -> None:
        if not isinstance(optimizer, Tail):
            inner = " (its .optim is)" if isinstance(getattr(optimizer, "optim", None), Tail) else ""
            raise TypeError(
                f"optimizer: expected one of fastopt's own, got {type(optimizer).__name__}{inner}"
            )
        if all(group.get("ema_decay") is None for group in optimizer.param_groups):
            raise ValueError("optimizer: expected one with ema_decay, got one that averages nothing")
        super().__init__(model)
        self.optimizer = optimizer
        self.update_parameters(model)

    @fit_for_forks()
    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the averages as they are now, and all else from ``model``.

        Raises:
            ValueError: if the optimizer has none of the model's parameters.
        """
        averages = self.optimizer._averages()
        if averages.keys().isdisjoint(model.parameters()):
            raise ValueError("model: expected the one that the optimizer trains, got another")
        for own, param in zip(self.module.parameters(), model.parameters(), strict=True):
            own.copy_(averages.get(param, param))
        for kept, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)
        self.n_averaged += 1


class SnapshotEnsemble:
    """Networks of one training run, taken where a cyclic learning rate ends; their mean predicts.

        p(x) = 1/m Σᵢ f(zᵢ(x)),   i over the last m snapshots

    with zᵢ the output of snapshot i in evaluation mode and f the softmax. Huang et al. 2017, Snapshot
    ensembles: train 1, get M for free, section 3; the rate of their equation 2 is torch's
    ``CosineAnnealingWarmRestarts``.

    Args:
        model: the network; a copy of it is what the snapshots' parameters and buffers are put into.
        probabilities: f, from the network's output to what is averaged; by default the softmax over
            the last dimension.

    Example::

        schedule = CosineAnnealingWarmRestarts(optimizer, T_0=steps_in_a_cycle)
        ensemble = fastopt.averages.SnapshotEnsemble(model)
        for step in range(cycles * steps_in_a_cycle):
            ...
            schedule.step()
            if schedule.T_cur == 0:  # a cycle has ended
                ensemble.take(model)
    """

    def __init__(
        self, model: nn.Module, *, probabilities: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        self._network = copy.deepcopy(model).eval().requires_grad_(False)
        self._probabilities = probabilities or _softmax
        self._snapshots: list[dict[str, Tensor]] = []

    def __len__(self) -> int:
        return len(self._snapshots)

    def take(self, model: nn.Module) -> None:
        """Keep a copy of the model's parameters and buffers.

        Raises:
            ValueError: if their names, shapes or dtypes are not those of the first model.
        """
        self._keep(_tensors_of(model))

    @torch.no_grad()
    def __call__(self, *inputs: Any, last: int | None = None) -> Tensor:
        """The mean of the snapshots' probabilities.

        Args:
            inputs: what the network takes.
            last: how many snapshots, counted from the newest; None for all.

        Raises:
            ValueError: for fewer than one or more than there are.
            RuntimeError: if there are none yet.
        """
        if not self._snapshots:
            raise RuntimeError("no snapshot has been taken yet; expected take(model) before")
        count = len(self) if last is None else last
        if not 1 <= count <= len(self):
            raise ValueError(f"last: expected 1 to {len(self)}, the snapshots there are, got {count}")
        total: Tensor | None = None
        for snapshot in self._snapshots[-count:]:
            output = torch.func.functional_call(self._network, snapshot, inputs)
            each = self._probabilities(output)
            total = each if total is None else total + each
        assert total is not None
        return total / count

    def state_dict(self) -> dict[str, Any]:
        """The snapshots, for ``torch.save`` and ``torch.load(..., weights_only=True)``."""
        return {"snapshots": [dict(snapshot) for snapshot in self._snapshots]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Replace the snapshots by those of a ``state_dict()``.

        Raises:
            ValueError: if one does not fit the model; the snapshots then stay as they were.
        """
        before, self._snapshots = self._snapshots, []
        try:
            for snapshot in state_dict["snapshots"]:
                self._keep(snapshot)
        except ValueError:
            self._snapshots = before
            raise

    def _keep(self, tensors: Mapping[str, Tensor]) -> None:
        expected = {name: (it.shape, it.dtype) for name, it in _tensors_of(self._network).items()}
        got = {name: (it.shape, it.dtype) for name, it in tensors.items()}
        for name in [*expected, *got]:
            if expected.get(name) != got.get(name):
                raise ValueError(
                    f"{name}: expected {_described(expected.get(name))}, "
                    f"got {_described(got.get(name))}"
                )
        self._snapshots.append({name: it.detach().clone() for name, it in tensors.items()})


def _softmax(output: Tensor) -> Tensor:
    return output.softmax(-1)


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, tied ones once: what functional_call takes."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _described(tensor: tuple[torch.Size, torch.dtype] | None) -> str:
    return "no tensor" if tensor is None else f"{tuple(tensor[0])} {tensor[1]}"
