"""What the tests of several processes share: a network, its gradients, its training in one process.

Gradients are drawn from a seed and do not depend on the parameters, so that every way of training
gets the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from _optim_cases import CASES, Array, Options, array_of, assert_same_bits, gradients

Answer = dict[str, Any]
STEPS = 5


def network() -> nn.Sequential:
    """On two processes: 7 rows as 4 and 3, 3 as 2 and 1, and 1 as 1 and none."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3), nn.ReLU(), nn.Linear(3, 1), nn.LayerNorm(1)
    )


def set_gradients(params: list[Tensor], seed: int) -> None:
    """The same whole gradients, whether the parameters are DTensors or not."""
    for param, grad in zip(params, gradients(params, seed), strict=True):
        if isinstance(param, DTensor):
            grad = distribute_tensor(grad, param.device_mesh, param.placements)
        param.grad = grad


def whole(tensor: Tensor) -> Array:
    if not isinstance(tensor, DTensor):
        return array_of(tensor)
    if tensor.dtype == torch.int16:  # which gloo does not gather
        return array_of(tensor.to(torch.int32).full_tensor().to(torch.int16))
    return array_of(tensor.full_tensor())


def everything(params: list[Tensor], optimizer: Optimizer) -> dict[str, Array]:
    """Every parameter and state, gathered."""
    found = {f"param {i}": whole(param) for i, param in enumerate(params)}
    for i, param in enumerate(params):
        state = optimizer.state.get(param, {})
        found.update({f"{key} {i}": whole(it) for key, it in state.items() if it is not None})
    return found


def train(params: list[Tensor], optimizer: Any, steps: range = range(STEPS)) -> list[float]:
    """The norms at each step, where the optimizer takes them."""
    norms = []
    for step in steps:
        set_gradients(params, step)
        optimizer.step()
        if optimizer.param_groups[0].get("max_grad_norm") is not None:
            norms.append(getattr(optimizer, "optim", optimizer).grad_norm.item())
    return norms


def alone(name: str, options: Options, steps: int = STEPS) -> tuple[dict[str, Array], list[float]]:
    """The same training in one process."""
    params = list(network().parameters())
    optimizer = CASES[name].ours(params, **options)
    norms = train(params, optimizer, range(steps))
    return everything(params, optimizer), norms


def assert_all_same_bits(actual: dict[str, Array], expected: dict[str, Array]) -> None:
    assert actual.keys() == expected.keys()
    for key, array in expected.items():
        assert_same_bits(torch.from_numpy(actual[key]), array, key)


def assert_close(actual: dict[str, Array], expected: dict[str, Array], rtol: float = 1e-5) -> None:
    assert actual.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_allclose(actual[key], array, rtol=rtol, atol=rtol, err_msg=key)
