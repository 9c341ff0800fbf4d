"""Megatron's HybridDeviceOptimizer: a part of the parameters stepped on the CPU, by a class of choice.

    python examples/offload/megatron_hybrid.py

Megatron is not needed: `Hybrid` makes the calls that its optimizer makes of the class, on copies of
the parameters in the place of copies in pinned memory. In Megatron the class is chosen by one line
before its optimizer is built:

    megatron.core.optimizer.CPUAdam = fastopt.optim.AdamW
"""

from __future__ import annotations

from typing import Any

import torch
from task import OPTIONS, STEPS, by_hand, check, loss_of, network
from torch import Tensor
from torch.optim import Optimizer

import fastopt


class Hybrid:
    """What HybridDeviceOptimizer does to `cls`: groups with keys of its own, tensors that need no
    gradient, states and groups handed over anew at each step, copies back in a hook."""

    def __init__(self, params: list[Tensor], cls: type[Optimizer], **options: Any) -> None:
        self.copies = {param: param.detach().clone() for param in params}
        group = {"params": list(self.copies.values()), "is_expert_parallel": False, "fused": True}
        self.inner = cls([{**group, **options, "bias_correction": True}])
        assert isinstance(self.inner, cls)
        self.inner.register_step_post_hook(self.copy_back)
        self.groups, self.state = self.inner.param_groups, self.inner.state

    def step(self) -> None:
        for param, copy in self.copies.items():
            copy.grad = param.grad
        self.inner.param_groups = [{**group} for group in self.groups]
        self.inner.state = self.state
        self.inner.step()
        self.state = self.inner.state

    def copy_back(self, *_: Any) -> None:
        for param, copy in self.copies.items():
            param.data.copy_(copy)


def main() -> None:
    model = network()
    hybrid = Hybrid(list(model.parameters()), fastopt.optim.AdamW, **OPTIONS)
    for step in range(STEPS):
        model.zero_grad()
        loss_of(model, step).backward()
        hybrid.step()
    assert {it.path for it in fastopt.optim.fused_report(hybrid.inner)} == {"fastopt"}
    check("Megatron's pattern", model.parameters(), by_hand())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
