"""`copy_to` and `step_parameters` of DTensors: each process copies and steps its own part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

import fastopt
from _distributed_cases import network, set_gradients
from _optim_cases import Array
from _ranks import Job

KINDS = ["DTensors", "plain"]


def sharded() -> nn.Module:
    return fully_shard(network(), mesh=init_device_mesh("cpu", (2,)))


def local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def copies_of(params: list[Tensor], kind: str) -> list[Tensor]:
    if kind == "plain":
        return [torch.empty_like(local(it.detach()), dtype=torch.bfloat16) for it in params]
    return [torch.zeros_like(it.detach(), dtype=torch.bfloat16) for it in params]


def step_sharded(kind: str) -> list[tuple[Array, Array]]:
    params = list(sharded().parameters())
    copies = copies_of(params, kind)
    optimizer = fastopt.optim.AdamW(params, copy_to=copies, max_grad_norm=1.0)
    for step in range(2):
        set_gradients(params, step)
        optimizer.step()
    assert {it.path for it in optimizer.fused_report()} == {"fastopt"}
    pairs = zip(params, copies, strict=True)
    return [
        (local(param.detach()).bfloat16().float().numpy(), local(copy).float().numpy())
        for param, copy in pairs
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_each_process_copies_its_part(job: Job, kind: str) -> None:
    for pairs in job.run(step_sharded, kind):
        for param, copy in pairs:
            assert np.array_equal(param, copy)


def refused_on(what: str) -> str:
    params = list(sharded().parameters())
    mesh = init_device_mesh("cpu", (2,))
    wrong: Any = {
        "whole": lambda it: torch.zeros(it.shape, dtype=torch.bfloat16),
        "replicated": lambda it: distribute_tensor(torch.zeros(it.shape), mesh, [Replicate()]),
    }[what]
    copies = [wrong(it) for it in params]
    said = []
    try:
        fastopt.optim.AdamW(params, copy_to=copies)
    except ValueError as error:
        said.append(str(error))
    optimizer = fastopt.optim.AdamW(params)
    optimizer.param_groups[0]["copy_to"] = copies
    set_gradients(params, 0)
    try:
        optimizer.step()
    except ValueError as error:
        said.append(str(error))
    assert len(said) == 2
    assert not optimizer.state
    return said[1]


@pytest.mark.parametrize(
    ("what", "match"), [("whole", "copy_to[0]: expected shape (4, 5)"), ("replicated", "a DTensor of")]
)
def test_copies_that_are_cut_otherwise(job: Job, what: str, match: str) -> None:
    assert match in job.run(refused_on, what)[0]


def step_in_parts() -> list[tuple[Array, Array]]:
    """A whole step, which takes the norm, and parts that are given it, in an order of each process."""
    both = [list(sharded().parameters()) for _ in range(2)]
    whole, parts = (fastopt.optim.AdamW(it, max_grad_norm=0.5) for it in both)
    for step in range(2):
        for params in both:
            set_gradients(params, step)
        whole.step()
        order = both[1] if torch.distributed.get_rank() == 0 else both[1][::-1]
        for param in order:
            parts.step_parameters([param], grad_norm=whole.grad_norm)
        assert parts.grad_norm == whole.grad_norm
    return [
        (local(one.detach()).numpy(), local(other.detach()).numpy())
        for one, other in zip(*both, strict=True)
    ]


def test_parts_have_the_bits_of_the_whole(job: Job) -> None:
    for pairs in job.run(step_in_parts):
        for one, other in pairs:
            assert np.array_equal(one, other)
