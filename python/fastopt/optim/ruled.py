"""The optimizers of rules in Python: :mod:`fastopt.rules.library` has their mathematics.

Each has all that the others have around its rule. torch lacks them, so what the kernels do not take is
stepped by the rule's function on torch's tensors.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from fastopt.rules import RuleOptimizer, library

ADOPT = library.adopt.optimizer("ADOPT")
AdEMAMix = library.ademamix.optimizer("AdEMAMix")
AdaBelief = library.adabelief.optimizer("AdaBelief")
Adan = library.adan.optimizer("Adan")
CautiousAdamW = library.cautious_adamw.optimizer("CautiousAdamW")
CautiousLion = library.cautious_lion.optimizer("CautiousLion")
LaProp = library.laprop.optimizer("LaProp")
MARS = library.mars.optimizer("MARS")
Signum = library.signum.optimizer("Signum")
StableAdamW = library.stable_adamw.optimizer("StableAdamW")
Yogi = library.yogi.optimizer("Yogi")


class _ScheduleFree(RuleOptimizer):
    """What evaluates at the average x: the parameters hold y while they are trained."""

    _extras: ClassVar[dict[str, Any]] = {**RuleOptimizer._extras, "train_mode": True}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's."""
        if isinstance(param_group, dict):  # else torch says what is wrong
            param_group.setdefault("train_mode", True)
        super().add_param_group(param_group)

    def eval(self) -> None:
        """Put the averages in the parameters' place, for evaluation and checkpoints."""
        self._move(train=False)

    def train(self) -> None:
        """Take training up again, before the next step."""
        self._move(train=True)

    def _momentum(self, group: dict[str, Any]) -> float:
        """The share of x in y."""
        return float(group["betas"][0] if "betas" in group else group["momentum"])

    @torch.no_grad()
    def _move(self, train: bool) -> None:
        groups = [it for it in self.param_groups if it["train_mode"] is not train]
        for group in groups:
            if group["master_weights"] or group["stochastic_rounding"]:
                raise ValueError(
                    f"{type(self).__name__}: expected no master_weights and no stochastic_rounding "
                    "for train() and eval(), which would round what stands behind the parameters"
                )
            if self._momentum(group) == 0:
                raise ValueError(f"{type(self).__name__}: eval() and train() need a momentum > 0")
        for group in groups:
            share = self._momentum(group)
            for param in group["params"]:
                z: Tensor | None = self.state.get(param, {}).get("z")
                if z is not None:
                    param.lerp_(z.to(param.dtype), 1 - share if train else 1 - 1 / share)
            group["train_mode"] = train

    def _update(self) -> None:
        if not all(group["train_mode"] for group in self.param_groups):
            raise RuntimeError(
                f"{type(self).__name__}: the parameters are those of evaluation; expected "
                "optimizer.train() before a step"
            )
        super()._update()


class ScheduleFreeAdamW(_ScheduleFree, library.schedule_free_adamw.optimizer("ScheduleFreeAdamW")):  # type: ignore[misc]
    __doc__ = library.schedule_free_adamw.optimizer("ScheduleFreeAdamW").__doc__


class ScheduleFreeSGD(_ScheduleFree, library.schedule_free_sgd.optimizer("ScheduleFreeSGD")):  # type: ignore[misc]
    __doc__ = library.schedule_free_sgd.optimizer("ScheduleFreeSGD").__doc__
